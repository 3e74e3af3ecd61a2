//! Quern's solver: builds graphs of operations with as little work as possible.
//!
//! A graph of [`Vertex`]es, each with an [`Op`], goes in; results come out. What was done before is
//! found in a cache, either by what it was made from or, where an input offers a content digest,
//! by what it contains. Any number of [`Job`]s share one graph: equal work is done once.
//!
//! The decisive choice is a pure decision core (`decide`) that turns events into effects, with all
//! threads in a thin driver beside it. Refused was the usual design of edges sending each other
//! requests: its rules for who must answer whom are where such solvers deadlock.
//!
//! The solver knows no files, containers or networks. What a result is, is up to the embedder.

mod cache;
mod cacheconfig;
mod cancel;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod decide;
mod digest_map;
mod drive;
mod error;
mod explain;
mod export;
mod few;
mod graph;
mod key;
mod op;
mod pool;
mod progress;
mod resolver_cache;
mod result;
mod solver;
mod sweep;

pub use cache::{
    CacheInfoLink, CacheKeyStorage, CacheManager, CacheRecord, CacheResult, CacheResultStorage,
    CombinedCache, FileKeyStorage, InMemoryKeyStorage, InMemoryResultStorage, InlineResultStorage,
    KeyedCache, LoadedResult, NumberedKeys, Query, QueryKey, Readiness, ResultCodec, Timestamp,
};
pub use cacheconfig::{
    CacheBlobs, CacheChains, CacheConfigError, ImportedCache, LayerLoader, LayoutFolder, export_cache,
    import_cache,
};
pub use cancel::CancelToken;
pub use decide::Census;
pub use error::{CacheError, JobError, OpError, Phase, SolveError, VertexError, VertexLabel};
pub use explain::{Difference, InputChange, MissReason};
pub use export::{
    CacheExportMode, CacheExportOptions, CacheExportResult, CacheExporterRecord, CacheExporterTarget,
    CacheLink, ConvertFn, Descriptor, Remote, export_keys,
};
pub use graph::{Edge, Graph, GraphBuilder, GraphError, Input, Vertex, VertexOptions, VertexRef};
pub use key::{CONTENT_OUTPUT, CacheKey, CacheKeyWithSelector, ExportableCacheKey, KeyId};
pub use op::{
    Blocking, CacheMap, CacheMapInput, ContentFn, KeyScope, MapStep, Op, OpContext, Permit, PreprocessFn,
};
pub use progress::{Change, Finish, LogStream, ProgressEvent, Status};
pub use resolver_cache::{ResolverCache, ResolverLock};
pub use result::{CachedResult, SharedResult};
pub use solver::{Job, Solver, SolverOptions};
