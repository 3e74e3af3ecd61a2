//! `COPY` and `ADD`: what was selected from a source, put into a layer.
//!
//! The rules are BuildKit's. A file goes into the destination if that is a directory or ends with `/`, else it becomes the
//! destination. The content of a directory is merged into the destination, whose own metadata stays but for its
//! time. Links in the destination are followed, links below it are not. Directories that are missing are made as 0755.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::merged::InUpper;
use super::write::{self, Again, Job, Wanted};
use super::{ActionError, Alike, Draft, Looks, OnTheWay, split};
use crate::files::context::clean;
use crate::files::plain::PlainTree;
use crate::files::resolve::{Last, resolve};
use crate::files::select::{Item, Pick, Selected, Selection};
use crate::files::source::{FileKind, FileSource, Inode, Stat};
use crate::workspace::beneath;
use crate::workspace::spread::{SERIAL, spread};

/// Unpacks an archive into an empty directory, which it must not leave; gives false without having written anything if the file is
/// no archive. An error is the reason for people.
pub type Unpack<'u> = dyn Fn(&mut File, &Path) -> Result<bool, String> + 'u;

/// What becomes of permission bits; the second argument says whether they are a directory's.
pub type ChangeMode<'m> = dyn Fn(u32, bool) -> u32 + Sync + 'm;

/// Where and how files are copied.
#[derive(Clone, Copy)]
pub struct CopyTo<'c> {
    /// The destination as it is written, made absolute by the caller; a `/` at the end counts.
    pub dest: &'c Path,
    /// Owner and group of everything that is copied or made; else files keep theirs, and 0:0 makes directories.
    pub owner: Option<(u32, u32)>,
    /// What becomes of the modes of everything that is copied.
    pub mode: Option<&'c ChangeMode<'c>>,
    /// The mode of directories that are made on the way.
    pub dirs: u32,
    /// The time of everything that is copied or made, in nanoseconds since 1970; else files keep theirs.
    pub modified: Option<i64>,
    /// Asked for every file that is named as a source.
    pub unpack: Option<&'c Unpack<'c>>,
}

/// Files one thread makes in one go.
const SLICE: usize = 32;

impl OnTheWay {
    fn of(to: &CopyTo<'_>) -> Self {
        Self { mode: to.dirs, owner: to.owner.unwrap_or((0, 0)), modified: to.modified }
    }
}

impl Draft<'_> {
    /// Copies what was selected.
    ///
    /// # Errors
    /// [`ActionError`]; a file that is not what was selected any more is a
    /// [`SourceError::Changed`](crate::files::SourceError::Changed).
    pub fn copy(
        &mut self,
        source: &dyn FileSource,
        selected: &Selected,
        to: &CopyTo<'_>,
    ) -> Result<(), ActionError> {
        self.copy_again(source, selected, to, None)
    }

    /// As [`Self::copy`], of what may have been copied before: files that `alike` shows to be the same are not written again.
    ///
    /// # Errors
    /// As [`Self::copy`].
    pub fn copy_again(
        &mut self,
        source: &dyn FileSource,
        selected: &Selected,
        to: &CopyTo<'_>,
        alike: Option<&Alike>,
    ) -> Result<(), ActionError> {
        let mut batch = Batch { alike, ..Batch::new(source, to) };
        for pick in &selected.picks {
            if pick.stat.kind == FileKind::Dir {
                batch.make(self)?;
                let target = self.destination(to, pick)?;
                batch.plan_items(self, &target, &pick.path, &pick.items)?;
                batch.make(self)?;
            } else if !self.unpacked(source, pick, to)? {
                let target = self.destination(to, pick)?;
                if batch.holds(&target) {
                    batch.make(self)?;
                }
                batch.plan_file(self, pick.path.clone(), target, &pick.stat)?;
            }
        }
        batch.make(self)?;
        self.finish()
    }

    /// The path without links a pick goes to. The directories above are in the layer then; for a directory, itself, too.
    fn destination(&mut self, to: &CopyTo<'_>, pick: &Pick) -> Result<PathBuf, ActionError> {
        let way = OnTheWay::of(to);
        let cleaned = clean(to.dest);
        let is_dir = pick.stat.kind == FileKind::Dir;
        if ends_as_directory(to.dest) {
            let dir = resolve(self, &cleaned, Last::Follow)?;
            self.enter(&dir, &way)?;
        }
        let mut target = resolve(self, &cleaned, Last::Follow)?;
        if is_dir {
            self.enter(&target, &way)?;
            let time = to.modified.unwrap_or(pick.stat.modified);
            if let Some(looks) = self.finish.get_mut(&target) {
                looks.modified = Some(time);
            }
            return Ok(target);
        }
        if self.stat(&target)?.is_some_and(|stat| stat.kind == FileKind::Dir) {
            target.push(&pick.name);
        }
        self.enter(split(&target).0, &way)?;
        Ok(target)
    }

    /// Unpacks a pick that is an archive into the destination.
    fn unpacked(
        &mut self,
        source: &dyn FileSource,
        pick: &Pick,
        to: &CopyTo<'_>,
    ) -> Result<bool, ActionError> {
        let Some(unpack) = to.unpack.filter(|_| pick.stat.kind == FileKind::File) else { return Ok(false) };
        let failed = |reason: String| ActionError::Unpack { path: pick.path.clone(), reason };
        let staging = tempfile::Builder::new().prefix("unpack-").tempdir_in(&self.work);
        let staging = staging.map_err(|error| failed(error.to_string()))?;
        let mut archive = source.open(&pick.path)?;
        if !unpack(&mut archive, staging.path()).map_err(failed)? {
            return Ok(false);
        }
        write::confirm(source, &pick.path, &pick.stat, &archive, File::try_clone)?;
        let tree = PlainTree::open(staging.path())?;
        let all = Selection { sources: &[PathBuf::new()], exclude: None, parents: false }.find(&tree)?;
        let way = OnTheWay::of(to);
        let target = resolve(self, &clean(to.dest), Last::Follow)?;
        self.enter(&target, &way)?;
        let to = CopyTo { mode: None, unpack: None, ..*to };
        let mut batch = Batch { replace: true, ..Batch::new(&tree, &to) };
        for pick in &all.picks {
            batch.plan_items(self, &target, &pick.path, &pick.items)?;
        }
        batch.make(self)?;
        Ok(true)
    }
}

/// Files to be made side by side.
struct Batch<'b> {
    source: &'b dyn FileSource,
    to: &'b CopyTo<'b>,
    alike: Option<&'b Alike>,
    /// What is there goes, whatever it is.
    replace: bool,
    jobs: Vec<Job>,
    /// Position of each target in `jobs`; only files named as sources can meet.
    targets: HashMap<PathBuf, usize>,
    /// Further names: the first one, and the other.
    links: Vec<(PathBuf, PathBuf)>,
}

impl<'b> Batch<'b> {
    fn new(source: &'b dyn FileSource, to: &'b CopyTo<'b>) -> Self {
        let (jobs, targets, links) = (Vec::new(), HashMap::new(), Vec::new());
        Self { source, to, alike: None, replace: false, jobs, targets, links }
    }

    fn holds(&self, target: &Path) -> bool {
        self.targets.contains_key(target)
    }

    fn wanted(&self, stat: &Stat) -> Wanted {
        let is_dir = stat.kind == FileKind::Dir;
        let mode = match self.to.mode {
            Some(mode) if stat.kind != FileKind::Link => mode(stat.mode, is_dir),
            _ => stat.mode,
        };
        let owner = self.to.owner.unwrap_or((stat.uid, stat.gid));
        Wanted { mode, owner, modified: self.to.modified.unwrap_or(stat.modified) }
    }

    /// Plans a file that was named as a source. The directory it goes to is in the layer.
    fn plan_file(
        &mut self,
        draft: &mut Draft<'_>,
        from: PathBuf,
        to: PathBuf,
        stat: &Stat,
    ) -> Result<(), ActionError> {
        self.refuse_directory(draft, &to)?;
        self.targets.insert(to.clone(), self.jobs.len());
        self.jobs.push(Job { from, to, stat: *stat, wanted: self.wanted(stat) });
        Ok(())
    }

    /// Makes the directories below one that was picked, and plans everything else.
    fn plan_items(
        &mut self,
        draft: &mut Draft<'_>,
        target: &Path,
        from: &Path,
        items: &[Item],
    ) -> Result<(), ActionError> {
        let mut names: HashMap<Inode, PathBuf> = HashMap::new();
        for item in items {
            let (from, to) = (from.join(&item.path), target.join(&item.path));
            if item.stat.kind == FileKind::Dir {
                self.place_directory(draft, &from, &to, item)?;
                continue;
            }
            self.refuse_directory(draft, &to)?;
            if item.stat.kind == FileKind::File && item.stat.links > 1 {
                if let Some(first) = names.get(&item.stat.inode) {
                    self.links.push((first.clone(), to));
                    continue;
                }
                names.insert(item.stat.inode, to.clone());
            }
            self.jobs.push(Job { from, to, stat: item.stat, wanted: self.wanted(&item.stat) });
        }
        Ok(())
    }

    /// A directory below stays what it is; one in the layer itself is found when the file is made.
    fn refuse_directory(&self, draft: &mut Draft<'_>, path: &Path) -> Result<(), ActionError> {
        let (parent, _) = split(path);
        let fresh = draft.enter(parent, &OnTheWay::default())?;
        if !self.replace && !fresh && draft.stat(path)?.is_some_and(|stat| stat.kind == FileKind::Dir) {
            return Err(ActionError::IsADirectory(path.to_owned()));
        }
        Ok(())
    }

    /// Puts a directory with its metadata into the layer; one that is there gets them, too, unless it is only on the way.
    fn place_directory(
        &self,
        draft: &mut Draft<'_>,
        from: &Path,
        to: &Path,
        item: &Item,
    ) -> Result<(), ActionError> {
        let (parent, name) = split(to);
        let fresh = draft.enter(parent, &OnTheWay::default())?;
        let there = match draft.dirs.contains_key(to) {
            true => Some(FileKind::Dir),
            false => match draft.in_upper(to)? {
                InUpper::Here(stat) => Some(stat.kind),
                InUpper::Gone => None,
                InUpper::Below if fresh => None,
                InUpper::Below => draft.below.stat(to)?.map(|stat| stat.kind),
            },
        };
        let wanted = self.wanted(&item.stat);
        let xattrs = match self.source.content(from, &item.stat)?.xattrs {
            true => self.source.xattrs(from)?,
            false => Vec::new(),
        };
        let looks = Looks { mode: wanted.mode, owner: wanted.owner, modified: Some(wanted.modified), xattrs };
        match there {
            Some(FileKind::Dir) => {
                draft.enter(to, &OnTheWay::default())?;
                if !item.on_the_way {
                    draft.finish.insert(to.to_owned(), looks);
                }
                return Ok(());
            }
            Some(_) if !self.replace => return Err(ActionError::NotADirectory(to.to_owned())),
            _ => {}
        }
        if there.is_some() {
            let dir = beneath::open_dir(&draft.upper, parent).map_err(|e| ActionError::io(to, e))?;
            write::clear(&dir, name, to, true)?;
        }
        draft.make_dir_at(to, looks, true)
    }

    /// Makes all files that were planned.
    fn make(&mut self, draft: &mut Draft<'_>) -> Result<(), ActionError> {
        let (source, replace, alike) = (self.source, self.replace, self.alike);
        let draft = &*draft;
        // Files of one directory follow each other in their own order; a stable sort brings them together.
        self.jobs.sort_by(|a, b| a.to.parent().cmp(&b.to.parent()));
        let mut slices = Vec::new();
        for group in self.jobs.chunk_by(|a, b| a.to.parent() == b.to.parent()) {
            slices.extend(group.chunks(SLICE));
        }
        let grain = if self.jobs.len() < SLICE { SERIAL } else { 1 };
        let made = spread(&slices, grain, |slice| {
            let parent = split(&slice[0].to).0;
            let dir = beneath::open_dir(&draft.upper, parent).map_err(|e| ActionError::io(parent, e))?;
            let again = Again { alike, before: alike.and_then(|alike| alike.dir(parent)) };
            slice.iter().try_for_each(|job| write::write(draft, source, &dir, job, replace, &again))
        });
        made.into_iter().collect::<Result<(), ActionError>>()?;
        for (first, other) in &self.links {
            link(draft, first, other, replace)?;
        }
        self.jobs.clear();
        self.targets.clear();
        self.links.clear();
        Ok(())
    }
}

/// Gives a file of the layer one more name.
fn link(draft: &Draft<'_>, first: &Path, other: &Path, replace: bool) -> Result<(), ActionError> {
    let failed = |error: Errno| ActionError::io(other, error);
    let (parent, name) = split(first);
    let from = beneath::open_dir(&draft.upper, parent).map_err(failed)?;
    let (parent, other_name) = split(other);
    let to = beneath::open_dir(&draft.upper, parent).map_err(failed)?;
    let link = || rustix::fs::linkat(&from, name, &to, other_name, AtFlags::empty());
    match link() {
        Err(Errno::EXIST) => {
            write::clear(&to, other_name, other, replace)?;
            link().map_err(failed)
        }
        result => result.map_err(failed),
    }
}

/// Whether a destination is meant as a directory: `/`, `x/`, `x/.`.
fn ends_as_directory(dest: &Path) -> bool {
    let text = dest.as_os_str().as_bytes();
    text.ends_with(b"/") || text.ends_with(b"/.") || text.is_empty() || dest.as_os_str() == OsStr::new(".")
}
