//! Storages in memory: the default of a solver.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cache::Timestamp;
use quern_core::Digest;

use crate::cache::key_table::KeyTable;
use crate::cache::storage::{CacheInfoLink, CacheKeyStorage, CacheResult, CacheResultStorage, NumberedKeys};
use crate::error::CacheError;
use crate::export::Remote;
use crate::key::KeyId;
use crate::op::KeyScope;
use crate::result::SharedResult;

/// A key storage that forgets everything at the end of the process.
#[derive(Default)]
pub struct InMemoryKeyStorage {
    table: Mutex<KeyTable>,
}

impl InMemoryKeyStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    fn table(&self) -> MutexGuard<'_, KeyTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheKeyStorage for InMemoryKeyStorage {
    fn exists(&self, id: &KeyId) -> Result<bool, CacheError> {
        Ok(self.table().contains(id))
    }

    fn walk(&self, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        let ids = self.table().ids();
        ids.into_iter().for_each(visit);
        Ok(())
    }

    fn walk_results(&self, id: &KeyId, visit: &mut dyn FnMut(CacheResult)) -> Result<(), CacheError> {
        let results = self.table().results(id).to_vec();
        results.into_iter().for_each(visit);
        Ok(())
    }

    fn load(&self, id: &KeyId, result: &str) -> Result<CacheResult, CacheError> {
        let table = self.table();
        table.results(id).iter().find(|r| &*r.id == result).cloned().ok_or(CacheError::NotFound)
    }

    fn add_result(&self, id: &KeyId, result: CacheResult) -> Result<(), CacheError> {
        self.table().add_result(id, result);
        Ok(())
    }

    fn release(&self, result: &str) -> Result<(), CacheError> {
        self.table().release(result);
        Ok(())
    }

    fn walk_ids_by_result(&self, result: &str, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        let ids = self.table().holders(result);
        ids.into_iter().for_each(visit);
        Ok(())
    }

    fn add_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<(), CacheError> {
        self.table().add_link(id, link, target);
        Ok(())
    }

    fn walk_links(
        &self,
        id: &KeyId,
        link: &CacheInfoLink,
        visit: &mut dyn FnMut(KeyId),
    ) -> Result<(), CacheError> {
        let targets: Vec<KeyId> = self.table().targets_of(id, link).collect();
        targets.into_iter().for_each(visit);
        Ok(())
    }

    fn may_lead(&self, operation: &Digest) -> bool {
        self.table().knows_operation(operation)
    }

    fn reserve(&self, keys: usize, links: usize) {
        self.table().reserve(keys, links);
    }

    fn links(&self, id: &KeyId, link: &CacheInfoLink, found: &mut Vec<KeyId>) -> Result<(), CacheError> {
        found.extend(self.table().targets_of(id, link));
        Ok(())
    }

    fn has_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<bool, CacheError> {
        Ok(self.table().targets_of(id, link).any(|known| known == *target))
    }

    fn walk_leaving(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(CacheInfoLink, KeyId),
    ) -> Result<(), CacheError> {
        let leaving: Vec<_> = self.table().leaving_links(id).collect();
        leaving.into_iter().for_each(|(link, target)| visit(link, target));
        Ok(())
    }

    fn knows_operation(&self, digest: &Digest) -> Result<bool, CacheError> {
        Ok(self.table().knows_operation(digest))
    }

    fn walk_backlinks(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(KeyId, CacheInfoLink),
    ) -> Result<(), CacheError> {
        let sources: Vec<_> = self.table().sources(id).collect();
        sources.into_iter().for_each(|(source, link)| visit(source, folded(&link)));
        Ok(())
    }

    fn add_key(
        &self,
        id: &KeyId,
        result: CacheResult,
        links: &[(KeyId, CacheInfoLink)],
    ) -> Result<(), CacheError> {
        let mut table = self.table();
        table.add_result(id, result);
        table.add_links(id, links);
        Ok(())
    }

    fn common_targets(&self, links: &[(KeyId, CacheInfoLink)]) -> Result<Vec<KeyId>, CacheError> {
        Ok(self.table().common_targets(links))
    }

    fn era(&self) -> Option<u64> {
        Some(self.table().era.number())
    }

    fn numbered(&self, run: &mut dyn FnMut(&mut dyn NumberedKeys)) -> bool {
        run(&mut Numbered(&self.table()));
        true
    }
}

/// The table by its own numbers.
struct Numbered<'a>(&'a KeyTable);

impl NumberedKeys for Numbered<'_> {
    fn number(&self, id: &KeyId) -> Option<u32> {
        self.0.number(id)
    }

    fn id(&self, number: u32) -> KeyId {
        self.0.id(number)
    }

    fn targets(&mut self, source: u32, link: &CacheInfoLink, found: &mut Vec<u32>) {
        found.extend(self.0.targets(self.0.label(source, link)));
    }
}

/// The link as exports want it: output 0 of the digest that names operation and output.
pub(crate) fn folded(link: &CacheInfoLink) -> CacheInfoLink {
    CacheInfoLink { digest: KeyId::root(&link.digest, link.output, KeyScope::Shared).0, output: 0, ..*link }
}

/// A result storage that keeps the results themselves in memory.
#[derive(Default)]
pub struct InMemoryResultStorage {
    results: Mutex<ResultTable>,
}

#[derive(Default)]
struct ResultTable {
    by_id: HashMap<Arc<str>, SharedResult>,
    /// The id of each value, by its address, so that a value saved again keeps its id.
    ids: HashMap<usize, Arc<str>>,
    next: u64,
}

impl InMemoryResultStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets a result; false if there was none of this id.
    pub fn forget(&self, id: &str) -> bool {
        let mut results = self.table();
        let result = results.by_id.remove(id);
        if let Some(result) = &result {
            results.ids.remove(&result.address());
        }
        result.is_some()
    }

    /// How many results there are.
    pub fn len(&self) -> usize {
        self.table().by_id.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn table(&self) -> MutexGuard<'_, ResultTable> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheResultStorage for InMemoryResultStorage {
    fn save(&self, result: &SharedResult, created_at: Timestamp) -> Result<CacheResult, CacheError> {
        let mut table = self.table();
        let number = table.next;
        let id = table.ids.entry(result.address()).or_insert_with(|| format!("memory-{number}").into());
        let id = Arc::clone(id);
        table.next += 1;
        table.by_id.insert(Arc::clone(&id), result.clone());
        Ok(CacheResult { id, created_at })
    }

    fn load(&self, result: &CacheResult) -> Result<SharedResult, CacheError> {
        self.table().by_id.get(&result.id).cloned().ok_or(CacheError::NotFound)
    }

    fn load_remotes(&self, _: &CacheResult) -> Vec<Remote> {
        Vec::new()
    }

    fn exists(&self, result: &str) -> Result<bool, CacheError> {
        Ok(self.table().by_id.contains_key(result))
    }

    fn loads_quickly(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_storage_in_memory_conforms() {
        crate::conformance::key_storage(|| Arc::new(InMemoryKeyStorage::new()));
    }
}
