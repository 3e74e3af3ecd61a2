//! Steps on this machine: the executor and its workers.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quern_core::port::{
    Cancel, Executor, Exit, Images, Layers, Observer, Outcome, PortError, Usage, Workspace,
};
use quern_core::step::Attempt;
use rustix::fs::MemfdFlags;

use crate::cache::Caches;
use crate::checks::check;
use crate::log::Log;
use crate::order::{Cost, Reply};
use crate::plan::{Plan, Ports};
use crate::refusal::ExecError;
use crate::worker::{End, Stop, Worker};

/// How often a step that waits for a worker looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(50);

/// What an executor needs.
pub struct LocalOptions {
    /// Where inputs come from and outputs go.
    pub workspace: Arc<dyn Workspace>,
    /// Where root file systems come from.
    pub images: Arc<dyn Images>,
    /// Where what a step changes in a writable root is kept.
    pub layers: Arc<dyn Layers>,
    /// The program that becomes a launcher: it is started with [`crate::LAUNCHER_ARGUMENT`] as its only argument
    /// and must then call [`crate::launcher_main`]. Usually the running program itself.
    pub launcher: PathBuf,
    /// Most steps at a time; at least one.
    pub workers: usize,
}

/// Runs steps in sandboxes on this machine.
pub struct LocalExecutor {
    options: LocalOptions,
    pool: Mutex<Pool>,
    freed: Condvar,
}

struct Pool {
    idle: Vec<Worker>,
    /// Workers that exist, idle or not, or are about to.
    taken: usize,
}

impl LocalExecutor {
    /// An executor without launchers; they are started when they are needed.
    ///
    /// # Errors
    /// [`ExecError::Invalid`] for options that make no sense.
    pub fn new(options: LocalOptions) -> Result<Self, ExecError> {
        if options.workers == 0 {
            return Err(ExecError::Invalid("an executor needs at least one worker".into()));
        }
        let pool = Mutex::new(Pool { idle: Vec::new(), taken: 0 });
        Ok(Self { options, pool, freed: Condvar::new() })
    }

    /// Starts a launcher, to learn now whether this machine can make sandboxes.
    ///
    /// # Errors
    /// What keeps it from making them, such as [`crate::Refusal::Namespaces`].
    pub fn check(&self) -> Result<(), ExecError> {
        match self.worker(&Cancel::default())? {
            Some(worker) => worker.give_back(),
            None => unreachable!("nobody cancels"),
        }
        Ok(())
    }

    fn run_step(
        &self,
        attempt: &Attempt,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Outcome, ExecError> {
        check(attempt)?;
        // Before a worker, which others may need in order to give a cache back.
        let workspace = self.options.workspace.as_ref();
        let Some(caches) = Caches::hold(&attempt.step, workspace, cancel)? else { return Ok(not_run()) };
        let Some(mut worker) = self.worker(cancel)? else { return Ok(not_run()) };
        let start = Instant::now();
        let plan = Plan::make(attempt, self.ports(), &caches)?;
        let stdin = in_memory(&attempt.step.stdin).map_err(ExecError::Talk)?;
        let mut log = Log::new(observer);
        let run = worker.worker.as_mut().expect("a lent worker is there until it is given back");
        let end = run.run(&plan, stdin.as_ref(), &mut log, cancel, attempt.step.timeout);
        // A refusal leaves the launcher as it was; after any other error nothing is known of it.
        // Then it is ended now, before the directories the step may still write to are given back.
        match end {
            Ok(_) | Err(ExecError::Refused(_)) => worker.give_back(),
            Err(_) => drop(worker),
        }
        let (exit, cost) = match end? {
            End::Stopped(Stop::TimedOut) => (Exit::TimedOut, Cost::default()),
            End::Stopped(Stop::Cancelled) => (Exit::Cancelled, Cost::default()),
            End::Replied(Reply::Ended(ending)) => {
                let exit = match ending.code {
                    code if ending.out_of_memory && code != 0 => Exit::OutOfMemory,
                    code if code < 0 => Exit::Signal(-code),
                    code => Exit::Code(code),
                };
                (exit, ending.cost)
            }
            End::Replied(_) => return Err(ExecError::LauncherLost),
        };
        let succeeded = matches!(exit, Exit::Code(code) if code == 0 || attempt.step.accept.contains(&code));
        let (outputs, layer) = if succeeded { plan.results.keep()? } else { (Vec::new(), None) };
        let wall_micros = start.elapsed().as_micros() as u64;
        let usage = Usage { wall_micros, cpu_micros: cost.cpu_micros, peak_memory: cost.peak_memory };
        Ok(Outcome { exit, outputs, layer, usage })
    }

    fn ports(&self) -> Ports<'_> {
        let LocalOptions { workspace, images, layers, .. } = &self.options;
        Ports { workspace: workspace.as_ref(), images: images.as_ref(), layers: layers.as_ref() }
    }

    /// Waits for a worker; none if cancelled meanwhile.
    fn worker(&self, cancel: &Cancel) -> Result<Option<Lent<'_>>, ExecError> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if cancel.is_set() {
                return Ok(None);
            }
            if let Some(mut worker) = pool.idle.pop() {
                if worker.is_alive() {
                    return Ok(Some(Lent { executor: self, worker: Some(worker) }));
                }
                pool.taken -= 1;
                continue;
            }
            if pool.taken < self.options.workers {
                pool.taken += 1;
                break;
            }
            pool = self.freed.wait_timeout(pool, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(pool);
        let mut lent = Lent { executor: self, worker: None };
        lent.worker = Some(Worker::start(&self.options.launcher)?);
        Ok(Some(lent))
    }
}

impl Executor for LocalExecutor {
    fn prepare(&self) {
        let none_yet = self.pool.lock().unwrap_or_else(PoisonError::into_inner).taken == 0;
        if none_yet {
            let _ = self.check();
        }
    }

    fn run(&self, attempt: &Attempt, observer: &dyn Observer, cancel: &Cancel) -> Result<Outcome, PortError> {
        Ok(self.run_step(attempt, observer, cancel)?)
    }
}

/// A worker on loan; one that is not given back is ended.
struct Lent<'a> {
    executor: &'a LocalExecutor,
    worker: Option<Worker>,
}

impl Lent<'_> {
    fn give_back(mut self) {
        if let Some(worker) = self.worker.take() {
            self.executor.pool.lock().unwrap_or_else(PoisonError::into_inner).idle.push(worker);
            self.executor.freed.notify_one();
        }
        std::mem::forget(self);
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.worker = None;
        self.executor.pool.lock().unwrap_or_else(PoisonError::into_inner).taken -= 1;
        self.executor.freed.notify_one();
    }
}

fn not_run() -> Outcome {
    Outcome { exit: Exit::Cancelled, outputs: Vec::new(), layer: None, usage: Usage::default() }
}

/// The bytes as a file to read from, none for no bytes.
fn in_memory(bytes: &[u8]) -> std::io::Result<Option<File>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut file = File::from(rustix::fs::memfd_create("stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(Some(file))
}
