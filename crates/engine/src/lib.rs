//! Where the rooms meet: specs become pipelines, pipelines become jobs, jobs become steps on the graph, and the loop
//! carries out what the build rules decide.
//!
//! The way of the data, file by file: [`submit`] checks specs and stores [`pipeline`]s, with [`lower`] translating;
//! [`schedule`] plans builds on the records; [`driver`] runs their jobs; [`run_job`](Runner) turns inputs into datums, datums into
//! steps ([`step_op`]) and outputs into a commit. Everything that is known lies in the metadata database and the blobs, so
//! any process can take over from any other at any time ([`lease`]).

pub mod builders;
mod commits;
pub mod datums;
pub mod delete;
pub mod downstream;
pub mod driver;
pub mod explain;
pub mod image;
pub mod images;
pub mod job;
pub mod journal;
pub mod known;
pub mod lease;
mod lower;
pub mod pipeline;
pub mod results;
pub mod roots;
mod run_job;
pub mod schedule;
pub mod snapshot;
pub mod step_op;
pub mod submit;

use std::sync::Arc;

use quern_core::event::Sink;
use quern_core::port::{Blobs, Clock, Executor, Ids, Images, Meta};
use quern_solver::Solver;

/// Everything that is known, and what is needed to change it. Cheap to make: no process is started for it.
#[derive(Clone)]
pub struct Records {
    /// Records.
    pub meta: Arc<dyn Meta>,
    /// Content.
    pub blobs: Arc<dyn Blobs>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<dyn Ids>,
    /// This process.
    pub owner: lease::Owner,
}

/// Runs jobs.
pub struct Runner {
    /// Everything that is known.
    pub records: Records,
    /// Who runs steps.
    pub executor: Arc<dyn Executor>,
    /// Knows images.
    pub images: Arc<dyn Images>,
    /// Hears of everything.
    pub sink: Arc<dyn Sink>,
    /// The graph.
    pub solver: Solver,
}
