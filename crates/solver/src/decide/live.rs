//! Live vertices: what the graphs of all jobs are loaded into, and how it goes away.
//!
//! A vertex lives while something refers to it: a job that asked for it, a vertex it is an input
//! of, a vertex whose edge does its work here, a sub-build, or a call under way. A job therefore
//! refers only to what it asked for, and joining a large live graph costs nothing per vertex.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::OccupiedEntry;
use quern_core::Digest;

use crate::cache::{CacheManager, CombinedCache, Readiness};
use crate::digest_map::spread;
use crate::error::VertexLabel;
use crate::few::Few;
use crate::graph::Vertex;
use crate::key::{ExportableCacheKey, Origin};
use crate::op::CacheMap;
use crate::progress::Finish;
use crate::result::SharedResult;

use super::call::Progress;
use super::edge::{EdgeState, Level, Work};
use super::{Arena, Core, EdgeId, Effect, Ids, JobId, JobState, VertexId};

/// A live vertex.
pub(crate) struct Live {
    pub(crate) def: Arc<Vertex>,
    /// It ignores the cache while another of its digest is live that does not.
    apart: bool,
    cache: Arc<CombinedCache>,
    /// Greater than the rank of every input.
    pub(crate) rank: u32,
    refs: u32,
    /// How many of the references are calls under way.
    calls: u32,
    /// How many of the references are held by vertices that nobody wants any more.
    shadows: u32,
    /// Nothing but calls under way and vertices like it refer to it: new builds do not join it.
    unwanted: bool,
    pub(crate) inputs: Ids<EdgeState>,
    pub(crate) first_edge: Option<EdgeId>,
    pub(crate) maps: Few<CacheMap>,
    pub(crate) maps_done: bool,
    pub(crate) map: Progress<()>,
    pub(crate) exec: Progress<Few<SharedResult>>,
    /// True while a running exec takes up room.
    pub(crate) has_slot: bool,
    pub(crate) finish: Option<Rest>,
    /// What most vertices do without.
    rare: Option<Box<Rare>>,
}

/// How a vertex came to rest: a [`Finish`] whose message stands elsewhere in the vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    Ran,
    Cached,
    Shared,
    Skipped,
    NotNeeded,
    Failed,
    Cancelled,
}

impl From<&Finish> for Rest {
    fn from(finish: &Finish) -> Self {
        match finish {
            Finish::Ran => Self::Ran,
            Finish::Cached => Self::Cached,
            Finish::Shared => Self::Shared,
            Finish::Skipped => Self::Skipped,
            Finish::NotNeeded => Self::NotNeeded,
            Finish::Failed(_) => Self::Failed,
            Finish::Cancelled => Self::Cancelled,
        }
    }
}

#[derive(Default)]
pub(crate) struct Rare {
    /// Content digests of inputs, by input.
    pub(crate) content: Vec<(usize, Progress<Option<Digest>>)>,
    /// Vertices of sub-builds, and the keys of their results.
    pub(crate) held: Vec<VertexId>,
    pub(crate) sub_builds: Vec<ExportableCacheKey>,
    /// Jobs that want to hear of it.
    pub(crate) watchers: Vec<JobId>,
}

impl Live {
    /// A vertex that nothing refers to yet.
    pub(super) fn new(
        def: Arc<Vertex>,
        apart: bool,
        cache: Arc<CombinedCache>,
        rank: u32,
        inputs: Ids<EdgeState>,
    ) -> Self {
        Self {
            def,
            apart,
            cache,
            rank,
            refs: 0,
            calls: 0,
            shadows: 0,
            unwanted: false,
            inputs,
            first_edge: None,
            maps: Few::None,
            maps_done: false,
            map: Progress::Idle,
            exec: Progress::Idle,
            has_slot: false,
            finish: None,
            rare: None,
        }
    }

    pub(crate) fn cache(&self) -> &Arc<CombinedCache> {
        &self.cache
    }

    pub(crate) fn ignores_cache(&self) -> bool {
        self.def.ignores_cache()
    }

    /// Its name among live vertices.
    fn name(&self) -> Digest {
        if self.apart { apart_name(&self.def.digest) } else { self.def.digest }
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn content(&self) -> &[(usize, Progress<Option<Digest>>)] {
        self.rare.as_ref().map_or(&[], |rare| &rare.content)
    }

    pub(crate) fn held(&self) -> &[VertexId] {
        self.rare.as_ref().map_or(&[], |rare| &rare.held)
    }

    pub(crate) fn sub_builds(&self) -> &[ExportableCacheKey] {
        self.rare.as_ref().map_or(&[], |rare| &rare.sub_builds)
    }

    pub(crate) fn watchers(&self) -> &[JobId] {
        self.rare.as_ref().map_or(&[], |rare| &rare.watchers)
    }

    /// What keys of this vertex carry along.
    pub(crate) fn origin(&self) -> Origin {
        let export = self.def.options.as_ref().and_then(|o| o.export);
        Origin { cache: Arc::clone(&self.cache), vertex: self.def.digest, export }
    }

    /// How it came to rest, if it has.
    pub(crate) fn finish(&self) -> Option<Finish> {
        Some(match self.finish? {
            Rest::Ran => Finish::Ran,
            Rest::Cached => Finish::Cached,
            Rest::Shared => Finish::Shared,
            Rest::Skipped => Finish::Skipped,
            Rest::NotNeeded => Finish::NotNeeded,
            Rest::Cancelled => Finish::Cancelled,
            Rest::Failed => match &self.exec {
                Progress::Failed(failure) => Finish::Failed(failure.cause.to_string()),
                _ => return None,
            },
        })
    }

    pub(crate) fn label(&self) -> VertexLabel {
        self.def.label()
    }

    /// True if a cache of this vertex may still get answers from elsewhere.
    pub(crate) fn expects_answers(&self) -> bool {
        self.cache.readiness() == Readiness::Pending
    }
}

/// Finds live vertices by name. The names stand in the vertices.
#[derive(Default)]
pub(super) struct VertexNames(HashTable<VertexId>);

impl VertexNames {
    pub(super) fn get(&self, name: &Digest, vertices: &Arena<Live>) -> Option<VertexId> {
        self.0.find(spread(name), |vertex| vertices[*vertex].name() == *name).copied()
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize, vertices: &Arena<Live>) {
        self.0.reserve(more, |vertex| spread(&vertices[*vertex].name()));
    }

    /// Adds a vertex whose name no other has.
    pub(super) fn add(&mut self, vertex: VertexId, vertices: &Arena<Live>) {
        let name = |vertex: &VertexId| spread(&vertices[*vertex].name());
        self.0.insert_unique(name(&vertex), vertex, name);
    }

    /// False if the vertex could not be found by this name.
    fn forget(&mut self, name: &Digest, vertex: VertexId) -> bool {
        self.0.find_entry(spread(name), |other| *other == vertex).map(OccupiedEntry::remove).is_ok()
    }
}

impl Core {
    /// Something of the job or graph refers to a vertex from now on.
    pub(super) fn keep(&mut self, vertex: VertexId) {
        self.vertices[vertex].refs += 1;
    }

    /// One vertex refers to another from now on.
    pub(super) fn refer(&mut self, from: VertexId, to: VertexId) {
        self.vertices[to].refs += 1;
        self.vertices[to].shadows += u32::from(self.vertices[from].unwanted);
    }

    /// Gives back one reference; without any left the vertex goes, and so on downwards.
    pub(super) fn release(&mut self, vertex: VertexId) {
        let live = &mut self.vertices[vertex];
        if live.refs > 1 && (live.unwanted || live.calls + live.shadows + 1 < live.refs) {
            // The usual case: others want it, or nobody did already.
            live.refs -= 1;
            return;
        }
        let mut open = vec![vertex];
        while let Some(vertex) = open.pop() {
            let live = &mut self.vertices[vertex];
            live.refs -= 1;
            if live.refs > 0 {
                self.mark_unwanted(vertex);
                continue;
            }
            self.forget_name(vertex);
            let below = self.references(vertex);
            if self.vertices[vertex].unwanted {
                for next in &below {
                    self.vertices[*next].shadows -= 1;
                }
            }
            open.extend(below);
            let mut edge = self.vertices[vertex].first_edge;
            while let Some(at) = edge {
                edge = self.edges[at].next;
                self.remove_edge(at);
            }
            self.vertices.remove(vertex);
        }
    }

    /// What a vertex holds references to, once for each.
    fn references(&self, vertex: VertexId) -> Vec<VertexId> {
        let live = &self.vertices[vertex];
        let inputs = live.inputs.iter().map(|edge| self.edges[*edge].vertex);
        let edges = self.edges_of(vertex);
        let merged = edges.iter().filter_map(|edge| self.edges[*edge].merged_into());
        let merged = merged.map(|edge| self.edges[edge].vertex);
        inputs.chain(live.held().iter().copied()).chain(merged).collect()
    }

    /// A vertex kept only by its own calls, or by others kept so, is dead to new builds: they must
    /// not join an earlier definition that nobody has any more.
    fn mark_unwanted(&mut self, vertex: VertexId) {
        let mut open = vec![vertex];
        while let Some(vertex) = open.pop() {
            let live = &mut self.vertices[vertex];
            if live.unwanted || live.calls + live.shadows < live.refs {
                continue;
            }
            live.unwanted = true;
            self.forget_name(vertex);
            for next in self.references(vertex) {
                self.vertices[next].shadows += 1;
                open.push(next);
            }
        }
    }

    /// A call of the vertex begins; until it ends the vertex stays.
    pub(super) fn call_begins(&mut self, vertex: VertexId) {
        self.vertices[vertex].calls += 1;
        self.vertices[vertex].refs += 1;
    }

    /// A call of the vertex has ended. The vertex may be gone after this.
    pub(super) fn call_ends(&mut self, vertex: VertexId) {
        self.vertices[vertex].calls -= 1;
        self.release(vertex);
        if self.stranded {
            self.untangle();
        }
    }

    /// Vertices that do work of each other, or of what they were made from, keep each other alive;
    /// counting references does not see that nobody else does. So as long as anything is merged,
    /// what jobs and calls need is traced as well.
    pub(super) fn untangle(&mut self) {
        if !self.tangled {
            return;
        }
        let held = self.jobs.values().flat_map(|job| job.held.iter().copied()).collect();
        let wanted = self.reachable(held);
        let calling = self.vertices.iter().filter(|(_, live)| live.calls > 0).map(|(id, _)| id);
        let kept = self.reachable(calling.chain(wanted.iter().copied()).collect());
        for vertex in self.vertices.ids() {
            if !wanted.contains(&vertex) && self.vertices.contains(vertex) {
                self.forget_name(vertex);
            }
            if !kept.contains(&vertex) && self.vertices.contains(vertex) {
                self.cut_merges(vertex);
            }
        }
        self.stranded = kept.len() > wanted.len();
        self.tangled = self.edges.iter().any(|(_, edge)| edge.merged_into().is_some());
    }

    fn reachable(&self, mut open: Vec<VertexId>) -> BTreeSet<VertexId> {
        let mut seen: BTreeSet<VertexId> = open.iter().copied().collect();
        while let Some(vertex) = open.pop() {
            for next in self.references(vertex) {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen
    }

    fn cut_merges(&mut self, vertex: VertexId) {
        let unwanted = self.vertices[vertex].unwanted;
        let mut targets = Vec::new();
        for edge in self.edges_of(vertex) {
            if let Some(into) = self.edges[edge].merged_into() {
                self.edges[edge].work = Work::Idle;
                targets.push(self.edges[into].vertex);
            }
        }
        for target in targets {
            self.vertices[target].shadows -= u32::from(unwanted);
            self.release(target);
        }
    }

    fn forget_name(&mut self, vertex: VertexId) {
        let name = self.vertices[vertex].name();
        if self.names.forget(&name, vertex) {
            self.apart -= usize::from(self.vertices[vertex].apart);
        }
    }

    fn remove_edge(&mut self, edge: EdgeId) {
        for dep in 0..self.edges[edge].deps.len() {
            self.demand(edge, dep, Level::Nothing);
        }
        self.index.release(edge);
        self.edges.remove(edge);
    }

    /// The edge of an output, made if need be.
    pub(super) fn edge(&mut self, vertex: VertexId, output: u32) -> EdgeId {
        let mut at = self.vertices[vertex].first_edge;
        while let Some(edge) = at {
            if self.edges[edge].output == output {
                return edge;
            }
            at = self.edges[edge].next;
        }
        let next = self.vertices[vertex].first_edge;
        let edge = self.edges.insert(EdgeState::new(vertex, output, next));
        self.vertices[vertex].first_edge = Some(edge);
        edge
    }

    pub(super) fn edges_of(&self, vertex: VertexId) -> Few<EdgeId> {
        let first = self.vertices[vertex].first_edge;
        std::iter::successors(first, |edge| self.edges[*edge].next).collect()
    }

    pub(super) fn sources_of(&self, vertex: VertexId) -> Vec<Arc<dyn CacheManager>> {
        self.vertices[vertex].cache().sources().to_vec()
    }

    pub(super) fn combine(&mut self, sources: &[Arc<dyn CacheManager>]) -> Arc<CombinedCache> {
        let combined = self.cache.with(sources);
        if combined.sources().is_empty() {
            return Arc::clone(&self.cache);
        }
        if let Some(known) = self.combined.get(combined.id()) {
            return Arc::clone(known);
        }
        let id = combined.id().to_owned();
        let cache = Arc::new(combined);
        self.combined.insert(id, Arc::clone(&cache));
        if cache.readiness() == Readiness::Pending {
            self.effects.push(Effect::Prepare { cache: cache.clone() });
        }
        cache
    }

    /// A joining definition may bring more caches: edges without a result ask them, too.
    pub(super) fn add_sources(&mut self, vertex: VertexId, more: Vec<Arc<dyn CacheManager>>) {
        if more.is_empty() {
            return;
        }
        let mut sources = self.sources_of(vertex);
        sources.extend(more);
        let cache = self.combine(&sources);
        if cache.id() == self.vertices[vertex].cache().id() {
            return;
        }
        self.vertices[vertex].cache = cache;
        self.look_up_again(vertex);
    }

    /// Lets the edges of a vertex repeat all lookups.
    fn look_up_again(&mut self, vertex: VertexId) {
        for edge in self.edges_of(vertex) {
            let state = &mut self.edges[edge];
            if state.outcome().is_none() && state.merged_into().is_none() {
                state.maps_seen = 0;
                state.keys_asked = 0;
                state.deps.iter_mut().for_each(|dep| dep.seen = 0);
                self.queue(edge);
            }
        }
    }

    pub(super) fn ask_sources_again(&mut self) {
        for vertex in self.vertices.ids() {
            if !self.vertices[vertex].cache.sources().is_empty() {
                self.look_up_again(vertex);
            }
        }
        self.combined.retain(|_, cache| Arc::strong_count(cache) > 1);
    }

    /// Everything a job needs, and everything that does work for it.
    fn below(&self, start: VertexId) -> BTreeSet<VertexId> {
        let mut seen = BTreeSet::from([start]);
        let mut open = vec![start];
        while let Some(vertex) = open.pop() {
            for next in self.next_below(vertex) {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen
    }

    /// What a vertex refers to.
    pub(super) fn next_below(&self, vertex: VertexId) -> Vec<VertexId> {
        let live = &self.vertices[vertex];
        let inputs = live.inputs.iter().map(|edge| self.edges[*edge].vertex);
        let merged = self.edges_of(vertex).into_iter().map(|edge| self.edges[self.find(edge)].vertex);
        inputs.chain(merged).chain(live.held().iter().copied()).filter(|v| *v != vertex).collect()
    }

    /// The jobs that need a vertex, directly or through others.
    pub(crate) fn holders(&self, vertex: VertexId) -> Vec<JobId> {
        let needs = |job: &JobState| job.held.iter().any(|v| self.below(*v).contains(&vertex));
        self.jobs.iter().filter(|(_, job)| needs(job)).map(|(id, _)| *id).collect()
    }

    /// The live vertex of a digest, if any.
    pub(crate) fn live(&self, digest: &Digest) -> Option<VertexId> {
        self.names.get(digest, &self.vertices)
    }
}

/// The name of a vertex that ignores the cache while one of equal digest is live that does not.
pub(super) fn apart_name(digest: &Digest) -> Digest {
    Digest::of(format!("{digest}-ignorecache").as_bytes())
}
