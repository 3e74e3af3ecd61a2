//! Live vertices: what the graphs of all jobs are loaded into, and how it goes away.
//!
//! A vertex lives while something refers to it: a job that asked for it, a vertex it is an input
//! of, a vertex whose edge does its work here, a sub-build, or a call under way. A job therefore
//! refers only to what it asked for, and joining a large live graph costs nothing per vertex.

use std::collections::BTreeSet;
use std::sync::Arc;

use quern_core::Digest;

use crate::cache::{CacheManager, CombinedCache, Readiness};
use crate::error::{SolveError, VertexLabel};
use crate::few::Few;
use crate::graph::{Graph, Input, Vertex};
use crate::key::{ExportableCacheKey, Origin};
use crate::op::{Blocking, CacheMap};
use crate::progress::Finish;
use crate::result::SharedResult;
use crate::sweep::Swept;

use super::call::Progress;
use super::edge::{EdgeState, Level, Work};
use super::{Core, EdgeId, Effect, JobId, JobState, Owner, VertexId};

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
    pub(crate) inputs: Box<[EdgeId]>,
    pub(crate) first_edge: Option<EdgeId>,
    pub(crate) maps: Few<CacheMap>,
    pub(crate) maps_done: bool,
    pub(crate) map: Progress<()>,
    pub(crate) exec: Progress<Arc<[SharedResult]>>,
    /// True while a running exec takes up room.
    pub(crate) has_slot: bool,
    /// What most vertices do without.
    rare: Option<Box<Rare>>,
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
    pub(crate) finish: Option<Finish>,
}

impl Live {
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

    pub(crate) fn finish(&self) -> Option<&Finish> {
        self.rare.as_ref()?.finish.as_ref()
    }

    /// What keys of this vertex carry along.
    pub(crate) fn origin(&self) -> Origin {
        let export = self.def.options.as_ref().and_then(|o| o.export);
        Origin { cache: Arc::clone(&self.cache), vertex: self.def.digest, export }
    }

    pub(crate) fn label(&self) -> VertexLabel {
        self.def.label()
    }

    /// True if a cache of this vertex may still get answers from elsewhere.
    pub(crate) fn expects_answers(&self) -> bool {
        self.cache.readiness() == Readiness::Pending
    }
}

/// What one load needs besides the graph.
pub(super) struct Load<'a> {
    graph: &'a Graph,
    sources: Vec<Arc<dyn CacheManager>>,
    pub(super) watcher: Option<JobId>,
    /// Loaded vertices by their number in the graph, plus one; 0 is not loaded.
    loaded: Vec<u32>,
    /// Inputs of definitions that joined a live vertex made from others: they live with the owner
    /// although nothing uses them.
    unused: Vec<VertexId>,
}

impl Load<'_> {
    /// The live vertex of a number in the graph, once it is loaded.
    pub(super) fn vertex(&self, number: u32) -> Option<VertexId> {
        self.loaded[number as usize].checked_sub(1).map(VertexId::from_number)
    }
}

impl Core {
    /// Loads what the targets need, holds it for `owner`, and returns the target edges. What a
    /// sweep has found out is taken over.
    pub(crate) fn load(
        &mut self,
        owner: Owner,
        graph: &Graph,
        targets: &[Input],
        swept: Option<&Swept>,
    ) -> Result<Vec<EdgeId>, SolveError> {
        self.is_open(owner)?;
        let missing = targets.iter().find(|t| graph.vertex(t.vertex).is_none());
        if let Some(target) = missing {
            return Err(SolveError::NoSuchVertex(target.vertex.0));
        }
        self.wake();
        let load = self.loading(owner, graph);
        let edges = self.load_targets(load, owner, targets, swept);
        if let Owner::Vertex(vertex) = owner {
            if edges.iter().any(|edge| self.could_wait_for(self.find(*edge), vertex)) {
                return Err(SolveError::OwnSubBuild(self.vertices[vertex].label()));
            }
            for job in self.vertices[vertex].watchers().to_vec() {
                for edge in &edges {
                    self.watch(self.edges[*edge].vertex, job);
                }
            }
        }
        Ok(edges)
    }

    /// The start of a load.
    pub(super) fn loading<'a>(&self, owner: Owner, graph: &'a Graph) -> Load<'a> {
        let (sources, watcher) = match owner {
            Owner::Job(job) => (Vec::new(), self.jobs.get(&job).filter(|j| j.watched).map(|_| job)),
            Owner::Vertex(vertex) => (self.sources_of(vertex), None),
        };
        Load { graph, sources, watcher, loaded: vec![0; graph.len()], unused: Vec::new() }
    }

    pub(super) fn load_targets(
        &mut self,
        mut load: Load<'_>,
        owner: Owner,
        targets: &[Input],
        swept: Option<&Swept>,
    ) -> Vec<EdgeId> {
        if targets.len() > 1 {
            self.by_digest.reserve(load.graph.len());
            self.vertices.reserve(load.graph.len());
            self.edges.reserve(load.graph.len());
        }
        let graph = load.graph;
        for number in self.missing(&mut load, targets) {
            let vertex = self.join_or_add(&mut load, &graph.vertices[number as usize]);
            load.loaded[number as usize] = vertex.number() + 1;
        }
        let mut edges = Vec::with_capacity(targets.len());
        for target in targets {
            let vertex = load.vertex(target.vertex.0).expect("every target was loaded");
            self.hold(owner, vertex);
            edges.push(self.edge(vertex, target.output));
        }
        for vertex in std::mem::take(&mut load.unused) {
            self.hold(owner, vertex);
        }
        if let Some(swept) = swept {
            self.take_over(swept, &load, &edges);
        }
        edges
    }

    /// Refuses owners that cannot build any more.
    pub(crate) fn is_open(&self, owner: Owner) -> Result<(), SolveError> {
        let Owner::Job(job) = owner else { return Ok(()) };
        match self.jobs.get(&job) {
            None => Err(SolveError::Discarded),
            Some(job) if job.cancelled => Err(SolveError::Cancelled),
            Some(_) => Ok(()),
        }
    }

    /// What has to be loaded for the targets, inputs first, in the order of the graph: whatever is
    /// made of it later lies in that order.
    fn missing(&mut self, load: &mut Load<'_>, targets: &[Input]) -> Vec<u32> {
        const LISTED: u32 = u32::MAX;
        let mut missing = Vec::new();
        let mut open: Vec<u32> = targets.iter().map(|target| target.vertex.0).collect();
        while let Some(number) = open.pop() {
            let def = &load.graph.vertices[number as usize];
            if load.loaded[number as usize] == 0 && !self.is_loaded(load, number, def) {
                load.loaded[number as usize] = LISTED;
                missing.push(number);
                open.extend(def.inputs.iter().map(|input| input.vertex.0));
            }
        }
        if load.graph.is_in_order() {
            missing.sort_unstable();
            return missing;
        }
        load.graph.inputs_first().filter(|number| load.loaded[*number as usize] == LISTED).collect()
    }

    /// A short cut: this very definition is live, so everything below it is, too.
    fn is_loaded(&mut self, load: &mut Load<'_>, number: u32, def: &Arc<Vertex>) -> bool {
        if self.apart > 0 || !load.sources.is_empty() {
            return false;
        }
        let Some(&vertex) = self.by_digest.get(&def.digest) else { return false };
        if !Arc::ptr_eq(&self.vertices[vertex].def, def) {
            return false;
        }
        if let Some(job) = load.watcher {
            self.watch(vertex, job);
        }
        load.loaded[number as usize] = vertex.number() + 1;
        true
    }

    fn join_or_add(&mut self, load: &mut Load<'_>, def: &Arc<Vertex>) -> VertexId {
        let ignore = def.ignores_cache();
        let mut name = def.digest;
        if self.apart > 0
            && let Some(&vertex) = self.by_digest.get(&apart_name(&name))
        {
            return self.join(load, vertex, def);
        }
        if let Some(&vertex) = self.by_digest.get(&name) {
            if !ignore || self.vertices[vertex].ignores_cache() {
                return self.join(load, vertex, def);
            }
            name = apart_name(&name);
            self.apart += 1;
        }
        self.add(load, def, name)
    }

    /// A definition joins the live vertex of its digest, whatever that was made from.
    fn join(&mut self, load: &mut Load<'_>, vertex: VertexId, def: &Arc<Vertex>) -> VertexId {
        for (input, edge) in def.inputs.iter().zip(&self.vertices[vertex].inputs) {
            let loaded = VertexId::from_number(load.loaded[input.vertex.0 as usize] - 1);
            if self.edges[*edge].vertex != loaded {
                load.unused.push(loaded);
            }
        }
        let mut more = load.sources.clone();
        more.extend(def.options.iter().flat_map(|o| o.cache_sources.iter().cloned()));
        self.add_sources(vertex, more);
        if let Some(job) = load.watcher {
            self.watch(vertex, job);
        }
        vertex
    }

    fn add(&mut self, load: &mut Load<'_>, def: &Arc<Vertex>, name: Digest) -> VertexId {
        let mut inputs = Vec::with_capacity(def.inputs.len());
        let mut rank = 0;
        for input in &def.inputs {
            let below = VertexId::from_number(load.loaded[input.vertex.0 as usize] - 1);
            self.vertices[below].refs += 1;
            rank = rank.max(self.vertices[below].rank + 1);
            inputs.push(self.edge(below, input.output));
        }
        let sources = load.sources.iter().chain(def.options.iter().flat_map(|o| &o.cache_sources));
        let sources: Vec<_> = sources.cloned().collect();
        let cache = if sources.is_empty() { Arc::clone(&self.cache) } else { self.combine(&sources) };
        let vertex = self.vertices.insert(Live {
            def: Arc::clone(def),
            apart: name != def.digest,
            cache,
            rank,
            refs: 0,
            calls: 0,
            shadows: 0,
            unwanted: false,
            inputs: inputs.into(),
            first_edge: None,
            maps: Few::None,
            maps_done: false,
            map: Progress::Idle,
            exec: Progress::Idle,
            has_slot: false,
            rare: None,
        });
        self.by_digest.insert(name, vertex);
        if def.op.blocking() != Blocking::Always {
            self.fresh.push_back(vertex);
        }
        if let Some(job) = load.watcher {
            self.watch(vertex, job);
        }
        vertex
    }

    fn hold(&mut self, owner: Owner, vertex: VertexId) {
        match owner {
            Owner::Job(job) => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    self.vertices[vertex].refs += 1;
                    job.held.push(vertex);
                }
            }
            Owner::Vertex(parent) => {
                self.refer(parent, vertex);
                self.vertices[parent].rare().held.push(vertex);
            }
        }
    }

    /// One vertex refers to another from now on.
    pub(super) fn refer(&mut self, from: VertexId, to: VertexId) {
        self.vertices[to].refs += 1;
        self.vertices[to].shadows += u32::from(self.vertices[from].unwanted);
    }

    /// Gives back one reference; without any left the vertex goes, and so on downwards.
    pub(super) fn release(&mut self, vertex: VertexId) {
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
        if self.by_digest.get(&name) == Some(&vertex) {
            self.by_digest.remove(&name);
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

    pub(super) fn edges_of(&self, vertex: VertexId) -> Vec<EdgeId> {
        let first = self.vertices[vertex].first_edge;
        std::iter::successors(first, |edge| self.edges[*edge].next).collect()
    }

    fn sources_of(&self, vertex: VertexId) -> Vec<Arc<dyn CacheManager>> {
        self.vertices[vertex].cache().sources().to_vec()
    }

    fn combine(&mut self, sources: &[Arc<dyn CacheManager>]) -> Arc<CombinedCache> {
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
    fn add_sources(&mut self, vertex: VertexId, more: Vec<Arc<dyn CacheManager>>) {
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
        self.by_digest.get(digest).copied()
    }
}

/// The name of a vertex that ignores the cache while one of equal digest is live that does not.
fn apart_name(digest: &Digest) -> Digest {
    Digest::of(format!("{digest}-ignorecache").as_bytes())
}
