//! The graph of keys in memory, in dense tables: nodes, links and digests go by numbers.

use std::collections::HashMap;
use std::sync::Arc;

use hashbrown::HashTable;
use quern_core::Digest;

use crate::cache::numbers::Numbers;
use crate::cache::storage::{CacheInfoLink, CacheResult, Era, common};
use crate::digest_map::DigestMap;
use crate::few::Few;
use crate::key::KeyId;

/// Ends a list of links.
const NONE: u32 = u32::MAX;

/// The key graph itself, without a lock.
#[derive(Default)]
pub(crate) struct KeyTable {
    ids: Numbers,
    nodes: Vec<Node>,
    /// Operations and selectors of links.
    digests: Numbers,
    /// How many links need each digest.
    uses: Vec<u32>,
    ports: Vec<Port>,
    port_numbers: DigestMap<Port, u32>,
    links: Vec<Link>,
    free: Vec<u32>,
    /// The first of the links that differ only in their target.
    by_label: HashTable<u32>,
    /// By which keys a result can be found; made at the first question.
    holders: Option<HashMap<Arc<str>, Vec<u32>>>,
    pub(super) era: Era,
}

struct Node {
    results: Few<CacheResult>,
    /// The latest link that leads here.
    incoming: u32,
    /// The latest link that leaves.
    outgoing: u32,
    leaving: u32,
}

/// What a link says apart from its target.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    source: u32,
    operation: u32,
    /// A number of a [`Port`].
    port: u32,
}

/// Which input and output of an operation a link is for. Most operations have the same few.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Port {
    input: u32,
    /// The part of the input that is used; `NONE` for all of it.
    selector: u32,
    output: i64,
}

/// A link to some key by the numbers of a table.
#[derive(Clone, Copy)]
pub(crate) struct LinkNumbers {
    pub(crate) source: u32,
    pub(crate) input: u32,
    pub(crate) output: i64,
    pub(crate) operation: u32,
    pub(crate) selector: Option<u32>,
}

struct Link {
    label: Label,
    target: u32,
    next_incoming: u32,
    next_outgoing: u32,
    before_outgoing: u32,
    /// The next link of this label.
    next: u32,
}

impl Label {
    fn hash(&self) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let wide = |a: u32, b: u32| u64::from(a) | u64::from(b) << 32;
        let hash = wide(self.source, self.operation).wrapping_mul(ODD);
        let hash = (hash.rotate_left(25) ^ u64::from(self.port)).wrapping_mul(ODD);
        hash ^ (hash >> 32)
    }
}

impl KeyTable {
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(crate) fn contains(&self, id: &KeyId) -> bool {
        self.number(id).is_some()
    }

    pub(crate) fn number(&self, id: &KeyId) -> Option<u32> {
        self.ids.get(&id.0)
    }

    pub(crate) fn id(&self, number: u32) -> KeyId {
        KeyId(self.ids.digest(number))
    }

    fn node(&self, id: &KeyId) -> Option<&Node> {
        self.number(id).map(|number| &self.nodes[number as usize])
    }

    /// All keys; as long as nothing was removed, in the order they came.
    pub(crate) fn ids(&self) -> Vec<KeyId> {
        self.numbers().map(|number| self.id(number)).collect()
    }

    /// The numbers of all keys.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        let whole = self.ids.are_all_in_use();
        (0..self.ids.end()).filter(move |number| whole || self.number(&self.id(*number)) == Some(*number))
    }

    pub(crate) fn link_count(&self) -> usize {
        self.links.len() - self.free.len()
    }

    /// Greater than every number of a key.
    pub(crate) fn end(&self) -> u32 {
        self.ids.end()
    }

    pub(crate) fn results(&self, id: &KeyId) -> &[CacheResult] {
        self.node(id).map_or(&[], |node| &node.results)
    }

    /// The results of a key that exists, by its number.
    pub(crate) fn results_at(&self, number: u32) -> &[CacheResult] {
        &self.nodes[number as usize].results
    }

    /// The label of a link from a node, if there could be such a link.
    pub(crate) fn label(&self, source: u32, link: &CacheInfoLink) -> Option<Label> {
        let operation = self.digests.get(&link.digest)?;
        let selector = link.selector.as_ref().map_or(Some(NONE), |selector| self.digests.get(selector))?;
        let port = Port { input: link.input, selector, output: link.output };
        let port = *self.port_numbers.get(&port)?;
        Some(Label { source, operation, port })
    }

    /// The nodes that links of a label lead to.
    pub(crate) fn targets(&self, label: Option<Label>) -> impl Iterator<Item = u32> {
        self.targets_from(label.and_then(|label| self.first_of(&label)))
    }

    fn targets_from(&self, first: Option<u32>) -> impl Iterator<Item = u32> {
        let next = |at: &u32| Some(self.links[*at as usize].next).filter(|next| *next != NONE);
        std::iter::successors(first, next).map(|at| self.links[at as usize].target)
    }

    /// The keys that a key leads to.
    pub(crate) fn targets_of(&self, id: &KeyId, link: &CacheInfoLink) -> impl Iterator<Item = KeyId> {
        // Most questions are about operations that nothing is known of: these are asked for first.
        let source = self.digests.get(&link.digest).and_then(|_| self.number(id));
        self.targets(source.and_then(|source| self.label(source, link))).map(|target| self.id(target))
    }

    /// The keys that every input leads to; see [`CacheKeyStorage::common_targets`].
    ///
    /// [`CacheKeyStorage::common_targets`]: crate::CacheKeyStorage::common_targets
    pub(crate) fn common_targets(&self, links: &[(KeyId, CacheInfoLink)]) -> Vec<KeyId> {
        if links.first().is_none_or(|(_, link)| !self.knows_operation(&link.digest)) {
            return Vec::new();
        }
        let targets = |id: &KeyId, link: &CacheInfoLink, found: &mut Vec<KeyId>| {
            found.extend(self.targets_of(id, link));
            Ok::<(), std::convert::Infallible>(())
        };
        common(links, targets).unwrap_or_else(|never| match never {})
    }

    fn first_of(&self, label: &Label) -> Option<u32> {
        self.by_label.find(label.hash(), |at| self.links[*at as usize].label == *label).copied()
    }

    fn link(&self, at: u32) -> CacheInfoLink {
        let Label { operation, port, .. } = self.links[at as usize].label;
        let Port { input, selector, output } = self.ports[port as usize];
        let selector = (selector != NONE).then(|| self.digests.digest(selector));
        CacheInfoLink { input, output, digest: self.digests.digest(operation), selector }
    }

    /// What leads to a key, the latest first.
    pub(crate) fn sources(&self, id: &KeyId) -> impl Iterator<Item = (KeyId, CacheInfoLink)> {
        let all = self.number(id).into_iter().flat_map(|number| self.incoming(number));
        all.map(|(source, link)| (self.id(source), link))
    }

    /// What leads to a node, the latest first.
    fn incoming(&self, number: u32) -> impl Iterator<Item = (u32, CacheInfoLink)> {
        self.links_to(number).map(|at| (self.links[at as usize].label.source, self.link(at)))
    }

    fn links_to(&self, number: u32) -> impl Iterator<Item = u32> {
        let first = Some(self.nodes[number as usize].incoming).filter(|at| *at != NONE);
        let next = |at: &u32| Some(self.links[*at as usize].next_incoming).filter(|next| *next != NONE);
        std::iter::successors(first, next)
    }

    /// What leads to a node, the latest first, by numbers.
    pub(crate) fn numbered_incoming(&self, number: u32) -> impl Iterator<Item = LinkNumbers> {
        self.links_to(number).map(|at| {
            let Label { source, operation, port } = self.links[at as usize].label;
            let Port { input, selector, output } = self.ports[port as usize];
            let selector = (selector != NONE).then_some(selector);
            LinkNumbers { source, input, output, operation, selector }
        })
    }

    /// The digest of a number in [`LinkNumbers`].
    pub(crate) fn digest(&self, number: u32) -> Digest {
        self.digests.digest(number)
    }

    /// Greater than every number of a digest.
    pub(crate) fn digest_end(&self) -> u32 {
        self.digests.end()
    }

    /// What leads away from a key, and where to; the latest first.
    pub(crate) fn leaving_links(&self, id: &KeyId) -> impl Iterator<Item = (CacheInfoLink, KeyId)> {
        let first = self.node(id).map(|node| node.outgoing).filter(|at| *at != NONE);
        let next = |at: &u32| Some(self.links[*at as usize].next_outgoing).filter(|next| *next != NONE);
        let links = std::iter::successors(first, next);
        links.map(|at| (self.link(at), self.id(self.links[at as usize].target)))
    }

    pub(crate) fn leaving(&self, id: &KeyId) -> usize {
        self.node(id).map_or(0, |node| node.leaving as usize)
    }

    /// True if some link is for this operation or part.
    pub(crate) fn knows_operation(&self, digest: &Digest) -> bool {
        self.digests.get(digest).is_some()
    }

    /// Makes room for so many more, each link for an operation of its own at worst.
    pub(crate) fn reserve(&mut self, keys: usize, links: usize) {
        self.ids.reserve(keys);
        self.nodes.reserve(keys);
        self.digests.reserve(keys.min(links));
        self.uses.reserve(keys.min(links));
        self.links.reserve(links);
        let links_of = &self.links;
        self.by_label.reserve(links, |at| links_of[*at as usize].label.hash());
    }

    fn add_node(&mut self, id: &KeyId) -> u32 {
        let number = self.ids.add(&id.0);
        if number as usize == self.nodes.len() {
            self.nodes.push(Node { results: Few::None, incoming: NONE, outgoing: NONE, leaving: 0 });
        }
        number
    }

    /// False if everything stood so already.
    pub(crate) fn add_result(&mut self, id: &KeyId, result: CacheResult) -> bool {
        let number = self.add_node(id);
        let results = &mut self.nodes[number as usize].results;
        if let Some(known) = results.iter_mut().find(|r| r.id == result.id) {
            let changes = *known != result;
            *known = result;
            return changes;
        }
        if let Some(holders) = &mut self.holders {
            holders.entry(Arc::clone(&result.id)).or_default().push(number);
        }
        results.push(result);
        true
    }

    /// False if everything stood so already.
    pub(crate) fn add_link(&mut self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> bool {
        let (source, target) = (self.add_node(id), self.add_node(target));
        let label = self.add_label(source, link);
        self.add_labelled(label, target)
    }

    /// Adds links to a key that exists; false if all stood already.
    pub(crate) fn add_links(&mut self, target: &KeyId, links: &[(KeyId, CacheInfoLink)]) -> bool {
        let mut added = false;
        let target = self.add_node(target);
        let mut before: Option<(Digest, u32)> = None;
        for (id, link) in links {
            let source = self.add_node(id);
            // The links of one key are for one operation.
            let label = match before.filter(|(digest, _)| *digest == link.digest && link.selector.is_none()) {
                Some((_, operation)) => Label { source, operation, port: self.add_port(link, NONE) },
                None => self.add_label(source, link),
            };
            before = Some((link.digest, label.operation));
            added |= self.add_labelled(label, target);
        }
        added
    }

    fn add_label(&mut self, source: u32, link: &CacheInfoLink) -> Label {
        let operation = self.digests.add(&link.digest);
        let selector = link.selector.as_ref().map_or(NONE, |selector| self.digests.add(selector));
        Label { source, operation, port: self.add_port(link, selector) }
    }

    fn add_port(&mut self, link: &CacheInfoLink, selector: u32) -> u32 {
        let port = Port { input: link.input, selector, output: link.output };
        *self.port_numbers.entry(port).or_insert_with(|| {
            self.ports.push(port);
            u32::try_from(self.ports.len() - 1).expect("a cache holds fewer than 2^32 links")
        })
    }

    fn add_labelled(&mut self, label: Label, target: u32) -> bool {
        let first = self.first_of(&label);
        if self.targets_from(first).any(|known| known == target) {
            return false;
        }
        self.count_uses(&label);
        let source = label.source;
        let (from, to) = (&self.nodes[source as usize], &self.nodes[target as usize]);
        let (next_outgoing, next_incoming) = (from.outgoing, to.incoming);
        let (next, before_outgoing) = (NONE, NONE);
        let new = Link { label, target, next_incoming, next_outgoing, before_outgoing, next };
        let at = self.place(new);
        if next_outgoing != NONE {
            self.links[next_outgoing as usize].before_outgoing = at;
        }
        let from = &mut self.nodes[source as usize];
        (from.outgoing, from.leaving) = (at, from.leaving + 1);
        self.nodes[target as usize].incoming = at;
        match first {
            Some(first) => {
                let first = &mut self.links[first as usize].next;
                let second = std::mem::replace(first, at);
                self.links[at as usize].next = second;
            }
            None => {
                let links = &self.links;
                self.by_label.insert_unique(label.hash(), at, |at| links[*at as usize].label.hash());
            }
        }
        true
    }

    fn place(&mut self, link: Link) -> u32 {
        if let Some(at) = self.free.pop() {
            self.links[at as usize] = link;
            return at;
        }
        self.links.push(link);
        u32::try_from(self.links.len() - 1).expect("a cache holds fewer than 2^32 links")
    }

    fn count_uses(&mut self, label: &Label) {
        self.uses.resize(self.digests.end() as usize, 0);
        self.uses[label.operation as usize] += 1;
        let selector = self.ports[label.port as usize].selector;
        if selector != NONE {
            self.uses[selector as usize] += 1;
        }
    }

    fn end_use(&mut self, digest: u32) {
        let uses = &mut self.uses[digest as usize];
        *uses -= 1;
        if *uses == 0 {
            self.digests.forget(digest);
        }
    }

    /// The keys that have a result.
    pub(crate) fn holders(&mut self, result: &str) -> Vec<KeyId> {
        let holders = self.holding().get(result).cloned().unwrap_or_default();
        holders.into_iter().map(|number| self.id(number)).collect()
    }

    fn holding(&mut self) -> &mut HashMap<Arc<str>, Vec<u32>> {
        let nodes = &self.nodes;
        self.holders.get_or_insert_with(|| {
            let mut holders: HashMap<Arc<str>, Vec<u32>> = HashMap::new();
            for (number, node) in (0u32..).zip(nodes) {
                for result in node.results.iter() {
                    holders.entry(Arc::clone(&result.id)).or_default().push(number);
                }
            }
            holders
        })
    }

    /// Takes a result from all its keys, and nothing else; returns the keys.
    pub(crate) fn drop_result(&mut self, result: &str) -> Vec<KeyId> {
        let holders = self.holding().remove(result).unwrap_or_default();
        for number in &holders {
            self.nodes[*number as usize].results.retain(|r| &*r.id != result);
        }
        holders.into_iter().map(|number| self.id(number)).collect()
    }

    /// Removes a node without results that leads nowhere, and the links that lead to it; returns
    /// where these came from.
    pub(crate) fn remove(&mut self, id: &KeyId) -> Vec<KeyId> {
        let Some(number) = self.number(id) else { return Vec::new() };
        self.era.end();
        let mut sources = Vec::new();
        let mut at = self.nodes[number as usize].incoming;
        while at != NONE {
            sources.push(self.id(self.links[at as usize].label.source));
            let next = self.links[at as usize].next_incoming;
            self.remove_link(at);
            at = next;
        }
        self.nodes[number as usize].incoming = NONE;
        self.ids.forget(number);
        sources
    }

    /// Removes a link from everything but the list of its target.
    fn remove_link(&mut self, at: u32) {
        let Link { label, next_outgoing, before_outgoing, next, .. } = self.links[at as usize];
        let from = &mut self.nodes[label.source as usize];
        from.leaving -= 1;
        if before_outgoing == NONE {
            from.outgoing = next_outgoing;
        } else {
            self.links[before_outgoing as usize].next_outgoing = next_outgoing;
        }
        if next_outgoing != NONE {
            self.links[next_outgoing as usize].before_outgoing = before_outgoing;
        }
        self.unlabel(&label, at, next);
        self.end_use(label.operation);
        let selector = self.ports[label.port as usize].selector;
        if selector != NONE {
            self.end_use(selector);
        }
        self.free.push(at);
    }

    fn unlabel(&mut self, label: &Label, at: u32, next: u32) {
        let first = self.by_label.find_mut(label.hash(), |other| self.links[*other as usize].label == *label);
        let first = first.expect("every link is listed by its label");
        if *first != at {
            let mut before = *first;
            while self.links[before as usize].next != at {
                before = self.links[before as usize].next;
            }
            self.links[before as usize].next = next;
        } else if next != NONE {
            *first = next;
        } else if let Ok(entry) = self.by_label.find_entry(label.hash(), |other| *other == at) {
            entry.remove();
        }
    }

    pub(crate) fn release(&mut self, result: &str) {
        let mut open = self.drop_result(result);
        while let Some(id) = open.pop() {
            if self.node(&id).is_some_and(|node| node.results.is_empty() && node.leaving == 0) {
                open.extend(self.remove(&id));
            }
        }
    }
}
