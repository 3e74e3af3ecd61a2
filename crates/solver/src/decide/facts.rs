//! The inputs of an edge as the rules see them.

use quern_core::Digest;

use crate::op::{CacheMap, CacheMapInput};

use super::edge::{Content, Dep, Level};
use super::{Core, EdgeId};

/// What the cache map says of an input, if anything.
fn about(map: Option<&CacheMap>, input: usize) -> Option<&CacheMapInput> {
    map?.inputs.get(input)
}

pub(super) fn selector(map: &CacheMap, input: usize) -> Option<Digest> {
    map.inputs.get(input)?.selector
}

pub(super) fn has_content_fn(map: Option<&CacheMap>, input: usize) -> bool {
    about(map, input).is_some_and(|i| i.content.is_some())
}

/// True if something must be done with the input's result before exec.
pub(super) fn has_slow_step(map: Option<&CacheMap>, input: usize) -> bool {
    about(map, input).is_some_and(|i| i.content.is_some() || i.preprocess.is_some())
}

/// One input of an edge as the rules see it.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    pub(super) level: Level,
    pub(super) matched: bool,
    /// The input has a content digest function.
    pub(super) has_content: bool,
    /// The input has such a function or a preprocess step.
    pub(super) has_slow: bool,
    pub(super) content_known: bool,
    pub(super) content_key: bool,
    pub(super) content_matched: bool,
}

impl Facts {
    /// The content key could be had next, but is not known.
    pub(super) fn content_due(&self) -> bool {
        self.has_content && self.slow_possible()
    }

    /// A slow step could be done next, but is not done.
    pub(super) fn slow_due(&self) -> bool {
        self.has_slow && self.slow_possible()
    }

    fn slow_possible(&self) -> bool {
        self.level == Level::Compared || (self.level == Level::Complete && !self.content_known)
    }

    /// Nothing can match for this input any more.
    pub(super) fn is_hopeless(&self) -> bool {
        !self.matched
            && if self.has_content {
                self.content_known && !self.content_matched
            } else {
                self.level >= Level::Compared
            }
    }

    /// By which name the input is known well enough to go on.
    pub(super) fn is_known(&self) -> bool {
        self.matched || self.content_key || self.level == Level::Complete
    }

    pub(super) fn is_complete(&self) -> bool {
        self.level == Level::Complete && !self.slow_due()
    }

    pub(super) fn content_missing(&self) -> bool {
        self.has_content && !self.content_known
    }
}

impl Core {
    pub(super) fn gather(&self, edge: EdgeId, facts: &mut Vec<Facts>) {
        facts.extend(self.facts_of(edge));
    }

    /// The inputs of an edge as the rules see them.
    fn facts_of(&self, edge: EdgeId) -> impl Iterator<Item = Facts> {
        let state = &self.edges[edge];
        let map = self.vertices[state.vertex].maps.first();
        let of_input = move |(i, dep): (usize, &Dep)| Facts {
            level: self.edges[self.find(dep.edge)].level(),
            matched: !dep.matched.is_empty(),
            has_content: has_content_fn(map, i),
            has_slow: has_slow_step(map, i),
            content_known: dep.content_known(),
            content_key: dep.content_key().is_some(),
            content_matched: matches!(dep.content, Content::Known { matched: true, .. }),
        };
        state.deps.iter().enumerate().map(of_input)
    }

    /// True if nothing but the edge's own result is missing.
    pub(super) fn inputs_complete(&mut self, edge: EdgeId) -> bool {
        let state = &self.edges[edge];
        if state.inputs_complete {
            return true;
        }
        let maps_done = self.vertices[state.vertex].maps_done;
        let complete = maps_done && self.facts_of(edge).all(|facts| facts.is_complete());
        self.edges[edge].inputs_complete = complete;
        complete
    }
}
