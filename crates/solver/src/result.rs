//! Results: opaque to the solver, shared by counting, released by dropping.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::export::with_learned;
use crate::few::Few;
use crate::key::{CacheKeyWithSelector, ExportableCacheKey};

/// One result of an op, of any type; clones share it, and the last clone dropped releases it.
///
/// A result that owns something outside memory (a mount, a lease) gives it back in its `Drop`.
#[derive(Clone)]
pub struct SharedResult(Arc<dyn Any + Send + Sync>);

impl SharedResult {
    /// Wraps a value.
    pub fn new<T: Any + Send + Sync>(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// The value, if it is of type `T`.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    /// Where the value is: tells values apart while they live.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).cast::<()>().addr()
    }

    /// True if both handles share one value.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for SharedResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedResult")
    }
}

/// A result together with the cache keys under which it can be found again and exported.
#[derive(Debug, Clone)]
pub struct CachedResult {
    /// The result itself.
    pub result: SharedResult,
    keys: Few<ExportableCacheKey>,
}

impl CachedResult {
    /// Joins a result and its keys.
    pub fn new(result: SharedResult, keys: impl IntoIterator<Item = ExportableCacheKey>) -> Self {
        Self { result, keys: keys.into_iter().collect() }
    }

    /// The keys of this result; exporting the first one exports all of them.
    pub fn keys(&self) -> &[ExportableCacheKey] {
        &self.keys
    }

    /// The value, if it is of type `T`.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.result.get()
    }

    /// The same result whose keys know more names of their inputs.
    pub(crate) fn with_learned(&self, names: &[(u32, CacheKeyWithSelector)]) -> Self {
        Self { result: self.result.clone(), keys: with_learned(&self.keys, names).into() }
    }
}
