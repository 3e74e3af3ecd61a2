//! Small results stored in their own ids.

use std::sync::Arc;

use crate::cache::Timestamp;
use crate::cache::storage::{CacheResult, CacheResultStorage};
use crate::error::CacheError;
use crate::export::Remote;
use crate::result::SharedResult;

/// Writes results as short texts.
pub trait ResultCodec: Send + Sync {
    /// The text of a result.
    ///
    /// # Errors
    /// [`CacheError`] if it is not of the expected type.
    fn encode(&self, result: &SharedResult) -> Result<String, CacheError>;

    /// The result of a text.
    ///
    /// # Errors
    /// [`CacheError::NotFound`] if what it refers to is gone.
    fn decode(&self, text: &str) -> Result<SharedResult, CacheError>;

    /// False if what the text refers to is gone, so that the result cannot be used any more.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if that cannot be told.
    fn is_whole(&self, text: &str) -> Result<bool, CacheError> {
        let _ = text;
        Ok(true)
    }

    /// True if [`is_whole`](ResultCodec::is_whole) could ever say no.
    fn may_lose(&self) -> bool {
        false
    }

    /// True if [`decode`](ResultCodec::decode) takes microseconds.
    fn decodes_quickly(&self) -> bool {
        true
    }

    /// Transferable forms of the result that exist already, the preferred one first.
    fn remotes(&self, text: &str) -> Vec<Remote> {
        let _ = text;
        Vec::new()
    }
}

/// A result storage for results that are references (a digest and a few numbers): the id of a
/// result is its text, so there is nothing to store besides the keys, and a storage of keys that
/// survives a crash makes the whole cache survive it.
pub struct InlineResultStorage<C>(C);

impl<C: ResultCodec> InlineResultStorage<C> {
    /// A storage whose results the codec writes and reads.
    pub fn new(codec: C) -> Self {
        Self(codec)
    }
}

impl<C: ResultCodec> CacheResultStorage for InlineResultStorage<C> {
    fn save(&self, result: &SharedResult, created_at: Timestamp) -> Result<CacheResult, CacheError> {
        let id: Arc<str> = self.0.encode(result)?.into();
        Ok(CacheResult { id, created_at })
    }

    fn load(&self, result: &CacheResult) -> Result<SharedResult, CacheError> {
        self.0.decode(&result.id)
    }

    fn load_remotes(&self, result: &CacheResult) -> Vec<Remote> {
        self.0.remotes(&result.id)
    }

    fn exists(&self, result: &str) -> Result<bool, CacheError> {
        self.0.is_whole(result)
    }

    fn may_lose(&self) -> bool {
        self.0.may_lose()
    }

    fn loads_quickly(&self) -> bool {
        self.0.decodes_quickly()
    }
}
