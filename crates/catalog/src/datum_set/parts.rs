//! A set of datums as blobs: a directory of parts, so that a change of few datums writes few bytes.
//!
//! A part holds the datums whose keys begin with the same bits, in the encoding of a whole set, and is named by these
//! bits as a number, in hexadecimal. There are as few bits as make a part about [`PART`] datums long: keys are
//! digests, so parts are of nearly equal length, and only a set that doubles is cut anew. Every set has one directory.

use quern_core::port::{Blobs, PortError};
use quern_core::{ContentRef, Entry, Tree};

use super::{DatumSet, DatumSetError, MAGIC};
use crate::tree::{self, TreesError};

/// Datums of a part, at most about twice as many.
const PART: usize = 1024;

/// Why a set cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The directory of its parts.
    #[error(transparent)]
    Tree(#[from] TreesError),
    /// A part.
    #[error(transparent)]
    Part(#[from] DatumSetError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

impl DatumSet {
    /// Keeps the set and gives the directory of its parts.
    ///
    /// # Errors
    /// Those of the store.
    pub fn save(&self, blobs: &dyn Blobs) -> Result<ContentRef, TreesError> {
        let bits = bits(self.len());
        let (mut parts, mut start) = (Vec::new(), 0);
        while start < self.len() {
            let prefix = prefix(self.raw(start), bits);
            let end = self.first_from(start, |key| self::prefix(key, bits) > prefix);
            let part = [MAGIC, self.span(start, end)].concat();
            let content = blobs.put(&part)?;
            parts.push((format!("{prefix:04x}"), Entry::File { content, executable: false }));
            start = end;
        }
        tree::save(blobs, &Tree::new(parts)?)
    }

    /// The set of these parts.
    ///
    /// # Errors
    /// [`LoadError`] if a part is missing, or is none.
    pub fn load(blobs: &dyn Blobs, parts: &ContentRef) -> Result<Self, LoadError> {
        let parts = tree::open(blobs, parts)?;
        let mut bytes = MAGIC.to_vec();
        for (_, entry) in parts.entries() {
            let Entry::File { content, .. } = entry else { return Err(DatumSetError::Format.into()) };
            let part = blobs.get(&content.digest)?;
            bytes.extend_from_slice(part.strip_prefix(MAGIC).ok_or(DatumSetError::Format)?);
        }
        Ok(Self::decode(bytes)?)
    }
}

/// How many bits of a key name its part; at most 16.
fn bits(datums: usize) -> u32 {
    (datums / PART).checked_ilog2().map_or(0, |bits| (bits + 1).min(16))
}

/// The first bits of a key.
fn prefix(key: &[u8], bits: u32) -> u32 {
    u32::from(u16::from_be_bytes([key[0], key[1]])) >> (16 - bits)
}
