//! A directory of the user as a source: looked at once, files read only when their digests are not known.
//!
//! [`Context::survey`] walks the part of the directory that somebody wants, level by level and spread over the processors, and
//! keeps what `statx` said. From then on the source is what it was at that moment: a file that is another one later is an
//! error, not another content. Owners do not count, everything belongs to 0:0; sockets and devices are left out.
//! (Both as BuildKit sends a context.)

mod walk;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use quern_core::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::filter::PathFilter;
use super::known::{KnownDigests, Trust};
use super::pattern::{Pattern, PatternError, Stars};
use super::resolve::{Last, resolve};
use super::select::matching;
use super::source::{Absence, Content, Entry, FileKind, FileSource, SourceError, Stat, Witness, Xattrs};
use super::{look, xattr};
use crate::workspace::beneath::{self, Through};
use crate::workspace::spread::{SERIAL, spread};

/// What of a directory is surveyed.
#[derive(Clone, Copy, Default)]
pub struct Survey<'s> {
    /// What is left out.
    pub ignore: Option<&'s dyn PathFilter>,
    /// Sources as instructions name them, wildcards and `**` allowed; only these and what links among them lead to are
    /// looked at. The whole directory if there is none.
    pub wanted: &'s [PathBuf],
    /// Folder in which digests are remembered, such as [`crate::Layout::imports`].
    pub memory: Option<&'s Path>,
}

/// Why a directory could not be surveyed.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The directory cannot be opened.
    #[error("cannot open directory `{}`: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A wanted path is a wrong pattern.
    #[error("`{}` {reason}", path.display())]
    Pattern {
        /// The pattern.
        path: PathBuf,
        /// What is wrong.
        reason: PatternError,
    },
    /// Something below it cannot be looked at.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// A directory as it was when it was surveyed.
pub struct Context {
    root: OwnedFd,
    stat: Stat,
    folders: HashMap<PathBuf, Folder>,
    known: KnownDigests,
}

/// A directory that was walked.
#[derive(Default)]
struct Folder {
    /// Ascending by name.
    entries: Vec<Entry>,
    /// Targets of its links.
    targets: HashMap<PathBuf, PathBuf>,
}

/// Files one thread reads in one go.
const GRAIN: usize = 32;

/// Links that were found lead to parts of the directory nobody has looked at yet; so often it is walked again.
const MAX_WALKS: usize = 64;

impl Context {
    /// Looks at a directory.
    ///
    /// # Errors
    /// [`SurveyError`]. What vanishes meanwhile was never there.
    pub fn survey(dir: &Path, survey: &Survey<'_>) -> Result<Self, SurveyError> {
        let failed = |source| SurveyError::Directory { path: dir.to_owned(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let stat = owned_by_root(look::look_at(&root).map_err(|e| failed(e.into()))?);
        let place = dir.canonicalize().map_err(failed)?;
        let memory = survey
            .memory
            .map(|folder| folder.join(format!("context-{}", Digest::of(place.as_os_str().as_bytes()).hex())));
        let known = KnownDigests::open(memory.as_deref(), Trust::ChangeTime);
        let mut context = Self { root, stat, folders: HashMap::new(), known };
        let mut wanted: BTreeSet<PathBuf> = survey.wanted.iter().map(|path| clean(path)).collect();
        for _ in 0..MAX_WALKS {
            let patterns = compile(&wanted)?;
            context.folders = walk::walk(&context.root, survey.ignore, &patterns)?;
            let before = wanted.len();
            context.add_link_targets(&mut wanted)?;
            if wanted.len() == before {
                break;
            }
        }
        Ok(context)
    }

    /// Whether no file has to be read for its digest.
    pub fn is_known(&self) -> bool {
        let entries = self.folders.values().flat_map(|folder| &folder.entries);
        let mut files = entries.filter(|entry| entry.stat.kind == FileKind::File);
        files.all(|entry| self.known.get(&entry.stat).is_some())
    }

    /// Takes in what another process has written down meanwhile.
    pub fn take_in(&mut self) {
        self.known.take_in();
    }

    /// Writes down what was read since, where other processes find it.
    pub fn remember(&self) {
        self.known.save();
    }

    /// Takes in what another process has written down meanwhile, then reads every file whose digest is not known, several at a
    /// time, and writes that down. A file that cannot be read, or changes, is left to whoever asks for it.
    pub fn learn(&mut self) {
        self.known.take_in();
        let unknown: Vec<(PathBuf, Stat)> = self
            .files()
            .filter(|(_, stat)| self.known.get(stat).is_none())
            .map(|(path, stat)| (path, *stat))
            .collect();
        let grain = if unknown.len() < 2 * GRAIN { SERIAL } else { GRAIN };
        spread(&unknown, grain, |(path, stat)| drop(self.content(path, stat)));
        self.known.save();
    }

    /// The regular files that were found.
    fn files(&self) -> impl Iterator<Item = (PathBuf, &Stat)> {
        self.folders.iter().flat_map(|(folder, found)| {
            let files = found.entries.iter().filter(|entry| entry.stat.kind == FileKind::File);
            files.map(move |entry| (folder.join(&entry.name), &entry.stat))
        })
    }

    /// Adds what the links among the wanted paths lead to.
    fn add_link_targets(&self, wanted: &mut BTreeSet<PathBuf>) -> Result<(), SurveyError> {
        let mut more = Vec::new();
        for path in &*wanted {
            let (plain, wild) = split_wild(path);
            // A circle of links is reported by whoever copies through it.
            let Ok(real) = resolve(self, &plain, Last::Follow) else { continue };
            if real != plain {
                more.push(clean(&real.join(&wild)));
            }
            if !wild.as_os_str().is_empty()
                && let Ok(pattern) = Pattern::new(wild.as_os_str().as_bytes(), Stars::Plain)
            {
                let links = matching(self, &real, &pattern)?.into_iter();
                let links = links.filter(|(_, stat)| stat.kind == FileKind::Link);
                more.extend(links.filter_map(|(path, _)| resolve(self, &path, Last::Follow).ok()));
            }
        }
        wanted.extend(more);
        Ok(())
    }

    fn entry(&self, path: &Path) -> Option<&Entry> {
        let entries = &self.folders.get(path.parent()?)?.entries;
        let name = path.file_name()?;
        entries.binary_search_by(|entry| entry.name.as_os_str().cmp(name)).ok().map(|at| &entries[at])
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, SourceError> {
        beneath::open(&self.root, path, Through::NoLinks, flags).map_err(|error| match error {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::XDEV => SourceError::Changed(path.to_owned()),
            error => SourceError::io(path, error),
        })
    }
}

impl FileSource for Context {
    fn stat(&self, path: &Path) -> Result<Option<Stat>, SourceError> {
        if path.as_os_str().is_empty() {
            return Ok(Some(self.stat));
        }
        Ok(self.entry(path).map(|entry| entry.stat))
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>, SourceError> {
        let folder = self.folders.get(dir).ok_or_else(|| SourceError::Absent(dir.to_owned()))?;
        Ok(folder.entries.clone())
    }

    fn target(&self, path: &Path) -> Result<PathBuf, SourceError> {
        let folder = path.parent().and_then(|parent| self.folders.get(parent));
        let target = folder.zip(path.file_name()).and_then(|(f, name)| f.targets.get(Path::new(name)));
        target.cloned().ok_or_else(|| SourceError::Absent(path.to_owned()))
    }

    fn open(&self, path: &Path) -> Result<File, SourceError> {
        if self.entry(path).is_none_or(|entry| entry.stat.kind != FileKind::File) {
            return Err(SourceError::Absent(path.to_owned()));
        }
        // A pipe put in the place of the file must not make us wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(File::from(self.open_beneath(path, flags)?))
    }

    fn xattrs(&self, path: &Path) -> Result<Xattrs, SourceError> {
        let file = self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        xattr::read(&file).map_err(|error| SourceError::io(path, error))
    }

    fn content(&self, path: &Path, stat: &Stat) -> Result<Content, SourceError> {
        self.known.content(path, stat, || match stat.kind {
            FileKind::Dir => Ok(self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)?.into()),
            _ => self.open(path),
        })
    }

    fn witness(&self, path: &Path, stat: &Stat, file: &File) -> Result<Witness, SourceError> {
        self.known.witness(path, stat, &self.content(path, stat)?, file)
    }

    fn absence(&self, path: &Path) -> Absence {
        let ignored = self.entry(path).is_none()
            && beneath::open(&self.root, path, Through::NoLinks, OFlags::PATH).is_ok();
        let parent = path.parent().unwrap_or(Path::new(""));
        Absence { ignored, beside: walk::names(&self.root, parent).unwrap_or_default() }
    }
}

fn owned_by_root(stat: Stat) -> Stat {
    Stat { uid: 0, gid: 0, ..stat }
}

fn compile(wanted: &BTreeSet<PathBuf>) -> Result<Vec<Pattern>, SurveyError> {
    if wanted.iter().any(|path| path.as_os_str().is_empty()) {
        return Ok(Vec::new());
    }
    let compile = |path: &PathBuf| {
        let text = path.as_os_str().as_bytes();
        let compiled = match super::pattern::is_wild(text) {
            true => Pattern::new(text, Stars::Cross),
            false => Ok(Pattern::literal(text)),
        };
        compiled.map_err(|reason| SurveyError::Pattern { path: path.clone(), reason })
    };
    wanted.iter().map(compile).collect()
}

/// A path relative to the root: without `.`, `..`, and `/` at the ends.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for name in path.components() {
        match name {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// The part of a pattern before the first name with a wildcard, and the rest.
pub(super) fn split_wild(path: &Path) -> (PathBuf, PathBuf) {
    let mut names = path.components();
    let mut plain = PathBuf::new();
    loop {
        let rest = names.as_path().to_owned();
        match names.next() {
            Some(name) if !super::pattern::is_wild(name.as_os_str().as_bytes()) => plain.push(name),
            _ => return (plain, rest),
        }
    }
}
