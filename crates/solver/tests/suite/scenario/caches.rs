//! Cache managers of the scenarios: in memory, counting loads, losing results on demand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use quern_solver::{
    CacheError, CacheKey, CacheKeyStorage, CacheManager, CacheRecord, CacheResult, CacheResultStorage,
    InMemoryKeyStorage, KeyId, KeyedCache, Query, Remote, SharedResult, Timestamp,
};

use super::ops::Made;

/// Keeps results under the ids they were made with, so that a copy has the id of the original.
#[derive(Default)]
pub struct Results(Mutex<HashMap<String, SharedResult>>);

impl Results {
    pub fn forget(&self, lost: impl Fn(&Made) -> bool) {
        self.0.lock().unwrap().retain(|_, result| !lost(result.get::<Made>().unwrap()));
    }
}

impl CacheResultStorage for Results {
    fn save(&self, result: &SharedResult, created_at: Timestamp) -> Result<CacheResult, CacheError> {
        let id = result.get::<Made>().unwrap().id.clone();
        self.0.lock().unwrap().insert(id.clone(), result.clone());
        Ok(CacheResult { id: id.into(), created_at })
    }

    fn load(&self, result: &CacheResult) -> Result<SharedResult, CacheError> {
        self.0.lock().unwrap().get(&*result.id).cloned().ok_or(CacheError::NotFound)
    }

    fn load_remotes(&self, _: &CacheResult) -> Vec<Remote> {
        Vec::new()
    }

    fn exists(&self, result: &str) -> Result<bool, CacheError> {
        Ok(self.0.lock().unwrap().contains_key(result))
    }
}

/// A cache manager that counts its loads.
pub struct Counting {
    pub results: Arc<Results>,
    cache: KeyedCache,
    pub loads: AtomicU64,
    pub fail: AtomicBool,
    /// Whole graphs may be looked up at once, and loads take no thread.
    quick: bool,
}

impl Counting {
    pub fn new(id: &str, quick: bool) -> Arc<Self> {
        let results = Arc::new(Results::default());
        let keys = Arc::new(InMemoryKeyStorage::new());
        let cache = KeyedCache::new(id, keys, results.clone()).unwrap();
        Arc::new(Self { results, cache, loads: AtomicU64::new(0), fail: AtomicBool::new(false), quick })
    }
}

impl CacheManager for Counting {
    fn id(&self) -> &str {
        self.cache.id()
    }

    fn query(&self, query: &Query<'_>, found: &mut Vec<KeyId>) -> Result<(), CacheError> {
        self.cache.query(query, found)
    }

    fn records(&self, key: &CacheKey) -> Result<Vec<CacheRecord>, CacheError> {
        self.cache.records(key)
    }

    fn load(&self, record: &CacheRecord) -> Result<SharedResult, CacheError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        if self.fail.load(Ordering::Relaxed) {
            return Err(CacheError::storage("loads fail in this scenario"));
        }
        self.cache.load(record)
    }

    fn save(&self, key: &CacheKey, result: &SharedResult, at: Timestamp) -> Result<CacheRecord, CacheError> {
        self.cache.save(key, result, at)
    }

    fn release_unreferenced(&self) -> Result<usize, CacheError> {
        self.cache.release_unreferenced()
    }

    fn stores(&self) -> Vec<KeyedCache> {
        vec![self.cache.clone()]
    }

    fn loads_quickly(&self, _: &CacheRecord) -> bool {
        self.quick
    }

    fn numbered_keys(&self) -> Option<&dyn CacheKeyStorage> {
        self.cache.numbered_keys().filter(|_| self.quick)
    }
}
