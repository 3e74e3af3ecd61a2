//! `quern flush`: runs what waits, in this process.

use std::collections::BTreeSet;

use quern_catalog::Ref;
use quern_core::Id;
use quern_core::port;
use quern_engine::downstream::{jobs_of, newest_by_pipeline};
use quern_engine::job::{Job, State};

use crate::commands::drive::drive;
use crate::commands::{commit, job};
use crate::failure::{Failure, Kind};
use crate::wiring::Home;

/// `flush commit`
pub fn commits(home: &Home, commits: &[String], repos: &[String]) -> Result<(), Failure> {
    let jobs = flush(home, commits)?;
    let outputs = home.catalog().read(|view| {
        let mut outputs = Vec::new();
        for id in jobs.iter().filter_map(|job| job.output) {
            outputs.extend(view.find_commit(id)?);
        }
        outputs.retain(|commit| repos.is_empty() || repos.iter().any(|repo| commit.repo.as_str() == repo));
        Ok::<_, Failure>(outputs)
    })?;
    commit::print_list(home, &outputs)?;
    judge(&jobs)
}

/// `flush job`
pub fn jobs(home: &Home, commits: &[String], pipelines: &[String]) -> Result<(), Failure> {
    let mut jobs = flush(home, commits)?;
    jobs.retain(|job| pipelines.is_empty() || pipelines.contains(&job.pipeline));
    job::print_list(home, &jobs)?;
    judge(&jobs)
}

/// What `put file --flush` does after the put.
pub fn put(home: &Home, target: &str) -> Result<(), Failure> {
    let branch = target.split(':').next().unwrap_or(target);
    let jobs = flush(home, &[branch.to_owned()])?;
    job::print_list(home, &jobs)?;
    judge(&jobs)
}

/// Runs everything that waits, and waits for the jobs that follow from all the commits; gives back the newest of each
/// pipeline.
pub fn flush(home: &Home, references: &[String]) -> Result<Vec<Job>, Failure> {
    let wanted = home.catalog().read(|view| {
        let mut wanted: Vec<Id> = Vec::new();
        for reference in references {
            let reference: Ref = reference.parse()?;
            wanted.push(view.resolve(&reference)?.id);
        }
        Ok::<_, Failure>(wanted)
    })?;
    home.advance()?;
    let following = |r: &dyn port::MetaRead| -> Result<Vec<Job>, port::PortError> {
        let mut jobs = jobs_of(r, &BTreeSet::from([wanted[0]]))?;
        for commit in &wanted[1..] {
            let others: BTreeSet<Id> =
                jobs_of(r, &BTreeSet::from([*commit]))?.iter().map(|job| job.id).collect();
            jobs.retain(|job| others.contains(&job.id));
        }
        Ok(newest_by_pipeline(jobs))
    };
    drive(home, &|r| Ok(following(r)?.iter().all(|job| job.state.has_ended())))?;
    Ok(port::read(&*home.records.meta, following)?)
}

/// A failed job is the command's failure.
fn judge(jobs: &[Job]) -> Result<(), Failure> {
    let failed: Vec<&Job> = jobs.iter().filter(|job| job.state != State::Success).collect();
    let Some(first) = failed.first() else { return Ok(()) };
    let more = if failed.len() > 1 { format!(" and {} more", failed.len() - 1) } else { String::new() };
    Err(Failure::new(
        Kind::Failed,
        format!(
            "job {} of pipeline {}{more} did not succeed: {}; see `quern logs -j {}`",
            first.id, first.pipeline, first.reason, first.id
        ),
    ))
}
