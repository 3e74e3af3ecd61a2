//! What can go wrong, one enum per operation, always naming the vertex.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use quern_core::Digest;

use crate::result::SharedResult;

/// What a call of an [`Op`](crate::Op) ends with when it does not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpError {
    /// The call noticed that nobody wants it any more, or the op itself gave up.
    #[error("cancelled")]
    Cancelled,
    /// The op failed; the text is the op's own.
    #[error("{0}")]
    Failed(Arc<dyn Error + Send + Sync>),
}

impl OpError {
    /// A failure from any error or text.
    pub fn failed(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(Arc::from(cause.into()))
    }
}

/// Which call of an op is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// [`Op::cache_map`](crate::Op::cache_map).
    CacheMap,
    /// [`Op::acquire`](crate::Op::acquire).
    Acquire,
    /// [`Op::exec`](crate::Op::exec).
    Exec,
    /// The preprocess step or content digest function of an input.
    Content,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CacheMap => "cache map",
            Self::Acquire => "admission",
            Self::Exec => "exec",
            Self::Content => "content digest",
        })
    }
}

/// A vertex as messages name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VertexLabel {
    /// The identity among live builds.
    pub digest: Digest,
    /// The name given by the caller; may be empty.
    pub name: Arc<str>,
}

impl fmt::Display for VertexLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { f.write_str(&self.digest.short()) } else { f.write_str(&self.name) }
    }
}

/// Why one vertex has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VertexError {
    /// The op's own error.
    #[error("{phase}: {error}")]
    Op {
        /// The call that failed.
        phase: Phase,
        /// What it said.
        error: OpError,
    },
    /// The content digest (or preprocess step) of an input failed. The input's result is handed
    /// out so that a caller can look at it; dropping this error releases it.
    #[error("content digest of input {input}: {error}")]
    Content {
        /// Which input.
        input: usize,
        /// What the function said.
        error: OpError,
        /// The result it was given.
        result: SharedResult,
    },
    /// The op panicked; the solver and the other jobs go on.
    #[error("{phase} panicked: {message}")]
    Panicked {
        /// The call that panicked.
        phase: Phase,
        /// The panic's text.
        message: String,
    },
    /// An edge asks for an output the op did not return.
    #[error("output {wanted} was asked for but exec returned {returned}")]
    MissingOutput {
        /// The output index of the edge.
        wanted: u32,
        /// How many results exec returned.
        returned: usize,
    },
    /// A cache map describes more inputs than the vertex has.
    #[error("the cache map describes {described} inputs but the vertex has {inputs}")]
    CacheMapInputs {
        /// Entries in the cache map.
        described: usize,
        /// Inputs of the vertex.
        inputs: usize,
    },
    /// A vertex with inputs offered a second cache map.
    #[error("only a vertex without inputs may have several cache maps")]
    SeveralCacheMaps,
    /// Two calls for the same cache map gave different answers.
    #[error("cache map {index} changed between two calls; a cache map must depend on the definition alone")]
    UnstableCacheMap {
        /// Which cache map.
        index: usize,
    },
    /// The main cache could not answer or store.
    #[error("cache: {0}")]
    Cache(#[from] CacheError),
    /// Nothing was left to do and yet the vertex was not done: a bug of the solver.
    #[error("the solver has nothing left to do for this vertex; please report this with the graph")]
    Stalled,
}

impl VertexError {
    /// True if the cause is a cancellation, by whomever.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Op { error, .. } | Self::Content { error, .. } => matches!(error, OpError::Cancelled),
            _ => false,
        }
    }
}

/// Why a build ended without a result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SolveError {
    /// The build or its job was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
    /// The job was discarded; make a new one.
    #[error("the job was discarded; start a new one")]
    Discarded,
    /// The edge asks a graph for a vertex it does not have.
    #[error("the graph has no vertex number {0}")]
    NoSuchVertex(u32),
    /// An op asked for a sub-build that needs the op's own vertex.
    #[error("{0} waits for a sub-build that needs {0} itself")]
    OwnSubBuild(VertexLabel),
    /// A call that is declared not to block asked for a sub-build.
    #[error("{0} builds something else from a call declared not to block; declare it `Blocking::Exec`")]
    MustNotWait(VertexLabel),
    /// A vertex failed.
    #[error("{vertex}: {cause}{}", Via(chain))]
    Vertex {
        /// The vertex that failed.
        vertex: VertexLabel,
        /// How the target leads there: the target first, the failed vertex last.
        chain: Vec<VertexLabel>,
        /// Why it failed.
        cause: Arc<VertexError>,
    },
}

impl SolveError {
    /// True if the build ended by a cancellation, its own or one an op reported.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Vertex { cause, .. } => cause.is_cancelled(),
            _ => false,
        }
    }
}

/// Writes a chain of vertices after a message, shortened in the middle.
struct Via<'a>(&'a [VertexLabel]);

impl fmt::Display for Via<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ENDS: usize = 4;
        if self.0.len() < 2 {
            return Ok(());
        }
        f.write_str(" (wanted by ")?;
        for (i, label) in self.0.iter().enumerate() {
            if self.0.len() > 2 * ENDS + 1 && (ENDS..self.0.len() - ENDS).contains(&i) {
                if i == ENDS {
                    write!(f, " > ... {} more", self.0.len() - 2 * ENDS)?;
                }
                continue;
            }
            write!(f, "{}{label}", if i == 0 { "" } else { " > " })?;
        }
        f.write_str(")")
    }
}

/// Why a cache could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CacheError {
    /// The record or result is not there (any more).
    #[error("not found")]
    NotFound,
    /// This cache only answers.
    #[error("cache `{0}` is read-only")]
    ReadOnly(String),
    /// The storage behind the cache failed.
    #[error("{0}")]
    Storage(Arc<dyn Error + Send + Sync>),
    /// The storage gave an answer that cannot be true.
    #[error("the storage contradicts itself: {0}")]
    Inconsistent(String),
}

impl CacheError {
    /// A storage failure from any error or text.
    pub fn storage(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Storage(Arc::from(cause.into()))
    }
}

/// Why a job cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A job of this name is running.
    #[error("job `{0}` exists already; choose another id or discard it first")]
    Exists(String),
    /// No job of this name appeared in time.
    #[error("no such job `{0}`")]
    NotFound(String),
}
