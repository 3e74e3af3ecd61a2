//! Many at once, many in a row.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quern_solver::{
    CancelToken, Census, Graph, GraphBuilder, InMemoryKeyStorage, InMemoryResultStorage, Input, KeyedCache,
    OpError, SharedResult, Solver, SolverOptions, Vertex, VertexRef,
};

use crate::fakes::{Fake, chain, digest, on, vertex};

/// `count` vertices in layers of `width`, each on three of the layer below.
fn layers(count: u32, width: u32) -> (Graph, Vec<Arc<Fake>>) {
    let mut builder = GraphBuilder::new();
    let mut ops = Vec::new();
    for number in 0..count {
        let op = Arc::new(Fake::sum(&number.to_string()).quick());
        let mut vertex = Vertex::new(digest(&format!("v{number}")), op.clone());
        if number >= width {
            let layer = number / width - 1;
            for step in [0, 1, 7] {
                vertex = vertex.input(on(layer * width + (number + step) % width));
            }
        }
        builder.add(vertex);
        ops.push(op);
    }
    (builder.finish().unwrap(), ops)
}

#[test]
fn a_thousand_jobs_over_one_graph_run_each_op_once() {
    // Three hundred layers would overflow the sums, so few and wide ones.
    let (graph, ops) = layers(10_000, 1_000);
    let solver = Solver::new(SolverOptions::default());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (solver, graph) = (&solver, &graph);
            scope.spawn(move || {
                let jobs: Vec<_> = (0..125).map(|n| solver.job(format!("{thread}-{n}")).unwrap()).collect();
                for (n, job) in jobs.iter().enumerate() {
                    let target = 9_000 + u32::try_from((thread * 125 + n) % 1000).unwrap();
                    job.build(&graph.edge(VertexRef(target), 0)).unwrap();
                }
                jobs.iter().for_each(quern_solver::Job::discard);
            });
        }
    });
    assert!(ops.iter().all(|op| op.runs() == 1), "every op ran once");
    solver.wait_idle();
    assert_eq!(solver.census(), Census::default());
}

#[test]
fn builds_that_are_cancelled_at_once_disturb_nobody() {
    let solver = Solver::new(SolverOptions::default());
    for round in 0..2_000 {
        let slow = Fake::new(&format!("slow{round}"), |ctx, _| {
            if ctx.wait_cancelled(Duration::from_micros(50)) {
                return Err(OpError::Cancelled);
            }
            Ok(vec![SharedResult::new(5i64)])
        });
        let edge =
            chain(vec![vertex("slow", slow), vertex("top", Fake::sum(&format!("t{round}"))).input(on(0))]);
        let (patient, hasty) = (solver.job("patient").unwrap(), solver.job("hasty").unwrap());
        std::thread::scope(|scope| {
            let token = CancelToken::new();
            let other = token.clone();
            let edge = &edge;
            let hasty = &hasty;
            scope.spawn(move || drop(hasty.build_until(edge, &token)));
            scope.spawn(move || other.cancel());
            assert_eq!(patient.build(edge).unwrap().get::<i64>(), Some(&6), "round {round}");
        });
        patient.discard();
        hasty.discard();
    }
    solver.wait_idle();
    assert_eq!(solver.census(), Census::default());
}

#[test]
fn cancelling_a_job_ends_what_only_it_wanted() {
    let solver = Solver::new(SolverOptions::default());
    let waits = Fake::new("w", |ctx, _| {
        let cancelled = ctx.wait_cancelled(Duration::from_secs(60));
        if cancelled { Err(OpError::Cancelled) } else { Ok(Vec::new()) }
    });
    let edge = chain(vec![vertex("w", waits)]);
    let job = solver.job("j").unwrap();
    std::thread::scope(|scope| {
        let build = scope.spawn(|| job.build(&edge));
        std::thread::sleep(Duration::from_millis(20));
        job.cancel();
        assert!(build.join().unwrap().unwrap_err().is_cancelled());
    });
    solver.wait_idle();
    assert!(job.build(&edge).unwrap_err().is_cancelled(), "a cancelled job builds nothing more");
}

#[test]
fn execs_keep_to_the_room_there_is() {
    let solver = Solver::new(SolverOptions { parallelism: Some(2), ..SolverOptions::default() });
    let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut vertices = Vec::new();
    for number in 0..12 {
        let (running, most) = (running.clone(), most.clone());
        let op = Fake::new(&format!("p{number}"), move |_, _| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(3));
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(vec![SharedResult::new(1i64)])
        });
        vertices.push(vertex(&format!("p{number}"), op));
    }
    let mut top = vertex("top", Fake::sum("top"));
    top.inputs = (0..12).map(on).collect::<Vec<Input>>();
    vertices.push(top);
    solver.job("j").unwrap().build(&chain(vertices)).unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_stays_flat_over_ten_thousand_builds() {
    let (keys, results) = (Arc::new(InMemoryKeyStorage::new()), Arc::new(InMemoryResultStorage::new()));
    let cache = Arc::new(KeyedCache::new("main", keys, results.clone()).unwrap());
    let solver = Solver::new(SolverOptions { cache: cache.clone(), ..SolverOptions::default() });
    let mut before = 0;
    for round in 0..10_000u32 {
        if round == 1_000 {
            before = resident();
        }
        let job = solver.job("j").unwrap();
        let events = job.watch();
        // Every build is new to the cache, and its records are evicted afterwards.
        let op =
            Fake::new(&round.to_string(), |_, _| Ok(vec![SharedResult::new(vec![0u8; 1 << 14])])).quick();
        let top =
            Fake::new(&format!("t{round}"), |_, _| Ok(vec![SharedResult::new(vec![0u8; 1 << 14])])).quick();
        let edge = chain(vec![vertex("v", op), vertex("t", top).input(on(0))]);
        job.build(&edge).unwrap();
        assert!(events.try_iter().count() >= 6);
        job.discard();
        for number in 2 * round..2 * round + 2 {
            results.forget(&format!("memory-{number}"));
            cache.keys().release(&format!("memory-{number}")).unwrap();
        }
    }
    assert!(results.is_empty());
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 10, "grew by {grown} KiB");
    assert_eq!(solver.census(), Census::default());
}

#[test]
fn a_deep_diamond_and_a_long_chain_take_linear_time() {
    // Two ways down at each of 2,000 levels: 2^2000 paths.
    let mut vertices = vec![vertex("0", Fake::value("0", 1).quick())];
    for level in 1..2_000u32 {
        let op = Fake::new(&level.to_string(), |_, _| Ok(vec![SharedResult::new(1i64)])).quick();
        vertices.push(vertex(&level.to_string(), op).input(on(level - 1)).input(on(level - 1)));
    }
    let solver = Solver::new(SolverOptions::default());
    let job = solver.job("first").unwrap();
    job.build(&chain(vertices)).unwrap();
    let twins: Vec<Vertex> = (0..2_000u32)
        .map(|level| {
            let op = Fake::new(&level.to_string(), |_, _| Ok(vec![SharedResult::new(1i64)])).quick();
            let twin = vertex(&format!("twin{level}"), op);
            if level == 0 { twin } else { twin.input(on(level - 1)).input(on(level - 1)) }
        })
        .collect();
    solver.job("twin").unwrap().build(&chain(twins)).unwrap();
}
