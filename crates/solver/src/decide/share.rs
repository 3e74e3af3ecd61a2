//! Pass 2: edges that are about to do the same work become one.
//!
//! Sharing is decided when work is about to begin, on everything known of the inputs by then. The
//! one rule that keeps it free of deadlock: an edge never hands its work to an edge that could
//! have to wait for it.

use std::collections::BTreeSet;

use crate::cache::CacheInfoLink;
use crate::few::Few;
use crate::key::{CacheKeyWithSelector, KeyId};
use crate::progress::{Change, Finish};

use super::edge::{Dep, Subscriber, Work};
use super::index::{Name, WorkKey};
use super::{Core, EdgeId, VertexId};

impl Core {
    /// Joins an edge with one that does the same, or lets it start.
    pub(super) fn share(&mut self, edge: EdgeId) {
        let Some(state) = self.edges.get_mut(edge) else { return };
        state.sharing = false;
        if self.is_ready(edge) && self.join_equal_work(edge) {
            return;
        }
        let state = &mut self.edges[edge];
        if !std::mem::replace(&mut state.starting, true) {
            let vertex = state.vertex;
            self.starts.push(self.vertices[vertex].rank, vertex, edge);
        }
    }

    /// True if the edge's work is done elsewhere from now on.
    fn join_equal_work(&mut self, edge: EdgeId) -> bool {
        let key = self.work_key(edge);
        let ignores = |core: &Self, e: EdgeId| core.vertices[core.edges[e].vertex].ignores_cache();
        let mut replaced = None;
        for other in self.index.find(&key) {
            if other == edge || matches!(self.edges[other].work, Work::Failed(_)) {
                continue;
            }
            if ignores(self, edge) && !ignores(self, other) {
                replaced = Some(other);
            } else if self.should_swap(edge, other) && self.merge(other, edge) {
                break;
            } else if self.merge(edge, other) {
                self.index.extend(other, &key);
                return true;
            }
        }
        self.index.enter(&key, edge, replaced);
        false
    }

    /// Lets others find an edge that gets its result without having begun anything.
    pub(super) fn stand_for_equal_work(&mut self, edge: EdgeId) {
        let inputs = &self.vertices[self.edges[edge].vertex].inputs;
        self.edges[edge].deps = inputs.iter().map(|input| Dep::on(*input)).collect();
        let key = self.work_key(edge);
        self.index.enter(&key, edge, None);
    }

    fn work_key(&self, edge: EdgeId) -> WorkKey {
        let state = &self.edges[edge];
        let live = &self.vertices[state.vertex];
        let output = i64::from(state.output);
        if live.inputs.is_empty() {
            let mut roots = Few::None;
            for map in live.maps.iter() {
                roots.push(Name::root(&KeyId::root(&map.digest, output, map.scope)));
            }
            return WorkKey::Roots(roots);
        }
        let digest = live.maps[0].digest;
        let mut names = Vec::with_capacity(state.deps.len());
        self.each_name(edge, |input, key, _, selector| {
            let link = CacheInfoLink { input, output, digest, selector };
            names.push((input, Name::input(&key.id(), &link)));
        });
        WorkKey::Inputs(names)
    }

    /// If another output of the other vertex is done by this one already, the whole vertex is:
    /// else each of two equal vertices would run for one output of the other.
    fn should_swap(&self, edge: EdgeId, other: EdgeId) -> bool {
        let vertex = self.edges[edge].vertex;
        let done_here = |e: &EdgeId| self.edges[self.find(*e)].vertex == vertex;
        let other_vertex = &self.vertices[self.edges[other].vertex];
        matches!(self.edges[other].work, Work::Idle)
            && !other_vertex.exec.is_under_way()
            && self.edges_of(self.edges[other].vertex).iter().any(done_here)
            && (!self.vertices[self.edges[other].vertex].ignores_cache()
                || self.vertices[vertex].ignores_cache())
    }

    /// Lets `into` do the work of `from`; false if `into` could have to wait for `from`.
    fn merge(&mut self, from: EdgeId, into: EdgeId) -> bool {
        if self.could_wait_for(into, self.edges[from].vertex) {
            return false;
        }
        let learned = self.names(from);
        self.let_go(from);
        let (vertex, target) = (self.edges[from].vertex, self.edges[into].vertex);
        self.refer(vertex, target);
        self.tangled = true;
        for subscriber in std::mem::take(&mut self.edges[from].subscribers) {
            self.move_subscriber(subscriber, into);
        }
        self.edges[from].work = Work::Merged(into);
        self.index.hand_over(from, into);
        self.learn(into, &learned);
        for job in self.vertices[vertex].watchers().to_vec() {
            self.watch(target, job);
        }
        self.report(vertex, Change::Finished(Finish::Shared));
        self.queue(into);
        if self.edges[into].outcome().is_some() {
            self.notify(into);
        }
        true
    }

    fn move_subscriber(&mut self, subscriber: Subscriber, into: EdgeId) {
        let level = match subscriber {
            Subscriber::Edge { edge, dep } => self.edges[edge].deps[dep as usize].demand,
            Subscriber::Build(_) => super::Level::Complete,
        };
        let place = self.edges[into].subscribe(subscriber, level);
        match subscriber {
            Subscriber::Edge { edge, dep } => {
                let entry = &mut self.edges[edge].deps[dep as usize];
                entry.follow(into);
                entry.place = place;
                self.queue(edge);
            }
            Subscriber::Build(build) => {
                if let Some(build) = self.builds.get_mut(&build) {
                    build.edge = into;
                }
            }
        }
    }

    /// Keeps other names of the inputs for exports of the result.
    fn learn(&mut self, edge: EdgeId, names: &[(u32, CacheKeyWithSelector)]) {
        let state = &mut self.edges[edge];
        if let Work::Done(result) = &mut state.work {
            *result = result.with_learned(names);
        }
        state.rare().learned.extend_from_slice(names);
    }

    /// True if an edge without a result could ever have to wait for a vertex.
    pub(super) fn could_wait_for(&self, edge: EdgeId, vertex: VertexId) -> bool {
        let mut seen = BTreeSet::from([edge]);
        let mut open = vec![edge];
        while let Some(at) = open.pop() {
            if self.edges[at].outcome().is_some() {
                continue;
            }
            let live = &self.vertices[self.edges[at].vertex];
            if self.edges[at].vertex == vertex {
                return true;
            }
            let sub_builds = live.held().iter().flat_map(|held| self.edges_of(*held));
            for next in live.inputs.iter().copied().chain(sub_builds) {
                let next = self.find(next);
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    }
}
