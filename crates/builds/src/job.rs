//! One job: its states, its attempts, and the one setter through which states change.

use std::collections::BTreeMap;
use std::fmt;

use quern_core::{Id, Timestamp};
use serde::{Deserialize, Serialize};

use crate::plan::{JobIndex, PlannedJob};
use crate::spec::{DatasetBranch, Head};
use crate::staleness::{LastBuilt, Staleness};

/// One execution of a job spec inside a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: Id,
    /// What was planned.
    pub plan: PlannedJob,
    /// What the spec's last successful job left, as it was when this job got its outputs.
    pub before: Option<LastBuilt>,
    /// What it reads, known from the state after `Waiting` on; an input without any commit is absent.
    pub reads: BTreeMap<DatasetBranch, Head>,
    /// Every attempt, oldest first.
    pub attempts: Vec<Attempt>,
    /// How many of its lost attempts do not count, because the job got on since.
    pub forgiven: u32,
    state: JobState,
}

/// Where a job stands. The names are those of the build service; each variant says what is known by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// For other jobs of the build, or for its turn to write its outputs.
    Waiting {
        /// Whether it is its turn.
        locked: bool,
    },
    /// It can run, and waits for a worker.
    RunPending {
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Not to be begun earlier; set between attempts.
        not_before: Option<Timestamp>,
    },
    /// A worker is at it.
    Running {
        /// Number of the attempt, from 1.
        attempt: u32,
    },
    /// Its outputs are up to date.
    Completed {
        /// How they came to be so.
        how: Completion,
        /// What they show.
        outputs: BTreeMap<DatasetBranch, Head>,
        /// When.
        at: Timestamp,
    },
    /// Given up.
    Failed {
        /// The last attempt's failure.
        failure: JobFailure,
        /// When.
        at: Timestamp,
    },
    /// A worker was told to stop and has not said yet that it did.
    AbortPending {
        /// Why.
        cause: AbortCause,
    },
    /// Stopped before it was done.
    Aborted {
        /// Why.
        cause: AbortCause,
        /// When.
        at: Timestamp,
    },
}

/// How a completed job did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Completion {
    /// It ran.
    Ran,
    /// Its inputs turned out to have the content that its outputs were made of.
    Reused,
}

/// Why a job is stopped before it is done. Never a reason to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum AbortCause {
    /// Somebody asked for it.
    Requested,
    /// A job it reads from did not complete.
    Upstream {
        /// That job.
        job: JobIndex,
    },
    /// Another job failed, and the build was to end with the first failure.
    BuildFailed {
        /// That job.
        job: JobIndex,
    },
    /// A later job writes the same outputs and was told not to wait.
    Superseded,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    /// In words.
    pub message: String,
    /// Whether another attempt may go better.
    pub retryable: bool,
}

/// One attempt at a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// When a worker began.
    pub started: Timestamp,
    /// When and how it ended; none while it runs.
    pub ended: Option<(Timestamp, AttemptEnd)>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// With its outputs.
    Succeeded,
    /// Without.
    Failed(JobFailure),
    /// Its worker vanished.
    Lost,
    /// It was told to stop.
    Stopped,
}

/// A change of state that no job makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("job {job} is {from} and cannot become {to}")]
pub struct IllegalTransition {
    /// The job.
    pub job: Id,
    /// Name of its state.
    pub from: &'static str,
    /// Name of the state refused.
    pub to: &'static str,
}

impl JobState {
    /// The build service's name of the state.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "WAITING",
            Self::RunPending { .. } => "RUN_PENDING",
            Self::Running { .. } => "RUNNING",
            Self::Completed { .. } => "COMPLETED",
            Self::Failed { .. } => "FAILED",
            Self::AbortPending { .. } => "ABORT_PENDING",
            Self::Aborted { .. } => "ABORTED",
        }
    }

    /// Whether nothing can happen to the job any more.
    pub const fn has_ended(&self) -> bool {
        matches!(self, Self::Completed { .. } | Self::Failed { .. } | Self::Aborted { .. })
    }

    /// Every change of state there is.
    const fn may_become(&self, next: &Self) -> bool {
        use JobState::{AbortPending, Aborted, Completed, Failed, RunPending, Running, Waiting};
        match (self, next) {
            (Waiting { locked }, Waiting { locked: next }) => !*locked && *next,
            (Waiting { locked: true }, RunPending { .. }) => true,
            (Waiting { locked: true }, Completed { how: Completion::Reused, .. }) => true,
            (Waiting { .. }, Aborted { .. }) => true,
            (RunPending { .. }, Running { .. } | AbortPending { .. }) => true,
            (Running { .. }, Completed { how: Completion::Ran, .. }) => true,
            (Running { .. }, RunPending { .. } | Failed { .. } | AbortPending { .. }) => true,
            (AbortPending { .. }, Aborted { .. }) => true,
            _ => false,
        }
    }
}

impl Job {
    pub(crate) fn new(id: Id, plan: PlannedJob) -> Self {
        let state = JobState::Waiting { locked: false };
        Self { id, plan, before: None, reads: BTreeMap::new(), attempts: Vec::new(), forgiven: 0, state }
    }

    /// Where it stands.
    pub const fn state(&self) -> &JobState {
        &self.state
    }

    /// The only way to another state.
    pub(crate) fn set(&mut self, next: JobState) -> Result<(), IllegalTransition> {
        if !self.state.may_become(&next) {
            return Err(self.refuse(next.name()));
        }
        self.state = next;
        Ok(())
    }

    /// The error for a change to a state of this name.
    pub(crate) const fn refuse(&self, to: &'static str) -> IllegalTransition {
        IllegalTransition { job: self.id, from: self.state.name(), to }
    }

    /// What was built before, if what the job reads has the content it was made of, the logic is the same, and nobody
    /// wants it to run all the same. This is the early cut-off: a commit that changed nothing ends here.
    pub(crate) fn reusable(&self) -> Option<&LastBuilt> {
        let wanted =
            self.plan.reasons.iter().any(|r| matches!(r, Staleness::Forced | Staleness::AlwaysStale));
        let content = |heads: &BTreeMap<DatasetBranch, Head>| {
            heads.iter().map(|(branch, head)| (branch.clone(), head.content)).collect::<Vec<_>>()
        };
        let same = |last: &&LastBuilt| {
            last.logic == self.plan.logic && content(&last.inputs) == content(&self.reads)
        };
        self.before.as_ref().filter(|_| !wanted).filter(same)
    }

    /// Ends the attempt that runs, if one does.
    pub(crate) fn end_attempt(&mut self, at: Timestamp, end: AttemptEnd) {
        if let Some(attempt) = self.attempts.last_mut().filter(|attempt| attempt.ended.is_none()) {
            attempt.ended = Some((at, end));
        }
    }

    /// Attempts that ended in a way that satisfies `of`.
    pub(crate) fn count(&self, of: impl Fn(&AttemptEnd) -> bool) -> u32 {
        let ends = self.attempts.iter().filter_map(|attempt| attempt.ended.as_ref());
        u32::try_from(ends.filter(|(_, end)| of(end)).count()).unwrap_or(u32::MAX)
    }

    /// What to remember of it as the last successful job of its spec; none unless it completed.
    pub fn remembered(&self) -> Option<LastBuilt> {
        let JobState::Completed { outputs, .. } = &self.state else { return None };
        Some(LastBuilt {
            version: quern_core::Version,
            job: self.id,
            logic: self.plan.logic,
            inputs: self.reads.clone(),
            outputs: outputs.clone(),
        })
    }

    /// Whether it completed and an output shows other content than before it.
    pub fn changed_something(&self) -> bool {
        let JobState::Completed { outputs, .. } = &self.state else { return false };
        let before = |branch| self.before.as_ref()?.outputs.get(branch).map(|head| head.content);
        outputs.iter().any(|(branch, head)| before(branch) != Some(head.content))
    }
}

impl fmt::Display for AbortCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requested => "it was stopped",
            Self::Upstream { .. } => "a job it reads from did not complete",
            Self::BuildFailed { .. } => "another job of the build failed",
            Self::Superseded => "a newer job takes its place",
        })
    }
}
