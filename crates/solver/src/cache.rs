//! Caches: where keys lead to results of earlier runs.
//!
//! A [`CacheManager`] answers questions about keys. The usual one is [`KeyedCache`], made of a
//! [`CacheKeyStorage`] (a graph of ids) and a [`CacheResultStorage`] (the results themselves);
//! either half can be replaced. [`CombinedCache`] asks several.

mod combined;
mod durable;
mod inline;
pub(crate) mod key_table;
mod keyed;
pub(crate) mod memory;
mod numbers;
mod storage;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quern_core::Digest;

pub use combined::CombinedCache;
pub use durable::FileKeyStorage;
pub use inline::{InlineResultStorage, ResultCodec};
pub use keyed::KeyedCache;
pub use memory::{InMemoryKeyStorage, InMemoryResultStorage};
pub use storage::{
    CacheInfoLink, CacheKeyStorage, CacheResult, CacheResultStorage, LoadedResult, NumberedKeys,
};

use crate::error::CacheError;
use crate::key::{CacheKey, CacheKeyWithSelector, KeyId};
use crate::op::KeyScope;
use crate::result::SharedResult;

/// A moment, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment of a system time; times before 1970 count as 1970.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A key in a question.
#[derive(Debug, Clone, Copy)]
pub struct QueryKey<'a> {
    /// The key of an input.
    pub key: &'a CacheKey,
    /// The part of the input that is used.
    pub selector: Option<Digest>,
}

impl<'a> From<&'a CacheKeyWithSelector> for QueryKey<'a> {
    fn from(name: &'a CacheKeyWithSelector) -> Self {
        Self { key: &name.key.key, selector: name.selector() }
    }
}

/// One question to a cache: which keys are reached from these keys of one input.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Keys of the input, with selectors. Empty: the question is about a key without inputs.
    pub deps: &'a [QueryKey<'a>],
    /// Which input of the asking operation.
    pub input: u32,
    /// The digest of the asking operation.
    pub digest: Digest,
    /// The output asked for.
    pub output: i64,
    /// The scope of a key without inputs.
    pub scope: KeyScope,
}

impl Query<'_> {
    /// The link by which a key of the input would lead to an answer.
    pub fn link(&self, dep: &QueryKey<'_>) -> CacheInfoLink {
        let Self { input, output, digest, .. } = *self;
        CacheInfoLink { input, output, digest, selector: dep.selector }
    }
}

/// One result a cache could load.
#[derive(Debug, Clone)]
pub struct CacheRecord {
    /// The id of the result in its storage.
    pub id: Arc<str>,
    /// Bytes, if the storage knows; for display.
    pub size: u64,
    /// When the result was made.
    pub created_at: Timestamp,
    /// Among records of one age, the lower value is loaded first.
    pub priority: u32,
    /// The key under which it was found.
    pub key: CacheKey,
    /// Which part of a combined cache has it.
    pub(crate) source: usize,
}

impl CacheRecord {
    /// Which of two records to load first: the newer, then the one of lower priority value.
    pub fn preference(&self, other: &Self) -> std::cmp::Ordering {
        other.created_at.cmp(&self.created_at).then(self.priority.cmp(&other.priority))
    }
}

/// A cache that the solver asks.
///
/// `query`, `records` and `save` are called while the solver holds its lock or between two steps,
/// so they must be quick: a cache that lives elsewhere answers from what it has fetched so far
/// and says by [`readiness`](CacheManager::readiness) that more is coming.
pub trait CacheManager: Send + Sync {
    /// Names what is behind the cache: two caches of one id count as one.
    fn id(&self) -> &str;

    /// Appends the ids of the keys that the query leads to. If several keys are given for the
    /// input, each of them leads to everything found from then on.
    ///
    /// # Errors
    /// [`CacheError`] if the storage fails; finding nothing is no error.
    fn query(&self, query: &Query<'_>, found: &mut Vec<KeyId>) -> Result<(), CacheError>;

    /// False if no [`query`](CacheManager::query) about this operation on inputs can find anything,
    /// which in a build of new things spares a question for every input.
    fn may_answer(&self, operation: &Digest) -> bool {
        let _ = operation;
        true
    }

    /// Makes room for new keys and links, if there is to be room before they come.
    fn reserve(&self, keys: usize, links: usize) {
        let _ = (keys, links);
    }

    /// The results that could be loaded for a key.
    ///
    /// # Errors
    /// [`CacheError`] if the storage fails; having none is no error.
    fn records(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError>;

    /// Loads a result.
    ///
    /// # Errors
    /// [`CacheError::NotFound`] if it is gone by now.
    fn load(&self, record: &CacheRecord) -> Result<SharedResult, CacheError>;

    /// Stores a result under a key, and the key under all alternatives of its inputs. Returns the
    /// key under the id this cache gave it, and the record.
    ///
    /// # Errors
    /// [`CacheError`] if the storage fails or the cache only answers.
    fn save(
        &self,
        key: &CacheKey,
        result: &SharedResult,
        created_at: Timestamp,
    ) -> Result<CacheRecord, CacheError>;

    /// Drops records whose results are gone; returns how many results that were.
    ///
    /// # Errors
    /// [`CacheError`] if the storage fails.
    fn release_unreferenced(&self) -> Result<usize, CacheError> {
        Ok(0)
    }

    /// Writes down what was saved here and takes in what other processes saved since.
    ///
    /// # Errors
    /// [`CacheError`] if the storage fails.
    fn exchange(&self) -> Result<(), CacheError> {
        Ok(())
    }

    /// True if loading a record takes microseconds, so that no thread of its own is needed.
    fn loads_quickly(&self, record: &CacheRecord) -> bool {
        let _ = record;
        false
    }

    /// The storages behind the cache, main part first; what an export walks.
    fn stores(&self) -> Vec<KeyedCache>;

    /// The key storage whose links are all there is to [`query`](CacheManager::query), so that a
    /// whole graph may be looked up in it at once ([`CacheKeyStorage::numbered`]); none for a cache
    /// that answers in a way of its own.
    fn numbered_keys(&self) -> Option<&dyn CacheKeyStorage> {
        None
    }

    /// Whether the cache still expects answers from elsewhere.
    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    /// Starts fetching, if that is needed, and calls `wake` once when readiness has changed.
    fn prepare(&self, wake: Box<dyn FnOnce() + Send>) {
        drop(wake);
    }
}

/// Whether a cache has everything it will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Its answers are final.
    Ready,
    /// More may come; a step that finds nothing waits for it, one that finds something does not.
    Pending,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 54: the newest first; of one age, the lower priority value.
    #[test]
    fn records_are_preferred_by_age_then_priority() {
        let key = CacheKey::root(Digest::of(b"k"), 0, KeyScope::Shared);
        let record = |id: &str, at: u64, priority: u32| CacheRecord {
            id: id.into(),
            size: 0,
            created_at: Timestamp(at),
            priority,
            key: key.clone(),
            source: 0,
        };
        let mut records = [record("a", 2, 2), record("b", 1, 0), record("c", 3, 1), record("d", 1, 1)];
        records.sort_by(CacheRecord::preference);
        assert_eq!(records.map(|r| r.id.to_string()).join(" "), "c a b d");
    }
}
