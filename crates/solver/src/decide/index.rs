//! Finds the live edge that does the same work as another.

use crate::cache::CacheInfoLink;
use crate::digest_map::DigestMap;
use crate::key::KeyId;

use super::{Arena, EdgeId, Id};

/// All the names of one piece of work: for each input the ways by which it is known, or for a
/// root its own key.
pub(super) enum WorkKey {
    Root(KeyId),
    Inputs(Vec<Vec<(KeyId, CacheInfoLink)>>),
}

#[derive(Default)]
pub(super) struct EdgeIndex {
    nodes: Arena<Node>,
    roots: DigestMap<KeyId, Id<Node>>,
    links: DigestMap<(KeyId, CacheInfoLink), Vec<Id<Node>>>,
    /// The node of an edge.
    by_edge: DigestMap<EdgeId, Id<Node>>,
}

struct Node {
    edge: EdgeId,
    root: Option<KeyId>,
    names: Vec<(KeyId, CacheInfoLink)>,
}

impl EdgeIndex {
    /// The edges that share a name for every input: a union over the alternatives of an input,
    /// an intersection over the inputs.
    pub(super) fn find(&self, key: &WorkKey) -> Vec<EdgeId> {
        self.nodes_of(key).into_iter().map(|node| self.nodes[node].edge).collect()
    }

    fn nodes_of(&self, key: &WorkKey) -> Vec<Id<Node>> {
        match key {
            WorkKey::Root(id) => self.roots.get(id).copied().into_iter().collect(),
            WorkKey::Inputs(inputs) => {
                let mut common: Option<Vec<Id<Node>>> = None;
                for alternatives in inputs {
                    let reached = alternatives.iter().filter_map(|name| self.links.get(name)).flatten();
                    let reached: Vec<Id<Node>> = reached.copied().collect();
                    match &mut common {
                        None => common = Some(reached),
                        Some(common) => common.retain(|node| reached.contains(node)),
                    }
                }
                let mut common = common.unwrap_or_default();
                common.sort_unstable();
                common.dedup();
                common
            }
        }
    }

    /// Enters an edge under a key, or gives the place of `instead_of` to it.
    pub(super) fn enter(&mut self, key: WorkKey, edge: EdgeId, instead_of: Option<EdgeId>) {
        let node = match instead_of.and_then(|old| self.by_edge.remove(&old)) {
            Some(node) => {
                self.nodes[node].edge = edge;
                node
            }
            None => self.nodes.insert(Node { edge, root: None, names: Vec::new() }),
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
            WorkKey::Root(id) => {
                self.roots.insert(id, node);
                self.nodes[node].root = Some(id);
            }
            WorkKey::Inputs(inputs) => {
                for name in inputs.into_iter().flatten() {
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
        if let Some(root) = node.root
            && self.roots.get(&root) == Some(&id)
        {
            self.roots.remove(&root);
        }
        for name in node.names {
            if let Some(nodes) = self.links.get_mut(&name) {
                nodes.retain(|n| *n != id);
                if nodes.is_empty() {
                    self.links.remove(&name);
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len() + self.roots.len() + self.links.len()
    }
}
