//! Pipelines as they are stored: what a spec means once it has been checked and expanded.
//!
//! Specs keep their users' words; this is the translation, made once, at the edge. Everything behind it knows
//! only these records. The user's own text stays beside them, so that `extract` gives back what was given.

use std::collections::BTreeMap;

use quern_builds::{DatasetBranch, Freshness, JobInput, JobSpec, JobSpecId};
use quern_core::canon::{Canon, Visitor};
use quern_core::port::{MetaRead, MetaWrite, PortError, Scan, Table};
use quern_core::{Digest, Id, Timestamp, Version};
use serde::{Deserialize, Serialize};

const PIPELINES: Table = Table("pipelines");
/// `<name>/<version>` -> the pipeline as it was, so that old jobs can be explained.
const VERSIONS: Table = Table("pipeline_versions");

/// A pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// Format of this record.
    pub format: Version<1>,
    /// Its name, and that of its output repo unless `build_of` is set.
    pub name: String,
    /// Counts changes, from 1.
    pub version: u64,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
    /// What it is for.
    pub description: String,
    /// The document the user gave; empty for the pipeline that builds another one's source.
    pub spec: String,
    /// The pipeline whose source this one builds.
    pub build_of: Option<String>,
    /// Stopped pipelines start no jobs.
    pub stopped: bool,
    /// Drawn anew to process every datum again.
    pub salt: Option<Id>,
    /// Where its datums come from.
    pub input: Input,
    /// The repo it writes.
    pub output_repo: String,
    /// The branch it writes.
    pub output_branch: String,
    /// What it does with a datum.
    pub run: Run,
}

/// Where datums come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The matches of a pattern in a branch.
    Pfs {
        /// What steps call it: `/pfs/<name>`.
        name: String,
        /// Repo.
        repo: String,
        /// Branch.
        branch: String,
        /// Pattern; each match is a datum.
        glob: String,
        /// If set, only files that match one of these patterns exist for the step.
        only: Option<Vec<String>>,
    },
    /// Every combination.
    Cross(Vec<Input>),
    /// One after the other.
    Union(Vec<Input>),
}

/// What is done with one datum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Name of the image.
    pub image: String,
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// Its standard input.
    pub stdin: String,
    /// Run when the last try has failed; none if empty.
    pub err_cmd: Vec<String>,
    /// Standard input of `err_cmd`.
    pub err_stdin: String,
    /// Variables besides the image's own.
    pub env: BTreeMap<String, String>,
    /// User, the image's if absent.
    pub user: Option<String>,
    /// Working directory, the image's if absent.
    pub working_dir: Option<String>,
    /// Exit codes besides 0 that mean success.
    pub accept: Vec<i32>,
    /// Tree shown at `/app`: a shipped builder's scripts.
    pub app: Option<Digest>,
    /// Whether steps see the machine's network.
    pub network: bool,
    /// Whether steps see a directory that survives between them, named by `QUERN_CACHE`.
    pub cache: bool,
    /// How often a datum is tried.
    pub tries: u32,
    /// Longest run of one try, milliseconds.
    pub datum_timeout: Option<u64>,
    /// Longest run of a job, milliseconds.
    pub job_timeout: Option<u64>,
    /// Most steps of a job at once.
    pub parallelism: Option<u32>,
    /// Memory limit of a step in bytes.
    pub memory: Option<u64>,
    /// Processor limit of a step in thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// Nothing is reused from job to job.
    pub every_job: bool,
    /// What happens to files that several datums write.
    pub merge: Merge,
}

/// What happens to a file that several datums write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// The contents are joined in the order of the datums' keys.
    #[default]
    Concat,
    /// The job fails.
    Fail,
    /// The one with the greatest key wins.
    Last,
}

impl Input {
    /// All leaves from left to right: name, repo, branch.
    pub fn leaves(&self) -> Vec<(&str, &str, &str)> {
        match self {
            Self::Pfs { name, repo, branch, .. } => vec![(name, repo, branch)],
            Self::Cross(members) | Self::Union(members) => members.iter().flat_map(Self::leaves).collect(),
        }
    }

    /// Inputs that every datum sees whole: name and branch.
    pub fn whole(&self) -> Vec<(&str, DatasetBranch)> {
        match self {
            Self::Pfs { name, repo, branch, glob, only: None } if glob == "/" => {
                vec![(name, DatasetBranch::new(repo, branch))]
            }
            Self::Pfs { .. } => Vec::new(),
            Self::Cross(members) | Self::Union(members) => members.iter().flat_map(Self::whole).collect(),
        }
    }

    fn walk(&self, v: &mut dyn Visitor) {
        match self {
            Self::Pfs { name, repo, branch, glob, only } => {
                v.enter("pfs");
                for (field, value) in [("name", name), ("repo", repo), ("branch", branch), ("glob", glob)] {
                    v.text(field, value);
                }
                for pattern in only.iter().flatten() {
                    v.text("only", pattern);
                }
                v.number("filtered", u64::from(only.is_some()));
                v.leave();
            }
            Self::Cross(members) | Self::Union(members) => {
                v.enter(if matches!(self, Self::Cross(_)) { "cross" } else { "union" });
                members.iter().for_each(|member| member.walk(v));
                v.leave();
            }
        }
    }
}

/// What decides a datum's result besides the datum. Tries, limits and timeouts are left out: they
/// decide whether a result comes, never which.
impl Canon for Run {
    const DOMAIN: &'static str = "quern.run.v1";

    fn walk(&self, v: &mut dyn Visitor) {
        v.text("image", &self.image);
        for (list, items) in [("cmd", &self.cmd), ("err_cmd", &self.err_cmd)] {
            v.enter(list);
            items.iter().for_each(|item| v.text("arg", item));
            v.leave();
        }
        v.text("stdin", &self.stdin);
        v.text("err_stdin", &self.err_stdin);
        v.enter("env");
        self.env.iter().for_each(|(name, value)| v.text(name, value));
        v.leave();
        for (field, value) in [("user", &self.user), ("working_dir", &self.working_dir)] {
            if let Some(value) = value {
                v.text(field, value);
            }
        }
        self.accept.iter().for_each(|code| v.bytes("accept", &code.to_le_bytes()));
        if let Some(app) = &self.app {
            v.digest("builder", app);
        }
        v.number("network", u64::from(self.network));
        v.number("cache", u64::from(self.cache));
    }
}

/// The logic of a pipeline: a change of it makes the pipeline stale although no input changed.
impl Canon for Pipeline {
    const DOMAIN: &'static str = "quern.pipeline.v1";

    fn walk(&self, v: &mut dyn Visitor) {
        v.enter("input");
        self.input.walk(v);
        v.leave();
        v.enter("transform");
        self.run.walk(v);
        v.leave();
        v.number("merge", self.run.merge as u64);
        v.number("every_job", u64::from(self.run.every_job));
        if let Some(salt) = &self.salt {
            v.bytes("reprocess", salt.as_bytes());
        }
    }
}

impl Pipeline {
    /// What it writes.
    pub fn output(&self) -> DatasetBranch {
        DatasetBranch::new(&self.output_repo, &self.output_branch)
    }

    /// What the build rules need to know of it.
    pub fn job_spec(&self) -> JobSpec {
        let mut sources: Vec<DatasetBranch> = Vec::new();
        for (_, repo, branch) in self.input.leaves() {
            let source = DatasetBranch::new(repo, branch);
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        JobSpec {
            id: JobSpecId::new(&self.name),
            logic: self.digest(),
            inputs: sources.into_iter().map(JobInput::new).collect(),
            outputs: vec![self.output()],
            freshness: Freshness::ByInputs,
            attempts: None,
        }
    }
}

/// The pipeline of this name.
///
/// # Errors
/// Those of the port.
pub fn get(r: &dyn MetaRead, name: &str) -> Result<Option<Pipeline>, PortError> {
    r.get(PIPELINES, name)?.map(|text| parse(name, &text)).transpose()
}

/// All pipelines by name.
///
/// # Errors
/// Those of the port.
pub fn all(r: &dyn MetaRead) -> Result<Vec<Pipeline>, PortError> {
    r.scan(PIPELINES, &Scan::default())?.iter().map(|(name, text)| parse(name, text)).collect()
}

/// Stores a pipeline under its name.
///
/// # Errors
/// Those of the port.
pub fn put(w: &mut dyn MetaWrite, pipeline: &Pipeline) -> Result<(), PortError> {
    let text = serde_json::to_string(pipeline).expect("a pipeline holds only text and numbers");
    w.put(PIPELINES, &pipeline.name, &text)?;
    w.put(VERSIONS, &version_key(&pipeline.name, pipeline.version), &text)
}

/// The pipeline as it was in this version.
///
/// # Errors
/// Those of the port.
pub fn at_version(r: &dyn MetaRead, name: &str, version: u64) -> Result<Option<Pipeline>, PortError> {
    r.get(VERSIONS, &version_key(name, version))?.map(|text| parse(name, &text)).transpose()
}

fn version_key(name: &str, version: u64) -> String {
    format!("{name}/{version:020}")
}

/// Forgets a pipeline.
///
/// # Errors
/// Those of the port.
pub fn delete(w: &mut dyn MetaWrite, name: &str) -> Result<(), PortError> {
    for (key, _) in w.scan(VERSIONS, &Scan::prefix(format!("{name}/")))? {
        w.delete(VERSIONS, &key)?;
    }
    w.delete(PIPELINES, name)
}

fn parse(name: &str, text: &str) -> Result<Pipeline, PortError> {
    serde_json::from_str(text)
        .map_err(|e| PortError::Other(format!("the record of pipeline `{name}` is not readable: {e}")))
}
