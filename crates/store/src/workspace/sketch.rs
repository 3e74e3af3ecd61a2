//! How alike two trees are, from a few numbers kept with each.
//!
//! A sketch holds the smallest hashes of (path, entry) over a sample of a tree's directories. The sample depends on
//! the paths only, so two versions of one tree are sampled at the same places, and the share of common hashes
//! estimates the share of common files (bottom-k sampling). Comparing two sketches reads no blob.

use std::collections::BTreeSet;

use quern_core::port::{Blobs, PortError};
use quern_core::tree::Entry;
use quern_core::{Digest, Tree};
use serde::{Deserialize, Serialize};

use super::read_tree;

/// Hashes kept.
const KEPT: usize = 32;
/// Directories looked into.
const SAMPLE: usize = 12;

/// The smallest hashes of a tree's sample, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sketch(Vec<u64>);

impl Sketch {
    /// The sketch of a tree.
    pub fn of(blobs: &dyn Blobs, root: &Tree) -> Result<Self, PortError> {
        let mut kept = BTreeSet::new();
        // Directories not looked into yet, by the hash of their path.
        let mut waiting: BTreeSet<(u64, Digest)> = BTreeSet::new();
        let mut next = Some((0, root.clone()));
        let mut sampled = 1;
        while let Some((path, tree)) = next.take() {
            for (name, entry) in tree.entries() {
                let place = mix(path, name.as_bytes());
                if let Entry::Dir(content) = entry {
                    waiting.insert((place, content.digest));
                    if waiting.len() > SAMPLE {
                        waiting.pop_last();
                    }
                }
                kept.insert(mix(place, &trait_of(entry)));
                if kept.len() > KEPT {
                    kept.pop_last();
                }
            }
            if sampled < SAMPLE
                && let Some((path, digest)) = waiting.pop_first()
            {
                sampled += 1;
                next = Some((path, read_tree(blobs, &digest)?));
            }
        }
        Ok(Self(kept.into_iter().collect()))
    }

    /// The share of equal files, estimated: 0 for nothing in common, 1 for all.
    pub fn likeness(&self, other: &Self) -> f64 {
        let mut union: Vec<u64> = self.0.iter().chain(&other.0).copied().collect();
        union.sort_unstable();
        union.dedup();
        union.truncate(KEPT);
        if union.is_empty() {
            return 1.0;
        }
        let both = |hash: &&u64| self.0.binary_search(hash).is_ok() && other.0.binary_search(hash).is_ok();
        union.iter().filter(both).count() as f64 / union.len() as f64
    }
}

/// What tells an entry from another one under the same name. A directory counts by being one: what is in it is
/// sampled by itself, and its digest changes with any file below.
fn trait_of(entry: &Entry) -> [u8; 9] {
    let (kind, digest) = match entry {
        Entry::File { content, executable } => (u8::from(*executable), content.digest),
        Entry::Dir(_) => (2, Digest::from_bytes([0; 32])),
        Entry::Link(target) => (3, Digest::of(target.as_bytes())),
    };
    let mut bytes = [kind; 9];
    bytes[1..].copy_from_slice(&digest.as_bytes()[..8]);
    bytes
}

/// FNV-1a from a start value, with a final mix so that the smallest hashes are a fair sample.
fn mix(start: u64, bytes: &[u8]) -> u64 {
    let mut hash = start ^ 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
}
