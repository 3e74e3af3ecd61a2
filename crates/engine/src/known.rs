//! What a pipeline's datums are known to give: the base of the next job.

use quern_catalog::DatumSet;
use quern_catalog::merge::{Merged, Shared};
use quern_core::port::{Blobs, MetaRead, MetaWrite, PortError, Table};
use quern_core::{ContentRef, Digest, Version};
use serde::{Deserialize, Serialize};

const KNOWN: Table = Table("known");

/// The record of a pipeline; everything large is a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Format of this record.
    pub format: Version<1>,
    /// What was done with each datum; results are only good for the same.
    pub logic: Digest,
    /// The same in words, for explanations.
    pub lines: Vec<(String, String)>,
    /// Datums of the last successful job with their outputs: a [`DatumSet`].
    pub current: Digest,
    /// Datums known besides: a [`DatumSet`].
    pub older: Digest,
    /// Merged tree of the last successful job: digest and size.
    pub tree: Option<(Digest, u64)>,
    /// Paths of that tree to which several datums contribute.
    pub shared: Option<Digest>,
}

/// A [`Known`] with its blobs.
#[derive(Default)]
pub struct Base {
    /// Datums of the last successful job.
    pub current: DatumSet,
    /// Datums known besides.
    pub older: DatumSet,
    /// The last merged tree.
    pub merged: Option<Merged>,
    /// What was done with each datum, in words; none if nothing is known at all.
    pub lines: Option<Vec<(String, String)>>,
}

/// The record of a pipeline, if it has one.
///
/// # Errors
/// Those of the port.
pub fn get(r: &dyn MetaRead, pipeline: &str) -> Result<Option<Known>, PortError> {
    let text = r.get(KNOWN, pipeline)?;
    text.map(|text| serde_json::from_str(&text).map_err(|e| unreadable(pipeline, &e))).transpose()
}

/// Forgets what is known of a pipeline.
///
/// # Errors
/// Those of the port.
pub fn delete(w: &mut dyn MetaWrite, pipeline: &str) -> Result<(), PortError> {
    w.delete(KNOWN, pipeline)
}

/// Stores the record of a pipeline; its blobs must be durable.
///
/// # Errors
/// Those of the port.
pub fn put(w: &mut dyn MetaWrite, pipeline: &str, known: &Known) -> Result<(), PortError> {
    let text = serde_json::to_string(known).expect("the record holds only text and numbers");
    w.put(KNOWN, pipeline, &text)
}

/// All records, for the collection of garbage.
///
/// # Errors
/// Those of the port.
pub fn all(r: &dyn MetaRead) -> Result<Vec<Known>, PortError> {
    let rows = r.scan(KNOWN, &quern_core::port::Scan::default())?;
    rows.iter().map(|(name, text)| serde_json::from_str(text).map_err(|e| unreadable(name, &e))).collect()
}

fn unreadable(pipeline: &str, error: &serde_json::Error) -> PortError {
    PortError::Other(format!("what is known of pipeline `{pipeline}` is not readable: {error}"))
}

impl Base {
    /// What `known` gives a job that does `logic` with each datum.
    ///
    /// # Errors
    /// Those of the store.
    pub fn load(blobs: &dyn Blobs, known: Option<&Known>, logic: &Digest) -> Result<Self, PortError> {
        let Some(known) = known else { return Ok(Self::default()) };
        let lines = Some(known.lines.clone());
        if known.logic != *logic {
            return Ok(Self { lines, ..Self::default() });
        }
        let set = |digest: &Digest| {
            DatumSet::decode(blobs.get(digest)?).map_err(|error| PortError::Other(error.to_string()))
        };
        let merged = match (known.tree, &known.shared) {
            (Some((digest, size)), Some(shared)) => {
                let shared =
                    Shared::decode(&blobs.get(shared)?).map_err(|e| PortError::Other(e.to_string()))?;
                Some(Merged { tree: ContentRef { digest, size }, shared })
            }
            _ => None,
        };
        Ok(Self { current: set(&known.current)?, older: set(&known.older)?, merged, lines })
    }

    /// Stores this as blobs and gives the record.
    ///
    /// # Errors
    /// Those of the store.
    pub fn save(&self, blobs: &dyn Blobs, logic: Digest) -> Result<Known, PortError> {
        let encoded = self.merged.as_ref().map(|merged| merged.shared.encode()).transpose();
        let encoded = encoded.map_err(|e| PortError::Other(e.to_string()))?;
        let shared = encoded.map(|bytes| blobs.put(&bytes)).transpose()?;
        Ok(Known {
            format: Version,
            logic,
            lines: self.lines.clone().unwrap_or_default(),
            current: blobs.put(self.current.encoded())?.digest,
            older: blobs.put(self.older.encoded())?.digest,
            tree: self.merged.as_ref().map(|merged| (merged.tree.digest, merged.tree.size)),
            shared: shared.map(|shared| shared.digest),
        })
    }
}
