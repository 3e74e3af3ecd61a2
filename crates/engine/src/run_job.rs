//! One job from its inputs to its output commit.
//!
//! Steps: open the output commit; find the datums; take away those whose results are known; run the others on the
//! graph, keeping each result as it comes; merge; close the commit together with everything that follows from it, in one
//! transaction. A job that is interrupted anywhere begins again and finds what it had done.

mod process;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use quern_builds::{AbortCause, Event, Head, JobFailure, JobIndex, JobState};
use quern_catalog::merge::{Merged, OutputChange, merge, remerge};
use quern_catalog::{Change, Content, DatumDifference, MergePolicy};
use quern_core::event::{Counts, Event as Shown};
use quern_core::port::{self, PortError};
use quern_core::step::Platform;
use quern_core::{ContentRef, Digest, Id, Tree, canon};
use quern_solver::CancelToken;

use crate::datums::{self, Common, Plan};
use crate::job::{self, Job, State};
use crate::journal::{self, DatumRecord};
use crate::known::{self, Base, FoundIn, Known};
use crate::pipeline::{self, Merge, Pipeline};
use crate::schedule::{self, Scheduler};
use crate::{Runner, commits, lease};

/// How a job ended, before it is recorded.
enum End {
    /// With this tree.
    Done { content: Content, known: Known, counts: Counts },
    /// Datums failed, or their outputs do not fit together.
    Failed { reason: String, counts: Counts, known: Option<Known> },
    /// It ran longer than allowed.
    TimedOut,
    /// It was told to stop, or this process is about to.
    Stopped,
}

/// What a job adds to the last merged tree, and takes from it.
struct Merging {
    difference: DatumDifference,
    added: Vec<(Digest, ContentRef)>,
    /// What the datums were found in.
    found_in: Option<FoundIn>,
}

/// A job with everything it needs.
struct Work<'a> {
    runner: &'a Runner,
    pipeline: Pipeline,
    job: Job,
    cancel: &'a CancelToken,
    timed_out: AtomicBool,
    /// Why datums run, once that is known.
    because: OnceLock<String>,
    /// What became of the last datums; stored with how the job ended.
    unkept: OnceLock<Vec<(Digest, DatumRecord)>>,
}

impl Runner {
    /// Runs one job and records how it ended. Errors of the job become its failure; errors of recording leave it to be
    /// begun again by whoever takes over the build.
    pub(crate) fn run_job(&self, build: Id, index: JobIndex, id: Id, cancel: &CancelToken) {
        let started = Instant::now();
        let recorded = self.start_job(build, index, id).and_then(|begun| {
            let Some((pipeline, job)) = begun else { return Ok(()) };
            let (name, reason) = (pipeline.name.clone(), job.because_text());
            self.sink.emit(Shown::JobStarted { job: id, name: name.clone(), reason });
            let work = Work {
                runner: self,
                pipeline,
                job,
                cancel,
                timed_out: AtomicBool::new(false),
                because: OnceLock::new(),
                unkept: OnceLock::new(),
            };
            let end = work.run().unwrap_or_else(|error| End::Failed {
                reason: error.to_string(),
                counts: Counts::default(),
                known: None,
            });
            let job = self.end_job(build, index, work, &end)?;
            if let Some(Job { state, reason, counts, .. }) = job {
                let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                let state = state.name().to_owned();
                self.sink.emit(Shown::JobFinished { job: id, name, state, reason, counts, millis });
            }
            Ok(())
        });
        if let Err(error) = recorded {
            self.sink.emit(Shown::Warning { message: format!("job {id}: {error}") });
            self.give_up(build, index, id, &error.to_string());
        }
    }

    /// Ends a job that cannot even be begun or recorded, so that the loop does not try for ever. If that fails too, the store
    /// is in trouble and the loop finds out by itself.
    fn give_up(&self, build: Id, index: JobIndex, id: Id, reason: &str) {
        let (now, me, ids) = (self.records.clock.now(), &self.records.owner, &*self.records.ids);
        let given_up = port::write(&*self.records.meta, |w| {
            if let Some(mut job) = job::get(w.as_read(), id)? {
                reason.clone_into(&mut job.reason);
                job::put(w, &mut job)?;
            }
            let event = Event::AbortJob { job: index, cause: AbortCause::Requested };
            Scheduler::new(w, ids, me, now).on(build, &event)
        });
        if let Err(error) = given_up {
            self.sink.emit(Shown::Warning { message: format!("job {id}: {error}") });
        }
    }

    /// Records that the job runs and opens its output commit. None if the build is no longer ours.
    fn start_job(
        &self,
        build: Id,
        index: JobIndex,
        id: Id,
    ) -> Result<Option<(Pipeline, Job)>, schedule::ScheduleError> {
        let (now, me, ids) = (self.records.clock.now(), &self.records.owner, &*self.records.ids);
        port::write(&*self.records.meta, |w| {
            let holder = lease::holder(w.as_read(), &build.to_string(), me, now)?;
            let stored = job::get(w.as_read(), id)?;
            let Some(mut job) = stored.filter(|_| holder.as_ref() == Some(me)) else { return Ok(None) };
            let pipeline = pipeline::get(w.as_read(), &job.pipeline)?
                .ok_or_else(|| PortError::Other(format!("pipeline `{}` was deleted", job.pipeline)))?;
            Scheduler::new(w, ids, me, now).on(build, &Event::Started { job: index })?;
            job.state = State::Running;
            job.started = job.started.or(Some(now));
            job::put(w, &mut job)?;
            if commits::open_of(w.as_read(), &pipeline.output(), id)?.is_none() {
                let inputs: Vec<Id> = job.inputs.values().map(|head| head.commit).collect();
                let branch = commits::branch_ref(&pipeline.output())?;
                let mut change = Change::new(w, now, ids);
                change.start_output_commit(&branch, &inputs, id).map_err(commits::port_error)?;
            }
            Ok(Some((pipeline, job)))
        })
    }

    /// Records how a job ended, with everything that follows from it. None if that is not ours to say.
    fn end_job(
        &self,
        build: Id,
        index: JobIndex,
        work: Work<'_>,
        end: &End,
    ) -> Result<Option<Job>, schedule::ScheduleError> {
        self.records.blobs.sync()?;
        let Work { pipeline, job: Job { id, .. }, because, unkept, .. } = work;
        let (now, me, ids) = (self.records.clock.now(), &self.records.owner, &*self.records.ids);
        port::write(&*self.records.meta, |w| {
            let holder = lease::holder(w.as_read(), &build.to_string(), me, now)?;
            let state =
                schedule::build(w.as_read(), build)?.and_then(|b| b.job(index).map(|j| j.state().clone()));
            let stopping = matches!(state, Some(JobState::AbortPending { .. }));
            let stored = job::get(w.as_read(), id)?;
            let Some(mut job) = stored.filter(|_| holder.as_ref() == Some(me)) else { return Ok(None) };
            journal::put_all(w, id, unkept.get().map_or(&[], Vec::as_slice))?;
            job.datums_because = because.get().cloned().unwrap_or_default();
            let event = match end {
                _ if stopping => Event::Stopped { job: index },
                End::Stopped => return Ok(None),
                End::Done { content, known, counts } => {
                    job.counts = *counts;
                    job.logic = Some(known.logic);
                    known::put(w, &pipeline.name, known)?;
                    let outputs = self.close_commit(w, &pipeline, &mut job, *content)?;
                    Event::Completed { job: index, outputs }
                }
                End::Failed { reason, counts, known } => {
                    job.counts = *counts;
                    if let Some(known) = known {
                        known::put(w, &pipeline.name, known)?;
                    }
                    let failure = JobFailure { message: reason.clone(), retryable: false };
                    Event::Failed { job: index, failure }
                }
                End::TimedOut => {
                    job.reason = "job timed out".into();
                    let failure = JobFailure { message: job.reason.clone(), retryable: false };
                    Event::Failed { job: index, failure }
                }
            };
            job::put(w, &mut job)?;
            let mut scheduler = Scheduler::new(w, ids, me, now);
            scheduler.on(build, &event)?;
            scheduler.advance()?;
            let mut job = job::get(w.as_read(), id)?.unwrap_or(job);
            if matches!(end, End::TimedOut) {
                job.state = State::Killed;
                job::put(w, &mut job)?;
            }
            Ok(Some(job))
        })
    }

    /// Closes the output commit with the tree, or drops it if the branch shows the same already: then nothing that reads the
    /// branch becomes stale.
    fn close_commit(
        &self,
        w: &mut dyn port::MetaWrite,
        pipeline: &Pipeline,
        job: &mut Job,
        content: Content,
    ) -> Result<BTreeMap<quern_builds::DatasetBranch, Head>, PortError> {
        let (now, ids, output) = (self.records.clock.now(), &*self.records.ids, pipeline.output());
        let before = commits::head(w.as_read(), &output)?;
        if let Some(before) = before.filter(|before| before.content == content.tree.digest) {
            commits::drop_of(w, &output, job.id, ids, now)?;
            job.unchanged = true;
            return Ok(BTreeMap::from([(output, before)]));
        }
        let open = commits::open_of(w.as_read(), &output, job.id)?
            .ok_or_else(|| PortError::Other(format!("the output commit of job {} was deleted", job.id)))?;
        let mut change = Change::new(w, now, ids);
        change
            .write(open.id, content)
            .and_then(|_| change.finish(open.id, None))
            .map_err(commits::port_error)?;
        Ok(BTreeMap::from([(output, Head { commit: open.id, content: content.tree.digest })]))
    }
}

impl Work<'_> {
    fn run(&self) -> Result<End, datums::PlanError> {
        let records = &self.runner.records;
        let blobs = &*records.blobs;
        let executor = Arc::clone(&self.runner.executor);
        thread::spawn(move || executor.prepare());
        // The empty tree is named by records that never put it.
        blobs.put(&Tree::default().encode())?;
        let image = self.runner.images.resolve(&self.pipeline.run.image, &Platform::current())?;
        let trees = port::read(&*records.meta, |r| datums::trees(r, &self.job.inputs))?;
        let common = Common::new(blobs, &self.pipeline, &image, &trees, self.job.id)?;
        let known = port::read(&*records.meta, |r| known::get(r, &self.pipeline.name))?;
        let mut base = Base::load(blobs, known.as_ref(), &common.logic)?;
        if self.pipeline.run.every_job {
            base = Base { lines: base.lines, ..Base::default() };
        }
        base.older = base.older.updated(&[], self.done_before()?);
        let Plan { datums, total, difference, found_in } =
            datums::plan(blobs, &self.pipeline, &trees, &base)?;
        let because = self.because(&base, &common);
        self.runner.sink.emit(Shown::JobPlanned {
            job: self.job.id,
            total,
            skipped: difference.skipped(),
            because: because.clone(),
        });
        if !difference.missing.is_empty() {
            self.because.get_or_init(|| because);
        }
        let mut counts = Counts { total, skipped: difference.skipped(), ..Counts::default() };
        let (added, failed) = self.process(&common, &datums, &difference.missing, &mut counts)?;
        match self.interrupted() {
            Some(end) => Ok(end),
            None if counts.failed > 0 => {
                base.older = base.older.updated(&[], added);
                base.lines = Some(common.lines.clone());
                let known = base.save(blobs, common.logic)?;
                Ok(End::Failed { reason: failed, counts, known: Some(known) })
            }
            None => {
                let merging = Merging { difference, added, found_in };
                self.merge(base, &common, merging, counts)
            }
        }
    }

    /// Results this very job had before its process was lost.
    fn done_before(&self) -> Result<Vec<(Digest, ContentRef)>, PortError> {
        if self.job.restarts == 0 {
            return Ok(Vec::new());
        }
        let records = port::read(&*self.runner.records.meta, |r| journal::of_job(r, self.job.id))?;
        Ok(records.into_iter().filter_map(|(key, record)| Some((key, record.output()?))).collect())
    }

    fn interrupted(&self) -> Option<End> {
        if self.timed_out.load(Ordering::Relaxed) {
            return Some(End::TimedOut);
        }
        self.cancel.is_cancelled().then_some(End::Stopped)
    }

    /// Why datums run, in words.
    fn because(&self, base: &Base, common: &Common) -> String {
        let Some(lines) = &base.lines else { return "nothing is known yet".into() };
        let changed = canon::differing(lines, &common.lines);
        if !changed.is_empty() {
            return format!("changed for all datums: {}", changed.join(", "));
        }
        if self.pipeline.run.every_job {
            return "the pipeline reprocesses every datum in every job".into();
        }
        let whole = self.changed_inputs();
        if whole.is_empty() {
            "new or changed datums".into()
        } else {
            format!("{} changed", whole.join(", "))
        }
    }

    /// Inputs that every datum sees whole and whose content is not what the last successful job read.
    fn changed_inputs(&self) -> Vec<String> {
        let records = &self.runner.records;
        let last = port::read(&*records.meta, |r| {
            let jobs = job::list(r, Some(&self.pipeline.name), None)?;
            Ok::<_, PortError>(jobs.into_iter().find(|job| job.state == State::Success))
        });
        let Ok(Some(last)) = last else { return Vec::new() };
        let whole = self.pipeline.input.whole();
        let changed = whole.iter().filter(|(_, branch)| {
            let content = |job: &Job| job.inputs.get(branch).map(|head| head.content);
            content(&last) != content(&self.job)
        });
        changed.map(|(name, _)| format!("/pfs/{name}")).collect()
    }

    /// One tree of all outputs, starting from the last one where there is one.
    fn merge(
        &self,
        mut base: Base,
        common: &Common,
        Merging { difference, added, found_in }: Merging,
        counts: Counts,
    ) -> Result<End, datums::PlanError> {
        let blobs = &*self.runner.records.blobs;
        let gone_keys: Vec<Digest> = difference.gone.iter().map(|(key, _)| *key).collect();
        let revived_keys: Vec<Digest> = difference.revived.iter().map(|(key, _)| *key).collect();
        let fresh: Vec<(Digest, ContentRef)> = difference.revived.iter().copied().chain(added).collect();
        let current = base.current.clone().updated(&gone_keys, fresh.clone());
        let policy = match self.pipeline.run.merge {
            Merge::Concat => MergePolicy::Concat,
            Merge::Fail => MergePolicy::Fail,
            Merge::Last => MergePolicy::Last,
        };
        let all = || current.iter().collect::<Vec<_>>();
        let merged: Result<Merged, _> = match &base.merged {
            Some(before) => {
                let change = OutputChange { gone: &difference.gone, added: &fresh };
                remerge(blobs, before, &change, policy, all)
            }
            None => merge(blobs, &all(), policy),
        };
        base.older = base.older.updated(&revived_keys, difference.gone.clone());
        base.lines = Some(common.lines.clone());
        let merged = match merged {
            Ok(merged) => merged,
            Err(error) => {
                base.older = base.older.updated(&[], fresh);
                let known = base.save(blobs, common.logic)?;
                return Ok(End::Failed { reason: error.to_string(), counts, known: Some(known) });
            }
        };
        let size = self.size(&merged.tree)?;
        let content = Content { tree: merged.tree, size };
        base.current = current;
        // A recovered datum has no output, so it is not among the current ones and is found again next time.
        base.found_in = found_in.filter(|_| counts.recovered == 0);
        base.merged = Some(merged);
        Ok(End::Done { content, known: base.save(blobs, common.logic)?, counts })
    }

    /// Bytes of all files of the output, counted from the previous output's where there is one.
    fn size(&self, tree: &ContentRef) -> Result<u64, PortError> {
        let records = &self.runner.records;
        let before = port::read(&*records.meta, |r| {
            let head = quern_catalog::View::new(r)
                .finished_head(&commits::branch_ref(&self.pipeline.output())?)
                .map_err(commits::port_error)?;
            Ok::<_, PortError>(head.map_or_else(Content::empty, |commit| Content::of(&commit)))
        })?;
        let catalog =
            quern_catalog::Catalog::new(&*records.blobs, &*records.meta, &*records.clock, &*records.ids);
        catalog.size_after(&before, tree).map_err(|e| PortError::Other(e.to_string()))
    }
}
