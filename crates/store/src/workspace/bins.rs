//! Getting rid of files without deleting them, up to a point.
//!
//! What is thrown away is renamed into a bin, a directory in the trash, because deleting makes every later creation of a
//! file slower for minutes (see the parent's header). Only when the bins of this process hold so much that the disk
//! matters more, the oldest are deleted by a thread of their own; the rest is left to [`crate::Store::tidy`].

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::write::DIR_MODE;
use crate::Lease;

/// Bytes that may be in the bins of one process.
pub(super) const LIMIT: u64 = 2 << 30;
/// What an entry costs on disk besides its bytes.
const ENTRY: u64 = 4096;
/// Entries of a bin that takes in scraps.
const FULL: u64 = 1000;

/// A directory in the trash. Any process may empty the trash at any time, this directory with it.
pub(super) struct Bin {
    path: PathBuf,
    /// The directory once it was needed.
    dir: Mutex<Option<Arc<OwnedFd>>>,
    count: AtomicU64,
}

/// How often a bin is made anew for one name before that is given up.
const TRIES: u32 = 100;

impl Bin {
    /// A bin at `path`, made when it is first needed.
    fn new(path: PathBuf) -> Self {
        Self { path, dir: Mutex::default(), count: AtomicU64::new(0) }
    }

    /// Moves a name out of `dir`; nothing happens if it is not there. Afterwards it is not there, or this is an error.
    pub fn throw(&self, dir: impl AsFd, name: impl AsRef<Path>) -> Result<(), Errno> {
        let mut result = Ok(());
        for _ in 0..TRIES {
            let bin = self.open()?;
            let number = self.count.fetch_add(1, Ordering::Relaxed);
            result = rustix::fs::renameat(&dir, name.as_ref(), &bin, number.to_string());
            if result != Err(Errno::NOENT) {
                return result;
            }
            // Either the name is not there or the bin was deleted under us.
            match rustix::fs::statat(&dir, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => self.forget(&bin),
            }
        }
        result
    }

    fn open(&self) -> Result<Arc<OwnedFd>, Errno> {
        let mut dir = lock(&self.dir);
        if let Some(open) = &*dir {
            return Ok(Arc::clone(open));
        }
        match rustix::fs::mkdir(&self.path, DIR_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = Arc::new(rustix::fs::open(&self.path, flags, Mode::empty())?);
        *dir = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Lets go of a directory that was deleted, unless another thread has made a new one already.
    fn forget(&self, deleted: &Arc<OwnedFd>) {
        let mut dir = lock(&self.dir);
        if dir.as_ref().is_some_and(|open| Arc::ptr_eq(open, deleted)) {
            *dir = None;
        }
    }
}

/// The bins of one process.
pub(super) struct Bins {
    trash: PathBuf,
    lease: Arc<Lease>,
    /// Bytes that may be in them.
    limit: u64,
    scraps: Mutex<Scraps>,
    full: Mutex<Full>,
    /// A thread is deleting.
    sweeping: Arc<AtomicBool>,
}

/// The bin for small things, and how many bytes are in it.
#[derive(Default)]
struct Scraps {
    bin: Option<Bin>,
    bytes: u64,
}

/// Bins nothing is added to any more, oldest first, with their bytes.
#[derive(Default)]
struct Full {
    bins: VecDeque<(PathBuf, u64)>,
    bytes: u64,
}

impl Bins {
    /// Bins in the directory `trash`.
    pub fn new(trash: PathBuf, lease: Arc<Lease>, limit: u64) -> Self {
        Self {
            trash,
            lease,
            limit,
            scraps: Mutex::default(),
            full: Mutex::default(),
            sweeping: Arc::default(),
        }
    }

    /// A bin for one's own use, to be given back to [`Bins::keep`].
    pub fn bin(&self) -> Bin {
        Bin::new(self.trash.join(self.lease.name()))
    }

    /// Takes a bin back that holds so many bytes.
    pub fn keep(&self, bin: &Bin, bytes: u64) {
        let count = bin.count.load(Ordering::Relaxed);
        if count > 0 {
            self.add(bin.path.clone(), bytes + count * ENTRY);
        }
    }

    /// Throws away a few names of a directory with so many bytes in all.
    pub fn throw(&self, dir: impl AsFd, names: &[impl AsRef<Path>], bytes: u64) -> Result<(), Errno> {
        let mut scraps = lock(&self.scraps);
        let bin = scraps.bin.get_or_insert_with(|| self.bin());
        for name in names {
            bin.throw(&dir, name)?;
        }
        scraps.bytes += bytes;
        let is_full = scraps.bin.as_ref().is_some_and(|bin| bin.count.load(Ordering::Relaxed) >= FULL);
        if (is_full || scraps.bytes > self.limit / 8)
            && let Some(bin) = scraps.bin.take()
        {
            let bytes = std::mem::take(&mut scraps.bytes);
            drop(scraps);
            self.keep(&bin, bytes);
        }
        Ok(())
    }

    /// Throws away a directory that holds so many bytes; nothing happens if it is not there.
    pub fn throw_dir(&self, path: &Path, bytes: u64) -> Result<(), Errno> {
        let place = self.trash.join(self.lease.name());
        match rustix::fs::renameat(CWD, path, CWD, &place) {
            Ok(()) => self.add(place, bytes + ENTRY),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn add(&self, path: PathBuf, bytes: u64) {
        let mut full = lock(&self.full);
        full.bins.push_back((path, bytes));
        full.bytes += bytes;
        if full.bytes <= self.limit || self.sweeping.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut doomed = Vec::new();
        while full.bytes > self.limit / 2
            && let Some((path, bytes)) = full.bins.pop_front()
        {
            full.bytes -= bytes;
            doomed.push(path);
        }
        drop(full);
        let sweeping = Arc::clone(&self.sweeping);
        thread::spawn(move || {
            for path in doomed {
                // What cannot be deleted stays in the trash, where others try again.
                let _ = fs::remove_dir_all(path);
            }
            sweeping.store(false, Ordering::Relaxed);
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use quern_testkit::TempSpace;

    use super::*;

    #[test]
    fn what_is_thrown_away_is_gone_even_if_the_bin_was_emptied_by_another_process() {
        let space = TempSpace::new();
        for dir in ["leases", "trash", "work"] {
            fs::create_dir(space.path(dir)).unwrap();
        }
        let lease = Arc::new(Lease::take(&space.path("leases")).unwrap());
        let bins = Bins::new(space.path("trash"), lease, 100 * ENTRY);
        let work = fs::File::open(space.path("work")).unwrap();
        for i in 0..3 {
            space.write("work/output", "");
            bins.throw(&work, &["output"], 0).unwrap();
            assert_eq!(fs::read_dir(space.path("work")).unwrap().count(), 0, "round {i}");
            fs::remove_dir_all(space.path("trash")).unwrap();
            fs::create_dir(space.path("trash")).unwrap();
        }
        bins.throw(&work, &["absent"], 0).unwrap();
    }

    #[test]
    fn the_oldest_go_when_the_bins_hold_too_much() {
        let space = TempSpace::new();
        for dir in ["leases", "trash", "work"] {
            fs::create_dir(space.path(dir)).unwrap();
        }
        let lease = Arc::new(Lease::take(&space.path("leases")).unwrap());
        let bins = Bins::new(space.path("trash"), lease, 100 * ENTRY);
        let work = fs::File::open(space.path("work")).unwrap();
        for i in 0..3000 {
            space.write(&format!("work/f{i}"), "");
            space.write(&format!("work/g{i}"), "");
            bins.throw(&work, &[format!("f{i}"), format!("g{i}"), "absent".into()], 0).unwrap();
        }
        assert_eq!(fs::read_dir(space.path("work")).unwrap().count(), 0);
        for i in 0..50 {
            space.write(&format!("work/dir/f{i}"), "");
        }
        bins.throw_dir(&space.path("work/dir"), 0).unwrap();
        bins.throw_dir(&space.path("work/dir"), 0).unwrap();
        let start = Instant::now();
        while space.files().iter().filter(|path| path.starts_with("trash/")).count() > 1500 {
            assert!(start.elapsed() < Duration::from_secs(20), "nothing is deleted");
            thread::sleep(Duration::from_millis(5));
        }
    }
}
