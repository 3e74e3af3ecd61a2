//! Bytes that this process needs for a while and nobody else: neither written nor shown to others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quern_core::Digest;

/// What is held at this moment.
#[derive(Debug, Default)]
pub(super) struct Holdings(Mutex<HashMap<Digest, Bytes>>);

#[derive(Debug)]
struct Bytes {
    bytes: Arc<[u8]>,
    /// How many holdings there are of them.
    times: usize,
}

/// One holding; dropping it gives it up.
struct Holding {
    all: Arc<Holdings>,
    digest: Digest,
}

impl Holdings {
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        self.lock().get(digest).map(|held| Arc::clone(&held.bytes))
    }

    pub(super) fn hold(self: &Arc<Self>, digest: Digest, bytes: &[u8]) -> impl Send + Sync + 'static {
        self.lock().entry(digest).or_insert_with(|| Bytes { bytes: bytes.into(), times: 0 }).times += 1;
        Holding { all: Arc::clone(self), digest }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(held) = all.get_mut(&self.digest) {
            held.times -= 1;
            if held.times == 0 {
                all.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_any_more_is_gone() {
        let all = Arc::new(Holdings::default());
        let digest = Digest::of(b"x");
        let (first, second) = (all.hold(digest, b"x"), all.hold(digest, b"x"));
        drop(first);
        assert_eq!(all.get(&digest).as_deref(), Some(b"x".as_slice()));
        drop(second);
        assert_eq!(all.get(&digest), None);
        assert!(all.lock().is_empty());
    }
}
