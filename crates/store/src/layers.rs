//! Layers of root file systems: kept, read without being mounted, written into archives, removed.
//!
//! ```text
//! layers/<64 hex>/fs/    the layer, in overlayfs's form
//! layers/<64 hex>/lock   held shared by who uses it; says when it was committed; its time is that of the last use
//! layers/<64 hex>/bytes  its size, once somebody asked; may be deleted
//! layers/<64 hex>/digests  digests of its files, once somebody asked; may be deleted
//! layers/.making/<id>    held by the process that obtains a layer, or does work of which <id> is the identity; then it says
//!                        which layer came of it. Also held by who goes first with a build
//! scratch/<lease>-<n>/   a draft: fs/, work/
//! ```
//! A draft is made in `scratch/` under the lease's name, so that what a dead process left is known, and becomes a layer by one
//! rename: whoever sees a layer sees the whole of it. When it is durable stands in [`record`]. The folder is private: layers hold
//! set-user-id programs that no other user of the machine should reach.
//!
//! No count of references is kept. What is alive the caller of prune says; who uses a layer holds its lock, and
//! what a living process committed is left to it, because it may be about to record it. A record may still
//! name a layer that is gone: `open` says so, and whoever asked makes it again.
//!
//! Refused: a database row for each layer (a rename is one step, a row beside it would be two), and one lock file for all
//! uses of a process (its readers could not tell which layers it means).

mod changes;
mod contents;
mod flatten;
mod list;
mod marks;
mod node;
mod obtain;
mod once;
mod prune;
mod reach;
pub(crate) mod record;
mod source;
mod view;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use quern_core::Digest;
use quern_core::port::{DraftLayer, Layers, OpenLayers, PortError};
use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags};

pub use changes::{Change, ChangeKind, Changes, ChangesError, Times};
pub use contents::Contents;
pub use flatten::{Files, FlattenError, materialise};
pub use list::Walk;
pub use node::{Node, Owners};
pub use obtain::ObtainError;
pub use once::{Alone, First, Waited};
pub use prune::LayerPruneOptions;
pub use view::{View, ViewError};

use crate::store::bury;
use crate::{Layout, Lease, Store};
use record::{Record, Settled};

/// The layers of a state folder.
pub struct LayerStore {
    layout: Layout,
    lease: Arc<Lease>,
    /// Layers this process uses, so that each has one lock here however often it is open.
    held: Mutex<HashMap<Digest, Weak<Hold>>>,
    /// What was durable when it was first asked; it only matters for earlier runs of the machine, where it is final.
    settled: OnceLock<Settled>,
    /// Drafts are made far from each other, as far as that is up to us.
    spread: OnceLock<()>,
}

/// A layer in use.
#[derive(Debug)]
struct Hold {
    dir: PathBuf,
    /// Locked shared.
    lock: File,
    /// When the use was noted last.
    touched: Mutex<Instant>,
}

/// The use of a layer is noted this often.
const TOUCH: Duration = Duration::from_secs(60);

impl LayerStore {
    /// The layers of an open state folder.
    pub fn of(store: &Store) -> Self {
        Self {
            layout: store.layout().clone(),
            lease: Arc::clone(store.lease()),
            held: Mutex::default(),
            settled: OnceLock::new(),
            spread: OnceLock::new(),
        }
    }

    /// Whether a layer is there. It may be gone a moment later; only [`Layers::open`] keeps it.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn exists(&self, id: &Digest) -> Result<bool, PortError> {
        let found = match File::open(self.dir(id).join("lock")) {
            Ok(lock) => self.believes(&lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        found.map_err(|error| self.failed("looking for", id, error))
    }

    /// A view of layers, lowest first, that keeps them.
    ///
    /// # Errors
    /// [`PortError::Missing`] for one that is gone.
    pub fn view(&self, layers: &[Digest]) -> Result<View, PortError> {
        Ok(View::of(self.open(layers)?).with_owners(Owners::of_current_user()).remembering())
    }

    /// The entries of one layer as an archive. Keep it open meanwhile.
    pub fn changes(&self, id: &Digest, times: Times) -> Changes {
        Changes::of_layer(&self.dir(id).join("fs"), Owners::of_current_user(), times)
    }

    /// Makes everything committed so far survive a power cut. It waits for all that the file system has not written yet, so it is
    /// no part of a build; layers that a power cut takes are made again.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn settle(&self) -> Result<(), PortError> {
        record::settle(&self.layout).map_err(|error| PortError::io("making layers durable", error))
    }

    fn dir(&self, id: &Digest) -> PathBuf {
        self.layout.layers().join(id.hex())
    }

    fn failed(&self, doing: &str, id: &Digest, error: io::Error) -> PortError {
        PortError::io(format!("{doing} {}", self.dir(id).display()), error)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Digest, Weak<Hold>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a lock file says that its layer is whole.
    fn believes(&self, lock: &File) -> io::Result<bool> {
        let Some(record) = Record::read(lock)? else { return Ok(false) };
        let settled = match self.settled.get() {
            Some(settled) => settled,
            None => {
                let read = Settled::read(&self.layout)?;
                self.settled.get_or_init(|| read)
            }
        };
        Ok(record.is_good(settled))
    }

    /// Keeps a layer from being removed; none if it is not there.
    fn hold(&self, id: &Digest) -> io::Result<Option<Arc<Hold>>> {
        let mut held = self.held();
        if let Some(hold) = held.get(id).and_then(Weak::upgrade) {
            hold.touch();
            return Ok(Some(hold));
        }
        let Some(hold) = self.take_hold(id)?.map(Arc::new) else { return Ok(None) };
        // Now and then those that ended are dropped.
        if held.len().is_power_of_two() {
            held.retain(|_, hold| hold.strong_count() > 0);
        }
        held.insert(*id, Arc::downgrade(&hold));
        Ok(Some(hold))
    }

    fn take_hold(&self, id: &Digest) -> io::Result<Option<Hold>> {
        let dir = self.dir(id);
        let path = dir.join("lock");
        let lock = match File::options().read(true).write(true).open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Held exclusively only while the layer is moved away; afterwards the name leads elsewhere.
        lock.lock_shared()?;
        if !is_at(&lock, &path)? || !self.believes(&lock)? {
            return Ok(None);
        }
        if lock.metadata()?.modified()?.elapsed().unwrap_or(TOUCH) >= TOUCH {
            lock.set_modified(SystemTime::now())?;
        }
        Ok(Some(Hold { dir: dir.join("fs"), lock, touched: Mutex::new(Instant::now()) }))
    }

    /// The directory of a draft; an error if it is not one of this store's.
    fn draft_dir(&self, draft: &DraftLayer) -> Result<PathBuf, PortError> {
        let dir = draft.dir.parent().filter(|dir| dir.parent() == Some(&self.layout.scratch()));
        let is_draft = draft.dir.file_name().is_some_and(|name| name == "fs");
        dir.filter(|_| is_draft)
            .map(Path::to_owned)
            .ok_or_else(|| PortError::Other(format!("{} is not the draft of a layer", draft.dir.display())))
    }

    /// Turns a draft into the layer `id`.
    fn place(&self, draft: &DraftLayer, id: &Digest) -> Result<(), PortError> {
        let dir = self.draft_dir(draft)?;
        let place = self.dir(id);
        let placed = bury(&self.layout, &self.lease, &draft.work)
            .and_then(|()| Record::new(self.lease.id()).write(&dir.join("lock")))
            // What is there already is not believed, or nobody would have made it again.
            .and_then(|()| bury(&self.layout, &self.lease, &place))
            .and_then(|()| fs::rename(&dir, &place));
        placed.map_err(|error| self.failed("keeping", id, error))
    }
}

impl Layers for LayerStore {
    fn open(&self, layers: &[Digest]) -> Result<OpenLayers, PortError> {
        let mut holds = Vec::with_capacity(layers.len());
        for id in layers {
            let hold = self.hold(id).map_err(|error| self.failed("opening", id, error))?;
            holds.push(hold.ok_or(PortError::Missing(*id))?);
        }
        let dirs = holds.iter().map(|hold| hold.dir.clone()).collect();
        Ok(OpenLayers { dirs, lease: Box::new(holds) })
    }

    fn begin(&self) -> Result<DraftLayer, PortError> {
        self.spread.get_or_init(|| spread_out(&self.layout.scratch()));
        let dir = self.layout.scratch().join(self.lease.name());
        let (fs, work) = (dir.join("fs"), dir.join("work"));
        let mut private = fs::DirBuilder::new();
        private.mode(0o700);
        private
            .create(&dir)
            .and_then(|()| private.create(&work))
            .and_then(|()| fs::create_dir(&fs))
            // Whatever the mask of this process is: it becomes the root directory of steps.
            .and_then(|()| Ok(rustix::fs::chmod(&fs, Mode::from_raw_mode(0o755))?))
            .map_err(|error| PortError::io(format!("making {}", dir.display()), error))?;
        Ok(DraftLayer { dir: fs, work })
    }

    fn commit(&self, draft: DraftLayer) -> Result<Digest, PortError> {
        let mut bytes = [0; 32];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| PortError::io("making an id", error.into()))?;
        let id = Digest::of(&bytes);
        self.place(&draft, &id)?;
        Ok(id)
    }

    fn discard(&self, draft: DraftLayer) {
        if let Ok(dir) = self.draft_dir(&draft) {
            // One that cannot be moved stays behind as a dead process's would.
            let _ = bury(&self.layout, &self.lease, &dir);
        }
    }
}

impl Hold {
    /// Notes that it is used, if that was not noted lately. Nothing but the order of removal depends on it.
    fn touch(&self) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if touched.elapsed() >= TOUCH {
            *touched = Instant::now();
            let _ = self.lock.set_modified(SystemTime::now());
        }
    }
}

/// Asks the file system to put what is in each directory of `dir` into a region of its own. ext4 passes over inodes that were
/// deleted in the last minutes, one by one and for each new file near them: beside deleted layers making files took ten times as long.
/// File systems that know no such mark refuse it.
fn spread_out(dir: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open(dir, flags, Mode::empty()) else { return };
    if let Ok(marks) = ioctl_getflags(&dir)
        && !marks.contains(IFlags::TOPDIR)
    {
        let _ = ioctl_setflags(&dir, marks | IFlags::TOPDIR);
    }
}

/// Whether an open file is still the one of this name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
