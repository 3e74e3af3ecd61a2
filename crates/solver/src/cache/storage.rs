//! The two halves of a cache, as ports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quern_core::Digest;

use crate::cache::Timestamp;
use crate::error::CacheError;
use crate::export::Remote;
use crate::key::KeyId;
use crate::result::SharedResult;

/// How one key leads to another: as input `input` of the operation `digest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheInfoLink {
    /// Which input of the operation the source key is for.
    pub input: u32,
    /// Which output of the operation the target key is for.
    pub output: i64,
    /// The digest of the operation.
    pub digest: Digest,
    /// The part of the input that is used.
    pub selector: Option<Digest>,
}

/// One result as the key storage knows it: an id that the result storage understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheResult {
    /// The id.
    pub id: Arc<str>,
    /// When the result was made.
    pub created_at: Timestamp,
}

/// Keeps the graph of keys. Knows nothing of what the results are.
///
/// A key exists while it has a result or leads to a key that exists. Visitors are called without
/// any lock held, on what stood when the walk began, so they may change the storage.
pub trait CacheKeyStorage: Send + Sync {
    /// True if the key is known.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn exists(&self, id: &KeyId) -> Result<bool, CacheError>;

    /// Visits all keys, in no particular order.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn walk(&self, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError>;

    /// Visits the results of a key; none if it is unknown.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn walk_results(&self, id: &KeyId, visit: &mut dyn FnMut(CacheResult)) -> Result<(), CacheError>;

    /// One result of a key.
    ///
    /// # Errors
    /// [`CacheError::NotFound`] if the key is unknown or has no such result.
    fn load(&self, id: &KeyId, result: &str) -> Result<CacheResult, CacheError>;

    /// Adds a result to a key, which comes into being if need be. A result of the same id is
    /// replaced. One result may belong to several keys.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn add_result(&self, id: &KeyId, result: CacheResult) -> Result<(), CacheError>;

    /// Takes a result from all its keys; keys without results that lead nowhere then vanish, and
    /// so on upwards. Releasing an unknown result does nothing.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn release(&self, result: &str) -> Result<(), CacheError>;

    /// Visits the keys that have a result.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn walk_ids_by_result(&self, result: &str, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError>;

    /// Lets `id` lead to `target`; doing so twice changes nothing.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn add_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<(), CacheError>;

    /// Adds a result to a key, and links that lead to the key.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn add_key(
        &self,
        id: &KeyId,
        result: CacheResult,
        links: &[(KeyId, CacheInfoLink)],
    ) -> Result<(), CacheError> {
        self.add_result(id, result)?;
        links.iter().try_for_each(|(source, link)| self.add_link(source, link, id))
    }

    /// Makes room for new keys and links: a table that is as large as it will be need not grow.
    fn reserve(&self, keys: usize, links: usize) {
        let _ = (keys, links);
    }

    /// The keys that every input leads to by one of its links; links are sorted by input. A union
    /// over the alternatives of an input, an intersection over the inputs.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn common_targets(&self, links: &[(KeyId, CacheInfoLink)]) -> Result<Vec<KeyId>, CacheError> {
        common(links, |id, link, found| self.links(id, link, found))
    }

    /// A number that no other storage has, and that changes whenever keys have vanished: links
    /// that stood in an era stand as long as it lasts. None if the storage cannot tell.
    fn era(&self) -> Option<u64> {
        None
    }

    /// Visits the keys that `id` leads to by exactly this link.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn walk_links(
        &self,
        id: &KeyId,
        link: &CacheInfoLink,
        visit: &mut dyn FnMut(KeyId),
    ) -> Result<(), CacheError>;

    /// Appends what [`walk_links`](CacheKeyStorage::walk_links) would visit. The solver asks this
    /// for every input of every vertex; a storage that can answer faster than by a visit may.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn links(&self, id: &KeyId, link: &CacheInfoLink, found: &mut Vec<KeyId>) -> Result<(), CacheError> {
        self.walk_links(id, link, &mut |target| found.push(target))
    }

    /// True if `id` leads to `target` by exactly this link.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn has_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<bool, CacheError>;

    /// Visits every way that leads to a key: the source and the link. The link's digest is folded
    /// with its output (`sha256("<digest>@<output>")`) and its output is 0, as exports need it.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn walk_backlinks(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(KeyId, CacheInfoLink),
    ) -> Result<(), CacheError>;

    /// Visits every link that leaves a key; only explanations of misses ask this.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn walk_leaving(&self, id: &KeyId, visit: &mut dyn FnMut(CacheInfoLink, KeyId))
    -> Result<(), CacheError>;

    /// True if some link is for this operation; only explanations of misses ask this.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn knows_operation(&self, digest: &Digest) -> Result<bool, CacheError>;

    /// False if no link is for this operation: the solver then asks for none.
    fn may_lead(&self, operation: &Digest) -> bool {
        let _ = operation;
        true
    }

    /// Hands out the storage by numbers, for a caller with questions about many keys; false if the
    /// storage only answers one by one.
    fn numbered(&self, run: &mut dyn FnMut(&mut dyn NumberedKeys)) -> bool {
        let _ = run;
        false
    }

    /// Makes what was added here known to other processes and takes in what they added since. Storages of one process have
    /// nothing to do.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn exchange(&self) -> Result<(), CacheError> {
        Ok(())
    }

    /// Makes everything added so far survive a crash. Storages without a disk have nothing to do.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn sync(&self) -> Result<(), CacheError> {
        Ok(())
    }
}

/// Union over the alternatives of an input, intersection over the inputs.
pub(super) fn common<E>(
    links: &[(KeyId, CacheInfoLink)],
    mut targets: impl FnMut(&KeyId, &CacheInfoLink, &mut Vec<KeyId>) -> Result<(), E>,
) -> Result<Vec<KeyId>, E> {
    let mut common = Vec::new();
    for (number, alternatives) in links.chunk_by(|a, b| a.1.input == b.1.input).enumerate() {
        let mut reached = Vec::new();
        for (id, link) in alternatives {
            targets(id, link, &mut reached)?;
        }
        if number == 0 {
            common = reached;
        } else {
            common.retain(|id| reached.contains(id));
        }
        if common.is_empty() {
            break;
        }
    }
    Ok(common)
}

/// Counts the eras of all storages of this process.
static ERAS: AtomicU64 = AtomicU64::new(1);

/// The era of one storage; see [`CacheKeyStorage::era`].
#[derive(Default)]
pub(super) struct Era(Option<u64>);

impl Era {
    pub(super) fn number(&mut self) -> u64 {
        *self.0.get_or_insert_with(|| ERAS.fetch_add(1, Ordering::Relaxed))
    }

    /// Keys have vanished.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }
}

/// A key storage whose keys go by numbers, which are good for one call of
/// [`CacheKeyStorage::numbered`]. It must not be changed meanwhile.
pub trait NumberedKeys {
    /// The number of a key, if it exists.
    fn number(&self, id: &KeyId) -> Option<u32>;

    /// The key of a number that was handed out.
    fn id(&self, number: u32) -> KeyId;

    /// Appends the keys that `source` leads to by exactly this link. Fastest if what is asked one
    /// after another was stored one after another.
    fn targets(&mut self, source: u32, link: &CacheInfoLink, found: &mut Vec<u32>);
}

/// One result of [`CacheResultStorage::load_with_parents`].
#[derive(Debug, Clone)]
pub struct LoadedResult {
    /// The key it belongs to.
    pub key: KeyId,
    /// What it is called in the storage.
    pub cached: CacheResult,
    /// The result.
    pub result: SharedResult,
}

/// Keeps results.
pub trait CacheResultStorage: Send + Sync {
    /// Stores a result and names it. A result may be saved several times, once for each of its
    /// keys, and should get the same id each time.
    ///
    /// # Errors
    /// [`CacheError`] if the storage fails.
    fn save(&self, result: &SharedResult, created_at: Timestamp) -> Result<CacheResult, CacheError>;

    /// Loads a result.
    ///
    /// # Errors
    /// [`CacheError::NotFound`] if it is gone.
    fn load(&self, result: &CacheResult) -> Result<SharedResult, CacheError>;

    /// Transferable forms of a result that exist already, the preferred one first. Best effort:
    /// what cannot be told counts as none.
    fn load_remotes(&self, result: &CacheResult) -> Vec<Remote>;

    /// True if the result could be loaded.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the storage fails.
    fn exists(&self, result: &str) -> Result<bool, CacheError>;

    /// True if a missing result must be looked for in `exists` before a record is offered. A
    /// storage that never loses results may say no and spare the question.
    fn may_lose(&self) -> bool {
        true
    }

    /// True if loading takes microseconds.
    fn loads_quickly(&self) -> bool {
        false
    }

    /// Loads a result and whatever else came with it (an imported layer chain holds the results
    /// of its ancestors too).
    ///
    /// # Errors
    /// As [`load`](CacheResultStorage::load).
    fn load_with_parents(&self, key: KeyId, result: &CacheResult) -> Result<Vec<LoadedResult>, CacheError> {
        Ok(vec![LoadedResult { key, cached: result.clone(), result: self.load(result)? }])
    }

    /// Bytes a result takes, if known.
    fn size(&self, result: &CacheResult) -> u64 {
        let _ = result;
        0
    }
}
