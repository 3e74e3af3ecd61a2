//! Loading a graph: its vertices join live ones of equal digest or become live themselves.

use std::sync::Arc;

use crate::cache::CacheManager;
use crate::error::SolveError;
use crate::graph::{Graph, Input, Vertex};
use crate::op::Blocking;
use crate::sweep::Swept;

use super::live::{Live, apart_name};
use super::{Core, EdgeId, JobId, Owner, VertexId};

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
    /// Reused by every vertex.
    inputs: Vec<EdgeId>,
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
        let (loaded, unused, inputs) = (vec![0; graph.len()], Vec::new(), Vec::new());
        Load { graph, sources, watcher, loaded, unused, inputs }
    }

    pub(super) fn load_targets(
        &mut self,
        mut load: Load<'_>,
        owner: Owner,
        targets: &[Input],
        swept: Option<&Swept>,
    ) -> Vec<EdgeId> {
        let graph = load.graph;
        let missing = self.missing(&mut load, targets);
        self.vertices.reserve(missing.len());
        self.edges.reserve(missing.len());
        self.names.reserve(missing.len(), &self.vertices);
        self.index.reserve(missing.len());
        let inputs = missing.iter().map(|number| graph.vertices[*number as usize].inputs.len()).sum();
        self.cache.reserve(missing.len(), inputs);
        for number in missing {
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
        let Some(vertex) = self.live(&def.digest) else { return false };
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
        let mut apart = false;
        if self.apart > 0
            && let Some(vertex) = self.live(&apart_name(&def.digest))
        {
            return self.join(load, vertex, def);
        }
        if let Some(vertex) = self.live(&def.digest) {
            if !ignore || self.vertices[vertex].ignores_cache() {
                return self.join(load, vertex, def);
            }
            apart = true;
            self.apart += 1;
        }
        self.add(load, def, apart)
    }

    /// A definition joins the live vertex of its digest, whatever that was made from.
    fn join(&mut self, load: &mut Load<'_>, vertex: VertexId, def: &Arc<Vertex>) -> VertexId {
        for (input, edge) in def.inputs.iter().zip(self.vertices[vertex].inputs.iter()) {
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

    fn add(&mut self, load: &mut Load<'_>, def: &Arc<Vertex>, apart: bool) -> VertexId {
        load.inputs.clear();
        let mut rank = 0;
        for input in &def.inputs {
            let below = VertexId::from_number(load.loaded[input.vertex.0 as usize] - 1);
            self.keep(below);
            rank = rank.max(self.vertices[below].rank + 1);
            load.inputs.push(self.edge(below, input.output));
        }
        let sources = load.sources.iter().chain(def.options.iter().flat_map(|o| &o.cache_sources));
        let sources: Vec<_> = sources.cloned().collect();
        let cache = if sources.is_empty() { Arc::clone(&self.cache) } else { self.combine(&sources) };
        let live = Live::new(Arc::clone(def), apart, cache, rank, (&load.inputs[..]).into());
        let vertex = self.vertices.insert(live);
        self.names.add(vertex, &self.vertices);
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
                    job.held.push(vertex);
                    self.keep(vertex);
                }
            }
            Owner::Vertex(parent) => {
                self.refer(parent, vertex);
                self.vertices[parent].rare().held.push(vertex);
            }
        }
    }
}
