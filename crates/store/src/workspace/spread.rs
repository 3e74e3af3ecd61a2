//! One function over many items on several threads.

use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Items that are not worth a second thread: pass it as `grain`.
pub(crate) const SERIAL: usize = usize::MAX;

/// Applies `work` to every item and gives the results in the order of the items.
///
/// Threads take `grain` items at a time; with no more than `grain` items everything happens on the caller's
/// thread, because starting another one costs about 30 microseconds.
pub(crate) fn spread<T: Sync, R: Send>(items: &[T], grain: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() <= grain {
        return items.iter().map(work).collect();
    }
    let blocks = items.len().div_ceil(grain);
    let next = AtomicUsize::new(0);
    let drain = || {
        let mut done = Vec::new();
        loop {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block >= blocks {
                return done;
            }
            let part = items[block * grain..].iter().take(grain);
            done.push((block, part.map(&work).collect::<Vec<_>>()));
        }
    };
    let mut parts = thread::scope(|scope| {
        let others: Vec<_> = (1..threads().min(blocks)).map(|_| scope.spawn(drain)).collect();
        let mut parts = drain();
        for other in others {
            parts.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        parts
    });
    parts.sort_unstable_by_key(|(block, _)| *block);
    parts.into_iter().flat_map(|(_, part)| part).collect()
}

/// Two at least, so that one waits for the disk while the other computes; the kernel's locks on directories
/// leave nothing to gain beyond sixteen.
fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| thread::available_parallelism().map_or(2, usize::from).clamp(2, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items() {
        for (count, grain) in [(0, 1), (1, 1), (7, 3), (1000, 7), (10, SERIAL)] {
            let items: Vec<usize> = (0..count).collect();
            let expected: Vec<usize> = items.iter().map(|i| i * 2).collect();
            assert_eq!(spread(&items, grain, |i| i * 2), expected);
        }
    }
}
