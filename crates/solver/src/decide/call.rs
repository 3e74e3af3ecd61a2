//! Calls of ops: each happens once per live vertex, however many edges wait for it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{EdgeId, Failure, VertexId};

/// Names a call that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Map(VertexId),
    Content(VertexId, usize),
    Exec(VertexId),
    Load(EdgeId),
}

/// Where a call stands. Successes and failures last as long as the vertex; a cancelled call is
/// forgotten when it has ended, and made again if somebody wants it by then.
pub(crate) enum Progress<T> {
    Idle,
    /// Ready to run but for room.
    Waiting,
    Running,
    Cancelling,
    Done(T),
    Failed(Arc<Failure>),
}

impl<T> Progress<T> {
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self, Self::Waiting | Self::Running | Self::Cancelling)
    }
}

/// Room for execs, by weight.
pub(crate) struct Slots {
    capacity: u64,
    used: u64,
    pub(crate) waiting: VecDeque<VertexId>,
}

impl Slots {
    pub(crate) fn new(capacity: Option<u32>) -> Self {
        Self { capacity: capacity.map_or(u64::MAX, u64::from), used: 0, waiting: VecDeque::new() }
    }

    /// Takes room; something heavier than all there is may run alone.
    pub(crate) fn take(&mut self, weight: u32) -> bool {
        let weight = u64::from(weight);
        let fits = weight == 0 || self.used == 0 || self.used + weight <= self.capacity;
        if fits {
            self.used += weight;
        }
        fits
    }

    pub(crate) fn give_back(&mut self, weight: u32) {
        self.used -= u64::from(weight);
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}
