//! Statements about images, attached as BuildKit attaches them: a manifest of in-toto statements beside the image in one
//! index, found by the digest of the image, and run by nobody because its platform is unknown.

use std::collections::BTreeMap;

use quern_core::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::document::{
    Assembled, Descriptor, Document, Format, ImageConfig, Platform, REFERENCE_DIGEST, REFERENCE_TYPE,
    assemble,
};
use crate::image::Layer;
use crate::reference::Reference;

/// The type of a layer that is a statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

/// The annotation of such a layer with what kind of statement it is.
pub const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// The kind of statement that tells how something was built.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// The kind of statement that lists what something contains, in the form of SPDX.
pub const SPDX: &str = "https://spdx.dev/Document";

const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";

/// Something that is said about artifacts (in-toto, version 0.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    /// The version of this form.
    #[serde(rename = "_type")]
    pub kind: String,
    /// What `predicate` is.
    pub predicate_type: String,
    /// About what.
    pub subject: Vec<Subject>,
    /// What is said.
    pub predicate: Value,
}

/// An artifact that something is said about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// A package URL, or a path.
    pub name: String,
    /// Name of the function to hexadecimal digest.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// The image of a platform under a name.
    pub fn image(name: &Reference, platform: &Platform, manifest: &Digest) -> Self {
        let familiar = name.without_digest().unwrap_or_else(|| name.clone()).familiar();
        let (path, tag) = match familiar.split_once('@') {
            None => familiar.rsplit_once(':').unwrap_or((&familiar, "latest")),
            Some((path, _)) => (path, ""),
        };
        let version = if tag.is_empty() { String::new() } else { format!("@{tag}") };
        let platform = platform.name().replace('/', "%2F");
        let digest = BTreeMap::from([("sha256".to_owned(), manifest.hex())]);
        Self { name: format!("pkg:docker/{}{version}?platform={platform}", path.replace(':', "%3A")), digest }
    }
}

impl Statement {
    /// A statement of a kind.
    pub fn new(predicate_type: &str, subject: Vec<Subject>, predicate: Value) -> Self {
        let (kind, predicate_type) = (STATEMENT.to_owned(), predicate_type.to_owned());
        Self { kind, predicate_type, subject, predicate }
    }

    /// How something was built.
    pub fn provenance(subject: Vec<Subject>, provenance: &Provenance) -> Self {
        let predicate = serde_json::to_value(provenance).expect("provenance has only text keys");
        Self::new(PROVENANCE, subject, predicate)
    }
}

/// How something was built (SLSA provenance, version 1).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// From what, and with which settings.
    pub build_definition: BuildDefinition,
    /// By whom and when.
    pub run_details: RunDetails,
}

/// The input of a build.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildDefinition {
    /// An address that says how to read the parameters.
    pub build_type: String,
    /// What the user decides.
    pub external_parameters: Value,
    /// What the builder decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_parameters: Option<Value>,
    /// What was read: base images, sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolved_dependencies: Vec<Resource>,
}

/// One execution of a build.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunDetails {
    /// Who.
    pub builder: Builder,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// What came out besides, such as logs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub byproducts: Vec<Resource>,
}

/// Who runs a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// An address that stands for the builder and its trust; may be empty.
    pub id: String,
    /// Name of a part to its version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub version: BTreeMap<String, String>,
}

/// When a build ran. Times are RFC 3339.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name of this execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation_id: Option<String>,
    /// Its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_on: Option<String>,
    /// Its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_on: Option<String>,
    /// Whether everything was listed and no command could fetch more; BuildKit's addition to the form.
    #[serde(default, rename = "buildkit_hermetic", skip_serializing_if = "std::ops::Not::not")]
    pub hermetic: bool,
    /// Whether everything was listed; BuildKit's addition to the form.
    #[serde(default, rename = "buildkit_completeness", skip_serializing_if = "Option::is_none")]
    pub completeness: Option<Completeness>,
    /// Whether whoever built says that the same input gives the same bytes; BuildKit's addition.
    #[serde(default, rename = "buildkit_reproducible")]
    pub reproducible: bool,
}

/// What of a statement is all there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Completeness {
    /// The parameters.
    pub request: bool,
    /// What was read.
    pub resolved_dependencies: bool,
}

/// Something that was read or written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// What it is, as a package URL or an address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// Name of the function to hexadecimal digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
}

/// Statements about one image, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The statements, in order.
    pub statements: Vec<Document>,
    /// Config and manifest. The descriptor of the manifest is the entry of the index, with its annotations.
    pub documents: Assembled,
}

/// Makes the documents of statements about an image. The entry belongs into the index that names the image.
pub fn attest(image: &Descriptor, statements: &[Statement]) -> Attestation {
    let statements: Vec<_> = statements
        .iter()
        .map(|statement| {
            let mut document = Document::json(IN_TOTO, statement);
            let kind = statement.predicate_type.clone();
            document.descriptor.annotations.insert(PREDICATE_TYPE.to_owned(), kind);
            document
        })
        .collect();
    let unknown = || "unknown".to_owned();
    let platform = Platform { architecture: unknown(), os: unknown(), os_version: None, variant: None };
    let layer = |document: &Document| Layer {
        descriptor: document.descriptor.clone(),
        diff_id: document.descriptor.digest,
    };
    let layers: Vec<_> = statements.iter().map(layer).collect();
    let mut documents = assemble(&ImageConfig::new(platform), &layers, Format::Oci, BTreeMap::new());
    documents.manifest.descriptor.annotations = BTreeMap::from([
        (REFERENCE_DIGEST.to_owned(), image.digest.to_string()),
        (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
    ]);
    Attestation { statements, documents }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{self, media};
    use serde_json::json;

    fn amd64() -> Platform {
        Platform { architecture: "amd64".into(), os: "linux".into(), os_version: None, variant: None }
    }

    #[test]
    fn attached_as_buildkit_attaches() {
        let image = Descriptor::new(media::MANIFEST, Digest::of(b"image"), 5);
        let provenance = Provenance {
            build_definition: BuildDefinition {
                build_type: "https://example.org/build".into(),
                external_parameters: json!({"target": "app"}),
                resolved_dependencies: vec![Resource {
                    uri: "pkg:docker/debian@12".into(),
                    ..Resource::default()
                }],
                ..BuildDefinition::default()
            },
            run_details: RunDetails {
                metadata: Some(Metadata {
                    started_on: Some("2026-01-02T03:04:05Z".into()),
                    ..Metadata::default()
                }),
                ..RunDetails::default()
            },
        };
        let name = "example.org:5000/app:v1".parse().unwrap();
        let subject = vec![Subject::image(&name, &amd64(), &image.digest)];
        let made = attest(&image, &[Statement::provenance(subject, &provenance)]);

        let statement: Value = serde_json::from_slice(&made.statements[0].bytes).unwrap();
        let expected = json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://slsa.dev/provenance/v1",
            "subject": [{
                "name": "pkg:docker/example.org%3A5000/app@v1?platform=linux%2Famd64",
                "digest": {"sha256": image.digest.hex()}
            }],
            "predicate": {
                "buildDefinition": {
                    "buildType": "https://example.org/build",
                    "externalParameters": {"target": "app"},
                    "resolvedDependencies": [{"uri": "pkg:docker/debian@12"}]
                },
                "runDetails": {"builder": {"id": ""}, "metadata": {"startedOn": "2026-01-02T03:04:05Z", "buildkit_reproducible": false}}
            }
        });
        assert_eq!(statement, expected);
        let read: Statement = serde_json::from_value(statement).unwrap();
        assert_eq!(serde_json::from_value::<Provenance>(read.predicate).unwrap(), provenance);

        let manifest = document::manifest(&made.documents.manifest.bytes, media::MANIFEST).unwrap();
        assert_eq!(manifest.layers, [made.statements[0].descriptor.clone()]);
        assert_eq!(manifest.layers[0].annotations["in-toto.io/predicate-type"], PROVENANCE);
        let config = document::config(&made.documents.config.bytes).unwrap();
        assert_eq!(config.platform.name(), "unknown/unknown");
        assert_eq!(config.rootfs.diff_ids, [made.statements[0].descriptor.digest]);
        let entry = serde_json::to_value(&made.documents.manifest.descriptor).unwrap();
        assert_eq!(entry["platform"], json!({"architecture": "unknown", "os": "unknown"}));
        assert_eq!(entry["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(entry["annotations"]["vnd.docker.reference.digest"], image.digest.to_string());
    }

    #[test]
    fn subjects_are_package_urls() {
        let check = |name: &str, expected: &str| {
            let subject = Subject::image(&name.parse().unwrap(), &amd64(), &Digest::of(b""));
            assert_eq!(subject.name, expected);
        };
        check("debian", "pkg:docker/debian@latest?platform=linux%2Famd64");
        check("me/app:v2", "pkg:docker/me/app@v2?platform=linux%2Famd64");
        let digest = Digest::of(b"");
        check(&format!("me/app:v2@{digest}"), "pkg:docker/me/app@v2?platform=linux%2Famd64");
        check(&format!("me/app@{digest}"), "pkg:docker/me/app?platform=linux%2Famd64");
    }
}
