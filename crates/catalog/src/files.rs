//! The catalog as a whole, and writing files to it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use quern_core::port::{self, Blobs, Clock, Ids, Meta, PortError};
use quern_core::{ContentRef, Digest, Entry, Id, InvalidPath, TreePath};

use crate::change::{Change, Content};
use crate::names::{Ancestry, At, BranchRef, Ref};
use crate::pattern::{PathPattern, choose};
use crate::record::Commit;
use crate::tree::{Edits, Overlay, TreesError, edit, find, place, place_many, size_change, union};
use crate::view::{VersionError, View};

/// Why files cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Something is wrong with the repo, branch or commit.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// Something is wrong with the trees, above all a file where a directory is or the reverse.
    #[error(transparent)]
    Trees(#[from] TreesError),
    /// A path that cannot be.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// Nothing is there.
    #[error("`{path}` does not exist in commit {commit}")]
    NotFound {
        /// Where.
        path: TreePath,
        /// In which commit.
        commit: Id,
    },
    /// A directory where a file is wanted.
    #[error("`{path}` is a {kind}, not a file; list it, or choose files in it by a pattern")]
    NotAFile {
        /// Where.
        path: TreePath,
        /// What it is.
        kind: &'static str,
    },
    /// A reference to an ancestor where something is to be written.
    #[error("`{0}` cannot be written to; name a branch or an open commit")]
    NotWritable(Ref),
    /// The store cannot be read or written.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// Versioned trees over a blob store and a metadata store, both shared with other processes.
///
/// Every operation is one transaction. Files are written first and made durable, and the transaction checks that the branch
/// is still where it was; if not, the operation is done again on what is there now, so no write is lost.
pub struct Catalog<'a> {
    pub(crate) blobs: &'a dyn Blobs,
    meta: &'a dyn Meta,
    clock: &'a dyn Clock,
    ids: &'a dyn Ids,
    /// Bytes of all files below a directory, by its digest.
    pub(crate) sizes: Mutex<HashMap<Digest, u64>>,
}

/// How files get to their paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PutMode {
    /// A file that exists gets the new bytes at its end.
    #[default]
    Append,
    /// A file that exists is replaced; others in the same directory stay.
    Overwrite,
    /// What is put becomes all there is at its path; what was there, a directory too, is gone.
    Replace,
}

/// How to put files.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// How files get to their paths.
    pub mode: PutMode,
    /// Whether to make no commit if every file is as it was.
    pub skip_unchanged: bool,
    /// Description of the commit, if one is made.
    pub description: String,
}

/// What a write has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// A commit with the change, open only if it was before.
    Commit(Box<Commit>),
    /// Nothing, because every file is as it was; this is the head.
    Unchanged(Box<Commit>),
}

impl Written {
    /// The commit that has the files now.
    pub fn commit(&self) -> &Commit {
        match self {
            Self::Commit(commit) | Self::Unchanged(commit) => commit,
        }
    }
}

impl<'a> Catalog<'a> {
    /// The catalog in these stores.
    pub fn new(blobs: &'a dyn Blobs, meta: &'a dyn Meta, clock: &'a dyn Clock, ids: &'a dyn Ids) -> Self {
        Self { blobs, meta, clock, ids, sizes: Mutex::default() }
    }

    /// Asks several questions of one instant.
    ///
    /// # Errors
    /// Those of `f` and of the store.
    pub fn read<T, E: From<PortError>>(&self, f: impl Fn(View<'_>) -> Result<T, E>) -> Result<T, E> {
        port::read(self.meta, |meta| f(View::new(meta)))
    }

    /// Makes several changes at once, or none if `f` fails. It may run more than once.
    ///
    /// # Errors
    /// Those of `f` and of the store.
    pub fn write<T, E: From<PortError>>(&self, f: impl Fn(&mut Change<'_>) -> Result<T, E>) -> Result<T, E> {
        let now = self.clock.now();
        port::write(self.meta, |meta| f(&mut Change::new(meta, now, self.ids)))
    }

    /// Puts entries at paths, all in one commit: files, links, or whole directories, whose content must be in the
    /// blob store. To a branch whose head is open they are added to it; else a commit is made and finished.
    ///
    /// # Errors
    /// [`FileError`]; nothing is written then.
    pub fn put(
        &self,
        target: &Ref,
        sources: &[(TreePath, Entry)],
        options: &PutOptions,
    ) -> Result<Written, FileError> {
        self.revise(target, options, &|base| {
            let at_once = match options.mode {
                PutMode::Replace => None,
                PutMode::Append | PutMode::Overwrite => self.together(sources)?,
            };
            if let Some(tree) = at_once {
                return self.lay(base, &TreePath::root(), &Entry::Dir(tree), options.mode);
            }
            sources.iter().try_fold(*base, |tree, (path, entry)| self.lay(&tree, path, entry, options.mode))
        })
    }

    /// The tree of all sources; none if one of them lies at or below another one's path, so that order counts.
    fn together(&self, sources: &[(TreePath, Entry)]) -> Result<Option<ContentRef>, FileError> {
        let paths: BTreeSet<&TreePath> = sources.iter().map(|(path, _)| path).collect();
        let above = |path: &TreePath| std::iter::successors(path.parent(), TreePath::parent);
        let nested = paths.iter().any(|path| above(path).any(|above| paths.contains(&above)));
        if nested || paths.len() < sources.len() {
            return Ok(None);
        }
        Ok(Some(place_many(self.blobs, sources)?))
    }

    /// Deletes everything a pattern chooses, in one commit. Nothing to delete makes no commit.
    ///
    /// # Errors
    /// [`FileError`]; a branch without a commit is one.
    pub fn delete_files(
        &self,
        target: &Ref,
        pattern: &dyn PathPattern,
        description: &str,
    ) -> Result<Written, FileError> {
        let options =
            PutOptions { skip_unchanged: true, description: description.to_owned(), ..PutOptions::default() };
        self.revise(target, &options, &|base| {
            let mut edits = Edits::default();
            choose(self.blobs, base, pattern, &mut |path, _| -> Result<(), TreesError> {
                edits.remove(&TreePath::parse(path)?);
                Ok(())
            })?;
            Ok(edit(self.blobs, base, &edits)?)
        })
    }

    /// Puts what is at a path of one commit to a path of another place, without copying bytes.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn copy(
        &self,
        (source, from): (&Ref, &TreePath),
        (target, to): (&Ref, &TreePath),
        options: &PutOptions,
    ) -> Result<Written, FileError> {
        let commit = self.readable(source)?;
        let entry = find(self.blobs, &commit.tree, from)?;
        let entry = entry.ok_or(FileError::NotFound { path: from.clone(), commit: commit.id })?;
        self.put(target, &[(to.clone(), entry)], options)
    }

    fn lay(
        &self,
        base: &ContentRef,
        path: &TreePath,
        entry: &Entry,
        mode: PutMode,
    ) -> Result<ContentRef, FileError> {
        let overlay = match mode {
            PutMode::Append => Overlay::Append,
            PutMode::Overwrite => Overlay::Replace,
            PutMode::Replace => {
                let mut removal = Edits::default();
                removal.remove(path);
                let without = edit(self.blobs, base, &removal)?;
                return Ok(union(self.blobs, &without, &place(self.blobs, path, entry)?, Overlay::Replace)?);
            }
        };
        Ok(union(self.blobs, base, &place(self.blobs, path, entry)?, overlay)?)
    }

    /// The one way to write files: make the new tree from the present one, then commit it if that is still present.
    fn revise(
        &self,
        target: &Ref,
        options: &PutOptions,
        new_tree: &dyn Fn(&ContentRef) -> Result<ContentRef, FileError>,
    ) -> Result<Written, FileError> {
        loop {
            let base = self.read(|view| base(view, target))?;
            let old = base.as_ref().map_or_else(Content::empty, Content::of);
            let tree = new_tree(&old.tree)?;
            match base {
                Some(head) if tree == old.tree && options.skip_unchanged => {
                    return Ok(Written::Unchanged(Box::new(head)));
                }
                _ => {}
            }
            let content = Content { tree, size: self.size_after(&old, &tree)? };
            self.blobs.sync()?;
            let committed = self.write(|change| -> Result<_, FileError> {
                let now = self::base(change.view(), target)?;
                if version(&now) != version(&base) {
                    return Ok(None);
                }
                let commit = match (target.branch(), now) {
                    (Some(branch), _) => change.commit(&branch, content, &options.description)?,
                    (None, Some(open)) => change.write(open.id, content)?,
                    (None, None) => return Err(FileError::NotWritable(target.clone())),
                };
                Ok(Some(commit))
            })?;
            if let Some(commit) = committed {
                return Ok(Written::Commit(Box::new(commit)));
            }
        }
    }

    /// Bytes of a tree that was made from another one; looks only at what differs.
    ///
    /// # Errors
    /// Those of the store.
    pub fn size_after(&self, old: &Content, tree: &ContentRef) -> Result<u64, TreesError> {
        let size = i128::from(old.size) + size_change(self.blobs, &old.tree, tree)?;
        Ok(u64::try_from(size).unwrap_or(u64::MAX))
    }
}

/// The commit a write begins with: the head of a branch, if it has one, or an open commit named by id.
fn base(view: View<'_>, target: &Ref) -> Result<Option<Commit>, FileError> {
    match (&target.at, target.ancestry) {
        (At::Branch(branch), Ancestry::Itself) => {
            let branch = BranchRef { repo: target.repo.clone(), branch: branch.clone() };
            view.repo(&target.repo)?;
            match view.find_branch(&branch)? {
                Some(found) if !found.provenance.is_empty() => Err(VersionError::OutputBranch(branch).into()),
                _ => Ok(view.head(&branch)?),
            }
        }
        (At::Commit(_), Ancestry::Itself) => {
            let commit = view.resolve(target)?;
            if commit.is_open() { Ok(Some(commit)) } else { Err(VersionError::Finished(commit.id).into()) }
        }
        _ => Err(FileError::NotWritable(target.clone())),
    }
}

/// What must not have changed between reading and writing.
fn version(base: &Option<Commit>) -> Option<(Id, ContentRef, bool)> {
    base.as_ref().map(|commit| (commit.id, commit.tree, commit.is_open()))
}
