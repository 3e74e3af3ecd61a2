//! Names resolved once per job: a lock per key that remembers what its holders found.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Values found by earlier holders of a key.
///
/// An op that turns a name into something fixed (a tag into a digest) locks the name, looks at
/// what others found, and leaves what it found itself: within a job one name means one thing.
pub struct ResolverCache<V> {
    state: Arc<State<V>>,
}

struct State<V> {
    entries: Mutex<HashMap<String, Entry<V>>>,
    freed: Condvar,
}

struct Entry<V> {
    held: bool,
    values: Vec<V>,
}

/// A key that is locked; dropping it frees the key without adding a value.
pub struct ResolverLock<V> {
    state: Arc<State<V>>,
    key: String,
    values: Vec<V>,
}

impl<V: Clone> ResolverCache<V> {
    /// Nothing was resolved yet.
    pub fn new() -> Self {
        Self { state: Arc::new(State { entries: Mutex::new(HashMap::new()), freed: Condvar::new() }) }
    }

    /// Waits for the key to be free and locks it.
    pub fn lock(&self, key: &str) -> ResolverLock<V> {
        let mut entries = self.state.entries();
        while entries.get(key).is_some_and(|entry| entry.held) {
            entries = self.state.freed.wait(entries).unwrap_or_else(PoisonError::into_inner);
        }
        let entry = entries.entry(key.to_owned()).or_insert(Entry { held: false, values: Vec::new() });
        entry.held = true;
        ResolverLock { state: Arc::clone(&self.state), key: key.to_owned(), values: entry.values.clone() }
    }

    /// Locks the key in several caches, for a vertex that several jobs wait for. The caches are
    /// locked in the order of the slice, which must be the same everywhere.
    pub fn lock_all(caches: &[&Self], key: &str) -> Vec<ResolverLock<V>> {
        caches.iter().map(|cache| cache.lock(key)).collect()
    }
}

impl<V: Clone> Default for ResolverCache<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> fmt::Debug for ResolverCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResolverCache({} keys)", self.state.entries().len())
    }
}

impl<V> State<V> {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry<V>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self, key: &str, value: Option<V>) {
        if let Some(entry) = self.entries().get_mut(key) {
            entry.held = false;
            entry.values.extend(value);
        }
        self.freed.notify_all();
    }
}

impl<V> ResolverLock<V> {
    /// What earlier holders found, in their order.
    pub fn values(&self) -> &[V] {
        &self.values
    }

    /// Frees the key and leaves a value to later holders.
    pub fn release(mut self, value: V) {
        let key = std::mem::take(&mut self.key);
        self.state.free(&key, Some(value));
    }
}

impl<V> Drop for ResolverLock<V> {
    fn drop(&mut self) {
        if !self.key.is_empty() {
            self.state.free(&self.key, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 55, 58 and 59: values add up; a lock dropped adds none.
    #[test]
    fn later_holders_see_what_earlier_ones_found() {
        let cache = ResolverCache::new();
        for number in 0..4 {
            let lock = cache.lock("name");
            assert_eq!(lock.values(), (0..number).collect::<Vec<i32>>());
            lock.release(number);
            drop(cache.lock("name"));
        }
    }

    /// 56 and 57: waiters of one key wait, those of another do not.
    #[test]
    fn a_key_has_one_holder() {
        let cache = ResolverCache::new();
        let first = cache.lock("name");
        drop(cache.lock("other"));
        std::thread::scope(|scope| {
            let waiters: Vec<_> =
                (0..2).map(|_| scope.spawn(|| cache.lock("name").values().to_vec())).collect();
            std::thread::sleep(Duration::from_millis(10));
            assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
            first.release(7);
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap() == [7]));
        });
    }

    /// 60 to 63: several at once; giving up frees all of them.
    #[test]
    fn several_caches_are_locked_together() {
        let (a, b) = (ResolverCache::new(), ResolverCache::new());
        a.lock("name").release(1);
        b.lock("name").release(2);
        let locks = ResolverCache::lock_all(&[&a, &b], "name");
        let values: Vec<i32> = locks.iter().flat_map(|lock| lock.values().to_vec()).collect();
        assert_eq!(values, [1, 2]);
        drop(locks);
        assert_eq!(a.lock("name").values(), [1]);
        assert!(ResolverCache::<i32>::lock_all(&[], "name").is_empty());
    }
}
