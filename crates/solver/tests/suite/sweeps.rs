//! A build that a sweep finds done equals one that was made live: two caches with the same history,
//! one of which does not offer its numbers, are built on side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use quern_solver::{
    Blocking, CacheChains, CacheError, CacheExportMode, CacheExportOptions, CacheKey, CacheKeyStorage,
    CacheManager, CacheMap, CacheMapInput, CacheRecord, CachedResult, CancelToken, Census, Descriptor,
    FileKeyStorage, Graph, GraphBuilder, InlineResultStorage, Input, KeyId, KeyedCache, MapStep, Op,
    OpContext, OpError, Query, Remote, ResultCodec, SharedResult, Solver, SolverOptions, Timestamp, Vertex,
    VertexOptions, VertexRef, export_keys,
};

use crate::fakes::digest;

/// Everything that was called, in no particular order.
#[derive(Default)]
struct Log(Mutex<BTreeMap<String, usize>>);

impl Log {
    fn count(&self, what: String) {
        *self.0.lock().unwrap().entry(what).or_default() += 1;
    }

    fn take(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Results are texts; some are lost.
struct Texts(Arc<Mutex<BTreeSet<String>>>);

impl ResultCodec for Texts {
    fn encode(&self, result: &SharedResult) -> Result<String, CacheError> {
        Ok(result.get::<String>().unwrap().clone())
    }

    fn decode(&self, text: &str) -> Result<SharedResult, CacheError> {
        Ok(SharedResult::new(text.to_owned()))
    }

    fn is_whole(&self, text: &str) -> Result<bool, CacheError> {
        Ok(!self.0.lock().unwrap().contains(text))
    }

    fn may_lose(&self) -> bool {
        true
    }
}

/// A cache that counts loads, lets some fail, and may hide that its keys have numbers.
struct Watched {
    cache: KeyedCache,
    log: Arc<Log>,
    numbered: bool,
    /// Results that cannot be loaded although their records are there.
    broken: Arc<Mutex<BTreeSet<String>>>,
}

impl CacheManager for Watched {
    fn id(&self) -> &str {
        self.cache.id()
    }

    fn query(&self, query: &Query<'_>, found: &mut Vec<KeyId>) -> Result<(), CacheError> {
        self.cache.query(query, found)
    }

    fn records(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError> {
        self.cache.records(key)
    }

    fn load(&self, record: &CacheRecord) -> Result<SharedResult, CacheError> {
        self.log.count(format!("load {}", record.id));
        if self.broken.lock().unwrap().contains(&*record.id) {
            return Err(CacheError::NotFound);
        }
        self.cache.load(record)
    }

    fn save(&self, key: &CacheKey, result: &SharedResult, _: Timestamp) -> Result<CacheRecord, CacheError> {
        // The same age on both sides.
        self.cache.save(key, result, Timestamp(1))
    }

    fn loads_quickly(&self, _: &CacheRecord) -> bool {
        true
    }

    fn stores(&self) -> Vec<KeyedCache> {
        self.cache.stores()
    }

    fn numbered_keys(&self) -> Option<&dyn CacheKeyStorage> {
        self.cache.numbered_keys().filter(|_| self.numbered)
    }
}

#[derive(Clone, Debug)]
struct Def {
    name: u32,
    seed: u32,
    maps: usize,
    /// Vertex, output, selector, and whether the content decides.
    inputs: Vec<(u32, u32, Option<u32>, bool)>,
    ignore: bool,
    hidden: bool,
}

struct Mix {
    def: Def,
    log: Arc<Log>,
}

impl Op for Mix {
    fn cache_map(&self, ctx: &OpContext<'_>, index: usize) -> Result<MapStep, OpError> {
        self.log.count(format!("map {index} of {}", ctx.vertex().name));
        let last = index + 1 == self.def.maps;
        let own = if last { 0 } else { self.def.name + 1 };
        let mut map = CacheMap::new(digest(&format!("{} {own}", self.def.seed)));
        for (_, _, selector, by_content) in &self.def.inputs {
            let mut about = CacheMapInput::plain();
            about.selector = selector.map(|s| digest(&format!("part {s}")));
            let of_text = |_: &OpContext<'_>, result: &SharedResult| {
                Ok(Some(digest(&result.get::<String>().unwrap()[..1])))
            };
            map = map.input(if *by_content { about.content(of_text) } else { about });
        }
        Ok(if last { MapStep::Last(map) } else { MapStep::More(map) })
    }

    fn exec(&self, ctx: &OpContext<'_>, inputs: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        self.log.count(format!("exec {}", ctx.vertex().name));
        let inputs: Vec<&str> = inputs.iter().map(|i| i.get::<String>().unwrap().as_str()).collect();
        let text =
            |output: u32| digest(&format!("{} {output} {inputs:?}", self.def.seed)).hex()[..8].to_owned();
        Ok((0..2).map(|output| SharedResult::new(text(output))).collect())
    }

    fn blocking(&self) -> Blocking {
        // On one thread, both sides do everything in the same order.
        Blocking::Never
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(n)) as u32
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.below(one_in) == 0
    }
}

fn definitions(random: &mut Random) -> Vec<Def> {
    let unusual = random.chance(3);
    let mut defs = Vec::new();
    for name in 0..3 + random.below(8) {
        let mut inputs = Vec::new();
        for _ in 0..random.below(4).min(name) {
            let selector = random.chance(4).then(|| random.below(2));
            inputs.push((random.below(name), random.below(5) / 4, selector, random.chance(4)));
        }
        let maps = if inputs.is_empty() && random.chance(4) { 2 } else { 1 };
        let (ignore, hidden) = (unusual && random.chance(12), random.chance(8));
        defs.push(Def { name, seed: random.below(40), maps, inputs, ignore, hidden });
    }
    defs
}

/// One of the two sides.
struct Side {
    log: Arc<Log>,
    lost: Arc<Mutex<BTreeSet<String>>>,
    broken: Arc<Mutex<BTreeSet<String>>>,
    numbered: bool,
    keys: Arc<FileKeyStorage>,
    solver: Solver,
    folder: tempfile::TempDir,
}

impl Side {
    fn new(numbered: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (log, lost, broken) = (Arc::default(), Arc::default(), Arc::default());
        let keys = Arc::new(FileKeyStorage::open(folder.path()).unwrap());
        let solver = Solver::new(SolverOptions::default());
        let mut side = Self { log, lost, broken, numbered, keys, solver, folder };
        side.reopen();
        side
    }

    /// A fresh process, as it were.
    fn reopen(&mut self) {
        self.keys.sync().unwrap();
        self.keys = Arc::new(FileKeyStorage::open(self.folder.path()).unwrap());
        let results = Arc::new(InlineResultStorage::new(Texts(self.lost.clone())));
        let cache = KeyedCache::new("main", self.keys.clone(), results).unwrap();
        let (log, broken) = (self.log.clone(), self.broken.clone());
        let cache = Arc::new(Watched { cache, log, numbered: self.numbered, broken });
        self.solver = Solver::new(SolverOptions { cache, ..SolverOptions::default() });
    }

    fn graph(&self, defs: &[Def]) -> Graph {
        let mut builder = GraphBuilder::new();
        for def in defs {
            let below: Vec<_> = def.inputs.iter().map(|input| defs[input.0 as usize].clone()).collect();
            let identity = digest(&format!("{def:?} on {below:?}"));
            let op = Mix { def: def.clone(), log: self.log.clone() };
            let mut vertex = Vertex::new(identity, Arc::new(op)).name(def.name.to_string());
            for (on, output, _, _) in &def.inputs {
                vertex = vertex.input(Input { vertex: VertexRef(*on), output: *output });
            }
            let export = def.hidden.then_some(false);
            builder.add(vertex.options(VertexOptions {
                ignore_cache: def.ignore,
                export,
                ..VertexOptions::default()
            }));
        }
        builder.finish().unwrap()
    }

    /// Builds the targets in one job, then some in another; says everything that can be observed.
    fn build(&self, defs: &[Def], targets: &[Input], more: &[Input]) -> Vec<String> {
        let graph = self.graph(defs);
        let mut seen = Vec::new();
        let job = self.solver.job("first").unwrap();
        let first = results(&job, &graph, targets, &mut seen);
        let other = self.solver.job("second").unwrap();
        let second = results(&other, &graph, more, &mut seen);
        export(&first, &mut seen);
        export(&second, &mut seen);
        self.solver.wait_idle();
        seen.extend(self.log.take().into_iter().map(|(what, times)| format!("{what}: {times}")));
        job.discard();
        other.discard();
        self.solver.wait_idle();
        assert_eq!(self.solver.census(), Census::default());
        seen
    }
}

fn results(
    job: &quern_solver::Job,
    graph: &Graph,
    targets: &[Input],
    seen: &mut Vec<String>,
) -> BTreeMap<usize, CachedResult> {
    let mut all = BTreeMap::new();
    job.build_all(graph, targets, &CancelToken::never(), |number, result| {
        all.insert(number, result.unwrap());
    });
    for (number, result) in &all {
        let keys: Vec<_> = result.keys().iter().map(|key| key.key.id()).collect();
        seen.push(format!("{number}: {} {keys:?}", result.get::<String>().unwrap()));
    }
    all
}

fn export(results: &BTreeMap<usize, CachedResult>, seen: &mut Vec<String>) {
    let convert = |result: &SharedResult| {
        let text = result.get::<String>().unwrap();
        let (media_type, digest, size) = ("text/plain".to_owned(), digest(text), text.len() as u64);
        let annotations = BTreeMap::new();
        Ok(vec![Remote { descriptors: vec![Descriptor { media_type, digest, size, annotations }] }])
    };
    for ignore_backlinks in [false, true] {
        let mode = CacheExportMode::Max;
        let options =
            CacheExportOptions { mode, convert: Some(&convert), ignore_backlinks, ..Default::default() };
        let keys: Vec<_> = results.values().filter_map(|result| result.keys().first()).collect();
        let mut chains = CacheChains::new();
        export_keys(&keys, &mut chains, &options).unwrap();
        seen.push(String::from_utf8_lossy(&chains.marshal().0).into_owned());
    }
}

fn compare(seed: u64) -> usize {
    let mut random = Random(seed);
    let mut defs = definitions(&mut random);
    let mut sides = [Side::new(true), Side::new(false)];
    let mut done = 0;
    for round in 0..6 {
        let pick = |random: &mut Random, most: u32| -> Vec<Input> {
            let count = u32::try_from(defs.len()).unwrap();
            let one = |random: &mut Random| Input {
                vertex: VertexRef(random.below(count)),
                output: random.below(4) / 3,
            };
            (0..1 + random.below(most)).map(|_| one(random)).collect()
        };
        let (targets, more) = (pick(&mut random, 4), pick(&mut random, 2));
        let [swept, live] = [0, 1].map(|side| sides[side].build(&defs, &targets, &more));
        let only =
            |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>();
        let differ = [only(&swept, &live), only(&live, &swept)];
        assert!(swept == live, "round {round}: {targets:?} and {more:?} of {defs:?}: {differ:#?}");
        done += usize::from(!live.iter().any(|line| line.starts_with("exec")));
        let changed = random.below(u32::try_from(defs.len()).unwrap()) as usize;
        let (change, evict, fail) = (random.chance(3), random.chance(3), random.chance(6));
        if change {
            defs[changed].seed = random.below(40);
        }
        let text = |line: &String| Some(line.split_once(": ")?.1.get(..8)?.to_owned());
        let texts: BTreeSet<String> = live.iter().filter_map(text).collect();
        let victims: Vec<String> = texts.into_iter().filter(|_| random.chance(2)).collect();
        let (compact, reopen) = (random.chance(3), random.chance(2));
        for side in &mut sides {
            if evict {
                side.lost.lock().unwrap().extend(victims.iter().cloned());
            }
            *side.broken.lock().unwrap() = victims.iter().filter(|_| fail).cloned().collect();
            if compact {
                side.keys.compact().unwrap();
            }
            if reopen {
                side.reopen();
            }
        }
    }
    done
}

#[test]
fn what_a_sweep_finds_equals_what_is_made_live() {
    let mut done = 0;
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = number("QUERN_SEED").map_or(0..number("QUERN_SWEEPS").unwrap_or(60), |seed| seed..seed + 1);
    for seed in seeds.clone() {
        match catch_unwind(AssertUnwindSafe(|| compare(seed))) {
            Ok(some) => done += some,
            Err(_) => panic!("replay with QUERN_SEED={seed}"),
        }
    }
    assert!(seeds.end - seeds.start == 1 || done > 30, "{done} builds with nothing to do are few");
}
