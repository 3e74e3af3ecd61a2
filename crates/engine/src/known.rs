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
    pub format: Version<2>,
    /// What was done with each datum; results are only good for the same.
    pub logic: Digest,
    /// The same in words, for explanations.
    pub lines: Vec<(String, String)>,
    /// Datums of the last successful job with their outputs: a [`DatumSet`], digest and size of its directory.
    pub current: (Digest, u64),
    /// Datums known besides: a [`DatumSet`].
    pub older: (Digest, u64),
    /// The tree in which all of `current` and nothing else was found, if there is one.
    pub found_in: Option<FoundIn>,
    /// Merged tree of the last successful job: digest and size.
    pub tree: Option<(Digest, u64)>,
    /// Paths of that tree to which several datums contribute.
    pub shared: Option<Digest>,
}

/// An input that has datums of one tree only: they are the same wherever this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundIn {
    /// Name of the input.
    pub input: String,
    /// Its pattern.
    pub glob: String,
    /// Its tree: digest and size.
    pub tree: (Digest, u64),
}

/// A [`Known`] with its blobs.
#[derive(Default)]
pub struct Base {
    /// Datums of the last successful job.
    pub current: DatumSet,
    /// Datums known besides.
    pub older: DatumSet,
    /// The tree in which all of `current` and nothing else was found, if there is one.
    pub found_in: Option<FoundIn>,
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
    r.get(KNOWN, pipeline)?.map_or(Ok(None), |text| parse(pipeline, &text))
}

/// Reads a record. One of an older format is as good as none: its datums run again, or are found in the cache.
fn parse(pipeline: &str, text: &str) -> Result<Option<Known>, PortError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let unreadable =
        |e| PortError::Other(format!("what is known of pipeline `{pipeline}` is not readable: {e}"));
    let Format { format } = serde_json::from_str(text).map_err(unreadable)?;
    if format < 2 { Ok(None) } else { serde_json::from_str(text).map(Some).map_err(unreadable) }
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
    rows.iter().filter_map(|(name, text)| parse(name, text).transpose()).collect()
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
        let set = |(digest, size): (Digest, u64)| {
            let parts = ContentRef { digest, size };
            DatumSet::load(blobs, &parts).map_err(|error| PortError::Other(error.to_string()))
        };
        let merged = match (known.tree, &known.shared) {
            (Some((digest, size)), Some(shared)) => {
                let shared =
                    Shared::decode(&blobs.get(shared)?).map_err(|e| PortError::Other(e.to_string()))?;
                Some(Merged { tree: ContentRef { digest, size }, shared })
            }
            _ => None,
        };
        let (current, older) = (set(known.current)?, set(known.older)?);
        Ok(Self { current, older, found_in: known.found_in.clone(), merged, lines })
    }

    /// Stores this as blobs and gives the record.
    ///
    /// # Errors
    /// Those of the store.
    pub fn save(&self, blobs: &dyn Blobs, logic: Digest) -> Result<Known, PortError> {
        let encoded = self.merged.as_ref().map(|merged| merged.shared.encode()).transpose();
        let encoded = encoded.map_err(|e| PortError::Other(e.to_string()))?;
        let shared = encoded.map(|bytes| blobs.put(&bytes)).transpose()?;
        let set = |set: &DatumSet| {
            let parts = set.save(blobs).map_err(|error| PortError::Other(error.to_string()))?;
            Ok::<_, PortError>((parts.digest, parts.size))
        };
        Ok(Known {
            format: Version,
            logic,
            lines: self.lines.clone().unwrap_or_default(),
            current: set(&self.current)?,
            older: set(&self.older)?,
            found_in: self.found_in.clone(),
            tree: self.merged.as_ref().map(|merged| (merged.tree.digest, merged.tree.size)),
            shared: shared.map(|shared| shared.digest),
        })
    }
}
