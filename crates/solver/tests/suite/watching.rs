//! What a job's watcher is told, and why things ran.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use quern_solver::{
    CacheMap, CacheMapInput, Change, Difference, Edge, Finish, InMemoryKeyStorage, InMemoryResultStorage,
    KeyedCache, LogStream, MissReason, OpError, ProgressEvent, SharedResult, Solver, SolverOptions,
    VertexOptions,
};

use crate::fakes::{Fake, chain, digest, on, vertex};

/// How each vertex ended, and why it ran.
#[derive(Default)]
struct Seen {
    finish: BTreeMap<String, Finish>,
    missed: BTreeMap<String, MissReason>,
    announced: usize,
    logs: String,
}

fn seen(events: &Receiver<ProgressEvent>) -> Seen {
    let mut seen = Seen::default();
    for event in events.try_iter() {
        let name = event.vertex.to_string();
        match event.change {
            Change::Announced { .. } => seen.announced += 1,
            Change::Missed(reason) => drop(seen.missed.insert(name, reason)),
            Change::Finished(finish) => drop(seen.finish.insert(name, finish)),
            Change::Log { bytes, .. } => seen.logs += &String::from_utf8_lossy(&bytes),
            Change::Started | Change::Status(_) => {}
        }
    }
    seen
}

fn build(solver: &Solver, edge: &Edge) -> Seen {
    let job = solver.job("watched").unwrap();
    let events = job.watch();
    job.build(edge).unwrap();
    job.discard();
    solver.wait_idle();
    seen(&events)
}

/// top(sum) <- middle(sum) <- bottom(value), where middle compares bottom's content.
fn tower(bottom: (&str, i64), middle: &str, selector: Option<&str>, top: &str) -> Edge {
    let content = |_: &quern_solver::OpContext<'_>, r: &SharedResult| {
        Ok(r.get::<i64>().map(|n| digest(&n.to_string())))
    };
    let mut about = CacheMapInput::plain().content(content);
    about.selector = selector.map(digest);
    let map = CacheMap::new(digest(middle)).input(about);
    chain(vec![
        vertex(bottom.0, Fake::value(bottom.0, bottom.1)),
        vertex(middle, Fake::sum(middle).map(map)).input(on(0)),
        vertex(top, Fake::sum(top)).input(on(1)),
    ])
}

#[test]
fn cached_skipped_and_not_needed_are_told_apart() {
    let solver = Solver::new(SolverOptions::default());
    let first = build(&solver, &tower(("b", 1), "m", None, "t"));
    assert_eq!(first.announced, 3);
    assert!(first.finish.values().all(|f| *f == Finish::Ran), "{:?}", first.finish);
    let second = build(&solver, &tower(("b", 1), "m", None, "t"));
    let expect = [("b", Finish::Skipped), ("m", Finish::Skipped), ("t", Finish::Cached)];
    assert_eq!(second.finish, expect.map(|(n, f)| (n.to_owned(), f)).into());
    // Another bottom of the same content: it has to run, what follows is cached.
    let third = build(&solver, &tower(("b2", 1), "m", None, "t"));
    assert_eq!(third.finish["b2"], Finish::Ran);
    assert_eq!(third.finish["t"], Finish::Cached);
    assert_eq!(third.missed["b2"], MissReason::NoRecord);
    let failing = Fake::new("f", |_, _| Err(OpError::failed("no")));
    let edge = chain(vec![
        vertex("n", Fake::value("n", 1)),
        vertex("f", failing),
        vertex("top", Fake::sum("top")).input(on(1)),
    ]);
    let job = solver.job("failing").unwrap();
    let events = job.watch();
    job.build(&edge).unwrap_err();
    let failed = seen(&events);
    assert_eq!(failed.finish["f"], Finish::Failed("exec: no".into()));
    assert_eq!(failed.finish["top"], Finish::NotNeeded);
    assert!(!failed.finish.contains_key("n"), "a vertex nobody asked for is not part of the job");
}

#[test]
fn every_miss_has_its_reason() {
    let solver = Solver::new(SolverOptions::default());
    build(&solver, &tower(("b", 1), "m", None, "t"));
    let operation = build(&solver, &tower(("b", 1), "m2", None, "t"));
    assert_eq!(operation.missed["m2"], MissReason::OperationChanged);
    let content = build(&solver, &tower(("b3", 3), "m", None, "t"));
    let MissReason::InputsChanged(changes) = &content.missed["m"] else { panic!("{:?}", content.missed) };
    assert_eq!((changes[0].input, changes[0].what), (0, Difference::Content));
    assert_eq!(content.missed["m"].to_string(), "input 0 (b3) has other content");
    let MissReason::InputsChanged(changes) = &content.missed["t"] else { panic!("{:?}", content.missed) };
    assert_eq!(changes[0].what, Difference::Definition);
    let plain = |selector: &str, name: &str| {
        let about = CacheMapInput::plain().selector(digest(selector));
        let map = CacheMap::new(digest("s")).input(about);
        chain(vec![vertex("sb", Fake::value("sb", 1)), vertex(name, Fake::sum("s").map(map)).input(on(0))])
    };
    build(&solver, &plain("one", "s1"));
    let selector = build(&solver, &plain("two", "s2"));
    let MissReason::InputsChanged(changes) = &selector.missed["s2"] else { panic!("{:?}", selector.missed) };
    assert_eq!(changes[0].what, Difference::Selector);
    let options = VertexOptions { ignore_cache: true, ..VertexOptions::default() };
    let ignored = chain(vec![vertex("b", Fake::value("b", 1)).options(options)]);
    assert_eq!(build(&solver, &ignored).missed["b"], MissReason::Ignored);
    let pair = |a: u32, b: u32, name: &str| {
        chain(vec![
            vertex("p0", Fake::value("p0", 0)),
            vertex("p1", Fake::value("p1", 1)),
            vertex("p2", Fake::value("p2", 2)),
            vertex("p3", Fake::value("p3", 3)),
            vertex(name, Fake::sum("pair")).input(on(a)).input(on(b)),
        ])
    };
    build(&solver, &pair(0, 1, "x"));
    build(&solver, &pair(2, 3, "y"));
    assert_eq!(build(&solver, &pair(0, 3, "z")).missed["z"], MissReason::NewCombination);
}

#[test]
fn lost_results_have_their_reason() {
    let (keys, results) = (Arc::new(InMemoryKeyStorage::new()), Arc::new(InMemoryResultStorage::new()));
    let cache = Arc::new(KeyedCache::new("main", keys, results.clone()).unwrap());
    let solver = Solver::new(SolverOptions { cache, ..SolverOptions::default() });
    let edge = tower(("b", 1), "m", None, "t");
    let job = solver.job("first").unwrap();
    job.build(&edge).unwrap();
    job.discard();
    for number in 0..10 {
        results.forget(&format!("memory-{number}"));
    }
    let evicted = build(&solver, &edge);
    assert_eq!(evicted.missed["t"], MissReason::Evicted);
}

#[test]
fn logs_and_values_reach_their_readers() {
    let solver = Solver::new(SolverOptions::default());
    let op = Fake::new("v", |ctx, _| {
        let mut user = String::new();
        ctx.each_value("user", &mut |value| user += value.downcast_ref::<String>().unwrap());
        ctx.log(LogStream::Stdout, format!("hello {user}").as_bytes());
        Ok(vec![SharedResult::new(())])
    });
    let job = solver.job("j").unwrap();
    job.set_value("user", "world".to_owned());
    assert!(job.value("user").is_some() && job.value("other").is_none());
    let events = job.watch();
    job.build(&chain(vec![vertex("v", op)])).unwrap();
    assert_eq!(seen(&events).logs, "hello world");
}
