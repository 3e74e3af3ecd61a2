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

mod base;
mod log;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quern_core::Digest;

use crate::cache::storage::{CacheInfoLink, CacheKeyStorage, CacheResult, NumberedKeys};
use crate::error::CacheError;
use crate::key::KeyId;

use log::{Change, Frame};
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
    folder: PathBuf,
    state: Mutex<State>,
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
        Ok(Self { folder, state: Mutex::new(state) })
    }

    /// Reads what other processes have written since.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if the file cannot be read.
    pub fn refresh(&self) -> Result<(), CacheError> {
        let mut state = self.state()?;
        self.follow(&mut state)
    }

    /// Writes a new snapshot now, whatever the size of the log.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if writing fails; the old file then stays in use.
    pub fn compact(&self) -> Result<(), CacheError> {
        let mut state = self.state()?;
        let _lock = lock(&self.folder)?;
        self.append(&mut state)?;
        self.renew(&mut state)
    }

    /// The state, with a table to ask.
    fn state(&self) -> Result<MutexGuard<'_, State>, CacheError> {
        let mut state = self.as_it_is();
        if state.unread {
            *state = load(&self.folder, state.generation)?.or_error()?;
        }
        Ok(state)
    }

    fn as_it_is(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a change here and remembers to write it.
    fn change(&self, change: &Change<'_>) -> Result<(), CacheError> {
        let mut state = self.state()?;
        if state.table.apply(change) {
            state.pending.add(change);
        }
        self.flush_if_due(state)
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
            let pending = std::mem::take(&mut state.pending);
            *state = load(&self.folder, generation)?.or_error()?;
            log::replay(pending.changes(), |change| {
                state.table.apply(&change);
            });
            state.pending = pending;
        }
        state.read_log().map_err(at(&self.folder))
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
        // Others still read the old file through their handles; a failure leaves only litter.
        let _ = std::fs::remove_file(old);
        Ok(())
    }
}

impl State {
    fn read_log(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length <= self.end {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(length - self.end).map_err(io::Error::other)?];
        let read = read_up_to(&self.file, &mut bytes, self.end)?;
        let table = &mut self.table;
        let valid = log::read(&bytes[..read], |change| {
            table.apply(&change);
        });
        self.end += valid as u64;
        Ok(())
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
    let (table, end, pending) = (Table::over(base), log_start, Frame::default());
    let mut state = State { table, file, generation, end, log_start, pending, unread: false };
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
        let results = self.state()?.table.results(id).map_err(at(&self.folder))?;
        results.into_iter().for_each(visit);
        Ok(())
    }

    fn load(&self, id: &KeyId, result: &str) -> Result<CacheResult, CacheError> {
        let results = self.state()?.table.results(id).map_err(at(&self.folder))?;
        results.into_iter().find(|r| &*r.id == result).ok_or(CacheError::NotFound)
    }

    fn add_result(&self, id: &KeyId, result: CacheResult) -> Result<(), CacheError> {
        self.change(&Change::AddResult { id: *id, created_at: result.created_at, result: &result.id })
    }

    fn release(&self, result: &str) -> Result<(), CacheError> {
        self.change(&Change::Release { result })
    }

    fn walk_ids_by_result(&self, result: &str, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        let ids = self.state()?.table.holders(result).map_err(at(&self.folder))?;
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
        self.state()?.table.targets(id, link, found);
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
        Ok(self.state()?.table.knows_operation(digest))
    }

    fn add_key(
        &self,
        id: &KeyId,
        result: CacheResult,
        links: &[(KeyId, CacheInfoLink)],
    ) -> Result<(), CacheError> {
        let mut state = self.state()?;
        let State { table, pending, .. } = &mut *state;
        if table.add_key(id, &result, links) {
            pending.add_key(id, &result, links);
        }
        self.flush_if_due(state)
    }

    /// What fails here fails again, and is reported, when the question is asked.
    fn may_lead(&self, operation: &Digest) -> bool {
        self.knows_operation(operation).unwrap_or(true)
    }

    fn reserve(&self, keys: usize, links: usize) {
        // Whoever adds a key meets a failure again.
        if let Ok(mut state) = self.state() {
            state.table.reserve(keys, links);
        }
    }

    fn common_targets(&self, links: &[(KeyId, CacheInfoLink)]) -> Result<Vec<KeyId>, CacheError> {
        Ok(self.state()?.table.common_targets(links))
    }

    fn era(&self) -> Option<u64> {
        self.state().ok().map(|mut state| state.table.era.number())
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
        let mut state = self.as_it_is();
        if state.unread {
            return Ok(());
        }
        let _lock = lock(&self.folder)?;
        self.append(&mut state)?;
        if state.log_is_large() {
            return self.renew(&mut state);
        }
        state.file.sync_data().map_err(at(&self.folder))
    }
}

impl Drop for FileKeyStorage {
    /// Writes what is left. A failure loses cache entries, nothing else.
    fn drop(&mut self) {
        if !self.as_it_is().pending.changes().is_empty() {
            let _ = self.sync();
        }
    }
}
