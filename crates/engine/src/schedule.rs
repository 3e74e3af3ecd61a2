//! Builds on the records: what has to run next, decided by `quern-builds` and stored in one transaction with
//! the commits and jobs it concerns.
//!
//! Nothing here runs a step. Every function works inside a transaction of its caller, so that a process may be
//! killed between any two of them and another one carries on.

use std::collections::{BTreeMap, VecDeque};

use quern_builds::{
    AbortCause, Build, BuildPolicy, DatasetBranch, Effect, Event, Facts, Head, JobIndex, JobSpecId, JobSpecs,
    JobState, LastBuilt, OutputQueues, PlanError, Request, Selection, SpecError, plan,
};
use quern_core::event::Counts;
use quern_core::port::{Ids, MetaRead, MetaWrite, PortError, Scan, Table};
use quern_core::{Id, Timestamp, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::job::{self, Job, State};
use crate::lease;
use crate::pipeline::{self, Pipeline};
use crate::{commits, journal};

const BUILDS: Table = Table("builds");
/// Builds that are not over: id -> nothing.
const ACTIVE: Table = Table("active_builds");
/// Spec -> what its last successful job read and wrote.
const LAST: Table = Table("last_built");
/// Spec -> what its last planned job reads; differs from `LAST` while jobs run and after failures.
const PLANNED: Table = Table("planned");
const QUEUES: Table = Table("output_queues");
/// The one key of [`QUEUES`].
const ALL: &str = "all";

/// Why builds could not be planned or moved on.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The pipelines do not make a graph.
    #[error(transparent)]
    Specs(#[from] SpecError),
    /// Nothing can be planned of this request.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The stored build and what happened do not fit.
    #[error(transparent)]
    Event(#[from] quern_builds::EventError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// What transactions about builds need from outside.
pub struct Scheduler<'a> {
    /// The transaction.
    pub w: &'a mut dyn MetaWrite,
    /// Where new ids come from.
    pub ids: &'a dyn Ids,
    /// This process.
    pub me: &'a lease::Owner,
    /// The time.
    pub now: Timestamp,
    /// Builds read in this transaction; all are stored at the end.
    open: BTreeMap<Id, Build>,
}

/// Something to be done to a build.
enum Task {
    /// An effect to carry out.
    Effect(Effect),
    /// It is this job's turn to write its outputs.
    Turn(JobIndex),
}

impl<'a> Scheduler<'a> {
    /// Works inside the transaction `w`.
    pub fn new(w: &'a mut dyn MetaWrite, ids: &'a dyn Ids, me: &'a lease::Owner, now: Timestamp) -> Self {
        Self { w, ids, me, now, open: BTreeMap::new() }
    }

    /// Plans a build of everything that advanced since it was last planned. Does nothing if nothing did, so it may be
    /// called at any time; whatever a killed process left unplanned is found by the next call.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn advance(&mut self) -> Result<Vec<Id>, ScheduleError> {
        self.submit(&Request::of(Selection::All))
    }

    /// Plans a build of these pipelines whether they are stale or not, and of what depends on them.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn force(&mut self, name: &str) -> Result<Vec<Id>, ScheduleError> {
        let selection = Selection::JobSpecs { specs: vec![JobSpecId::new(name)], required: true };
        let mut request = Request::of(selection);
        request.force = true;
        self.submit(&request)
    }

    fn submit(&mut self, request: &Request) -> Result<Vec<Id>, ScheduleError> {
        let pipelines: BTreeMap<String, Pipeline> = pipeline::all(self.w.as_read())?
            .into_iter()
            .filter(|pipeline| !pipeline.stopped)
            .map(|pipeline| (pipeline.name.clone(), pipeline))
            .collect();
        let specs = JobSpecs::new(pipelines.values().map(Pipeline::job_spec).collect())?;
        let heads = self.heads(&specs)?;
        let planned = self.planned()?;
        let facts = Facts { specs: &specs, heads: &heads, last_built: &planned };
        let plan = plan(request, &facts)?;
        if plan.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let ids = self.ids;
        let (build, effects) =
            Build::open(ids.fresh(), plan, BuildPolicy::default(), || ids.fresh(), self.now);
        for job in build.jobs() {
            let pipeline = &pipelines[&job.plan.spec.0];
            self.new_job(&build, job, pipeline)?;
        }
        let jobs = build.jobs().iter().map(|job| job.id).collect();
        self.w.put(ACTIVE, &build.id().to_string(), "")?;
        let id = build.id();
        self.open.insert(id, build);
        self.carry_out(id, effects)?;
        Ok(jobs)
    }

    fn new_job(
        &mut self,
        build: &Build,
        job: &quern_builds::Job,
        pipeline: &Pipeline,
    ) -> Result<(), PortError> {
        let inputs: BTreeMap<DatasetBranch, Head> =
            job.plan.inputs.iter().filter_map(|input| Some((input.source.clone(), input.head?))).collect();
        let planned = LastBuilt {
            version: Version,
            job: job.id,
            logic: job.plan.logic,
            inputs: inputs.clone(),
            outputs: BTreeMap::new(),
        };
        put(self.w, PLANNED, &job.plan.spec.0, &planned)?;
        let mut record = Job {
            format: Version,
            id: job.id,
            number: 0,
            pipeline: pipeline.name.clone(),
            pipeline_version: pipeline.version,
            build: build.id(),
            because: job.plan.reasons.clone(),
            datums_because: String::new(),
            state: State::Starting,
            reason: String::new(),
            created: self.now,
            started: None,
            finished: None,
            inputs,
            output: None,
            unchanged: false,
            counts: Counts::default(),
            restarts: 0,
            kept: 0,
            logic: None,
        };
        job::put(self.w, &mut record)
    }

    fn heads(&self, specs: &JobSpecs) -> Result<BTreeMap<DatasetBranch, Head>, PortError> {
        let mut heads = BTreeMap::new();
        for input in specs.in_order().iter().flat_map(|spec| &spec.inputs) {
            if let Some(head) = commits::head(self.w.as_read(), &input.source)? {
                heads.insert(input.source.clone(), head);
            }
        }
        Ok(heads)
    }

    fn planned(&self) -> Result<BTreeMap<JobSpecId, LastBuilt>, PortError> {
        let rows = self.w.scan(PLANNED, &Scan::default())?;
        rows.into_iter().map(|(spec, text)| Ok((JobSpecId(spec), parse(&text)?))).collect()
    }

    /// Applies an event to a build and carries out what follows from it, in this and in other builds.
    ///
    /// # Errors
    /// [`ScheduleError`]; nothing of the transaction may then be kept.
    pub fn on(&mut self, build: Id, event: &Event) -> Result<(), ScheduleError> {
        let now = self.now;
        let effects = self.opened(build)?.on(now, event)?;
        self.carry_out(build, effects)
    }

    /// The build as this transaction sees it.
    fn opened(&mut self, id: Id) -> Result<&mut Build, PortError> {
        if !self.open.contains_key(&id) {
            let build = build(self.w.as_read(), id)?
                .ok_or_else(|| PortError::Other(format!("there is no build {id}; its record was removed")))?;
            self.open.insert(id, build);
        }
        Ok(self.open.get_mut(&id).expect("inserted above"))
    }

    /// Takes a build over from a process that is gone.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn resume(&mut self, id: Id) -> Result<(), ScheduleError> {
        let now = self.now;
        let build = self.opened(id)?;
        let running = |job: &&quern_builds::Job| matches!(job.state(), JobState::Running { .. });
        let running: Vec<Id> = build.jobs().iter().filter(running).map(|job| job.id).collect();
        for id in running {
            if let Some(mut job) = job::get(self.w.as_read(), id)? {
                let kept = journal::count(self.w.as_read(), id)?;
                let build = self.opened(job.build)?;
                if let Some(index) = build.index_of(id).filter(|_| kept > job.kept) {
                    build.got_on(index)?;
                }
                (job.state, job.restarts, job.kept) = (State::Starting, job.restarts + 1, kept);
                job::put(self.w, &mut job)?;
            }
        }
        let effects = self.opened(id)?.resume(now)?;
        self.carry_out(id, effects)
    }

    /// Carries out effects on records; they may cause more, in this build or in others, until all is quiet. Jobs that
    /// are to run stay so in their build: whoever drives it finds them there.
    fn carry_out(&mut self, id: Id, effects: Vec<Effect>) -> Result<(), ScheduleError> {
        let mut tasks: VecDeque<(Id, Task)> =
            effects.into_iter().map(|effect| (id, Task::Effect(effect))).collect();
        while let Some((id, task)) = tasks.pop_front() {
            self.opened(id)?;
            let mut build = self.open.remove(&id).expect("opened above");
            let more = match task {
                Task::Effect(effect) => self.carry_out_one(&mut build, &effect)?,
                Task::Turn(job) => self.locked(&mut build, job)?,
            };
            self.open.insert(id, build);
            tasks.extend(more);
        }
        for build in self.open.values() {
            put(self.w, BUILDS, &build.id().to_string(), build)?;
        }
        Ok(())
    }

    fn carry_out_one(
        &mut self,
        build: &mut Build,
        effect: &Effect,
    ) -> Result<Vec<(Id, Task)>, ScheduleError> {
        match effect {
            Effect::LockOutputs { job } => {
                let mut queues = self.queues()?;
                let locking = &build.jobs()[index(*job)];
                let turn = queues.enter(locking.id, &locking.plan.outputs);
                put(self.w, QUEUES, ALL, &queues)?;
                Ok(if turn { vec![(build.id(), Task::Turn(*job))] } else { Vec::new() })
            }
            Effect::Run { job, inputs, .. } => {
                let id = build.jobs()[index(*job)].id;
                if let Some(mut record) = job::get(self.w.as_read(), id)? {
                    record.inputs.clone_from(inputs);
                    job::put(self.w, &mut record)?;
                }
                Ok(Vec::new())
            }
            Effect::Cancel { job } => {
                let driver = lease::holder(self.w.as_read(), &build.id().to_string(), self.me, self.now)?;
                if driver.is_some() {
                    return Ok(Vec::new());
                }
                let effects = build.on(self.now, &Event::Stopped { job: *job })?;
                Ok(tasks(build, effects))
            }
            Effect::FinishOutputs { job } => self.remember(build, *job, false),
            Effect::KeepOutputs { job } => self.remember(build, *job, true),
            Effect::DropOutputs { job } => self.drop_outputs(build, *job),
            Effect::Close { .. } => {
                self.w.delete(ACTIVE, &build.id().to_string())?;
                Ok(Vec::new())
            }
        }
    }

    /// Tells a build that it is a job's turn.
    fn locked(&mut self, build: &mut Build, job: JobIndex) -> Result<Vec<(Id, Task)>, ScheduleError> {
        let plan = &build.jobs()[index(job)].plan;
        let last: Option<LastBuilt> = get(self.w.as_read(), LAST, &plan.spec.0)?;
        let mut stands = true;
        for output in &plan.outputs {
            let head = commits::head(self.w.as_read(), output)?;
            stands &= last.as_ref().is_some_and(|last| last.outputs.get(output) == head.as_ref());
        }
        let effects = build.on(self.now, &Event::OutputsLocked { job, last: last.filter(|_| stands) })?;
        Ok(tasks(build, effects))
    }

    /// A job has succeeded: what it leaves is what the next plan starts from.
    fn remember(
        &mut self,
        build: &mut Build,
        job: JobIndex,
        kept: bool,
    ) -> Result<Vec<(Id, Task)>, ScheduleError> {
        let done = &build.jobs()[index(job)];
        let Some(last) = done.remembered() else { return Ok(Vec::new()) };
        let spec = done.plan.spec.0.clone();
        put(self.w, LAST, &spec, &last)?;
        self.settle_planned(build, job, &last)?;
        let before = done.before.as_ref().map(|before| before.job);
        let id = build.jobs()[index(job)].id;
        if let Some(mut record) = job::get(self.w.as_read(), id)? {
            record.inputs.clone_from(&last.inputs);
            record.output = last.outputs.values().next().map(|head| head.commit);
            record.state = State::Success;
            record.finished = Some(self.now);
            if kept {
                record.started = record.started.or(Some(self.now));
                record.unchanged = true;
                // It did not even look for its datums: they are those of the job whose output it keeps.
                let kept = before.map(|before| job::get(self.w.as_read(), before)).transpose()?.flatten();
                let total = kept.map_or(0, |kept| kept.counts.total);
                record.counts = Counts { skipped: total, total, ..Counts::default() };
            }
            job::put(self.w, &mut record)?;
        }
        self.leave_queues(build, id)
    }

    /// What readers in the same build will see is what they were planned for; readers planned by later builds are left to
    /// find that their input advanced.
    fn settle_planned(&mut self, build: &Build, job: JobIndex, last: &LastBuilt) -> Result<(), PortError> {
        let mut settle = |spec: &str, of: Id, change: &dyn Fn(&mut LastBuilt)| -> Result<(), PortError> {
            let planned: Option<LastBuilt> = get(self.w.as_read(), PLANNED, spec)?;
            if let Some(mut planned) = planned.filter(|planned| planned.job == of) {
                change(&mut planned);
                put(self.w, PLANNED, spec, &planned)?;
            }
            Ok(())
        };
        let done = &build.jobs()[index(job)];
        settle(&done.plan.spec.0, done.id, &|planned| planned.inputs.clone_from(&last.inputs))?;
        for reader in build.jobs().iter().filter(|reader| reader.plan.waits_for().contains(&job)) {
            settle(&reader.plan.spec.0, reader.id, &|planned| {
                planned.inputs.extend(last.outputs.iter().map(|(branch, head)| (branch.clone(), *head)));
                planned.inputs.retain(|branch, _| reader.plan.inputs.iter().any(|i| i.source == *branch));
            })?;
        }
        Ok(())
    }

    fn drop_outputs(&mut self, build: &mut Build, job: JobIndex) -> Result<Vec<(Id, Task)>, ScheduleError> {
        let ended = &build.jobs()[index(job)];
        let (id, outputs) = (ended.id, ended.plan.outputs.clone());
        let (state, reason) = ending(build, ended);
        for output in &outputs {
            commits::drop_of(self.w, output, id, self.ids, self.now)?;
        }
        if let Some(mut record) = job::get(self.w.as_read(), id)? {
            (record.state, record.finished) = (state, Some(self.now));
            if record.reason.is_empty() {
                record.reason = reason;
            }
            job::put(self.w, &mut record)?;
        }
        self.leave_queues(build, id)
    }

    /// Gives a job's outputs free; others, perhaps of other builds, may have their turn now.
    fn leave_queues(&mut self, build: &Build, id: Id) -> Result<Vec<(Id, Task)>, ScheduleError> {
        let mut queues = self.queues()?;
        let moved_up = queues.leave(id);
        put(self.w, QUEUES, ALL, &queues)?;
        let mut turns = Vec::new();
        for next in moved_up {
            if let Some(job) = build.index_of(next) {
                turns.push((build.id(), Task::Turn(job)));
            } else if let Some(record) = job::get(self.w.as_read(), next)?
                && let Some(job) = self.opened(record.build)?.index_of(next)
            {
                turns.push((record.build, Task::Turn(job)));
            }
        }
        Ok(turns)
    }

    fn queues(&self) -> Result<OutputQueues, PortError> {
        Ok(get(self.w.as_read(), QUEUES, ALL)?.unwrap_or_default())
    }

    /// Forgets a pipeline: its unfinished jobs are stopped, its memory is dropped.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn forget(&mut self, name: &str) -> Result<(), ScheduleError> {
        for job in job::list(self.w.as_read(), Some(name), None)? {
            if !job.state.has_ended() {
                self.stop(&job)?;
            }
        }
        self.w.delete(LAST, name)?;
        self.w.delete(PLANNED, name)?;
        Ok(())
    }

    /// Stops a job that has not ended.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn stop(&mut self, job: &Job) -> Result<(), ScheduleError> {
        let Some(build) = build(self.w.as_read(), job.build)? else { return Ok(()) };
        let Some(index) = build.index_of(job.id) else { return Ok(()) };
        self.on(job.build, &Event::AbortJob { job: index, cause: AbortCause::Requested })
    }
}

fn tasks(build: &Build, effects: Vec<Effect>) -> Vec<(Id, Task)> {
    effects.into_iter().map(|effect| (build.id(), Task::Effect(effect))).collect()
}

const fn index(job: JobIndex) -> usize {
    job.0 as usize
}

/// How a job that did not succeed ended, in a user's words.
fn ending(build: &Build, job: &quern_builds::Job) -> (State, String) {
    match job.state() {
        JobState::Failed { failure, .. } => (State::Failure, failure.message.clone()),
        JobState::Aborted { cause: AbortCause::Upstream { .. }, .. } => {
            let failed = job.plan.inputs.iter().filter(|input| {
                let producer = input.producer.and_then(|producer| build.job(producer));
                producer
                    .is_some_and(|p| matches!(p.state(), JobState::Failed { .. } | JobState::Aborted { .. }))
            });
            let names: Vec<String> = failed.map(|input| input.source.to_string()).collect();
            (State::Failure, format!("inputs failed: {}", names.join(", ")))
        }
        JobState::Aborted { cause: AbortCause::Superseded, .. } => {
            (State::Killed, "a newer job took its place".to_owned())
        }
        _ => (State::Killed, "stopped".to_owned()),
    }
}

/// The build of this id.
///
/// # Errors
/// Those of the port.
pub fn build(r: &dyn MetaRead, id: Id) -> Result<Option<Build>, PortError> {
    get(r, BUILDS, &id.to_string())
}

/// Builds that are not over.
///
/// # Errors
/// Those of the port.
pub fn active(r: &dyn MetaRead) -> Result<Vec<Id>, PortError> {
    let ids = r.scan(ACTIVE, &Scan::default())?;
    ids.iter()
        .map(|(id, _)| id.parse().map_err(|e| PortError::Other(format!("active builds: {e}"))))
        .collect()
}

fn get<T: DeserializeOwned>(r: &dyn MetaRead, table: Table, key: &str) -> Result<Option<T>, PortError> {
    r.get(table, key)?.map(|text| parse(&text)).transpose()
}

fn put<T: Serialize>(w: &mut dyn MetaWrite, table: Table, key: &str, value: &T) -> Result<(), PortError> {
    let text = serde_json::to_string(value).expect("records hold only text, numbers and text keys");
    w.put(table, key, &text)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, PortError> {
    serde_json::from_str(text).map_err(|e| PortError::Other(format!("a record is not readable: {e}")))
}
