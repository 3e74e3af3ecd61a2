//! What is simulated: programs of arithmetic, and a cache that arrives late.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use quern_core::Digest;

use crate::cache::{CacheManager, CacheRecord, KeyedCache, Query, Readiness, Timestamp};
use crate::cancel::CancelToken;
use crate::drive::Host;
use crate::error::{CacheError, OpError, SolveError};
use crate::graph::{Edge, Graph, GraphBuilder, Input, Vertex, VertexOptions, VertexRef};
use crate::key::{CacheKey, KeyId};
use crate::op::{Blocking, CacheMap, CacheMapInput, MapStep, Op, OpContext, Seat};
use crate::progress::{LogStream, Status};
use crate::result::{CachedResult, SharedResult};

use super::random::Random;

#[derive(Clone)]
pub(super) struct Value(pub(super) u64);

/// How much of an input with a content digest counts: contents are often equal.
const CONTENTS: u64 = 3;

/// The definition of a vertex.
#[derive(Clone, Debug)]
struct Def {
    /// Equal numbers mean equal operations.
    op: u64,
    name: u64,
    /// Vertex, output, and whether the content decides.
    inputs: Vec<(usize, u32, bool)>,
    maps: usize,
    ignore: bool,
    lazy: bool,
    quick: bool,
    sub_build: Option<usize>,
}

pub(super) const OUTPUTS: u32 = 2;

/// An operation: its outputs are mixed from its number and what counts of its inputs.
pub(super) struct SimOp {
    def: Def,
}

fn counts(value: u64, by_content: bool) -> u64 {
    if by_content { value % CONTENTS } else { value }
}

impl SimOp {
    fn value(op: u64, inputs: &[u64], output: u32) -> u64 {
        let words: Vec<u64> = [op, u64::from(output)].into_iter().chain(inputs.iter().copied()).collect();
        Self::mix(&words)
    }
}

impl Op for SimOp {
    fn cache_map(&self, _: &OpContext<'_>, index: usize) -> Result<MapStep, OpError> {
        let last = index + 1 >= self.def.maps;
        // All but the last map of a root differ from definition to definition.
        let own = if last { 0 } else { self.def.name * 10 + index as u64 + 1 };
        let uses: String = self.def.inputs.iter().map(|(_, _, c)| if *c { 'c' } else { 'd' }).collect();
        let mut map = CacheMap::new(Digest::of(format!("{} {own} {uses}", self.def.op).as_bytes()));
        for (_, _, by_content) in &self.def.inputs {
            let about = CacheMapInput::plain();
            map = map.input(if *by_content { about.content(content) } else { about });
        }
        Ok(if last { MapStep::Last(map) } else { MapStep::More(map) })
    }

    fn exec(&self, _: &OpContext<'_>, inputs: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        let value = |(result, (_, _, by_content)): (&SharedResult, &(usize, u32, bool))| {
            counts(result.get::<Value>().expect("results are values").0, *by_content)
        };
        let values: Vec<u64> = inputs.iter().zip(&self.def.inputs).map(value).collect();
        let output = |o| SharedResult::new(Value(Self::value(self.def.op, &values, o)));
        Ok((0..OUTPUTS).map(output).collect())
    }

    fn blocking(&self) -> Blocking {
        if self.def.quick { Blocking::Exec } else { Blocking::Always }
    }
}

fn content(_: &OpContext<'_>, result: &SharedResult) -> Result<Option<Digest>, OpError> {
    let value = result.get::<Value>().expect("results are values").0 % CONTENTS;
    Ok(Some(Digest::of(format!("content {value}").as_bytes())))
}

/// A graph, and what every vertex of it must give.
pub(super) struct Program {
    defs: Vec<Def>,
    pub(super) graph: Graph,
    lazy: Option<Arc<LazyCache>>,
    /// By name and output: the values of all definitions that ever had this name.
    values: BTreeMap<(u64, u32), Vec<u64>>,
    sub_builds: BTreeMap<String, (Graph, Input)>,
    next_name: u64,
}

impl Program {
    pub(super) fn random(random: &mut Random, lazy: Option<&Arc<LazyCache>>) -> Self {
        let count = 3 + random.below(8) as usize;
        let all_quick = random.chance(2);
        let mut defs: Vec<Def> = Vec::new();
        for number in 0..count {
            let mut def = Def::random(random, number, &defs, lazy.is_some());
            def.quick |= all_quick;
            defs.push(def);
        }
        let graph = GraphBuilder::new().finish().expect("an empty graph is a graph");
        let next_name = 1000;
        let (values, sub_builds) = (BTreeMap::new(), BTreeMap::new());
        let mut program = Self { defs, graph, lazy: lazy.cloned(), values, sub_builds, next_name };
        program.rebuild();
        program
    }

    /// Changes one definition and renames everything that depends on it.
    pub(super) fn change(&mut self, random: &mut Random) {
        let changed = random.below(u32::try_from(self.defs.len()).expect("few")) as usize;
        if random.chance(2) {
            self.defs[changed].op = u64::from(random.below(12));
        }
        self.defs[changed].ignore = random.chance(8);
        let mut renamed = vec![false; self.defs.len()];
        renamed[changed] = true;
        for number in 0..self.defs.len() {
            let def = &self.defs[number];
            let below = def.inputs.iter().map(|(v, _, _)| *v).chain(def.sub_build);
            renamed[number] |= below.clone().any(|v| renamed[v]);
            if renamed[number] {
                self.next_name += 1;
                self.defs[number].name = self.next_name;
                if self.defs[number].sub_build.is_some() {
                    self.defs[number].op = 1_000_000 + self.next_name;
                }
            }
        }
        self.rebuild();
    }

    fn rebuild(&mut self) {
        let mut builder = GraphBuilder::new();
        for def in &self.defs {
            let digest = Digest::of(format!("vertex {}", def.name).as_bytes());
            let mut vertex =
                Vertex::new(digest, Arc::new(SimOp { def: def.clone() })).name(def.name.to_string());
            for (on, output, _) in &def.inputs {
                let on = VertexRef(u32::try_from(*on).expect("few"));
                vertex = vertex.input(Input { vertex: on, output: *output });
            }
            let source = self.lazy.as_ref().filter(|_| def.lazy);
            let cache_sources =
                source.map(|lazy| lazy.clone() as Arc<dyn CacheManager>).into_iter().collect();
            let options =
                VertexOptions { ignore_cache: def.ignore, cache_sources, ..VertexOptions::default() };
            builder.add(vertex.options(options));
        }
        self.graph = builder.finish().expect("inputs are earlier vertices");
        let mut values: Vec<[u64; OUTPUTS as usize]> = Vec::new();
        for def in &self.defs {
            let input =
                |(v, o, by_content): &(usize, u32, bool)| counts(values[*v][*o as usize], *by_content);
            let inputs: Vec<u64> = def.inputs.iter().map(input).collect();
            let own = match def.sub_build {
                Some(sub) => [values[sub][0], u64::MAX],
                None => [0, 1].map(|output| SimOp::value(def.op, &inputs, output)),
            };
            for (output, value) in (0u32..).zip(own) {
                self.values.entry((def.name, output)).or_default().push(value);
            }
            if let Some(target) = def.sub_build {
                let target = VertexRef(u32::try_from(target).expect("few"));
                let built = (self.graph.clone(), Input { vertex: target, output: 0 });
                self.sub_builds.entry(def.name.to_string()).or_insert(built);
            }
            values.push(own);
        }
    }

    /// The definitions, one per line.
    pub(super) fn describe(&self) -> String {
        (0..).zip(&self.defs).map(|(number, def): (usize, _)| format!("\n  {number}: {def:?}")).collect()
    }

    pub(super) fn random_edge(&self, random: &mut Random) -> Input {
        let number = random.below(u32::try_from(self.defs.len()).expect("few"));
        let outputs = if self.defs[number as usize].sub_build.is_some() { 1 } else { OUTPUTS };
        Input { vertex: VertexRef(number), output: random.below(outputs) }
    }

    pub(super) fn values_of(&self, vertex: VertexRef, output: u32) -> Vec<u64> {
        // The program may have been changed since the build began: names are never used again, so
        // every value of an earlier definition of this number is as good.
        let _ = vertex;
        self.values.iter().filter(|((_, o), _)| *o == output).flat_map(|(_, values)| values.clone()).collect()
    }

    /// What a vertex computes, by definition alone; none if it does not obey the cache.
    pub(super) fn definition_key(&self, vertex: &Vertex) -> Option<Digest> {
        let number = self.defs.iter().position(|def| def.name.to_string() == *vertex.name)?;
        self.key_of(number)
    }

    fn key_of(&self, number: usize) -> Option<Digest> {
        let def = &self.defs[number];
        if def.ignore || def.sub_build.is_some() || def.maps > 1 {
            return None;
        }
        let mut text = format!("{}", def.op);
        for (on, output, by_content) in &def.inputs {
            text += &format!(" {}:{output}:{by_content}", self.key_of(*on)?);
        }
        Some(Digest::of(text.as_bytes()))
    }

    /// What a vertex builds within itself, as it was when the vertex was defined.
    pub(super) fn sub_build(&self, vertex: &Vertex) -> Option<(Graph, Input)> {
        self.sub_builds.get(&*vertex.name).cloned()
    }
}

impl Def {
    fn random(random: &mut Random, number: usize, earlier: &[Def], lazy: bool) -> Self {
        // A twin: the same operation on the same inputs under another name.
        if let Some(twin) = random.pick(earlier).filter(|def| def.sub_build.is_none()).cloned()
            && random.chance(4)
        {
            return Self { name: number as u64, ..twin };
        }
        let plain: Vec<usize> = (0..number).collect();
        let mut inputs = Vec::new();
        for _ in 0..random.below(4).min(u32::try_from(number).expect("few")) {
            let on = *random.pick(&plain).expect("not the first");
            let output = if earlier[on].sub_build.is_some() { 0 } else { random.below(OUTPUTS) };
            inputs.push((on, output, random.chance(3)));
        }
        let is_root = inputs.is_empty();
        let sub_build =
            (is_root && number > 0 && random.chance(6)).then(|| *random.pick(&plain).expect("some"));
        let op = match sub_build {
            // What a sub-build gives depends on what it builds, so its operation is its own.
            Some(_) => 100 + random.next() % 1_000_000,
            None => u64::from(random.below(12)),
        };
        Self {
            op,
            name: number as u64,
            maps: if is_root && sub_build.is_none() && random.chance(4) { 2 } else { 1 },
            inputs,
            ignore: random.chance(16),
            lazy: lazy && random.chance(2),
            quick: random.chance(2),
            sub_build,
        }
    }
}

/// A cache of which nothing is known until it arrives.
pub(super) struct LazyCache {
    cache: KeyedCache,
    arrived: AtomicBool,
    wake: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl LazyCache {
    /// A cache that knows some of the roots programs are made of.
    pub(super) fn filled(random: &mut Random) -> Self {
        let cache = KeyedCache::in_memory("lazy");
        for op in 0..12 {
            if random.chance(2) {
                let key = CacheKey::root(Digest::of(format!("{op} 0 ").as_bytes()), 0, Default::default());
                let value = SharedResult::new(Value(SimOp::value(op, &[], 0)));
                cache.save(&key, &value, Timestamp(0)).expect("memory does not fail");
            }
        }
        Self { cache, arrived: AtomicBool::new(false), wake: Mutex::default() }
    }

    /// True if it arrives now.
    pub(super) fn arrive(&self) -> bool {
        !self.arrived.swap(true, Ordering::Relaxed)
    }
}

impl CacheManager for LazyCache {
    fn id(&self) -> &str {
        self.cache.id()
    }

    fn query(&self, query: &Query<'_>, found: &mut Vec<KeyId>) -> Result<(), CacheError> {
        if self.arrived.load(Ordering::Relaxed) { self.cache.query(query, found) } else { Ok(()) }
    }

    fn records(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError> {
        if self.arrived.load(Ordering::Relaxed) { self.cache.records(key) } else { Ok(Vec::new()) }
    }

    fn load(&self, record: &CacheRecord) -> Result<SharedResult, CacheError> {
        self.cache.load(record)
    }

    fn save(&self, _: &CacheKey, _: &SharedResult, _: Timestamp) -> Result<CacheRecord, CacheError> {
        Err(CacheError::ReadOnly("lazy".into()))
    }

    fn stores(&self) -> Vec<KeyedCache> {
        vec![self.cache.clone()]
    }

    fn readiness(&self) -> Readiness {
        if self.arrived.load(Ordering::Relaxed) { Readiness::Ready } else { Readiness::Pending }
    }

    fn prepare(&self, wake: Box<dyn FnOnce() + Send>) {
        self.wake.lock().expect("nothing panics with the lock").push(wake);
    }
}

/// Nobody listens.
pub(super) struct NoHost;

impl Host for NoHost {
    fn log(&self, _: Seat, _: LogStream, _: &[u8]) {}

    fn status(&self, _: Seat, _: Status) {}

    fn sub_build(&self, _: Seat, _: &Edge, _: &CancelToken) -> Result<CachedResult, SolveError> {
        Err(SolveError::Cancelled)
    }

    fn job_values(&self, _: Seat, _: &str) -> Vec<Arc<dyn Any + Send + Sync>> {
        Vec::new()
    }
}
