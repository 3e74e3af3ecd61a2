//! The documents, as they are in JSON.

use std::collections::BTreeMap;

use quern_core::Digest;
use serde::{Deserialize, Serialize};

use crate::export::Descriptor;

use super::{CONFIG_TYPE, MANIFEST_TYPE};

pub(super) const DIFF_ID: &str = "containerd.io/uncompressed";
pub(super) const CREATED_AT: &str = "buildkit/createdat";

#[derive(Debug, Serialize, Deserialize, Default, PartialEq, Eq)]
pub(super) struct Config {
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<Layer>,
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(super) records: Vec<Record>,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) blob: Digest,
    /// The layer below, -1 for none. Zero is written by leaving it out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<Annotations>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Annotations {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) media_type: String,
    #[serde(default, rename = "diffID", skip_serializing_if = "String::is_empty")]
    pub(super) diff_id: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) size: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) created_at: String,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) digest: Digest,
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<RecordLayer>,
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(super) chains: Vec<RecordChain>,
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(super) inputs: Vec<Vec<RecordInput>>,
}

/// A result: a layer and those below it.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecordLayer {
    #[serde(default)]
    pub(super) layer: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) created_at: String,
}

/// A result: layers listed one by one.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecordChain {
    pub(super) layers: Vec<i64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) created_at: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct RecordInput {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) selector: String,
    #[serde(default)]
    pub(super) link: usize,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Other programs write empty lists as null.
fn or_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: String,
    /// Only an image manifest has it; an index lists it among the manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<WireDescriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<WireDescriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) manifests: Vec<WireDescriptor>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireDescriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl From<&Descriptor> for WireDescriptor {
    fn from(d: &Descriptor) -> Self {
        let Descriptor { media_type, digest, size, annotations } = d.clone();
        Self { media_type, digest, size, annotations }
    }
}

impl From<WireDescriptor> for Descriptor {
    fn from(d: WireDescriptor) -> Self {
        Self { media_type: d.media_type, digest: d.digest, size: d.size, annotations: d.annotations }
    }
}

impl Manifest {
    /// The descriptors of the configuration and of all layers.
    pub(super) fn split(self) -> (Option<Descriptor>, Vec<Descriptor>) {
        let listed = self.manifests.into_iter().chain(self.config);
        let (config, other): (Vec<_>, Vec<_>) = listed.partition(|d| d.media_type == CONFIG_TYPE);
        let layers = self.layers.into_iter().chain(other).map(Descriptor::from).collect();
        (config.into_iter().next().map(Descriptor::from), layers)
    }
}

/// An image manifest around a configuration and its layers.
pub(super) fn manifest(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE.to_owned(),
        config: Some(config.into()),
        layers: layers.iter().map(WireDescriptor::from).collect(),
        manifests: Vec::new(),
    };
    json(&manifest)
}

pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs are representable in JSON")
}

/// Docker's media types of layers as OCI names them.
pub(super) fn oci_type(media_type: &str) -> &str {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar" => {
            "application/vnd.oci.image.layer.nondistributable.v1.tar"
        }
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        }
        other => other,
    }
}
