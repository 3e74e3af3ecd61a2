//! The walk of a survey: directories level by level, each level spread over the processors.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::{Folder, owned_by_root};
use crate::files::filter::{PathFilter, Verdict};
use crate::files::look::{self, kind_of};
use crate::files::pattern::Pattern;
use crate::files::source::{Entry, FileKind, SourceError};
use crate::workspace::beneath;
use crate::workspace::spread::{SERIAL, spread};

/// Names that one thread looks at in one go.
const SLICE: usize = 512;

/// A directory to be walked.
struct Pending {
    path: PathBuf,
    stay: Stay,
}

/// How a name stays.
#[derive(Clone, Copy)]
struct Stay {
    /// Everything below it is wanted.
    whole: bool,
    /// It stays only if something below it does.
    doubtful: bool,
}

type Found<'f> = dyn FnMut(&[u8], FileKind, Stay) + 'f;

/// What a directory held.
struct Walked {
    folder: Folder,
    /// Names too many to be looked at in one go.
    rest: Vec<OsString>,
    dirs: Vec<Pending>,
}

struct Walk<'w> {
    root: &'w OwnedFd,
    ignore: Option<&'w dyn PathFilter>,
    /// Everything is wanted if there is none.
    wanted: &'w [Pattern],
}

/// Walks everything that is wanted and not ignored. Gives every directory by its path.
pub(super) fn walk(
    root: &OwnedFd,
    ignore: Option<&dyn PathFilter>,
    wanted: &[Pattern],
) -> Result<HashMap<PathBuf, Folder>, SourceError> {
    let walk = Walk { root, ignore, wanted };
    let mut folders = HashMap::new();
    let mut doubtful = Vec::new();
    let mut level =
        vec![Pending { path: PathBuf::new(), stay: Stay { whole: wanted.is_empty(), doubtful: false } }];
    while !level.is_empty() {
        let grain = if level.len() < 4 { SERIAL } else { 2 };
        let walked = spread(&level, grain, |pending| walk.read(pending));
        let mut next = Vec::new();
        for (pending, walked) in level.into_iter().zip(walked) {
            let Some(mut walked) = walked? else {
                remove(&mut folders, &pending.path);
                continue;
            };
            walk.look_at_rest(&pending.path, &mut walked)?;
            next.append(&mut walked.dirs);
            if pending.stay.doubtful {
                doubtful.push(pending.path.clone());
            }
            folders.insert(pending.path, walked.folder);
        }
        level = next;
    }
    // Deepest first: a directory may be kept by a directory that is kept by a file.
    for path in doubtful.iter().rev() {
        if folders.get(path).is_some_and(|folder: &Folder| folder.entries.is_empty()) {
            folders.remove(path);
            remove(&mut folders, path);
        }
    }
    Ok(folders)
}

fn remove(folders: &mut HashMap<PathBuf, Folder>, path: &Path) {
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
        && let Some(parent) = folders.get_mut(parent)
    {
        parent.entries.retain(|entry| entry.name != name);
    }
}

/// The names in a directory, in no order.
pub(super) fn names(root: &OwnedFd, path: &Path) -> Result<Vec<OsString>, Errno> {
    let walk = Walk { root, ignore: None, wanted: &[] };
    let mut names = Vec::new();
    let pending = Pending { path: path.to_owned(), stay: Stay { whole: true, doubtful: false } };
    let dir = beneath::open_dir(root, path)?;
    walk.each_name(&dir, &pending, &mut |name, _, _| names.push(OsString::from_vec(name.to_vec())))?;
    Ok(names)
}

impl Walk<'_> {
    /// Reads one directory; none if it is gone.
    fn read(&self, pending: &Pending) -> Result<Option<Walked>, SourceError> {
        let dir = match beneath::open_dir(self.root, &pending.path) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(SourceError::io(&pending.path, error)),
        };
        let mut dirs = Vec::new();
        let mut names = Vec::new();
        self.each_name(&dir, pending, &mut |name, kind, stay| {
            if kind == FileKind::Dir {
                dirs.push(Pending { path: pending.path.join(OsStr::from_bytes(name)), stay });
            }
            names.push(OsString::from_vec(name.to_vec()));
        })
        .map_err(|error| SourceError::io(&pending.path, error))?;
        names.sort_unstable();
        let rest = if names.len() > 2 * SLICE { names.split_off(SLICE) } else { Vec::new() };
        let folder = look_at_names(&dir, &pending.path, names)?;
        Ok(Some(Walked { folder, rest, dirs }))
    }

    /// Calls `found` for every name that is wanted and not ignored.
    fn each_name(&self, dir: &OwnedFd, pending: &Pending, found: &mut Found<'_>) -> Result<(), Errno> {
        let mut buffer = [MaybeUninit::uninit(); 32768];
        let mut entries = RawDir::new(dir, &mut buffer);
        let must_ask = self.ignore.is_some() || !pending.stay.whole;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match look::look(dir, name) {
                    Ok(stat) => stat.kind,
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error),
                },
                known => kind_of(known),
            };
            if !matches!(kind, FileKind::File | FileKind::Dir | FileKind::Link | FileKind::Fifo) {
                continue;
            }
            let mut stay = Stay { whole: true, doubtful: false };
            if must_ask {
                let path = pending.path.join(OsStr::from_bytes(name.to_bytes()));
                let Some(asked) = self.ask(&path, kind, pending) else { continue };
                stay = asked;
            }
            found(name.to_bytes(), kind, stay);
        }
        Ok(())
    }

    /// Whether and how a path stays.
    fn ask(&self, path: &Path, kind: FileKind, parent: &Pending) -> Option<Stay> {
        let whole = parent.stay.whole || self.wanted.iter().any(|pattern| pattern.matches(path));
        let leads = || self.wanted.iter().any(|pattern| pattern.may_match_below(path));
        // A link may lead to what is wanted; a file cannot.
        if !whole && (kind == FileKind::File || !leads()) {
            return None;
        }
        let is_dir = kind == FileKind::Dir;
        match self.ignore.map_or(Verdict::Keep, |ignore| ignore.verdict(path, is_dir)) {
            Verdict::Keep => Some(Stay { whole, doubtful: false }),
            Verdict::DropUnlessKept if is_dir => Some(Stay { whole, doubtful: true }),
            Verdict::Drop | Verdict::DropUnlessKept => None,
        }
    }

    fn look_at_rest(&self, path: &Path, walked: &mut Walked) -> Result<(), SourceError> {
        let mut slices = Vec::new();
        while !walked.rest.is_empty() {
            let tail = walked.rest.split_off(walked.rest.len().min(SLICE));
            slices.push(std::mem::replace(&mut walked.rest, tail));
        }
        let looked = spread(&slices, 1, |names| match beneath::open_dir(self.root, path) {
            Ok(dir) => look_at_names(&dir, path, names.clone()),
            Err(error) => Err(SourceError::io(path, error)),
        });
        for part in looked {
            let mut part = part?;
            walked.folder.entries.append(&mut part.entries);
            walked.folder.targets.extend(part.targets);
        }
        Ok(())
    }
}

/// Looks at names that are in order. A name that is gone was never there.
fn look_at_names(dir: impl AsFd, path: &Path, names: Vec<OsString>) -> Result<Folder, SourceError> {
    let mut folder = Folder { entries: Vec::with_capacity(names.len()), targets: HashMap::new() };
    for name in names {
        let stat = match look::look(&dir, &name) {
            Ok(stat) => owned_by_root(stat),
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(SourceError::io(&path.join(name), error)),
        };
        match stat.kind {
            FileKind::File | FileKind::Dir | FileKind::Fifo => {}
            FileKind::Link => match rustix::fs::readlinkat(&dir, &name, Vec::new()) {
                Ok(target) => {
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    folder.targets.insert(PathBuf::from(&name), target);
                }
                Err(error) => return Err(SourceError::io(&path.join(name), error)),
            },
            _ => continue,
        }
        folder.entries.push(Entry { name, stat });
    }
    Ok(folder)
}
