//! Small numbers for digests, so that tables of links need not repeat 32 bytes.

use hashbrown::HashTable;
use quern_core::Digest;

use crate::digest_map::spread;

/// Digests and the numbers they go by. A number is used again once its digest was forgotten.
#[derive(Default)]
pub(crate) struct Numbers {
    digests: Vec<Digest>,
    table: HashTable<u32>,
    free: Vec<u32>,
}

impl Numbers {
    pub(crate) fn get(&self, digest: &Digest) -> Option<u32> {
        self.table.find(spread(digest), |number| self.digests[*number as usize] == *digest).copied()
    }

    /// The number of a digest, a new one if need be.
    pub(crate) fn add(&mut self, digest: &Digest) -> u32 {
        if let Some(number) = self.get(digest) {
            return number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.digests.push(*digest);
            u32::try_from(self.digests.len() - 1).expect("a cache holds fewer than 2^32 keys")
        });
        self.digests[number as usize] = *digest;
        let digests = &self.digests;
        self.table.insert_unique(spread(digest), number, |number| spread(&digests[*number as usize]));
        number
    }

    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.digests.reserve(more);
        let digests = &self.digests;
        self.table.reserve(more, |number| spread(&digests[*number as usize]));
    }

    pub(crate) fn forget(&mut self, number: u32) {
        let entry = self.table.find_entry(spread(&self.digests[number as usize]), |other| *other == number);
        if let Ok(entry) = entry {
            entry.remove();
            self.free.push(number);
        }
    }

    pub(crate) fn digest(&self, number: u32) -> Digest {
        self.digests[number as usize]
    }

    /// Greater than every number in use.
    pub(crate) fn end(&self) -> u32 {
        u32::try_from(self.digests.len()).expect("a cache holds fewer than 2^32 keys")
    }

    /// True if every number below [`end`](Numbers::end) is in use.
    pub(crate) fn are_all_in_use(&self) -> bool {
        self.free.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}
