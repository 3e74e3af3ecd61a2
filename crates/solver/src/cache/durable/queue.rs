//! Additions that are applied beside the solver.
//!
//! Saving a key is half a dozen insertions into tables, and bytes for the log. The solver only leaves it
//! in a queue; a thread of the storage applies what has gathered there. Whoever asks something first
//! applies what waits, so nobody can tell that it waited. Questions about operations that
//! nothing leads to are most of all in a build of new things: the queue answers these by itself.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use quern_core::Digest;

use crate::cache::storage::{CacheInfoLink, CacheResult};
use crate::digest_map::{DigestHasher, spread};
use crate::error::CacheError;
use crate::key::KeyId;

/// So many keys are worth waking the thread for.
pub(super) const BATCH: usize = 256;

/// With so many keys waiting the thread does not keep up.
const FULL: usize = 1 << 12;

/// Keys with their results, and the links to them.
#[derive(Default)]
pub(super) struct Batch {
    /// With the number of links, which lie one after another.
    keys: Vec<(KeyId, CacheResult, usize)>,
    links: Vec<(KeyId, CacheInfoLink)>,
}

impl Batch {
    /// Hands out everything in the order it came; the room stays.
    pub(super) fn drain(&mut self, mut add: impl FnMut(&KeyId, &CacheResult, &[(KeyId, CacheInfoLink)])) {
        let mut links = &self.links[..];
        for (id, result, count) in self.keys.drain(..) {
            let (own, rest) = links.split_at(count);
            links = rest;
            add(&id, &result, own);
        }
        self.links.clear();
    }
}

/// Parts of operations' digests: an operation whose part is not there has no links. One that is
/// there by chance only costs a question.
type Operations = HashSet<u32, BuildHasherDefault<DigestHasher>>;

fn part(operation: &Digest) -> u32 {
    spread(operation) as u32
}

#[derive(Default)]
struct Waiting {
    batch: Batch,
    /// None if the storage has links of operations that were never noted here.
    operations: Option<Operations>,
    /// What the thread could not do.
    failure: Option<CacheError>,
    closed: bool,
}

/// What is left to do after a key was added to the queue.
pub(super) enum Next {
    Nothing,
    /// There is work for the thread.
    Wake,
    /// The thread needs help.
    Help,
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

impl Queue {
    /// The queue of a storage that is empty, or is not.
    pub(super) fn new(empty: bool) -> Self {
        let operations = empty.then(Operations::default);
        Self { waiting: Mutex::new(Waiting { operations, ..Waiting::default() }), news: Condvar::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if no link is for this operation, neither in the queue nor in the storage.
    pub(super) fn may_know(&self, operation: &Digest) -> bool {
        self.waiting().operations.as_ref().is_none_or(|known| known.contains(&part(operation)))
    }

    /// Notes the operation of a link that is added without the queue.
    pub(super) fn note(&self, operation: &Digest) {
        if let Some(known) = &mut self.waiting().operations {
            known.insert(part(operation));
        }
    }

    /// Makes room for so many more operations.
    pub(super) fn reserve(&self, operations: usize) {
        if let Some(known) = &mut self.waiting().operations {
            known.reserve(operations);
        }
    }

    /// The storage has got links from elsewhere.
    pub(super) fn forget_operations(&self) {
        self.waiting().operations = None;
    }

    /// True if nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting().batch.keys.is_empty()
    }

    /// Leaves a key to be added, with links to it. In a storage that was not empty every question
    /// would have to wait for the thread, so there keys are not left to it.
    pub(super) fn push(
        &self,
        id: KeyId,
        result: CacheResult,
        links: &[(KeyId, CacheInfoLink)],
    ) -> Result<Next, CacheError> {
        let mut waiting = self.waiting();
        if let Some(failure) = waiting.failure.take() {
            return Err(failure);
        }
        let Waiting { batch, operations, .. } = &mut *waiting;
        if let Some(known) = operations {
            known.extend(links.iter().map(|(_, link)| part(&link.digest)));
        }
        batch.links.extend_from_slice(links);
        batch.keys.push((id, result, links.len()));
        let next = match batch.keys.len() {
            _ if operations.is_none() => Next::Help,
            FULL.. => Next::Help,
            length if length.is_multiple_of(BATCH) => Next::Wake,
            _ => Next::Nothing,
        };
        drop(waiting);
        if matches!(next, Next::Wake) {
            self.news.notify_one();
        }
        Ok(next)
    }

    /// Exchanges what waits for an empty batch.
    pub(super) fn swap(&self, batch: &mut Batch) {
        std::mem::swap(&mut self.waiting().batch, batch);
    }

    /// Waits until there is enough to do; false once there will be nothing more.
    pub(super) fn wait(&self) -> bool {
        let idle = |waiting: &mut Waiting| waiting.batch.keys.len() < BATCH && !waiting.closed;
        let waiting = self.news.wait_while(self.waiting(), idle);
        !waiting.unwrap_or_else(PoisonError::into_inner).closed
    }

    /// Whoever adds the next key meets a failure.
    pub(super) fn fail(&self, failure: CacheError) {
        self.waiting().failure = Some(failure);
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.news.notify_all();
    }
}
