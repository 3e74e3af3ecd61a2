//! A snapshot as it lies in the file.
//!
//! All numbers are little-endian. The file begins with a head of 64 bytes:
//!
//! ```text
//!  0  "qnkeys\0" and the format version (1 byte)      8  generation: u64
//! 16  nodes, links, digests, results: u32 each       32  node slots, digest slots: u32 each (powers of 2)
//! 40  length of the texts: u64                       48  checksum of the tables: u64
//! 56  checksum of the 56 bytes before: u64
//! ```
//!
//! then the tables, which are read whole: node ids (32 bytes each); digests of operations and
//! selectors (32), in the order in which nodes came to need them; where each digest's links start
//! (u32, one more than digests); links (24: source, target, input, selector + 1 or 0: u32 each, output:
//! i64), sorted by operation, then by source, input, output, selector and target; where each node's incoming
//! links start (u32, one more than nodes); the incoming links' numbers (u32); how many links
//! leave each node (u32); where each node's results start (u32, one more than nodes); the slots of nodes
//! and of digests (u32: number + 1 or 0), probed one by one from the hash on. Then come the results (16:
//! start and length of the text: u32, time: u64) and the texts, both read where needed.
//!
//! Most operations belong to one node, so what leads to a node lies together, next to what leads
//! to the node made after it: a walk over a graph reads the links from front to back.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering as Memory};

use quern_core::Digest;

use crate::cache::Timestamp;
use crate::cache::key_table::LinkNumbers;
use crate::cache::storage::{CacheInfoLink, CacheResult};
use crate::key::KeyId;

use super::log::checksum;

pub(super) const MAGIC: [u8; 7] = *b"qnkeys\0";
pub(super) const VERSION: u8 = 2;
pub(super) const HEAD: usize = 64;
pub(super) const LINK: usize = 24;
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
    pub(super) digest_slots: u32,
    pub(super) texts: u64,
}

/// Where each table starts.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    digests: usize,
    link_starts: usize,
    links: usize,
    incoming_starts: usize,
    incoming: usize,
    leaving: usize,
    results: usize,
    node_slots: usize,
    digest_slots: usize,
    end: usize,
}

impl Places {
    fn of(sizes: &Sizes) -> Self {
        let n = |count: u32| count as usize;
        let digests = 32 * n(sizes.nodes);
        let link_starts = digests + 32 * n(sizes.digests);
        let links = link_starts + 4 * (n(sizes.digests) + 1);
        let incoming_starts = links + LINK * n(sizes.links);
        let incoming = incoming_starts + 4 * (n(sizes.nodes) + 1);
        let leaving = incoming + 4 * n(sizes.links);
        let results = leaving + 4 * n(sizes.nodes);
        let node_slots = results + 4 * (n(sizes.nodes) + 1);
        let digest_slots = node_slots + 4 * n(sizes.node_slots);
        let end = digest_slots + 4 * n(sizes.digest_slots);
        Self {
            digests,
            link_starts,
            links,
            incoming_starts,
            incoming,
            leaving,
            results,
            node_slots,
            digest_slots,
            end,
        }
    }
}

/// A link as it lies in the table.
struct Row {
    source: u32,
    target: u32,
    input: u32,
    selector: u32,
    output: i64,
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

/// Where the probing for a digest begins. Digests are evenly spread; the last bytes serve, because
/// ids of local scope begin with zeros.
pub(super) fn slot_hash(digest: &Digest) -> u32 {
    let [.., a, b, c, d] = *digest.as_bytes();
    u32::from_le_bytes([a, b, c, d])
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
        if head[7] < VERSION {
            return Err(Unusable::Damaged("its format is of an earlier version"));
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
            digest_slots: u32_at(36),
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

    pub(super) fn links(&self) -> u32 {
        self.sizes.links
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

    /// The number of an id.
    pub(super) fn node(&self, id: &KeyId) -> Option<u32> {
        self.find(&id.0, self.places.node_slots, self.sizes.node_slots, 0)
    }

    /// The number of the digest of an operation or selector; `near` and the next are tried first.
    pub(super) fn number(&self, digest: &Digest, near: u32) -> Option<u32> {
        let table = self.places.digests;
        for near in [near, near.wrapping_add(1)] {
            if near < self.sizes.digests && self.is(table, near, digest) {
                return Some(near);
            }
        }
        self.find(digest, self.places.digest_slots, self.sizes.digest_slots, table)
    }

    fn find(&self, digest: &Digest, slots: usize, count: u32, table: usize) -> Option<u32> {
        let mask = count.checked_sub(1)?;
        let start = slot_hash(digest);
        for step in 0..count {
            let number = self.u32(slots + 4 * (start.wrapping_add(step) & mask) as usize).checked_sub(1)?;
            if self.is(table, number, digest) {
                return Some(number);
            }
        }
        None
    }

    fn is(&self, table: usize, number: u32, digest: &Digest) -> bool {
        let at = table + 32 * number as usize;
        self.tables[at..].first_chunk() == Some(digest.as_bytes())
    }

    /// Visits the nodes that a node leads to, as this input and output of an operation. The
    /// selector is that of links: a number of a digest plus one, or 0.
    pub(super) fn targets(
        &self,
        source: u32,
        operation: u32,
        (input, output, selector): (u32, i64, u32),
        mut visit: impl FnMut(u32),
    ) {
        let at = self.places.link_starts + 4 * operation as usize;
        let (mut number, end) = (self.u32(at), self.u32(at + 4));
        if end - number > 8 {
            number = self.first_from(number, end, source);
        }
        for number in number..end {
            let link = self.row(number);
            match link.source.cmp(&source) {
                Ordering::Less => {}
                Ordering::Equal => {
                    if (link.input, link.output, link.selector) == (input, output, selector) {
                        visit(link.target);
                    }
                }
                Ordering::Greater => return,
            }
        }
    }

    /// The first of some links that leaves `source` or a later node.
    fn first_from(&self, mut first: u32, mut end: u32, source: u32) -> u32 {
        while first < end {
            let middle = first + (end - first) / 2;
            if self.row(middle).source < source { first = middle + 1 } else { end = middle }
        }
        first
    }

    fn row(&self, number: u32) -> Row {
        let at = self.places.links + LINK * number as usize;
        let bytes: &[u8; LINK] = self.tables[at..].first_chunk().expect("within the tables");
        let (words, _) = bytes.as_chunks::<4>();
        let [a, b, c, d, low, high] =
            [words[0], words[1], words[2], words[3], words[4], words[5]].map(u32::from_le_bytes);
        let output = (u64::from(low) | u64::from(high) << 32).cast_signed();
        Row { source: a, target: b, input: c, selector: d, output }
    }

    /// What leads to a node.
    pub(super) fn sources(&self, node: u32) -> impl Iterator<Item = (u32, CacheInfoLink)> {
        self.numbered_sources(node).map(|link| {
            let LinkNumbers { source, input, output, operation, selector } = link;
            let (digest, selector) =
                (self.digest_at(operation), selector.map(|number| self.digest_at(number)));
            (source, CacheInfoLink { input, output, digest, selector })
        })
    }

    /// What leads to a node, by numbers.
    pub(super) fn numbered_sources(&self, node: u32) -> impl Iterator<Item = LinkNumbers> {
        let at = self.places.incoming_starts + 4 * node as usize;
        let incoming = move |place: u32| self.u32(self.places.incoming + 4 * place as usize);
        (self.u32(at)..self.u32(at + 4)).map(move |place| self.link_numbers(incoming(place)))
    }

    fn link_numbers(&self, number: u32) -> LinkNumbers {
        let Row { source, input, selector, output, .. } = self.row(number);
        let (operation, selector) = (self.operation_of(number), selector.checked_sub(1));
        LinkNumbers { source, input, output, operation, selector }
    }

    /// The digest of a number of an operation or selector.
    pub(super) fn digest_at(&self, number: u32) -> Digest {
        self.digest(self.places.digests + 32 * number as usize)
    }

    /// How many digests of operations and selectors there are.
    pub(super) fn digests(&self) -> u32 {
        self.sizes.digests
    }

    /// The operation among whose links one is: the last whose links start no later.
    fn operation_of(&self, link: u32) -> u32 {
        let (mut first, mut end) = (0, self.sizes.digests);
        while first + 1 < end {
            let middle = first + (end - first) / 2;
            let starts_later = self.u32(self.places.link_starts + 4 * middle as usize) > link;
            if starts_later { end = middle } else { first = middle }
        }
        first
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
        if self.reads.fetch_add(1, Memory::Relaxed) < MANY {
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
