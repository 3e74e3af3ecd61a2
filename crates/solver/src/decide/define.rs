//! Right after a load: what is known by definition, in one sweep from the inputs up.
//!
//! This is a short cut through `look.rs`, by the same rules: nobody has to demand anything, so there
//! are no subscriptions, no messages and no second visit. An edge for which it does not work (its
//! cache map may block, or one of its inputs is not known yet) is left for the ordinary way.

use std::sync::Arc;

use super::call::Progress;
use super::edge::{Dep, Level};
use super::live::Live;
use super::{Core, EdgeId, Effect, VertexId};

impl Core {
    /// Asks for the next cache maps, at most `limit`, of vertices just loaded that can be had at
    /// once. The answers must be given in the order of the effects, before the next ones are asked
    /// for.
    pub(crate) fn survey(&mut self, limit: usize) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(limit.min(self.fresh.len()));
        while effects.len() < limit
            && let Some(vertex) = self.fresh.pop_front()
        {
            let due = |live: &Live| live.maps.is_empty() && matches!(live.map, Progress::Idle);
            if self.vertices.get_mut(vertex).is_some_and(|live| due(live)) {
                self.call_begins(vertex);
                let live = &mut self.vertices[vertex];
                live.map = Progress::Running;
                effects.push(Effect::CallMap { vertex, def: Arc::clone(&live.def), index: 0 });
            }
        }
        effects
    }

    /// Looks up the edges of a vertex whose first cache map has just come, if nobody has begun
    /// with them yet.
    pub(super) fn define(&mut self, vertex: VertexId) {
        let mut edge = self.vertices[vertex].first_edge;
        while let Some(at) = edge {
            edge = self.edges[at].next;
            let state = &self.edges[at];
            let untouched = state.subscribers.is_empty() && state.looked_up == Level::Nothing;
            if untouched && !self.vertices[vertex].expects_answers() && self.inputs_defined(vertex) {
                self.define_edge(at);
            }
        }
    }

    fn inputs_defined(&self, vertex: VertexId) -> bool {
        let level = |edge: &EdgeId| self.edges[self.find(*edge)].level();
        self.vertices[vertex].inputs.iter().all(|edge| level(edge) >= Level::Defined)
    }

    fn define_edge(&mut self, edge: EdgeId) {
        let mut deps = std::mem::take(&mut self.deps);
        deps.extend(self.vertices[self.edges[edge].vertex].inputs.iter().map(|input| Dep::on(*input)));
        self.edges[edge].deps = deps;
        let mut facts = std::mem::take(&mut self.facts);
        facts.clear();
        if self.take_in(edge).is_ok() {
            self.gather(edge, &mut facts);
            // An error here is met again, and reported, by whoever demands the edge.
            let _ = self.conclude(edge, &facts);
        }
        self.facts = facts;
        self.deps = std::mem::take(&mut self.edges[edge].deps);
        self.deps.clear();
    }
}
