//! Workers: how many, how large, where.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::decode::{Object, float, int64, string, uint64};
use crate::diagnostic::Diagnostics;
use crate::source::Spanned;
use crate::value::Node;

/// Number of workers: `constant`, or `coefficient` times the number of nodes; at most one is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ParallelismSpec {
    /// So many workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<u64>,
    /// So many workers per node, rounded down, at least one in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coefficient: Option<f64>,
}

/// Number of metadata shards; never zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HashtreeSpec {
    /// The number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<u64>,
}

/// Resources of a worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Resources {
    /// Processors, possibly a fraction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Spanned<f64>>,
    /// Memory, a quantity of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Spanned<String>>,
    /// Disk space, a quantity of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Spanned<String>>,
    /// Accelerators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

/// Accelerators of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// The resource name, like `nvidia.com/gpu`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<Spanned<i64>>,
}

/// Where workers may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SchedulingSpec {
    /// Labels a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// The priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
}

impl ParallelismSpec {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("parallelism_spec", node, diagnostics)?;
        let spec = Self {
            constant: fields.optional("constant", uint64),
            coefficient: fields.optional("coefficient", float),
        };
        fields.finish();
        Some(spec)
    }
}

impl HashtreeSpec {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("hashtree_spec", node, diagnostics)?;
        let spec = Self { constant: fields.optional("constant", uint64) };
        fields.finish();
        Some(spec)
    }
}

impl Resources {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("resources", node, diagnostics)?;
        let resources = Self {
            cpu: fields.spanned("cpu", float),
            memory: fields.spanned("memory", string),
            disk: fields.spanned("disk", string),
            gpu: fields.optional("gpu", Gpu::read),
        };
        fields.finish();
        Some(resources)
    }
}

impl Gpu {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("gpu", node, diagnostics)?;
        let gpu = Self { kind: fields.optional("type", string), number: fields.spanned("number", int64) };
        fields.finish();
        Some(gpu)
    }
}

impl SchedulingSpec {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("scheduling_spec", node, diagnostics)?;
        let spec = Self {
            node_selector: fields.string_map("node_selector"),
            priority_class_name: fields.optional("priority_class_name", string),
        };
        fields.finish();
        Some(spec)
    }
}
