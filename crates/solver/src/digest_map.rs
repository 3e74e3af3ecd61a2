//! Hash maps over digests. A digest is already evenly spread, so eight of its bytes serve as its
//! hash; a general hash function would cost more than the whole lookup.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use quern_core::Digest;

/// A map whose keys are digests, or small values made of digests and numbers.
pub(crate) type DigestMap<K, V> = HashMap<K, V, BuildHasherDefault<DigestHasher>>;

/// A hash of a digest: its last bytes, because ids of local scope begin with zeros.
pub(crate) fn spread(digest: &Digest) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *digest.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Mixes the last eight bytes of every slice and every number.
///
/// The last bytes, because ids of local scope start with zeros.
#[derive(Default)]
pub(crate) struct DigestHasher(u64);

impl DigestHasher {
    fn mix(&mut self, value: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(ODD);
    }
}

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.rchunks(8).take(1) {
            let mut tail = [0; 8];
            tail[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(tail));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_i64(&mut self, value: i64) {
        self.mix(value.cast_unsigned());
    }

    /// Length prefixes and enum tags: of little use in telling keys apart, but they must count.
    fn write_usize(&mut self, value: usize) {
        self.0 = self.0.rotate_left(5) ^ value as u64;
    }
}
