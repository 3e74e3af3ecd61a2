//! The JSON documents of an image, with their fields in the order in which the specification lists them.
//!
//! A document is identified by the digest of its bytes, so bytes that came from outside are kept and hashed as they are
//! and never written again from these structs; the structs are written only when a document is made here.

mod assemble;
mod config;

use std::collections::BTreeMap;

use quern_core::Digest;
use quern_core::step::Platform as Wanted;
use serde::{Deserialize, Serialize};

pub use assemble::{Assembled, Document, Format, assemble, assemble_index};
pub use config::{Defaults, Healthcheck, History, ImageConfig, RootFs};

/// Media types, OCI's and Docker's for the same thing side by side.
pub mod media {
    /// An OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer as plain tar.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer as tar and gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer as tar and zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's index.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer as tar and gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's layer as plain tar.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's layer as tar and zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    /// Whether this names an index.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_INDEX)
    }

    /// Whether this names an image manifest.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether this names an image config.
    pub fn is_config(media_type: &str) -> bool {
        matches!(media_type, CONFIG | DOCKER_CONFIG)
    }

    /// Whether this names a layer that can be unpacked; encrypted layers and foreign artifacts cannot.
    pub fn is_layer(media_type: &str) -> bool {
        matches!(
            media_type,
            LAYER | LAYER_GZIP | LAYER_ZSTD | DOCKER_LAYER | DOCKER_LAYER_GZIP | DOCKER_LAYER_ZSTD
        )
    }
}

/// The annotation that carries a tag in an image layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation with which containerd and BuildKit give the whole name of an image in a layout.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The annotation that marks a manifest as a statement about another one, not an image to run.
pub const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The annotation of such a manifest with the digest of the one it is about.
pub const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// What is known of a blob before it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of content.
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The number of its bytes.
    pub size: u64,
    /// Notes, such as [`REF_NAME`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// For a manifest: what it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor without notes.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Self { media_type, digest, size, annotations: BTreeMap::new(), platform: None }
    }
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64` ...
    pub architecture: String,
    /// `linux` ...
    pub os: String,
    /// Version of the operating system.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// `v8` ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Whether an image for this runs on what is wanted.
    pub fn satisfies(&self, wanted: &Wanted) -> bool {
        self.distance(wanted).is_some()
    }

    /// How far an image for this is from what is wanted: 0 if it is made for just that, more if it makes use of less; none if it
    /// does not run there.
    pub fn distance(&self, wanted: &Wanted) -> Option<u32> {
        if self.os != wanted.os || self.architecture != wanted.arch {
            return None;
        }
        let own = level(&self.architecture, self.variant.as_deref().unwrap_or_default());
        level(&wanted.arch, &wanted.variant).checked_sub(own)
    }

    /// The platform that is wanted, as that of an image.
    pub fn of(wanted: &Wanted) -> Self {
        let variant = Some(wanted.variant.clone()).filter(|variant| !variant.is_empty());
        Self { architecture: wanted.arch.clone(), os: wanted.os.clone(), os_version: None, variant }
    }

    /// `os/architecture[/variant]`.
    pub fn name(&self) -> String {
        let variant = self.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
        format!("{}/{}{variant}", self.os, self.architecture)
    }
}

/// What a variant of an architecture can do: whatever runs on a lower one of the same architecture runs on it.
fn level(architecture: &str, variant: &str) -> u32 {
    let number = variant.trim_start_matches('v').split('.').next().and_then(|number| number.parse().ok());
    number.unwrap_or(match architecture {
        "amd64" => 1,
        "arm" => 7,
        "arm64" => 8,
        _ => 0,
    })
}

/// A list of manifests, usually one for each platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is; OCI leaves it optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Manifests and further indexes.
    pub manifests: Vec<Descriptor>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is; OCI leaves it optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are not the document they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocument {
    /// No JSON, or JSON of another shape.
    #[error("{0}")]
    Json(String),
    /// Another version of the format.
    #[error("schemaVersion is {0}; only 2 is known")]
    Version(u32),
    /// It says itself that it is something else.
    #[error("it says it is `{found}` but was announced as `{announced}`")]
    Kind {
        /// In the document.
        found: String,
        /// In the descriptor.
        announced: String,
    },
    /// Both `manifests` and `layers`: two readers would see two different images.
    #[error("it has both `manifests` and `layers`, so it could be read as an index and as a manifest")]
    Ambiguous,
}

/// Reads an index.
///
/// # Errors
/// [`InvalidDocument`].
pub fn index(bytes: &[u8], announced: &str) -> Result<Index, InvalidDocument> {
    let index: Index = json(bytes)?;
    check(index.schema_version, index.media_type.as_deref(), announced)?;
    refuse_field(bytes, "layers")?;
    Ok(index)
}

/// Reads a manifest.
///
/// # Errors
/// [`InvalidDocument`].
pub fn manifest(bytes: &[u8], announced: &str) -> Result<Manifest, InvalidDocument> {
    let manifest: Manifest = json(bytes)?;
    check(manifest.schema_version, manifest.media_type.as_deref(), announced)?;
    refuse_field(bytes, "manifests")?;
    Ok(manifest)
}

/// Reads an image config.
///
/// # Errors
/// [`InvalidDocument`].
pub fn config(bytes: &[u8]) -> Result<ImageConfig, InvalidDocument> {
    json(bytes)
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, InvalidDocument> {
    serde_json::from_slice(bytes).map_err(|error| InvalidDocument::Json(error.to_string()))
}

fn check(version: u32, found: Option<&str>, announced: &str) -> Result<(), InvalidDocument> {
    match found {
        _ if version != 2 => Err(InvalidDocument::Version(version)),
        Some(found) if found != announced => {
            Err(InvalidDocument::Kind { found: found.to_owned(), announced: announced.to_owned() })
        }
        _ => Ok(()),
    }
}

fn refuse_field(bytes: &[u8], field: &str) -> Result<(), InvalidDocument> {
    let fields: BTreeMap<String, serde::de::IgnoredAny> = json(bytes)?;
    if fields.contains_key(field) { Err(InvalidDocument::Ambiguous) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest_text(extra: &str) -> String {
        let config = format!(r#"{{"mediaType":"{}","digest":"{DIGEST}","size":0}}"#, media::CONFIG);
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[]{extra}}}"#,
            media::MANIFEST
        )
    }

    #[test]
    fn a_manifest_is_written_as_it_was_read() {
        let text = manifest_text("");
        let read = manifest(text.as_bytes(), media::MANIFEST).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn a_document_of_two_kinds_is_refused() {
        let text = manifest_text(r#","manifests":[]"#);
        assert_eq!(manifest(text.as_bytes(), media::MANIFEST), Err(InvalidDocument::Ambiguous));
        assert!(matches!(
            manifest(manifest_text("").as_bytes(), media::DOCKER_MANIFEST),
            Err(InvalidDocument::Kind { .. })
        ));
    }

    #[test]
    fn dockers_nulls_are_absent_values() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Env":null,"Cmd":["sh"],"User":"","Labels":null}},
               "rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"history":[{{"created_by":"x"}}]}}"#
        );
        let read = config(text.as_bytes()).unwrap();
        assert_eq!(read.platform.name(), "linux/amd64");
        assert_eq!((read.config.cmd, read.config.env), (vec!["sh".to_owned()], vec![]));
    }

    #[test]
    fn hostile_numbers_and_depths_are_refused() {
        let deep = "[".repeat(100_000);
        for bytes in [
            deep.as_str(),
            "",
            "null",
            "{}",
            &manifest_text("").replace(r#""size":0"#, r#""size":-1"#),
            &manifest_text("").replace(r#""size":0"#, r#""size":1e99"#),
            &manifest_text("").replace("sha256:", "md5:"),
            &manifest_text("").replace(r#""schemaVersion":2"#, r#""schemaVersion":1"#),
        ] {
            assert!(
                manifest(bytes.as_bytes(), media::MANIFEST).is_err(),
                "{}",
                &bytes[..bytes.len().min(80)]
            );
        }
    }
}
