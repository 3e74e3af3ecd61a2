//! Asking about jobs afterwards: which datums they had, what became of each, and why it ran.

use std::collections::BTreeMap;

use quern_catalog::Datums;
use quern_core::port::{self, PortError};
use quern_core::{Digest, Id};

use crate::datums::{self, PlanError, label};
use crate::job::{self, Job, State};
use crate::journal::{self, DatumRecord, DatumState};
use crate::{Records, pipeline};

/// The datums of a job, found again from what it read, and the records of those it processed.
pub struct JobDatums {
    /// All datums.
    pub datums: Datums,
    /// What became of those that were processed.
    pub records: BTreeMap<Digest, DatumRecord>,
    /// The job.
    pub job: Job,
}

/// One datum of a job.
#[derive(Debug, Clone)]
pub struct DatumInfo {
    /// Its key.
    pub key: Digest,
    /// What it is made of: input name, path.
    pub files: Vec<(String, String)>,
    /// How it ended.
    pub state: DatumState,
    /// Its record, if the job processed it.
    pub record: Option<DatumRecord>,
}

/// Why a datum ran that an earlier job could not spare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatumReason {
    /// What it is made of, in words.
    pub label: String,
    /// Why, in words.
    pub reason: String,
}

/// The datums of a job.
///
/// # Errors
/// [`PlanError`]; also if the pipeline or a commit is gone.
pub fn of_job(records: &Records, job: Job) -> Result<JobDatums, PlanError> {
    let gone = || PortError::Other(format!("pipeline `{}` as job {} ran it is gone", job.pipeline, job.id));
    let (pipeline, trees, kept) = port::read(&*records.meta, |r| {
        let pipeline = pipeline::at_version(r, &job.pipeline, job.pipeline_version)?.ok_or_else(gone)?;
        Ok::<_, PortError>((pipeline, datums::trees(r, &job.inputs)?, journal::of_job(r, job.id)?))
    })?;
    let datums = datums::find(&*records.blobs, &pipeline, &trees)?;
    Ok(JobDatums { datums, records: kept.into_iter().collect(), job })
}

impl JobDatums {
    /// All datums with what became of them, failed ones first.
    pub fn list(&self) -> Vec<DatumInfo> {
        let mut list: Vec<DatumInfo> = self.datums.iter().map(|datum| self.info(&datum)).collect();
        list.sort_by_key(|info| info.state);
        list
    }

    fn info(&self, datum: &quern_catalog::Datum<'_>) -> DatumInfo {
        let key = datum.key();
        let record = self.records.get(&key).cloned();
        let state = match (&record, self.job.state) {
            (Some(record), _) => record.state,
            (None, State::Success | State::Failure) => DatumState::Skipped,
            (None, _) => DatumState::Starting,
        };
        let files = datum.leaves.iter().map(|leaf| (leaf.input.to_string(), leaf.path.to_string())).collect();
        DatumInfo { key, files, state, record }
    }

    /// Why each processed datum ran, seen from the last successful job before: at most `limit` of them, and how
    /// many there are.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn reasons(&self, records: &Records, limit: usize) -> Result<(usize, Vec<DatumReason>), PlanError> {
        let before = port::read(&*records.meta, |r| {
            let jobs = job::list(r, Some(&self.job.pipeline), None)?;
            let older = |job: &Job| job.number < self.job.number && job.state == State::Success;
            Ok::<_, PortError>(jobs.into_iter().find(older))
        })?;
        let before = before.map(|job| of_job(records, job)).transpose()?;
        let old: BTreeMap<String, Vec<(String, Digest)>> =
            before.iter().flat_map(|b| b.datums.iter()).map(|datum| leaves(&datum)).collect();
        let mut reasons = Vec::new();
        let processed = self.datums.iter().filter(|datum| self.records.contains_key(&datum.key()));
        for datum in processed {
            let (label, new) = leaves(&datum);
            let reason = match old.get(&label) {
                None if before.is_none() => "no job of the pipeline had succeeded before".to_owned(),
                None => "it is new".to_owned(),
                Some(old) => reason(old, &new, &self.job),
            };
            reasons.push(DatumReason { label, reason });
        }
        let count = reasons.len();
        reasons.truncate(limit);
        Ok((count, reasons))
    }
}

/// The label of a datum, and its inputs with their digests.
fn leaves(datum: &quern_catalog::Datum<'_>) -> (String, Vec<(String, Digest)>) {
    let parts = datum.leaves.iter().map(|leaf| (leaf.input.to_string(), leaf.digest)).collect();
    (label(datum), parts)
}

fn reason(old: &[(String, Digest)], new: &[(String, Digest)], job: &Job) -> String {
    let changed: Vec<&str> =
        new.iter().filter(|part| !old.contains(part)).map(|(input, _)| input.as_str()).collect();
    if !changed.is_empty() {
        return format!("the content of {} changed", changed.join(" and "));
    }
    if job.datums_because.is_empty() {
        return "its result was not known any more".to_owned();
    }
    job.datums_because.clone()
}

/// The record of one datum of a job.
///
/// # Errors
/// Those of the store.
pub fn datum(records: &Records, job: Id, key: &Digest) -> Result<Option<DatumRecord>, PortError> {
    port::read(&*records.meta, |r| journal::of_datum(r, job, key))
}
