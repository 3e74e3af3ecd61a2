//! Cache keys: deterministic names of "this operation on these inputs".
//!
//! A key without inputs is the digest of its operation and output. A key with inputs is a node of
//! a graph of alternatives (input 0 may be known by what it was made from, or by what it
//! contains), so several computations can lead to one node. Its id is minted once, as a Merkle
//! digest over the first alternative of every input; every other alternative reaches the node by
//! a link. Random node ids, the usual answer to the same problem, would make equal keys of two
//! machines differ.

use std::fmt;
use std::sync::Arc;

use quern_core::{Digest, DigestWriter};

use crate::cache::CombinedCache;
use crate::export::KeyExporter;
use crate::op::KeyScope;

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
        let id = Digest::of(format!("{digest}@{output}").as_bytes());
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
    fn merkle(digest: &Digest, output: i64, deps: &[Vec<CacheKeyWithSelector>]) -> Self {
        let mut hash = DigestWriter::new();
        hash.update(b"quern.key.v1\0");
        hash.update(digest.as_bytes());
        hash.update(&output.to_le_bytes());
        for alternatives in deps {
            let Some(first) = alternatives.first() else {
                hash.update(&[0]);
                continue;
            };
            hash.update(&[1 + u8::from(first.selector.is_some())]);
            hash.update(first.key.key.id().0.as_bytes());
            if let Some(selector) = &first.selector {
                hash.update(selector.as_bytes());
            }
        }
        Self(hash.finish())
    }
}

/// A cache key; clones share it.
#[derive(Clone)]
pub struct CacheKey(Arc<KeyData>);

struct KeyData {
    id: KeyId,
    digest: Digest,
    output: i64,
    deps: Vec<Vec<CacheKeyWithSelector>>,
    /// More alternatives, learned when two live edges turned out to be one: exported, not saved.
    learned: Vec<(usize, CacheKeyWithSelector)>,
    origin: Option<Arc<Origin>>,
}

/// Where a key was found or made: what an exporter needs besides the key.
pub(crate) struct Origin {
    pub(crate) cache: Arc<CombinedCache>,
    pub(crate) vertex: Digest,
    pub(crate) export: Option<bool>,
}

impl CacheKey {
    /// A key without inputs.
    pub fn root(digest: Digest, output: i64, scope: KeyScope) -> Self {
        Self::with(KeyId::root(&digest, output, scope), digest, output, Vec::new())
    }

    /// The key of a content digest.
    pub fn content(digest: Digest) -> Self {
        Self::root(digest, CONTENT_OUTPUT, KeyScope::Shared)
    }

    /// A key with inputs: `deps[i]` are the alternatives by which input `i` is known.
    pub fn derived(digest: Digest, output: i64, deps: Vec<Vec<CacheKeyWithSelector>>) -> Self {
        if deps.is_empty() {
            return Self::root(digest, output, KeyScope::Shared);
        }
        Self::with(KeyId::merkle(&digest, output, &deps), digest, output, deps)
    }

    /// A key whose id is known from a storage.
    pub fn with(id: KeyId, digest: Digest, output: i64, deps: Vec<Vec<CacheKeyWithSelector>>) -> Self {
        Self(Arc::new(KeyData { id, digest, output, deps, learned: Vec::new(), origin: None }))
    }

    pub(crate) fn found(
        id: KeyId,
        digest: Digest,
        output: i64,
        deps: Vec<Vec<CacheKeyWithSelector>>,
        origin: Arc<Origin>,
    ) -> Self {
        Self(Arc::new(KeyData { id, digest, output, deps, learned: Vec::new(), origin: Some(origin) }))
    }

    /// The same key with what an exporter needs to know.
    pub(crate) fn at(&self, origin: Arc<Origin>) -> Self {
        self.renamed(self.id(), Some(origin))
    }

    /// The same key under the id a cache knows it by.
    pub(crate) fn renamed(&self, id: KeyId, origin: Option<Arc<Origin>>) -> Self {
        let data = &self.0;
        Self(Arc::new(KeyData {
            id,
            digest: data.digest,
            output: data.output,
            deps: data.deps.clone(),
            learned: data.learned.clone(),
            origin: origin.or_else(|| data.origin.clone()),
        }))
    }

    /// The same key with more alternatives for an export.
    pub(crate) fn with_learned(&self, more: &[(usize, CacheKeyWithSelector)]) -> Self {
        let data = &self.0;
        let mut learned = data.learned.clone();
        for (input, link) in more {
            let known = |other: &CacheKeyWithSelector| other.selector == link.selector && other.key.key.id() == link.key.key.id();
            let stands = data.deps.get(*input).is_some_and(|alternatives| alternatives.iter().any(known));
            if !stands && !learned.iter().any(|(i, other)| i == input && known(other)) {
                learned.push((*input, link.clone()));
            }
        }
        Self(Arc::new(KeyData {
            id: data.id,
            digest: data.digest,
            output: data.output,
            deps: data.deps.clone(),
            learned,
            origin: data.origin.clone(),
        }))
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

    /// For each input, the keys by which it is known.
    pub fn deps(&self) -> &[Vec<CacheKeyWithSelector>] {
        &self.0.deps
    }

    /// Tells key instances of one id apart.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    pub(crate) fn learned(&self) -> &[(usize, CacheKeyWithSelector)] {
        &self.0.learned
    }

    pub(crate) fn origin(&self) -> Option<&Arc<Origin>> {
        self.0.origin.as_ref()
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
        write!(f, "CacheKey({}, {} inputs)", self.id().0.short(), self.deps().len())
    }
}

/// A key of an input together with the part of the input that is used.
#[derive(Debug, Clone)]
pub struct CacheKeyWithSelector {
    /// The part, if not the whole.
    pub selector: Option<Digest>,
    /// The key.
    pub key: ExportableCacheKey,
}

impl CacheKeyWithSelector {
    /// Joins the two.
    pub fn new(key: impl Into<ExportableCacheKey>, selector: Option<Digest>) -> Self {
        Self { selector, key: key.into() }
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
