//! Asking for cache maps.

use std::sync::Arc;

use crate::error::VertexError;
use crate::op::MapStep;

use super::call::Progress;
use super::edge::Level;
use super::live::Live;
use super::{Call, Core, EdgeId, Effect, VertexId};

impl Core {
    pub(super) fn want_map(&mut self, edge: EdgeId) {
        if std::mem::replace(&mut self.edges[edge].awaits_map, true) {
            return;
        }
        let vertex = self.edges[edge].vertex;
        if matches!(self.vertices[vertex].map, Progress::Idle) {
            self.call_map(vertex);
        }
    }

    fn call_map(&mut self, vertex: VertexId) {
        self.call_begins(vertex);
        let live = &mut self.vertices[vertex];
        live.map = Progress::Running;
        let (def, index) = (Arc::clone(&live.def), live.maps.len());
        self.effects.push(Effect::CallMap { vertex, def, index });
    }

    pub(super) fn cancel_map(&mut self, vertex: VertexId) {
        let wanted = self.edges_of(vertex).iter().any(|edge| self.edges[*edge].awaits_map);
        if !wanted && matches!(self.vertices[vertex].map, Progress::Running) {
            self.vertices[vertex].map = Progress::Cancelling;
            self.effects.push(Effect::Cancel(Call::Map(vertex)));
        }
    }

    pub(super) fn map_done(&mut self, vertex: VertexId, index: usize, result: Result<MapStep, VertexError>) {
        let live = &mut self.vertices[vertex];
        debug_assert_eq!(index, live.maps.len(), "maps are asked one by one");
        let cancelled = matches!(live.map, Progress::Cancelling);
        live.map = Progress::Idle;
        match result {
            Err(error) if cancelled && error.is_cancelled() => self.tell_of_map(vertex),
            result => self.take_map(vertex, result),
        }
        self.call_ends(vertex);
    }

    /// Takes in the next cache map of a vertex, and looks up what follows from it.
    pub(super) fn take_map(&mut self, vertex: VertexId, answer: Result<MapStep, VertexError>) {
        if let Err(error) = answer.and_then(|step| self.vertices[vertex].accept_map(step)) {
            self.vertices[vertex].map = Progress::Failed(self.failure(vertex, error));
        }
        self.define(vertex);
        self.tell_of_map(vertex);
    }

    /// Lets those look again that wait for a cache map.
    fn tell_of_map(&mut self, vertex: VertexId) {
        let mut edge = self.vertices[vertex].first_edge;
        while let Some(at) = edge {
            let state = &mut self.edges[at];
            edge = state.next;
            state.awaits_map = false;
            if state.wanted() > Level::Nothing {
                self.queue(at);
            }
        }
    }
}

impl Live {
    fn accept_map(&mut self, step: MapStep) -> Result<(), VertexError> {
        let (map, last) = match step {
            MapStep::Last(map) => (map, true),
            MapStep::More(map) => (map, false),
        };
        if map.inputs.len() > self.inputs.len() {
            let (described, inputs) = (map.inputs.len(), self.inputs.len());
            return Err(VertexError::CacheMapInputs { described, inputs });
        }
        if !last && !self.inputs.is_empty() {
            return Err(VertexError::SeveralCacheMaps);
        }
        self.maps.push(map);
        self.maps_done = last;
        Ok(())
    }
}
