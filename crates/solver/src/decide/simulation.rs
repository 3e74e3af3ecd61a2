//! A deterministic simulation of the core: random graphs, random schedules, cancellations, failures,
//! slow caches, overlapping jobs and sub-builds, all from one seed.
//!
//! `QUERN_SCHEDULES=1000000 cargo test --release -p quern-solver simulation` runs many;
//! `QUERN_SEED=<seed>` replays one.

mod random;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quern_core::Digest;

use crate::cache::{CacheManager, InMemoryKeyStorage, InMemoryResultStorage, KeyedCache, Timestamp};
use crate::cancel::CancelToken;
use crate::error::{CacheError, OpError, Phase, SolveError, VertexError};
use crate::graph::{Graph, Input, Vertex, VertexRef};
use crate::op::{OpContext, Seat};
use crate::result::SharedResult;
use crate::sweep::sweep;

use super::{BuildId, Call, Census, Core, Effect, Event, JobId, Owner, VertexId};
use random::Random;
use world::{LazyCache, Program, SimOp, Value};

/// A call that was made and has not been answered.
enum Pending {
    Effect(Box<Effect>),
    /// An exec that waits for its sub-build.
    SubBuild {
        vertex: VertexId,
        build: BuildId,
    },
}

struct Simulation {
    random: Random,
    core: Core,
    program: Program,
    lazy: Option<Arc<LazyCache>>,
    pending: Vec<Pending>,
    cancelled: BTreeSet<String>,
    /// Definition keys and outputs of execs under way, of vertices that obey the cache.
    running: BTreeMap<(Digest, u32), VertexId>,
    jobs: Vec<JobId>,
    /// Open builds and what they must give.
    builds: BTreeMap<BuildId, Option<(VertexRef, u32)>>,
    sub_results: BTreeMap<BuildId, Result<SharedResult, SolveError>>,
    failed: bool,
    now: u64,
    /// Results of the main cache, and how many builds a sweep found done.
    results: Arc<InMemoryResultStorage>,
    swept: u32,
}

fn name_of(call: &Call) -> String {
    format!("{call:?}")
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let (keys, results) = (Arc::new(InMemoryKeyStorage::new()), Arc::new(InMemoryResultStorage::new()));
        let main = KeyedCache::new("main", keys, results.clone()).expect("memory does not fail");
        let main: Arc<dyn CacheManager> = Arc::new(main);
        let parallelism = random.chance(3).then(|| 1 + random.below(3));
        let lazy = random.chance(4).then(|| Arc::new(LazyCache::filled(&mut random)));
        let program = Program::random(&mut random, lazy.as_ref());
        Self {
            core: Core::new(main, parallelism),
            random,
            program,
            lazy,
            pending: Vec::new(),
            cancelled: BTreeSet::new(),
            running: BTreeMap::new(),
            jobs: Vec::new(),
            builds: BTreeMap::new(),
            sub_results: BTreeMap::new(),
            failed: false,
            now: 0,
            results,
            swept: 0,
        }
    }

    fn run(&mut self) {
        for round in 0..1 + self.random.below(3) {
            if round > 0 {
                self.program.change(&mut self.random);
            }
            for _ in 0..4 + self.random.below(30) {
                self.step();
            }
        }
        self.finish();
    }

    /// Ends everything and begins anew: what was built may be found done.
    fn start_afresh(&mut self) {
        while !self.jobs.is_empty() {
            self.discard_job();
        }
        let job = self.core.open_job(Arc::from("job"));
        self.jobs.push(job);
        self.settle();
        while !self.pending.is_empty() {
            self.answer_one();
            self.settle();
        }
        self.start_build();
    }

    fn step(&mut self) {
        match self.random.below(13) {
            0 => {
                let job = self.core.open_job(Arc::from("job"));
                self.jobs.push(job);
            }
            1 | 2 => self.start_build(),
            3 => self.cancel_build(),
            4 => self.discard_job(),
            5 if self.random.chance(4) => {
                self.results.forget(&format!("memory-{}", self.random.below(20)));
            }
            6 if self.random.chance(3) => self.start_afresh(),
            _ => self.answer_one(),
        }
        self.settle();
    }

    fn start_build(&mut self) {
        let Some(job) = self.random.pick(&self.jobs).copied() else { return };
        let (graph, target) = (self.program.graph.clone(), self.program.random_edge(&mut self.random));
        self.build(Owner::Job(job), &graph, target, Some((target.vertex, target.output)));
    }

    fn build(
        &mut self,
        owner: Owner,
        graph: &Graph,
        target: Input,
        expect: Option<(VertexRef, u32)>,
    ) -> Option<BuildId> {
        let mut swept = None;
        if let Some((job, cache)) = self.core.may_sweep(owner).filter(|_| self.random.chance(2)) {
            let mut ask = |def: &Arc<Vertex>| {
                self.call(None, Seat::Job(job), Phase::CacheMap, |ctx| def.op.cache_map(ctx, 0))
            };
            let found = sweep(graph, &[target], &cache, &mut ask);
            if found.is_whole() {
                self.swept += 1;
                let got =
                    found.results[0].as_ref().and_then(|r| r.get::<Value>()).expect("results are values").0;
                let wanted = self.program.values_of(target.vertex, target.output);
                assert!(wanted.contains(&got), "a sweep gives {got}, not one of {wanted:?}");
                self.core.rest(job, found);
                return None;
            }
            swept = Some(found);
        }
        let edges = self.core.load(owner, graph, &[target], swept.as_ref()).ok()?;
        while let Some(effect) = self.core.survey(1).pop() {
            let event = self.outcome(&effect).expect("cache maps have outcomes");
            self.core.on(event);
        }
        let build = self.core.build(owner, edges[0]);
        self.builds.insert(build, expect);
        Some(build)
    }

    fn cancel_build(&mut self) {
        let open: Vec<BuildId> = self.builds.keys().copied().collect();
        if let Some(build) = self.random.pick(&open) {
            self.core.on(Event::Cancel { build: *build });
        }
    }

    fn discard_job(&mut self) {
        if !self.jobs.is_empty() {
            let place = self.random.below(u32::try_from(self.jobs.len()).unwrap()) as usize;
            let job = self.jobs.swap_remove(place);
            self.core.discard(job);
        }
    }

    /// Lets the core draw its conclusions, and takes in what it wants done.
    fn settle(&mut self) {
        for effect in self.core.settle() {
            match effect {
                Effect::Cancel(call) => {
                    self.cancelled.insert(name_of(&call));
                }
                Effect::Finished { build, result } => self.finished(build, *result),
                Effect::Progress { .. } => {}
                Effect::CallExec { vertex, ref def, .. } => {
                    if let Some(key) = self.program.definition_key(def) {
                        for output in self.core.executing(vertex) {
                            if let Some(other) = self.running.insert((key, output), vertex) {
                                let program = self.program.describe();
                                panic!("{} runs as {vertex:?} and as {other:?} in{program}", def.label());
                            }
                        }
                    }
                    self.pending.push(Pending::Effect(Box::new(effect)));
                }
                effect => self.pending.push(Pending::Effect(Box::new(effect))),
            }
        }
    }

    fn finished(&mut self, build: BuildId, result: Result<crate::result::CachedResult, SolveError>) {
        let expect = self.builds.remove(&build).expect("a build ends once");
        match (&result, expect) {
            (Ok(result), Some((vertex, output))) => {
                let got = result.get::<Value>().expect("results are values").0;
                // Several definitions may have lived under one name; any of them may have won.
                let wanted = self.program.values_of(vertex, output);
                let program = self.program.describe();
                assert!(
                    wanted.contains(&got),
                    "{vertex:?} gives {got}, not one of {wanted:?} as in{program}"
                );
            }
            (Err(SolveError::Vertex { cause, .. }), _) => {
                assert!(!matches!(**cause, VertexError::Stalled), "the core has stalled");
                assert!(self.failed, "an error without a failure: {cause}");
            }
            _ => {}
        }
        self.sub_results.insert(build, result.map(|r| r.result));
    }

    /// Answers one pending call, chosen at random.
    fn answer_one(&mut self) {
        if self.random.chance(6)
            && let Some(lazy) = &self.lazy
            && lazy.arrive()
        {
            self.core.on(Event::SourceReady);
            return;
        }
        if self.pending.is_empty() {
            return;
        }
        let place = self.random.below(u32::try_from(self.pending.len()).unwrap()) as usize;
        match self.pending.swap_remove(place) {
            Pending::Effect(effect) => self.answer(&effect),
            Pending::SubBuild { vertex, build } => match self.sub_results.remove(&build) {
                Some(result) => {
                    let failed = |e: SolveError| {
                        let error = if e.is_cancelled() { OpError::Cancelled } else { OpError::failed(e) };
                        VertexError::Op { phase: Phase::Exec, error }
                    };
                    let cancelled = self.cancelled.remove(&name_of(&Call::Exec(vertex)));
                    if !cancelled && result.as_ref().is_err_and(SolveError::is_cancelled) {
                        self.failed = true;
                    }
                    self.ended(vertex);
                    let result = result.map(|r| vec![r]).map_err(failed);
                    self.core.on(Event::ExecDone { vertex, result });
                }
                None => {
                    if self.cancelled.contains(&name_of(&Call::Exec(vertex))) {
                        self.core.on(Event::Cancel { build });
                    }
                    self.pending.push(Pending::SubBuild { vertex, build });
                }
            },
        }
    }

    fn ended(&mut self, vertex: VertexId) {
        self.running.retain(|_, v| *v != vertex);
    }

    fn answer(&mut self, effect: &Effect) {
        if let Effect::CallExec { vertex, def, .. } = effect
            && let Some((graph, target)) = self.program.sub_build(def)
        {
            self.core.on(Event::Waits { vertex: *vertex });
            if let Some(build) = self.build(Owner::Vertex(*vertex), &graph, target, None) {
                self.pending.push(Pending::SubBuild { vertex: *vertex, build });
                return;
            }
        }
        if let Some(event) = self.outcome(effect) {
            self.core.on(event);
        }
    }

    /// What comes of a call: mostly what the op says, sometimes a failure; a cancelled call may end
    /// either way.
    fn outcome(&mut self, effect: &Effect) -> Option<Event> {
        let event = match effect {
            Effect::CallMap { vertex, def, index } => {
                let result = self.call_of(Call::Map(*vertex), *vertex, Phase::CacheMap, |ctx| {
                    def.op.cache_map(ctx, *index)
                });
                Event::MapDone { vertex: *vertex, index: *index, result }
            }
            Effect::CallContent(call) => {
                let (vertex, input) = (call.vertex, call.input);
                let content = call.content.clone();
                let result = self.call_of(Call::Content(vertex, input), vertex, Phase::Content, |ctx| {
                    content.as_ref().map_or(Ok(None), |content| content(ctx, &call.result))
                });
                Event::ContentDone { vertex, input, result }
            }
            Effect::CallExec { vertex, def, inputs } => {
                let result =
                    self.call_of(Call::Exec(*vertex), *vertex, Phase::Exec, |ctx| def.op.exec(ctx, inputs));
                self.ended(*vertex);
                Event::ExecDone { vertex: *vertex, result }
            }
            Effect::Load { edge, cache, record, .. } => {
                let cancelled = self.cancelled.remove(&name_of(&Call::Load(*edge)));
                let fails = self.random.chance(12) || (cancelled && self.random.chance(2));
                let result = if fails { Err(CacheError::NotFound) } else { cache.load(record) };
                Event::LoadDone { edge: *edge, result }
            }
            Effect::Save { edge, cache, keys, result } => {
                self.now += 1;
                let at = Timestamp(self.now);
                let result = keys.iter().map(|key| cache.save(key, result, at)).collect();
                Event::SaveDone { edge: *edge, result }
            }
            _ => return None,
        };
        Some(event)
    }

    fn call_of<T>(
        &mut self,
        call: Call,
        vertex: VertexId,
        phase: Phase,
        run: impl FnOnce(&OpContext<'_>) -> Result<T, OpError>,
    ) -> Result<T, VertexError> {
        self.call(Some(call), Seat::Vertex(vertex), phase, run)
    }

    fn call<T>(
        &mut self,
        call: Option<Call>,
        seat: Seat,
        phase: Phase,
        run: impl FnOnce(&OpContext<'_>) -> Result<T, OpError>,
    ) -> Result<T, VertexError> {
        let cancelled = call.is_some_and(|call| self.cancelled.remove(&name_of(&call)));
        let fail = |error| Err(VertexError::Op { phase, error });
        if cancelled && self.random.chance(2) {
            return fail(OpError::Cancelled);
        }
        if self.random.chance(40) {
            self.failed = true;
            return fail(OpError::failed("simulated"));
        }
        let label = crate::error::VertexLabel { digest: Digest::of(b""), name: Arc::default() };
        let host = world::NoHost;
        let ctx = OpContext { vertex: label, cancel: CancelToken::never(), host: &host, seat, inline: true };
        run(&ctx).map_err(|error| VertexError::Op { phase, error })
    }

    /// Lets everything end, in random order, and checks that nothing is left.
    fn finish(&mut self) {
        let mut idle = 0;
        while !self.builds.is_empty() || !self.pending.is_empty() {
            let before = (self.builds.len(), self.pending.len());
            self.answer_one();
            self.settle();
            idle = if before == (self.builds.len(), self.pending.len()) { idle + 1 } else { 0 };
            if idle > 2000 {
                panic!(
                    "deadlock: {} builds wait, {} calls are under way",
                    self.builds.len(),
                    self.pending.len()
                );
            }
            if self.random.chance(60) {
                self.discard_job();
                self.settle();
            }
        }
        while !self.jobs.is_empty() {
            self.discard_job();
            self.settle();
        }
        assert!(self.pending.is_empty(), "a call began when nobody wanted anything");
        let (left, program) = (self.core.census(), self.program.describe());
        assert_eq!(left, Census::default(), "something stays live of{program}");
    }
}

/// Runs one schedule; returns how many builds a sweep found done, or the text of the panic.
fn schedule(seed: u64) -> Result<u32, String> {
    let run = || {
        let mut simulation = Simulation::new(seed);
        simulation.run();
        simulation.swept
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| payload.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default()
    })
}

#[test]
fn simulation_of_random_schedules() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("QUERN_SEED") {
        Simulation::new(seed).run();
        return;
    }
    let schedules = number("QUERN_SCHEDULES").unwrap_or(20_000);
    let swept = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (threads, swept) = (4, &swept);
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..schedules).step_by(threads as usize) {
                    match schedule(seed) {
                        Ok(some) => swept.fetch_add(some.into(), Ordering::Relaxed),
                        Err(text) => panic!("schedule {seed}: {text}\nreplay with QUERN_SEED={seed}"),
                    };
                }
            });
        }
    });
    let swept = swept.into_inner();
    assert!(swept * 20 > schedules, "{swept} sweeps in {schedules} schedules are few");
}

impl Core {
    /// The outputs for which a vertex runs.
    fn executing(&self, vertex: VertexId) -> Vec<u32> {
        let runs = |edge: &super::EdgeId| matches!(self.edges[*edge].work, super::edge::Work::Executing);
        self.edges_of(vertex).into_iter().filter(runs).map(|edge| self.edges[edge].output).collect()
    }
}

impl SimOp {
    /// A value nothing else computes.
    fn mix(words: &[u64]) -> u64 {
        let mut random = Random(0x5eed);
        for word in words {
            random = Random(random.next() ^ word);
        }
        random.next() >> 20
    }
}
