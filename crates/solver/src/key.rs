//! Cache keys: deterministic names of "this operation on these inputs".
//!
//! A key without inputs is the digest of its operation and output. A key with inputs is a node of
//! a graph of alternatives (input 0 may be known by what it was made from, or by what it
//! contains), so several computations can lead to one node. Its id is minted once, as a Merkle
//! digest over the first alternative of every input; every other alternative reaches the node by
//! a link. Random node ids, the usual answer to the same problem, would make equal keys of two
//! machines differ.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use quern_core::{Digest, DigestWriter};

use crate::cache::CombinedCache;
use crate::export::KeyExporter;
use crate::op::{CacheMap, KeyScope};
use crate::sweep::Sweep;

/// The output index of content keys, which belong to no operation.
pub const CONTENT_OUTPUT: i64 = -1;

/// The id of a cache key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub Digest);

impl KeyId {
    /// The id of a key without inputs: `sha256("<digest>@<output>")`.
    ///
    /// Ids of [`KeyScope::Local`] start with eight zero bytes, by which every storage and
    /// exporter can tell them without further information.
    pub fn root(digest: &Digest, output: i64, scope: KeyScope) -> Self {
        let id = Digest::of(RootText::of(digest, output).as_bytes());
        match scope {
            KeyScope::Shared => Self(id),
            KeyScope::Local => {
                let mut bytes = *id.as_bytes();
                bytes[..8].fill(0);
                Self(Digest::from_bytes(bytes))
            }
        }
    }

    /// The id of a content key.
    pub fn content(digest: &Digest) -> Self {
        Self::root(digest, CONTENT_OUTPUT, KeyScope::Shared)
    }

    /// True for ids that must not leave the machine.
    pub fn is_local(&self) -> bool {
        self.0.as_bytes()[..8] == [0; 8]
    }

    /// Mints the id of a key with inputs.
    fn merkle(digest: &Digest, output: i64, inputs: usize, names: &[(u32, CacheKeyWithSelector)]) -> Self {
        let first = |names: &[(u32, CacheKeyWithSelector)]| {
            let (input, name) = &names[0];
            (*input, name.key.key.id(), name.selector())
        };
        let firsts = names.chunk_by(|a, b| a.0 == b.0).map(first);
        Self::minted(&Self::root(digest, output, KeyScope::Shared), inputs, firsts)
    }

    /// Mints the id of a key with inputs from what names its operation, and the first name of
    /// each input.
    pub(crate) fn minted(
        operation: &Self,
        inputs: usize,
        firsts: impl Iterator<Item = (u32, Self, Option<Digest>)>,
    ) -> Self {
        let mut hash = DigestWriter::new();
        hash.update(b"quern.key.v1\0");
        // Folded, as exports name an operation: an imported key gets the id it had.
        hash.update(operation.0.as_bytes());
        hash.update(&(inputs as u64).to_le_bytes());
        for (input, id, selector) in firsts {
            hash.update(&input.to_le_bytes());
            hash.update(&[u8::from(selector.is_some())]);
            hash.update(id.0.as_bytes());
            if let Some(selector) = &selector {
                hash.update(selector.as_bytes());
            }
        }
        Self(hash.finish())
    }
}

/// `<digest>@<output>`, without going through the heap: every key needs one.
struct RootText {
    bytes: [u8; 96],
    length: usize,
}

impl RootText {
    fn of(digest: &Digest, output: i64) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = Self { bytes: [0; 96], length: 0 };
        text.push(b"sha256:");
        for byte in digest.as_bytes() {
            text.push(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        text.push(b"@");
        match output {
            0 => text.push(b"0"),
            _ => text.push(output.to_string().as_bytes()),
        }
        text
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A cache key; clones share it.
#[derive(Clone)]
pub struct CacheKey(Arc<KeyData>);

struct KeyData {
    id: KeyId,
    digest: Digest,
    output: i64,
    inputs: u32,
    names: Box<[Name]>,
    /// What most keys do without.
    rare: Option<Box<Rare>>,
    /// The cache and the vertex of its origin.
    origin: Option<(Arc<CombinedCache>, Digest)>,
    /// The rest of its origin, apart to save room.
    export: Option<bool>,
    /// The era of a storage that has this key, and every link that leads here from further up.
    era: AtomicU64,
}

/// A name of an input, with the number of the input. Names are sorted by it.
type Name = (u32, CacheKeyWithSelector);

#[derive(Clone, Default)]
struct Rare {
    swept: Option<Swept>,
    /// More names, learned when two live edges turned out to be one: exported, not saved.
    learned: Vec<Name>,
}

/// Names that a sweep has found; made when somebody asks.
#[derive(Clone)]
struct Swept {
    sweep: Arc<Sweep>,
    vertex: u32,
    names: OnceLock<Box<[Name]>>,
}

/// A chain of keys may be as long as a graph is deep, so it is not dropped by recursion.
impl Drop for KeyData {
    fn drop(&mut self) {
        let mut open = Vec::new();
        self.give_up(&mut open);
        while let Some(key) = open.pop() {
            if let Some(mut data) = Arc::into_inner(key.0) {
                data.give_up(&mut open);
            }
        }
    }
}

impl KeyData {
    /// Moves out the keys this one refers to.
    fn give_up(&mut self, open: &mut Vec<CacheKey>) {
        let Rare { swept, learned } = self.rare.take().map(|rare| *rare).unwrap_or_default();
        let swept = swept.and_then(|swept| swept.names.into_inner()).unwrap_or_default();
        let names = std::mem::take(&mut self.names);
        for (_, name) in names.into_iter().chain(swept).chain(learned) {
            open.push(name.key.key);
            if let Some(exporter) = name.key.exporter.and_then(Arc::into_inner) {
                exporter.give_up(open);
            }
        }
    }
}

/// Finds a key again while somebody has it.
pub(crate) struct WeakKey(Weak<KeyData>);

impl WeakKey {
    pub(crate) fn upgrade(&self) -> Option<CacheKey> {
        self.0.upgrade().map(CacheKey)
    }
}

/// Where a key was found or made: what an exporter needs besides the key.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) cache: Arc<CombinedCache>,
    pub(crate) vertex: Digest,
    pub(crate) export: Option<bool>,
}

impl CacheKey {
    /// A key without inputs.
    pub fn root(digest: Digest, output: i64, scope: KeyScope) -> Self {
        Self::with(KeyId::root(&digest, output, scope), digest, output)
    }

    /// The key of a content digest.
    pub fn content(digest: Digest) -> Self {
        Self::root(digest, CONTENT_OUTPUT, KeyScope::Shared)
    }

    /// A key with inputs: `names[i]` are the names by which input `i` is known.
    pub fn derived(digest: Digest, output: i64, names: Vec<Vec<CacheKeyWithSelector>>) -> Self {
        let inputs = names.len();
        let of_input = |(i, names): (u32, Vec<_>)| names.into_iter().map(move |name| (i, name));
        Self::made(digest, output, inputs, (0u32..).zip(names).flat_map(of_input).collect())
    }

    /// As [`derived`](CacheKey::derived), from names sorted by input.
    pub(crate) fn made(
        digest: Digest,
        output: i64,
        inputs: usize,
        names: Box<[(u32, CacheKeyWithSelector)]>,
    ) -> Self {
        if inputs == 0 {
            return Self::root(digest, output, KeyScope::Shared);
        }
        Self::with_names(digest, output, inputs, names, None)
    }

    /// As [`made`](CacheKey::made), for a vertex with inputs.
    pub(crate) fn made_at(
        digest: Digest,
        output: i64,
        inputs: usize,
        names: Box<[(u32, CacheKeyWithSelector)]>,
        origin: Origin,
    ) -> Self {
        Self::with_names(digest, output, inputs, names, Some(origin))
    }

    fn with_names(
        digest: Digest,
        output: i64,
        inputs: usize,
        names: Box<[(u32, CacheKeyWithSelector)]>,
        origin: Option<Origin>,
    ) -> Self {
        let id = KeyId::merkle(&digest, output, inputs, &names);
        Self::build(id, (digest, output), inputs, names, None, origin)
    }

    fn build(
        id: KeyId,
        (digest, output): (Digest, i64),
        inputs: usize,
        names: Box<[Name]>,
        rare: Option<Box<Rare>>,
        origin: Option<Origin>,
    ) -> Self {
        let inputs = u32::try_from(inputs).expect("few inputs");
        let era = AtomicU64::new(0);
        let export = origin.as_ref().and_then(|origin| origin.export);
        let origin = origin.map(|origin| (origin.cache, origin.vertex));
        Self(Arc::new(KeyData { id, digest, output, inputs, names, rare, origin, export, era }))
    }

    /// A key whose id is known from a storage, and nothing of its inputs.
    pub fn with(id: KeyId, digest: Digest, output: i64) -> Self {
        Self::build(id, (digest, output), 0, Box::default(), None, None)
    }

    /// A key that was found in a cache.
    pub(crate) fn found(
        id: KeyId,
        map: &CacheMap,
        output: i64,
        inputs: usize,
        names: Box<[(u32, CacheKeyWithSelector)]>,
        origin: Origin,
    ) -> Self {
        Self::build(id, (map.digest, output), inputs, names, None, Some(origin))
    }

    /// A key that a sweep has found for a vertex.
    pub(crate) fn swept(
        id: KeyId,
        (digest, output): (Digest, i64),
        (sweep, vertex): (Arc<Sweep>, u32),
        inputs: usize,
        origin: Origin,
    ) -> Self {
        let swept = Some(Swept { sweep, vertex, names: OnceLock::new() });
        let rare = Some(Box::new(Rare { swept, learned: Vec::new() }));
        Self::build(id, (digest, output), inputs, Box::default(), rare, Some(origin))
    }

    pub(crate) fn downgrade(&self) -> WeakKey {
        WeakKey(Arc::downgrade(&self.0))
    }

    fn changed(&self, change: impl FnOnce(&mut KeyData)) -> Self {
        let KeyData { id, digest, output, inputs, ref names, ref rare, ref origin, export, ref era } =
            *self.0;
        let (names, rare, origin) = (names.clone(), rare.clone(), origin.clone());
        let era = AtomicU64::new(era.load(Ordering::Relaxed));
        let mut data = KeyData { id, digest, output, inputs, names, rare, origin, export, era };
        change(&mut data);
        Self(Arc::new(data))
    }

    /// The same key with what an exporter needs to know.
    pub(crate) fn at(&self, origin: Origin) -> Self {
        let Origin { cache, vertex, export } = origin;
        self.changed(|data| (data.origin, data.export) = (Some((cache, vertex)), export))
    }

    /// The same key under the id a cache knows it by.
    pub(crate) fn renamed(&self, id: KeyId) -> Self {
        if id == self.id() {
            return self.clone();
        }
        self.changed(|data| (data.id, data.era) = (id, AtomicU64::new(0)))
    }

    /// Notes that a storage has the key and all that leads to it.
    pub(crate) fn linked(&self, era: Option<u64>) {
        self.0.era.store(era.unwrap_or_default(), Ordering::Relaxed);
    }

    /// True if a storage in this era has the key and all that leads to it. A key without inputs
    /// has nothing that would have to be there.
    pub(crate) fn is_linked(&self, era: Option<u64>) -> bool {
        self.inputs() == 0 || era.is_some_and(|era| self.0.era.load(Ordering::Relaxed) == era)
    }

    /// The same key with more names for an export.
    pub(crate) fn with_learned(&self, more: &[(u32, CacheKeyWithSelector)]) -> Self {
        let mut learned = self.learned().to_vec();
        for (input, name) in more {
            let stands = |(i, other): &(u32, CacheKeyWithSelector)| {
                i == input && other.selector == name.selector && other.key.key.id() == name.key.key.id()
            };
            if !self.names().iter().chain(&learned).any(stands) {
                learned.push((*input, name.clone()));
            }
        }
        if learned.is_empty() {
            return self.clone();
        }
        self.changed(|data| data.rare.get_or_insert_default().learned = learned)
    }

    /// The id.
    pub fn id(&self) -> KeyId {
        self.0.id
    }

    /// The digest of the operation, or of the content.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Which output of the operation; [`CONTENT_OUTPUT`] for content keys.
    pub fn output(&self) -> i64 {
        self.0.output
    }

    /// How many inputs the operation has, as far as the key knows.
    pub fn inputs(&self) -> usize {
        self.0.inputs as usize
    }

    /// The names by which the inputs are known, each with the number of its input, sorted by it.
    pub fn names(&self) -> &[(u32, CacheKeyWithSelector)] {
        match self.0.rare.as_ref().and_then(|rare| rare.swept.as_ref()) {
            Some(Swept { sweep, vertex, names }) => names.get_or_init(|| sweep.names(*vertex).into()),
            None => &self.0.names,
        }
    }

    /// Tells key instances of one id apart.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    pub(crate) fn learned(&self) -> &[(u32, CacheKeyWithSelector)] {
        self.0.rare.as_ref().map_or(&[], |rare| &rare.learned)
    }

    /// Where it was found or made.
    pub(crate) fn origin(&self) -> Option<Origin> {
        let (cache, vertex) = self.0.origin.clone()?;
        Some(Origin { cache, vertex, export: self.0.export })
    }

    /// The cache it was found in or made for.
    pub(crate) fn cache(&self) -> Option<&Arc<CombinedCache>> {
        self.0.origin.as_ref().map(|(cache, _)| cache)
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for CacheKey {}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({}, {} inputs)", self.id().0.short(), self.inputs())
    }
}

/// A key of an input together with the part of the input that is used.
#[derive(Debug, Clone)]
pub struct CacheKeyWithSelector {
    /// The key.
    pub key: ExportableCacheKey,
    /// Most inputs are used whole: a box keeps the usual case small.
    selector: Option<Box<Digest>>,
}

impl CacheKeyWithSelector {
    /// Joins the two.
    pub fn new(key: impl Into<ExportableCacheKey>, selector: Option<Digest>) -> Self {
        Self { key: key.into(), selector: selector.map(Box::new) }
    }

    /// The part of the input that is used, if not the whole.
    pub fn selector(&self) -> Option<Digest> {
        self.selector.as_deref().copied()
    }
}

/// A key that can export the chain of records leading to it.
#[derive(Debug, Clone)]
pub struct ExportableCacheKey {
    /// The key.
    pub key: CacheKey,
    /// What to export together with it; none means the key alone.
    pub(crate) exporter: Option<Arc<KeyExporter>>,
}

impl From<CacheKey> for ExportableCacheKey {
    fn from(key: CacheKey) -> Self {
        Self { key, exporter: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_root_is_the_one_of_exports() {
        let digest = Digest::of(b"op");
        for output in [0, 1, CONTENT_OUTPUT, i64::from(u32::MAX), i64::MIN] {
            let text = format!("{digest}@{output}");
            assert_eq!(RootText::of(&digest, output).as_bytes(), text.as_bytes());
        }
    }
}
