//! The record of shared paths as bytes.

use quern_core::{ContentRef, Digest, Entry, TreePath, Version};
use serde::{Deserialize, Serialize};

use super::{Contribution, MergeError, MergePolicy, Shared};
use crate::record::StoredContentRef;

/// Format 1: JSON, paths ascending, contributions ascending by datum key.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: Version<1>,
    policy: MergePolicy,
    paths: Vec<(String, Vec<StoredContribution>)>,
}

#[derive(Serialize, Deserialize)]
struct StoredContribution {
    key: Digest,
    #[serde(flatten)]
    entry: StoredEntry,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredEntry {
    File(#[serde(with = "StoredContentRef")] ContentRef),
    Executable(#[serde(with = "StoredContentRef")] ContentRef),
    Directory(#[serde(with = "StoredContentRef")] ContentRef),
    Link(String),
}

impl Shared {
    /// The bytes to keep, as a blob. The same record has the same bytes.
    ///
    /// # Errors
    /// [`MergeError::Record`] never for a record made here.
    pub fn encode(&self) -> Result<Vec<u8>, MergeError> {
        let paths = self.paths.iter().map(|(path, list)| {
            let list =
                list.iter().map(|c| StoredContribution { key: c.key, entry: StoredEntry::of(&c.entry) });
            (path.as_str().to_owned(), list.collect())
        });
        let stored = Stored { version: Version, policy: self.policy, paths: paths.collect() };
        serde_json::to_vec(&stored).map_err(|error| MergeError::Record(error.to_string()))
    }

    /// Reads what [`Shared::encode`] gave.
    ///
    /// # Errors
    /// [`MergeError::Record`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, MergeError> {
        let bad = |error: String| MergeError::Record(error);
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        let paths = stored.paths.into_iter().map(|(path, list)| {
            let list = list.into_iter().map(|c| Contribution { key: c.key, entry: c.entry.into_entry() });
            Ok((TreePath::parse(&path)?, list.collect()))
        });
        let paths = paths.collect::<Result<_, quern_core::InvalidPath>>();
        Ok(Self { policy: stored.policy, paths: paths.map_err(|error| bad(error.to_string()))? })
    }

    /// How many paths several datums contribute to.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether every path has one contributor.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

impl StoredEntry {
    fn of(entry: &Entry) -> Self {
        match entry {
            Entry::File { content, executable: false } => Self::File(*content),
            Entry::File { content, executable: true } => Self::Executable(*content),
            Entry::Dir(dir) => Self::Directory(*dir),
            Entry::Link(target) => Self::Link(target.clone()),
        }
    }

    fn into_entry(self) -> Entry {
        match self {
            Self::File(content) => Entry::File { content, executable: false },
            Self::Executable(content) => Entry::File { content, executable: true },
            Self::Directory(dir) => Entry::Dir(dir),
            Self::Link(target) => Entry::Link(target),
        }
    }
}
