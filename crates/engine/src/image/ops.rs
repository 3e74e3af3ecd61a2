//! The operations of image builds. Each gives a [`Snapshot`].
//!
//! | operation | inputs | result |
//! |---|---|---|
//! | [`ImageOp`] | none | the layers of an image, fetched and unpacked |
//! | [`ScratchOp`] | none | nothing |
//! | [`HttpOp`], [`GitOp`] | none | a file or a commit, fetched |
//! | [`FileOp`] | what lies below; what is copied from | one layer more |
//! | [`RunOp`] | the root; what is mounted | one layer more |
//! | [`MergeOp`] | stacks | all layers, one stack on the other |

mod file;
mod git;
mod http;
mod image;
mod run;

use std::sync::Arc;

use quern_core::Digest;
use quern_core::canon::{DigestVisitor, Visitor};
use quern_core::port::{Blobs, Cancel, Executor, Meta, PortError};
use quern_oci::registry::Client;
use quern_solver::{Blocking, CacheMap, CacheMapInput, MapStep, Op, OpContext, OpError, SharedResult};
use quern_store::layers::{LayerStore, ObtainError, View};

pub use file::{Action, Copy, FileOp, Source, Sources};
pub use git::GitOp;
pub use http::HttpOp;
pub use image::ImageOp;
pub use run::{RunFailure, RunOp, placeholder};

use super::rootfs::SnapshotRoots;
use crate::snapshot::Snapshot;

/// What operations work with.
pub struct Tools {
    /// Runs programs.
    pub executor: Arc<dyn Executor>,
    /// Where the executor finds the roots of steps.
    pub roots: Arc<SnapshotRoots>,
    /// Where layers are.
    pub layers: Arc<LayerStore>,
    /// What was fetched.
    pub blobs: Arc<dyn Blobs>,
    /// What is known of it.
    pub meta: Arc<dyn Meta>,
    /// Fetches files.
    pub web: Client,
}

impl Tools {
    /// The files of a snapshot.
    fn view(&self, snapshot: &Snapshot) -> Result<View, PortError> {
        self.layers.view(snapshot.layers())
    }
}

/// An operation whose definition is known before anything is looked at.
pub trait Defined {
    /// Digest of what it does, without its inputs. For operations that read the build context it names the context, which is
    /// another one in each build.
    fn definition(&self) -> Digest;
}

/// Nothing: what `FROM scratch` starts from.
pub struct ScratchOp;

impl Defined for ScratchOp {
    fn definition(&self) -> Digest {
        digest_of("quern.scratch.v1", |_| {})
    }
}

impl Op for ScratchOp {
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        Ok(MapStep::Last(CacheMap::new(self.definition())))
    }

    fn exec(&self, _: &OpContext<'_>, _: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        Ok(vec![SharedResult::new(Snapshot::scratch())])
    }

    fn weight(&self) -> u32 {
        0
    }

    fn blocking(&self) -> Blocking {
        Blocking::Never
    }
}

/// Stacks on each other, lowest first.
pub struct MergeOp;

impl Defined for MergeOp {
    fn definition(&self) -> Digest {
        digest_of("quern.merge.v1", |_| {})
    }
}

impl Op for MergeOp {
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        Ok(MapStep::Last(CacheMap::new(self.definition())))
    }

    fn exec(&self, _: &OpContext<'_>, inputs: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        let mut merged = Snapshot::scratch();
        for input in inputs {
            merged = merged.with(snapshot_of(input)?.layers());
        }
        Ok(vec![SharedResult::new(merged)])
    }

    fn weight(&self) -> u32 {
        0
    }

    fn blocking(&self) -> Blocking {
        Blocking::Never
    }
}

/// Does the work of an operation on given inputs, unless another process is doing it or did it just now: then its layer is taken.
fn once(
    tools: &Tools,
    ctx: &OpContext<'_>,
    definition: &Digest,
    inputs: &[Snapshot],
    make: impl FnOnce() -> Result<Digest, OpError>,
) -> Result<Digest, OpError> {
    let work = digest_of("quern.work.v1", |v| {
        v.digest("definition", definition);
        for input in inputs {
            v.digest("input", &input.id());
        }
    });
    let token = ctx.cancel_token();
    let cancel = Cancel::or_when(move || token.is_cancelled());
    tools.layers.make_once(&work, &cancel, make).map_err(|error| match error {
        ObtainError::Fill(error) => error,
        ObtainError::Cancelled => OpError::Cancelled,
        ObtainError::Store(error) => OpError::failed(error),
    })
}

/// Digest of what a walk shows.
pub(super) fn digest_of(domain: &str, walk: impl FnOnce(&mut dyn Visitor)) -> Digest {
    let mut visitor = DigestVisitor::new(domain);
    walk(&mut visitor);
    visitor.finish()
}

/// The snapshot an input is.
fn snapshot_of(input: &SharedResult) -> Result<Snapshot, OpError> {
    input.get::<Snapshot>().cloned().ok_or_else(|| OpError::failed("an input is no snapshot"))
}

/// An input of which only a selection counts, by content.
fn selected(tools: &Arc<Tools>, sources: Sources) -> CacheMapInput {
    let tools = Arc::clone(tools);
    let selector = sources.digest();
    CacheMapInput::plain().selector(selector).content(move |_, input| {
        let view = tools.view(&snapshot_of(input)?).map_err(OpError::failed)?;
        sources.content(&view).map(Some)
    })
}
