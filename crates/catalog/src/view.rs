//! Reading repos, branches and commits at one instant.

use std::collections::BTreeSet;

use quern_core::Id;
use quern_core::port::{MetaRead, PortError, Scan, Table};
use serde::de::DeserializeOwned;

use crate::names::{Ancestry, At, BranchName, BranchRef, Ref, RepoName};
use crate::record::{
    BRANCH_READERS, BRANCHES, Branch, COMMIT_LINKS, COMMIT_ORDER, COMMITS, Commit, CommitState, REPOS, Repo,
    get, parse,
};

/// Why something cannot be done with repos, branches or commits.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// No such repo.
    #[error("repo `{0}` does not exist; create it first")]
    NoRepo(RepoName),
    /// A repo of this name exists.
    #[error("repo `{0}` exists already; update it instead")]
    RepoExists(RepoName),
    /// No such branch.
    #[error("branch `{0}` does not exist")]
    NoBranch(BranchRef),
    /// The branch points to nothing.
    #[error("branch `{0}` has no commit yet")]
    NoHead(BranchRef),
    /// No such commit.
    #[error("commit {commit} does not exist in repo `{repo}`")]
    NoCommit {
        /// The repo.
        repo: RepoName,
        /// The id.
        commit: Id,
    },
    /// No commit of this id in any repo.
    #[error("commit {0} does not exist")]
    UnknownCommit(Id),
    /// The commit has fewer ancestors.
    #[error("`{0}` goes back beyond the first commit")]
    NoAncestor(Ref),
    /// Only one open commit per branch.
    #[error("commit {commit} on branch `{branch}` is still open; finish it first")]
    HeadIsOpen {
        /// The branch.
        branch: BranchRef,
        /// Its open head.
        commit: Id,
    },
    /// Finished commits never change.
    #[error("commit {0} is finished and cannot be changed; write to its branch instead")]
    Finished(Id),
    /// The commit is being made.
    #[error("commit {0} is not finished; wait for its job to end")]
    NotFinished(Id),
    /// Users do not write what jobs make.
    #[error("branch `{0}` is the output of a pipeline; write to the pipeline's inputs instead")]
    OutputBranch(BranchRef),
    /// A branch made from itself.
    #[error("branch `{branch}` would be made from itself by way of `{through}`")]
    Loop {
        /// The branch.
        branch: BranchRef,
        /// What it reads that leads back to it.
        through: BranchRef,
    },
    /// Others are made from it.
    #[error("`{what}` is read by `{reader}`; delete that first, or force it")]
    InUse {
        /// What was to be deleted.
        what: String,
        /// One that reads it.
        reader: BranchRef,
    },
    /// Only what users wrote is deleted; what follows from it goes with it.
    #[error("commit {0} was made by a job; delete the commits it was made from")]
    MadeByJob(Id),
    /// The state cannot be read or written.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// One instant of the catalog. Made inside a transaction, so that several questions have one answer.
#[derive(Clone, Copy)]
pub struct View<'t> {
    meta: &'t dyn MetaRead,
}

/// Which commits to list.
#[derive(Debug, Clone)]
pub struct CommitQuery {
    /// Of this repo.
    pub repo: RepoName,
    /// Only those made on this branch.
    pub branch: Option<BranchName>,
    /// Only those with a smaller [`Commit::number`], to go on where a listing ended.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: Option<usize>,
}

impl CommitQuery {
    /// All commits of a repo.
    pub const fn of(repo: RepoName) -> Self {
        Self { repo, branch: None, before: None, limit: None }
    }
}

impl<'t> View<'t> {
    /// The catalog as this transaction sees it.
    pub const fn new(meta: &'t dyn MetaRead) -> Self {
        Self { meta }
    }

    /// A repo.
    ///
    /// # Errors
    /// [`VersionError::NoRepo`].
    pub fn repo(&self, name: &RepoName) -> Result<Repo, VersionError> {
        self.find_repo(name)?.ok_or_else(|| VersionError::NoRepo(name.clone()))
    }

    /// A repo, if it exists.
    pub fn find_repo(&self, name: &RepoName) -> Result<Option<Repo>, VersionError> {
        Ok(get(self.meta, REPOS, name.as_str())?)
    }

    /// All repos, newest first.
    pub fn repos(&self) -> Result<Vec<Repo>, VersionError> {
        let mut repos: Vec<Repo> = self.all(REPOS, &Scan::default())?;
        repos.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.name.cmp(&b.name)));
        Ok(repos)
    }

    /// A branch.
    ///
    /// # Errors
    /// [`VersionError::NoRepo`], [`VersionError::NoBranch`].
    pub fn branch(&self, branch: &BranchRef) -> Result<Branch, VersionError> {
        match self.find_branch(branch)? {
            Some(found) => Ok(found),
            None => {
                self.repo(&branch.repo)?;
                Err(VersionError::NoBranch(branch.clone()))
            }
        }
    }

    /// A branch, if it exists.
    pub fn find_branch(&self, branch: &BranchRef) -> Result<Option<Branch>, VersionError> {
        Ok(get(self.meta, BRANCHES, &branch.to_string())?)
    }

    /// The branches of a repo, by name.
    ///
    /// # Errors
    /// [`VersionError::NoRepo`].
    pub fn branches(&self, repo: &RepoName) -> Result<Vec<Branch>, VersionError> {
        self.repo(repo)?;
        self.all(BRANCHES, &Scan::prefix(format!("{repo}@")))
    }

    /// A commit by its id alone.
    ///
    /// # Errors
    /// [`VersionError::UnknownCommit`].
    pub fn commit(&self, id: Id) -> Result<Commit, VersionError> {
        self.find_commit(id)?.ok_or(VersionError::UnknownCommit(id))
    }

    /// A commit by its id, if it exists.
    pub fn find_commit(&self, id: Id) -> Result<Option<Commit>, VersionError> {
        Ok(get(self.meta, COMMITS, &id.to_string())?)
    }

    /// The commit a reference means.
    ///
    /// # Errors
    /// [`VersionError`] naming the part that is missing.
    pub fn resolve(&self, reference: &Ref) -> Result<Commit, VersionError> {
        let start = match &reference.at {
            At::Branch(branch) => {
                let branch = BranchRef { repo: reference.repo.clone(), branch: branch.clone() };
                self.commit(self.branch(&branch)?.head.ok_or(VersionError::NoHead(branch))?)?
            }
            At::Commit(id) => {
                self.repo(&reference.repo)?;
                self.find_commit(*id)?
                    .filter(|commit| commit.repo == reference.repo)
                    .ok_or_else(|| VersionError::NoCommit { repo: reference.repo.clone(), commit: *id })?
            }
        };
        match reference.ancestry {
            Ancestry::Itself => Ok(start),
            Ancestry::Back(generations) => self.ancestor(start, generations, reference),
            Ancestry::FromFirst(number) => {
                let count = self.ancestors(&start)?;
                let back = count.checked_sub(number);
                let back = back.ok_or_else(|| VersionError::NoAncestor(reference.clone()))?;
                self.ancestor(start, back, reference)
            }
        }
    }

    fn ancestor(
        &self,
        mut commit: Commit,
        generations: u64,
        reference: &Ref,
    ) -> Result<Commit, VersionError> {
        for _ in 0..generations {
            let parent = commit.parent.ok_or_else(|| VersionError::NoAncestor(reference.clone()))?;
            commit = self.commit(parent)?;
        }
        Ok(commit)
    }

    /// The number of commits from the first to this one.
    fn ancestors(&self, commit: &Commit) -> Result<u64, VersionError> {
        let (mut count, mut parent) = (1, commit.parent);
        while let Some(id) = parent {
            count += 1;
            parent = self.commit(id)?.parent;
        }
        Ok(count)
    }

    /// The commit a branch points to, open or not; none for a branch without one or no such branch.
    pub fn head(&self, branch: &BranchRef) -> Result<Option<Commit>, VersionError> {
        let head = self.find_branch(branch)?.and_then(|branch| branch.head);
        head.map(|id| self.commit(id)).transpose()
    }

    /// The newest commit from a branch's head backwards that is finished and did not fail.
    pub fn finished_head(&self, branch: &BranchRef) -> Result<Option<Commit>, VersionError> {
        let mut commit = self.head(branch)?;
        while let Some(found) = commit {
            if found.state == CommitState::Finished {
                return Ok(Some(found));
            }
            commit = found.parent.map(|id| self.commit(id)).transpose()?;
        }
        Ok(None)
    }

    /// Commits, newest first.
    ///
    /// # Errors
    /// [`VersionError::NoRepo`], [`VersionError::NoBranch`].
    pub fn commits(&self, query: &CommitQuery) -> Result<Vec<Commit>, VersionError> {
        let prefix = match &query.branch {
            Some(branch) => {
                let branch = BranchRef { repo: query.repo.clone(), branch: branch.clone() };
                self.branch(&branch)?;
                format!("{branch}/")
            }
            None => {
                self.repo(&query.repo)?;
                format!("{}/", query.repo)
            }
        };
        let after = query.before.map(|number| format!("{prefix}{number:016x}"));
        let scan = Scan { prefix, after, reverse: true, limit: query.limit };
        let ids: Vec<Id> = self.all(COMMIT_ORDER, &scan)?;
        ids.into_iter().map(|id| self.commit(id)).collect()
    }

    /// The branches made directly from this one.
    pub fn readers(&self, branch: &BranchRef) -> Result<Vec<BranchRef>, VersionError> {
        self.all(BRANCH_READERS, &Scan::prefix(format!("{branch}/")))
    }

    /// Everything a branch is made from, directly or not.
    pub fn upstream(&self, branch: &BranchRef) -> Result<BTreeSet<BranchRef>, VersionError> {
        self.closure(branch, |view, branch| {
            Ok(view.find_branch(branch)?.map(|branch| branch.provenance).unwrap_or_default())
        })
    }

    /// Everything made from a branch, directly or not.
    pub fn downstream(&self, branch: &BranchRef) -> Result<BTreeSet<BranchRef>, VersionError> {
        self.closure(branch, Self::readers)
    }

    fn closure(
        &self,
        start: &BranchRef,
        next: impl Fn(&Self, &BranchRef) -> Result<Vec<BranchRef>, VersionError>,
    ) -> Result<BTreeSet<BranchRef>, VersionError> {
        let mut found = BTreeSet::new();
        let mut to_visit = vec![start.clone()];
        while let Some(branch) = to_visit.pop() {
            for other in next(self, &branch)? {
                if found.insert(other.clone()) {
                    to_visit.push(other);
                }
            }
        }
        Ok(found)
    }

    /// The ids of all commits made from this one, directly or not.
    pub fn readers_of_commit(&self, commit: Id) -> Result<Vec<Id>, VersionError> {
        self.all(COMMIT_LINKS, &Scan::prefix(format!("reader/{commit}/")))
    }

    /// The ids of the commits whose parent this one is.
    pub fn children(&self, commit: Id) -> Result<Vec<Id>, VersionError> {
        self.all(COMMIT_LINKS, &Scan::prefix(format!("child/{commit}/")))
    }

    fn all<T: DeserializeOwned>(&self, table: Table, scan: &Scan) -> Result<Vec<T>, VersionError> {
        let rows = self.meta.scan(table, scan)?;
        rows.iter().map(|(key, text)| Ok(parse(table, key, text)?)).collect()
    }
}
