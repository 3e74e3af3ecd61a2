//! The composition root: adapters behind ports, opened as late as a command allows.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use quern_catalog::Catalog;
use quern_core::event::Sink;
use quern_core::port::{self, Clock, Ids, Images, PortError};
use quern_core::{Id, Timestamp};
use quern_engine::image::ImageBuilder;
use quern_engine::image::ops::Tools;
use quern_engine::image::rootfs::SnapshotRoots;
use quern_engine::images::ImageStore;
use quern_engine::lease::Owner;
use quern_engine::results::{self, Results};
use quern_engine::schedule::Scheduler;
use quern_engine::{Records, Runner};
use quern_exec::{LocalExecutor, LocalOptions};
use quern_oci::registry::{self, Client, DockerCredentials};
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
    layers: OnceLock<Arc<LayerStore>>,
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
        Ok(Self { global, config, store, records, layers: OnceLock::new() })
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

    /// The layers of root file systems.
    pub fn layers(&self) -> Arc<LayerStore> {
        Arc::clone(self.layers.get_or_init(|| Arc::new(LayerStore::of(&self.store))))
    }

    /// The images of this machine.
    ///
    /// # Errors
    /// Those of the state folder.
    pub fn image_store(&self) -> Result<Arc<ImageStore>, Failure> {
        let Records { meta, blobs, clock, .. } = &self.records;
        let (meta, blobs, clock) = (Arc::clone(meta), Arc::clone(blobs), Arc::clone(clock));
        Ok(Arc::new(ImageStore::new(meta, blobs, self.layers(), clock, Arc::new(registry()))))
    }

    /// Runs steps in sandboxes of this machine.
    ///
    /// # Errors
    /// [`Failure`] if this program cannot find itself.
    pub fn executor(&self) -> Result<LocalExecutor, Failure> {
        self.executor_in(Arc::new(self.images()?))
    }

    fn executor_in(&self, images: Arc<dyn Images>) -> Result<LocalExecutor, Failure> {
        LocalExecutor::new(LocalOptions {
            workspace: Arc::new(FolderWorkspace::of(&self.store)),
            images,
            layers: self.layers(),
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
        Ok(Runner {
            records: self.records.clone(),
            executor: Arc::new(self.executor()?),
            images: Arc::new(self.images()?),
            sink: Arc::new(Reporter::new(self.global.progress)),
            solver: self.solver()?,
        })
    }

    /// Builds images, telling `sink` of every step.
    ///
    /// # Errors
    /// As [`Home::runner`].
    pub fn image_builder(&self, sink: Arc<dyn Sink>) -> Result<ImageBuilder, Failure> {
        let roots = Arc::new(SnapshotRoots::new(Arc::new(self.images()?), self.layers()));
        let executor = Arc::new(self.executor_in(Arc::clone(&roots) as _)?);
        Ok(ImageBuilder {
            tools: Arc::new(Tools {
                executor,
                roots,
                layers: self.layers(),
                blobs: Arc::clone(&self.records.blobs),
                meta: Arc::clone(&self.records.meta),
                web: registry(),
            }),
            images: self.image_store()?,
            solver: self.solver()?,
            sink,
            clock: Arc::clone(&self.records.clock),
            ids: Arc::clone(&self.records.ids),
            memory: self.store.layout().imports(),
        })
    }

    /// The graph, over the cache of this state folder.
    fn solver(&self) -> Result<Solver, Failure> {
        let internal = |e: CacheError| Failure::new(Kind::Internal, e);
        let results = Arc::new(Results::new(Arc::clone(&self.records.blobs), self.layers()));
        let cache = KeyedCache::new("local", Arc::new(self.cache_keys().map_err(internal)?), results)
            .map_err(internal)?;
        Ok(Solver::new(SolverOptions {
            cache: Arc::new(cache),
            parallelism: u32::try_from(self.workers()).ok(),
            ..SolverOptions::default()
        }))
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
                results::content_of(&result.id).into_iter().for_each(&mut *visit);
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

/// Registries, with the credentials and certificates that Docker keeps.
pub fn registry() -> Client {
    let place = |name: &str| std::env::var_os(name).filter(|place| !place.is_empty()).map(PathBuf::from);
    let home = place("HOME");
    let folder = place("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
    // Docker of an ordinary user keeps certificates there.
    let rootless = place("XDG_CONFIG_HOME").or_else(|| Some(home?.join(".config")));
    let certificates =
        [folder.clone(), rootless.map(|config| config.join("docker")), Some("/etc/docker".into())];
    let certificates = certificates.into_iter().flatten().map(|folder| folder.join("certs.d")).collect();
    let credentials = folder.map(|folder| DockerCredentials::new(folder.join("config.json")));
    Client::new(registry::Options { certificates, ..registry::Options::default() }, credentials)
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
