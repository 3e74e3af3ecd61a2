//! What this process has found public before: places of blobs, in bounded memory.

use std::collections::HashMap;

use quern_core::Digest;

use super::pack::Slot;

/// Two generations of so many entries of about 60 bytes each.
const GENERATION: usize = 40_000;

/// Where a public blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Packed(Slot),
    Loose,
}

/// A blob entered here stays in the store as long as this process lives: a prune waits for the leases of all
/// processes that may rely on it. So presence never has to be asked twice.
#[derive(Debug, Default)]
pub(super) struct Known {
    young: HashMap<Digest, Place>,
    old: HashMap<Digest, Place>,
}

impl Known {
    pub(super) fn get(&self, digest: &Digest) -> Option<Place> {
        self.young.get(digest).or_else(|| self.old.get(digest)).copied()
    }

    pub(super) fn insert(&mut self, digest: Digest, place: Place) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, place);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        self.young.remove(digest);
        self.old.remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_recent_places_stay() {
        let mut known = Known::default();
        let digest = |i: usize| Digest::of(&i.to_le_bytes());
        for i in 0..3 * GENERATION {
            known.insert(digest(i), Place::Loose);
        }
        assert!(known.young.len() + known.old.len() <= 2 * GENERATION);
        assert_eq!(known.get(&digest(3 * GENERATION - 1)), Some(Place::Loose));
        assert_eq!(known.get(&digest(2 * GENERATION)), Some(Place::Loose));
        assert_eq!(known.get(&digest(0)), None);
        known.remove(&digest(2 * GENERATION));
        assert_eq!(known.get(&digest(2 * GENERATION)), None);
    }
}
