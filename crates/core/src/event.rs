//! The one event stream. Terminal progress, `--progress=rawjson`, logs and later the HTTP stream and
//! the web page all read it and nothing else.

use serde::Serialize;

use crate::id::Id;

/// Everything that can be reported while work goes on. One line of JSON each in raw form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A job begins.
    JobStarted {
        /// The job.
        job: Id,
        /// What it runs, such as a pipeline's name.
        name: String,
        /// Why it runs, in words.
        reason: String,
    },
    /// A job knows its units of work.
    JobPlanned {
        /// The job.
        job: Id,
        /// All datums.
        total: u64,
        /// Those whose result is known already.
        skipped: u64,
        /// Why the others run, in words; empty if nothing runs.
        because: String,
    },
    /// A step begins to run.
    StepStarted {
        /// The job it belongs to.
        job: Id,
        /// Name for people, such as a datum's path.
        step: String,
    },
    /// A step has ended.
    StepFinished {
        /// The job it belongs to.
        job: Id,
        /// Name for people.
        step: String,
        /// How it ended.
        status: StepStatus,
        /// How long it ran, zero if it did not.
        millis: u64,
    },
    /// A line a step wrote.
    Log {
        /// The job it belongs to.
        job: Id,
        /// Name for people.
        step: String,
        /// Which stream.
        stream: Stream,
        /// The line without its end; invalid UTF-8 replaced.
        line: String,
    },
    /// A job has ended.
    JobFinished {
        /// The job.
        job: Id,
        /// What it ran.
        name: String,
        /// Its final state, such as `success`.
        state: String,
        /// Why, if it failed.
        reason: String,
        /// Datums by outcome.
        counts: Counts,
        /// From start to end.
        millis: u64,
    },
    /// Something a person should know that stops nothing.
    Warning {
        /// In words.
        message: String,
    },
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// It ran and succeeded.
    Ran,
    /// Its result was in the cache.
    Cached,
    /// It ran and failed.
    Failed,
    /// It failed and its error handler succeeded.
    Recovered,
    /// It was given up because the job was.
    Cancelled,
}

/// Which of a program's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Datums of a job by outcome; `total` is their sum once the job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, serde::Deserialize)]
pub struct Counts {
    /// Run now, or taken from the cache of another pipeline.
    pub processed: u64,
    /// Known from an earlier job of the same pipeline.
    pub skipped: u64,
    /// Given up after the last try.
    pub failed: u64,
    /// Failed, but the error handler succeeded.
    pub recovered: u64,
    /// All.
    pub total: u64,
}

/// Takes events; called from any thread, must not block for long.
pub trait Sink: Send + Sync {
    /// Takes one event.
    fn emit(&self, event: Event);
}

/// A sink that forgets.
pub struct Discard;

impl Sink for Discard {
    fn emit(&self, _: Event) {}
}
