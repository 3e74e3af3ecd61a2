//! A build in progress: `(state, event) -> effects`.
//!
//! The driver applies an event, carries out the effects on commits and queues, and stores the build, all in one
//! transaction; effects on workers ([`Effect::Run`], [`Effect::Cancel`]) follow after it. If it dies in between, whoever
//! takes the build over calls [`Build::resume`], which names those effects again. So a build never loses a lock or
//! an acknowledged result, and every execution has an attempt number of its own.

use std::collections::BTreeMap;

use quern_core::{Id, Timestamp, Version};
use serde::{Deserialize, Serialize};

use crate::job::{AbortCause, Attempt, AttemptEnd, Completion, IllegalTransition, Job, JobFailure, JobState};
use crate::plan::{BuildPlan, JobIndex, PlannedInput};
use crate::spec::{DatasetBranch, Head, InputFailure};
use crate::staleness::LastBuilt;

/// Attempts at one job that may vanish with their worker, without the job getting on, before it is given up. They do not
/// count as failures.
const MOST_LOST: u32 = 10;

/// How a build deals with failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildPolicy {
    /// Most attempts at a job that fails in a retryable way, where its spec has no number; 0 and 1 mean no retry.
    pub attempts: u32,
    /// Whether every failure is taken as retryable.
    pub retry_everything: bool,
    /// Seconds between two attempts.
    pub backoff_seconds: u32,
    /// Whether the first failed job ends the build.
    pub finish_on_failure: bool,
}

impl Default for BuildPolicy {
    fn default() -> Self {
        Self { attempts: 1, retry_everything: false, backoff_seconds: 0, finish_on_failure: false }
    }
}

/// One submission and its jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    version: Version<1>,
    id: Id,
    policy: BuildPolicy,
    /// Each after all it waits for, as in the plan.
    jobs: Vec<Job>,
    closed: Option<Timestamp>,
}

/// How a build stands, derived from its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStatus {
    /// A job has not ended.
    Running,
    /// All completed, or there was none.
    Succeeded,
    /// One failed.
    Failed,
    /// None failed and one was aborted.
    Canceled,
}

/// Something that happened to a job or a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It is the job's turn to write its outputs; nobody else can until it ends.
    OutputsLocked {
        /// The job.
        job: JobIndex,
        /// What the spec's last successful job left; none if an output no longer shows it.
        last: Option<LastBuilt>,
    },
    /// A worker begins.
    Started {
        /// The job.
        job: JobIndex,
    },
    /// A worker has the outputs ready.
    Completed {
        /// The job.
        job: JobIndex,
        /// What each output shows from now on; one that is left as it was may be absent.
        outputs: BTreeMap<DatasetBranch, Head>,
    },
    /// A worker gives up.
    Failed {
        /// The job.
        job: JobIndex,
        /// Why.
        failure: JobFailure,
    },
    /// A worker is gone without a word.
    Lost {
        /// The job.
        job: JobIndex,
    },
    /// A worker has stopped because it was told to, or nobody had begun.
    Stopped {
        /// The job.
        job: JobIndex,
    },
    /// One job is to be stopped.
    AbortJob {
        /// The job.
        job: JobIndex,
        /// Why.
        cause: AbortCause,
    },
    /// All jobs that have not ended are to be stopped.
    Abort,
}

/// Something the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// Queue the job for its outputs, and answer [`Event::OutputsLocked`] when it is its turn. The effects
    /// of one call are to be queued together: then builds never wait for each other in a ring.
    LockOutputs {
        /// The job.
        job: JobIndex,
    },
    /// Give the job to a worker, which reads `inputs`.
    Run {
        /// The job.
        job: JobIndex,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Not earlier than this.
        not_before: Option<Timestamp>,
        /// What it reads; an input without any commit is absent.
        inputs: BTreeMap<DatasetBranch, Head>,
    },
    /// Tell the job's worker to stop, and answer [`Event::Stopped`]; at once if none has it.
    Cancel {
        /// The job.
        job: JobIndex,
    },
    /// Make the outputs of a job that ran visible, remember [`Job::remembered`], release the outputs.
    FinishOutputs {
        /// The job.
        job: JobIndex,
    },
    /// Leave the outputs as they are, remember [`Job::remembered`], release the outputs.
    KeepOutputs {
        /// The job.
        job: JobIndex,
    },
    /// Drop what was written and release the outputs, or the job's places in their queues.
    DropOutputs {
        /// The job.
        job: JobIndex,
    },
    /// The build is over.
    Close {
        /// How it ended.
        status: BuildStatus,
    },
}

/// An event that cannot have happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// A job the build does not have.
    #[error("build {build} has no job {}", job.0)]
    NoJob {
        /// The build.
        build: Id,
        /// The job.
        job: JobIndex,
    },
    /// A change of state that no job makes; the build is as it was.
    #[error(transparent)]
    Transition(#[from] IllegalTransition),
}

impl Build {
    /// Opens a build of the planned jobs with an id for each.
    pub fn open(
        id: Id,
        plan: BuildPlan,
        policy: BuildPolicy,
        mut job_id: impl FnMut() -> Id,
        at: Timestamp,
    ) -> (Self, Vec<Effect>) {
        let jobs: Vec<Job> = plan.jobs.into_iter().map(|job| Job::new(job_id(), job)).collect();
        let mut build = Self { version: Version, id, policy, jobs, closed: None };
        let mut effects: Vec<Effect> = build.indexes().map(|job| Effect::LockOutputs { job }).collect();
        build.close_if_ended(at, &mut effects);
        (build, effects)
    }

    /// Its id.
    pub const fn id(&self) -> Id {
        self.id
    }

    /// Its jobs, each after all it waits for.
    pub fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// The job at this place.
    pub fn job(&self, job: JobIndex) -> Option<&Job> {
        self.jobs.get(job.position())
    }

    /// The place of the job of this id.
    pub fn index_of(&self, id: Id) -> Option<JobIndex> {
        self.jobs.iter().position(|job| job.id == id).map(JobIndex::of)
    }

    /// When it was over; none while it goes on.
    pub const fn closed(&self) -> Option<Timestamp> {
        self.closed
    }

    /// How it stands.
    pub fn status(&self) -> BuildStatus {
        let any = |of: fn(&JobState) -> bool| self.jobs.iter().any(|job| of(job.state()));
        if any(|state| !state.has_ended()) {
            BuildStatus::Running
        } else if any(|state| matches!(state, JobState::Failed { .. })) {
            BuildStatus::Failed
        } else if any(|state| matches!(state, JobState::Aborted { .. })) {
            BuildStatus::Canceled
        } else {
            BuildStatus::Succeeded
        }
    }

    /// Takes in what happened and says what to do.
    ///
    /// # Errors
    /// [`EventError`] if it cannot have happened; the build is then as it was.
    pub fn on(&mut self, at: Timestamp, event: &Event) -> Result<Vec<Effect>, EventError> {
        let mut effects = Vec::new();
        match event {
            Event::OutputsLocked { job, last } => {
                let job = self.job_mut(*job)?;
                job.set(JobState::Waiting { locked: true })?;
                job.before.clone_from(last);
            }
            Event::Started { job } => self.started(*job, at)?,
            Event::Completed { job, outputs } => self.completed(*job, outputs, at, &mut effects)?,
            Event::Failed { job, failure } => self.failed(*job, failure, at, &mut effects)?,
            Event::Lost { job } => self.lost(*job, at, &mut effects)?,
            Event::Stopped { job } => self.stopped(*job, at, &mut effects)?,
            Event::AbortJob { job, cause } => self.abort(*job, *cause, at, &mut effects)?,
            Event::Abort => self.abort_all(AbortCause::Requested, at, &mut effects)?,
        }
        self.settle(at, &mut effects)?;
        self.close_if_ended(at, &mut effects);
        Ok(effects)
    }

    /// What a driver that takes the build over has to do first: attempts that ran are lost and begin anew, and
    /// requests of which nobody can say whether they were heard are made again.
    ///
    /// # Errors
    /// [`EventError`] never, unless the stored build was tampered with.
    pub fn resume(&mut self, at: Timestamp) -> Result<Vec<Effect>, EventError> {
        let mut effects = Vec::new();
        for job in self.indexes() {
            let resumed = &self.jobs[job.position()];
            match resumed.state() {
                JobState::Waiting { locked: false } => effects.push(Effect::LockOutputs { job }),
                JobState::RunPending { attempt, not_before } => {
                    let (attempt, not_before) = (*attempt, *not_before);
                    effects.push(Effect::Run { job, attempt, not_before, inputs: resumed.reads.clone() });
                }
                JobState::Running { .. } => self.lost(job, at, &mut effects)?,
                JobState::AbortPending { .. } => effects.push(Effect::Cancel { job }),
                _ => {}
            }
        }
        self.settle(at, &mut effects)?;
        self.close_if_ended(at, &mut effects);
        Ok(effects)
    }

    /// Says that a job got on since its last attempt was lost: what vanished so far is not held against it.
    ///
    /// # Errors
    /// [`EventError::NoJob`].
    pub fn got_on(&mut self, index: JobIndex) -> Result<(), EventError> {
        let job = self.job_mut(index)?;
        job.forgiven = job.count(|end| matches!(end, AttemptEnd::Lost));
        Ok(())
    }

    fn indexes(&self) -> impl Iterator<Item = JobIndex> + use<> {
        (0..self.jobs.len()).map(JobIndex::of)
    }

    fn job_mut(&mut self, job: JobIndex) -> Result<&mut Job, EventError> {
        self.jobs.get_mut(job.position()).ok_or(EventError::NoJob { build: self.id, job })
    }

    fn started(&mut self, index: JobIndex, at: Timestamp) -> Result<(), EventError> {
        let job = self.job_mut(index)?;
        let JobState::RunPending { attempt: number, .. } = *job.state() else {
            return Err(job.refuse("RUNNING").into());
        };
        job.set(JobState::Running { attempt: number })?;
        job.attempts.push(Attempt { number, started: at, ended: None });
        Ok(())
    }

    fn completed(
        &mut self,
        index: JobIndex,
        outputs: &BTreeMap<DatasetBranch, Head>,
        at: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Result<(), EventError> {
        let job = self.job_mut(index)?;
        if matches!(job.state(), JobState::AbortPending { .. }) {
            // It was told to stop and finished first; its outputs were not visible to anybody yet.
            return self.stopped(index, at, effects);
        }
        let mut all = job.before.as_ref().map(|last| last.outputs.clone()).unwrap_or_default();
        all.extend(outputs.iter().map(|(branch, head)| (branch.clone(), *head)));
        all.retain(|branch, _| job.plan.outputs.contains(branch));
        job.set(JobState::Completed { how: Completion::Ran, outputs: all, at })?;
        job.end_attempt(at, AttemptEnd::Succeeded);
        effects.push(Effect::FinishOutputs { job: index });
        Ok(())
    }

    fn failed(
        &mut self,
        index: JobIndex,
        failure: &JobFailure,
        at: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Result<(), EventError> {
        let policy = self.policy;
        let job = self.job_mut(index)?;
        let attempt = match job.state() {
            JobState::Running { attempt } => *attempt,
            JobState::AbortPending { .. } => return self.stopped(index, at, effects),
            _ => return Err(job.refuse("FAILED").into()),
        };
        let most = job.plan.attempts.unwrap_or(policy.attempts).max(1);
        let failures = job.count(|end| matches!(end, AttemptEnd::Failed(_))) + 1;
        if failures >= most || !(failure.retryable || policy.retry_everything) {
            return self.give_up(index, failure.clone(), at, effects);
        }
        let pause = 1000 * u64::from(policy.backoff_seconds);
        let not_before = (pause > 0).then(|| Timestamp(at.0.saturating_add(pause)));
        effects.push(self.await_worker(index, attempt + 1, not_before)?);
        self.jobs[index.position()].end_attempt(at, AttemptEnd::Failed(failure.clone()));
        Ok(())
    }

    fn lost(&mut self, index: JobIndex, at: Timestamp, effects: &mut Vec<Effect>) -> Result<(), EventError> {
        let job = self.job_mut(index)?;
        let attempt = match job.state() {
            JobState::Running { attempt } => *attempt,
            JobState::AbortPending { .. } => return self.stopped(index, at, effects),
            _ => return Err(job.refuse("FAILED").into()),
        };
        let lost = job.count(|end| matches!(end, AttemptEnd::Lost)).saturating_sub(job.forgiven);
        if lost + 1 >= MOST_LOST {
            let message = format!("its worker vanished {MOST_LOST} times; look for what ends the process");
            return self.give_up(index, JobFailure { message, retryable: false }, at, effects);
        }
        effects.push(self.await_worker(index, attempt + 1, None)?);
        self.jobs[index.position()].end_attempt(at, AttemptEnd::Lost);
        Ok(())
    }

    fn give_up(
        &mut self,
        index: JobIndex,
        failure: JobFailure,
        at: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Result<(), EventError> {
        let job = self.job_mut(index)?;
        job.set(JobState::Failed { failure: failure.clone(), at })?;
        job.end_attempt(at, AttemptEnd::Failed(failure));
        effects.push(Effect::DropOutputs { job: index });
        if self.policy.finish_on_failure {
            self.abort_all(AbortCause::BuildFailed { job: index }, at, effects)?;
        }
        Ok(())
    }

    fn stopped(
        &mut self,
        index: JobIndex,
        at: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Result<(), EventError> {
        let job = self.job_mut(index)?;
        let JobState::AbortPending { cause } = *job.state() else {
            return Err(job.refuse("ABORTED").into());
        };
        job.set(JobState::Aborted { cause, at })?;
        job.end_attempt(at, AttemptEnd::Stopped);
        effects.push(Effect::DropOutputs { job: index });
        Ok(())
    }

    fn abort(
        &mut self,
        index: JobIndex,
        cause: AbortCause,
        at: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Result<(), EventError> {
        let job = self.job_mut(index)?;
        match job.state() {
            JobState::Waiting { .. } => {
                job.set(JobState::Aborted { cause, at })?;
                effects.push(Effect::DropOutputs { job: index });
            }
            JobState::RunPending { .. } | JobState::Running { .. } => {
                job.set(JobState::AbortPending { cause })?;
                effects.push(Effect::Cancel { job: index });
            }
            _ => {}
        }
        Ok(())
    }

    fn abort_all(
        &mut self,
        cause: AbortCause,
        at: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Result<(), EventError> {
        self.indexes().try_for_each(|job| self.abort(job, cause, at, effects))
    }

    /// Lets every waiting job see what the others have come to. One pass in order is enough, because a job's producers
    /// stand before it.
    fn settle(&mut self, at: Timestamp, effects: &mut Vec<Effect>) -> Result<(), EventError> {
        for index in self.indexes() {
            let JobState::Waiting { locked } = *self.jobs[index.position()].state() else { continue };
            match self.inputs_of(index) {
                Inputs::Unavailable { job } => {
                    self.abort(index, AbortCause::Upstream { job }, at, effects)?;
                }
                Inputs::Known(reads) if locked => self.begin(index, reads, at, effects)?,
                Inputs::Known(_) | Inputs::Awaited => {}
            }
        }
        Ok(())
    }

    /// A job with inputs and outputs at hand runs, or ends because nothing it would see has changed.
    fn begin(
        &mut self,
        index: JobIndex,
        reads: BTreeMap<DatasetBranch, Head>,
        at: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Result<(), EventError> {
        let job = &mut self.jobs[index.position()];
        job.reads = reads;
        match job.reusable() {
            Some(last) => {
                let outputs = last.outputs.clone();
                job.set(JobState::Completed { how: Completion::Reused, outputs, at })?;
                effects.push(Effect::KeepOutputs { job: index });
            }
            None => effects.push(self.await_worker(index, 1, None)?),
        }
        Ok(())
    }

    fn inputs_of(&self, index: JobIndex) -> Inputs {
        let mut reads = BTreeMap::new();
        let mut awaited = false;
        for input in &self.jobs[index.position()].plan.inputs {
            match self.head_of(input) {
                HeadNow::Known(Some(head)) => drop(reads.insert(input.source.clone(), head)),
                HeadNow::Known(None) => {}
                HeadNow::Awaited => awaited = true,
                HeadNow::Unavailable { job } => return Inputs::Unavailable { job },
            }
        }
        if awaited { Inputs::Awaited } else { Inputs::Known(reads) }
    }

    fn head_of(&self, input: &PlannedInput) -> HeadNow {
        let Some(producer) = input.producer else { return HeadNow::Known(input.head) };
        match self.jobs[producer.position()].state() {
            JobState::Completed { outputs, .. } => {
                HeadNow::Known(outputs.get(&input.source).copied().or(input.head))
            }
            JobState::Failed { .. } | JobState::Aborted { .. } => match (input.on_failure, input.head) {
                (InputFailure::Continue, Some(head)) => HeadNow::Known(Some(head)),
                _ => HeadNow::Unavailable { job: producer },
            },
            _ => HeadNow::Awaited,
        }
    }

    fn await_worker(
        &mut self,
        index: JobIndex,
        attempt: u32,
        not_before: Option<Timestamp>,
    ) -> Result<Effect, EventError> {
        let job = self.job_mut(index)?;
        job.set(JobState::RunPending { attempt, not_before })?;
        Ok(Effect::Run { job: index, attempt, not_before, inputs: job.reads.clone() })
    }

    fn close_if_ended(&mut self, at: Timestamp, effects: &mut Vec<Effect>) {
        let status = self.status();
        if self.closed.is_none() && status != BuildStatus::Running {
            self.closed = Some(at);
            effects.push(Effect::Close { status });
        }
    }
}

/// What the inputs of a waiting job have come to.
enum Inputs {
    /// Another job has to end first.
    Awaited,
    /// All are there.
    Known(BTreeMap<DatasetBranch, Head>),
    /// One will not come.
    Unavailable { job: JobIndex },
}

/// What one input has come to.
enum HeadNow {
    Awaited,
    Known(Option<Head>),
    Unavailable { job: JobIndex },
}
