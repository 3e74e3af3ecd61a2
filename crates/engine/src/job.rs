//! Jobs as users see them, and where they are kept: newest first, of all pipelines or of one.

use std::collections::BTreeMap;

use quern_builds::{DatasetBranch, Head, Staleness};
use quern_core::event::Counts;
use quern_core::port::{MetaRead, MetaWrite, PortError, Scan, Table};
use quern_core::{Digest, Id, Timestamp, Version};
use serde::{Deserialize, Serialize};

use crate::lease::{self, Owner};

const JOBS: Table = Table("jobs");
/// `<number>` -> id, and `<pipeline>/<number>` -> id.
const ORDER: Table = Table("job_order");

/// One execution of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Format of this record.
    pub format: Version<1>,
    /// Its id.
    pub id: Id,
    /// Counts jobs, from 1; larger is newer.
    pub number: u64,
    /// The pipeline.
    pub pipeline: String,
    /// Version of the pipeline when the job was planned.
    pub pipeline_version: u64,
    /// The build it belongs to.
    pub build: Id,
    /// Why it runs.
    pub because: Vec<Staleness>,
    /// Why those of its datums ran that did, in words; empty if none did.
    pub datums_because: String,
    /// Where it stands.
    pub state: State,
    /// Why it failed or was killed; empty otherwise.
    pub reason: String,
    /// When it was planned.
    pub created: Timestamp,
    /// When it first began to run.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// What it reads; an input without a commit is absent.
    pub inputs: BTreeMap<DatasetBranch, Head>,
    /// Its output commit; the one that was there before if nothing changed.
    pub output: Option<Id>,
    /// It succeeded and its output is what it was before.
    pub unchanged: bool,
    /// Datums by outcome.
    pub counts: Counts,
    /// How often its process was lost and it began again.
    pub restarts: u32,
    /// How many datums had been recorded when it last began again.
    pub kept: u64,
    /// Key of what it did with a datum: results are shared by jobs that agree in it.
    pub logic: Option<Digest>,
}

/// Where a job stands, in Pachyderm's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waiting for its inputs, its turn or a worker.
    Starting,
    /// Processing datums.
    Running,
    /// Merging what the datums wrote.
    Merging,
    /// Done.
    Success,
    /// Given up.
    Failure,
    /// Stopped by a person, a timeout or a deletion.
    Killed,
}

impl State {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Merging => "merging",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Killed => "killed",
        }
    }

    /// Whether nothing can happen to the job any more.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Killed)
    }
}

impl Job {
    /// Why it runs, in words.
    pub fn because_text(&self) -> String {
        self.because.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// The job of this id.
///
/// # Errors
/// Those of the port.
pub fn get(r: &dyn MetaRead, id: Id) -> Result<Option<Job>, PortError> {
    r.get(JOBS, &id.to_string())?.map(|text| parse(&text)).transpose()
}

/// Whether a job that is recorded as running has lost its process: it waits to be taken over.
///
/// # Errors
/// Those of the port.
pub fn is_lost(r: &dyn MetaRead, job: &Job, me: &Owner, now: Timestamp) -> Result<bool, PortError> {
    Ok(job.state == State::Running && lease::holder(r, &job.build.to_string(), me, now)?.is_none())
}

/// Stores a job. A new one gets its number and place in the lists.
///
/// # Errors
/// Those of the port.
pub fn put(w: &mut dyn MetaWrite, job: &mut Job) -> Result<(), PortError> {
    if job.number == 0 {
        job.number = newest_number(w.as_read())? + 1;
        let id = job.id.to_string();
        w.put(ORDER, &place(None, job.number), &id)?;
        w.put(ORDER, &place(Some(&job.pipeline), job.number), &id)?;
    }
    let text = serde_json::to_string(job).expect("a job holds only text and numbers");
    w.put(JOBS, &job.id.to_string(), &text)
}

/// Forgets a job.
///
/// # Errors
/// Those of the port.
pub fn delete(w: &mut dyn MetaWrite, job: &Job) -> Result<(), PortError> {
    w.delete(JOBS, &job.id.to_string())?;
    w.delete(ORDER, &place(None, job.number))?;
    w.delete(ORDER, &place(Some(&job.pipeline), job.number))
}

/// Jobs newest first, of one pipeline or of all.
///
/// # Errors
/// Those of the port.
pub fn list(r: &dyn MetaRead, pipeline: Option<&str>, limit: Option<usize>) -> Result<Vec<Job>, PortError> {
    let scan = Scan { prefix: place_prefix(pipeline), reverse: true, limit, ..Scan::default() };
    let mut jobs = Vec::new();
    for (_, id) in r.scan(ORDER, &scan)? {
        if let Some(text) = r.get(JOBS, &id)? {
            jobs.push(parse(&text)?);
        }
    }
    Ok(jobs)
}

/// `#` cannot be in a pipeline's name, so the list of all and the lists of pipelines do not mix.
fn place_prefix(pipeline: Option<&str>) -> String {
    pipeline.map_or_else(|| "#".to_owned(), |name| format!("{name}/"))
}

fn place(pipeline: Option<&str>, number: u64) -> String {
    format!("{}{number:020}", place_prefix(pipeline))
}

fn newest_number(r: &dyn MetaRead) -> Result<u64, PortError> {
    let scan = Scan { prefix: place_prefix(None), reverse: true, limit: Some(1), ..Scan::default() };
    let newest = r.scan(ORDER, &scan)?.pop();
    Ok(newest.and_then(|(key, _)| key.trim_start_matches('#').parse().ok()).unwrap_or(0))
}

fn parse(text: &str) -> Result<Job, PortError> {
    serde_json::from_str(text)
        .map_err(|e| PortError::Other(format!("the record of a job is not readable: {e}")))
}
