//! A flag that a waiting thread can sleep on.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Says "stop" to whoever holds a clone of it. A token can be cancelled once and stays so.
#[derive(Clone, Default)]
pub struct CancelToken(Option<Arc<Flag>>);

#[derive(Default)]
struct Flag {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    cancelled: bool,
    /// What to do at the moment of cancelling.
    hooks: Vec<(u64, Box<dyn FnOnce() + Send>)>,
    next_hook: u64,
}

impl Flag {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a hook back when dropped.
pub(crate) struct HookGuard(Option<(Arc<Flag>, u64)>);

impl Drop for HookGuard {
    fn drop(&mut self) {
        if let Some((flag, hook)) = &self.0 {
            flag.state().hooks.retain(|(number, _)| number != hook);
        }
    }
}

impl CancelToken {
    /// A fresh token.
    pub fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// A token that nobody can ever cancel; costs nothing.
    pub const fn never() -> Self {
        Self(None)
    }

    /// Cancels; later calls change nothing.
    pub fn cancel(&self) {
        let Some(flag) = &self.0 else { return };
        let mut state = flag.state();
        state.cancelled = true;
        let hooks = std::mem::take(&mut state.hooks);
        drop(state);
        flag.changed.notify_all();
        for (_, hook) in hooks {
            hook();
        }
    }

    /// True once cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|flag| flag.state().cancelled)
    }

    /// Runs `hook` when the token is cancelled, at once if it is already.
    pub(crate) fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) -> HookGuard {
        let Some(flag) = &self.0 else { return HookGuard(None) };
        let mut state = flag.state();
        if state.cancelled {
            drop(state);
            hook();
            return HookGuard(None);
        }
        let number = state.next_hook;
        state.next_hook += 1;
        state.hooks.push((number, Box::new(hook)));
        HookGuard(Some((Arc::clone(flag), number)))
    }

    /// Waits for the cancellation, at most `limit`; true if it came.
    pub fn wait(&self, limit: Duration) -> bool {
        let Some(flag) = &self.0 else {
            std::thread::sleep(limit);
            return false;
        };
        let end = Instant::now().checked_add(limit);
        let mut state = flag.state();
        while !state.cancelled {
            let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            state = flag
                .changed
                .wait_timeout(state, left.min(Duration::from_secs(3600)))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.cancelled
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelToken({})", self.is_cancelled())
    }
}
