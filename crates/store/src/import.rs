//! Directories on disk as trees in the store, reading only what changed since last time.
//!
//! An import walks the directory in four passes, each spread over the processors: [`list`] finds directories
//! and names, [`survey`] looks at every file, [`hash`] reads those whose stamp is new, [`settle`] builds the
//! trees from the leaves up. What was found is remembered in one file per source directory ([`memory`]), so the
//! next import of an unchanged directory costs one look per file and reads none.
//!
//! The refused alternative is to trust size and modification time: two edits in one tick of the clock would be
//! taken for one. Here only the change time is believed, and only once it is old enough that any later edit must
//! show ([`stamp`]). Limits: an edit through a memory mapping that was already dirty is seen when the kernel
//! writes it back, and a network file system is trusted to keep the change time in step with this machine's clock.

mod hash;
mod list;
mod memory;
mod settle;
pub(crate) mod stamp;
mod survey;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quern_core::port::{Blobs, PortError};
use quern_core::{ContentRef, Digest, TreePath};
use rustix::fs::{Mode, OFlags};

use crate::Store;
use crate::workspace::LargeFiles;
use memory::Memory;

/// What a name in a source directory is, before links are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A socket, named pipe or device.
    Other,
}

/// What becomes of symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Links {
    /// A link to a file inside the directory is read as that file; any other link is a [`Flaw`].
    FollowFiles,
    /// A link is kept as a link, wherever it leads.
    Keep,
    /// Every link is a [`Flaw`].
    Refuse,
}

/// Whether a name is wanted. A directory that is not wanted is not entered.
pub type Filter<'f> = dyn Fn(&TreePath, Kind) -> bool + Sync + 'f;

/// How a directory is imported.
#[derive(Clone, Copy)]
pub struct ImportOptions<'f> {
    /// What becomes of symbolic links.
    pub links: Links,
    /// Which names are wanted; none for all.
    pub filter: Option<&'f Filter<'f>>,
    /// Tells apart imports of the same directory with different filters, so that they do not overwrite what
    /// the others remember. Any text.
    pub lane: &'f str,
}

/// What an import found and what it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Import {
    /// The directory as a tree; all of it is in the store.
    pub tree: ContentRef,
    /// Number of regular files in the tree, links to files that were followed included.
    pub files: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// How many of them had to be read.
    pub hashed_files: u64,
    /// How many bytes were read.
    pub hashed_bytes: u64,
}

/// Why a directory could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The directory itself cannot be opened.
    #[error("cannot open directory `{}`: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it cannot become part of a tree: everything found in that pass, in order of the paths.
    #[error("{}", Flaw::lines(.0))]
    Flaws(Vec<Flaw>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// One thing in a directory that cannot become part of a tree.
#[derive(Debug)]
pub struct Flaw {
    /// Path below the source directory, unprintable characters escaped.
    pub path: String,
    /// What is wrong.
    pub reason: FlawReason,
}

/// What is wrong with one name in a directory.
#[derive(Debug, thiserror::Error)]
pub enum FlawReason {
    /// The name is not text.
    #[error("has a name that is not UTF-8; rename it")]
    NotUtf8,
    /// A link whose target is not text.
    #[error("is a link to something whose name is not UTF-8; remove it")]
    TargetNotUtf8,
    /// The path is one no tree holds.
    #[error("{0}")]
    Path(&'static str),
    /// It is neither file, directory nor link.
    #[error("is a socket, named pipe or device; remove it or ignore it")]
    Special,
    /// A link where none may be.
    #[error("is a symbolic link, which is not allowed here; replace it by what it points to")]
    Link,
    /// A link that leads out of the directory.
    #[error(
        "is a link to `{0}`, outside the directory; links may only lead to files inside it, by relative paths"
    )]
    LinkOutside(String),
    /// A link to a directory.
    #[error("is a link to the directory `{0}`; only links to files are followed")]
    LinkToDirectory(String),
    /// A link to nothing.
    #[error("is a link to `{0}`, which does not exist")]
    LinkBroken(String),
    /// It was written to or replaced while it was read.
    #[error("changed while it was read; try again when nobody writes to it")]
    Changing,
    /// It is far larger than what was written to it.
    #[error(
        "is a sparse file of {size} bytes with {stored} bytes of data; write what it means more compactly"
    )]
    Sparse {
        /// Bytes it pretends to have.
        size: u64,
        /// Bytes it has.
        stored: u64,
    },
    /// The store has no place for it.
    #[error("has {size} bytes, and {free} are free; make room on the disk of the state folder")]
    NoRoom {
        /// Its bytes.
        size: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

/// At most so many flaws are kept; more of them help nobody.
const MAX_FLAWS: usize = 200;

impl Flaw {
    fn new(path: impl fmt::Display, reason: FlawReason) -> Self {
        let path = path.to_string();
        Self { path: path.trim_start_matches('/').escape_debug().to_string(), reason }
    }

    fn io(path: impl fmt::Display, error: impl Into<io::Error>) -> Self {
        Self::new(path, FlawReason::Io(error.into()))
    }

    fn lines(flaws: &[Self]) -> String {
        flaws.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.path, self.reason)
    }
}

/// Imports directories into a store and remembers what it saw.
pub struct Importer {
    blobs: Arc<dyn Blobs>,
    memories: PathBuf,
    epoch: u64,
}

impl Importer {
    /// An importer into an open state folder.
    ///
    /// # Errors
    /// If the index of the blobs cannot be read.
    pub fn of(store: &Store) -> Result<Self, PortError> {
        let epoch = store.blobs().epoch()?;
        Ok(Self::new(Arc::clone(store.blobs()) as Arc<dyn Blobs>, store.layout().imports(), epoch))
    }

    /// An importer that keeps its memory in files of the directory `memories`, created when first needed.
    ///
    /// `epoch` is a number that differs after blobs were removed from the store: with another one than last time,
    /// remembered content counts only if the store has it.
    pub fn new(blobs: Arc<dyn Blobs>, memories: impl Into<PathBuf>, epoch: u64) -> Self {
        Self { blobs, memories: memories.into(), epoch }
    }

    /// Imports a directory. Everything the tree consists of is in the store then, not yet synced.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is remembered then, and blobs that were put stay unreferenced.
    pub fn import(&self, dir: &Path, options: &ImportOptions) -> Result<Import, ImportError> {
        let failed = |source| ImportError::Directory { path: dir.to_owned(), source };
        let root = open_root(dir).map_err(failed)?;
        let file = self.memories.join(memory_name(&dir.canonicalize().map_err(failed)?, options));
        let memory = Memory::read(&file).unwrap_or_default();
        let scene = Scene {
            root: std::os::fd::AsFd::as_fd(&root),
            blobs: &*self.blobs,
            doubtful: memory.epoch != self.epoch || !self.has_root(&memory)?,
            memory,
            options,
            output: None,
        };
        let gathered = gather(&scene)?;
        if gathered.news {
            let bytes = memory::encode(&gathered.folders, &gathered.trees, gathered.started, self.epoch);
            crate::sealed::write(&file, &bytes)
                .map_err(|e| PortError::io(format!("writing {}", file.display()), e))?;
        }
        Ok(gathered.import)
    }

    fn has_root(&self, memory: &Memory) -> Result<bool, PortError> {
        memory.folder(0).map_or(Ok(true), |root| self.blobs.contains(&root.tree().digest))
    }
}

/// What a step left behind; nobody writes to it any more.
pub(crate) struct Output<'s> {
    /// Where it is, on the file system of the store.
    pub path: &'s Path,
    /// Takes over large files.
    pub large: Option<&'s dyn LargeFiles>,
}

/// Puts an output, open as `root`, into the store without remembering anything. Links are kept. Files and
/// directories their owner cannot read are made readable first; large files may be gone afterwards.
pub(crate) fn take_in(
    root: BorrowedFd<'_>,
    blobs: &dyn Blobs,
    output: Output<'_>,
) -> Result<Import, ImportError> {
    let options = ImportOptions { links: Links::Keep, filter: None, lane: "" };
    let output = Some(output);
    let scene = Scene { root, blobs, doubtful: false, memory: Memory::default(), options: &options, output };
    Ok(gather(&scene)?.import)
}

/// Everything the passes share.
struct Scene<'s> {
    root: BorrowedFd<'s>,
    blobs: &'s dyn Blobs,
    memory: Memory,
    /// Remembered content may have been removed from the store.
    doubtful: bool,
    options: &'s ImportOptions<'s>,
    /// The directory is ours: permissions may be changed and files taken away.
    output: Option<Output<'s>>,
}

struct Gathered<'m> {
    import: Import,
    folders: Vec<list::Folder<'m>>,
    trees: Vec<ContentRef>,
    started: i64,
    /// Something differs from what is remembered, be it only that a stamp has settled.
    news: bool,
}

fn gather<'m>(scene: &'m Scene<'_>) -> Result<Gathered<'m>, ImportError> {
    let started = stamp::now();
    let mut flaws = Vec::new();
    let mut listing = list::list(scene, &mut flaws);
    let (files, bytes) = survey::survey(scene, &mut listing.folders, &mut flaws)?;
    refuse(flaws)?;
    let news = scene.doubtful || listing.folders.iter().any(list::Folder::is_outdated);
    let hashed = hash::hash(scene, &mut listing.folders)?;
    let trees = settle::settle(scene, &listing)?;
    let import = Import {
        tree: trees[0],
        files: files + hashed.files,
        bytes: bytes + hashed.bytes,
        hashed_files: hashed.files,
        hashed_bytes: hashed.bytes,
    };
    Ok(Gathered { import, folders: listing.folders, trees, started, news })
}

fn open_root(dir: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn memory_name(dir: &Path, options: &ImportOptions) -> String {
    let links = match options.links {
        Links::FollowFiles => "follow",
        Links::Keep => "keep",
        Links::Refuse => "refuse",
    };
    let place = std::os::unix::ffi::OsStrExt::as_bytes(dir.as_os_str());
    let key = [links.as_bytes(), options.lane.as_bytes(), place].join(&0);
    Digest::of(&key).hex()
}

/// The results, or the flaws of all passes' parts together.
fn all_or_flaws<T>(results: Vec<Result<T, Failure>>) -> Result<Vec<T>, ImportError> {
    let mut good = Vec::with_capacity(results.len());
    let mut flaws = Vec::new();
    for result in results {
        match result {
            Ok(value) => good.push(value),
            Err(Failure::Flaws(mut more)) => flaws.append(&mut more),
            Err(Failure::Store(error)) => return Err(error.into()),
        }
    }
    refuse(flaws)?;
    Ok(good)
}

fn refuse(mut flaws: Vec<Flaw>) -> Result<(), ImportError> {
    if flaws.is_empty() {
        return Ok(());
    }
    flaws.sort_by(|a, b| a.path.cmp(&b.path));
    flaws.truncate(MAX_FLAWS);
    Err(ImportError::Flaws(flaws))
}

enum Failure {
    Flaws(Vec<Flaw>),
    Store(PortError),
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        Self::Store(error)
    }
}

impl From<Flaw> for Failure {
    fn from(flaw: Flaw) -> Self {
        Self::Flaws(vec![flaw])
    }
}
