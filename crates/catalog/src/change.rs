//! Changing repos, branches and commits, inside one transaction.

use std::collections::BTreeSet;

use quern_core::port::{Ids, MetaWrite};
use quern_core::{ContentRef, Id, Timestamp, Tree, Version};

use crate::names::{BranchName, BranchRef, RepoName};
use crate::record::{
    BRANCH_READERS, BRANCHES, Branch, COMMIT_LINKS, COMMIT_ORDER, COMMITS, Commit, CommitState, Origin,
    REPOS, Repo, branch_order_key, branch_reader_key, child_key, put, reader_key, repo_order_key,
};
use crate::view::{VersionError, View};

/// A transaction that changes the catalog. Everything done through one value becomes visible at once or not at
/// all; blobs named by it must be durable ([`quern_core::port::Blobs::sync`]) before.
pub struct Change<'t> {
    pub(crate) meta: &'t mut dyn MetaWrite,
    now: Timestamp,
    ids: &'t dyn Ids,
}

/// Files with their total number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The tree.
    pub tree: ContentRef,
    /// Bytes of all files in it.
    pub size: u64,
}

impl Content {
    /// No files. The empty tree's blob (of no bytes) need not be in the store; nothing here asks for it.
    pub fn empty() -> Self {
        Self { tree: Tree::default().content_ref(), size: 0 }
    }

    /// Those of a commit.
    pub const fn of(commit: &Commit) -> Self {
        Self { tree: commit.tree, size: commit.size }
    }
}

/// A commit about to be made.
struct NewCommit {
    branch: BranchRef,
    content: Content,
    description: String,
    origin: Origin,
    provenance: BTreeSet<Id>,
    job: Option<Id>,
}

impl<'t> Change<'t> {
    /// Changes made at a given time.
    pub const fn new(meta: &'t mut dyn MetaWrite, now: Timestamp, ids: &'t dyn Ids) -> Self {
        Self { meta, now, ids }
    }

    /// The catalog with the changes made so far.
    pub fn view(&self) -> View<'_> {
        View::new(self.meta.as_read())
    }

    /// Makes a repo.
    ///
    /// # Errors
    /// [`VersionError::RepoExists`].
    pub fn create_repo(&mut self, name: &RepoName, description: &str) -> Result<Repo, VersionError> {
        if self.view().find_repo(name)?.is_some() {
            return Err(VersionError::RepoExists(name.clone()));
        }
        let repo = Repo {
            version: Version,
            name: name.clone(),
            description: description.to_owned(),
            created: self.now,
            last_number: 0,
        };
        self.put_repo(&repo)?;
        Ok(repo)
    }

    /// Gives a repo another description.
    ///
    /// # Errors
    /// [`VersionError::NoRepo`].
    pub fn update_repo(&mut self, name: &RepoName, description: &str) -> Result<(), VersionError> {
        let mut repo = self.view().repo(name)?;
        description.clone_into(&mut repo.description);
        self.put_repo(&repo)
    }

    /// Makes a branch without a commit, if it does not exist.
    ///
    /// # Errors
    /// [`VersionError::NoRepo`].
    pub fn ensure_branch(&mut self, name: &BranchRef) -> Result<Branch, VersionError> {
        if let Some(branch) = self.view().find_branch(name)? {
            return Ok(branch);
        }
        self.view().repo(&name.repo)?;
        let branch = Branch { version: Version, branch: name.clone(), head: None, provenance: Vec::new() };
        self.put_branch(&branch)?;
        Ok(branch)
    }

    /// Says what a branch is made from, in place of what was said before. Makes the branch and those it is made
    /// from if they do not exist. With nothing to be made from, users can write to it again.
    ///
    /// # Errors
    /// [`VersionError::NoRepo`], [`VersionError::Loop`].
    pub fn set_provenance(&mut self, name: &BranchRef, from: &[BranchRef]) -> Result<(), VersionError> {
        let mut branch = self.ensure_branch(name)?;
        for upstream in from {
            self.ensure_branch(upstream)?;
            if upstream == name || self.view().upstream(upstream)?.contains(name) {
                return Err(VersionError::Loop { branch: name.clone(), through: upstream.clone() });
            }
        }
        for old in &branch.provenance {
            self.meta.delete(BRANCH_READERS, &branch_reader_key(old, name))?;
        }
        let from: BTreeSet<&BranchRef> = from.iter().collect();
        for new in &from {
            put(self.meta, BRANCH_READERS, &branch_reader_key(new, name), name)?;
        }
        branch.provenance = from.into_iter().cloned().collect();
        self.put_branch(&branch)
    }

    /// Lets a branch point to a commit of its repo, whichever branch that was made on. Makes the branch if it
    /// does not exist.
    ///
    /// # Errors
    /// [`VersionError::NoCommit`]; [`VersionError::HeadIsOpen`] if the branch's head is being written.
    pub fn set_head(&mut self, name: &BranchRef, head: Id) -> Result<(), VersionError> {
        let mut branch = self.ensure_branch(name)?;
        let commit = self.view().find_commit(head)?.filter(|commit| commit.repo == name.repo);
        commit.ok_or_else(|| VersionError::NoCommit { repo: name.repo.clone(), commit: head })?;
        self.refuse_open_head(&branch)?;
        branch.head = Some(head);
        self.put_branch(&branch)
    }

    /// Opens a commit for a user's writes. Makes the branch if it does not exist.
    ///
    /// # Errors
    /// [`VersionError::OutputBranch`], [`VersionError::HeadIsOpen`], [`VersionError::NoRepo`].
    pub fn start_commit(&mut self, branch: &BranchRef, description: &str) -> Result<Commit, VersionError> {
        let parent = self.view().head(branch)?;
        self.refuse_output_branch(branch)?;
        self.add(NewCommit {
            branch: branch.clone(),
            content: parent.as_ref().map_or_else(Content::empty, Content::of),
            description: description.to_owned(),
            origin: Origin::User,
            provenance: BTreeSet::new(),
            job: None,
        })
    }

    /// Opens the commit a job writes, which locks the branch until it is finished or dropped.
    ///
    /// `inputs` are the commits the job reads; what those were made from is added here.
    ///
    /// # Errors
    /// [`VersionError::HeadIsOpen`], [`VersionError::NoRepo`], [`VersionError::UnknownCommit`].
    pub fn start_output_commit(
        &mut self,
        branch: &BranchRef,
        inputs: &[Id],
        job: Id,
    ) -> Result<Commit, VersionError> {
        let mut provenance = BTreeSet::new();
        for input in inputs {
            provenance.extend(self.view().commit(*input)?.provenance);
            provenance.insert(*input);
        }
        self.add(NewCommit {
            branch: branch.clone(),
            content: Content::empty(),
            description: String::new(),
            origin: Origin::Auto,
            provenance,
            job: Some(job),
        })
    }

    /// Sets the files of an open commit.
    ///
    /// # Errors
    /// [`VersionError::Finished`], [`VersionError::UnknownCommit`].
    pub fn write(&mut self, commit: Id, content: Content) -> Result<Commit, VersionError> {
        let mut commit = self.open_commit(commit)?;
        (commit.tree, commit.size) = (content.tree, content.size);
        self.put_commit(&commit)?;
        Ok(commit)
    }

    /// Closes an open commit with the files it has.
    ///
    /// # Errors
    /// [`VersionError::Finished`], [`VersionError::UnknownCommit`].
    pub fn finish(&mut self, commit: Id, description: Option<&str>) -> Result<Commit, VersionError> {
        let mut commit = self.open_commit(commit)?;
        if let Some(description) = description {
            description.clone_into(&mut commit.description);
        }
        (commit.state, commit.finished) = (CommitState::Finished, Some(self.now));
        self.put_commit(&commit)?;
        Ok(commit)
    }

    /// Closes the open commit of a job that failed, without files.
    ///
    /// # Errors
    /// [`VersionError::Finished`], [`VersionError::UnknownCommit`].
    pub fn fail(&mut self, commit: Id) -> Result<Commit, VersionError> {
        let mut commit = self.write(commit, Content::empty())?;
        (commit.state, commit.finished) = (CommitState::Failed, Some(self.now));
        self.put_commit(&commit)?;
        Ok(commit)
    }

    /// Commits files to a branch in one go: to its open head if a user has opened one, else as a finished commit of its
    /// own. Refuses to do what [`Change::start_commit`] refuses.
    ///
    /// # Errors
    /// [`VersionError::OutputBranch`], [`VersionError::NoRepo`].
    pub fn commit(
        &mut self,
        branch: &BranchRef,
        content: Content,
        description: &str,
    ) -> Result<Commit, VersionError> {
        self.refuse_output_branch(branch)?;
        if let Some(open) = self.view().head(branch)?.filter(Commit::is_open) {
            return self.write(open.id, content);
        }
        let commit = self.start_commit(branch, description)?;
        self.write(commit.id, content)?;
        self.finish(commit.id, None)
    }

    fn open_commit(&self, commit: Id) -> Result<Commit, VersionError> {
        let commit = self.view().commit(commit)?;
        if commit.is_open() { Ok(commit) } else { Err(VersionError::Finished(commit.id)) }
    }

    fn refuse_output_branch(&self, branch: &BranchRef) -> Result<(), VersionError> {
        match self.view().find_branch(branch)? {
            Some(found) if !found.provenance.is_empty() => Err(VersionError::OutputBranch(branch.clone())),
            _ => Ok(()),
        }
    }

    fn refuse_open_head(&self, branch: &Branch) -> Result<(), VersionError> {
        match self.view().head(&branch.branch)?.filter(Commit::is_open) {
            Some(open) => Err(VersionError::HeadIsOpen { branch: branch.branch.clone(), commit: open.id }),
            None => Ok(()),
        }
    }

    /// Adds an open commit at the head of its branch.
    fn add(&mut self, new: NewCommit) -> Result<Commit, VersionError> {
        let mut branch = self.ensure_branch(&new.branch)?;
        self.refuse_open_head(&branch)?;
        let mut repo = self.view().repo(&new.branch.repo)?;
        repo.last_number += 1;
        self.put_repo(&repo)?;
        let commit = Commit {
            version: Version,
            id: self.ids.fresh(),
            repo: new.branch.repo,
            branch: new.branch.branch,
            number: repo.last_number,
            parent: branch.head,
            tree: new.content.tree,
            size: new.content.size,
            started: self.now,
            finished: None,
            description: new.description,
            origin: new.origin,
            provenance: new.provenance.into_iter().collect(),
            state: CommitState::Open,
            job: new.job,
        };
        self.put_commit(&commit)?;
        self.index(&commit)?;
        branch.head = Some(commit.id);
        self.put_branch(&branch)?;
        Ok(commit)
    }

    fn index(&mut self, commit: &Commit) -> Result<(), VersionError> {
        put(self.meta, COMMIT_ORDER, &repo_order_key(commit), &commit.id)?;
        put(self.meta, COMMIT_ORDER, &branch_order_key(commit), &commit.id)?;
        if let Some(parent) = commit.parent {
            put(self.meta, COMMIT_LINKS, &child_key(parent, commit.id), &commit.id)?;
        }
        for upstream in &commit.provenance {
            put(self.meta, COMMIT_LINKS, &reader_key(*upstream, commit.id), &commit.id)?;
        }
        Ok(())
    }

    pub(crate) fn put_repo(&mut self, repo: &Repo) -> Result<(), VersionError> {
        Ok(put(self.meta, REPOS, repo.name.as_str(), repo)?)
    }

    pub(crate) fn put_branch(&mut self, branch: &Branch) -> Result<(), VersionError> {
        Ok(put(self.meta, BRANCHES, &branch.branch.to_string(), branch)?)
    }

    pub(crate) fn put_commit(&mut self, commit: &Commit) -> Result<(), VersionError> {
        Ok(put(self.meta, COMMITS, &commit.id.to_string(), commit)?)
    }

    /// The name of a branch of a repo known to exist.
    pub(crate) fn branch_names(&self, repo: &RepoName) -> Result<Vec<BranchName>, VersionError> {
        Ok(self.view().branches(repo)?.into_iter().map(|branch| branch.branch.branch).collect())
    }
}
