//! The usual cache: a key storage and a result storage.

use std::sync::Arc;

use quern_core::Digest;

use crate::cache::memory::{InMemoryKeyStorage, InMemoryResultStorage};
use crate::cache::{
    CacheInfoLink, CacheKeyStorage, CacheManager, CacheRecord, CacheResultStorage, LoadedResult, Query,
    Timestamp,
};
use crate::error::CacheError;
use crate::key::{CacheKey, CacheKeyWithSelector, KeyId};
use crate::result::SharedResult;

/// A cache over a key storage and a result storage.
#[derive(Clone)]
pub struct KeyedCache {
    id: Arc<str>,
    keys: Arc<dyn CacheKeyStorage>,
    results: Arc<dyn CacheResultStorage>,
    writable: bool,
}

impl KeyedCache {
    /// Joins two storages and drops the records whose results are gone.
    ///
    /// # Errors
    /// [`CacheError`] if a storage fails.
    pub fn new(
        id: impl Into<Arc<str>>,
        keys: Arc<dyn CacheKeyStorage>,
        results: Arc<dyn CacheResultStorage>,
    ) -> Result<Self, CacheError> {
        let cache = Self { id: id.into(), keys, results, writable: true };
        if cache.results.may_lose() {
            cache.release_unreferenced()?;
        }
        Ok(cache)
    }

    /// Both halves in memory.
    pub fn in_memory(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            keys: Arc::new(InMemoryKeyStorage::new()),
            results: Arc::new(InMemoryResultStorage::new()),
            writable: true,
        }
    }

    /// The same cache, refusing to store anything.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { writable: false, ..self }
    }

    /// The key storage.
    pub fn keys(&self) -> &dyn CacheKeyStorage {
        &*self.keys
    }

    /// The result storage.
    pub fn results(&self) -> &dyn CacheResultStorage {
        &*self.results
    }

    /// The id of a key in this cache: its own if it is known here or has no inputs, else the node
    /// that all its inputs lead to, else its own.
    ///
    /// # Errors
    /// [`CacheError`] if the storage fails.
    pub fn resolve(&self, key: &CacheKey) -> Result<KeyId, CacheError> {
        if key.inputs() == 0 || self.keys.exists(&key.id())? {
            return Ok(key.id());
        }
        self.node_of(key)
    }

    /// Union over the alternatives of an input, intersection over the inputs.
    fn node_of(&self, key: &CacheKey) -> Result<KeyId, CacheError> {
        Ok(choose(key, &self.keys.common_targets(&links_of(key))?))
    }

    /// Appends what a key leads to; returns the id of the key in this cache.
    fn targets(
        &self,
        key: &CacheKey,
        link: &CacheInfoLink,
        found: &mut Vec<KeyId>,
    ) -> Result<KeyId, CacheError> {
        let before = found.len();
        self.keys.links(&key.id(), link, found)?;
        if found.len() > before || key.inputs() == 0 || !self.keys.knows_operation(&link.digest)? {
            return Ok(key.id());
        }
        let id = self.resolve(key)?;
        if id != key.id() {
            self.keys.links(&id, link, found)?;
        }
        Ok(id)
    }

    /// Links every alternative of every input to the node `id`, and so on upwards where a link
    /// was missing.
    fn link_inputs(&self, key: &CacheKey, id: KeyId, era: Option<u64>) -> Result<(), CacheError> {
        let mut open = vec![(key.clone(), id)];
        while let Some((key, id)) = open.pop() {
            for (input, name) in key.names() {
                let source = self.resolve(&name.key.key)?;
                let link = link_of(&key, *input, name);
                if !self.keys.has_link(&source, &link, &id)? {
                    self.keys.add_link(&source, &link, &id)?;
                    if !name.key.key.is_linked(era) {
                        open.push((name.key.key.clone(), source));
                    }
                }
            }
        }
        Ok(())
    }

    /// Loads a result and what came with it.
    ///
    /// # Errors
    /// As [`CacheManager::load`].
    pub fn load_with_parents(&self, record: &CacheRecord) -> Result<Vec<LoadedResult>, CacheError> {
        let cached = self.keys.load(&record.key.id(), &record.id)?;
        self.results.load_with_parents(record.key.id(), &cached)
    }
}

impl CacheManager for KeyedCache {
    fn id(&self) -> &str {
        &self.id
    }

    fn query(&self, query: &Query<'_>, found: &mut Vec<KeyId>) -> Result<(), CacheError> {
        if query.deps.is_empty() {
            let id = KeyId::root(&query.digest, query.output, query.scope);
            if self.keys.exists(&id)? {
                found.push(id);
            }
            return Ok(());
        }
        let start = found.len();
        let mut sources = Vec::new();
        for dep in query.deps {
            let link = query.link(dep);
            let id = self.targets(dep.key, &link, found)?;
            if query.deps.len() > 1 {
                sources.push((id, link));
            }
        }
        if sources.is_empty() {
            return Ok(());
        }
        found[start..].sort_unstable();
        dedup_from(found, start);
        for (source, link) in &sources {
            for target in &found[start..] {
                if !self.keys.has_link(source, link, target)? {
                    self.keys.add_link(source, link, target)?;
                }
            }
        }
        Ok(())
    }

    fn may_answer(&self, operation: &Digest) -> bool {
        self.keys.may_lead(operation)
    }

    fn reserve(&self, keys: usize, links: usize) {
        if self.writable {
            self.keys.reserve(keys, links);
        }
    }

    fn records(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError> {
        let id = self.resolve(key)?;
        let key = key.renamed(id);
        let mut known = Vec::new();
        self.keys.walk_results(&id, &mut |result| known.push(result))?;
        let mut records = Vec::with_capacity(known.len());
        for result in known {
            if self.results.may_lose() && !self.results.exists(&result.id)? {
                self.keys.release(&result.id)?;
                continue;
            }
            let size = self.results.size(&result);
            let (created_at, key) = (result.created_at, key.clone());
            records.push(CacheRecord { id: result.id, size, created_at, priority: 0, key, source: 0 });
        }
        Ok(records)
    }

    fn load(&self, record: &CacheRecord) -> Result<SharedResult, CacheError> {
        let cached = self.keys.load(&record.key.id(), &record.id)?;
        self.results.load(&cached)
    }

    fn exchange(&self) -> Result<(), CacheError> {
        self.keys.exchange()
    }

    fn save(
        &self,
        key: &CacheKey,
        result: &SharedResult,
        created_at: Timestamp,
    ) -> Result<CacheRecord, CacheError> {
        if !self.writable {
            return Err(CacheError::ReadOnly(self.id.to_string()));
        }
        let links = links_of(key);
        let id = if key.inputs() == 0 { key.id() } else { choose(key, &self.keys.common_targets(&links)?) };
        let key = key.renamed(id);
        let cached = self.results.save(result, created_at)?;
        let era = self.keys.era();
        if key.names().iter().all(|(_, name)| name.key.key.is_linked(era)) {
            self.keys.add_key(&id, cached.clone(), &links)?;
        } else {
            self.keys.add_result(&id, cached.clone())?;
            self.link_inputs(&key, id, era)?;
        }
        key.linked(era);
        let size = self.results.size(&cached);
        Ok(CacheRecord { id: cached.id, size, created_at: cached.created_at, priority: 0, key, source: 0 })
    }

    fn release_unreferenced(&self) -> Result<usize, CacheError> {
        let mut ids = Vec::new();
        self.keys.walk(&mut |id| ids.push(id))?;
        let mut results = std::collections::BTreeSet::new();
        for id in ids {
            self.keys.walk_results(&id, &mut |result| {
                results.insert(result.id);
            })?;
        }
        let mut released = 0;
        for result in results {
            if !self.results.exists(&result)? {
                self.keys.release(&result)?;
                released += 1;
            }
        }
        Ok(released)
    }

    fn loads_quickly(&self, _: &CacheRecord) -> bool {
        self.results.loads_quickly()
    }

    fn stores(&self) -> Vec<KeyedCache> {
        vec![self.clone()]
    }

    fn numbered_keys(&self) -> Option<&dyn CacheKeyStorage> {
        Some(&*self.keys)
    }
}

/// The links by which the names of the inputs lead to a key.
fn links_of(key: &CacheKey) -> Vec<(KeyId, CacheInfoLink)> {
    key.names().iter().map(|(input, name)| (name.key.key.id(), link_of(key, *input, name))).collect()
}

/// Which of the nodes that its inputs lead to a key is: its own if that is among them, else the
/// lowest; its own if there is none.
fn choose(key: &CacheKey, nodes: &[KeyId]) -> KeyId {
    if nodes.contains(&key.id()) { key.id() } else { nodes.iter().min().copied().unwrap_or(key.id()) }
}

/// The link by which a name of an input leads to a key.
fn link_of(key: &CacheKey, input: u32, name: &CacheKeyWithSelector) -> CacheInfoLink {
    CacheInfoLink { input, output: key.output(), digest: key.digest(), selector: name.selector() }
}

fn dedup_from(ids: &mut Vec<KeyId>, start: usize) {
    let mut kept = start;
    for i in start..ids.len() {
        if i == start || ids[i] != ids[kept - 1] {
            ids[kept] = ids[i];
            kept += 1;
        }
    }
    ids.truncate(kept);
}
