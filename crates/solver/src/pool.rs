//! Threads for calls that may block: as many as are needed, up to a limit.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Task = Box<dyn FnOnce() + Send>;

/// How long a thread without work stays.
const PATIENCE: Duration = Duration::from_secs(2);

/// An elastic pool. Dropping it lets the threads end once the queue is empty.
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    limit: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    threads: usize,
    idle: usize,
    /// Threads that wait for other tasks of this pool and do not count against the limit.
    waiting: usize,
    closed: bool,
}

impl Pool {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), limit: limit.max(1) }))
    }

    pub(crate) fn run(&self, task: Task) {
        let mut state = self.0.state();
        state.queue.push_back(task);
        self.0.man(state);
    }

    /// Runs `wait`, which waits for other tasks of this pool, while another thread may step in.
    pub(crate) fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        let mut state = self.0.state();
        state.waiting += 1;
        self.0.man(state);
        let value = wait();
        self.0.state().waiting -= 1;
        value
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.work.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that somebody works on the queue.
    fn man(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.queue.is_empty() {
            return;
        }
        if state.idle >= state.queue.len() || state.threads >= self.limit + state.waiting {
            self.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let shared = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("quern-op".into()).spawn(move || shared.work());
        if spawned.is_err() {
            // No thread to be had: those that exist will get to the task.
            let mut state = self.state();
            state.threads -= 1;
            if state.threads == 0 {
                drop(state);
                self.work();
            }
        }
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(task) = state.queue.pop_front() {
                drop(state);
                task();
                state = self.state();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, timeout) =
                self.work.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads = state.threads.saturating_sub(1);
    }
}
