//! Operations: what a vertex does, and what it tells the solver about caching it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quern_core::Digest;

use crate::cancel::CancelToken;
use crate::decide::{JobId, VertexId};
use crate::drive::Host;
use crate::error::{OpError, SolveError, VertexLabel};
use crate::graph::Edge;
use crate::progress::{LogStream, Status};
use crate::result::{CachedResult, SharedResult};

/// The implementation of a vertex. All calls may come from any thread.
///
/// The solver asks for cache maps first, and calls [`exec`](Op::exec) only if no cache has the
/// result. Every call of a live vertex happens at most once, however many jobs wait for it; a
/// call that was cancelled may be made again.
pub trait Op: Send + Sync {
    /// Describes how to cache the vertex. Map 0 is asked first; a vertex without inputs may have
    /// several, asked one by one until one of them is found or the last was given.
    ///
    /// # Errors
    /// [`OpError`] fails every build that needs this vertex.
    fn cache_map(&self, ctx: &OpContext<'_>, index: usize) -> Result<MapStep, OpError>;

    /// Does the work: one result per input edge goes in, one per output comes out.
    ///
    /// # Errors
    /// [`OpError`] fails every build that needs this vertex.
    fn exec(&self, ctx: &OpContext<'_>, inputs: &[SharedResult]) -> Result<Vec<SharedResult>, OpError>;

    /// Waits for whatever must be had before [`exec`](Op::exec) may start (a token, a license).
    /// The permit is dropped when exec has ended.
    ///
    /// # Errors
    /// [`OpError`] fails every build that needs this vertex.
    fn acquire(&self, ctx: &OpContext<'_>) -> Result<Permit, OpError> {
        let _ = ctx;
        Ok(Permit::none())
    }

    /// How much of [`SolverOptions::parallelism`](crate::SolverOptions::parallelism) one exec
    /// takes up. Zero for ops that only wait for others.
    fn weight(&self) -> u32 {
        1
    }

    /// Which calls may block or take long; the others run on whatever thread is at hand.
    fn blocking(&self) -> Blocking {
        Blocking::Always
    }
}

/// Which calls of an op need a thread of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// No call blocks; all take microseconds.
    Never,
    /// Exec and content digests may block, cache maps do not.
    Exec,
    /// Any call may block.
    Always,
}

/// What [`Op::acquire`] obtained; dropping it gives it back.
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] Option<Box<dyn Any + Send>>);

impl Permit {
    /// Nothing was needed.
    pub fn none() -> Self {
        Self(None)
    }

    /// Holds `guard` until exec has ended.
    pub fn holding<T: Any + Send>(guard: T) -> Self {
        Self(Some(Box::new(guard)))
    }
}

/// One answer of [`Op::cache_map`].
#[derive(Debug, Clone)]
pub enum MapStep {
    /// There are more maps after this one.
    More(CacheMap),
    /// The last (usually the only) map.
    Last(CacheMap),
}

impl MapStep {
    /// True if both say the same, as far as values can be compared.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        let ((Self::More(a), Self::More(b)) | (Self::Last(a), Self::Last(b))) = (self, other) else {
            return false;
        };
        let selectors = |map: &CacheMap| map.inputs.iter().map(|input| input.selector).collect::<Vec<_>>();
        a.digest == b.digest && a.scope == b.scope && selectors(a) == selectors(b)
    }
}

/// How a vertex is cached: a digest of the operation, to be combined with its inputs' keys.
#[derive(Debug, Clone)]
pub struct CacheMap {
    /// Digest of everything that defines the operation apart from its inputs.
    pub digest: Digest,
    /// Whether keys of this map may leave the machine.
    pub scope: KeyScope,
    /// What is special about each input; missing entries at the end mean "nothing".
    pub inputs: Vec<CacheMapInput>,
}

impl CacheMap {
    /// A map with nothing special about any input.
    pub fn new(digest: Digest) -> Self {
        Self { digest, scope: KeyScope::Shared, inputs: Vec::new() }
    }

    /// Adds what is special about the next input.
    #[must_use]
    pub fn input(mut self, input: CacheMapInput) -> Self {
        self.inputs.push(input);
        self
    }

    /// Says whether keys of this map may leave the machine.
    #[must_use]
    pub fn scope(mut self, scope: KeyScope) -> Self {
        self.scope = scope;
        self
    }
}

/// Where the definition key of a root means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KeyScope {
    /// Everywhere.
    #[default]
    Shared,
    /// Only in this cache (a local folder of this session): such keys are never exported; what
    /// builds on them is found elsewhere by content only.
    Local,
}

/// What is special about one input of a vertex.
#[derive(Clone, Default)]
pub struct CacheMapInput {
    /// The part of the input that is used; enters the definition key.
    pub selector: Option<Digest>,
    /// Digest of the part of the input's result that is used: if it equals that of an earlier
    /// run, the input counts as unchanged whatever it was made from. None: there is no such
    /// function. The function itself may return `None` for "no content key this time".
    pub content: Option<ContentFn>,
    /// Runs on the input's result before the content digest and before exec.
    pub preprocess: Option<PreprocessFn>,
}

/// Computes the content digest of an input.
pub type ContentFn =
    Arc<dyn Fn(&OpContext<'_>, &SharedResult) -> Result<Option<Digest>, OpError> + Send + Sync>;

/// Prepares an input's result, for instance unpacks it.
pub type PreprocessFn = Arc<dyn Fn(&OpContext<'_>, &SharedResult) -> Result<(), OpError> + Send + Sync>;

impl CacheMapInput {
    /// Nothing special.
    pub fn plain() -> Self {
        Self::default()
    }

    /// Only the part named by `selector` is used.
    #[must_use]
    pub fn selector(mut self, selector: Digest) -> Self {
        self.selector = Some(selector);
        self
    }

    /// The content decides.
    #[must_use]
    pub fn content(
        mut self,
        digest: impl Fn(&OpContext<'_>, &SharedResult) -> Result<Option<Digest>, OpError> + Send + Sync + 'static,
    ) -> Self {
        self.content = Some(Arc::new(digest));
        self
    }

    /// Runs before the content digest and before exec.
    #[must_use]
    pub fn preprocess(
        mut self,
        step: impl Fn(&OpContext<'_>, &SharedResult) -> Result<(), OpError> + Send + Sync + 'static,
    ) -> Self {
        self.preprocess = Some(Arc::new(step));
        self
    }
}

impl fmt::Debug for CacheMapInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheMapInput")
            .field("selector", &self.selector)
            .field("content", &self.content.is_some())
            .field("preprocess", &self.preprocess.is_some())
            .finish()
    }
}

/// What an op may use while one of its calls runs.
pub struct OpContext<'a> {
    pub(crate) vertex: VertexLabel,
    pub(crate) cancel: CancelToken,
    pub(crate) host: &'a dyn Host,
    pub(crate) seat: Seat,
    /// True if the call runs on the thread that drives the solver and must not wait.
    pub(crate) inline: bool,
}

/// What a call is made for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seat {
    /// A live vertex.
    Vertex(VertexId),
    /// A job, for a vertex that is not live.
    Job(JobId),
}

impl OpContext<'_> {
    /// The vertex of this call.
    pub fn vertex(&self) -> &VertexLabel {
        &self.vertex
    }

    /// True once nobody wants the result any more; the call should return soon.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits until the call is cancelled, at most `limit`; true if it is.
    pub fn wait_cancelled(&self, limit: Duration) -> bool {
        self.cancel.wait(limit)
    }

    /// The token itself, to hand to what runs elsewhere.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// Passes output of the step to everyone who watches the vertex.
    pub fn log(&self, stream: LogStream, bytes: &[u8]) {
        self.host.log(self.seat, stream, bytes);
    }

    /// Passes a progress value of the step to everyone who watches the vertex.
    pub fn status(&self, status: Status) {
        self.host.status(self.seat, status);
    }

    /// Builds another edge as part of this one. Its keys are exported with this vertex's own.
    ///
    /// # Errors
    /// [`SolveError`] as of any build; [`SolveError::Cancelled`] once this call is cancelled;
    /// [`SolveError::MustNotWait`] from a call that [`Op::blocking`] says does not block.
    pub fn build(&self, edge: &Edge) -> Result<CachedResult, SolveError> {
        if self.inline {
            return Err(SolveError::MustNotWait(self.vertex.clone()));
        }
        self.host.sub_build(self.seat, edge, &self.cancel)
    }

    /// Visits the value each job that waits for this vertex has under `key`.
    pub fn each_value(&self, key: &str, visit: &mut dyn FnMut(&Arc<dyn Any + Send + Sync>)) {
        for value in self.host.job_values(self.seat, key) {
            visit(&value);
        }
    }
}
