//! Services, spouts, batching and egress.

use serde::Serialize;

use crate::decode::{Object, boolean, int32, int64, string};
use crate::diagnostic::Diagnostics;
use crate::source::Spanned;
use crate::value::Node;

/// A pipeline that serves its input on a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// The port the program listens on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_port: Option<Spanned<i32>>,
    /// The port others connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_port: Option<Spanned<i32>>,
    /// The address others connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// `ClusterIP`, `LoadBalancer` or `NodePort` (the default).
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Spanned<String>>,
}

/// A pipeline that makes commits of its own accord.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Spout {
    /// New files replace old ones instead of being appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<bool>,
    /// The file that keeps the spout's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
    /// The port it listens on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Spanned<Service>>,
}

/// How datums are batched into tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChunkSpec {
    /// Datums per task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<Spanned<i64>>,
    /// Bytes per task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<Spanned<i64>>,
}

/// Where to copy all output after success. Its key is upper-case, alone among all keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Egress {
    /// The target, like `s3://bucket/dir`.
    #[serde(rename = "URL", skip_serializing_if = "Option::is_none")]
    pub url: Option<Spanned<String>>,
}

impl Service {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("service", node, diagnostics)?;
        let service = Self {
            internal_port: fields.spanned("internal_port", int32),
            external_port: fields.spanned("external_port", int32),
            ip: fields.optional("ip", string),
            kind: fields.spanned("type", string),
        };
        fields.finish();
        Some(service)
    }
}

impl Spout {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("spout", node, diagnostics)?;
        let spout = Self {
            overwrite: fields.optional("overwrite", boolean),
            marker: fields.optional("marker", string),
            service: fields.spanned("service", Service::read),
        };
        fields.finish();
        Some(spout)
    }
}

impl ChunkSpec {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("chunk_spec", node, diagnostics)?;
        let spec =
            Self { number: fields.spanned("number", int64), size_bytes: fields.spanned("size_bytes", int64) };
        fields.finish();
        Some(spec)
    }
}

impl Egress {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("egress", node, diagnostics)?;
        let egress = Self { url: fields.spanned("URL", string) };
        fields.finish();
        Some(egress)
    }
}
