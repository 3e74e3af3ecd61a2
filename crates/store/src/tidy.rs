//! Deleting what lies in the trash, a little at a time.
//!
//! ext4 passes over recently deleted inodes when it looks for a free one, so deleting many files makes creating files
//! slow for minutes. Hence nothing on the way of a build deletes: it renames into the trash, and this module empties
//! that in pieces when there is time.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use quern_core::port::PortError;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, chmodat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::layers::record::settle_when_quiet;
use crate::prune::Amount;
use crate::store::Store;

/// How much one call may delete.
#[derive(Debug, Clone, Copy)]
pub struct TidyBudget {
    /// At most so many files and directories.
    pub entries: u64,
    /// No new one is begun after so long.
    pub time: Duration,
}

impl TidyBudget {
    /// For the end of a command that took this long: hardly felt by this one or the next.
    pub fn after(command: Duration) -> Self {
        let time = (command / 20).clamp(Duration::from_millis(1), Duration::from_millis(20));
        Self { entries: 500, time }
    }

    /// For a user who asked for room.
    pub const UNLIMITED: Self = Self { entries: u64::MAX, time: Duration::MAX };
}

/// What one call deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Files and directories, and the bytes they took.
    pub removed: Amount,
    /// Whether the trash is empty.
    pub finished: bool,
}

impl Store {
    /// Moves what dead processes left to the trash and deletes from it within the budget. Makes layers durable if no
    /// build is at work.
    ///
    /// # Errors
    /// If a directory of the store cannot be read. What cannot be deleted stays in the trash and is no error.
    pub fn tidy(&self, budget: &TidyBudget) -> Result<Tidied, PortError> {
        let failed = |error| PortError::io(format!("tidying {}", self.layout().root().display()), error);
        self.bury_leftovers(&self.layout().tmp()).map_err(failed)?;
        self.bury_leftovers(&self.layout().scratch()).map_err(failed)?;
        settle_when_quiet(self.layout()).map_err(failed)?;
        let trash = self.layout().trash();
        let trash = rustix::fs::open(&trash, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let trash = trash.map_err(|error| failed(error.into()))?;
        let mut emptying = Emptying {
            trash,
            fresh: &|| self.lease().name(),
            budget: *budget,
            began: Instant::now(),
            tidied: Tidied::default(),
        };
        emptying.run().map_err(|error| failed(error.into()))?;
        Ok(emptying.tidied)
    }

    fn bury_leftovers(&self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let alive = match entry.file_name().to_str() {
                Some(name) => self.lease().maker_is_alive(name)?,
                None => false,
            };
            if !alive {
                self.trash(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// The trash being emptied. Steps of users made what is in it, so every name is taken relative to an open directory and
/// links are never followed.
struct Emptying<'a> {
    trash: OwnedFd,
    fresh: &'a dyn Fn() -> String,
    budget: TidyBudget,
    began: Instant,
    tidied: Tidied,
}

impl Emptying<'_> {
    /// Goes over the trash until a round finds nothing that can be deleted.
    fn run(&mut self) -> Result<(), Errno> {
        loop {
            let before = self.tidied.removed.count;
            let names = list(self.trash.as_fd())?;
            self.tidied.finished = names.is_empty();
            for name in names {
                if self.is_spent() {
                    return Ok(());
                }
                match self.delete(&name) {
                    // Another process was faster, or it is another user's.
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::ACCESS | Errno::PERM) => {}
                    Err(error) => return Err(error),
                }
            }
            if self.tidied.finished || self.tidied.removed.count == before {
                return Ok(());
            }
        }
    }

    /// Deletes one thing in the trash. Of a directory, the directories in it are moved to the top of the trash, so that
    /// depth never matters.
    fn delete(&mut self, name: &CStr) -> Result<(), Errno> {
        let stat = statat(&self.trash, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            unlinkat(&self.trash, name, AtFlags::empty())?;
            self.count(&stat);
            return Ok(());
        }
        chmodat(&self.trash, name, Mode::RWXU, AtFlags::empty())?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(&self.trash, name, flags, Mode::empty())?;
        for child in list(dir.as_fd())? {
            if self.is_spent() {
                return Ok(());
            }
            self.delete_child(dir.as_fd(), &child)?;
        }
        unlinkat(&self.trash, name, AtFlags::REMOVEDIR)?;
        self.count(&stat);
        Ok(())
    }

    fn delete_child(&mut self, dir: BorrowedFd<'_>, child: &CStr) -> Result<(), Errno> {
        let stat = statat(dir, child, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            // A directory that changes its parent must be writable itself.
            chmodat(dir, child, Mode::RWXU, AtFlags::empty())?;
            return renameat(dir, child, &self.trash, (self.fresh)());
        }
        unlinkat(dir, child, AtFlags::empty())?;
        self.count(&stat);
        Ok(())
    }

    fn count(&mut self, stat: &Stat) {
        self.tidied.removed.count += 1;
        // A file with other names still takes its place.
        if stat.st_nlink == 1 || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.tidied.removed.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
    }

    fn is_spent(&self) -> bool {
        self.tidied.removed.count >= self.budget.entries || self.began.elapsed() >= self.budget.time
    }
}

fn list(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::OpenOptions;
    use quern_testkit::TempSpace;

    fn open(space: &TempSpace) -> Store {
        Store::open(&space.path("state"), &OpenOptions::default()).unwrap()
    }

    #[test]
    fn trash_goes_in_pieces_and_links_are_not_followed() {
        let space = TempSpace::new();
        let store = open(&space);
        space.write("precious/file", "stays");
        for i in 0..30 {
            space.write(&format!("junk/{i}/deep/er/file"), "goes");
        }
        std::os::unix::fs::symlink(space.path("precious"), space.path("junk/link")).unwrap();
        rustix::fs::chmod(space.path("junk/3/deep"), Mode::empty()).unwrap();
        store.trash(&space.path("junk")).unwrap();
        store.trash(&space.path("absent")).unwrap();
        let few = TidyBudget { entries: 10, ..TidyBudget::UNLIMITED };
        let tidied = store.tidy(&few).unwrap();
        assert_eq!((tidied.removed.count, tidied.finished), (10, false));
        let tidied = store.tidy(&TidyBudget::UNLIMITED).unwrap();
        assert_eq!((tidied.removed.count, tidied.finished), (30 * 4 + 2 - 10, true));
        assert!(tidied.removed.bytes > 0);
        assert_eq!(fs::read_dir(store.layout().trash()).unwrap().count(), 0);
        assert_eq!(space.read("precious/file"), "stays");
    }

    #[test]
    fn leftovers_of_the_dead_are_buried_and_those_of_the_living_are_not() {
        let space = TempSpace::new();
        let (store, other) = (open(&space), open(&space));
        let alive = other.layout().scratch().join(other.lease().name());
        fs::create_dir(&alive).unwrap();
        space.write("state/scratch/0123456789abcdef-7/file", "");
        space.write("state/tmp/0123456789abcdef-8", "");
        let tidied = store.tidy(&TidyBudget::UNLIMITED).unwrap();
        assert_eq!((tidied.removed.count, tidied.finished), (3, true));
        assert!(alive.exists());
        drop(other);
        assert_eq!(store.tidy(&TidyBudget::UNLIMITED).unwrap().removed.count, 1);
        assert!(!alive.exists());
    }

    #[test]
    fn depth_does_not_matter() {
        let space = TempSpace::new();
        let store = open(&space);
        let mut dir = space.path("deep");
        fs::create_dir(&dir).unwrap();
        for _ in 0..1500 {
            // Built from the inside out, because a path of this depth has no name.
            let outer = space.path("outer");
            fs::create_dir(&outer).unwrap();
            fs::rename(&dir, outer.join("d")).unwrap();
            fs::rename(&outer, &dir).unwrap();
            dir = space.path("deep");
        }
        store.trash(&dir).unwrap();
        assert_eq!(store.tidy(&TidyBudget::UNLIMITED).unwrap().removed.count, 1501);
    }
}
