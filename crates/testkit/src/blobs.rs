//! [`Blobs`] in memory, and the obligations of the port as a suite.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard};

use quern_core::port::{Blobs, PortError};
use quern_core::{ContentRef, Digest};

/// Blobs in memory. Clones share their content.
#[derive(Debug, Clone, Default)]
pub struct MemBlobs(Arc<Mutex<HashMap<Digest, Arc<[u8]>>>>);

impl MemBlobs {
    /// How many different blobs are kept.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets a blob, as a prune would.
    pub fn remove(&self, digest: &Digest) {
        self.lock().remove(digest);
    }

    /// Replaces the bytes filed under a digest by others, as a bad disk would.
    pub fn damage(&self, digest: &Digest, bytes: &[u8]) {
        self.lock().insert(*digest, bytes.into());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<[u8]>>> {
        self.0.lock().expect("no holder of this lock panics")
    }

    fn checked(&self, digest: &Digest) -> Result<Arc<[u8]>, PortError> {
        let bytes = self.lock().get(digest).cloned().ok_or(PortError::Missing(*digest))?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(PortError::Damaged(*digest)) }
    }
}

impl Blobs for MemBlobs {
    fn contains(&self, digest: &Digest) -> Result<bool, PortError> {
        Ok(self.lock().contains_key(digest))
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, PortError> {
        self.checked(digest).map(|bytes| bytes.to_vec())
    }

    fn open(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, PortError> {
        self.checked(digest).map(|bytes| Box::new(Cursor::new(bytes)) as Box<dyn Read + Send>)
    }

    fn put(&self, bytes: &[u8]) -> Result<ContentRef, PortError> {
        let digest = Digest::of(bytes);
        self.lock().entry(digest).or_insert_with(|| bytes.into());
        Ok(ContentRef { digest, size: bytes.len() as u64 })
    }

    fn put_stream(&self, reader: &mut dyn Read) -> Result<ContentRef, PortError> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|error| PortError::io("reading a blob", error))?;
        self.put(&bytes)
    }

    fn sync(&self) -> Result<(), PortError> {
        Ok(())
    }
}

/// Runs every obligation of [`Blobs`]; `fresh` gives an empty store each time.
///
/// # Panics
/// If an obligation is broken.
pub fn blobs_suite(fresh: &dyn Fn() -> Box<dyn Blobs>) {
    sizes_round_trip(&*fresh());
    absent_content_is_missing(&*fresh());
    a_failing_reader_keeps_nothing(&*fresh());
    puts_are_idempotent(&*fresh());
    held_content_is_found_and_may_be_kept(&*fresh());
    threads_put_and_get_at_once(&*fresh());
}

/// Bytes that no compression or deduplication shortens: a counter-mode stream of `seed`.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn read_all(blobs: &dyn Blobs, digest: &Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    blobs.open(digest).expect("opens").read_to_end(&mut bytes).expect("reads");
    bytes
}

fn sizes_round_trip(blobs: &dyn Blobs) {
    let sizes = [0, 1, 100, 4095, 4096, 65_535, 65_536, 65_537, 131_072, 131_073, 1_000_000, 3_000_001];
    for streamed in [false, true] {
        let wanted: Vec<_> =
            sizes.iter().map(|len| noise(*len as u64 + u64::from(streamed) * 77, *len)).collect();
        for bytes in &wanted {
            let expected = ContentRef { digest: Digest::of(bytes), size: bytes.len() as u64 };
            let kept = if streamed { blobs.put_stream(&mut &bytes[..]) } else { blobs.put(bytes) };
            assert_eq!(kept.expect("is kept"), expected);
            assert_eq!(&blobs.get(&expected.digest).expect("is there before sync"), bytes);
        }
        blobs.sync().expect("syncs");
        for bytes in &wanted {
            let digest = Digest::of(bytes);
            assert!(blobs.contains(&digest).expect("can be asked"));
            assert!(&blobs.get(&digest).expect("is there") == bytes, "get of {} bytes", bytes.len());
            assert!(&read_all(blobs, &digest) == bytes, "open of {} bytes", bytes.len());
        }
    }
}

fn held_content_is_found_and_may_be_kept(blobs: &dyn Blobs) {
    let (content, held) = blobs.hold(b"for a while").expect("is held");
    assert_eq!((content.digest, content.size), (Digest::of(b"for a while"), 11));
    assert_eq!(blobs.get(&content.digest).expect("is found"), b"for a while");
    assert_eq!(read_all(blobs, &content.digest), b"for a while");
    assert_eq!(blobs.put(b"for a while").expect("is kept"), content);
    drop(held);
    blobs.sync().expect("syncs");
    assert_eq!(blobs.get(&content.digest).expect("was kept, too"), b"for a while");
}

fn absent_content_is_missing(blobs: &dyn Blobs) {
    let absent = Digest::of(b"never put");
    blobs.put(b"something else").expect("is kept");
    assert!(!blobs.contains(&absent).expect("can be asked"));
    assert!(matches!(blobs.get(&absent), Err(PortError::Missing(digest)) if digest == absent));
    assert!(matches!(blobs.open(&absent), Err(PortError::Missing(digest)) if digest == absent));
}

/// Gives some bytes, then fails.
struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::Error::other("the source is gone"));
        }
        let len = out.len().min(self.0);
        out[..len].fill(b'x');
        self.0 -= len;
        Ok(len)
    }
}

fn a_failing_reader_keeps_nothing(blobs: &dyn Blobs) {
    for len in [10, 1_000_000] {
        let error = blobs.put_stream(&mut Failing(len)).expect_err("the reader fails");
        assert!(matches!(error, PortError::Io { .. }), "{error}");
        assert!(!blobs.contains(&Digest::of(&vec![b'x'; len])).expect("can be asked"));
    }
}

fn puts_are_idempotent(blobs: &dyn Blobs) {
    for bytes in [noise(1, 50), noise(2, 500_000)] {
        let first = blobs.put(&bytes).expect("is kept");
        assert_eq!(blobs.put(&bytes).expect("is kept again"), first);
        blobs.sync().expect("syncs");
        assert_eq!(blobs.put_stream(&mut &bytes[..]).expect("is kept again"), first);
        blobs.sync().expect("syncs with nothing new");
        assert_eq!(blobs.get(&first.digest).expect("is there"), bytes);
    }
}

fn threads_put_and_get_at_once(blobs: &dyn Blobs) {
    // Every thread puts its own blobs and the ones all share, and reads all of them back.
    const THREADS: u64 = 8;
    let shared: Vec<_> = (0..40).map(|i| noise(1000 + i, 700 + i as usize * 4000)).collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let shared = &shared;
            scope.spawn(move || {
                for (i, common) in shared.iter().enumerate() {
                    let own = noise(thread << 32 | i as u64, 300);
                    let own = blobs.put(&own).expect("is kept").digest;
                    let common = blobs.put(common).expect("is kept").digest;
                    if i % 10 == 0 {
                        blobs.sync().expect("syncs");
                    }
                    assert_eq!(Digest::of(&blobs.get(&own).expect("own is there")), own);
                    assert_eq!(Digest::of(&blobs.get(&common).expect("shared is there")), common);
                }
            });
        }
    });
    blobs.sync().expect("syncs");
    for common in &shared {
        assert_eq!(&blobs.get(&Digest::of(common)).expect("is there"), common);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fake_passes_the_suite() {
        blobs_suite(&|| Box::new(MemBlobs::default()));
    }

    #[test]
    fn the_fake_reports_damage() {
        let blobs = MemBlobs::default();
        let digest = blobs.put(b"good").unwrap().digest;
        blobs.damage(&digest, b"bad");
        assert!(matches!(blobs.get(&digest), Err(PortError::Damaged(d)) if d == digest));
        blobs.remove(&digest);
        assert!(matches!(blobs.get(&digest), Err(PortError::Missing(_))));
    }
}
