//! The state of one edge.

use std::sync::Arc;

use crate::cache::CacheRecord;
use crate::error::{VertexError, VertexLabel};
use crate::few::Few;
use crate::key::{CacheKey, CacheKeyWithSelector, KeyId};
use crate::result::{CachedResult, SharedResult};

use super::{BuildId, EdgeId, VertexId};

/// How far an edge is, and how far somebody wants it to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing is known; as a demand: nobody wants anything.
    Nothing,
    /// Everything is known that follows from definitions alone.
    Defined,
    /// Everything is known that follows from definitions and contents of inputs.
    Compared,
    /// The result is there, or never will be.
    Complete,
}

/// Why an edge has no result: shared by all edges that fail with it.
pub(crate) struct Failure {
    pub(crate) vertex: VertexLabel,
    pub(crate) cause: Arc<VertexError>,
}

/// What an edge is doing about its result.
pub(crate) enum Work {
    /// Nothing yet.
    Idle,
    /// Waiting for a cache. If nobody wants it any more, the answer is still waited for.
    Loading { record: Box<CacheRecord>, cancelled: bool },
    /// Waiting for the exec of its vertex.
    Executing,
    /// The result is there, its keys are being stored. Not cancelled any more.
    Saving { result: SharedResult },
    /// The result.
    Done(CachedResult),
    /// There will be no result.
    Failed(Arc<Failure>),
    /// Another edge does the work.
    Merged(EdgeId),
}

/// One input of an edge.
pub(crate) struct Dep {
    /// The edge that does the work of the input, as far as known.
    pub(crate) edge: EdgeId,
    /// Where this edge stands among the input's subscribers, while `demand` is not `Nothing`.
    pub(crate) place: u32,
    pub(crate) demand: Level,
    /// How many of the input's keys were looked up.
    pub(crate) seen: u32,
    /// Nodes that this edge could be, as far as this input tells.
    pub(crate) matched: Vec<KeyId>,
    pub(crate) content: Content,
}

/// What is known of an input's content.
pub(crate) enum Content {
    Unknown,
    Computing,
    Known {
        /// None if the function gave no digest, or there is only a preprocess step.
        key: Option<CacheKey>,
        /// True if a cache knows the content in this place.
        matched: bool,
    },
}

impl Dep {
    pub(crate) fn on(edge: EdgeId) -> Self {
        Self {
            edge,
            place: 0,
            demand: Level::Nothing,
            seen: 0,
            matched: Vec::new(),
            content: Content::Unknown,
        }
    }

    /// Follows the input to the edge that does its work; its keys must be looked up anew then.
    pub(crate) fn follow(&mut self, edge: EdgeId) {
        if self.edge != edge {
            self.edge = edge;
            self.seen = 0;
        }
    }

    pub(crate) fn content_key(&self) -> Option<&CacheKey> {
        match &self.content {
            Content::Known { key, .. } => key.as_ref(),
            Content::Unknown | Content::Computing => None,
        }
    }

    pub(crate) fn content_known(&self) -> bool {
        matches!(self.content, Content::Known { .. })
    }
}

/// Who wants an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subscriber {
    Edge { edge: EdgeId, dep: u32 },
    Build(BuildId),
}

#[derive(Default)]
pub(crate) struct Rare {
    /// What could be loaded, and the ids of what was tried.
    pub(crate) records: Vec<CacheRecord>,
    pub(crate) tried: Vec<Arc<str>>,
    /// Names of inputs, learned from edges merged into this one.
    pub(crate) learned: Vec<(u32, CacheKeyWithSelector)>,
}

pub(crate) struct EdgeState {
    pub(crate) vertex: VertexId,
    pub(crate) output: u32,
    /// The vertex's next edge.
    pub(crate) next: Option<EdgeId>,
    pub(crate) work: Work,
    /// How far the lookups are: at most `Compared`.
    pub(crate) looked_up: Level,
    /// How many of the vertex's cache maps were looked up.
    pub(crate) maps_seen: u32,
    /// Keys under which a cache knows this edge; only ever grows.
    pub(crate) keys: Few<CacheKey>,
    /// Made at the first demand.
    pub(crate) deps: Vec<Dep>,
    /// No lookup can succeed any more: everything is needed.
    pub(crate) hopeless: bool,
    /// How many of the keys were asked for records.
    pub(crate) keys_asked: u32,
    /// What most edges do without.
    rare: Option<Box<Rare>>,
    pub(crate) subscribers: Few<Subscriber>,
    /// How many subscribers want each level.
    demands: [u32; 3],
    pub(crate) awaits_map: bool,
    pub(crate) queued: bool,
    pub(crate) sharing: bool,
    pub(crate) starting: bool,
    /// Nothing is missing of the inputs, once that was asked and found. It stays so.
    pub(crate) inputs_complete: bool,
}

impl EdgeState {
    pub(crate) fn new(vertex: VertexId, output: u32, next: Option<EdgeId>) -> Self {
        Self {
            vertex,
            output,
            next,
            work: Work::Idle,
            looked_up: Level::Nothing,
            maps_seen: 0,
            keys: Few::None,
            deps: Vec::new(),
            hopeless: false,
            keys_asked: 0,
            rare: None,
            subscribers: Few::None,
            demands: [0; 3],
            awaits_map: false,
            queued: false,
            sharing: false,
            starting: false,
            inputs_complete: false,
        }
    }

    pub(crate) fn level(&self) -> Level {
        if self.outcome().is_some() { Level::Complete } else { self.looked_up }
    }

    pub(crate) fn outcome(&self) -> Option<Result<&CachedResult, &Arc<Failure>>> {
        match &self.work {
            Work::Done(result) => Some(Ok(result)),
            Work::Failed(failure) => Some(Err(failure)),
            _ => None,
        }
    }

    pub(crate) fn result(&self) -> Option<&CachedResult> {
        if let Work::Done(result) = &self.work { Some(result) } else { None }
    }

    pub(crate) fn merged_into(&self) -> Option<EdgeId> {
        if let Work::Merged(into) = &self.work { Some(*into) } else { None }
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// What could be loaded.
    pub(crate) fn records(&self) -> &[CacheRecord] {
        self.rare.as_ref().map_or(&[], |rare| &rare.records)
    }

    /// Forgets what could be loaded.
    pub(crate) fn forget_records(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.records = Vec::new();
        }
    }

    /// How many records could not be loaded.
    pub(crate) fn tried(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.tried.len())
    }

    pub(crate) fn learned(&self) -> &[(u32, CacheKeyWithSelector)] {
        self.rare.as_ref().map_or(&[], |rare| &rare.learned)
    }

    /// Takes in records that could be loaded; one result counts once, wherever it is.
    pub(crate) fn offer(&mut self, records: Vec<CacheRecord>) {
        for record in records {
            let rare = self.rare();
            let known = rare.tried.contains(&record.id) || rare.records.iter().any(|r| r.id == record.id);
            if !known {
                rare.records.push(record);
            }
        }
    }

    /// The highest level anybody wants.
    pub(crate) fn wanted(&self) -> Level {
        match self.demands {
            [0, 0, 0] => Level::Nothing,
            [_, 0, 0] => Level::Defined,
            [_, _, 0] => Level::Compared,
            _ => Level::Complete,
        }
    }

    pub(crate) fn wants(&mut self, level: Level, change: i32) {
        if level != Level::Nothing {
            let count = &mut self.demands[level as usize - 1];
            *count = count.checked_add_signed(change).expect("demands are withdrawn once");
        }
    }

    /// Nobody has to wait for this edge any more.
    pub(crate) fn forget_demands(&mut self) {
        self.demands = [0; 3];
    }

    /// Adds a subscriber; returns its place.
    pub(crate) fn subscribe(&mut self, subscriber: Subscriber, level: Level) -> u32 {
        self.wants(level, 1);
        self.subscribers.push(subscriber);
        u32::try_from(self.subscribers.len() - 1).expect("few subscribers")
    }
}
