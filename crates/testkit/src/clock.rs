//! Time and ids that a test controls.

use std::sync::atomic::{AtomicU64, Ordering};

use quern_core::port::{Clock, Ids};
use quern_core::{Id, Timestamp};

/// A clock that stands still until it is told to move.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `now`.
    pub const fn at(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Moves the clock on.
    pub fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Ids 1, 2, 3 and so on.
#[derive(Debug, Default)]
pub struct SequentialIds(AtomicU64);

impl Ids for SequentialIds {
    fn fresh(&self) -> Id {
        let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        Id::from_bytes(u128::from(number).to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_and_ids_count() {
        let clock = ManualClock::at(Timestamp(5));
        clock.advance(10);
        assert_eq!((clock.now(), clock.now()), (Timestamp(15), Timestamp(15)));
        let ids = SequentialIds::default();
        assert_eq!(ids.fresh().to_string(), format!("{:032x}", 1));
        assert_eq!(ids.fresh().to_string(), format!("{:032x}", 2));
    }
}
