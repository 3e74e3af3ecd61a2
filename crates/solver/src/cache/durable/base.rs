//! A snapshot as it lies in the file.
//!
//! All numbers are little-endian. The file begins with a head of 64 bytes:
//!
//! ```text
//!  0  "qnkeys\0" and the format version (1 byte)      8  generation: u64
//! 16  nodes, links, digests, results: u32 each       32  node slots, link slots: u32 each (powers of 2)
//! 40  length of the texts: u64                       48  checksum of the tables: u64
//! 56  checksum of the 56 bytes before: u64
//! ```
//!
//! then the tables, which are read whole: node ids (32 bytes each), digests (32), links (32:
//! source, target, digest, selector + 1 or 0, input: u32 each, 4 bytes unused, output: i64; sorted
//! by target), where each node's incoming links start (u32, one more than nodes), how many links leave
//! each node (u32), where each node's results start (u32, one more than nodes), the slots of nodes
//! (u32: number + 1 or 0), the slots of links (u32 of the hash, u32: number + 1 or 0). Slots are probed
//! one by one from the hash on. Then come the results (16: start and length of the text: u32, time:
//! u64) and the texts, both read where needed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use quern_core::Digest;

use crate::cache::Timestamp;
use crate::cache::storage::{CacheInfoLink, CacheResult};
use crate::key::KeyId;

use super::log::checksum;

pub(super) const MAGIC: [u8; 7] = *b"qnkeys\0";
pub(super) const VERSION: u8 = 1;
pub(super) const HEAD: usize = 64;
pub(super) const LINK: usize = 32;
pub(super) const RESULT: usize = 16;

/// Why a file cannot serve as a snapshot.
#[derive(Debug)]
pub(super) enum Unusable {
    Io(io::Error),
    /// The format is of a later version.
    Newer(u8),
    Damaged(&'static str),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it is too short"),
            _ => Self::Io(error),
        }
    }
}

/// The sizes in the head.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sizes {
    pub(super) nodes: u32,
    pub(super) links: u32,
    pub(super) digests: u32,
    pub(super) results: u32,
    pub(super) node_slots: u32,
    pub(super) link_slots: u32,
    pub(super) texts: u64,
}

/// Where each table starts.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    digests: usize,
    links: usize,
    incoming: usize,
    leaving: usize,
    results: usize,
    node_slots: usize,
    link_slots: usize,
    end: usize,
}

impl Places {
    fn of(sizes: &Sizes) -> Self {
        let n = |count: u32| count as usize;
        let digests = 32 * n(sizes.nodes);
        let links = digests + 32 * n(sizes.digests);
        let incoming = links + LINK * n(sizes.links);
        let leaving = incoming + 4 * (n(sizes.nodes) + 1);
        let results = leaving + 4 * n(sizes.nodes);
        let node_slots = results + 4 * (n(sizes.nodes) + 1);
        let link_slots = node_slots + 4 * n(sizes.node_slots);
        let end = link_slots + 8 * n(sizes.link_slots);
        Self { digests, links, incoming, leaving, results, node_slots, link_slots, end }
    }
}

/// A snapshot in use.
#[derive(Default)]
pub(super) struct Base {
    sizes: Sizes,
    places: Places,
    tables: Vec<u8>,
    /// For results and texts; none in an empty table that was never on disk.
    file: Option<File>,
    /// How often results were read one by one, and all of them once that was often.
    reads: AtomicU32,
    rest: OnceLock<Vec<u8>>,
}

/// After so many single reads the results are read whole.
const MANY: u32 = 64;

/// Spreads an id for the slots of nodes.
pub(super) fn node_hash(id: &KeyId) -> u64 {
    tail(&id.0)
}

/// Spreads a link for the slots of links.
pub(super) fn link_hash(source: &KeyId, link: &CacheInfoLink) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = tail(&source.0).wrapping_mul(ODD) ^ tail(&link.digest);
    hash = hash.rotate_left(25).wrapping_mul(ODD) ^ link.selector.as_ref().map_or(0, tail);
    let small = u64::from(link.input) ^ link.output.cast_unsigned().rotate_left(32);
    hash = hash.rotate_left(25).wrapping_mul(ODD) ^ small;
    hash = hash.wrapping_mul(ODD);
    hash ^ (hash >> 32)
}

/// Digests are evenly spread; their last bytes serve as a hash.
fn tail(digest: &Digest) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *digest.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Base {
    /// Reads and checks the head and the tables of a file.
    pub(super) fn read(file: &File) -> Result<Self, Unusable> {
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0)?;
        if head[..7] != MAGIC {
            return Err(Unusable::Damaged("it does not begin as it must"));
        }
        if head[7] > VERSION {
            return Err(Unusable::Newer(head[7]));
        }
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if checksum(&head[..56]) != u64_at(56) {
            return Err(Unusable::Damaged("its head is damaged"));
        }
        let sizes = Sizes {
            nodes: u32_at(16),
            links: u32_at(20),
            digests: u32_at(24),
            results: u32_at(28),
            node_slots: u32_at(32),
            link_slots: u32_at(36),
            texts: u64_at(40),
        };
        let places = Places::of(&sizes);
        let length = file.metadata()?.len();
        let mut base = Self { sizes, places, ..Self::default() };
        if base.end() > length {
            return Err(Unusable::Damaged("it is too short"));
        }
        base.tables = vec![0; places.end];
        file.read_exact_at(&mut base.tables, HEAD as u64)?;
        if checksum(&base.tables) != u64_at(48) {
            return Err(Unusable::Damaged("its tables are damaged"));
        }
        base.file = Some(file.try_clone()?);
        Ok(base)
    }

    /// Where the log begins.
    pub(super) fn end(&self) -> u64 {
        self.results_at() + RESULT as u64 * u64::from(self.sizes.results) + self.sizes.texts
    }

    fn results_at(&self) -> u64 {
        (HEAD + self.places.end) as u64
    }

    pub(super) fn nodes(&self) -> u32 {
        self.sizes.nodes
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = self.tables[at..].first_chunk().expect("within the tables");
        u32::from_le_bytes(*bytes)
    }

    fn digest(&self, at: usize) -> Digest {
        Digest::from_bytes(*self.tables[at..].first_chunk().expect("within the tables"))
    }

    /// The id of a node.
    pub(super) fn id(&self, node: u32) -> KeyId {
        KeyId(self.digest(32 * node as usize))
    }

    fn is(&self, node: u32, id: &KeyId) -> bool {
        let at = 32 * node as usize;
        self.tables[at..at + 32] == *id.0.as_bytes()
    }

    /// The number of an id.
    pub(super) fn node(&self, id: &KeyId) -> Option<u32> {
        let slots = self.sizes.node_slots as usize;
        let mask = slots.checked_sub(1)?;
        let start =
            node_hash(id).to_le_bytes().first_chunk().map_or(0, |low| u32::from_le_bytes(*low)) as usize;
        for step in 0..slots {
            let node = self.u32(self.places.node_slots + 4 * ((start + step) & mask)).checked_sub(1)?;
            if self.is(node, id) {
                return Some(node);
            }
        }
        None
    }

    /// Visits the nodes that a link leads to.
    pub(super) fn targets(&self, source: &KeyId, link: &CacheInfoLink, mut visit: impl FnMut(u32)) {
        let slots = self.sizes.link_slots as usize;
        let Some(mask) = slots.checked_sub(1) else { return };
        let hash = link_hash(source, link);
        let (start, tag) = ((hash & 0xffff_ffff) as usize, (hash >> 32) as u32);
        for step in 0..slots {
            let slot = self.places.link_slots + 8 * ((start + step) & mask);
            let Some(number) = self.u32(slot + 4).checked_sub(1) else { return };
            if self.u32(slot) == tag && self.link_is(number, source, link) {
                visit(self.u32(self.link_at(number) + 4));
            }
        }
    }

    fn link_at(&self, number: u32) -> usize {
        self.places.links + LINK * number as usize
    }

    fn link_is(&self, number: u32, source: &KeyId, link: &CacheInfoLink) -> bool {
        let (from, stored) = self.link(number);
        stored == *link && self.is(from, source)
    }

    /// A link and the node it leaves.
    fn link(&self, number: u32) -> (u32, CacheInfoLink) {
        let at = self.link_at(number);
        let digest = |number: u32| self.digest(self.places.digests + 32 * number as usize);
        let (low, high) = (u64::from(self.u32(at + 24)), u64::from(self.u32(at + 28)));
        let link = CacheInfoLink {
            input: self.u32(at + 16),
            output: (low | high << 32).cast_signed(),
            digest: digest(self.u32(at + 8)),
            selector: self.u32(at + 12).checked_sub(1).map(digest),
        };
        (self.u32(at), link)
    }

    /// What leads to a node.
    pub(super) fn sources(&self, node: u32) -> impl Iterator<Item = (u32, CacheInfoLink)> {
        let at = self.places.incoming + 4 * node as usize;
        (self.u32(at)..self.u32(at + 4)).map(|number| self.link(number))
    }

    /// The digests of all operations and selectors of links.
    pub(super) fn digests(&self) -> impl Iterator<Item = Digest> {
        let table = &self.tables[self.places.digests..self.places.links];
        table.as_chunks::<32>().0.iter().map(|bytes| Digest::from_bytes(*bytes))
    }

    /// How many links leave a node.
    pub(super) fn leaving(&self, node: u32) -> u32 {
        self.u32(self.places.leaving + 4 * node as usize)
    }

    /// The results of a node, read from the file.
    pub(super) fn results(&self, node: u32) -> io::Result<Vec<CacheResult>> {
        let at = self.places.results + 4 * node as usize;
        self.read_results(self.u32(at), self.u32(at + 4))
    }

    fn read_results(&self, first: u32, end: u32) -> io::Result<Vec<CacheResult>> {
        if first >= end {
            return Ok(Vec::new());
        }
        let mut heads = vec![0; RESULT * (end - first) as usize];
        self.read_rest(&mut heads, RESULT * first as usize)?;
        let texts = RESULT * self.sizes.results as usize;
        let mut results = Vec::with_capacity((end - first) as usize);
        for head in heads.as_chunks::<RESULT>().0 {
            let [a, b, c, d, e, f, g, h, time @ ..] = *head;
            let (start, length) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
            let mut text = vec![0; length as usize];
            self.read_rest(&mut text, texts + start as usize)?;
            let id = String::from_utf8(text).map_err(io::Error::other)?;
            let created_at = Timestamp(u64::from_le_bytes(time));
            results.push(CacheResult { id: id.into(), created_at });
        }
        Ok(results)
    }

    /// Reads from what follows the tables.
    fn read_rest(&self, bytes: &mut [u8], at: usize) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::UnexpectedEof)?;
        if self.reads.fetch_add(1, Ordering::Relaxed) < MANY {
            return file.read_exact_at(bytes, self.results_at() + at as u64);
        }
        if self.rest.get().is_none() {
            let length = usize::try_from(self.end() - self.results_at()).map_err(io::Error::other)?;
            let mut rest = vec![0; length];
            file.read_exact_at(&mut rest, self.results_at())?;
            // Another thread may have been faster; both read the same.
            let _ = self.rest.set(rest);
        }
        let rest = self.rest.get().map_or(&[][..], Vec::as_slice);
        let source = rest.get(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(source);
        Ok(())
    }
}
