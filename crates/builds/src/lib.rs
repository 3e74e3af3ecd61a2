//! The rules of building: which jobs a build holds, why, in which order, and what follows from each thing
//! that happens to them.
//!
//! Everything here decides and nothing here runs: [`plan()`] turns job specs, heads and memories into a
//! [`BuildPlan`]; [`Build::on`] turns an event into state and [`Effect`]s. Whoever drives it carries the effects
//! out. The alternative, rules woven into the loop that runs jobs, could neither be tested by the thousand
//! nor survive a crash between two lines; here a build is a value that may be stored between any two events.
//!
//! The words are those of Foundry's build service: a *job spec* makes output datasets from inputs, a *job* is one
//! execution of it, a *build* one submission. What a job does is not known here: pipelines, operations and
//! stages all look the same.
//!
//! ```
//! use std::collections::BTreeMap;
//! use quern_builds::{
//!     Build, BuildPolicy, DatasetBranch, Effect, Event, Facts, Freshness, Head, JobIndex, JobInput, JobSpec, JobSpecId,
//!     JobSpecs, Request, Selection, plan,
//! };
//! use quern_core::{Digest, Id, Timestamp};
//!
//! let (raw, clean) = (DatasetBranch::new("raw", "master"), DatasetBranch::new("clean", "master"));
//! let specs = JobSpecs::new(vec![JobSpec {
//!     id: JobSpecId::new("tidy"),
//!     logic: Digest::of(b"what it does"),
//!     inputs: vec![JobInput::new(raw.clone())],
//!     outputs: vec![clean],
//!     freshness: Freshness::ByInputs,
//!     attempts: None,
//! }])?;
//! let head = Head { commit: Id::from_bytes([1; 16]), content: Digest::of(b"files") };
//! let heads = BTreeMap::from([(raw.clone(), head)]);
//! let facts = Facts { specs: &specs, heads: &heads, last_built: &BTreeMap::new() };
//!
//! // Somebody committed to `raw`: build whatever follows from it.
//! let plan = plan(&Request::of(Selection::Downstream { of: vec![raw.clone()] }), &facts)?;
//! assert_eq!(plan.jobs[0].reasons[0].to_string(), "it was never built");
//!
//! let ids = || Id::from_bytes([3; 16]);
//! let (mut build, effects) = Build::open(Id::from_bytes([2; 16]), plan, BuildPolicy::default(), ids, Timestamp(0));
//! let job = JobIndex(0);
//! assert_eq!(effects, [Effect::LockOutputs { job }]);
//! let effects = build.on(Timestamp(1), &Event::OutputsLocked { job, last: None })?;
//! assert_eq!(effects, [Effect::Run { job, attempt: 1, not_before: None, inputs: BTreeMap::from([(raw, head)]) }]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Limits: freshness looks at whole inputs and outputs of a job; what inside a stale job can be reused is the
//! solver's question. Time is always passed in.

pub mod build;
pub mod graph;
pub mod job;
pub mod plan;
pub mod queue;
pub mod selection;
pub mod spec;
pub mod staleness;

pub use build::{Build, BuildPolicy, BuildStatus, Effect, Event, EventError};
pub use graph::{JobSpecs, SpecError};
pub use job::{AbortCause, Attempt, AttemptEnd, Completion, IllegalTransition, Job, JobFailure, JobState};
pub use plan::{BuildPlan, Facts, JobIndex, PlanError, PlannedInput, PlannedJob, Request, SkippedSpec, plan};
pub use queue::OutputQueues;
pub use selection::{Selection, SelectionError};
pub use spec::{DatasetBranch, Freshness, Head, InputFailure, JobInput, JobSpec, JobSpecId};
pub use staleness::{Fresh, LastBuilt, Staleness};
