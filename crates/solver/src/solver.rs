//! The front door: a solver, its jobs and their builds.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use quern_core::Digest;

use crate::cache::{CacheManager, KeyedCache};
use crate::cancel::CancelToken;
use crate::decide::{Census, JobId, Owner};
use crate::drive::Driver;
use crate::error::{CacheError, JobError, SolveError};
use crate::graph::{Edge, Graph, Input};
use crate::progress::ProgressEvent;
use crate::result::CachedResult;

/// How a solver works.
pub struct SolverOptions {
    /// The cache to ask first and to save in.
    pub cache: Arc<dyn CacheManager>,
    /// How much weight of execs may run at once; none: no limit but `threads`.
    pub parallelism: Option<u32>,
    /// How many threads calls may occupy at once.
    pub threads: usize,
    /// Ask for every cache map twice and refuse ops whose answers differ; for those who write ops.
    pub verify_cache_maps: bool,
    /// How long [`Solver::get`] waits for a job.
    pub job_patience: Duration,
}

impl Default for SolverOptions {
    fn default() -> Self {
        Self {
            cache: Arc::new(KeyedCache::in_memory("memory")),
            parallelism: None,
            threads: 256,
            verify_cache_maps: false,
            job_patience: Duration::from_secs(6),
        }
    }
}

/// A graph of everything that is being built, shared by all jobs; clones share it.
///
/// Vertices of equal digest are one while they live, vertices with equal cache keys do their work
/// once, and results are kept until no job needs them any more.
#[derive(Clone)]
pub struct Solver {
    shared: Arc<Shared>,
}

struct Shared {
    driver: Arc<Driver>,
    cache: Arc<dyn CacheManager>,
    jobs: Mutex<HashMap<String, Weak<Handle>>>,
    appeared: Condvar,
    patience: Duration,
}

impl Solver {
    /// A solver without jobs.
    pub fn new(options: SolverOptions) -> Self {
        let patience = options.job_patience;
        let cache = Arc::clone(&options.cache);
        let driver = Driver::new(options);
        let (jobs, appeared) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { driver, cache, jobs, appeared, patience }) }
    }

    /// Starts a job.
    ///
    /// # Errors
    /// [`JobError::Exists`] if a job of this name is running.
    pub fn job(&self, id: impl Into<String>) -> Result<Job, JobError> {
        let name = id.into();
        let mut jobs = self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.get(&name).is_some_and(|job| job.upgrade().is_some_and(|job| !job.is_discarded())) {
            return Err(JobError::Exists(name));
        }
        let id = self.shared.driver.change(|state| state.core.open_job(name.as_str().into()));
        let shared = Arc::clone(&self.shared);
        let job = Arc::new(Handle { shared, name: name.clone(), id, discarded: AtomicBool::new(false) });
        jobs.insert(name, Arc::downgrade(&job));
        self.shared.appeared.notify_all();
        Ok(Job(job))
    }

    /// Finds a job by name, waiting for it to appear for a while.
    ///
    /// # Errors
    /// [`JobError::NotFound`] if it does not.
    pub fn get(&self, id: &str) -> Result<Job, JobError> {
        let end = Instant::now() + self.shared.patience;
        let mut jobs = self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = jobs.get(id).and_then(Weak::upgrade).filter(|job| !job.is_discarded()) {
                return Ok(Job(job));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(JobError::NotFound(id.to_owned()));
            }
            jobs = self.shared.appeared.wait_timeout(jobs, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until no call of any op, load or save is under way.
    pub fn wait_idle(&self) {
        self.shared.driver.wait_idle();
    }

    /// Hands what was saved so far to other processes and takes in what they saved ([`CacheManager::exchange`]).
    ///
    /// # Errors
    /// [`CacheError`] if the cache fails.
    pub fn exchange(&self) -> Result<(), CacheError> {
        self.wait_idle();
        self.shared.cache.exchange()
    }

    /// How much is live; all zero once every job was discarded and the solver is idle.
    pub fn census(&self) -> Census {
        self.shared.driver.state().core.census()
    }

    /// The jobs that hold the live vertex of a digest; none if no such vertex is live.
    pub fn holders(&self, vertex: &Digest) -> Option<Vec<String>> {
        let mut state = self.shared.driver.state();
        state.core.wake();
        let live = state.core.live(vertex)?;
        let names = state.core.holders(live).into_iter().filter_map(|job| state.core.job(job));
        Some(names.map(|job| job.name.to_string()).collect())
    }
}

impl fmt::Debug for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Solver({:?})", self.census())
    }
}

/// One client of a solver; clones share it. Everything only it needs lives until it is discarded,
/// which dropping the last clone does, too.
#[derive(Clone)]
pub struct Job(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    name: String,
    id: JobId,
    discarded: AtomicBool,
}

impl Job {
    /// The name.
    pub fn id(&self) -> &str {
        &self.0.name
    }

    /// Builds one edge and waits for it.
    ///
    /// # Errors
    /// [`SolveError`] names the vertex that failed and the way that led there.
    pub fn build(&self, edge: &Edge) -> Result<CachedResult, SolveError> {
        self.build_until(edge, &CancelToken::never())
    }

    /// As [`build`](Job::build), but gives up when `cancel` says so. Whatever others wait for goes
    /// on.
    ///
    /// # Errors
    /// [`SolveError::Cancelled`], and as [`build`](Job::build).
    pub fn build_until(&self, edge: &Edge, cancel: &CancelToken) -> Result<CachedResult, SolveError> {
        let mut outcome = Err(SolveError::Cancelled);
        self.run(&edge.graph, &[edge.at], cancel, &mut |_, result| outcome = result);
        outcome
    }

    /// Builds many edges of one graph at once. `done` is called on this thread with the number of
    /// the edge as each one ends, in whatever order they do.
    pub fn build_all(
        &self,
        graph: &Graph,
        edges: &[Input],
        cancel: &CancelToken,
        mut done: impl FnMut(usize, Result<CachedResult, SolveError>),
    ) {
        self.run(graph, edges, cancel, &mut done);
    }

    fn run(
        &self,
        graph: &Graph,
        edges: &[Input],
        cancel: &CancelToken,
        done: &mut dyn FnMut(usize, Result<CachedResult, SolveError>),
    ) {
        let targets: Vec<(usize, Input)> = edges.iter().copied().enumerate().collect();
        let (sender, receiver) = channel();
        let driver = &self.0.shared.driver;
        let started = if cancel.is_cancelled() {
            Err(SolveError::Cancelled)
        } else {
            driver.start_builds(Owner::Job(self.0.id), graph, &targets, &sender)
        };
        drop(sender);
        match started {
            Ok(builds) => {
                let _hook = driver.cancel_with(cancel, builds);
                receiver.into_iter().for_each(|(number, result)| done(number, result));
            }
            Err(error) => (0..edges.len()).for_each(|number| done(number, Err(error.clone()))),
        }
    }

    /// Ends all builds of this job, running and future ones, with [`SolveError::Cancelled`].
    /// Calls only this job wanted are told to stop; [`Solver::wait_idle`] waits for them.
    pub fn cancel(&self) {
        self.0.shared.driver.change(|state| state.core.cancel_job(self.0.id));
    }

    /// What happens to the vertices of this job's builds from now on. Watch before building.
    pub fn watch(&self) -> Receiver<ProgressEvent> {
        let (sender, receiver) = channel();
        self.0.shared.driver.change(|state| {
            if let Some(job) = state.core.job_mut(self.0.id) {
                job.watched = true;
                state.watchers.insert(self.0.id, sender);
            }
        });
        receiver
    }

    /// Sets a value that ops can read while they work for this job.
    pub fn set_value<T: Any + Send + Sync>(&self, key: impl Into<String>, value: T) {
        self.0.shared.driver.change(|state| {
            if let Some(job) = state.core.job_mut(self.0.id) {
                job.values.insert(key.into(), Arc::new(value));
            }
        });
    }

    /// The value set under `key`.
    pub fn value(&self, key: &str) -> Option<Arc<dyn Any + Send + Sync>> {
        self.0.shared.driver.state().core.job(self.0.id)?.values.get(key).cloned()
    }

    /// Ends the job: its builds are cancelled, and everything only it needed is dropped.
    pub fn discard(&self) {
        self.0.discard();
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job({})", self.id())
    }
}

impl Handle {
    fn is_discarded(&self) -> bool {
        self.discarded.load(Ordering::Acquire)
    }

    fn discard(&self) {
        if self.discarded.swap(true, Ordering::AcqRel) {
            return;
        }
        self.shared.driver.change(|state| {
            state.core.discard(self.id);
            state.watchers.remove(&self.id);
        });
        let mut jobs = self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.get(&self.name).is_some_and(|job| std::ptr::eq(job.as_ptr(), self)) {
            jobs.remove(&self.name);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.discard();
    }
}
