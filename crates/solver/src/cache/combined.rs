//! Several caches as one: the main one, which also stores, and sources that only answer.

use std::sync::Arc;

use quern_core::{Digest, DigestWriter};

use crate::cache::{CacheKeyStorage, CacheManager, CacheRecord, KeyedCache, Query, Readiness, Timestamp};
use crate::error::CacheError;
use crate::key::{CacheKey, KeyId};
use crate::result::SharedResult;

/// A main cache and the sources asked besides it.
///
/// What a source has is copied into the main cache when it is loaded. A source that fails counts
/// as empty; the main cache failing is an error.
pub struct CombinedCache {
    id: String,
    main: Arc<dyn CacheManager>,
    sources: Vec<Arc<dyn CacheManager>>,
}

impl CombinedCache {
    /// Combines caches; sources named like the main one or like each other are asked once.
    pub fn new(main: Arc<dyn CacheManager>, sources: &[Arc<dyn CacheManager>]) -> Self {
        let mut kept: Vec<Arc<dyn CacheManager>> = Vec::new();
        for source in sources {
            if source.id() != main.id() && kept.iter().all(|k| k.id() != source.id()) {
                kept.push(Arc::clone(source));
            }
        }
        if kept.is_empty() {
            return Self { id: main.id().to_owned(), main, sources: kept };
        }
        let mut hash = DigestWriter::new();
        hash.update(main.id().as_bytes());
        for source in &kept {
            hash.update(b",");
            hash.update(source.id().as_bytes());
        }
        let id: Digest = hash.finish();
        Self { id: id.to_string(), main, sources: kept }
    }

    /// The same main cache with other sources.
    pub fn with(&self, sources: &[Arc<dyn CacheManager>]) -> Self {
        Self::new(Arc::clone(&self.main), sources)
    }

    /// The caches asked besides the main one.
    pub fn sources(&self) -> &[Arc<dyn CacheManager>] {
        &self.sources
    }

    fn all(&self) -> impl Iterator<Item = (usize, &Arc<dyn CacheManager>)> {
        std::iter::once(&self.main).chain(&self.sources).enumerate()
    }
}

impl CacheManager for CombinedCache {
    fn id(&self) -> &str {
        &self.id
    }

    fn query(&self, query: &Query<'_>, found: &mut Vec<KeyId>) -> Result<(), CacheError> {
        self.main.query(query, found)?;
        let mut more = Vec::new();
        for source in &self.sources {
            more.clear();
            if source.query(query, &mut more).is_ok() {
                found.extend(more.iter().filter(|id| !found.contains(id)).copied().collect::<Vec<_>>());
            }
        }
        Ok(())
    }

    fn may_answer(&self, operation: &Digest) -> bool {
        self.all().any(|(_, cache)| cache.may_answer(operation))
    }

    fn reserve(&self, keys: usize, links: usize) {
        self.main.reserve(keys, links);
    }

    /// The main cache's records are preferred among those of one age.
    fn records(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError> {
        let mut records = self.main.records(key)?;
        for (source, cache) in self.all().skip(1) {
            let more = cache.records(key).unwrap_or_default();
            records.extend(more.into_iter().map(|record| CacheRecord { source, priority: 1, ..record }));
        }
        Ok(records)
    }

    fn load(&self, record: &CacheRecord) -> Result<SharedResult, CacheError> {
        let Some(source) = record.source.checked_sub(1).and_then(|i| self.sources.get(i)) else {
            return self.main.load(record);
        };
        let result = source.load(record)?;
        self.main.save(&record.key, &result, record.created_at)?;
        Ok(result)
    }

    fn save(
        &self,
        key: &CacheKey,
        result: &SharedResult,
        created_at: Timestamp,
    ) -> Result<CacheRecord, CacheError> {
        self.main.save(key, result, created_at)
    }

    fn loads_quickly(&self, record: &CacheRecord) -> bool {
        record.source == 0 && self.main.loads_quickly(record)
    }

    fn stores(&self) -> Vec<KeyedCache> {
        self.all().flat_map(|(_, cache)| cache.stores()).collect()
    }

    fn numbered_keys(&self) -> Option<&dyn CacheKeyStorage> {
        if self.sources.is_empty() { self.main.numbered_keys() } else { None }
    }

    fn readiness(&self) -> Readiness {
        let pending = self.all().any(|(_, cache)| cache.readiness() == Readiness::Pending);
        if pending { Readiness::Pending } else { Readiness::Ready }
    }

    fn prepare(&self, wake: Box<dyn FnOnce() + Send>) {
        let wake = Arc::new(std::sync::Mutex::new(Some(wake)));
        for (_, cache) in self.all() {
            let wake = Arc::clone(&wake);
            cache.prepare(Box::new(move || {
                let mut wake = wake.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some(wake) = wake.take() {
                    wake();
                }
            }));
        }
    }
}
