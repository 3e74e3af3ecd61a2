//! What `--output json` shows: the wire form of records, kept apart from the records themselves.

use std::collections::BTreeMap;

use quern_catalog::tree::Difference;
use quern_catalog::{Branch, Commit, FileInfo, Repo};
use quern_core::{Entry, Timestamp};
use quern_engine::explain::DatumReason;
use quern_engine::job::Job;
use quern_engine::pipeline::{Input, Pipeline};
use serde::Serialize;

use crate::table::rfc3339;

/// A repo. Sizes are bytes of the head of `master`.
#[derive(Serialize)]
pub struct RepoView {
    /// Name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// RFC 3339.
    pub created: String,
    /// Bytes in the head of branch `master`.
    pub size_bytes: u64,
    /// Names of its branches.
    pub branches: Vec<String>,
    /// Not for JSON: when it was made.
    #[serde(skip)]
    pub created_at: Timestamp,
}

impl RepoView {
    /// The view of a repo.
    pub fn new(repo: &Repo, size_bytes: u64, branches: Vec<String>) -> Self {
        Self {
            name: repo.name.to_string(),
            description: repo.description.clone(),
            created: rfc3339(repo.created),
            size_bytes,
            branches,
            created_at: repo.created,
        }
    }
}

/// A branch.
#[derive(Serialize)]
pub struct BranchView {
    /// Repo.
    pub repo: String,
    /// Name.
    pub branch: String,
    /// Commit it points to.
    pub head: Option<String>,
    /// `repo@branch` of what it is made from.
    pub provenance: Vec<String>,
}

impl From<&Branch> for BranchView {
    fn from(branch: &Branch) -> Self {
        Self {
            repo: branch.branch.repo.to_string(),
            branch: branch.branch.branch.to_string(),
            head: branch.head.map(|id| id.to_string()),
            provenance: branch.provenance.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A commit.
#[derive(Serialize)]
pub struct CommitView {
    /// Repo.
    pub repo: String,
    /// Branch it was made on.
    pub branch: String,
    /// Id.
    pub id: String,
    /// Id of the commit before it.
    pub parent: Option<String>,
    /// RFC 3339.
    pub started: String,
    /// RFC 3339; null while it is open.
    pub finished: Option<String>,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// `user` or `auto`.
    pub origin: &'static str,
    /// Ids of all commits it was made from.
    pub provenance: Vec<String>,
    /// The job that made it.
    pub job: Option<String>,
    /// In the words of whoever made it.
    pub description: String,
    /// Digest of its tree.
    pub tree: String,
    /// Not for JSON.
    #[serde(skip)]
    pub finished_at: Option<Timestamp>,
}

impl From<&Commit> for CommitView {
    fn from(commit: &Commit) -> Self {
        Self {
            repo: commit.repo.to_string(),
            branch: commit.branch.to_string(),
            id: commit.id.to_string(),
            parent: commit.parent.map(|id| id.to_string()),
            started: rfc3339(commit.started),
            finished: commit.finished.map(rfc3339),
            size_bytes: commit.size,
            origin: match commit.origin {
                quern_catalog::Origin::User => "user",
                quern_catalog::Origin::Auto => "auto",
            },
            provenance: commit.provenance.iter().map(ToString::to_string).collect(),
            job: commit.job.map(|id| id.to_string()),
            description: commit.description.clone(),
            tree: commit.tree.digest.to_string(),
            finished_at: commit.finished,
        }
    }
}

/// A job.
#[derive(Serialize)]
pub struct JobView {
    /// Id.
    pub id: String,
    /// Pipeline.
    pub pipeline: String,
    /// Version of the pipeline.
    pub pipeline_version: u64,
    /// `starting`, `running`, `merging`, `success`, `failure` or `killed`.
    pub state: &'static str,
    /// Why it failed or was killed; empty otherwise.
    pub reason: String,
    /// Why it ran, one entry a reason.
    pub because: Vec<String>,
    /// RFC 3339; null before it began.
    pub started: Option<String>,
    /// RFC 3339; null before it ended.
    pub finished: Option<String>,
    /// `repo@branch=commit` of what it reads.
    pub inputs: Vec<String>,
    /// Its output commit, which is an older one if nothing changed.
    pub output_commit: Option<String>,
    /// It succeeded and its output is what it was before.
    pub unchanged: bool,
    /// Datums processed.
    pub data_processed: u64,
    /// Datums whose result was known.
    pub data_skipped: u64,
    /// Datums given up.
    pub data_failed: u64,
    /// Datums whose error handler succeeded.
    pub data_recovered: u64,
    /// All datums.
    pub data_total: u64,
    /// How often it began again after its process was lost.
    pub restarts: u32,
    /// Not for JSON.
    #[serde(skip)]
    pub times: (Option<Timestamp>, Option<Timestamp>),
}

impl From<&Job> for JobView {
    fn from(job: &Job) -> Self {
        Self {
            id: job.id.to_string(),
            pipeline: job.pipeline.clone(),
            pipeline_version: job.pipeline_version,
            state: job.state.name(),
            reason: job.reason.clone(),
            because: job.because.iter().map(ToString::to_string).collect(),
            started: job.started.map(rfc3339),
            finished: job.finished.map(rfc3339),
            inputs: job.inputs.iter().map(|(branch, head)| format!("{branch}={}", head.commit)).collect(),
            output_commit: job.output.map(|id| id.to_string()),
            unchanged: job.unchanged,
            data_processed: job.counts.processed,
            data_skipped: job.counts.skipped,
            data_failed: job.counts.failed,
            data_recovered: job.counts.recovered,
            data_total: job.counts.total,
            restarts: job.restarts,
            times: (job.started, job.finished),
        }
    }
}

/// A file, link or directory.
#[derive(Serialize)]
pub struct FileView {
    /// Path with a leading slash.
    pub path: String,
    /// `file`, `dir` or `link`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Bytes of the file, or of all files in the directory.
    pub size_bytes: u64,
    /// Digest of the content; a link's target.
    pub content: Option<String>,
    /// Whether the file may be executed.
    pub executable: bool,
}

impl From<&FileInfo> for FileView {
    fn from(info: &FileInfo) -> Self {
        let (kind, content, executable) = match &info.entry {
            Entry::File { content, executable } => ("file", Some(content.digest.to_string()), *executable),
            Entry::Dir(dir) => ("dir", Some(dir.digest.to_string()), false),
            Entry::Link(target) => ("link", Some(target.clone()), false),
        };
        Self { path: info.path.to_string(), kind, size_bytes: info.size, content, executable }
    }
}

/// One path that differs.
#[derive(Serialize)]
pub struct DiffView {
    /// `+` added, `-` removed, `~` changed.
    pub op: &'static str,
    /// Path with a leading slash.
    pub path: String,
    /// Bytes before; null if it was not there or is no file.
    pub old_size_bytes: Option<u64>,
    /// Bytes now; null if it is not there or is no file.
    pub new_size_bytes: Option<u64>,
}

impl From<&Difference> for DiffView {
    fn from(difference: &Difference) -> Self {
        let size = |entry: &Option<Entry>| match entry {
            Some(Entry::File { content, .. }) => Some(content.size),
            _ => None,
        };
        let op = match (&difference.old, &difference.new) {
            (None, _) => "+",
            (_, None) => "-",
            _ => "~",
        };
        Self {
            op,
            path: difference.path.to_string(),
            old_size_bytes: size(&difference.old),
            new_size_bytes: size(&difference.new),
        }
    }
}

/// A pipeline.
#[derive(Serialize)]
pub struct PipelineView {
    /// Name.
    pub name: String,
    /// Counts changes, from 1.
    pub version: u64,
    /// What it is for.
    pub description: String,
    /// Its inputs in short form.
    pub input: String,
    /// `running` or `paused`.
    pub state: &'static str,
    /// Branch it writes.
    pub output_branch: String,
    /// Image of its steps.
    pub image: String,
    /// What it runs.
    pub cmd: Vec<String>,
    /// RFC 3339.
    pub created: String,
    /// Id of its newest job.
    pub last_job: Option<String>,
    /// State of its newest job.
    pub last_job_state: Option<&'static str>,
    /// Jobs by state; only in `inspect`.
    pub job_counts: BTreeMap<&'static str, u64>,
    /// The pipeline whose source it builds.
    pub build_of: Option<String>,
    /// The spec as it was given.
    pub spec: String,
    /// Not for JSON.
    #[serde(skip)]
    pub created_at: Timestamp,
}

impl PipelineView {
    /// The view of a pipeline and its newest job.
    pub fn new(pipeline: &Pipeline, last: Option<&Job>) -> Self {
        Self {
            name: pipeline.name.clone(),
            version: pipeline.version,
            description: pipeline.description.clone(),
            input: shorthand(&pipeline.input),
            state: if pipeline.stopped { "paused" } else { "running" },
            output_branch: pipeline.output_branch.clone(),
            image: pipeline.run.image.clone(),
            cmd: pipeline.run.cmd.clone(),
            created: rfc3339(pipeline.created),
            last_job: last.map(|job| job.id.to_string()),
            last_job_state: last.map(|job| job.state.name()),
            job_counts: BTreeMap::new(),
            build_of: pipeline.build_of.clone(),
            spec: pipeline.spec.clone(),
            created_at: pipeline.created,
        }
    }

    /// Counts jobs by state.
    pub fn count(&mut self, jobs: &[Job]) {
        for job in jobs {
            *self.job_counts.entry(job.state.name()).or_default() += 1;
        }
    }
}

/// `repo:glob`, `(a:/ ⨯ b:/*)`, `(a:/ ∪ b:/*)`, as pachctl shows inputs.
fn shorthand(input: &Input) -> String {
    let join = |members: &[Input], sign: &str| {
        format!("({})", members.iter().map(shorthand).collect::<Vec<_>>().join(sign))
    };
    match input {
        Input::Pfs { repo, glob, branch, .. } if branch == "master" => format!("{repo}:{glob}"),
        Input::Pfs { repo, glob, branch, .. } => format!("{repo}@{branch}:{glob}"),
        Input::Cross(members) => join(members, " ⨯ "),
        Input::Union(members) => join(members, " ∪ "),
    }
}

/// A datum of a job.
#[derive(Serialize)]
pub struct DatumView {
    /// Its key in hexadecimal.
    pub id: String,
    /// The job.
    pub job: String,
    /// `input:path` of what it is made of.
    pub files: Vec<String>,
    /// `failed`, `recovered`, `success`, `skipped` or `starting`.
    pub state: &'static str,
    /// Why it failed; empty otherwise.
    pub reason: String,
    /// How long it ran; null if the job did not process it.
    pub millis: Option<u64>,
    /// How often it was tried.
    pub tries: u32,
    /// Its result was found in the cache.
    pub cached: bool,
    /// Digest of the tree it wrote.
    pub output: Option<String>,
}

/// Why a job ran.
#[derive(Serialize)]
pub struct WhyView {
    /// The job.
    pub job: String,
    /// The pipeline.
    pub pipeline: String,
    /// Why it was planned.
    pub because: Vec<String>,
    /// Why datums ran.
    pub datums_because: String,
    /// Datums run.
    pub processed: usize,
    /// Datums reused.
    pub skipped: u64,
    /// All datums.
    pub total: u64,
    /// Its output is what it was before.
    pub unchanged: bool,
    /// The first datums that ran.
    pub datums: Vec<DatumWhy>,
}

/// Why a datum ran.
#[derive(Serialize)]
pub struct DatumWhy {
    /// What it is made of.
    pub datum: String,
    /// Why.
    pub reason: String,
}

impl WhyView {
    /// The view of a job and the reasons of its datums.
    pub fn new(job: &Job, processed: usize, reasons: &[DatumReason]) -> Self {
        let why = |r: &DatumReason| DatumWhy { datum: r.label.clone(), reason: r.reason.clone() };
        Self {
            job: job.id.to_string(),
            pipeline: job.pipeline.clone(),
            because: job.because.iter().map(ToString::to_string).collect(),
            datums_because: job.datums_because.clone(),
            processed,
            skipped: job.counts.skipped,
            total: job.counts.total,
            unchanged: job.unchanged,
            datums: reasons.iter().map(why).collect(),
        }
    }
}
