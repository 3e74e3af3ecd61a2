//! Which jobs follow from which commits.

use std::collections::BTreeSet;

use quern_core::Id;
use quern_core::port::{MetaRead, PortError};

use crate::job::{self, Job};
use crate::{commits, schedule};

/// Jobs that read any of these commits or something made from them, newest first. A job that still waits for another
/// one of its build counts as soon as that one does.
///
/// # Errors
/// Those of the port.
pub fn jobs_of(r: &dyn MetaRead, commits: &BTreeSet<Id>) -> Result<Vec<Job>, PortError> {
    let mut found = Vec::new();
    let mut unfinished: BTreeSet<(Id, String)> = BTreeSet::new();
    let mut jobs = job::list(r, None, None)?;
    jobs.reverse();
    for job in jobs {
        let reads = commits::with_provenance(r, job.inputs.values().map(|head| head.commit))?;
        let waits = waits_for(r, &job)?.iter().any(|name| unfinished.contains(&(job.build, name.clone())));
        if waits || !reads.is_disjoint(commits) {
            if !job.state.has_ended() {
                unfinished.insert((job.build, job.pipeline.clone()));
            }
            found.push(job);
        }
    }
    found.reverse();
    Ok(found)
}

/// Names of the pipelines of its build that an unfinished job waits for.
fn waits_for(r: &dyn MetaRead, job: &Job) -> Result<Vec<String>, PortError> {
    if job.state.has_ended() {
        return Ok(Vec::new());
    }
    let Some(build) = schedule::build(r, job.build)? else { return Ok(Vec::new()) };
    let Some(index) = build.index_of(job.id) else { return Ok(Vec::new()) };
    let planned = build.job(index).into_iter().flat_map(|planned| planned.plan.waits_for());
    Ok(planned.filter_map(|producer| Some(build.job(producer)?.plan.spec.0.clone())).collect())
}

/// The newest job of each pipeline among these, which are newest first.
pub fn newest_by_pipeline(jobs: Vec<Job>) -> Vec<Job> {
    let mut seen = BTreeSet::new();
    jobs.into_iter().filter(|job| seen.insert(job.pipeline.clone())).collect()
}
