//! Datums whose outputs are known: sorted, of fixed width. Comparing two sets is one pass over both.
//!
//! Format 1: the 16 bytes `quern.datums.v1\n`, then per datum, ascending by key without repetition, 72 bytes: key (32),
//! digest of the output tree (32), length of its canonical bytes (8, little-endian). Every set has one encoding.

mod parts;

use std::collections::BTreeMap;

use quern_core::{ContentRef, Digest};

use crate::datum::PlannedDatum;
pub use parts::LoadError;

const MAGIC: &[u8; 16] = b"quern.datums.v1\n";
const WIDTH: usize = 72;

/// Keys of datums with their outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatumSet {
    bytes: Vec<u8>,
}

/// Bytes that are no set of datums.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatumSetError {
    /// Another format.
    #[error("not a set of datums of format 1; use the version of quern that wrote it")]
    Format,
    /// Cut short, or keys out of order.
    #[error("a set of datums is damaged at entry {0}; delete it and run the pipeline again")]
    Damaged(usize),
}

/// What planned work has to do with known outputs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Number of datums (duplicates counted) whose output is known and part of the last merged tree.
    pub kept: u64,
    /// Number of datums (duplicates counted) in `revived`.
    pub revived_count: u64,
    /// Outputs known from longer ago, to be merged again.
    pub revived: Vec<(Digest, ContentRef)>,
    /// What has to run, ascending by key.
    pub missing: Vec<PlannedDatum>,
    /// Outputs of the last merged tree whose datums are no longer planned.
    pub gone: Vec<(Digest, ContentRef)>,
}

impl Difference {
    /// Datums that need not run.
    pub const fn skipped(&self) -> u64 {
        self.kept + self.revived_count
    }

    /// Whether the last merged tree is right as it is.
    pub const fn is_unchanged(&self) -> bool {
        self.revived.is_empty() && self.missing.is_empty() && self.gone.is_empty()
    }
}

impl Default for DatumSet {
    fn default() -> Self {
        Self { bytes: MAGIC.to_vec() }
    }
}

impl DatumSet {
    /// The set of these datums, in any order; of one key the last counts.
    pub fn new(mut entries: Vec<(Digest, ContentRef)>) -> Self {
        entries.reverse();
        entries.sort_by_key(|entry| entry.0);
        entries.dedup_by_key(|entry| entry.0);
        let mut set = Self::with_capacity(entries.len());
        entries.iter().for_each(|(key, output)| set.push(key, output));
        set
    }

    /// Reads a set.
    ///
    /// # Errors
    /// [`DatumSetError`] for anything that [`DatumSet::encoded`] does not give.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, DatumSetError> {
        if !bytes.starts_with(MAGIC) {
            return Err(DatumSetError::Format);
        }
        let set = Self { bytes };
        if !(set.bytes.len() - MAGIC.len()).is_multiple_of(WIDTH) {
            return Err(DatumSetError::Damaged(set.len()));
        }
        for i in 1..set.len() {
            if set.raw(i - 1)[..32] >= set.raw(i)[..32] {
                return Err(DatumSetError::Damaged(i));
            }
        }
        Ok(set)
    }

    /// Its bytes. In the store it is kept in parts: [`DatumSet::save`].
    pub fn encoded(&self) -> &[u8] {
        &self.bytes
    }

    /// How many datums it has.
    pub const fn len(&self) -> usize {
        (self.bytes.len() - MAGIC.len()) / WIDTH
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys and outputs, ascending by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Digest, ContentRef)> {
        (0..self.len()).map(|i| (self.key(i), self.output(i)))
    }

    /// The output of a datum.
    pub fn get(&self, key: &Digest) -> Option<ContentRef> {
        let at = self.first_from(0, |there| *there >= key.as_bytes()[..]);
        (at < self.len() && self.raw(at)[..32] == key.as_bytes()[..]).then(|| self.output(at))
    }

    /// The set without `gone` and with `added`, where an added one replaces one of the same key. Both may be in any
    /// order. What lies between two changes is copied as it is.
    #[must_use]
    pub fn updated(self, gone: &[Digest], added: Vec<(Digest, ContentRef)>) -> Self {
        if gone.is_empty() && added.is_empty() {
            return self;
        }
        let mut changes: BTreeMap<Digest, Option<ContentRef>> = gone.iter().map(|key| (*key, None)).collect();
        changes.extend(added.into_iter().map(|(key, output)| (key, Some(output))));
        let mut set = Self::with_capacity(self.len() + changes.len());
        let mut next = 0;
        for (key, output) in &changes {
            let at = self.first_from(next, |there| *there >= key.as_bytes()[..]);
            set.bytes.extend_from_slice(self.span(next, at));
            let there = at < self.len() && self.raw(at)[..32] == key.as_bytes()[..];
            next = at + usize::from(there);
            if let Some(output) = output {
                set.push(key, output);
            }
        }
        set.bytes.extend_from_slice(self.span(next, self.len()));
        set
    }

    fn with_capacity(entries: usize) -> Self {
        let mut bytes = Vec::with_capacity(MAGIC.len() + entries * WIDTH);
        bytes.extend_from_slice(MAGIC);
        Self { bytes }
    }

    fn push(&mut self, key: &Digest, output: &ContentRef) {
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(output.digest.as_bytes());
        self.bytes.extend_from_slice(&output.size.to_le_bytes());
    }

    fn raw(&self, i: usize) -> &[u8] {
        self.span(i, i + 1)
    }

    fn span(&self, start: usize, end: usize) -> &[u8] {
        &self.bytes[MAGIC.len() + start * WIDTH..MAGIC.len() + end * WIDTH]
    }

    /// The first entry, from `start` on, of whose key `reached` says so; it does of all that follow, too.
    fn first_from(&self, start: usize, reached: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (start, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if reached(&self.raw(middle)[..32]) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    fn key(&self, i: usize) -> Digest {
        Digest::from_bytes(self.raw(i)[..32].try_into().expect("a slice of 32 bytes"))
    }

    fn output(&self, i: usize) -> ContentRef {
        let raw = self.raw(i);
        let digest = Digest::from_bytes(raw[32..64].try_into().expect("a slice of 32 bytes"));
        let size = u64::from_le_bytes(raw[64..].try_into().expect("a slice of 8 bytes"));
        ContentRef { digest, size }
    }
}

/// Compares planned work (ascending by key, as [`crate::Datums::planned`] gives it) with the outputs that make up the
/// last merged tree and those known from before: one pass over all three.
pub fn difference(planned: &[PlannedDatum], current: &DatumSet, older: &DatumSet) -> Difference {
    let mut difference = Difference::default();
    let (mut in_current, mut in_older) = (Cursor::new(current), Cursor::new(older));
    for datum in planned {
        let known = in_current.seek(&datum.key, |gone| difference.gone.push(gone));
        let known_longer = in_older.seek(&datum.key, |_| {});
        match (known, known_longer) {
            (Some(_), _) => difference.kept += u64::from(datum.copies),
            (None, Some(output)) => {
                difference.revived_count += u64::from(datum.copies);
                difference.revived.push((datum.key, output));
            }
            (None, None) => difference.missing.push(*datum),
        }
    }
    in_current.rest(|gone| difference.gone.push(gone));
    difference
}

/// The same where it is known what is not in `current` any more (`gone`) and not yet (`planned`): one look for each. None if
/// `current` does not have all that is gone; then it is not the set that the changes were made from.
pub fn difference_of(
    planned: &[PlannedDatum],
    gone: &[Digest],
    current: &DatumSet,
    older: &DatumSet,
) -> Option<Difference> {
    let mut gone = gone.iter().map(|key| Some((*key, current.get(key)?))).collect::<Option<Vec<_>>>()?;
    gone.sort_unstable();
    let kept = current.len().checked_sub(gone.len())? as u64;
    let mut difference = Difference { kept, gone, ..Difference::default() };
    for datum in planned {
        match older.get(&datum.key) {
            Some(output) => {
                difference.revived_count += u64::from(datum.copies);
                difference.revived.push((datum.key, output));
            }
            None => difference.missing.push(*datum),
        }
    }
    Some(difference)
}

/// Goes through a set once, in step with ascending keys.
struct Cursor<'a> {
    set: &'a DatumSet,
    next: usize,
}

impl<'a> Cursor<'a> {
    const fn new(set: &'a DatumSet) -> Self {
        Self { set, next: 0 }
    }

    /// The output of `key`; shows every entry that is passed over.
    fn seek(&mut self, key: &Digest, mut passed: impl FnMut((Digest, ContentRef))) -> Option<ContentRef> {
        while self.next < self.set.len() {
            let order = self.set.raw(self.next)[..32].cmp(key.as_bytes());
            if order.is_gt() {
                return None;
            }
            let entry = self.next;
            self.next += 1;
            if order.is_eq() {
                return Some(self.set.output(entry));
            }
            passed((self.set.key(entry), self.set.output(entry)));
        }
        None
    }

    fn rest(&mut self, mut passed: impl FnMut((Digest, ContentRef))) {
        for entry in self.next..self.set.len() {
            passed((self.set.key(entry), self.set.output(entry)));
        }
        self.next = self.set.len();
    }
}
