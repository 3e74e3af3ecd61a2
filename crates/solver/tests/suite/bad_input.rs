//! Bad input gets a typed error that names the vertex and the way there; other jobs go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quern_solver::{
    CacheError, CacheInfoLink, CacheKeyStorage, CacheMap, CacheMapInput, CacheResult, Edge, GraphBuilder,
    GraphError, InMemoryKeyStorage, InMemoryResultStorage, JobError, KeyId, KeyedCache, MapStep, Op,
    OpContext, OpError, SharedResult, SolveError, Solver, SolverOptions, VertexError, VertexRef,
};

use crate::fakes::{Fake, chain, digest, graph, on, vertex};

/// The failed vertex, the chain and the cause.
fn failure(edge: &Edge) -> (String, Vec<String>, Arc<VertexError>) {
    let solver = Solver::new(SolverOptions::default());
    let other = solver.job("other").unwrap();
    let good = chain(vec![vertex("good", Fake::value("good", 7))]);
    let outcome = solver.job("bad").unwrap().build(edge);
    assert_eq!(other.build(&good).unwrap().get::<i64>(), Some(&7), "other jobs are unharmed");
    match outcome.unwrap_err() {
        SolveError::Vertex { vertex, chain, cause } => {
            (vertex.to_string(), chain.iter().map(ToString::to_string).collect(), cause)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn rings_and_dangling_inputs_are_refused() {
    let mut builder = GraphBuilder::new();
    for (name, below) in [("a", 1), ("b", 2), ("c", 1)] {
        builder.add(vertex(name, Fake::sum(name)).input(on(below)));
    }
    let error = builder.finish().unwrap_err();
    assert_eq!(error.to_string(), "the vertices depend on each other in a ring: b > c > b");
    let mut builder = GraphBuilder::new();
    builder.add(vertex("a", Fake::sum("a")).input(on(5)));
    let error = builder.finish().unwrap_err();
    assert!(matches!(error, GraphError::DanglingInput { input: 0, missing: 5, .. }), "{error}");
    let solver = Solver::new(SolverOptions::default());
    let edge = graph(vec![vertex("a", Fake::value("a", 1))]).edge(VertexRef(3), 0);
    let error = solver.job("j").unwrap().build(&edge).unwrap_err();
    assert!(matches!(error, SolveError::NoSuchVertex(3)));
}

#[test]
fn the_error_names_the_vertex_and_the_way_there() {
    let edge = chain(vec![
        vertex("bottom", Fake::new("bottom", |_, _| Err(OpError::failed("no luck")))),
        vertex("middle", Fake::sum("middle")).input(on(0)),
        vertex("top", Fake::sum("top")).input(on(1)),
    ]);
    let (vertex, chain, cause) = failure(&edge);
    assert_eq!((vertex.as_str(), cause.to_string().as_str()), ("bottom", "exec: no luck"));
    assert_eq!(chain, ["top", "middle", "bottom"]);
}

#[test]
fn an_op_may_return_too_few_outputs() {
    let graph = graph(vec![vertex("v", Fake::value("v", 1))]);
    let (_, _, cause) = failure(&graph.edge(VertexRef(0), 4));
    assert!(matches!(*cause, VertexError::MissingOutput { wanted: 4, returned: 1 }), "{cause}");
}

#[test]
fn an_op_may_panic_in_any_call() {
    struct Panics(&'static str);
    impl Op for Panics {
        fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
            assert_ne!(self.0, "cache map", "on purpose");
            Ok(MapStep::Last(CacheMap::new(digest(self.0))))
        }
        fn exec(&self, _: &OpContext<'_>, _: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
            panic!("on purpose")
        }
    }
    for phase in ["cache map", "exec"] {
        let (_, _, cause) = failure(&chain(vec![vertex("v", Panics(phase))]));
        assert!(cause.to_string().starts_with(&format!("{phase} panicked")), "{cause}");
    }
    let map = CacheMap::new(digest("top")).input(CacheMapInput::plain().content(|_, _| panic!("on purpose")));
    let top = vertex("top", Fake::sum("top").map(map)).input(on(0));
    let (_, _, cause) = failure(&chain(vec![vertex("v", Fake::value("v", 1)), top]));
    assert!(cause.to_string().starts_with("content digest panicked"), "{cause}");
}

#[test]
fn cache_maps_must_fit_the_vertex() {
    let map = CacheMap::new(digest("v")).input(CacheMapInput::plain());
    let (_, _, cause) = failure(&chain(vec![vertex("v", Fake::value("v", 1).map(map))]));
    assert!(matches!(*cause, VertexError::CacheMapInputs { described: 1, inputs: 0 }), "{cause}");
    struct Endless;
    impl Op for Endless {
        fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
            Ok(MapStep::More(CacheMap::new(digest("endless"))))
        }
        fn exec(&self, _: &OpContext<'_>, _: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
            Ok(Vec::new())
        }
    }
    let edge = chain(vec![vertex("v", Fake::value("v", 1)), vertex("w", Endless).input(on(0))]);
    let (_, _, cause) = failure(&edge);
    assert!(matches!(*cause, VertexError::SeveralCacheMaps), "{cause}");
}

#[test]
fn an_unstable_cache_map_is_found_out() {
    struct Unstable(AtomicUsize);
    impl Op for Unstable {
        fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
            let call = self.0.fetch_add(1, Ordering::Relaxed);
            Ok(MapStep::Last(CacheMap::new(digest(&call.to_string()))))
        }
        fn exec(&self, _: &OpContext<'_>, _: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
            Ok(Vec::new())
        }
    }
    let solver = Solver::new(SolverOptions { verify_cache_maps: true, ..SolverOptions::default() });
    let job = solver.job("j").unwrap();
    let error = job.build(&chain(vec![vertex("v", Unstable(AtomicUsize::new(0)))])).unwrap_err();
    let SolveError::Vertex { cause, .. } = &error else { panic!("{error}") };
    assert!(matches!(**cause, VertexError::UnstableCacheMap { index: 0 }), "{error}");
    let stable = chain(vec![vertex("w", Fake::value("w", 1))]);
    assert!(job.build(&stable).is_ok());
}

#[test]
fn a_sub_build_cannot_need_its_own_vertex_nor_wait_in_a_quick_call() {
    let edge = chain(vec![vertex("v", Fake::value("v", 1))]);
    let inner = edge.clone();
    let quick =
        Fake::new("q", move |ctx, _| ctx.build(&inner).map(|r| vec![r.result]).map_err(OpError::failed))
            .quick();
    let (_, _, cause) = failure(&chain(vec![vertex("q", quick)]));
    assert!(cause.to_string().contains("declared not to block"), "{cause}");
    let own: Arc<std::sync::OnceLock<Edge>> = Arc::default();
    let slot = own.clone();
    let recursive = Fake::new("r", move |ctx, _| {
        ctx.build(slot.get().unwrap()).map(|r| vec![r.result]).map_err(OpError::failed)
    });
    let edge = chain(vec![vertex("r", recursive)]);
    own.set(edge.clone()).unwrap();
    let (_, _, cause) = failure(&edge);
    assert!(cause.to_string().contains("needs r itself"), "{cause}");
}

/// A key storage that fails, or that speaks of results nobody has.
#[derive(Default)]
struct Faulty {
    keys: InMemoryKeyStorage,
    fails: bool,
    lies: bool,
}

impl CacheKeyStorage for Faulty {
    fn exists(&self, id: &KeyId) -> Result<bool, CacheError> {
        if self.fails {
            Err(CacheError::storage("disk on fire"))
        } else {
            Ok(self.lies || self.keys.exists(id)?)
        }
    }
    fn walk(&self, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        self.keys.walk(visit)
    }
    fn walk_results(&self, id: &KeyId, visit: &mut dyn FnMut(CacheResult)) -> Result<(), CacheError> {
        if self.lies {
            visit(CacheResult { id: "made up".into(), created_at: Default::default() });
        }
        self.keys.walk_results(id, visit)
    }
    fn load(&self, id: &KeyId, result: &str) -> Result<CacheResult, CacheError> {
        self.keys.load(id, result)
    }
    fn add_result(&self, id: &KeyId, result: CacheResult) -> Result<(), CacheError> {
        self.keys.add_result(id, result)
    }
    fn release(&self, result: &str) -> Result<(), CacheError> {
        self.keys.release(result)
    }
    fn walk_ids_by_result(&self, result: &str, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        self.keys.walk_ids_by_result(result, visit)
    }
    fn add_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<(), CacheError> {
        self.keys.add_link(id, link, target)
    }
    fn walk_links(
        &self,
        id: &KeyId,
        link: &CacheInfoLink,
        visit: &mut dyn FnMut(KeyId),
    ) -> Result<(), CacheError> {
        self.keys.walk_links(id, link, visit)
    }
    fn has_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<bool, CacheError> {
        self.keys.has_link(id, link, target)
    }
    fn walk_backlinks(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(KeyId, CacheInfoLink),
    ) -> Result<(), CacheError> {
        self.keys.walk_backlinks(id, visit)
    }
    fn walk_leaving(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(CacheInfoLink, KeyId),
    ) -> Result<(), CacheError> {
        self.keys.walk_leaving(id, visit)
    }
    fn knows_operation(&self, digest: &quern_core::Digest) -> Result<bool, CacheError> {
        self.keys.knows_operation(digest)
    }
}

fn solver_over(keys: Faulty) -> Solver {
    let cache = KeyedCache::new("faulty", Arc::new(keys), Arc::new(InMemoryResultStorage::new())).unwrap();
    Solver::new(SolverOptions { cache: Arc::new(cache), ..SolverOptions::default() })
}

#[test]
fn a_storage_may_fail_or_lie() {
    let edge = chain(vec![vertex("v", Fake::value("v", 1)), vertex("w", Fake::sum("w")).input(on(0))]);
    let failing = solver_over(Faulty { fails: true, ..Faulty::default() });
    let error = failing.job("j").unwrap().build(&edge).unwrap_err().to_string();
    assert_eq!(error, "v: cache: disk on fire (wanted by w > v)");
    let lying = solver_over(Faulty { lies: true, ..Faulty::default() });
    let result = lying.job("j").unwrap().build(&edge).unwrap();
    assert_eq!(result.get::<i64>(), Some(&2), "a record that cannot be loaded is no result");
}

#[test]
fn jobs_have_names() {
    let solver =
        Solver::new(SolverOptions { job_patience: Duration::from_millis(50), ..SolverOptions::default() });
    let job = solver.job("j").unwrap();
    assert_eq!(solver.job("j").unwrap_err(), JobError::Exists("j".into()));
    assert_eq!(solver.get("j").unwrap().id(), "j");
    let error = solver.get("nobody").unwrap_err().to_string();
    assert!(error.contains("no such job"), "{error}");
    job.discard();
    let edge = chain(vec![vertex("v", Fake::value("v", 1))]);
    assert!(matches!(job.build(&edge).unwrap_err(), SolveError::Discarded));
    assert!(solver.job("j").is_ok(), "the name is free again");
    let late = solver.clone();
    let patient = Solver::new(SolverOptions::default());
    let finder = patient.clone();
    let thread = std::thread::spawn(move || finder.get("late").map(|job| job.id().to_owned()));
    std::thread::sleep(Duration::from_millis(20));
    let _job = patient.job("late").unwrap();
    assert_eq!(thread.join().unwrap().as_deref(), Ok("late"));
    drop(late);
}

#[test]
fn a_failed_content_digest_hands_out_the_input() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let released = Arc::new(AtomicUsize::new(0));
    let count = released.clone();
    let bottom = Fake::new("b", move |_, _| Ok(vec![SharedResult::new(Counted(count.clone()))]));
    let map = CacheMap::new(digest("t"))
        .input(CacheMapInput::plain().content(|_, _| Err(OpError::failed("unreadable"))));
    let options = quern_solver::VertexOptions::default();
    let edge =
        chain(vec![vertex("b", bottom).options(options), vertex("t", Fake::sum("t").map(map)).input(on(0))]);
    let results = Arc::new(InMemoryResultStorage::new());
    let cache = KeyedCache::new("main", Arc::new(InMemoryKeyStorage::new()), results).unwrap();
    let solver = Solver::new(SolverOptions { cache: Arc::new(cache), ..SolverOptions::default() });
    let job = solver.job("j").unwrap();
    let error = job.build(&edge).unwrap_err();
    job.discard();
    solver.wait_idle();
    drop((edge, solver, job));
    assert_eq!(released.load(Ordering::SeqCst), 0, "the error holds the input's result");
    assert!(error.to_string().contains("content digest of input 0: unreadable"), "{error}");
    drop(error);
    // The pool thread that brought the error may be a moment behind in letting go.
    let waited = Instant::now();
    while released.load(Ordering::SeqCst) == 0 && waited.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
    assert_eq!(released.load(Ordering::SeqCst), 1);
}
