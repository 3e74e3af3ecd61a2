//! Finding out that a build has nothing to do, without making anything live.
//!
//! A sweep asks every vertex for its cache map and looks it up by definition, inputs first, in the
//! numbers of one key storage: no live vertices, no keys, no demands. If every target is found, has
//! a record and loads, the build is over. It is a short cut through the rules of `decide`, to the
//! same end: whatever these would treat in a special way stops the sweep, and the ordinary build
//! goes on with the cache maps asked so far. A test compares the two on random graphs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use quern_core::Digest;

use crate::cache::{CacheInfoLink, CacheManager, CacheRecord, CombinedCache, NumberedKeys};
use crate::error::VertexError;
use crate::export::keys_of_result;
use crate::few::Few;
use crate::graph::{Graph, Input, Vertex, VertexRef};
use crate::key::{CacheKey, CacheKeyWithSelector, KeyId, Origin, WeakKey};
use crate::op::{Blocking, CacheMap, KeyScope, MapStep};
use crate::result::CachedResult;

/// Cache maps of a graph, asked once and kept small.
pub(crate) struct Maps {
    /// What the maps of most vertices are: an operation, by vertex.
    plain: Vec<[u8; 32]>,
    special: HashMap<u32, Result<MapStep, VertexError>>,
}

impl Maps {
    fn with_room(vertices: usize) -> Self {
        Self { plain: vec![[0; 32]; vertices], special: HashMap::new() }
    }

    fn put(&mut self, vertex: u32, answer: Result<MapStep, VertexError>) {
        match answer {
            Ok(MapStep::Last(map)) if map.inputs.is_empty() && map.scope == KeyScope::Shared => {
                self.plain[vertex as usize] = *map.digest.as_bytes();
            }
            answer => {
                self.special.insert(vertex, answer);
            }
        }
    }

    /// The answer of a vertex that was asked.
    fn answer(&self, vertex: u32) -> Result<MapStep, VertexError> {
        self.special.get(&vertex).cloned().unwrap_or_else(|| Ok(MapStep::Last(self.plain_map(vertex))))
    }

    /// The operation of a vertex, whose answer was no failure.
    fn digest(&self, vertex: u32) -> Digest {
        self.special_map(vertex).map_or(Digest::from_bytes(self.plain[vertex as usize]), |map| map.digest)
    }

    fn scope(&self, vertex: u32) -> KeyScope {
        self.special_map(vertex).map_or(KeyScope::Shared, |map| map.scope)
    }

    fn selector(&self, vertex: u32, input: u32) -> Option<Digest> {
        self.special_map(vertex)?.inputs.get(input as usize)?.selector
    }

    fn special_map(&self, vertex: u32) -> Option<&CacheMap> {
        if self.special.is_empty() {
            return None;
        }
        let (MapStep::Last(map) | MapStep::More(map)) = self.special.get(&vertex)?.as_ref().ok()?;
        Some(map)
    }

    fn plain_map(&self, vertex: u32) -> CacheMap {
        CacheMap::new(Digest::from_bytes(self.plain[vertex as usize]))
    }
}

/// What the targets of a build need.
struct Needed {
    /// Vertices, inputs first.
    order: Vec<u32>,
    /// By vertex: its output 0 is used.
    first: Vec<bool>,
    /// Other outputs used.
    others: HashMap<u32, Vec<u32>>,
}

impl Needed {
    fn by(graph: &Graph, targets: &[Input]) -> Self {
        let (mut needed, mut first) = (vec![false; graph.len()], vec![false; graph.len()]);
        let mut others: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut use_output = |input: &Input, needed: &mut [bool]| {
            let vertex = input.vertex.0;
            needed[vertex as usize] = true;
            if input.output == 0 {
                first[vertex as usize] = true;
            } else if others.get(&vertex).is_none_or(|outputs| !outputs.contains(&input.output)) {
                others.entry(vertex).or_default().push(input.output);
            }
        };
        targets.iter().for_each(|target| use_output(target, &mut needed));
        for vertex in graph.inputs_first().rev() {
            if needed[vertex as usize] {
                let inputs = &graph.vertices[vertex as usize].inputs;
                inputs.iter().for_each(|input| use_output(input, &mut needed));
            }
        }
        let order = graph.inputs_first().filter(|vertex| needed[*vertex as usize]).collect();
        Self { order, first, others }
    }

    /// The outputs used of a vertex.
    fn outputs(&self, vertex: u32) -> impl Iterator<Item = u32> {
        let others = if self.others.is_empty() { None } else { self.others.get(&vertex) };
        self.first[vertex as usize].then_some(0).into_iter().chain(others.into_iter().flatten().copied())
    }
}

/// The keys found so far, by vertex and output.
#[derive(Default)]
struct Found {
    /// Where the keys of each vertex's output 0 start among all, and how many there are.
    first: Vec<Span>,
    /// The same of other outputs.
    others: HashMap<(u32, u32), Span>,
    numbers: Vec<u32>,
    ids: Vec<KeyId>,
}

type Span = (u32, u32);

impl Found {
    fn span(&self, of: Input) -> std::ops::Range<usize> {
        let (vertex, output) = (of.vertex.0, of.output);
        let span =
            if output == 0 { self.first.get(vertex as usize) } else { self.others.get(&(vertex, output)) };
        let (start, count) = span.copied().unwrap_or_default();
        start as usize..(start + count) as usize
    }

    fn numbers(&self, of: Input) -> &[u32] {
        &self.numbers[self.span(of)]
    }

    fn ids(&self, of: Input) -> &[KeyId] {
        &self.ids[self.span(of)]
    }

    fn put(&mut self, of: Input, keys: &[u32]) {
        let count = |n: usize| u32::try_from(n).expect("fewer than 2^32 keys");
        let span = (count(self.numbers.len()), count(keys.len()));
        self.numbers.extend_from_slice(keys);
        if of.output == 0 {
            self.first[of.vertex.0 as usize] = span;
        } else {
            self.others.insert((of.vertex.0, of.output), span);
        }
    }
}

/// A graph whose vertices were asked for their cache maps and looked up in a cache.
pub(crate) struct Sweep {
    graph: Graph,
    pub(crate) targets: Vec<Input>,
    cache: Arc<CombinedCache>,
    needed: Needed,
    /// How many of these were asked.
    asked: usize,
    maps: Maps,
    found: Found,
    /// Keys made of what was found, while anybody has them: an export visits each once.
    made: Mutex<HashMap<Input, Vec<WeakKey>>>,
}

/// What came of a sweep.
pub(crate) struct Swept {
    pub(crate) sweep: Arc<Sweep>,
    /// By target; none is missing if there is nothing left to do.
    pub(crate) results: Vec<Option<CachedResult>>,
    /// Records that could not be loaded, with the number of the target.
    pub(crate) tried: Vec<(usize, Arc<str>)>,
}

/// What a vertex answers when asked for its first cache map.
pub(crate) type Ask<'a> = &'a mut dyn FnMut(&Arc<Vertex>) -> Result<MapStep, VertexError>;

/// Looks the targets up and loads them, as far as that is possible without building anything.
pub(crate) fn sweep(graph: &Graph, targets: &[Input], cache: &Arc<CombinedCache>, ask: Ask<'_>) -> Swept {
    let mut sweep = Sweep {
        graph: graph.clone(),
        targets: targets.to_vec(),
        cache: Arc::clone(cache),
        needed: Needed::by(graph, targets),
        asked: 0,
        maps: Maps::with_room(graph.len()),
        found: Found::default(),
        made: Mutex::default(),
    };
    let found = sweep.ask_all(ask) && sweep.look_all_up() && sweep.targets_differ();
    let sweep = Arc::new(sweep);
    let mut swept = Swept { results: vec![None; targets.len()], tried: Vec::new(), sweep };
    if found {
        swept.load_all();
    }
    swept
}

impl Sweep {
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The answers of the vertices that were asked, inputs first.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (u32, Result<MapStep, VertexError>)> {
        let asked = &self.needed.order[..self.asked];
        asked.iter().map(|vertex| (*vertex, self.maps.answer(*vertex)))
    }

    /// Asks every vertex that the targets need; false if one is not fit for a sweep.
    fn ask_all(&mut self, ask: Ask<'_>) -> bool {
        let graph = self.graph.clone();
        for &number in &self.needed.order {
            let vertex = &graph.vertices[number as usize];
            let fit = vertex.op.blocking() != Blocking::Always
                && vertex.options.as_ref().is_none_or(|o| !o.ignore_cache && o.cache_sources.is_empty());
            if !fit {
                return false;
            }
            let answer = ask(vertex);
            let usual = match &answer {
                Ok(MapStep::Last(map)) => map.inputs.len() <= vertex.inputs.len(),
                Ok(MapStep::More(_)) => vertex.inputs.is_empty(),
                Err(_) => false,
            };
            self.asked += 1;
            self.maps.put(number, answer);
            if !usual {
                return false;
            }
        }
        true
    }

    /// Looks every vertex up by definition; false if one is not found, so that the target above it
    /// cannot be, or if looking it up the usual way would change the cache.
    fn look_all_up(&mut self) -> bool {
        let cache = Arc::clone(&self.cache);
        let Some(storage) = cache.numbered_keys() else { return false };
        let mut whole = true;
        let numbered = storage.numbered(&mut |keys| {
            whole = self.look_up_in(keys);
        });
        numbered && whole
    }

    fn look_up_in(&mut self, keys: &mut dyn NumberedKeys) -> bool {
        let graph = self.graph.clone();
        self.found.first = vec![(0, 0); graph.len()];
        let mut lookup = Lookup::default();
        for number in &self.needed.order {
            let vertex = &graph.vertices[*number as usize];
            for output in self.needed.outputs(*number) {
                let of = Input { vertex: VertexRef(*number), output };
                if !lookup.find(keys, vertex, (*number, output), &self.maps, &self.found) {
                    return false;
                }
                self.found.put(of, &lookup.common);
            }
        }
        self.found.ids = self.found.numbers.iter().map(|number| keys.id(*number)).collect();
        self.found.numbers = Vec::new();
        true
    }

    /// Targets that could be the same work are for the ordinary build, which does it once.
    fn targets_differ(&self) -> bool {
        let mut owners: HashMap<KeyId, Input> = HashMap::with_capacity(self.targets.len());
        let of_target =
            |target: &Input| self.found.ids(*target).iter().map(|id| (*id, *target)).collect::<Vec<_>>();
        self.targets
            .iter()
            .flat_map(of_target)
            .all(|(id, target)| *owners.entry(id).or_insert(target) == target)
    }

    /// The keys found for an output.
    fn keys(self: &Arc<Self>, of: Input) -> Vec<CacheKey> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Option<Vec<CacheKey>> =
            made.get(&of).and_then(|keys| keys.iter().map(WeakKey::upgrade).collect());
        known.unwrap_or_else(|| {
            let keys: Vec<CacheKey> = self.found.ids(of).iter().map(|id| self.key(of, *id)).collect();
            made.insert(of, keys.iter().map(CacheKey::downgrade).collect());
            keys
        })
    }

    fn origin(&self, vertex: VertexRef) -> Origin {
        let vertex = &self.graph.vertices[vertex.0 as usize];
        let export = vertex.options.as_ref().and_then(|options| options.export);
        Origin { cache: Arc::clone(&self.cache), vertex: vertex.digest, export }
    }

    fn key(self: &Arc<Self>, of: Input, id: KeyId) -> CacheKey {
        let vertex = &self.graph.vertices[of.vertex.0 as usize];
        let origin = self.origin(of.vertex);
        let operation = (self.maps.digest(of.vertex.0), i64::from(of.output));
        CacheKey::swept(id, operation, (Arc::clone(self), of.vertex.0), vertex.inputs.len(), origin)
    }

    /// The names by which a vertex's inputs are known.
    pub(crate) fn names(self: &Arc<Self>, vertex: u32) -> Vec<(u32, CacheKeyWithSelector)> {
        let inputs = &self.graph.vertices[vertex as usize].inputs;
        let mut names = Vec::with_capacity(inputs.len());
        for (number, input) in (0u32..).zip(inputs) {
            let selector = self.maps.selector(vertex, number);
            let keys = self.keys(*input).into_iter();
            names.extend(keys.map(|key| (number, CacheKeyWithSelector::new(key, selector))));
        }
        names
    }
}

/// Room that lookups use again.
#[derive(Default)]
struct Lookup {
    /// Where all inputs so far lead to.
    common: Vec<u32>,
    reached: Vec<u32>,
    again: Vec<u32>,
}

impl Lookup {
    /// Looks up one output: a union over the keys of an input, an intersection over the inputs.
    fn find(
        &mut self,
        keys: &mut dyn NumberedKeys,
        vertex: &Vertex,
        (number, output): (u32, u32),
        maps: &Maps,
        found: &Found,
    ) -> bool {
        self.common.clear();
        let (digest, output) = (maps.digest(number), i64::from(output));
        if vertex.inputs.is_empty() {
            self.common.extend(keys.number(&KeyId::root(&digest, output, maps.scope(number))));
        }
        for (input, of) in (0u32..).zip(&vertex.inputs) {
            let link = CacheInfoLink { input, output, digest, selector: maps.selector(number, input) };
            if !self.reach(keys, found.numbers(*of), &link) {
                return false;
            }
            if input == 0 {
                self.common.extend_from_slice(&self.reached);
            } else {
                self.common.retain(|node| self.reached.contains(node));
            }
        }
        !self.common.is_empty()
    }

    /// Follows a link from every key of an input. All must lead to the same: else the ordinary
    /// lookup would let each lead to what the others do.
    fn reach(&mut self, keys: &mut dyn NumberedKeys, sources: &[u32], link: &CacheInfoLink) -> bool {
        self.reached.clear();
        let Some((first, more)) = sources.split_first() else { return false };
        keys.targets(*first, link, &mut self.reached);
        for source in more {
            self.again.clear();
            keys.targets(*source, link, &mut self.again);
            let same = self.again.len() == self.reached.len()
                && self.again.iter().all(|node| self.reached.contains(node));
            if !same {
                return false;
            }
        }
        true
    }
}

impl Swept {
    /// True if every target has its result.
    pub(crate) fn is_whole(&self) -> bool {
        self.results.iter().all(Option::is_some)
    }

    /// Loads target after target, until one cannot be had.
    fn load_all(&mut self) {
        let mut loaded = HashMap::with_capacity(self.results.len());
        for number in 0..self.sweep.targets.len() {
            let target = self.sweep.targets[number];
            let first = *loaded.entry(target).or_insert(number);
            self.results[number] =
                if first < number { self.results[first].clone() } else { self.load(number, target) };
            if self.results[number].is_none() {
                return;
            }
        }
    }

    fn load(&mut self, number: usize, target: Input) -> Option<CachedResult> {
        let cache = &self.sweep.cache;
        let mut records: Vec<CacheRecord> = Vec::new();
        for key in self.sweep.keys(target) {
            for record in cache.records(&key).ok()? {
                if records.iter().all(|known| known.id != record.id) {
                    records.push(record);
                }
            }
        }
        records.sort_by(CacheRecord::preference);
        for record in records {
            if !cache.loads_quickly(&record) {
                return None;
            }
            match cache.load(&record) {
                Ok(result) => {
                    let key = record.key.at(self.sweep.origin(target.vertex));
                    let keys = keys_of_result(Few::One(CacheRecord { key, ..record }), &[]);
                    return Some(CachedResult::new(result, keys));
                }
                Err(_) => self.tried.push((number, Arc::clone(&record.id))),
            }
        }
        None
    }
}
