//! The graph that job specs form: a spec follows another if it reads a branch the other one writes.

use std::collections::BTreeMap;

use crate::spec::{DatasetBranch, JobSpec, JobSpecId};

/// A set of job specs that can be built: ids are unique, a branch has one producer, there is no ring.
#[derive(Debug, Clone, Default)]
pub struct JobSpecs {
    /// In topological order: producers before readers, otherwise by id.
    specs: Vec<JobSpec>,
    by_id: BTreeMap<JobSpecId, usize>,
    producers: BTreeMap<DatasetBranch, usize>,
}

/// Why job specs do not form a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Two specs of one id.
    #[error("job spec `{0}` is given twice")]
    Repeated(JobSpecId),
    /// A spec that makes nothing.
    #[error("job spec `{0}` has no output; give it one")]
    NoOutput(JobSpecId),
    /// A dataset's name that cannot be written as `dataset@branch`.
    #[error("job spec `{spec}` names `{branch}`; a dataset's name must not be empty or contain `@`")]
    Name {
        /// The spec.
        spec: JobSpecId,
        /// The offending branch.
        branch: DatasetBranch,
    },
    /// Two specs write one branch.
    #[error("`{branch}` is written by job specs `{first}` and `{second}`; let one of them write elsewhere")]
    TwoProducers {
        /// What both write.
        branch: DatasetBranch,
        /// One of them.
        first: JobSpecId,
        /// The other.
        second: JobSpecId,
    },
    /// Specs that wait for each other.
    #[error("job specs feed each other in a ring: {}", ring_in_words(.0))]
    Ring(Vec<JobSpecId>),
}

fn ring_in_words(ring: &[JobSpecId]) -> String {
    ring.iter().chain(ring.first()).map(|id| format!("`{id}`")).collect::<Vec<_>>().join(" -> ")
}

impl JobSpecs {
    /// Checks and orders the specs.
    ///
    /// # Errors
    /// [`SpecError`], of several problems the first found.
    pub fn new(specs: Vec<JobSpec>) -> Result<Self, SpecError> {
        let mut sorted = BTreeMap::new();
        for spec in specs {
            check_names(&spec)?;
            if let Some(spec) = sorted.insert(spec.id.clone(), spec) {
                return Err(SpecError::Repeated(spec.id));
            }
        }
        let specs: Vec<JobSpec> = sorted.into_values().collect();
        let producers = producers(&specs)?;
        let order = topological_order(&specs, &producers)?;
        let mut specs: Vec<Option<JobSpec>> = specs.into_iter().map(Some).collect();
        let specs: Vec<JobSpec> = order.into_iter().filter_map(|i| specs[i].take()).collect();
        let by_id = specs.iter().enumerate().map(|(i, spec)| (spec.id.clone(), i)).collect();
        let producers = self::producers(&specs)?;
        Ok(Self { specs, by_id, producers })
    }

    /// The specs, producers before readers.
    pub fn in_order(&self) -> &[JobSpec] {
        &self.specs
    }

    /// The spec of this id.
    pub fn get(&self, id: &JobSpecId) -> Option<&JobSpec> {
        self.by_id.get(id).map(|i| &self.specs[*i])
    }

    /// The spec that writes this branch.
    pub fn producer(&self, branch: &DatasetBranch) -> Option<&JobSpec> {
        self.producers.get(branch).map(|i| &self.specs[*i])
    }

    /// Position in [`JobSpecs::in_order`] of the spec of this id.
    pub(crate) fn position(&self, id: &JobSpecId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// Position of the spec that writes this branch.
    pub(crate) fn producer_position(&self, branch: &DatasetBranch) -> Option<usize> {
        self.producers.get(branch).copied()
    }
}

fn check_names(spec: &JobSpec) -> Result<(), SpecError> {
    if spec.outputs.is_empty() {
        return Err(SpecError::NoOutput(spec.id.clone()));
    }
    let mut named = spec.inputs.iter().map(|input| &input.source).chain(&spec.outputs);
    match named.find(|b| b.dataset.is_empty() || b.branch.is_empty() || b.dataset.contains('@')) {
        Some(branch) => Err(SpecError::Name { spec: spec.id.clone(), branch: branch.clone() }),
        None => Ok(()),
    }
}

fn producers(specs: &[JobSpec]) -> Result<BTreeMap<DatasetBranch, usize>, SpecError> {
    let mut producers = BTreeMap::new();
    for (i, spec) in specs.iter().enumerate() {
        for branch in &spec.outputs {
            if let Some(other) = producers.insert(branch.clone(), i).filter(|other| *other != i) {
                let (first, second) = (specs[other].id.clone(), spec.id.clone());
                return Err(SpecError::TwoProducers { branch: branch.clone(), first, second });
            }
        }
    }
    Ok(producers)
}

/// A spec on its way into the order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Untouched,
    /// On the path being explored.
    Open,
    Placed,
}

/// Depth-first, with a path of its own instead of recursion: specs come from users and may be many.
fn topological_order(
    specs: &[JobSpec],
    producers: &BTreeMap<DatasetBranch, usize>,
) -> Result<Vec<usize>, SpecError> {
    let mut marks = vec![Mark::Untouched; specs.len()];
    let mut order = Vec::with_capacity(specs.len());
    for start in 0..specs.len() {
        let mut path: Vec<(usize, usize)> = Vec::new();
        if marks[start] == Mark::Untouched {
            marks[start] = Mark::Open;
            path.push((start, 0));
        }
        while let Some((spec, next_input)) = path.last_mut() {
            let Some(input) = specs[*spec].inputs.get(*next_input) else {
                marks[*spec] = Mark::Placed;
                order.push(*spec);
                path.pop();
                continue;
            };
            *next_input += 1;
            let Some(&producer) = producers.get(&input.source) else { continue };
            match marks[producer] {
                Mark::Placed => {}
                Mark::Untouched => {
                    marks[producer] = Mark::Open;
                    path.push((producer, 0));
                }
                Mark::Open => return Err(ring(specs, &path, producer)),
            }
        }
    }
    Ok(order)
}

/// The ring that closes at `end`, in the direction of the data.
fn ring(specs: &[JobSpec], path: &[(usize, usize)], end: usize) -> SpecError {
    let start = path.iter().position(|(spec, _)| *spec == end).unwrap_or(0);
    SpecError::Ring(path[start..].iter().rev().map(|(spec, _)| specs[*spec].id.clone()).collect())
}
