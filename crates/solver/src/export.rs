//! Exporting the chain of records behind a key.
//!
//! An export walks from a result's key to the keys of its inputs and hands every key, with all
//! ways by which it is known, to a [`CacheExporterTarget`]. The walk visits each key once and uses
//! no recursion, so it takes time and space in proportion to the chain, whatever its shape.

mod backlinks;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use quern_core::Digest;

use crate::cache::{CacheRecord, Timestamp};
use crate::error::CacheError;
use crate::few::Few;
use crate::key::{CacheKey, CacheKeyWithSelector, ExportableCacheKey};
use crate::result::SharedResult;

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
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
    /// More about the layer; the digest of the uncompressed layer is `containerd.io/uncompressed`.
    pub annotations: BTreeMap<String, String>,
}

/// Which results an export includes. Keys are always exported, so that chains stay connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheExportMode {
    /// The topmost result that has or can be given a transferable form; below it only results
    /// that have one already.
    #[default]
    Min,
    /// Every result of a vertex with inputs.
    Max,
    /// Only results that have a transferable form already.
    RemoteOnly,
}

/// Turns a result into transferable forms, the preferred one first.
pub type ConvertFn<'a> = &'a (dyn Fn(&SharedResult) -> Result<Vec<Remote>, CacheError> + 'a);

/// How to export.
#[derive(Clone, Copy, Default)]
pub struct CacheExportOptions<'a> {
    /// Which results.
    pub mode: CacheExportMode,
    /// Makes transferable forms of results that have none.
    pub convert: Option<ConvertFn<'a>>,
    /// Include results of vertices without inputs.
    pub roots: bool,
    /// Leave out chains that the storage knows but this build did not use.
    pub ignore_backlinks: bool,
}

/// A record of a [`CacheExporterTarget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheExporterRecord(pub u32);

/// One way by which an input of an exported key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheLink {
    /// The record of the input.
    pub source: CacheExporterRecord,
    /// The part of the input that is used.
    pub selector: Option<Digest>,
}

/// A result as it is exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheExportResult {
    /// When it was made.
    pub created_at: Timestamp,
    /// Its transferable form.
    pub remote: Remote,
    /// The vertex it is a result of, and which output; for maps from layers to steps.
    pub vertex: Option<(Digest, i64)>,
}

/// What takes an export in.
pub trait CacheExporterTarget {
    /// Takes in a key: its digest (operation and output folded), for each input the ways by which
    /// it is known, and its results. Adding a key again adds to it. `None`: the key is refused,
    /// and everything known only by it as well.
    ///
    /// # Errors
    /// [`CacheError`] ends the export.
    fn add(
        &mut self,
        digest: Digest,
        inputs: &[Vec<CacheLink>],
        results: &[CacheExportResult],
    ) -> Result<Option<CacheExporterRecord>, CacheError>;
}

impl ExportableCacheKey {
    /// Exports this key and everything that leads to it. Returns its records in the target.
    ///
    /// # Errors
    /// [`CacheError`] of the target or of a storage. A result that is gone is no error: the key
    /// is exported without it.
    pub fn export_to(
        &self,
        target: &mut dyn CacheExporterTarget,
        options: &CacheExportOptions<'_>,
    ) -> Result<Vec<CacheExporterRecord>, CacheError> {
        Ok(walk::export(&[self], target, options)?.pop().unwrap_or_default())
    }
}

/// Exports several keys in one walk, so that what they share is exported once. Returns the records
/// of each.
///
/// # Errors
/// As [`ExportableCacheKey::export_to`].
pub fn export_keys(
    keys: &[&ExportableCacheKey],
    target: &mut dyn CacheExporterTarget,
    options: &CacheExportOptions<'_>,
) -> Result<Vec<Vec<CacheExporterRecord>>, CacheError> {
    walk::export(keys, target, options)
}

/// What an export of a key starts from.
#[derive(Debug)]
pub(crate) enum KeyExporter {
    /// The record the key was saved or loaded as.
    One(CacheRecord),
    /// Several keys of one result, and those of its sub-builds.
    All(Vec<ExportableCacheKey>),
}

impl KeyExporter {
    /// Moves out the keys it refers to, so that they are not dropped by recursion.
    pub(crate) fn give_up(self, open: &mut Vec<CacheKey>) {
        match self {
            Self::One(record) => open.push(record.key),
            Self::All(keys) => {
                for key in keys {
                    open.push(key.key);
                    if let Some(exporter) = key.exporter.and_then(Arc::into_inner) {
                        exporter.give_up(open);
                    }
                }
            }
        }
    }
}

/// The keys of one result; exporting any of them exports all.
pub(crate) fn keys_of_result(
    records: Few<CacheRecord>,
    sub_builds: &[ExportableCacheKey],
) -> Few<ExportableCacheKey> {
    let single = |record: CacheRecord| ExportableCacheKey {
        key: record.key.clone(),
        exporter: Some(Arc::new(KeyExporter::One(record))),
    };
    let mut keys: Few<ExportableCacheKey> = records.into_iter().map(single).collect();
    if keys.len() + sub_builds.len() > 1 {
        let all = Arc::new(KeyExporter::All(keys.iter().chain(sub_builds).cloned().collect()));
        for key in keys.iter_mut() {
            key.exporter = Some(Arc::clone(&all));
        }
    }
    keys
}

/// The same keys, knowing more names of their inputs.
pub(crate) fn with_learned(
    keys: &[ExportableCacheKey],
    names: &[(u32, CacheKeyWithSelector)],
) -> Vec<ExportableCacheKey> {
    let learned = |key: &ExportableCacheKey| {
        let exporter = key.exporter.as_deref().map(|exporter| match exporter {
            KeyExporter::One(record) => KeyExporter::One(record.clone()),
            KeyExporter::All(keys) => KeyExporter::All(with_learned(keys, names)),
        });
        ExportableCacheKey { key: key.key.with_learned(names), exporter: exporter.map(Arc::new) }
    };
    keys.iter().map(learned).collect()
}
