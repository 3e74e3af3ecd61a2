//! Deleting repos, branches and commits: what follows from a thing goes with it, in proportion to what is affected.

use std::collections::BTreeSet;

use quern_core::Id;

use crate::change::Change;
use crate::names::{BranchRef, RepoName};
use crate::record::{
    BRANCH_READERS, BRANCHES, COMMIT_LINKS, COMMIT_ORDER, COMMITS, Commit, Origin, REPOS, branch_order_key,
    branch_reader_key, child_key, put, reader_key, repo_order_key,
};
use crate::view::{CommitQuery, VersionError};

impl Change<'_> {
    /// Deletes a repo with its branches and commits.
    ///
    /// # Errors
    /// [`VersionError::InUse`] if a branch of another repo is made from one of its branches, unless `force`: then those
    /// branches stay and are made from less. [`VersionError::NoRepo`].
    pub fn delete_repo(&mut self, name: &RepoName, force: bool) -> Result<(), VersionError> {
        let branches: Vec<BranchRef> = self
            .branch_names(name)?
            .into_iter()
            .map(|branch| BranchRef { repo: name.clone(), branch })
            .collect();
        for branch in &branches {
            let reader = self.view().readers(branch)?.into_iter().find(|reader| reader.repo != *name);
            if let Some(reader) = reader.filter(|_| !force) {
                return Err(VersionError::InUse { what: name.to_string(), reader });
            }
        }
        for branch in &branches {
            self.unlink_branch(branch)?;
        }
        for commit in self.view().commits(&CommitQuery::of(name.clone()))? {
            self.forget(&commit)?;
        }
        Ok(self.meta.delete(REPOS, name.as_str())?)
    }

    /// Deletes a branch; its finished commits stay in the repo.
    ///
    /// # Errors
    /// [`VersionError::InUse`] if a branch is made from it, [`VersionError::HeadIsOpen`] while it is being written;
    /// with `force` neither, and what is being written is dropped. [`VersionError::NoBranch`].
    pub fn delete_branch(&mut self, name: &BranchRef, force: bool) -> Result<(), VersionError> {
        self.view().branch(name)?;
        let open = self.view().head(name)?.filter(Commit::is_open);
        if let Some(open) = open.as_ref().filter(|_| !force) {
            return Err(VersionError::HeadIsOpen { branch: name.clone(), commit: open.id });
        }
        if let Some(reader) = self.view().readers(name)?.into_iter().next().filter(|_| !force) {
            return Err(VersionError::InUse { what: name.to_string(), reader });
        }
        if let Some(open) = open {
            self.remove(&open)?;
        }
        self.unlink_branch(name)
    }

    /// Deletes a user's commit and every commit made from it. Children get the parent of what was deleted, and
    /// heads move back. Gives back what was deleted, so that the jobs can follow.
    ///
    /// # Errors
    /// [`VersionError::MadeByJob`], [`VersionError::UnknownCommit`].
    pub fn delete_commit(&mut self, id: Id) -> Result<Vec<Commit>, VersionError> {
        let commit = self.view().commit(id)?;
        if commit.origin == Origin::Auto {
            return Err(VersionError::MadeByJob(id));
        }
        let mut deleted = vec![commit];
        for reader in self.view().readers_of_commit(id)? {
            deleted.extend(self.view().find_commit(reader)?);
        }
        for commit in &mut deleted {
            // Removing one may have given the next another parent.
            *commit = self.view().commit(commit.id)?;
            self.remove(commit)?;
        }
        Ok(deleted)
    }

    /// Drops a job's open commit as if it had never been begun.
    ///
    /// # Errors
    /// [`VersionError::Finished`], [`VersionError::UnknownCommit`].
    pub fn drop_open(&mut self, id: Id) -> Result<(), VersionError> {
        let commit = self.view().commit(id)?;
        if !commit.is_open() {
            return Err(VersionError::Finished(id));
        }
        self.remove(&commit)
    }

    /// Takes one commit out of the history.
    fn remove(&mut self, commit: &Commit) -> Result<(), VersionError> {
        for child in self.view().children(commit.id)? {
            let mut child = self.view().commit(child)?;
            child.parent = commit.parent;
            if let Some(parent) = commit.parent {
                put(self.meta, COMMIT_LINKS, &child_key(parent, child.id), &child.id)?;
            }
            self.meta.delete(COMMIT_LINKS, &child_key(commit.id, child.id))?;
            self.put_commit(&child)?;
        }
        // Any branch of the repo may point to it.
        for mut branch in self.view().branches(&commit.repo)? {
            if branch.head == Some(commit.id) {
                branch.head = commit.parent;
                self.put_branch(&branch)?;
            }
        }
        self.forget(commit)
    }

    /// Removes the record of a commit and its index entries.
    fn forget(&mut self, commit: &Commit) -> Result<(), VersionError> {
        self.meta.delete(COMMITS, &commit.id.to_string())?;
        self.meta.delete(COMMIT_ORDER, &repo_order_key(commit))?;
        self.meta.delete(COMMIT_ORDER, &branch_order_key(commit))?;
        if let Some(parent) = commit.parent {
            self.meta.delete(COMMIT_LINKS, &child_key(parent, commit.id))?;
        }
        for upstream in &commit.provenance {
            self.meta.delete(COMMIT_LINKS, &reader_key(*upstream, commit.id))?;
        }
        Ok(())
    }

    /// Removes a branch's record and its links to others.
    fn unlink_branch(&mut self, name: &BranchRef) -> Result<(), VersionError> {
        let branch = self.view().branch(name)?;
        for upstream in &branch.provenance {
            self.meta.delete(BRANCH_READERS, &branch_reader_key(upstream, name))?;
        }
        let readers: BTreeSet<BranchRef> = self.view().readers(name)?.into_iter().collect();
        for reader in readers {
            self.meta.delete(BRANCH_READERS, &branch_reader_key(name, &reader))?;
            let mut reader = self.view().branch(&reader)?;
            reader.provenance.retain(|upstream| upstream != name);
            self.put_branch(&reader)?;
        }
        Ok(self.meta.delete(BRANCHES, &name.to_string())?)
    }
}
