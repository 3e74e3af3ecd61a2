//! From a request to the jobs of a build.

use std::collections::{BTreeMap, BTreeSet};

use quern_core::Digest;
use serde::{Deserialize, Serialize};

use crate::graph::JobSpecs;
use crate::selection::{Selection, SelectionError};
use crate::spec::{DatasetBranch, Head, InputFailure, JobSpec, JobSpecId};
use crate::staleness::{Evidence, Fresh, LastBuilt, Staleness, judge};

/// What a submitter wants built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which specs; the union of all.
    pub selections: Vec<Selection>,
    /// Whether to build them even if they are fresh.
    pub force: bool,
    /// What to do about failing inputs, in place of what the specs say.
    pub input_failures: BTreeMap<DatasetBranch, InputFailure>,
}

impl Request {
    /// The stale ones of one selection.
    pub fn of(selection: Selection) -> Self {
        Self { selections: vec![selection], force: false, input_failures: BTreeMap::new() }
    }
}

/// What is known of the world when a build is planned.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// All job specs.
    pub specs: &'a JobSpecs,
    /// Finished heads of branches; a branch without one is absent.
    pub heads: &'a BTreeMap<DatasetBranch, Head>,
    /// The last successful job of each spec.
    pub last_built: &'a BTreeMap<JobSpecId, LastBuilt>,
}

/// Place of a job in its build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobIndex(pub u32);

impl JobIndex {
    pub(crate) fn of(position: usize) -> Self {
        Self(u32::try_from(position).expect("a build has fewer than 2^32 jobs"))
    }

    pub(crate) const fn position(self) -> usize {
        self.0 as usize
    }
}

/// The jobs of a build, before any of them has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildPlan {
    /// What is to be built, each after all it waits for.
    pub jobs: Vec<PlannedJob>,
    /// What was selected and is fresh, in the order of the specs.
    pub skipped: Vec<SkippedSpec>,
}

/// One job to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedJob {
    /// What it executes.
    pub spec: JobSpecId,
    /// The logic of the spec at this time.
    pub logic: Digest,
    /// Why; never empty.
    pub reasons: Vec<Staleness>,
    /// What it reads, ascending by branch, each once.
    pub inputs: Vec<PlannedInput>,
    /// What it writes.
    pub outputs: Vec<DatasetBranch>,
    /// The spec's own limit of attempts.
    pub attempts: Option<u32>,
}

impl PlannedJob {
    /// The jobs of the build that must end before this one begins, ascending.
    pub fn waits_for(&self) -> BTreeSet<JobIndex> {
        self.inputs.iter().filter_map(|input| input.producer).collect()
    }
}

/// One input of a job to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedInput {
    /// The branch read.
    pub source: DatasetBranch,
    /// What it shows while the build is planned.
    pub head: Option<Head>,
    /// The job of this build that writes it.
    pub producer: Option<JobIndex>,
    /// What happens if that job does not complete.
    pub on_failure: InputFailure,
}

/// A spec that was selected and need not be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedSpec {
    /// The spec.
    pub spec: JobSpecId,
    /// Why not.
    pub why: Fresh,
}

/// Why no build can be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing was asked for.
    #[error("the build selects nothing; name at least one dataset or job spec")]
    NoSelection,
    /// Something that is not there was asked for.
    #[error(transparent)]
    Selection(#[from] SelectionError),
}

/// Decides which of the selected specs are stale and in which order their jobs run. One pass in topological order:
/// when a spec is judged, it is known which of its inputs this build will write.
///
/// # Errors
/// [`PlanError`].
pub fn plan(request: &Request, facts: &Facts<'_>) -> Result<BuildPlan, PlanError> {
    if request.selections.is_empty() {
        return Err(PlanError::NoSelection);
    }
    let mut selected = BTreeSet::new();
    for selection in &request.selections {
        selected.extend(selection.choose(facts.specs)?);
    }
    let mut plan = BuildPlan { jobs: Vec::new(), skipped: Vec::new() };
    let mut writers: BTreeMap<&DatasetBranch, JobIndex> = BTreeMap::new();
    for spec in selected.into_iter().map(|position| &facts.specs.in_order()[position]) {
        let inputs = inputs(spec, request, facts.heads, &writers);
        let upstream: Vec<_> = inputs
            .iter()
            .filter_map(|input| {
                Some((input.source.clone(), plan.jobs[input.producer?.position()].spec.clone()))
            })
            .collect();
        let last = facts.last_built.get(&spec.id);
        let evidence =
            Evidence { spec, forced: request.force, last, heads: facts.heads, upstream: &upstream };
        match judge(&evidence) {
            Err(why) => plan.skipped.push(SkippedSpec { spec: spec.id.clone(), why }),
            Ok(reasons) => {
                writers.extend(spec.outputs.iter().map(|branch| (branch, JobIndex::of(plan.jobs.len()))));
                plan.jobs.push(PlannedJob {
                    spec: spec.id.clone(),
                    logic: spec.logic,
                    reasons,
                    inputs,
                    outputs: spec.outputs.clone(),
                    attempts: spec.attempts,
                });
            }
        }
    }
    Ok(plan)
}

fn inputs(
    spec: &JobSpec,
    request: &Request,
    heads: &BTreeMap<DatasetBranch, Head>,
    writers: &BTreeMap<&DatasetBranch, JobIndex>,
) -> Vec<PlannedInput> {
    let mut inputs: BTreeMap<&DatasetBranch, PlannedInput> = BTreeMap::new();
    for input in &spec.inputs {
        let source = &input.source;
        inputs.entry(source).or_insert_with(|| PlannedInput {
            source: source.clone(),
            head: heads.get(source).copied(),
            producer: writers.get(source).copied(),
            on_failure: request.input_failures.get(source).copied().unwrap_or(input.on_failure),
        });
    }
    inputs.into_values().collect()
}
