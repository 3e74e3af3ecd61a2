//! Which job specs a build is about, before staleness is asked. The first four kinds are those of Foundry's build
//! service; the fifth is what a new commit triggers.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::graph::JobSpecs;
use crate::spec::{DatasetBranch, JobSpec, JobSpecId};

/// A way to choose job specs. A build takes the union of its selections, each spec once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Selection {
    /// The specs that write these branches.
    Datasets {
        /// The branches.
        branches: Vec<DatasetBranch>,
        /// Whether a branch that no spec writes is an error.
        required: bool,
    },
    /// These specs.
    JobSpecs {
        /// The specs.
        specs: Vec<JobSpecId>,
        /// Whether an unknown one is an error.
        required: bool,
    },
    /// The specs that write these branches, and everything upstream of them.
    Upstream {
        /// The downstream end.
        of: Vec<DatasetBranch>,
        /// Branches that are not built and beyond which nobody looks.
        ignoring: Vec<DatasetBranch>,
    },
    /// Everything on a path from one of `from` (exclusive, unless it lies on such a path itself) to one of `to`.
    Connecting {
        /// The upstream end.
        from: Vec<DatasetBranch>,
        /// The downstream end.
        to: Vec<DatasetBranch>,
        /// Branches no path leads through.
        ignoring: Vec<DatasetBranch>,
    },
    /// Everything downstream of these branches.
    Downstream {
        /// What has advanced.
        of: Vec<DatasetBranch>,
    },
    /// Every spec there is.
    All,
}

/// A selection of something that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// Nothing makes the branch.
    #[error("no job spec writes `{0}`; check the name and the branch")]
    NoProducer(DatasetBranch),
    /// No spec of this id.
    #[error("there is no job spec `{0}`")]
    UnknownSpec(JobSpecId),
}

impl Selection {
    /// Positions of the chosen specs in [`JobSpecs::in_order`].
    pub(crate) fn choose(&self, specs: &JobSpecs) -> Result<BTreeSet<usize>, SelectionError> {
        match self {
            Self::Datasets { branches, required } => found(
                branches,
                *required,
                |branch| specs.producer_position(branch),
                SelectionError::NoProducer,
            ),
            Self::JobSpecs { specs: ids, required } => {
                found(ids, *required, |id| specs.position(id), SelectionError::UnknownSpec)
            }
            Self::Upstream { of, ignoring } => Ok(upstream(specs, of, ignoring)),
            Self::Connecting { from, to, ignoring } => {
                let after = downstream(specs, from, ignoring);
                Ok(upstream(specs, to, ignoring).intersection(&after).copied().collect())
            }
            Self::Downstream { of } => Ok(downstream(specs, of, &[])),
            Self::All => Ok((0..specs.in_order().len()).collect()),
        }
    }
}

fn found<T: Clone>(
    wanted: &[T],
    required: bool,
    position: impl Fn(&T) -> Option<usize>,
    missing: impl Fn(T) -> SelectionError,
) -> Result<BTreeSet<usize>, SelectionError> {
    let mut chosen = BTreeSet::new();
    for item in wanted {
        match position(item) {
            Some(position) => drop(chosen.insert(position)),
            None if required => return Err(missing(item.clone())),
            None => {}
        }
    }
    Ok(chosen)
}

/// Against the order, so that a spec is decided after all its readers.
fn upstream(specs: &JobSpecs, of: &[DatasetBranch], ignoring: &[DatasetBranch]) -> BTreeSet<usize> {
    let mut wanted: BTreeSet<&DatasetBranch> = of.iter().collect();
    let mut chosen = BTreeSet::new();
    for (position, spec) in specs.in_order().iter().enumerate().rev() {
        if passes(spec, &wanted, ignoring) {
            chosen.insert(position);
            wanted.extend(spec.inputs.iter().map(|input| &input.source));
        }
    }
    chosen
}

/// In the order, so that a spec is decided after all it reads.
fn downstream(specs: &JobSpecs, of: &[DatasetBranch], ignoring: &[DatasetBranch]) -> BTreeSet<usize> {
    let mut reached: BTreeSet<&DatasetBranch> = of.iter().filter(|b| !ignoring.contains(b)).collect();
    let mut chosen = BTreeSet::new();
    for (position, spec) in specs.in_order().iter().enumerate() {
        let reads = spec.inputs.iter().any(|input| reached.contains(&input.source));
        let mut outputs = spec.outputs.iter().filter(|branch| !ignoring.contains(branch)).peekable();
        if reads && outputs.peek().is_some() {
            chosen.insert(position);
            reached.extend(outputs);
        }
    }
    chosen
}

fn passes(spec: &JobSpec, wanted: &BTreeSet<&DatasetBranch>, ignoring: &[DatasetBranch]) -> bool {
    spec.outputs.iter().any(|branch| wanted.contains(branch) && !ignoring.contains(branch))
}
