//! Why a vertex had to run.

use std::fmt;

/// The reason of a cache miss, found by comparing with the nearest recorded neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// The vertex says that caches must be ignored.
    Ignored,
    /// No cache has ever seen this operation.
    NoRecord,
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignored => f.write_str("the cache is ignored"),
            Self::NoRecord => f.write_str("never run before"),
        }
    }
}
