//! What a job's watcher gets to see: a closed set of events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use quern_core::Digest;

use crate::error::VertexLabel;
use crate::explain::MissReason;

/// One thing that happened to a vertex of a watched job.
#[derive(Debug, Clone)]
pub struct ProgressEvent {
    /// The vertex.
    pub vertex: VertexLabel,
    /// When.
    pub at: SystemTime,
    /// What.
    pub change: Change,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Change {
    /// The vertex belongs to the job now. Comes once per vertex, before anything else; a job that
    /// joins late gets the present state right after it.
    Announced {
        /// The vertices it depends on.
        inputs: Vec<Digest>,
        /// The description given in its options.
        description: BTreeMap<String, String>,
    },
    /// No cache has it: it has to run, for this reason.
    Missed(MissReason),
    /// Exec began.
    Started,
    /// Output of the step.
    Log {
        /// Which stream.
        stream: LogStream,
        /// The bytes, as they came.
        bytes: Arc<[u8]>,
    },
    /// A progress value of the step.
    Status(Status),
    /// Nothing more will happen to it for now.
    Finished(Finish),
}

/// How a vertex came to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// Exec succeeded.
    Ran,
    /// The result came from a cache.
    Cached,
    /// The result of an equal vertex of other definition serves this one, too.
    Shared,
    /// A cache has it, but nobody needed the result itself.
    Skipped,
    /// Nobody needed it, and it was not looked whether a cache has it.
    NotNeeded,
    /// It failed.
    Failed(String),
    /// It was given up.
    Cancelled,
}

/// A stream of a step's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A progress value of a step, for instance bytes of a download.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// What is counted; a later value of the same name replaces the earlier.
    pub name: String,
    /// How far it is.
    pub current: u64,
    /// How far it goes; 0 if unknown.
    pub total: u64,
    /// True for the last value.
    pub done: bool,
}
