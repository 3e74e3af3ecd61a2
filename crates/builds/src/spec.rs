//! What makes datasets: job specs and the branches they read and write.

use std::fmt;
use std::str::FromStr;

use quern_core::{Digest, Id};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A branch of a dataset; `dataset@branch` in text.
///
/// A dataset's name holds no `@`; [`crate::JobSpecs::new`] refuses specs that break this.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetBranch {
    /// Name or id of the dataset.
    pub dataset: String,
    /// Name of the branch.
    pub branch: String,
}

impl DatasetBranch {
    /// The branch of this name.
    pub fn new(dataset: impl Into<String>, branch: impl Into<String>) -> Self {
        Self { dataset: dataset.into(), branch: branch.into() }
    }
}

impl fmt::Display for DatasetBranch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.dataset, self.branch)
    }
}

/// Text that is not `dataset@branch`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a branch of a dataset; write it as `dataset@branch`")]
pub struct InvalidBranch(pub String);

impl FromStr for DatasetBranch {
    type Err = InvalidBranch;

    fn from_str(text: &str) -> Result<Self, InvalidBranch> {
        match text.split_once('@') {
            Some((dataset, branch)) if !dataset.is_empty() && !branch.is_empty() => {
                Ok(Self::new(dataset, branch))
            }
            _ => Err(InvalidBranch(text.to_owned())),
        }
    }
}

impl Serialize for DatasetBranch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DatasetBranch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a branch shows at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The finished commit.
    pub commit: Id,
    /// Digest of its content. Two commits may have the same.
    pub content: Digest,
}

/// Names a job spec.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobSpecId(pub String);

impl JobSpecId {
    /// The id of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for JobSpecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How output datasets are made from inputs. All outputs of a job are updated together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Its name.
    pub id: JobSpecId,
    /// What it does, content-addressed: differs exactly if a rebuild is wanted although no input changed.
    pub logic: Digest,
    /// What it reads.
    pub inputs: Vec<JobInput>,
    /// What it writes; at least one.
    pub outputs: Vec<DatasetBranch>,
    /// When it counts as stale.
    pub freshness: Freshness,
    /// Most attempts at one job on retryable failures; the build's number if absent.
    pub attempts: Option<u32>,
}

/// One input of a job spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInput {
    /// What is read.
    pub source: DatasetBranch,
    /// What happens if the job that should have renewed it fails.
    pub on_failure: InputFailure,
}

impl JobInput {
    /// An input whose failure fails the reader.
    pub fn new(source: DatasetBranch) -> Self {
        Self { source, on_failure: InputFailure::Fail }
    }
}

/// What a reader does if the job that should have renewed its input did not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputFailure {
    /// It is aborted.
    #[default]
    Fail,
    /// It runs on the state from before, if there is one.
    Continue,
}

/// When a job spec counts as stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// If its logic or an input differs from the last successful job.
    #[default]
    ByInputs,
    /// Always: it reads what is not a dataset.
    AlwaysStale,
    /// Only when forced: its data come from outside.
    NeverStale,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_as_text() {
        for text in ["a@b", "ri.foundry.main.dataset.1@feature/x", "a@b@c"] {
            assert_eq!(text.parse::<DatasetBranch>().map(|b| b.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "a", "@", "a@", "@b"] {
            assert_eq!(text.parse::<DatasetBranch>(), Err(InvalidBranch(text.to_owned())));
        }
    }
}
