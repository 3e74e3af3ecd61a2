//! What is stored about repos, branches and commits: JSON records in [`quern_core::port::Meta`], each with its format.
//!
//! | table | key | value |
//! |---|---|---|
//! | `repos` | name | [`Repo`] |
//! | `branches` | `repo@branch` | [`Branch`] |
//! | `commits` | id | [`Commit`] |
//! | `commit_order` | `repo/number` and `repo@branch/number` | id of the commit |
//! | `commit_links` | `child/parent/commit`, `reader/upstream/commit` | id of the commit |
//! | `branch_readers` | `upstream branch/reading branch` | the reading branch |
//!
//! Numbers are 16 hexadecimal digits, so that the order of keys is that of commits; the newest are read by a
//! scan backwards with a limit, never by going through all.

use quern_core::port::{MetaRead, MetaWrite, PortError, Table};
use quern_core::{ContentRef, Digest, Id, Timestamp, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::names::{BranchName, BranchRef, RepoName};

pub(crate) const REPOS: Table = Table("repos");
pub(crate) const BRANCHES: Table = Table("branches");
pub(crate) const COMMITS: Table = Table("commits");
pub(crate) const COMMIT_ORDER: Table = Table("commit_order");
pub(crate) const COMMIT_LINKS: Table = Table("commit_links");
pub(crate) const BRANCH_READERS: Table = Table("branch_readers");

/// A named store of versioned trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repo {
    /// Format of the record.
    pub version: Version<1>,
    /// Its name.
    pub name: RepoName,
    /// What it is for, in a user's words.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
    /// Number of the last commit made in it; numbers are never given twice.
    pub last_number: u64,
}

/// A movable pointer to a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// Format of the record.
    pub version: Version<1>,
    /// Which branch.
    pub branch: BranchRef,
    /// The commit it points to, which may be open.
    pub head: Option<Id>,
    /// What it is made from, directly; users cannot write to a branch that is made from others.
    pub provenance: Vec<BranchRef>,
}

/// One version of a repo's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Format of the record.
    pub version: Version<1>,
    /// Its id.
    pub id: Id,
    /// The repo.
    pub repo: RepoName,
    /// The branch it was made on.
    pub branch: BranchName,
    /// Place in the order of the repo's commits, from 1.
    pub number: u64,
    /// The commit before it.
    pub parent: Option<Id>,
    /// Its files; of an open commit, those so far.
    #[serde(with = "StoredContentRef")]
    pub tree: ContentRef,
    /// Bytes of all its files.
    pub size: u64,
    /// When it was begun.
    pub started: Timestamp,
    /// When it was finished; none while it is open.
    pub finished: Option<Timestamp>,
    /// In the words of whoever made it.
    pub description: String,
    /// Who made it.
    pub origin: Origin,
    /// All commits it was made from, directly or not, ascending.
    pub provenance: Vec<Id>,
    /// How it stands.
    pub state: CommitState,
    /// The job that makes or made it.
    pub job: Option<Id>,
}

impl Commit {
    /// The branch it was made on.
    pub fn branch_ref(&self) -> BranchRef {
        BranchRef { repo: self.repo.clone(), branch: self.branch.clone() }
    }

    /// Whether it can still be written.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, CommitState::Open)
    }
}

/// Who made a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A user.
    User,
    /// A job.
    Auto,
}

/// How a commit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitState {
    /// It can be written.
    Open,
    /// It never changes again.
    Finished,
    /// The job that should have made it failed; it is finished and empty.
    Failed,
}

/// The serialised form of a [`ContentRef`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "ContentRef")]
pub(crate) struct StoredContentRef {
    digest: Digest,
    size: u64,
}

/// Reads a record.
pub(crate) fn get<T: DeserializeOwned>(
    meta: &dyn MetaRead,
    table: Table,
    key: &str,
) -> Result<Option<T>, PortError> {
    meta.get(table, key)?.map(|text| parse(table, key, &text)).transpose()
}

/// Reads the text of a record.
pub(crate) fn parse<T: DeserializeOwned>(table: Table, key: &str, text: &str) -> Result<T, PortError> {
    serde_json::from_str(text).map_err(|error| {
        PortError::Other(format!("record `{key}` of table {} cannot be read: {error}", table.0))
    })
}

/// Writes a record.
pub(crate) fn put<T: Serialize>(
    meta: &mut dyn MetaWrite,
    table: Table,
    key: &str,
    value: &T,
) -> Result<(), PortError> {
    let text = serde_json::to_string(value)
        .map_err(|error| PortError::Other(format!("record `{key}` cannot be written: {error}")))?;
    meta.put(table, key, &text)
}

pub(crate) fn repo_order_key(commit: &Commit) -> String {
    format!("{}/{:016x}", commit.repo, commit.number)
}

pub(crate) fn branch_order_key(commit: &Commit) -> String {
    format!("{}@{}/{:016x}", commit.repo, commit.branch, commit.number)
}

pub(crate) fn child_key(parent: Id, child: Id) -> String {
    format!("child/{parent}/{child}")
}

pub(crate) fn reader_key(upstream: Id, commit: Id) -> String {
    format!("reader/{upstream}/{commit}")
}

pub(crate) fn branch_reader_key(upstream: &BranchRef, reader: &BranchRef) -> String {
    format!("{upstream}/{reader}")
}
