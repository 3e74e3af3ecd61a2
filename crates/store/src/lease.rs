//! Leases: how processes that share a state folder know who is alive.
//!
//! A process holds one locked file in `leases/` while it has the store open. The kernel drops the lock when the
//! process ends, however it ends. What a process makes for itself is named after its lease (`<lease>-<number>`), so
//! leftovers of the dead are told from the work of the living without any record of who owns what.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The lease of this process; it ends when this value is dropped or the process ends.
#[derive(Debug)]
pub struct Lease {
    id: String,
    dir: PathBuf,
    _locked: File,
    names: AtomicU64,
}

impl Lease {
    /// Takes a lease in the folder `dir`.
    pub(crate) fn take(dir: &Path) -> io::Result<Self> {
        loop {
            let id = fresh_id()?;
            let path = dir.join(&id);
            let file = match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            // Until the lock is held, a tidy process may take this file for a dead one's and remove it.
            if file.try_lock().is_ok() && file.metadata()?.nlink() > 0 {
                return Ok(Self { id, dir: dir.to_owned(), _locked: file, names: AtomicU64::new(0) });
            }
        }
    }

    /// The id: 16 hexadecimal characters nobody else has.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A name nobody else uses, `<lease>-<number>`, for a file or directory of this process.
    pub fn name(&self) -> String {
        format!("{}-{}", self.id, self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether the maker of `name`, a result of [`Lease::name`], is alive. Names of other forms have no maker.
    ///
    /// # Errors
    /// If the lease cannot be looked at.
    pub fn maker_is_alive(&self, name: &str) -> io::Result<bool> {
        let Some((id, _)) = name.split_once('-') else { return Ok(false) };
        if id == self.id {
            return Ok(true);
        }
        is_locked(&self.dir.join(id))
    }

    /// The ids of the other living processes; files of dead ones are removed on the way.
    pub(crate) fn others(&self) -> io::Result<Vec<String>> {
        let mut alive = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(id) = entry.file_name().into_string() else { continue };
            if id == self.id {
                continue;
            }
            if is_locked(&entry.path())? {
                alive.push(id);
            } else {
                remove_dead(&entry.path())?;
            }
        }
        alive.sort();
        Ok(alive)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A file that stays behind is unlocked and removed by the next tidy process.
        let _ = fs::remove_file(self.dir.join(&self.id));
    }
}

/// Whether some process holds the lock of this lease file; an absent file is nobody's.
fn is_locked(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => Ok(matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a lease file under its own lock, so that no taker can come to hold it meanwhile.
fn remove_dead(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if file.try_lock().is_err() {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn fresh_id() -> io::Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quern_testkit::TempSpace;

    #[test]
    fn the_living_are_seen_and_the_dead_are_removed() {
        let space = TempSpace::new();
        let (first, second) = (Lease::take(space.root()).unwrap(), Lease::take(space.root()).unwrap());
        space.write("0123456789abcdef", "");
        assert!(first.maker_is_alive(&second.name()).unwrap());
        assert!(first.maker_is_alive(&first.name()).unwrap());
        assert!(!first.maker_is_alive("0123456789abcdef-1").unwrap());
        assert!(!first.maker_is_alive("no lease at all").unwrap());
        assert_eq!(first.others().unwrap(), [second.id()]);
        assert!(!space.path("0123456789abcdef").exists());
        let name = second.name();
        drop(second);
        assert!(!first.maker_is_alive(&name).unwrap());
        assert_eq!(first.others().unwrap(), [""; 0]);
    }

    #[test]
    fn takers_and_a_tidy_process_do_not_meet_badly() {
        let space = TempSpace::new();
        let watcher = Lease::take(space.root()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let lease = Lease::take(space.root()).unwrap();
                        assert!(watcher.maker_is_alive(&lease.name()).unwrap());
                    }
                });
            }
            scope.spawn(|| (0..500).for_each(|_| drop(watcher.others().unwrap())));
        });
    }
}
