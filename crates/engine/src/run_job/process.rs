//! The datums of a job that have to run: laid out as a graph chunk by chunk, run, and kept as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use quern_catalog::{Datums, PlannedDatum};
use quern_core::event::{Counts, Event as Shown, StepStatus, Stream};
use quern_core::port::PortError;
use quern_core::{ContentRef, Digest, Id};
use quern_solver::{Graph, GraphBuilder, Input, SolveError, Vertex, VertexError};

use super::Work;
use crate::datums::{self, Common, label};
use crate::journal::{self, DatumRecord, DatumState};
use crate::step_op::{StepFailure, StepOp, StepResult, Watcher, vertex_digest};

/// Most steps handed to the graph at once; bounds memory and how long the first step waits, not parallelism.
const CHUNK: usize = 256;

impl Work<'_> {
    /// Runs datums and keeps what they give. Gives back the outputs and, if datums failed, a reason.
    pub(super) fn process(
        &self,
        common: &Common,
        datums: &Datums,
        missing: &[PlannedDatum],
        counts: &mut Counts,
    ) -> Result<(Vec<(Digest, ContentRef)>, String), datums::PlanError> {
        let records = &self.runner.records;
        let (sender, receiver) = channel();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let keeper =
                scope.spawn(move || journal::keep(&*records.meta, &*records.blobs, self.job.id, &receiver));
            if let Some(limit) = self.pipeline.run.job_timeout {
                let over = &over;
                scope.spawn(move || self.watch_time(Duration::from_millis(limit), over));
            }
            let done = self.process_chunks(common, datums, missing, (counts, &sender));
            over.store(true, Ordering::Relaxed);
            drop(sender);
            let unkept = keeper.join().expect("the keeper of records does not panic")?;
            self.unkept.get_or_init(|| unkept);
            done
        })
    }

    /// Cancels the job when its time is over; looks now and then whether it has ended.
    fn watch_time(&self, limit: Duration, over: &AtomicBool) {
        let end = Instant::now() + limit;
        while !over.load(Ordering::Relaxed) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.timed_out.store(true, Ordering::Relaxed);
                return self.cancel.cancel();
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    /// Runs datums chunk by chunk; the next chunk is laid out while one runs.
    fn process_chunks(
        &self,
        common: &Common,
        datums: &Datums,
        missing: &[PlannedDatum],
        (counts, journal): (&mut Counts, &Sender<(Digest, DatumRecord)>),
    ) -> Result<(Vec<(Digest, ContentRef)>, String), datums::PlanError> {
        let chunk = self.pipeline.run.parallelism.map_or(CHUNK, |n| (n as usize).clamp(1, CHUNK));
        let (mut outputs, mut reason) = (Vec::with_capacity(missing.len()), String::new());
        thread::scope(|scope| {
            let (laid_out, next) = sync_channel(1);
            scope.spawn(move || {
                for chunk in missing.chunks(chunk) {
                    // Nobody takes it if the job was cancelled.
                    if laid_out.send((chunk, self.graph(common, datums, chunk))).is_err() {
                        break;
                    }
                }
            });
            for (number, (chunk, graph)) in next.into_iter().enumerate() {
                // A job of its own for each chunk: what is done is let go.
                let name = format!("job {} attempt {} chunk {number}", self.job.id, self.job.restarts);
                let solver_job = self.runner.solver.job(name).map_err(|e| PortError::Other(e.to_string()))?;
                let (graph, edges, labels) = graph?;
                solver_job.build_all(&graph, &edges, self.cancel, |i, result| {
                    let datum = &chunk[i];
                    let Some(record) = self.settle(&labels[i], result) else { return };
                    match record.state {
                        DatumState::Success => counts.processed += u64::from(datum.copies),
                        DatumState::Recovered => counts.recovered += u64::from(datum.copies),
                        _ => counts.failed += u64::from(datum.copies),
                    }
                    if record.state == DatumState::Failed && reason.is_empty() {
                        reason = format!("datum {} failed: {}", labels[i], record.reason);
                    }
                    outputs.extend(record.output().map(|output| (datum.key, output)));
                    // The keeper ends early only with an error, which is reported when it is joined.
                    let _ = journal.send((datum.key, record));
                });
                if self.cancel.is_cancelled() {
                    break;
                }
            }
            Ok((outputs, reason))
        })
    }

    /// One vertex for each datum.
    fn graph(
        &self,
        common: &Common,
        datums: &Datums,
        chunk: &[PlannedDatum],
    ) -> Result<(Graph, Vec<Input>, Vec<String>), datums::PlanError> {
        let blobs = &self.runner.records.blobs;
        let mut builder = GraphBuilder::new();
        let (mut edges, mut labels) = (Vec::new(), Vec::new());
        let salt = if self.pipeline.run.every_job { Some(self.job.id) } else { self.pipeline.salt };
        for planned in chunk {
            let datum = datums.get(planned.index).expect("planned datums come from these");
            let label = label(&datum);
            let (attempt, on_error, held) = common.attempts(&**blobs, &datum)?;
            let digest = vertex_digest(&attempt.step, salt);
            let op = StepOp {
                digest,
                attempt,
                on_error,
                tries: self.pipeline.run.tries,
                executor: Arc::clone(&self.runner.executor),
                blobs: Arc::clone(blobs),
                watcher: Arc::new(StepWatcher {
                    sink: Arc::clone(&self.runner.sink),
                    job: self.job.id,
                    step: label.clone(),
                }),
                held,
            };
            let vertex = builder.add(Vertex::new(digest, Arc::new(op)).name(label.as_str()));
            edges.push(Input::from(vertex));
            labels.push(label);
        }
        let graph = builder.finish().map_err(|e| PortError::Other(e.to_string()))?;
        Ok((graph, edges, labels))
    }

    /// What became of one datum; none if it was given up because the job was.
    fn settle(
        &self,
        label: &str,
        result: Result<quern_solver::CachedResult, SolveError>,
    ) -> Option<DatumRecord> {
        let (record, status) = match result {
            Ok(result) => {
                let StepResult { output, log, millis, tries, ran } = result.get::<StepResult>()?.clone();
                let cached = !ran;
                let record = DatumRecord {
                    state: DatumState::Success,
                    output: Some((output.digest, output.size)),
                    cached,
                    millis,
                    tries,
                    log,
                    reason: String::new(),
                };
                (record, if cached { StepStatus::Cached } else { StepStatus::Ran })
            }
            Err(error) if error.is_cancelled() => return None,
            Err(error) => failed_record(&error),
        };
        self.runner.sink.emit(Shown::StepFinished {
            job: self.job.id,
            step: label.to_owned(),
            status,
            millis: if record.cached { 0 } else { record.millis },
        });
        Some(record)
    }
}

/// The record of a datum whose step failed.
fn failed_record(error: &SolveError) -> (DatumRecord, StepStatus) {
    let mut record = DatumRecord {
        state: DatumState::Failed,
        output: None,
        cached: false,
        millis: 0,
        tries: 1,
        log: None,
        reason: error.to_string(),
    };
    if let SolveError::Vertex { cause, .. } = error
        && let VertexError::Op { error: quern_solver::OpError::Failed(cause), .. } = &**cause
    {
        record.reason = cause.to_string();
        if let Some(failure) = cause.downcast_ref::<StepFailure>() {
            (record.millis, record.tries, record.log) = (failure.millis, failure.tries, failure.log);
            if failure.recovered {
                record.state = DatumState::Recovered;
                return (record, StepStatus::Recovered);
            }
        }
    }
    (record, StepStatus::Failed)
}

/// Passes a step's progress on to the event stream.
struct StepWatcher {
    sink: Arc<dyn quern_core::event::Sink>,
    job: Id,
    step: String,
}

impl Watcher for StepWatcher {
    fn started(&self) {
        self.sink.emit(Shown::StepStarted { job: self.job, step: self.step.clone() });
    }

    fn line(&self, stream: Stream, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        self.sink.emit(Shown::Log { job: self.job, step: self.step.clone(), stream, line });
    }
}
