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

#[cfg(test)]
mod tests {
    use quern_core::ContentRef;
    use quern_testkit::MemBlobs;

    use super::*;

    /// A tree of `dirs` directories with 50 files each; `text` says what is in a file, none for no such file.
    fn tree(blobs: &MemBlobs, dirs: usize, text: impl Fn(usize, usize) -> Option<String>) -> Tree {
        let dir = |d: usize| {
            let file = |f: usize| {
                let content = blobs.put(text(d, f)?.as_bytes()).unwrap();
                Some((format!("f{f}"), Entry::File { content, executable: false }))
            };
            let tree = Tree::new((0..50).filter_map(file).collect()).unwrap();
            (format!("d{d}"), Entry::Dir(blobs.put(&tree.encode()).unwrap()))
        };
        Tree::new((0..dirs).map(dir).collect()).unwrap()
    }

    #[test]
    fn likeness_is_about_the_share_of_equal_files() {
        let blobs = MemBlobs::default();
        let plain = |d: usize, f: usize| Some(format!("{d}/{f}"));
        let base = tree(&blobs, 40, plain);
        let check = |other: &Tree, low: f64, high: f64| {
            let (one, two) = (Sketch::of(&blobs, &base).unwrap(), Sketch::of(&blobs, other).unwrap());
            let likeness = one.likeness(&two);
            assert!((low..=high).contains(&likeness), "{likeness}");
            assert_eq!(likeness.to_bits(), two.likeness(&one).to_bits());
        };
        check(&base, 1.0, 1.0);
        // One file in fifty changed, in every directory.
        check(&tree(&blobs, 40, |d, f| if f == 7 { Some("?".into()) } else { plain(d, f) }), 0.8, 1.0);
        // One file added, one directory added.
        check(&tree(&blobs, 40, |d, f| if (d, f) == (3, 3) { None } else { plain(d, f) }), 0.9, 1.0);
        check(&tree(&blobs, 41, plain), 0.8, 1.0);
        // Half of all files changed, all files changed, nothing in common.
        check(&tree(&blobs, 40, |d, f| if f % 2 == 0 { Some("?".into()) } else { plain(d, f) }), 0.1, 0.7);
        check(&tree(&blobs, 40, |_, _| Some("?".into())), 0.0, 0.4);
        let empty = ContentRef { digest: Digest::of(b""), size: 0 };
        let other = (0..9).map(|i| (format!("x{i}"), Entry::File { content: empty, executable: true }));
        check(&Tree::new(other.collect()).unwrap(), 0.0, 0.0);
    }

    #[test]
    fn a_single_directory_at_the_top_does_not_hide_what_is_below() {
        let blobs = MemBlobs::default();
        let wrap = |tree: &Tree| {
            let below = blobs.put(&tree.encode()).unwrap();
            Tree::new(vec![("data".to_owned(), Entry::Dir(below))]).unwrap()
        };
        let sketch = |text: &str| {
            let tree = tree(&blobs, 20, |d, f| Some(format!("{text}{d}/{f}")));
            Sketch::of(&blobs, &wrap(&wrap(&tree))).unwrap()
        };
        assert!(sketch("a").likeness(&sketch("a")) > 0.99);
        assert!(sketch("a").likeness(&sketch("b")) < 0.5);
    }
}
