//! The storage's content: a snapshot, and what was changed since.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use quern_core::Digest;

use crate::cache::key_table::{KeyTable, LinkNumbers};
use crate::cache::storage::{CacheInfoLink, CacheResult, Era, NumberedKeys, common};
use crate::key::KeyId;

use super::base::Base;
use super::log::Change;

#[derive(Default)]
pub(super) struct Table {
    base: Base,
    /// What was added since.
    extra: KeyTable,
    /// Nodes of the snapshot that are no more. A link of the snapshot stands while its target does.
    gone: HashSet<u32>,
    /// How many links have ceased to leave a node of the snapshot.
    lost: HashMap<u32, u32>,
    /// Results of the snapshot that were released.
    released: HashSet<Arc<str>>,
    /// Which nodes of the snapshot have a result; made at the first question.
    holders: Option<HashMap<Arc<str>, Vec<u32>>>,
    /// The links that leave each node of the snapshot; made at the first question.
    leaving: Option<HashMap<u32, Vec<(CacheInfoLink, u32)>>>,
    pub(super) era: Era,
}

impl Table {
    pub(super) fn over(base: Base) -> Self {
        Self { base, ..Self::default() }
    }

    /// True if there is nothing, and nothing was.
    pub(super) fn is_empty(&self) -> bool {
        self.base.nodes() == 0 && self.extra.end() == 0
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, keys: usize, links: usize) {
        self.extra.reserve(keys, links);
    }

    /// Applies a change; false if everything stood so already.
    pub(super) fn apply(&mut self, change: &Change<'_>) -> bool {
        match change {
            Change::AddResult { id, created_at, result } => {
                let result = CacheResult { id: (*result).into(), created_at: *created_at };
                let known = self.standing(id).is_some()
                    && self.results(id).is_ok_and(|results| results.contains(&result));
                !known && self.extra.add_result(id, result)
            }
            Change::AddLink { id, link, target } => {
                let mut known = false;
                if let Some(node) = self.base.node(id) {
                    self.old_targets(node, link, &mut 0, |old| known |= self.base.id(old) == *target);
                }
                !known && self.extra.add_link(id, link, target)
            }
            Change::Release { result } => self.release(result),
        }
    }

    /// Adds a result to a key and links to it; false if everything stood so already.
    pub(super) fn add_key(
        &mut self,
        id: &KeyId,
        result: &CacheResult,
        links: &[(KeyId, CacheInfoLink)],
    ) -> bool {
        if self.base.nodes() == 0 {
            let added = self.extra.add_result(id, result.clone());
            return self.extra.add_links(id, links) || added;
        }
        let mut added =
            self.apply(&Change::AddResult { id: *id, created_at: result.created_at, result: &result.id });
        for (source, link) in links {
            added |= self.apply(&Change::AddLink { id: *source, link: *link, target: *id });
        }
        added
    }

    /// The number of a key: that of its node in the snapshot if this still stands, else that among
    /// what was added since, counted on.
    pub(super) fn number(&self, id: &KeyId) -> Option<u32> {
        self.standing(id).or_else(|| Some(self.base.nodes() + self.extra.number(id)?))
    }

    /// The key of a number.
    pub(super) fn id(&self, number: u32) -> KeyId {
        match number.checked_sub(self.base.nodes()) {
            None => self.base.id(number),
            Some(number) => self.extra.id(number),
        }
    }

    /// Greater than every number of a key.
    pub(super) fn end(&self) -> u32 {
        self.base.nodes() + self.extra.end()
    }

    /// The number of a node of the snapshot that still stands.
    fn standing(&self, id: &KeyId) -> Option<u32> {
        self.base.node(id).filter(|node| !self.gone.contains(node))
    }

    pub(super) fn exists(&self, id: &KeyId) -> bool {
        self.extra.contains(id) || self.standing(id).is_some()
    }

    /// All keys, in the order they came: what belongs together stays together on disk.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let old = (0..self.base.nodes()).filter(|node| !self.gone.contains(node));
        let new = self
            .extra
            .numbers()
            .filter(|number| self.base.nodes() == 0 || self.standing(&self.extra.id(*number)).is_none());
        old.chain(new.map(|number| self.base.nodes() + number)).collect()
    }

    pub(super) fn ids(&self) -> Vec<KeyId> {
        self.numbers().into_iter().map(|number| self.id(number)).collect()
    }

    pub(super) fn results(&self, id: &KeyId) -> io::Result<Vec<CacheResult>> {
        let mut results = match self.standing(id) {
            Some(node) => self.base.results(node)?,
            None => Vec::new(),
        };
        let newer = self.extra.results(id);
        results.retain(|r| !self.released.contains(&r.id) && newer.iter().all(|n| n.id != r.id));
        results.extend_from_slice(newer);
        Ok(results)
    }

    /// The results of a key by its number.
    pub(super) fn results_at(&self, number: u32) -> io::Result<Cow<'_, [CacheResult]>> {
        if self.base.nodes() == 0 {
            return Ok(Cow::Borrowed(self.extra.results_at(number)));
        }
        self.results(&self.id(number)).map(Cow::Owned)
    }

    /// At least as many as there are links.
    pub(super) fn link_count(&self) -> usize {
        self.base.links() as usize + self.extra.link_count()
    }

    pub(super) fn targets(&self, id: &KeyId, link: &CacheInfoLink, found: &mut Vec<KeyId>) {
        if let Some(node) = self.base.node(id) {
            self.old_targets(node, link, &mut 0, |target| found.push(self.base.id(target)));
        }
        if !self.extra.is_empty() {
            found.extend(self.extra.targets_of(id, link));
        }
    }

    /// The keys that every input leads to.
    pub(super) fn common_targets(&self, links: &[(KeyId, CacheInfoLink)]) -> Vec<KeyId> {
        if self.base.nodes() == 0 {
            return self.extra.common_targets(links);
        }
        let targets = |id: &KeyId, link: &CacheInfoLink, found: &mut Vec<KeyId>| {
            self.targets(id, link, found);
            Ok::<(), std::convert::Infallible>(())
        };
        common(links, targets).unwrap_or_else(|never| match never {})
    }

    /// Visits where a node of the snapshot leads; `near` is about where the operation stands.
    fn old_targets(&self, node: u32, link: &CacheInfoLink, near: &mut u32, mut visit: impl FnMut(u32)) {
        let Some(operation) = self.base.number(&link.digest, *near) else { return };
        *near = operation;
        let selector = match &link.selector {
            None => 0,
            Some(selector) => match self.base.number(selector, operation) {
                Some(number) => number + 1,
                None => return,
            },
        };
        self.base.targets(node, operation, (link.input, link.output, selector), |target| {
            if self.gone.is_empty() || !self.gone.contains(&target) {
                visit(target);
            }
        });
    }

    pub(super) fn sources(&self, id: &KeyId) -> Vec<(KeyId, CacheInfoLink)> {
        let old = self.standing(id).into_iter().flat_map(|node| self.base.sources(node));
        let old = old.map(|(source, link)| (self.base.id(source), link));
        old.chain(self.extra.sources(id)).collect()
    }

    /// Appends what leads to a key, by numbers.
    pub(super) fn incoming(&self, number: u32, links: &mut Vec<LinkNumbers>) {
        let nodes = self.base.nodes();
        if number < nodes {
            links.extend(self.base.numbered_sources(number));
        }
        let new = match number.checked_sub(nodes) {
            Some(number) => Some(number),
            None => self.extra.number(&self.base.id(number)),
        };
        let new = new.into_iter().flat_map(|number| self.extra.numbered_incoming(number));
        links.extend(new.map(|link| LinkNumbers {
            source: self.counted_on(link.source),
            operation: self.digest_counted_on(link.operation),
            selector: link.selector.map(|number| self.digest_counted_on(number)),
            ..link
        }));
    }

    /// The digest of an operation or selector by its number among all.
    pub(super) fn digest(&self, number: u32) -> Digest {
        match number.checked_sub(self.base.digests()) {
            None => self.base.digest_at(number),
            Some(number) => self.extra.digest(number),
        }
    }

    /// Greater than every number of a digest.
    pub(super) fn digest_end(&self) -> u32 {
        self.base.digests() + self.extra.digest_end()
    }

    /// The number of a digest among all, from that among what was added.
    fn digest_counted_on(&self, number: u32) -> u32 {
        if self.base.digests() == 0 {
            return number;
        }
        let old = self.base.number(&self.extra.digest(number), 0);
        old.unwrap_or(self.base.digests() + number)
    }

    /// The number of a key among all, from that among what was added.
    fn counted_on(&self, number: u32) -> u32 {
        if self.base.nodes() == 0 {
            return number;
        }
        self.standing(&self.extra.id(number)).unwrap_or(self.base.nodes() + number)
    }

    /// What leads away from a key, and where to.
    pub(super) fn leaving_links(&mut self, id: &KeyId) -> Vec<(CacheInfoLink, KeyId)> {
        let mut links: Vec<_> = self.extra.leaving_links(id).collect();
        if let Some(node) = self.standing(id) {
            let base = &self.base;
            let leaving = self.leaving.get_or_insert_with(|| {
                let mut leaving: HashMap<u32, Vec<(CacheInfoLink, u32)>> = HashMap::new();
                for target in 0..base.nodes() {
                    for (source, link) in base.sources(target) {
                        leaving.entry(source).or_default().push((link, target));
                    }
                }
                leaving
            });
            let old = leaving.get(&node).into_iter().flatten();
            let old = old.filter(|(_, target)| !self.gone.contains(target));
            links.extend(old.map(|(link, target)| (*link, base.id(*target))));
        }
        links
    }

    pub(super) fn knows_operation(&self, digest: &Digest) -> bool {
        self.extra.knows_operation(digest) || self.base.number(digest, 0).is_some()
    }

    /// The keys that have a result.
    pub(super) fn holders(&mut self, result: &str) -> io::Result<Vec<KeyId>> {
        let old = self.holders_in_base(result)?;
        let old = old.into_iter().filter(|node| !self.gone.contains(node)).map(|node| self.base.id(node));
        let mut ids: Vec<KeyId> = old.chain(self.extra.holders(result)).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn holders_in_base(&mut self, result: &str) -> io::Result<Vec<u32>> {
        if self.released.contains(result) {
            return Ok(Vec::new());
        }
        if self.holders.is_none() {
            let mut holders: HashMap<Arc<str>, Vec<u32>> = HashMap::new();
            for node in 0..self.base.nodes() {
                for result in self.base.results(node)? {
                    holders.entry(result.id).or_default().push(node);
                }
            }
            self.holders = Some(holders);
        }
        Ok(self.holders.as_ref().and_then(|holders| holders.get(result)).cloned().unwrap_or_default())
    }

    /// Takes a result from all its keys, and removes keys that serve nothing any more.
    fn release(&mut self, result: &str) -> bool {
        let Ok(mut open) = self.holders(result) else { return false };
        if open.is_empty() {
            return false;
        }
        self.released.insert(result.into());
        self.extra.drop_result(result);
        while let Some(id) = open.pop() {
            if self.is_idle(&id) {
                let sources = self.sources(&id);
                self.remove(&id);
                open.extend(sources.into_iter().map(|(source, _)| source));
            }
        }
        true
    }

    fn is_idle(&self, id: &KeyId) -> bool {
        let old = self.standing(id);
        let lost = |node: u32| self.lost.get(&node).copied().unwrap_or_default();
        let leaving = old.map_or(0, |node| (self.base.leaving(node) - lost(node)) as usize);
        leaving + self.extra.leaving(id) == 0 && self.results(id).is_ok_and(|results| results.is_empty())
    }

    fn remove(&mut self, id: &KeyId) {
        self.era.end();
        if let Some(node) = self.standing(id) {
            self.gone.insert(node);
            for (source, _) in self.base.sources(node) {
                *self.lost.entry(source).or_default() += 1;
            }
        }
        self.extra.remove(id);
    }
}

/// The keys by numbers; remembers where the last question led.
pub(super) struct Numbered<'a> {
    table: &'a Table,
    near: u32,
}

impl<'a> Numbered<'a> {
    pub(super) fn of(table: &'a Table) -> Self {
        Self { table, near: 0 }
    }
}

impl NumberedKeys for Numbered<'_> {
    fn number(&self, id: &KeyId) -> Option<u32> {
        self.table.number(id)
    }

    fn id(&self, number: u32) -> KeyId {
        self.table.id(number)
    }

    fn targets(&mut self, source: u32, link: &CacheInfoLink, found: &mut Vec<u32>) {
        let table = self.table;
        let added = source.checked_sub(table.base.nodes());
        if added.is_none() {
            table.old_targets(source, link, &mut self.near, |target| found.push(target));
        }
        if table.extra.is_empty() {
            return;
        }
        if let Some(number) = added.or_else(|| table.extra.number(&table.base.id(source))) {
            let new = table.extra.targets(table.extra.label(number, link));
            found.extend(new.map(|target| table.counted_on(target)));
        }
    }
}
