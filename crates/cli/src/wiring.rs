//! The composition root: adapters behind ports, opened as late as a command allows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use quern_catalog::Catalog;
use quern_core::port::{self, Clock, Ids, PortError};
use quern_core::{Id, Timestamp};
use quern_engine::lease::Owner;
use quern_engine::schedule::Scheduler;
use quern_engine::step_op::{self, StepResults};
use quern_engine::{Records, Runner};
use quern_exec::{LocalExecutor, LocalOptions};
use quern_solver::{CacheError, CacheKeyStorage as _, FileKeyStorage, KeyedCache, Solver, SolverOptions};
use quern_store::workspace::FolderWorkspace;
use quern_store::{LayerStore, OpenOptions, Root, Store};

use crate::args::{Global, Progress};
use crate::config::Config;
use crate::failure::{Failure, Kind, eprint_line};
use crate::progress::Reporter;

/// An opened state folder with the configuration that applies.
pub struct Home {
    /// Options of the command line.
    pub global: Global,
    /// Configuration of project and user.
    pub config: Config,
    /// The state folder.
    pub store: Store,
    /// What is known.
    pub records: Records,
}

impl Home {
    /// Opens the state folder the options name, making it if need be.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be opened or is of a newer version.
    pub fn open(global: Global) -> Result<Self, Failure> {
        let folder = state_folder(&global)?;
        let config = Config::load()?;
        let store =
            Store::open(&folder, &OpenOptions::default()).map_err(|e| Failure::new(Kind::Machine, e))?;
        let records = Records {
            meta: Arc::clone(store.meta()) as _,
            blobs: Arc::clone(store.blobs()) as _,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            owner: Owner::current()?,
        };
        Ok(Self { global, config, store, records })
    }

    /// Versioned data.
    pub fn catalog(&self) -> Catalog<'_> {
        let Records { meta, blobs, clock, ids, .. } = &self.records;
        Catalog::new(&**blobs, &**meta, &**clock, &**ids)
    }

    /// Plans what became stale, so that it is listed and the next flush runs it.
    ///
    /// # Errors
    /// [`Failure`] if pipelines contradict each other or the store fails.
    pub fn advance(&self) -> Result<(), Failure> {
        let (now, records) = (self.records.clock.now(), &self.records);
        port::write(&*records.meta, |w| {
            Scheduler::new(w, &*records.ids, &records.owner, now).advance()?;
            Ok::<_, Failure>(())
        })
    }

    /// Tells a person something on standard error, unless they want quiet or machine-readable progress.
    pub fn say(&self, text: &str) {
        if !matches!(self.global.progress, Progress::Quiet | Progress::Rawjson) {
            eprint_line(text);
        }
    }

    /// Most steps at once.
    fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.config.steps.parallelism.unwrap_or_else(cores).max(1)
    }

    /// Runs steps in sandboxes of this machine.
    ///
    /// # Errors
    /// [`Failure`] if this program cannot find itself.
    pub fn executor(&self) -> Result<LocalExecutor, Failure> {
        LocalExecutor::new(LocalOptions {
            workspace: Arc::new(FolderWorkspace::of(&self.store)),
            images: Arc::new(self.images()?),
            layers: Arc::new(LayerStore::of(&self.store)),
            launcher: std::env::current_exe()?,
            workers: self.workers(),
        })
        .map_err(|e| Failure::new(Kind::Machine, e))
    }

    /// Runs jobs, showing progress.
    ///
    /// # Errors
    /// [`Failure`] if the cache cannot be opened or sandboxes cannot be prepared.
    pub fn runner(&self) -> Result<Runner, Failure> {
        let internal = |e: CacheError| Failure::new(Kind::Internal, e);
        let results = Arc::new(StepResults::new(Arc::clone(&self.records.blobs)));
        let cache = KeyedCache::new("local", Arc::new(self.cache_keys().map_err(internal)?), results)
            .map_err(internal)?;
        let solver = Solver::new(SolverOptions {
            cache: Arc::new(cache),
            parallelism: u32::try_from(self.workers()).ok(),
            ..SolverOptions::default()
        });
        Ok(Runner {
            records: self.records.clone(),
            executor: Arc::new(self.executor()?),
            images: Arc::new(self.images()?),
            sink: Arc::new(Reporter::new(self.global.progress)),
            solver,
        })
    }

    /// The keys of the solver's cache, shared with other processes.
    fn cache_keys(&self) -> Result<FileKeyStorage, CacheError> {
        FileKeyStorage::open(self.store.layout().root().join("cache"))
    }

    /// Shows the trees of cached step results.
    ///
    /// # Errors
    /// Those of the cache.
    pub fn cached_roots(&self, visit: &mut dyn FnMut(Root)) -> Result<(), PortError> {
        let internal = |e: CacheError| PortError::Other(e.to_string());
        let keys = self.cache_keys().map_err(internal)?;
        let mut ids = Vec::new();
        keys.walk(&mut |id| ids.push(id)).map_err(internal)?;
        for id in ids {
            keys.walk_results(&id, &mut |result| {
                step_op::content_of(&result.id).into_iter().for_each(&mut *visit);
            })
            .map_err(internal)?;
        }
        Ok(())
    }
}

/// `--state`, else `$XDG_DATA_HOME/quern`, else `~/.local/share/quern`.
fn state_folder(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(folder) = &global.state {
        return Ok(folder.clone());
    }
    let home = |variable: &str, below: &str| {
        std::env::var_os(variable).filter(|v| !v.is_empty()).map(|v| Path::new(&v).join(below))
    };
    home("XDG_DATA_HOME", "quern").or_else(|| home("HOME", ".local/share/quern")).ok_or_else(|| {
        Failure::input("neither XDG_DATA_HOME nor HOME is set; give the state folder by --state DIR")
    })
}

/// The machine's clock.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Ids from the kernel's random numbers, with the version bits of a random UUID.
struct RandomIds;

impl Ids for RandomIds {
    fn fresh(&self) -> Id {
        let mut bytes = [0; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            // The only documented failure for so few bytes is an interruption before any is given.
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .unwrap_or_default();
        }
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Id::from_bytes(bytes)
    }
}
