//! Storages in memory: the default of a solver, and the overlay of the durable one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cache::Timestamp;
use quern_core::Digest;

use crate::cache::storage::{CacheInfoLink, CacheKeyStorage, CacheResult, CacheResultStorage};
use crate::digest_map::DigestMap;
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
        let ids = self.table().holders(result).to_vec();
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
        let targets = self.table().targets(id, link).to_vec();
        targets.into_iter().for_each(visit);
        Ok(())
    }

    fn links(&self, id: &KeyId, link: &CacheInfoLink, found: &mut Vec<KeyId>) -> Result<(), CacheError> {
        found.extend_from_slice(self.table().targets(id, link));
        Ok(())
    }

    fn has_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<bool, CacheError> {
        Ok(self.table().targets(id, link).contains(target))
    }

    fn walk_leaving(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(CacheInfoLink, KeyId),
    ) -> Result<(), CacheError> {
        let leaving = self.table().leaving_links(id);
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
        let sources = self.table().sources(id).to_vec();
        sources.into_iter().for_each(|(source, link)| visit(source, folded(&link)));
        Ok(())
    }
}

/// The link as exports want it: output 0 of the digest that names operation and output.
pub(crate) fn folded(link: &CacheInfoLink) -> CacheInfoLink {
    CacheInfoLink { digest: KeyId::root(&link.digest, link.output, KeyScope::Shared).0, output: 0, ..*link }
}

/// The key graph itself, without a lock.
#[derive(Default)]
pub(crate) struct KeyTable {
    nodes: DigestMap<KeyId, Node>,
    /// By which keys a result can be found.
    holders: HashMap<Arc<str>, Vec<KeyId>>,
    links: DigestMap<(KeyId, CacheInfoLink), Vec<KeyId>>,
    /// How many entries of `links` each operation has.
    operations: DigestMap<Digest, usize>,
    next: u64,
}

#[derive(Default)]
struct Node {
    /// Counts nodes as they come; what is made one after another is asked for so, too.
    number: u64,
    results: Vec<CacheResult>,
    /// What leads here.
    sources: Vec<(KeyId, CacheInfoLink)>,
    /// What leads away from here.
    leaving: Vec<CacheInfoLink>,
}

impl KeyTable {
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn contains(&self, id: &KeyId) -> bool {
        self.nodes.contains_key(id)
    }

    /// All keys, in the order they came.
    pub(crate) fn ids(&self) -> Vec<KeyId> {
        let mut ids: Vec<(u64, KeyId)> = self.nodes.iter().map(|(id, node)| (node.number, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    fn node(&mut self, id: &KeyId) -> &mut Node {
        let next = &mut self.next;
        self.nodes.entry(*id).or_insert_with(|| {
            *next += 1;
            Node { number: *next, ..Node::default() }
        })
    }

    pub(crate) fn results(&self, id: &KeyId) -> &[CacheResult] {
        self.nodes.get(id).map_or(&[], |node| &node.results)
    }

    pub(crate) fn holders(&self, result: &str) -> &[KeyId] {
        self.holders.get(result).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn targets(&self, id: &KeyId, link: &CacheInfoLink) -> &[KeyId] {
        self.links.get(&(*id, *link)).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn sources(&self, id: &KeyId) -> &[(KeyId, CacheInfoLink)] {
        self.nodes.get(id).map_or(&[], |node| &node.sources)
    }

    /// What leads away from a key, and where to.
    pub(crate) fn leaving_links(&self, id: &KeyId) -> Vec<(CacheInfoLink, KeyId)> {
        let mut links = self.nodes.get(id).map(|node| node.leaving.clone()).unwrap_or_default();
        links.sort_unstable();
        links.dedup();
        let with_targets =
            |link: CacheInfoLink| self.targets(id, &link).iter().map(move |t| (link, *t)).collect::<Vec<_>>();
        links.into_iter().flat_map(with_targets).collect()
    }

    pub(crate) fn knows_operation(&self, digest: &Digest) -> bool {
        self.operations.contains_key(digest)
    }

    pub(crate) fn leaving(&self, id: &KeyId) -> usize {
        self.nodes.get(id).map_or(0, |node| node.leaving.len())
    }

    pub(crate) fn add_result(&mut self, id: &KeyId, result: CacheResult) {
        let next = &mut self.next;
        let node = self.nodes.entry(*id).or_insert_with(|| {
            *next += 1;
            Node { number: *next, ..Node::default() }
        });
        match node.results.iter_mut().find(|r| r.id == result.id) {
            Some(known) => *known = result,
            None => {
                self.holders.entry(Arc::clone(&result.id)).or_default().push(*id);
                node.results.push(result);
            }
        }
    }

    pub(crate) fn add_link(&mut self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) {
        let targets = self.links.entry((*id, *link)).or_default();
        if targets.contains(target) {
            return;
        }
        targets.push(*target);
        if targets.len() == 1 {
            *self.operations.entry(link.digest).or_default() += 1;
        }
        self.node(id).leaving.push(*link);
        self.node(target).sources.push((*id, *link));
    }

    /// Takes a result from all its keys, and nothing else; returns the keys.
    pub(crate) fn drop_result(&mut self, result: &str) -> Vec<KeyId> {
        let holders = self.holders.remove(result).unwrap_or_default();
        for id in &holders {
            if let Some(node) = self.nodes.get_mut(id) {
                node.results.retain(|r| &*r.id != result);
            }
        }
        holders
    }

    /// Removes a node and the links that lead to it.
    pub(crate) fn remove(&mut self, id: &KeyId) -> Vec<(KeyId, CacheInfoLink)> {
        let sources = self.nodes.remove(id).map(|node| node.sources).unwrap_or_default();
        for (source, link) in &sources {
            self.unlink(source, link, id);
        }
        sources
    }

    fn release(&mut self, result: &str) {
        let mut open = self.drop_result(result);
        while let Some(id) = open.pop() {
            let idle = |node: &Node| node.results.is_empty() && node.leaving.is_empty();
            if self.nodes.get(&id).is_some_and(idle) {
                open.extend(self.remove(&id).into_iter().map(|(source, _)| source));
            }
        }
    }

    fn unlink(&mut self, source: &KeyId, link: &CacheInfoLink, target: &KeyId) {
        if let Some(targets) = self.links.get_mut(&(*source, *link)) {
            targets.retain(|t| t != target);
            if targets.is_empty() {
                self.links.remove(&(*source, *link));
                if let Some(count) = self.operations.get_mut(&link.digest) {
                    *count -= 1;
                }
                if self.operations.get(&link.digest) == Some(&0) {
                    self.operations.remove(&link.digest);
                }
            }
        }
        if let Some(node) = self.nodes.get_mut(source)
            && let Some(place) = node.leaving.iter().position(|l| l == link)
        {
            node.leaving.swap_remove(place);
        }
    }
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
