//! Images from Dockerfiles, on the same graph and cache as everything else.
//!
//! The way of a build, file by file: the front end ([`quern_spec::dockerfile`]) reads the file and plans its stages; [`resolve`] finds
//! what they start from; [`lower`] makes a graph of them and a config; the solver builds the target's file system, a [`Snapshot`],
//! with the operations of [`ops`]; [`image_of`](ImageBuilder::image_of) makes an image of snapshot and config. What becomes of the image is
//! up to the caller ([`crate::images`]).

pub mod cache;
pub mod config;
pub mod context;
pub mod git;
mod ignore;
pub mod lower;
pub mod ops;
pub mod progress;
pub mod provenance;
pub mod request;
mod resolve;
pub mod rootfs;
mod turn;

use std::collections::BTreeSet;
use std::sync::Arc;

use quern_core::event::{Event, Sink};
use quern_core::port::{Cancel, Clock, Ids};
use quern_core::{Digest, Id, Timestamp, Version};
use quern_oci::document::{Document, ImageConfig, RootFs, media};
use quern_solver::{
    CacheManager, CachedResult, CancelToken, GraphError, Input, JobError, SolveError, Solver,
};
use quern_spec::diagnostic::Diagnostics;
use quern_spec::dockerfile::{Dockerfile, Platform, parse_dockerfile, plan_stages};
use quern_spec::source::SourceText;

use crate::images::{ImageError, ImageLayer, ImageRecord, ImageStore, PackError};
use crate::snapshot::Snapshot;
use context::LocalContext;
use lower::{Lowered, Outside, Part, Place, Surroundings, lower};
use ops::{RunFailure, Tools};
use provenance::Account;
use request::Request;
use turn::Turn;

/// Builds images.
pub struct ImageBuilder {
    /// What operations work with.
    pub tools: Arc<Tools>,
    /// Where images are.
    pub images: Arc<ImageStore>,
    /// The graph.
    pub solver: Solver,
    /// Hears of every step.
    pub sink: Arc<dyn Sink>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<dyn Ids>,
    /// Folder in which digests of files of contexts are remembered.
    pub memory: std::path::PathBuf,
}

/// What a build gave.
pub struct Built {
    /// The target stage for each platform, in the order in which they were asked for.
    pub stages: Vec<BuiltStage>,
    /// What was remarked on the way.
    pub warnings: Diagnostics,
    /// What other builds wait for, until the image is recorded too.
    pub turn: Option<Turn>,
}

/// A stage that was built for a platform.
pub struct BuiltStage {
    /// What it was built for.
    pub platform: Platform,
    /// Its file system.
    pub snapshot: Snapshot,
    /// Its config, without layers and times.
    pub config: ImageConfig,
    /// The result with its cache keys, for exports of the cache.
    pub result: CachedResult,
    /// What is told of it to others.
    pub account: Account,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile, or what was asked of it, is wrong.
    #[error("the Dockerfile cannot be built")]
    Dockerfile(SourceText, Diagnostics),
    /// An image could not be had.
    #[error("{name}: {error}")]
    Image {
        /// Its name.
        name: String,
        /// Why.
        error: Box<ImageError>,
    },
    /// A step failed.
    #[error("{error}")]
    Step {
        /// What it said.
        error: Box<SolveError>,
        /// Where it stands.
        place: Option<(SourceText, Place)>,
    },
    /// Somebody said stop.
    #[error("interrupted; run the command again to carry on")]
    Cancelled,
    /// More steps than a graph holds.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The layers could not be described.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The build has the name of one that runs.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] quern_core::port::PortError),
}

impl ImageBuilder {
    /// Builds the target stage of a Dockerfile for every platform, in one graph.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(
        &self,
        request: &Request,
        caches: Vec<Arc<dyn CacheManager>>,
        cancel: &CancelToken,
    ) -> Result<Built, BuildError> {
        let (id, began) = (self.ids.fresh(), self.clock.now());
        let (dockerfile, mut diagnostics) = parse_dockerfile(&request.dockerfile);
        let wrong = |diagnostics| BuildError::Dockerfile(request.dockerfile.clone(), diagnostics);
        if diagnostics.has_errors() {
            return Err(wrong(diagnostics));
        }
        let parts = self.parts(&dockerfile, request, &mut diagnostics, &cancel_of(cancel))?;
        let around = Surroundings {
            request,
            tools: Arc::clone(&self.tools),
            images: Arc::clone(&self.images),
            context: Arc::new(self.local(&request.context)),
            caches,
        };
        let lowered = match parts {
            Some(parts) => lower(&parts, &around, &mut diagnostics)?.map(|lowered| (parts, lowered)),
            None => None,
        };
        let Some((parts, mut lowered)) = lowered else { return Err(wrong(diagnostics)) };
        let contexts = local_contexts(&around, &parts);
        let turn = self.turn(request, &contexts, &cancel_of(cancel))?;
        let results = self.solve(id, request, &lowered, cancel)?;
        if turn.is_some() {
            self.hand_on(&contexts);
        }
        let times = (began, self.clock.now());
        let accounts = parts.iter().enumerate().map(|part| Account::new(id, times, request, part, &lowered));
        let accounts: Vec<Account> = accounts.collect();
        let targets = std::mem::take(&mut lowered.targets);
        let stages = parts.iter().zip(targets).zip(results).zip(accounts);
        let stages = stages.map(|(((part, target), result), account)| {
            let snapshot = result.get::<Snapshot>().cloned().expect("every operation here gives a snapshot");
            let mut config = target.config;
            config::label(&mut config.config, &request.labels);
            BuiltStage { platform: part.platform.clone(), snapshot, config, result, account }
        });
        Ok(Built { stages: stages.collect(), warnings: diagnostics, turn })
    }

    /// Plans the build for every platform and finds what the plans need; none if the diagnostics have errors.
    fn parts<'r>(
        &self,
        dockerfile: &Dockerfile,
        request: &'r Request,
        diagnostics: &mut Diagnostics,
        cancel: &Cancel,
    ) -> Result<Option<Vec<Part<'r>>>, BuildError> {
        let mut parts = Vec::with_capacity(request.platforms.len());
        let mut names = resolve::Names::new(self, request, cancel);
        for platform in &request.platforms {
            let (plan, mut own) = plan_stages(dockerfile, &request.plan(platform));
            let outside = match plan {
                Some(mut plan) => {
                    let outside = names.resolve(&mut plan, platform, &mut own)?;
                    Some((plan, outside))
                }
                None => None,
            };
            diagnostics.join(own);
            let Some((plan, outside)) = outside else { return Ok(None) };
            parts.push(Part { platform, plan, outside });
        }
        let unused = |part: &Part<'_>| part.plan.unused_build_args().into_iter().map(str::to_owned).collect();
        let unused: Vec<BTreeSet<String>> = parts.iter().map(unused).collect();
        let unused = unused.into_iter().reduce(|one, other| &one & &other).unwrap_or_default();
        if !unused.is_empty() {
            let names = unused.into_iter().collect::<Vec<_>>().join(", ");
            let message = format!("no ARG declares {names}; the value is not used");
            self.sink.emit(Event::Warning { message });
        }
        Ok(Some(parts))
    }

    /// Builds all targets at the same time. One that fails ends the others.
    fn solve(
        &self,
        id: Id,
        request: &Request,
        lowered: &Lowered,
        cancel: &CancelToken,
    ) -> Result<Vec<CachedResult>, BuildError> {
        let job = self.solver.job(format!("image {id}"))?;
        let watching = progress::watch(&job, id, lowered, Arc::clone(&self.sink));
        let edges: Vec<Input> = lowered.targets.iter().map(|target| target.root.into()).collect();
        let mut results: Vec<Option<CachedResult>> = edges.iter().map(|_| None).collect();
        let mut failure: Option<SolveError> = None;
        job.build_all(&lowered.graph, &edges, cancel, |number, result| match result {
            Ok(result) => results[number] = Some(result),
            Err(error) => {
                job.cancel();
                if failure.as_ref().is_none_or(SolveError::is_cancelled) {
                    failure = Some(error);
                }
            }
        });
        job.discard();
        watching.join();
        match failure {
            None => Ok(results.into_iter().flatten().collect()),
            Some(error) if error.is_cancelled() => Err(BuildError::Cancelled),
            Some(error) => {
                let place = match &error {
                    SolveError::Vertex { vertex, .. } => lowered.places.get(&vertex.digest).cloned(),
                    _ => None,
                };
                let place = place.map(|place| (request.dockerfile.clone(), place));
                Err(BuildError::Step { error: Box::new(error), place })
            }
        }
    }

    /// The image of what was built: a config with layers and times, not recorded under any name yet.
    ///
    /// With `epoch`, a time in seconds since 1970, everything says it was made then.
    ///
    /// # Errors
    /// [`PackError`] if a layer cannot be packed.
    pub fn image_of(
        &self,
        built: &BuiltStage,
        epoch: Option<i64>,
    ) -> Result<(ImageRecord, Document), PackError> {
        let layers = self.images.describe(built.snapshot.layers(), epoch)?;
        let diff_ids: Vec<Digest> = layers.iter().flat_map(|layer| layer.diff_ids.iter().copied()).collect();
        let times: Vec<Timestamp> =
            layers.iter().flat_map(|layer| layer.diff_ids.iter().map(|_| layer.since)).collect();
        let mut config = built.config.clone();
        config.rootfs = RootFs::new(diff_ids.clone());
        config::date(&mut config, &times, epoch);
        let document = Document::json(media::CONFIG, &config);
        let record = ImageRecord {
            format: Version,
            id: document.descriptor.digest,
            manifest: None,
            layers: diff_ids.into_iter().map(|diff_id| ImageLayer { diff_id, blob: None }).collect(),
            snapshot: Some(built.snapshot.layers().to_vec()),
            epoch,
            origin: None,
            family: None,
            since: self.clock.now(),
        };
        Ok((record, document))
    }
}

impl BuildError {
    /// The command that failed, if one did.
    pub fn run_failure(&self) -> Option<&RunFailure> {
        let Self::Step { error, .. } = self else { return None };
        let SolveError::Vertex { cause, .. } = &**error else { return None };
        match &**cause {
            quern_solver::VertexError::Op { error: quern_solver::OpError::Failed(error), .. } => {
                error.downcast_ref()
            }
            _ => None,
        }
    }
}

/// The directories that operations may read.
fn local_contexts(around: &Surroundings<'_>, parts: &[Part<'_>]) -> Vec<Arc<LocalContext>> {
    let named = parts.iter().flat_map(|part| part.outside.values()).filter_map(|outside| match outside {
        Outside::Local(context) => Some(context),
        Outside::Image(_) => None,
    });
    std::iter::once(&around.context).chain(named).map(Arc::clone).collect()
}

fn cancel_of(token: &CancelToken) -> Cancel {
    let token = token.clone();
    Cancel::or_when(move || token.is_cancelled())
}
