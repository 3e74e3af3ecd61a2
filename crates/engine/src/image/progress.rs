//! What the solver does, told as events of one build.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use quern_core::event::{Counts, Event, Sink, StepStatus, Stream};
use quern_core::{Digest, Id};
use quern_solver::{Change, Finish, Job, LogStream, ProgressEvent};

use super::lower::Lowered;

/// A thread that passes events on.
pub struct Watching(JoinHandle<()>);

impl Watching {
    /// Waits until everything was passed on; the job must have been discarded.
    pub fn join(self) {
        // A panic of a display has been printed already and is no reason to lose the image.
        let _ = self.0.join();
    }
}

/// Passes what happens to the vertices of a job on to `sink`, under the id of the build.
pub fn watch(job: &Job, build: Id, lowered: &Lowered, sink: Arc<dyn Sink>) -> Watching {
    let events = job.watch();
    let total = lowered.graph.len() as u64;
    Watching(std::thread::spawn(move || {
        sink.emit(Event::JobPlanned { job: build, total, skipped: 0, because: String::new() });
        let mut teller = Teller { build, sink, steps: BTreeMap::new() };
        events.into_iter().for_each(|event| teller.tell(&event));
    }))
}

struct Teller {
    build: Id,
    sink: Arc<dyn Sink>,
    steps: BTreeMap<Digest, Step>,
}

#[derive(Default)]
struct Step {
    began: Option<SystemTime>,
    /// The start of a line whose end has not come yet.
    line: Vec<u8>,
}

impl Teller {
    fn tell(&mut self, event: &ProgressEvent) {
        let (job, step) = (self.build, event.vertex.name.to_string());
        let state = self.steps.entry(event.vertex.digest).or_default();
        match &event.change {
            Change::Started => {
                state.began = Some(event.at);
                self.sink.emit(Event::StepStarted { job, step });
            }
            Change::Log { stream, bytes } => {
                let stream = match stream {
                    LogStream::Stdout => Stream::Stdout,
                    LogStream::Stderr => Stream::Stderr,
                };
                state.line.extend_from_slice(bytes);
                while let Some(end) = state.line.iter().position(|byte| *byte == b'\n') {
                    let line = state.line[..end].trim_ascii_end();
                    let line = String::from_utf8_lossy(line).into_owned();
                    state.line.drain(..=end);
                    self.sink.emit(Event::Log { job, step: step.clone(), stream, line });
                }
            }
            Change::Finished(finish) => {
                let passed = |began| event.at.duration_since(began).unwrap_or_default().as_millis();
                let millis = state.began.map_or(0, |began| u64::try_from(passed(began)).unwrap_or(u64::MAX));
                let status = match finish {
                    Finish::Ran => StepStatus::Ran,
                    Finish::Cached | Finish::Shared | Finish::Skipped => StepStatus::Cached,
                    Finish::NotNeeded => return,
                    Finish::Failed(_) => StepStatus::Failed,
                    Finish::Cancelled => StepStatus::Cancelled,
                };
                self.sink.emit(Event::StepFinished { job, step, status, millis });
            }
            Change::Announced { .. } | Change::Missed(_) | Change::Status(_) => {}
        }
    }
}

/// The counts of a build that ended, for its last event.
pub fn counts(total: u64, ran: u64) -> Counts {
    Counts { processed: ran, skipped: total.saturating_sub(ran), total, ..Counts::default() }
}
