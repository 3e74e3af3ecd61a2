//! Finds the live edge that does the same work as another.

use hashbrown::HashTable;

use crate::cache::CacheInfoLink;
use crate::digest_map::DigestMap;
use crate::few::Few;
use crate::key::KeyId;

use super::{Arena, EdgeId, Id};

/// One way by which an edge is known: its own key as a root, or a key of an input and the link from
/// there. Digests are spread evenly, so 128 bits mixed from them tell names apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Name(u64, u64);

impl Name {
    pub(super) fn root(id: &KeyId) -> Self {
        Self::default().mix(id.0.as_bytes())
    }

    pub(super) fn input(id: &KeyId, link: &CacheInfoLink) -> Self {
        let own = Self::root(id).mix(link.digest.as_bytes());
        let own = link.selector.map_or(own, |selector| own.mix(selector.as_bytes()));
        own.mix_words([u64::from(link.input) + 1, link.output.cast_unsigned(), 0, 0])
    }

    /// What stands for the name in a table.
    fn bits(self) -> u32 {
        self.0 as u32
    }

    fn mix(self, digest: &[u8; 32]) -> Self {
        let (words, _) = digest.as_chunks::<8>();
        self.mix_words([words[0], words[1], words[2], words[3]].map(u64::from_le_bytes))
    }

    /// Two independent sums of products of all words.
    fn mix_words(self, [a, b, c, d]: [u64; 4]) -> Self {
        let round = |state: u64, x: u64, y: u64, odd: u64| {
            let wide = u128::from(state.rotate_left(29) ^ x) * u128::from(odd);
            (wide as u64 ^ (wide >> 64) as u64).wrapping_add(y).wrapping_mul(odd)
        };
        Self(
            round(round(self.0, a, b, 0x9e37_79b9_7f4a_7c15), c, d, 0xbf58_476d_1ce4_e5b9),
            round(round(self.1, b, c, 0x94d0_49bb_1331_11eb), d, a, 0xd6e8_feb8_6659_fd93),
        )
    }
}

/// All the names of one piece of work: for each input the ways by which it is known, or for a
/// root its own keys, of which one suffices.
pub(super) enum WorkKey {
    Roots(Few<Name>),
    /// Sorted by the number of the input, which comes first.
    Inputs(Vec<(u32, Name)>),
}

impl WorkKey {
    /// All names, and whether each of them leads to the node.
    fn names(&self) -> impl Iterator<Item = (Name, bool)> {
        let (roots, inputs) = match self {
            Self::Roots(names) => (&**names, &[][..]),
            Self::Inputs(names) => (&[][..], &**names),
        };
        let roots = roots.iter().map(|name| (*name, true));
        roots.chain(inputs.iter().map(|(input, name)| (*name, *input == 0)))
    }
}

/// Names of roots and of first inputs lead to nodes; those of other inputs are only compared.
#[derive(Default)]
pub(super) struct EdgeIndex {
    nodes: Arena<Node>,
    /// The nodes of a name; hardly ever more than one.
    by_name: HashTable<Entry>,
    more: DigestMap<Name, Vec<Id<Node>>>,
    /// The nodes of edges, by the number of the edge.
    by_edge: Vec<Option<Id<Node>>>,
}

/// Some bits of a name, and a node that has it. The whole name stands in the node.
type Entry = (u32, Id<Node>);

struct Node {
    edge: EdgeId,
    names: Few<Name>,
}

/// Spreads bits that are spread already over all of a hash.
fn hash(bits: u32) -> u64 {
    u64::from(bits).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl EdgeIndex {
    /// The edges that share a name for every input: a union over the alternatives of an input,
    /// an intersection over the inputs.
    pub(super) fn find(&self, key: &WorkKey) -> Vec<EdgeId> {
        let mut nodes: Vec<Id<Node>> = match key {
            WorkKey::Roots(names) => names.iter().flat_map(|name| self.nodes_of(name)).collect(),
            WorkKey::Inputs(names) => {
                let first = names.iter().take_while(|(input, _)| *input == 0);
                let mut nodes: Vec<_> = first.flat_map(|(_, name)| self.nodes_of(name)).collect();
                if names.first().is_some_and(|(input, _)| *input > 0) {
                    nodes = self.nodes.ids();
                }
                for alternatives in names.chunk_by(|a, b| a.0 == b.0) {
                    let known = |names: &[Name]| alternatives.iter().any(|(_, name)| names.contains(name));
                    nodes.retain(|node| known(&self.nodes[*node].names));
                }
                nodes
            }
        };
        nodes.sort_unstable();
        nodes.dedup();
        nodes.into_iter().map(|node| self.nodes[node].edge).collect()
    }

    fn nodes_of(&self, name: &Name) -> impl Iterator<Item = Id<Node>> {
        let more = if self.more.is_empty() { None } else { self.more.get(name) };
        self.first_of(name).into_iter().chain(more.into_iter().flatten().copied())
    }

    fn first_of(&self, name: &Name) -> Option<Id<Node>> {
        let bits = name.bits();
        let has_it = |(b, node): &Entry| *b == bits && self.nodes[*node].names.contains(name);
        self.by_name.find(hash(bits), has_it).map(|(_, node)| *node)
    }

    /// Makes room for so many more edges, of one leading name each.
    pub(super) fn reserve(&mut self, edges: usize) {
        self.nodes.reserve(edges);
        self.by_edge.reserve(edges);
        self.by_name.reserve(edges, |(bits, _)| hash(*bits));
    }

    /// Enters an edge under a key, or gives the place of `instead_of` to it.
    pub(super) fn enter(&mut self, key: &WorkKey, edge: EdgeId, instead_of: Option<EdgeId>) {
        let node = match instead_of.and_then(|old| self.take_node_of(old)) {
            Some(node) => {
                self.nodes[node].edge = edge;
                node
            }
            None => self.nodes.insert(Node { edge, names: Few::with_capacity(key.names().count()) }),
        };
        if let Some(old) = self.node_of(edge).replace(node).filter(|old| *old != node) {
            self.remove(old);
        }
        self.add_names(node, key);
    }

    /// Where the node of an edge is noted.
    fn node_of(&mut self, edge: EdgeId) -> &mut Option<Id<Node>> {
        let place = edge.number() as usize;
        if place >= self.by_edge.len() {
            self.by_edge.resize(place + 1, None);
        }
        &mut self.by_edge[place]
    }

    fn take_node_of(&mut self, edge: EdgeId) -> Option<Id<Node>> {
        self.by_edge.get_mut(edge.number() as usize)?.take()
    }

    /// Lets an edge that stands in the index be found by more names.
    pub(super) fn extend(&mut self, edge: EdgeId, key: &WorkKey) {
        if let Some(node) = *self.node_of(edge) {
            self.add_names(node, key);
        }
    }

    fn add_names(&mut self, node: Id<Node>, key: &WorkKey) {
        for (name, leads) in key.names() {
            let names = &mut self.nodes[node].names;
            if names.contains(&name) {
                continue;
            }
            names.push(name);
            if !leads {
                continue;
            }
            match self.first_of(&name).filter(|first| *first != node) {
                Some(_) => self.more.entry(name).or_default().push(node),
                None => {
                    let entry = (name.bits(), node);
                    self.by_name.insert_unique(hash(name.bits()), entry, |(bits, _)| hash(*bits));
                }
            }
        }
    }

    /// Another edge does the work from now on: it takes the place, unless it has one.
    pub(super) fn hand_over(&mut self, from: EdgeId, into: EdgeId) {
        if self.node_of(into).is_some() {
            self.release(from);
        } else if let Some(node) = self.take_node_of(from) {
            self.nodes[node].edge = into;
            *self.node_of(into) = Some(node);
        }
    }

    /// Forgets an edge.
    pub(super) fn release(&mut self, edge: EdgeId) {
        if let Some(node) = self.take_node_of(edge) {
            self.remove(node);
        }
        if self.nodes.len() == 0 {
            self.by_edge = Vec::new();
        }
    }

    fn remove(&mut self, id: Id<Node>) {
        let Some(node) = self.nodes.remove(id) else { return };
        node.names.iter().for_each(|name| self.forget(name, id));
    }

    fn forget(&mut self, name: &Name, id: Id<Node>) {
        let mut next = None;
        let entry = self.by_name.find_entry(hash(name.bits()), |entry| *entry == (name.bits(), id));
        if let Some(more) = self.more.get_mut(name) {
            more.retain(|node| *node != id);
            if entry.is_ok() {
                next = more.pop();
            }
            if more.is_empty() {
                self.more.remove(name);
            }
        }
        let Ok(mut entry) = entry else { return };
        match next {
            Some(next) => entry.get_mut().1 = next,
            None => drop(entry.remove()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len() + self.by_name.len() + self.more.len()
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
        WorkKey::Roots(Few::One(Name::root(&KeyId(digest(name)))))
    }

    /// Names of inputs, each with the parts used.
    fn inputs(all: &[&[(&str, &str)]]) -> WorkKey {
        let name = |input: u32, (key, part): &(&str, &str)| {
            let selector = (!part.is_empty()).then(|| digest(part));
            let link = CacheInfoLink { input, output: 0, digest: digest("op"), selector };
            (input, Name::input(&KeyId(digest(key)), &link))
        };
        let names = (0u32..).zip(all).flat_map(|(i, names)| names.iter().map(move |n| name(i, n)));
        WorkKey::Inputs(names.collect())
    }

    /// 51: equal roots are found, others are not, and nothing stays.
    #[test]
    fn roots_are_found_by_their_key() {
        let mut index = EdgeIndex::default();
        assert!(index.find(&root("a")).is_empty());
        index.enter(&root("a"), edge(1), None);
        index.enter(&root("b"), edge(2), None);
        assert_eq!(index.find(&root("a")), [edge(1)]);
        let both = WorkKey::Roots(Few::Many(["a", "b"].map(|name| Name::root(&KeyId(digest(name)))).into()));
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
        index.enter(&key(), edge(1), None);
        assert_eq!(index.find(&key()), [edge(1)]);
        assert!(index.find(&inputs(&[&[("foo", "t")], &[("bar", "")]])).is_empty(), "another selector");
        assert!(index.find(&inputs(&[&[("foo", "s")], &[("baz", "")]])).is_empty(), "another input");
        index.extend(edge(1), &inputs(&[&[("foo", "s"), ("alias", "")], &[("bar", "")]]));
        assert_eq!(index.find(&inputs(&[&[("alias", "")], &[("bar", "")]])), [edge(1)]);
        index.enter(&inputs(&[&[("new", "")], &[("bar", "")]]), edge(2), None);
        let bridge = inputs(&[&[("alias", ""), ("new", "")], &[("bar", "")]]);
        assert_eq!(index.find(&bridge), [edge(1), edge(2)]);
        index.hand_over(edge(1), edge(3));
        assert_eq!(index.find(&key()), [edge(3)]);
        index.enter(&key(), edge(4), Some(edge(3)));
        assert_eq!(index.find(&key()), [edge(4)]);
        for number in 2..5 {
            index.release(edge(number));
        }
        assert_eq!(index.len(), 0);
    }
}
