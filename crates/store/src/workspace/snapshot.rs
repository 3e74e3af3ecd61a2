//! Large trees as directories that outlive their use.
//!
//! ```text
//! snapshots/lock          held while one is chosen: microseconds
//! snapshots/<name>/lock   held shared by readers, exclusively by who changes it; says what the directory holds
//! snapshots/<name>/files/ the tree
//! ```
//! A snapshot is changed only by the holder of its exclusive lock, and says so in its lock file before the first change:
//! whoever finds one whose changer died makes the same change once more. Locks are those of the kernel, so
//! they end with their process, and any number of processes share the snapshots.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use quern_core::port::{PortError, Presented};
use quern_core::{Digest, Tree};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::sketch::Sketch;
use super::write::{self, Site};
use super::{FolderWorkspace, change};
use crate::boot::boot;

/// Below this share of equal files a new snapshot is made rather than another one changed.
const LIKE: f64 = 0.5;

/// What a lock file says, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// Of this layout; others are thrown away.
    version: u32,
    /// The run of the machine in which it was written: files are not synced, so a power cut may have damaged them.
    boot: String,
    state: State,
    /// Bytes of all its files, those that share an inode with a blob included.
    bytes: u64,
    /// Of the tree it holds or is being changed to.
    sketch: Sketch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// It holds exactly this tree.
    Holds(Digest),
    /// It is on the way from one tree (none: from nothing) to another.
    Changing { from: Option<Digest>, to: Digest },
}

const VERSION: u32 = 1;

/// A snapshot whose lock file is open.
struct Snapshot {
    dir: PathBuf,
    lock: File,
    /// None if the lock file says nothing that can be believed.
    record: Option<Record>,
    used: SystemTime,
}

/// What is to be done to get a tree.
enum Choice {
    /// Nothing holds it; for choosing what comes near, its sketch is needed.
    Sketch,
    /// It is there; the lock is held shared.
    Ready(Snapshot),
    /// Somebody is making it; the lock is to be waited for.
    Wait(Snapshot),
    /// It is to be made here; the lock is held exclusively, the state is what is there now.
    Make(Snapshot, Option<State>),
}

/// Where this process found trees lately, so that a tree shown to many steps is found without looking around.
#[derive(Default)]
pub(super) struct Lately(Mutex<HashMap<Digest, PathBuf>>);

/// So many are remembered.
const LATELY: usize = 256;

impl Lately {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, digest: &Digest, dir: &Path) {
        let mut known = self.lock();
        if known.len() >= LATELY {
            known.clear();
        }
        known.insert(*digest, dir.to_owned());
    }
}

/// Shows a tree again that this process has shown lately; none if it is not where it was.
pub(super) fn present_again(
    workspace: &FolderWorkspace,
    digest: &Digest,
) -> Result<Option<Presented>, PortError> {
    let Some(dir) = workspace.lately.lock().get(digest).cloned() else { return Ok(None) };
    let _selection = workspace.lock_selection(FlockOperation::LockShared)?;
    let Ok(snapshot) = Snapshot::open(dir) else { return Ok(None) };
    let holds = matches!(snapshot.state(), Some(State::Holds(tree)) if tree == digest);
    if !holds || !snapshot.try_lock(FlockOperation::NonBlockingLockShared)? {
        return Ok(None);
    }
    snapshot.touch();
    Ok(Some(snapshot.into_presented()))
}

/// Shows a tree as a directory.
pub(super) fn present(
    workspace: &FolderWorkspace,
    digest: &Digest,
    root: &Tree,
) -> Result<Presented, PortError> {
    let mut wanted = Wanted { workspace, digest, sketch: None, anew: false };
    loop {
        match wanted.choose()? {
            Choice::Sketch => wanted.sketch = Some(Sketch::of(&*workspace.blobs, root)?),
            Choice::Ready(snapshot) => return Ok(wanted.presented(snapshot)),
            Choice::Wait(snapshot) => {
                flock(&snapshot.lock, FlockOperation::LockShared).map_err(|e| snapshot.failed(e))?;
            }
            Choice::Make(snapshot, state) => {
                let made = wanted.make(&snapshot, state.as_ref());
                match made.and_then(|bytes| wanted.finish(&snapshot, bytes)) {
                    Ok(true) => return Ok(wanted.presented(snapshot)),
                    Ok(false) => {}
                    Err(error) => {
                        // What is there now is nobody's use. A reused one may have been spoilt before.
                        wanted.workspace.throw_away(&snapshot.dir, snapshot.bytes())?;
                        if state.is_none() {
                            return Err(error);
                        }
                        wanted.anew = true;
                    }
                }
            }
        }
    }
}

/// A tree somebody wants to see.
struct Wanted<'w> {
    workspace: &'w FolderWorkspace,
    digest: &'w Digest,
    /// None until it is needed.
    sketch: Option<Sketch>,
    /// Make a new snapshot: changing an old one has failed.
    anew: bool,
}

impl Wanted<'_> {
    fn presented(&self, snapshot: Snapshot) -> Presented {
        self.workspace.lately.add(self.digest, &snapshot.dir);
        snapshot.into_presented()
    }

    /// Chooses under the selection lock, so that two who want the same tree do not both make it.
    fn choose(&self) -> Result<Choice, PortError> {
        let _selection = self.workspace.lock_selection(FlockOperation::LockExclusive)?;
        let snapshots = self.workspace.snapshots()?;
        let mut free = Vec::new();
        for snapshot in snapshots {
            match snapshot.state() {
                Some(State::Holds(tree)) if tree == self.digest => {
                    if snapshot.try_lock(FlockOperation::NonBlockingLockShared)? {
                        snapshot.touch();
                        return Ok(Choice::Ready(snapshot));
                    }
                }
                Some(State::Changing { to, .. }) if to == self.digest => {
                    if !snapshot.try_lock(FlockOperation::NonBlockingLockExclusive)? {
                        return Ok(Choice::Wait(snapshot));
                    }
                    free.push(snapshot);
                }
                _ => free.push(snapshot),
            }
        }
        match &self.sketch {
            Some(sketch) => self.choose_base(free, sketch),
            None => Ok(Choice::Sketch),
        }
    }

    /// The most similar snapshot that nobody uses, or a new one.
    fn choose_base(&self, mut snapshots: Vec<Snapshot>, sketch: &Sketch) -> Result<Choice, PortError> {
        let likeness = |snapshot: &Snapshot| match &snapshot.record {
            Some(record) if !self.anew => record.sketch.likeness(sketch),
            _ => 0.0,
        };
        snapshots.sort_by_cached_key(|snapshot| (likeness(snapshot) * -1000.0) as i64);
        let alike = snapshots.iter().take_while(|snapshot| likeness(snapshot) >= LIKE).count();
        let mut rest = snapshots.split_off(alike);
        for snapshot in snapshots {
            if snapshot.try_lock(FlockOperation::NonBlockingLockExclusive)? {
                let state = snapshot.state().cloned();
                snapshot.write(&self.changing(state.as_ref(), snapshot.bytes()))?;
                return Ok(Choice::Make(snapshot, state));
            }
            rest.push(snapshot);
        }
        self.workspace.make_room(rest)?;
        let snapshot = self.workspace.new_snapshot()?;
        snapshot.write(&self.changing(None, 0))?;
        Ok(Choice::Make(snapshot, None))
    }

    /// The record to be written before a snapshot in this state is changed.
    fn changing(&self, state: Option<&State>, bytes: u64) -> Record {
        let state = match state {
            // The interrupted change comes first; until it is done this is what has to be repeated.
            Some(State::Changing { from, to }) => State::Changing { from: *from, to: *to },
            Some(State::Holds(tree)) => State::Changing { from: Some(*tree), to: *self.digest },
            None => State::Changing { from: None, to: *self.digest },
        };
        self.record_of(state, bytes)
    }

    fn record_of(&self, state: State, bytes: u64) -> Record {
        let sketch = self.sketch.clone().unwrap_or_default();
        Record { version: VERSION, boot: boot().to_owned(), state, bytes, sketch }
    }

    /// Changes an exclusively locked snapshot from its state to the wanted tree and gives its bytes.
    fn make(&self, snapshot: &Snapshot, state: Option<&State>) -> Result<u64, PortError> {
        let mut bytes = snapshot.bytes();
        let from = match state {
            Some(State::Changing { from, to }) => {
                bytes = self.apply(snapshot, from.as_ref(), to, bytes)?;
                snapshot.write(&self.changing(Some(&State::Holds(*to)), bytes))?;
                Some(to)
            }
            Some(State::Holds(tree)) => Some(tree),
            None => None,
        };
        self.apply(snapshot, from, self.digest, bytes)
    }

    /// Makes one change and gives the bytes of the snapshot after it.
    fn apply(
        &self,
        snapshot: &Snapshot,
        from: Option<&Digest>,
        to: &Digest,
        bytes: u64,
    ) -> Result<u64, PortError> {
        let workspace = self.workspace;
        let changes = change::changes(&*workspace.blobs, from, to)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root =
            rustix::fs::open(snapshot.files(), flags, Mode::empty()).map_err(|e| snapshot.failed(e))?;
        let bin = workspace.bins.bin();
        let site = Site { blobs: &*workspace.blobs, large: workspace.large.as_deref(), root, bin: &bin };
        let applied = write::apply(&site, &changes.list);
        workspace.bins.keep(&bin, changes.removed);
        applied?;
        Ok((bytes + changes.added).saturating_sub(changes.removed))
    }

    /// Says that the tree is there and keeps the snapshot as a reader; false if somebody else was faster.
    fn finish(&self, snapshot: &Snapshot, bytes: u64) -> Result<bool, PortError> {
        let _selection = self.workspace.lock_selection(FlockOperation::LockExclusive)?;
        snapshot.write(&self.record_of(State::Holds(*self.digest), bytes))?;
        // The kernel may drop the lock before it gives the weaker one, but only choosers take it, and they wait.
        snapshot.try_lock(FlockOperation::NonBlockingLockShared)
    }
}

impl FolderWorkspace {
    /// Exclusive for who changes what a snapshot is or whether it is there, shared for who only wants to find one.
    fn lock_selection(&self, operation: FlockOperation) -> Result<File, PortError> {
        let path = self.places.snapshots.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| io_error("opening", &path, e))?;
        flock(&file, operation).map_err(|e| io_error("locking", &path, e.into()))?;
        Ok(file)
    }

    /// All snapshots with what their lock files say.
    fn snapshots(&self) -> Result<Vec<Snapshot>, PortError> {
        let folder = &self.places.snapshots;
        let failed = |e| io_error("reading", folder, e);
        let mut snapshots = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() == "lock" {
                continue;
            }
            match Snapshot::open(entry.path()) {
                Ok(snapshot) => snapshots.push(snapshot),
                // Made or thrown away only in part.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.throw_away(&entry.path(), 0)?,
                Err(error) => return Err(io_error("opening", &entry.path(), error)),
            }
        }
        Ok(snapshots)
    }

    /// Throws away those nobody uses and nobody can use, and the least recently used until one more is within the limit.
    fn make_room(&self, mut snapshots: Vec<Snapshot>) -> Result<(), PortError> {
        snapshots.sort_by_key(|snapshot| (snapshot.record.is_some(), snapshot.used));
        let mut count = snapshots.len();
        let mut bytes: u64 = snapshots.iter().map(Snapshot::bytes).sum();
        for snapshot in snapshots {
            let fits = count < self.limits.snapshots && bytes < self.limits.bytes;
            if snapshot.record.is_some() && fits {
                return Ok(());
            }
            if snapshot.try_lock(FlockOperation::NonBlockingLockExclusive)? {
                self.throw_away(&snapshot.dir, snapshot.bytes())?;
                count -= 1;
                bytes -= snapshot.bytes();
            }
        }
        Ok(())
    }

    /// An empty snapshot, locked exclusively.
    fn new_snapshot(&self) -> Result<Snapshot, PortError> {
        let dir = self.places.snapshots.join(self.lease.name());
        let failed = |e| io_error("making", &dir, e);
        fs::create_dir(&dir).map_err(failed)?;
        let options = File::options().read(true).write(true).create_new(true).clone();
        let lock = options.open(dir.join("lock")).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        let parent = rustix::fs::open(&dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        parent.and_then(|parent| write::make_dir(parent, "files")).map_err(|e| failed(e.into()))?;
        Ok(Snapshot { dir, lock, record: None, used: SystemTime::now() })
    }

    fn throw_away(&self, dir: &Path, bytes: u64) -> Result<(), PortError> {
        self.bins.throw_dir(dir, bytes).map_err(|e| io_error("removing", dir, e.into()))
    }
}

impl Snapshot {
    fn open(dir: PathBuf) -> io::Result<Self> {
        let lock = File::options().read(true).write(true).open(dir.join("lock"))?;
        let used = lock.metadata()?.modified()?;
        let record = read_record(&lock)?;
        Ok(Self { dir, lock, record, used })
    }

    fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    fn into_presented(self) -> Presented {
        Presented::Directory { path: self.files(), lease: Box::new(self.lock) }
    }

    fn bytes(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.bytes)
    }

    fn state(&self) -> Option<&State> {
        self.record.as_ref().map(|record| &record.state)
    }

    /// Whether the lock could be had at once.
    fn try_lock(&self, operation: FlockOperation) -> Result<bool, PortError> {
        match flock(&self.lock, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Notes that it was used. Nothing but the order of removal depends on it.
    fn touch(&self) {
        let _ = self.lock.set_modified(SystemTime::now());
    }

    fn write(&self, record: &Record) -> Result<(), PortError> {
        let text = serde_json::to_string(record).map_err(|e| PortError::Other(e.to_string()))?;
        let written = self.lock.write_all_at(text.as_bytes(), 0);
        let written = written.and_then(|()| self.lock.set_len(text.len() as u64));
        written.map_err(|e| io_error("writing", &self.dir.join("lock"), e))
    }

    fn failed(&self, error: Errno) -> PortError {
        io_error("using", &self.dir, error.into())
    }
}

/// The record, none if it is torn, of another version or from before the machine was started.
fn read_record(lock: &File) -> io::Result<Option<Record>> {
    let mut text = [0; 4096];
    let len = lock.read_at(&mut text, 0)?;
    let record: Option<Record> = serde_json::from_slice(&text[..len]).ok();
    Ok(record.filter(|record| record.version == VERSION && record.boot == boot()))
}

fn io_error(doing: &str, path: &Path, error: io::Error) -> PortError {
    PortError::io(format!("{doing} {}", path.display()), error)
}
