//! Why a job spec has to be built again, or need not.

use std::collections::BTreeMap;
use std::fmt;

use quern_core::{Digest, Id, Version};
use serde::{Deserialize, Serialize};

use crate::spec::{DatasetBranch, Freshness, Head, JobSpec, JobSpecId};

/// What is remembered of the last successful job of a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBuilt {
    /// Format of this record.
    pub version: Version<1>,
    /// The job.
    pub job: Id,
    /// The logic it had.
    pub logic: Digest,
    /// What it read; an input without any commit is absent.
    pub inputs: BTreeMap<DatasetBranch, Head>,
    /// What its outputs showed when it had ended.
    pub outputs: BTreeMap<DatasetBranch, Head>,
}

/// One reason to build a job spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Staleness {
    /// No job of it ever succeeded.
    NeverBuilt,
    /// It does something else now.
    LogicChanged {
        /// What the last successful job did.
        from: Digest,
        /// What it does now.
        to: Digest,
    },
    /// An input has another head than the last successful job read.
    InputAdvanced {
        /// The input.
        input: DatasetBranch,
        /// What was read, none if the input is new or was empty.
        from: Option<Id>,
        /// What is there now.
        to: Option<Id>,
    },
    /// An input is written by another job of the same build.
    UpstreamInBuild {
        /// The input.
        input: DatasetBranch,
        /// The spec of that job.
        spec: JobSpecId,
    },
    /// The submitter wants it.
    Forced,
    /// The spec says that it always is.
    AlwaysStale,
}

/// Why a job spec need not be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Fresh {
    /// Logic and inputs are those of this job.
    Unchanged {
        /// The last successful job.
        since: Id,
    },
    /// The spec is only built when forced.
    NeverStale,
    /// None of its inputs has a commit yet.
    AwaitsInput,
}

impl fmt::Display for Staleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => f.write_str("it was never built"),
            Self::LogicChanged { from, to } => {
                write!(f, "its logic changed from {} to {}", from.short(), to.short())
            }
            Self::InputAdvanced { input, from: Some(from), to: Some(to) } => {
                write!(f, "input {input} advanced from {} to {}", short(from), short(to))
            }
            Self::InputAdvanced { input, from: None, to: Some(to) } => {
                write!(f, "input {input} is new, at {}", short(to))
            }
            Self::InputAdvanced { input, to: None, .. } => write!(f, "input {input} has no commit any more"),
            Self::UpstreamInBuild { input, spec } => {
                write!(f, "input {input} is rebuilt by `{spec}` in this build")
            }
            Self::Forced => f.write_str("a rebuild was asked for"),
            Self::AlwaysStale => f.write_str("it is never taken as up to date"),
        }
    }
}

impl fmt::Display for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged { since } => {
                write!(f, "neither its logic nor its inputs changed since job {}", short(since))
            }
            Self::NeverStale => f.write_str("it is built only when forced"),
            Self::AwaitsInput => f.write_str("none of its inputs has data yet"),
        }
    }
}

/// The first 12 characters of an id, for people.
fn short(id: &Id) -> String {
    let mut text = id.to_string();
    text.truncate(12);
    text
}

/// What the judgement of one spec looks at.
pub(crate) struct Evidence<'a> {
    pub spec: &'a JobSpec,
    pub forced: bool,
    pub last: Option<&'a LastBuilt>,
    pub heads: &'a BTreeMap<DatasetBranch, Head>,
    /// Inputs written by other jobs of the build, with their specs.
    pub upstream: &'a [(DatasetBranch, JobSpecId)],
}

/// All reasons to build a spec, or why it is fresh. Foundry's rule: the key of a result is the logic and, for
/// each input, the branch and its last commit.
pub(crate) fn judge(evidence: &Evidence<'_>) -> Result<Vec<Staleness>, Fresh> {
    let Evidence { spec, forced, last, heads, upstream } = *evidence;
    let mut reasons = Vec::new();
    if forced {
        reasons.push(Staleness::Forced);
    }
    match spec.freshness {
        Freshness::NeverStale if !forced => return Err(Fresh::NeverStale),
        Freshness::NeverStale => return Ok(reasons),
        Freshness::AlwaysStale => reasons.push(Staleness::AlwaysStale),
        Freshness::ByInputs => {}
    }
    let awaits_input = !spec.inputs.is_empty()
        && upstream.is_empty()
        && spec.inputs.iter().all(|input| !heads.contains_key(&input.source));
    match last {
        None if awaits_input && reasons.is_empty() => return Err(Fresh::AwaitsInput),
        None => reasons.push(Staleness::NeverBuilt),
        Some(last) => reasons.extend(changes(spec, last, heads)),
    }
    reasons.extend(
        upstream
            .iter()
            .map(|(input, spec)| Staleness::UpstreamInBuild { input: input.clone(), spec: spec.clone() }),
    );
    match last {
        Some(last) if reasons.is_empty() => Err(Fresh::Unchanged { since: last.job }),
        _ => Ok(reasons),
    }
}

fn changes(spec: &JobSpec, last: &LastBuilt, heads: &BTreeMap<DatasetBranch, Head>) -> Vec<Staleness> {
    let mut reasons = Vec::new();
    if spec.logic != last.logic {
        reasons.push(Staleness::LogicChanged { from: last.logic, to: spec.logic });
    }
    let mut inputs: Vec<&DatasetBranch> = spec.inputs.iter().map(|input| &input.source).collect();
    inputs.sort();
    inputs.dedup();
    for input in inputs {
        let commit = |heads: &BTreeMap<DatasetBranch, Head>| heads.get(input).map(|head| head.commit);
        let (from, to) = (commit(&last.inputs), commit(heads));
        if from != to {
            reasons.push(Staleness::InputAdvanced { input: input.clone(), from, to });
        }
    }
    reasons
}
