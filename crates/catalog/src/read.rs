//! Reading files: looking at them, listing, choosing by pattern, and their bytes.

use std::collections::HashMap;
use std::io::Read;
use std::sync::PoisonError;

use quern_core::port::Blobs;
use quern_core::{ContentRef, Digest, Entry, TreePath};

use crate::concat::Concat;
use crate::files::{Catalog, FileError};
use crate::names::Ref;
use crate::pattern::{PathPattern, choose};
use crate::record::{Commit, Origin};
use crate::tree::{Difference, MOST_DEPTH, TreesError, diff, find, kind, open, too_deep};
use crate::view::VersionError;

/// A file, link or directory of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Where it is.
    pub path: TreePath,
    /// What it is.
    pub entry: Entry,
    /// Bytes of the file, or of all files in the directory; zero for a link.
    pub size: u64,
}

impl Catalog<'_> {
    /// The commit a reference means, if its files may be read: what a job is still making may not.
    ///
    /// # Errors
    /// [`VersionError::NotFinished`], and those of [`crate::View::resolve`].
    pub fn readable(&self, reference: &Ref) -> Result<Commit, VersionError> {
        let commit = self.read(|view| view.resolve(reference))?;
        if commit.is_open() && commit.origin == Origin::Auto {
            return Err(VersionError::NotFinished(commit.id));
        }
        Ok(commit)
    }

    /// What is at a path.
    ///
    /// # Errors
    /// [`FileError::NotFound`].
    pub fn inspect(&self, commit: &Commit, path: &TreePath) -> Result<FileInfo, FileError> {
        let entry = find(self.blobs, &commit.tree, path)?;
        let entry = entry.ok_or(FileError::NotFound { path: path.clone(), commit: commit.id })?;
        self.info(path.clone(), entry)
    }

    /// The children of a directory by name, or the file at the path itself.
    ///
    /// # Errors
    /// [`FileError::NotFound`].
    pub fn list(&self, commit: &Commit, path: &TreePath) -> Result<Vec<FileInfo>, FileError> {
        let found = self.inspect(commit, path)?;
        let Entry::Dir(dir) = &found.entry else { return Ok(vec![found]) };
        let children = open(self.blobs, dir)?.into_entries().into_iter();
        children.map(|(name, entry)| self.info(path.child(&name)?, entry)).collect()
    }

    /// Everything a pattern chooses, by path.
    ///
    /// # Errors
    /// [`FileError`] if a directory cannot be read.
    pub fn glob(&self, commit: &Commit, pattern: &dyn PathPattern) -> Result<Vec<FileInfo>, FileError> {
        let mut found = Vec::new();
        choose(self.blobs, &commit.tree, pattern, &mut |path, entry| -> Result<(), FileError> {
            found.push(self.info(TreePath::parse(path)?, entry.clone())?);
            Ok(())
        })?;
        Ok(found)
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::NotAFile`].
    pub fn open(&self, commit: &Commit, path: &TreePath) -> Result<Box<dyn Read + Send>, FileError> {
        match self.inspect(commit, path)?.entry {
            Entry::File { content, .. } => Ok(self.blobs.open(&content.digest)?),
            other => Err(FileError::NotAFile { path: path.clone(), kind: kind(&other) }),
        }
    }

    /// The bytes of all files a pattern chooses, one after the other by path.
    ///
    /// # Errors
    /// [`FileError::NotAFile`] if it chooses nothing but directories and links.
    pub fn open_all<'b>(
        &'b self,
        commit: &Commit,
        pattern: &dyn PathPattern,
    ) -> Result<impl Read + 'b, FileError> {
        let chosen = self.glob(commit, pattern)?;
        let files = chosen.iter().filter_map(|info| match &info.entry {
            Entry::File { content, .. } => Some(content.digest),
            _ => None,
        });
        let files: Vec<_> = files.collect();
        match chosen.first().filter(|_| files.is_empty()) {
            Some(info) => Err(FileError::NotAFile { path: info.path.clone(), kind: kind(&info.entry) }),
            None => Ok(Concat::new(self.blobs, files.into_iter())),
        }
    }

    /// What differs from one commit to another, by path; without `old`, from the parent or from nothing.
    ///
    /// # Errors
    /// [`FileError`] if a directory cannot be read or the parent is gone.
    pub fn diff(&self, new: &Commit, old: Option<&Commit>) -> Result<Vec<Difference>, FileError> {
        let old_tree: ContentRef = match (old, new.parent) {
            (Some(old), _) => old.tree,
            (None, Some(parent)) => self.read(|view| view.commit(parent))?.tree,
            (None, None) => crate::change::Content::empty().tree,
        };
        let mut found = Vec::new();
        diff(self.blobs, &old_tree, &new.tree, &mut |difference| found.push(difference))?;
        Ok(found)
    }

    /// Bytes of all files below a directory. Each directory is read once in the life of this value.
    ///
    /// # Errors
    /// [`TreesError`] if a directory cannot be read.
    pub fn size_of(&self, dir: &ContentRef) -> Result<u64, TreesError> {
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        size_below(self.blobs, dir, &mut sizes, 0)
    }

    fn info(&self, path: TreePath, entry: Entry) -> Result<FileInfo, FileError> {
        let size = match &entry {
            Entry::File { content, .. } => content.size,
            Entry::Dir(dir) => self.size_of(dir)?,
            Entry::Link(_) => 0,
        };
        Ok(FileInfo { path, entry, size })
    }
}

fn size_below(
    blobs: &dyn Blobs,
    dir: &ContentRef,
    sizes: &mut HashMap<Digest, u64>,
    depth: usize,
) -> Result<u64, TreesError> {
    if let Some(size) = sizes.get(&dir.digest) {
        return Ok(*size);
    }
    if depth > MOST_DEPTH {
        return Err(too_deep(""));
    }
    let mut size = 0;
    for (_, entry) in open(blobs, dir)?.entries() {
        size += match entry {
            Entry::File { content, .. } => content.size,
            Entry::Dir(below) => size_below(blobs, below, sizes, depth + 1)?,
            Entry::Link(_) => 0,
        };
    }
    sizes.insert(dir.digest, size);
    Ok(size)
}
