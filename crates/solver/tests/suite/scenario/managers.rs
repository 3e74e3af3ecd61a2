//! Scenarios of one cache manager.

use std::collections::BTreeMap;
use std::sync::Arc;

use quern_core::Digest;
use quern_solver::{
    CacheKey, CacheKeyWithSelector, CacheManager, CacheResultStorage, InMemoryKeyStorage,
    InMemoryResultStorage, KeyScope, KeyedCache, Query, QueryKey, SharedResult, Timestamp,
};

use super::model::{KeyRef, ManagerScenario, ManagerStep};

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

struct Runner {
    keys: Arc<InMemoryKeyStorage>,
    results: Arc<InMemoryResultStorage>,
    cache: KeyedCache,
    labels: BTreeMap<String, CacheKey>,
    /// Every result ever made, and its id in the present result storage.
    made: BTreeMap<String, (SharedResult, Arc<str>)>,
    now: u64,
}

pub fn run(scenario: &ManagerScenario) {
    let (keys, results) = (Arc::new(InMemoryKeyStorage::new()), Arc::new(InMemoryResultStorage::new()));
    let cache = KeyedCache::new("test", keys.clone(), results.clone()).unwrap();
    let (labels, made) = (BTreeMap::new(), BTreeMap::new());
    let mut runner = Runner { keys, results, cache, labels, made, now: 0 };
    for (number, step) in scenario.steps.iter().enumerate() {
        runner.step(&format!("{} step {number}", scenario.id), step);
    }
}

impl Runner {
    fn links(&self, refs: &[KeyRef]) -> Vec<CacheKeyWithSelector> {
        let link = |r: &KeyRef| {
            let selector = r.selector.as_deref().map(digest);
            CacheKeyWithSelector::new(self.labels[&r.key].clone(), selector)
        };
        refs.iter().map(link).collect()
    }

    fn step(&mut self, at: &str, step: &ManagerStep) {
        match step {
            ManagerStep::Key { label, digest: d, output } => {
                self.labels.insert(label.clone(), CacheKey::root(digest(d), *output, KeyScope::Shared));
            }
            ManagerStep::Save { label, digest: d, output, deps, result } => {
                let deps = deps.iter().map(|alternatives| self.links(alternatives)).collect();
                let key = CacheKey::derived(digest(d), *output, deps);
                let value = SharedResult::new(result.clone());
                self.now += 1;
                let record = self.cache.save(&key, &value, Timestamp(self.now)).unwrap();
                self.made.insert(result.clone(), (value, record.id));
                self.labels.insert(label.clone(), record.key);
            }
            ManagerStep::Query { deps, input, digest: d, output, label, expect } => {
                let deps = self.links(deps);
                let deps: Vec<QueryKey<'_>> = deps.iter().map(QueryKey::from).collect();
                let (d, scope) = (digest(d), KeyScope::Shared);
                let mut found = Vec::new();
                let query = Query { deps: &deps, input: *input, digest: d, output: *output, scope };
                self.cache.query(&query, &mut found).unwrap();
                assert_eq!(found.len(), expect.keys, "{at}: keys");
                let Some(id) = found.first() else { return };
                let key = CacheKey::with(*id, d, *output);
                let records = self.cache.records(&key).unwrap();
                if let Some(n) = expect.records {
                    assert_eq!(records.len(), n, "{at}: records");
                }
                if let Some(values) = &expect.values {
                    let load = |r| self.cache.load(r).unwrap().get::<String>().unwrap().clone();
                    let mut got: Vec<String> = records.iter().map(load).collect();
                    got.sort();
                    assert_eq!(got, *values, "{at}: values");
                }
                if let Some(other) = &expect.same_as {
                    assert_eq!(key.id(), self.labels[other].id(), "{at}: the same key as {other}");
                }
                if let Some(label) = label {
                    self.labels.insert(label.clone(), key);
                }
            }
            ManagerStep::Release { result } => self.cache.keys().release(&self.made[result].1).unwrap(),
            ManagerStep::Reopen { keep } => self.reopen(keep),
        }
    }

    fn reopen(&mut self, keep: &[String]) {
        for (name, (_, id)) in &self.made {
            if !keep.contains(name) {
                self.results.forget(id);
            }
        }
        assert!(keep.iter().all(|name| self.results.exists(&self.made[name].1).unwrap()));
        self.cache = KeyedCache::new("test", self.keys.clone(), self.results.clone()).unwrap();
    }
}
