//! The build rules' words (dataset, head) over the catalog's records (repo, commit). The one place that
//! translates between the two.

use std::collections::BTreeSet;

use quern_builds::{DatasetBranch, Head};
use quern_catalog::{BranchRef, Change, Commit, VersionError, View};
use quern_core::Id;
use quern_core::Timestamp;
use quern_core::port::{Ids, MetaRead, MetaWrite, PortError};

/// A branch in the catalog's words.
///
/// # Errors
/// [`PortError::Other`] for names that no repo or branch can have.
pub fn branch_ref(branch: &DatasetBranch) -> Result<BranchRef, PortError> {
    BranchRef::new(&branch.dataset, &branch.branch).map_err(|e| PortError::Other(e.to_string()))
}

/// What a branch shows: its newest commit that is finished and did not fail.
///
/// # Errors
/// Those of the port.
pub fn head(r: &dyn MetaRead, branch: &DatasetBranch) -> Result<Option<Head>, PortError> {
    let commit = View::new(r).finished_head(&branch_ref(branch)?).map_err(port_error)?;
    Ok(commit.map(|commit| Head { commit: commit.id, content: commit.tree.digest }))
}

/// Drops the commit that a job has open on a branch, if any.
///
/// # Errors
/// Those of the port.
pub fn drop_of(
    w: &mut dyn MetaWrite,
    branch: &DatasetBranch,
    job: Id,
    ids: &dyn Ids,
    now: Timestamp,
) -> Result<(), PortError> {
    let open = open_of(w.as_read(), branch, job)?;
    match open {
        Some(commit) => Change::new(w, now, ids).drop_open(commit.id).map_err(port_error),
        None => Ok(()),
    }
}

/// The commit that a job has open on a branch.
///
/// # Errors
/// Those of the port.
pub fn open_of(r: &dyn MetaRead, branch: &DatasetBranch, job: Id) -> Result<Option<Commit>, PortError> {
    let head = View::new(r).head(&branch_ref(branch)?).map_err(port_error)?;
    Ok(head.filter(|commit| commit.is_open() && commit.job == Some(job)))
}

/// Commits and all they were made from.
///
/// # Errors
/// Those of the port.
pub fn with_provenance(
    r: &dyn MetaRead,
    commits: impl Iterator<Item = Id>,
) -> Result<BTreeSet<Id>, PortError> {
    let mut all = BTreeSet::new();
    for id in commits {
        all.insert(id);
        if let Some(commit) = View::new(r).find_commit(id).map_err(port_error)? {
            all.extend(commit.provenance);
        }
    }
    Ok(all)
}

/// An error of the catalog where none but the store's can happen.
pub fn port_error(error: VersionError) -> PortError {
    match error {
        VersionError::Port(error) => error,
        other => PortError::Other(other.to_string()),
    }
}
