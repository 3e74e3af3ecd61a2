//! Short words for specs, branches and commits.

use quern_builds::{DatasetBranch, Freshness, Head, JobInput, JobSpec, JobSpecId, JobSpecs};
use quern_core::{Digest, Id};

/// The master branch of a dataset.
pub fn branch(dataset: &str) -> DatasetBranch {
    DatasetBranch::new(dataset, "master")
}

pub fn branches(datasets: &[&str]) -> Vec<DatasetBranch> {
    datasets.iter().map(|dataset| branch(dataset)).collect()
}

pub fn id(n: u64) -> Id {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    Id::from_bytes(bytes)
}

pub fn head(commit: u64, content: &str) -> Head {
    Head { commit: id(commit), content: Digest::of(content.as_bytes()) }
}

/// A spec written as `inputs > outputs`, both separated by spaces; its id is its outputs joined by `+`.
pub fn spec(text: &str) -> JobSpec {
    let (inputs, outputs) = text.split_once('>').unwrap();
    let outputs: Vec<&str> = outputs.split_whitespace().collect();
    JobSpec {
        id: JobSpecId::new(outputs.join("+")),
        logic: Digest::of(b"logic"),
        inputs: inputs.split_whitespace().map(|name| JobInput::new(branch(name))).collect(),
        outputs: branches(&outputs),
        freshness: Freshness::ByInputs,
        attempts: None,
    }
}

pub fn specs(texts: &[&str]) -> JobSpecs {
    JobSpecs::new(texts.iter().map(|text| spec(text)).collect()).unwrap()
}
