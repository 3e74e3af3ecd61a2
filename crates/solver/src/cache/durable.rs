//! A key storage in one file, shared by any number of processes.
//!
//! The file is a snapshot that is used as it lies (see `snapshot.rs`), followed by a log of
//! changes since (see `log.rs`). Opening reads the snapshot's tables in one go and replays the
//! log; nothing is built up per key, so opening a storage of 100,000 keys takes milliseconds. The
//! alternative, an embedded database, costs a tree walk per lookup and a dependency.
//!
//! Writers append under an advisory lock of the folder, after reading what others appended.
//! Readers see a consistent prefix: a frame counts once it is complete and its checksum holds, so
//! a torn tail is as if it had never been written, and the next writer cuts it off. When the log
//! outgrows the snapshot, a new file of the next generation replaces the old one by rename.
//!
//! What a build adds to an empty storage is applied beside the solver (see `queue.rs`).

mod base;
mod log;
mod queue;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use quern_core::Digest;

use crate::cache::storage::{CacheInfoLink, CacheKeyStorage, CacheResult, NumberedKeys};
use crate::error::CacheError;
use crate::key::KeyId;

use log::{Change, Frame};
use queue::{Batch, Next, Queue};
use table::{Numbered, Table};

/// Changes gathered before they are written without being asked to, in bytes.
const FLUSH_AT: usize = 1 << 20;

/// A log smaller than this is never worth a new snapshot, in bytes.
const SMALL_LOG: u64 = 1 << 20;

/// A key storage on disk.
///
/// What was added can be found at once; it survives a crash once [`sync`](CacheKeyStorage::sync)
/// has returned. Dropping the storage writes what is left.
pub struct FileKeyStorage {
    shared: Arc<Shared>,
    /// Starts the thread that applies what waits, once there is enough of it.
    thread: Once,
}

/// What the thread needs, too.
struct Shared {
    folder: PathBuf,
    state: Mutex<State>,
    queue: Queue,
    /// The era of the table, or 0 if it must be asked.
    era: AtomicU64,
}

struct State {
    table: Table,
    file: File,
    generation: u64,
    /// Up to where the file was read.
    end: u64,
    /// Where the log begins.
    log_start: u64,
    /// Changes made here that the file does not have.
    pending: Frame,
    /// The table was given up after it was written; whoever asks next reads it.
    unread: bool,
    /// Room for what is taken from the queue.
    batch: Batch,
}

impl FileKeyStorage {
    /// Opens the storage in a folder, which is created if need be. A file that is damaged beyond
    /// its tail is put aside as `*.bad`, and an empty storage takes its place: a cache may always
    /// forget.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the folder cannot be used or holds a newer format.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, CacheError> {
        let folder = folder.into();
        std::fs::create_dir_all(&folder).map_err(at(&folder))?;
        let state = match newest(&folder).map_err(at(&folder))? {
            Some(generation) => match load(&folder, generation)? {
                Loaded::State(state) => *state,
                Loaded::Damaged { .. } => repair(&folder)?,
            },
            None => repair(&folder)?,
        };
        let queue = Queue::new(state.table.is_empty());
        let shared = Shared { folder, state: Mutex::new(state), queue, era: AtomicU64::new(0) };
        Ok(Self { shared: Arc::new(shared), thread: Once::new() })
    }

    /// Reads what other processes have written since.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the file cannot be read.
    pub fn refresh(&self) -> Result<(), CacheError> {
        self.shared.follow(&mut *self.state()?)
    }

    /// Writes a new snapshot now, whatever the size of the log.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if writing fails; the old file then stays in use.
    pub fn compact(&self) -> Result<(), CacheError> {
        let mut state = self.state()?;
        let _lock = lock(&self.shared.folder)?;
        self.shared.append(&mut state)?;
        self.shared.renew(&mut state)
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, CacheError> {
        self.shared.state()
    }

    /// Lets the thread work on the queue.
    fn start_thread(&self) {
        self.thread.call_once(|| {
            let shared = Arc::clone(&self.shared);
            // Without a thread the queue is applied when it is full.
            let _ = std::thread::Builder::new().name("quern-keys".into()).spawn(move || shared.work());
        });
    }

    /// Applies a change here and remembers to write it.
    fn change(&self, change: &Change<'_>) -> Result<(), CacheError> {
        if let Change::AddLink { link, .. } = change {
            self.shared.queue.note(&link.digest);
        }
        let mut state = self.state()?;
        if state.table.apply(change) {
            state.pending.add(change);
        }
        if let Change::Release { .. } = change {
            self.shared.era.store(0, Ordering::Release);
        }
        self.shared.flush_if_due(state)
    }
}

impl Shared {
    /// The state with everything that was added, and a table to ask.
    fn state(&self) -> Result<MutexGuard<'_, State>, CacheError> {
        let mut state = self.as_it_is();
        self.take_in(&mut state)?;
        Ok(state)
    }

    fn as_it_is(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the table if need be, and applies what waits in the queue.
    fn take_in(&self, state: &mut State) -> Result<(), CacheError> {
        if state.unread {
            self.has_changed();
            *state = load(&self.folder, state.generation)?.or_error()?;
        }
        let State { table, pending, batch, .. } = state;
        self.queue.swap(batch);
        batch.drain(|id, result, links| {
            if table.add_key(id, result, links) {
                pending.add_key(id, result, links);
            }
        });
        Ok(())
    }

    /// Applies what gathers in the queue, and writes it when that is due.
    fn work(&self) {
        while self.queue.wait() {
            if let Err(failure) = self.state().and_then(|state| self.flush_if_due(state)) {
                self.queue.fail(failure);
            }
        }
    }

    /// Others have changed something.
    fn has_changed(&self) {
        self.queue.forget_operations();
        self.era.store(0, Ordering::Release);
    }

    fn flush_if_due(&self, mut state: MutexGuard<'_, State>) -> Result<(), CacheError> {
        if state.pending.changes().len() >= FLUSH_AT {
            let _lock = lock(&self.folder)?;
            self.append(&mut state)?;
        }
        Ok(())
    }

    /// Goes over to a newer generation, and reads the log to its end.
    fn follow(&self, state: &mut State) -> Result<(), CacheError> {
        if let Some(generation) = newest(&self.folder).map_err(at(&self.folder))?
            && generation > state.generation
        {
            self.has_changed();
            let pending = std::mem::take(&mut state.pending);
            *state = load(&self.folder, generation)?.or_error()?;
            log::replay(pending.changes(), |change| {
                state.table.apply(&change);
            });
            state.pending = pending;
        }
        if state.read_log().map_err(at(&self.folder))? {
            self.has_changed();
        }
        Ok(())
    }

    /// Appends the pending changes as one frame. The folder is locked.
    fn append(&self, state: &mut State) -> Result<(), CacheError> {
        self.follow(state)?;
        let State { pending, file, end, .. } = state;
        if pending.changes().is_empty() {
            return Ok(());
        }
        let frame = pending.sealed();
        // Cuts off what a killed writer left half written.
        file.set_len(*end).map_err(at(&self.folder))?;
        file.write_all_at(frame, *end).map_err(at(&self.folder))?;
        *end += frame.len() as u64;
        pending.clear();
        Ok(())
    }

    /// Replaces the file by a snapshot of the table. The folder is locked.
    fn renew(&self, state: &mut State) -> Result<(), CacheError> {
        let generation = state.generation + 1;
        publish(&self.folder, generation, &state.table).map_err(at(&self.folder))?;
        let old = path_of(&self.folder, state.generation);
        // What the snapshot holds need not be kept twice, and the last to write need not read it.
        (state.table, state.generation, state.unread) = (Table::default(), generation, true);
        self.era.store(0, Ordering::Release);
        // Others still read the old file through their handles; a failure leaves only litter.
        let _ = std::fs::remove_file(old);
        Ok(())
    }
}

impl State {
    /// Applies what others have appended; true if there was anything.
    fn read_log(&mut self) -> io::Result<bool> {
        let length = self.file.metadata()?.len();
        if length <= self.end {
            return Ok(false);
        }
        let mut bytes = vec![0; usize::try_from(length - self.end).map_err(io::Error::other)?];
        let read = read_up_to(&self.file, &mut bytes, self.end)?;
        let table = &mut self.table;
        let valid = log::read(&bytes[..read], |change| {
            table.apply(&change);
        });
        self.end += valid as u64;
        Ok(valid > 0)
    }

    fn log_is_large(&self) -> bool {
        let log = self.end - self.log_start;
        log > SMALL_LOG && log > self.log_start / 2
    }
}

fn read_up_to(file: &File, bytes: &mut [u8], start: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], start + read as u64)? {
            0 => break,
            n => read += n,
        }
    }
    Ok(read)
}

fn at(path: &Path) -> impl Fn(io::Error) -> CacheError {
    let path = path.display().to_string();
    move |error| CacheError::storage(format!("{path}: {error}"))
}

fn path_of(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("keys-{generation:010}.qk"))
}

/// The newest generation in a folder.
fn newest(folder: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("keys-")?.strip_suffix(".qk")?.parse().ok());
        newest = newest.max(number);
    }
    Ok(newest)
}

/// Holds the folder for one writer; released when dropped.
fn lock(folder: &Path) -> Result<File, CacheError> {
    let path = folder.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
    file.lock().map_err(at(&path))?;
    Ok(file)
}

/// Opens a folder that has no usable file: puts a damaged one aside and begins anew.
fn repair(folder: &Path) -> Result<State, CacheError> {
    let _lock = lock(folder)?;
    // Another process may have been first.
    let mut generation = 0;
    if let Some(newest) = newest(folder).map_err(at(folder))? {
        match load(folder, newest)? {
            Loaded::State(state) => return Ok(*state),
            Loaded::Damaged { path, .. } => {
                std::fs::rename(&path, path.with_extension("bad")).map_err(at(&path))?;
                generation = newest;
            }
        }
    }
    generation += 1;
    publish(folder, generation, &Table::default()).map_err(at(folder))?;
    load(folder, generation)?.or_error()
}

enum Loaded {
    State(Box<State>),
    Damaged { path: PathBuf, why: &'static str },
}

impl Loaded {
    fn or_error(self) -> Result<State, CacheError> {
        match self {
            Self::State(state) => Ok(*state),
            Self::Damaged { path, why } => {
                Err(CacheError::Inconsistent(format!("{} is damaged: {why}", path.display())))
            }
        }
    }
}

/// Writes a snapshot so that it is there whole or not at all.
fn publish(folder: &Path, generation: u64, table: &Table) -> io::Result<()> {
    let temporary = folder.join(format!("keys-{generation:010}.tmp"));
    let file = File::create(&temporary)?;
    snapshot::write(&file, table, generation)?;
    file.sync_data()?;
    std::fs::rename(&temporary, path_of(folder, generation))?;
    File::open(folder)?.sync_all()
}

/// Opens a generation; if it is gone by now, the one that replaced it.
fn load(folder: &Path, mut generation: u64) -> Result<Loaded, CacheError> {
    loop {
        let path = path_of(folder, generation);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => return load_file(path, generation, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match newest(folder).map_err(at(folder))? {
                    Some(newer) if newer > generation => generation = newer,
                    _ => return Err(at(&path)(error)),
                }
            }
            Err(error) => return Err(at(&path)(error)),
        }
    }
}

fn load_file(path: PathBuf, generation: u64, file: File) -> Result<Loaded, CacheError> {
    let base = match base::Base::read(&file) {
        Ok(base) => base,
        Err(base::Unusable::Newer(version)) => {
            let text =
                format!("{}: format {version} is newer than this program; use a newer one", path.display());
            return Err(CacheError::storage(text));
        }
        Err(base::Unusable::Damaged(why)) => return Ok(Loaded::Damaged { path, why }),
        Err(base::Unusable::Io(error)) => return Err(at(&path)(error)),
    };
    let log_start = base.end();
    let (table, end) = (Table::over(base), log_start);
    let (pending, batch) = (Frame::default(), Batch::default());
    let mut state = State { table, file, generation, end, log_start, pending, unread: false, batch };
    state.read_log().map_err(at(&path))?;
    Ok(Loaded::State(Box::new(state)))
}

impl CacheKeyStorage for FileKeyStorage {
    fn exists(&self, id: &KeyId) -> Result<bool, CacheError> {
        Ok(self.state()?.table.exists(id))
    }

    fn walk(&self, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        let ids = self.state()?.table.ids();
        ids.into_iter().for_each(visit);
        Ok(())
    }

    fn walk_results(&self, id: &KeyId, visit: &mut dyn FnMut(CacheResult)) -> Result<(), CacheError> {
        let results = self.state()?.table.results(id).map_err(at(&self.shared.folder))?;
        results.into_iter().for_each(visit);
        Ok(())
    }

    fn load(&self, id: &KeyId, result: &str) -> Result<CacheResult, CacheError> {
        let results = self.state()?.table.results(id).map_err(at(&self.shared.folder))?;
        results.into_iter().find(|r| &*r.id == result).ok_or(CacheError::NotFound)
    }

    fn add_result(&self, id: &KeyId, result: CacheResult) -> Result<(), CacheError> {
        self.change(&Change::AddResult { id: *id, created_at: result.created_at, result: &result.id })
    }

    fn release(&self, result: &str) -> Result<(), CacheError> {
        self.change(&Change::Release { result })
    }

    fn walk_ids_by_result(&self, result: &str, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        let ids = self.state()?.table.holders(result).map_err(at(&self.shared.folder))?;
        ids.into_iter().for_each(visit);
        Ok(())
    }

    fn add_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<(), CacheError> {
        self.change(&Change::AddLink { id: *id, link: *link, target: *target })
    }

    fn walk_links(
        &self,
        id: &KeyId,
        link: &CacheInfoLink,
        visit: &mut dyn FnMut(KeyId),
    ) -> Result<(), CacheError> {
        let mut targets = Vec::new();
        self.links(id, link, &mut targets)?;
        targets.into_iter().for_each(visit);
        Ok(())
    }

    fn links(&self, id: &KeyId, link: &CacheInfoLink, found: &mut Vec<KeyId>) -> Result<(), CacheError> {
        if self.shared.queue.may_know(&link.digest) {
            self.state()?.table.targets(id, link, found);
        }
        Ok(())
    }

    fn has_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<bool, CacheError> {
        let mut targets = Vec::new();
        self.links(id, link, &mut targets)?;
        Ok(targets.contains(target))
    }

    fn walk_backlinks(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(KeyId, CacheInfoLink),
    ) -> Result<(), CacheError> {
        let sources = self.state()?.table.sources(id);
        sources.into_iter().for_each(|(source, link)| visit(source, super::memory::folded(&link)));
        Ok(())
    }

    fn walk_leaving(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(CacheInfoLink, KeyId),
    ) -> Result<(), CacheError> {
        let leaving = self.state()?.table.leaving_links(id);
        leaving.into_iter().for_each(|(link, target)| visit(link, target));
        Ok(())
    }

    fn knows_operation(&self, digest: &Digest) -> Result<bool, CacheError> {
        Ok(self.shared.queue.may_know(digest) && self.state()?.table.knows_operation(digest))
    }

    fn add_key(
        &self,
        id: &KeyId,
        result: CacheResult,
        links: &[(KeyId, CacheInfoLink)],
    ) -> Result<(), CacheError> {
        match self.shared.queue.push(*id, result, links)? {
            Next::Nothing => {}
            Next::Wake => self.start_thread(),
            Next::Help => self.shared.flush_if_due(self.state()?)?,
        }
        Ok(())
    }

    /// What fails here fails again, and is reported, when the question is asked.
    fn may_lead(&self, operation: &Digest) -> bool {
        self.knows_operation(operation).unwrap_or(true)
    }

    fn reserve(&self, keys: usize, links: usize) {
        // Whoever adds a key meets a failure again.
        if let Ok(mut state) = self.state() {
            state.table.reserve(keys, links);
            self.shared.queue.reserve(keys.min(links));
        }
    }

    fn common_targets(&self, links: &[(KeyId, CacheInfoLink)]) -> Result<Vec<KeyId>, CacheError> {
        let known = links.first().is_some_and(|(_, link)| self.shared.queue.may_know(&link.digest));
        Ok(if known { self.state()?.table.common_targets(links) } else { Vec::new() })
    }

    fn era(&self) -> Option<u64> {
        let known = self.shared.era.load(Ordering::Acquire);
        if known != 0 {
            return Some(known);
        }
        let mut state = self.state().ok()?;
        let era = state.table.era.number();
        self.shared.era.store(era, Ordering::Release);
        Some(era)
    }

    fn numbered(&self, run: &mut dyn FnMut(&mut dyn NumberedKeys)) -> bool {
        let Ok(state) = self.state() else { return false };
        run(&mut Numbered::of(&state.table));
        true
    }

    fn exchange(&self) -> Result<(), CacheError> {
        let has_news = !self.state()?.pending.changes().is_empty();
        if has_news { self.sync() } else { self.refresh() }
    }

    fn sync(&self) -> Result<(), CacheError> {
        let mut state = self.shared.as_it_is();
        if state.unread && self.shared.queue.is_empty() {
            return Ok(());
        }
        self.shared.take_in(&mut state)?;
        let _lock = lock(&self.shared.folder)?;
        self.shared.append(&mut state)?;
        if state.log_is_large() {
            return self.shared.renew(&mut state);
        }
        state.file.sync_data().map_err(at(&self.shared.folder))
    }
}

impl Drop for FileKeyStorage {
    /// Writes what is left. A failure loses cache entries, nothing else.
    fn drop(&mut self) {
        self.shared.queue.close();
        if !self.shared.queue.is_empty() || !self.shared.as_it_is().pending.changes().is_empty() {
            let _ = self.sync();
        }
    }
}
