//! Exporting the chain of records behind a key.

use std::sync::Arc;

use crate::cache::CacheRecord;
use crate::key::{CacheKey, CacheKeyWithSelector, ExportableCacheKey};

/// A transferable form of a result: layers, bottom first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remote {
    /// The layers.
    pub descriptors: Vec<Descriptor>,
}

/// One blob of a [`Remote`], as OCI describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Digest of the bytes.
    pub digest: quern_core::Digest,
    /// How many bytes.
    pub size: u64,
    /// More about the layer; the digest of the uncompressed layer is `containerd.io/uncompressed`.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// What an export of a key starts from.
#[derive(Debug)]
pub(crate) enum KeyExporter {
    /// One key and the record it was saved or loaded as.
    One {
        key: CacheKey,
        record: Option<CacheRecord>,
    },
    /// Several keys of one result, and those of its sub-builds.
    All(Vec<ExportableCacheKey>),
}

/// The keys of one result; exporting any of them exports all.
pub(crate) fn keys_of_result(records: Vec<CacheRecord>, sub_builds: &[ExportableCacheKey]) -> Vec<ExportableCacheKey> {
    let single = |record: CacheRecord| {
        let key = record.key.clone();
        let exporter = KeyExporter::One { key: key.clone(), record: Some(record) };
        ExportableCacheKey { key, exporter: Some(Arc::new(exporter)) }
    };
    let mut keys: Vec<ExportableCacheKey> = records.into_iter().map(single).collect();
    if keys.len() + sub_builds.len() > 1 {
        let all = Arc::new(KeyExporter::All(keys.iter().chain(sub_builds).cloned().collect()));
        for key in &mut keys {
            key.exporter = Some(Arc::clone(&all));
        }
    }
    keys
}

/// The same keys, knowing more names of their inputs.
pub(crate) fn with_learned(
    keys: &[ExportableCacheKey],
    names: &[(usize, CacheKeyWithSelector)],
) -> Vec<ExportableCacheKey> {
    let own = |key: &ExportableCacheKey| {
        let learned = key.key.with_learned(names);
        let exporter = match key.exporter.as_deref() {
            Some(KeyExporter::One { record, .. }) => {
                Some(Arc::new(KeyExporter::One { key: learned.clone(), record: record.clone() }))
            }
            _ => key.exporter.clone(),
        };
        ExportableCacheKey { key: learned, exporter }
    };
    keys.iter().map(own).collect()
}
