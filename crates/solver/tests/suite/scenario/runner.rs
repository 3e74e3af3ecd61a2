//! Executes the steps of a scenario.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quern_core::Digest;
use quern_solver::{
    Blocking, CacheManager, CachedResult, CancelToken, Edge, GraphBuilder, Input, Job, SolveError, Solver,
    SolverOptions, Vertex, VertexOptions, VertexRef,
};
use serde_json::{Map, Value};

use super::caches::Counting;
use super::exports::{self, Recorder};
use super::model::{
    Barrier, Build, Definition, EdgeDef, Expect, ExpectCounters, Holders, Phase, Scenario, Step,
};
use super::ops::{Counts, Made, TestOp, World};

struct Runner {
    definitions: BTreeMap<String, Map<String, Value>>,
    managers: BTreeMap<String, Arc<Counting>>,
    world: Arc<World>,
    solver: Solver,
    jobs: BTreeMap<String, Job>,
    results: BTreeMap<String, CachedResult>,
    targets: BTreeMap<String, Recorder>,
    blocking: Blocking,
}

fn solver(cache: Arc<Counting>) -> Solver {
    Solver::new(SolverOptions { cache, ..SolverOptions::default() })
}

/// True if cache maps of the scenario may be asked on whatever thread is at hand.
pub fn has_quick_maps(scenario: &Scenario) -> bool {
    let holds = |barriers: &[Barrier]| barriers.iter().any(|b| b.phase == Phase::CacheMap);
    let waits = |build: &Build| {
        holds(&build.barriers) || build.cancel.as_ref().is_some_and(|c| c.phase == Phase::CacheMap)
    };
    !scenario.steps.iter().any(|step| match step {
        Step::Build(build) => waits(build),
        Step::Parallel { builds, barriers } => holds(barriers) || builds.iter().any(waits),
        _ => false,
    })
}

/// Runs a scenario with operations whose calls may block as given; panics with a text that names
/// the step.
pub fn run(scenario: &Scenario, blocking: Blocking) {
    let quick = blocking != Blocking::Always;
    let managers: BTreeMap<String, Arc<Counting>> =
        scenario.managers.iter().map(|id| (id.clone(), Counting::new(id, quick))).collect();
    let first = managers[&scenario.managers[0]].clone();
    let mut runner = Runner {
        definitions: scenario.vertices.clone(),
        managers,
        world: Arc::default(),
        solver: solver(first),
        jobs: BTreeMap::new(),
        results: BTreeMap::new(),
        targets: BTreeMap::new(),
        blocking,
    };
    for (number, step) in scenario.steps.iter().enumerate() {
        if let Err(text) = runner.step(step) {
            panic!("step {number}: {text}");
        }
    }
    runner.jobs.values().for_each(Job::discard);
    runner.solver.wait_idle();
    assert_eq!(runner.solver.census(), quern_solver::Census::default(), "something stays live");
}

impl Runner {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Build(build) => self.builds(std::slice::from_ref(build), &build.barriers),
            Step::Parallel { builds, barriers } => self.builds(builds, barriers),
            Step::Discard { job } => {
                if let Some(job) = self.jobs.remove(job) {
                    job.discard();
                }
                Ok(())
            }
            Step::Change { set } => {
                self.change(set);
                Ok(())
            }
            Step::NewSolver { manager } => {
                self.jobs.clear();
                self.solver.wait_idle();
                self.solver = solver(self.managers[manager].clone());
                Ok(())
            }
            Step::ResetCounters => {
                self.world.reset_counts();
                Ok(())
            }
            Step::ExpectCounters(expect) => self.expect_counters(expect),
            Step::ReleaseRecord { manager, vertex, output } => {
                let manager = &self.managers[manager];
                let lost = |made: &Made| made.handle == *vertex && output.is_none_or(|o| o == made.output);
                manager.results.forget(lost);
                manager.release_unreferenced().map(|_| ()).map_err(|e| e.to_string())
            }
            Step::FailLoads { manager, on } => {
                self.managers[manager].fail.store(*on, Ordering::Relaxed);
                Ok(())
            }
            Step::Export(export) => {
                let key = &self.results[&export.of].keys()[0];
                let fresh = &mut Recorder::default();
                let target = match &export.target {
                    Some(name) => self.targets.entry(name.clone()).or_default(),
                    None => fresh,
                };
                exports::check(key, target, export)
            }
            Step::ExpectLive { holders } => {
                holders.iter().try_for_each(|(handle, expect)| self.expect_live(handle, expect.as_ref()))
            }
        }
    }

    fn change(&mut self, set: &BTreeMap<String, Map<String, Value>>) {
        for (handle, fields) in set {
            let definition = self.definitions.entry(handle.clone()).or_default();
            for (field, value) in fields {
                if value.is_null() {
                    definition.remove(field);
                } else {
                    definition.insert(field.clone(), value.clone());
                }
            }
        }
    }

    fn definition(&self, handle: &str) -> Definition {
        let fields = self.definitions.get(handle).unwrap_or_else(|| panic!("no vertex {handle}"));
        serde_json::from_value(Value::Object(fields.clone())).unwrap_or_else(|e| panic!("{handle}: {e}"))
    }

    /// Vertex objects of everything below an edge, made anew.
    fn graph(&self, edge: &EdgeDef, sources: &[String]) -> Edge {
        let mut builder = GraphBuilder::new();
        let mut added = BTreeMap::new();
        self.add(&mut builder, &mut added, &edge.vertex, sources);
        builder.finish().unwrap().edge(added[&edge.vertex], edge.output)
    }

    fn add(
        &self,
        builder: &mut GraphBuilder,
        added: &mut BTreeMap<String, VertexRef>,
        handle: &str,
        sources: &[String],
    ) -> VertexRef {
        if let Some(vertex) = added.get(handle) {
            return *vertex;
        }
        let def = self.definition(handle);
        let add_input = |input: &super::model::InputDef| (input.vertex.clone(), input.output);
        let inputs: Vec<(String, u32)> = def.inputs.iter().map(add_input).collect();
        let inputs: Vec<Input> = inputs
            .into_iter()
            .map(|(vertex, output)| Input { vertex: self.add(builder, added, &vertex, sources), output })
            .collect();
        let sub = def.edge.as_ref().map(|edge| self.graph(edge, sources));
        let named = def.cache_sources.iter().chain(sources);
        let cache_sources = named.map(|id| self.managers[id].clone() as Arc<dyn CacheManager>).collect();
        let options =
            VertexOptions { ignore_cache: def.ignore_cache, cache_sources, ..VertexOptions::default() };
        let digest = Digest::of(def.name.as_bytes());
        let (world, failed) = (self.world.clone(), AtomicBool::new(false));
        let (handle_name, blocking) = (handle.to_owned(), self.blocking);
        let op = TestOp { world, handle: handle_name, def, sub, failed, blocking };
        let mut vertex = Vertex::new(digest, Arc::new(op)).name(handle).options(options);
        vertex.inputs = inputs;
        let vertex = builder.add(vertex);
        added.insert(handle.to_owned(), vertex);
        vertex
    }

    fn builds(&mut self, builds: &[Build], barriers: &[Barrier]) -> Result<(), String> {
        self.world.set_barriers(barriers);
        let mut prepared = Vec::new();
        for build in builds {
            let _ = build.reuse_discarded_job;
            if !self.jobs.contains_key(&build.job) {
                let job = self.solver.job(build.job.as_str()).map_err(|e| e.to_string())?;
                self.jobs.insert(build.job.clone(), job);
            }
            if let Some(cancel) = &build.cancel {
                self.world.add_hold(&cancel.vertex, cancel.phase);
            }
            let edge = self.graph(&build.edge, &build.cache_sources);
            prepared.push((build, self.jobs[&build.job].clone(), edge, CancelToken::new()));
        }
        let world = &self.world;
        let entered = builds.iter().find_map(|build| build.cancel.as_ref());
        let outcomes: Vec<Result<CachedResult, SolveError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = prepared
                .iter()
                .map(|(build, job, edge, token)| {
                    if let (Some(_), Some(cancel)) = (&build.after, entered) {
                        world.wait_entered(&cancel.vertex, cancel.phase);
                    }
                    let run = move || {
                        let outcome = job.build_until(edge, token);
                        if build.cancel.is_some() {
                            world.release_holds();
                        }
                        outcome
                    };
                    scope.spawn(run)
                })
                .collect();
            for (build, _, _, token) in &prepared {
                if let Some(cancel) = &build.cancel {
                    world.wait_entered(&cancel.vertex, cancel.phase);
                    // Builds that were started just now should have joined by then.
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    token.cancel();
                }
            }
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        self.world.clear_gates();
        for (build, outcome) in builds.iter().zip(outcomes) {
            check_outcome(&build.expect, &outcome)
                .map_err(|e| format!("build of {}: {e}", build.edge.vertex))?;
            if let (Some(label), Ok(result)) = (&build.label, outcome) {
                self.results.insert(label.clone(), result);
            }
        }
        Ok(())
    }

    fn expect_counters(&self, expect: &ExpectCounters) -> Result<(), String> {
        self.solver.wait_idle();
        let all: Vec<String> = self.definitions.keys().cloned().collect();
        let handles = if expect.scope == "vertex" { &expect.vertices } else { &all };
        let sum = |of: fn(&Counts) -> u64| handles.iter().map(|h| of(&self.world.counts(h))).sum::<u64>();
        let (execs, maps, later) = (sum(|c| c.execs), sum(|c| c.maps), sum(|c| c.later_maps));
        let loads_of = |id: &str| self.managers[id].loads.load(Ordering::Relaxed);
        let loads: u64 = self.managers.keys().map(|id| loads_of(id)).sum();
        let mut wrong = Vec::new();
        let mut check = |what: &str, ok: bool, got: u64, wanted: &dyn std::fmt::Display| {
            if !ok {
                wrong.push(format!("{what} is {got}, expected {wanted}"));
            }
        };
        if let Some(n) = expect.exec {
            check("exec", execs == n, execs, &n);
        }
        if let Some(n) = expect.exec_min {
            check("exec", execs >= n, execs, &format!("at least {n}"));
        }
        if let Some(n) = expect.cache_maps {
            check("cache_maps", maps == n, maps, &n);
        }
        if let Some(n) = expect.cache_maps_max {
            check("cache_maps", maps <= n, maps, &format!("at most {n}"));
        }
        if let Some(n) = expect.later_maps {
            check("later_maps", later == n, later, &n);
        }
        if let Some(n) = expect.load_max {
            let most = if n == 0 { 0 } else { n + 1 };
            check("load", loads <= most, loads, &format!("at most {most}"));
        }
        match &expect.load {
            Some(Value::Object(per)) => per.iter().for_each(|(id, n)| {
                check(&format!("load of {id}"), Some(loads_of(id)) == n.as_u64(), loads_of(id), n);
            }),
            Some(n) => check("load", Some(loads) == n.as_u64(), loads, n),
            None => {}
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    fn expect_live(&self, handle: &str, expect: Option<&Holders>) -> Result<(), String> {
        self.solver.wait_idle();
        let name = self.definition(handle).name;
        let holders = self.solver.holders(&Digest::of(name.as_bytes()));
        match (expect, &holders) {
            (None, None) => Ok(()),
            (Some(expect), Some(holders)) => {
                let has = expect.has.iter().all(|job| holders.contains(job));
                let not = expect.not.iter().all(|job| !holders.contains(job));
                if has && not { Ok(()) } else { Err(format!("{handle} is held by {holders:?}")) }
            }
            (None, Some(holders)) => Err(format!("{handle} is still held by {holders:?}")),
            (Some(_), None) => Err(format!("{handle} is not live")),
        }
    }
}

fn check_outcome(expect: &Expect, outcome: &Result<CachedResult, SolveError>) -> Result<(), String> {
    let got = match outcome {
        Ok(result) => result.get::<Made>().map(|made| made.value.to_string()).unwrap_or_default(),
        Err(error) => format!("error: {error}"),
    };
    let right = match (expect, outcome) {
        (Expect { value: Some(value), .. }, Ok(result)) => result.get::<Made>().unwrap().value == *value,
        (Expect { ok: true, .. }, Ok(_)) => true,
        (Expect { error_contains: Some(text), .. }, Err(error)) => error.to_string().contains(text),
        (Expect { error_kind: Some(kind), .. }, Err(error)) => kind == "canceled" && error.is_cancelled(),
        _ => false,
    };
    let wanted = || {
        let text =
            expect.error_contains.as_ref().or(expect.error_kind.as_ref()).map(|t| format!("error {t}"));
        text.or_else(|| expect.value.as_ref().map(Value::to_string)).unwrap_or_else(|| "success".into())
    };
    if right { Ok(()) } else { Err(format!("got {got}, expected {}", wanted())) }
}
