//! Finds the live edge that does the same work as another.

use crate::cache::CacheInfoLink;
use crate::digest_map::DigestMap;
use crate::key::KeyId;

use super::{Arena, EdgeId, Id};

/// All the names of one piece of work: for each input the ways by which it is known, or for a
/// root its own keys, of which one suffices.
pub(super) enum WorkKey {
    Roots(Vec<KeyId>),
    /// Sorted by input.
    Inputs(Vec<(KeyId, CacheInfoLink)>),
}

#[derive(Default)]
pub(super) struct EdgeIndex {
    nodes: Arena<Node>,
    roots: DigestMap<KeyId, Vec<Id<Node>>>,
    links: DigestMap<(KeyId, CacheInfoLink), Vec<Id<Node>>>,
    /// The node of an edge.
    by_edge: DigestMap<EdgeId, Id<Node>>,
}

struct Node {
    edge: EdgeId,
    roots: Vec<KeyId>,
    names: Vec<(KeyId, CacheInfoLink)>,
}

impl EdgeIndex {
    /// The edges that share a name for every input: a union over the alternatives of an input,
    /// an intersection over the inputs.
    pub(super) fn find(&self, key: &WorkKey) -> Vec<EdgeId> {
        self.nodes_of(key).into_iter().map(|node| self.nodes[node].edge).collect()
    }

    fn nodes_of(&self, key: &WorkKey) -> Vec<Id<Node>> {
        let mut nodes = match key {
            WorkKey::Roots(ids) => {
                ids.iter().filter_map(|id| self.roots.get(id)).flatten().copied().collect()
            }
            WorkKey::Inputs(inputs) => {
                let mut common: Option<Vec<Id<Node>>> = None;
                for alternatives in inputs.chunk_by(|a, b| a.1.input == b.1.input) {
                    let reached = alternatives.iter().filter_map(|name| self.links.get(name)).flatten();
                    let reached: Vec<Id<Node>> = reached.copied().collect();
                    match &mut common {
                        None => common = Some(reached),
                        Some(common) => common.retain(|node| reached.contains(node)),
                    }
                }
                common.unwrap_or_default()
            }
        };
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Enters an edge under a key, or gives the place of `instead_of` to it.
    pub(super) fn enter(&mut self, key: WorkKey, edge: EdgeId, instead_of: Option<EdgeId>) {
        let node = match instead_of.and_then(|old| self.by_edge.remove(&old)) {
            Some(node) => {
                self.nodes[node].edge = edge;
                node
            }
            None => self.nodes.insert(Node { edge, roots: Vec::new(), names: Vec::new() }),
        };
        if let Some(old) = self.by_edge.insert(edge, node).filter(|old| *old != node) {
            self.remove(old);
        }
        self.add_names(node, key);
    }

    /// Lets an edge that stands in the index be found by more names.
    pub(super) fn extend(&mut self, edge: EdgeId, key: WorkKey) {
        if let Some(&node) = self.by_edge.get(&edge) {
            self.add_names(node, key);
        }
    }

    fn add_names(&mut self, node: Id<Node>, key: WorkKey) {
        match key {
            WorkKey::Roots(ids) => {
                for id in ids {
                    let nodes = self.roots.entry(id).or_default();
                    if !nodes.contains(&node) {
                        nodes.push(node);
                        self.nodes[node].roots.push(id);
                    }
                }
            }
            WorkKey::Inputs(inputs) => {
                for name in inputs {
                    let nodes = self.links.entry(name).or_default();
                    if !nodes.contains(&node) {
                        nodes.push(node);
                        self.nodes[node].names.push(name);
                    }
                }
            }
        }
    }

    /// Another edge does the work from now on: it takes the place, unless it has one.
    pub(super) fn hand_over(&mut self, from: EdgeId, into: EdgeId) {
        if self.by_edge.contains_key(&into) {
            self.release(from);
        } else if let Some(node) = self.by_edge.remove(&from) {
            self.nodes[node].edge = into;
            self.by_edge.insert(into, node);
        }
    }

    /// Forgets an edge.
    pub(super) fn release(&mut self, edge: EdgeId) {
        if let Some(node) = self.by_edge.remove(&edge) {
            self.remove(node);
        }
    }

    fn remove(&mut self, id: Id<Node>) {
        let Some(node) = self.nodes.remove(id) else { return };
        node.roots.iter().for_each(|root| remove_from(&mut self.roots, root, id));
        node.names.iter().for_each(|name| remove_from(&mut self.links, name, id));
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len() + self.roots.len() + self.links.len()
    }
}

fn remove_from<K: std::hash::Hash + Eq>(map: &mut DigestMap<K, Vec<Id<Node>>>, key: &K, id: Id<Node>) {
    if let Some(nodes) = map.get_mut(key) {
        nodes.retain(|node| *node != id);
        if nodes.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use quern_core::Digest;

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn edge(number: u32) -> EdgeId {
        Id::from_number(number)
    }

    fn root(name: &str) -> WorkKey {
        WorkKey::Roots(vec![KeyId(digest(name))])
    }

    /// Names of inputs, each with the parts used.
    fn inputs(all: &[&[(&str, &str)]]) -> WorkKey {
        let name = |input: u32, (key, part): &(&str, &str)| {
            let selector = (!part.is_empty()).then(|| digest(part));
            (KeyId(digest(key)), CacheInfoLink { input, output: 0, digest: digest("op"), selector })
        };
        let names = (0u32..).zip(all).flat_map(|(i, names)| names.iter().map(move |n| name(i, n)));
        WorkKey::Inputs(names.collect())
    }

    /// 51: equal roots are found, others are not, and nothing stays.
    #[test]
    fn roots_are_found_by_their_key() {
        let mut index = EdgeIndex::default();
        assert!(index.find(&root("a")).is_empty());
        index.enter(root("a"), edge(1), None);
        index.enter(root("b"), edge(2), None);
        assert_eq!(index.find(&root("a")), [edge(1)]);
        let both = WorkKey::Roots(vec![KeyId(digest("a")), KeyId(digest("b"))]);
        assert_eq!(index.find(&both).len(), 2, "one of several cache maps suffices");
        index.release(edge(1));
        index.release(edge(2));
        assert_eq!(index.len(), 0);
    }

    /// 52 and 53: all inputs must match, by any of their names; more names extend an entry.
    #[test]
    fn every_input_must_match_by_one_of_its_names() {
        let mut index = EdgeIndex::default();
        let key = || inputs(&[&[("foo", "s")], &[("bar", "")]]);
        index.enter(key(), edge(1), None);
        assert_eq!(index.find(&key()), [edge(1)]);
        assert!(index.find(&inputs(&[&[("foo", "t")], &[("bar", "")]])).is_empty(), "another selector");
        assert!(index.find(&inputs(&[&[("foo", "s")], &[("baz", "")]])).is_empty(), "another input");
        index.extend(edge(1), inputs(&[&[("foo", "s"), ("alias", "")], &[("bar", "")]]));
        assert_eq!(index.find(&inputs(&[&[("alias", "")], &[("bar", "")]])), [edge(1)]);
        index.enter(inputs(&[&[("new", "")], &[("bar", "")]]), edge(2), None);
        let bridge = inputs(&[&[("alias", ""), ("new", "")], &[("bar", "")]]);
        assert_eq!(index.find(&bridge), [edge(1), edge(2)]);
        index.hand_over(edge(1), edge(3));
        assert_eq!(index.find(&key()), [edge(3)]);
        index.enter(key(), edge(4), Some(edge(3)));
        assert_eq!(index.find(&key()), [edge(4)]);
        for number in 2..5 {
            index.release(edge(number));
        }
        assert_eq!(index.len(), 0);
    }
}
