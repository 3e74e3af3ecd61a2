//! The config of an image: OCI's fields and the ones that Docker adds.

use std::collections::{BTreeMap, BTreeSet};

use quern_core::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Platform;

/// How an image wants to be run, and what its layers unpack to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub author: String,
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// Defaults of a program run in it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: Defaults,
    /// The digests of its unpacked layers.
    pub rootfs: RootFs,
    /// What was done to make it, first to last. Entries that made a layer are in the order of the layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub history: Vec<History>,
    /// BuildKit's inline cache: base64 of the JSON array of cache records, with layers counted as in the manifest.
    #[serde(
        default,
        rename = "moby.buildkit.cache.v0",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "null_is_default"
    )]
    pub inline_cache: Option<String>,
}

impl ImageConfig {
    /// An image of nothing.
    pub fn new(platform: Platform) -> Self {
        Self {
            created: None,
            author: String::new(),
            platform,
            config: Defaults::default(),
            rootfs: RootFs::new(Vec::new()),
            history: Vec::new(),
            inline_cache: None,
        }
    }
}

/// Defaults of a program run in an image. Absent and `null` are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Defaults {
    /// `name-or-uid[:group-or-gid]`; empty for root.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub user: String,
    /// `port[/protocol]`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", with = "keys")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// Program and first arguments.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program if there is no entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// Directories whose content outlives a container.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", with = "keys")]
    pub volumes: BTreeSet<String>,
    /// Working directory; empty for `/`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that ends the program, by name or number; empty for SIGTERM.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub stop_signal: String,
    /// On Windows: the command line is one text already.
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub args_escaped: bool,
    /// How to see whether the program is well.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "null_is_default")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for a build that starts from this image.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub on_build: Vec<String>,
    /// Seconds from the stop signal to SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "null_is_default")]
    pub stop_timeout: Option<i64>,
    /// What runs commands given as one text; empty for `/bin/sh -c`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub shell: Vec<String>,
}

/// A command that tells whether a container is well. Durations are nanoseconds; zero means Docker's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`; `CMD` and arguments; or `CMD-SHELL` and one text.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub test: Vec<String>,
    /// Between two runs.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub interval: i64,
    /// For one run.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub timeout: i64,
    /// From the start, in which failures do not count.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub start_period: i64,
    /// Between two runs in that period.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub start_interval: i64,
    /// Failures in a row that make it unwell.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub retries: i64,
}

/// One thing that was done to make an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub created_by: String,
    /// Who.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub author: String,
    /// A remark, such as the name of the builder.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub comment: String,
    /// Whether it made no layer.
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub empty_layer: bool,
}

/// The digests of unpacked layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the plain tar streams, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

impl RootFs {
    /// Of these layers.
    pub fn new(diff_ids: Vec<Digest>) -> Self {
        Self { kind: "layers".to_owned(), diff_ids }
    }
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// A set written as an object whose values are empty objects.
mod keys {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer, Serializer};
    use serde::de::IgnoredAny;

    pub fn serialize<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|key| (key, serde_json::Map::new())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
        let map: Option<BTreeMap<String, IgnoredAny>> = Option::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A config as Docker writes it, with every field that is kept, survives reading and writing.
    #[test]
    fn every_field_survives() {
        let text = r#"{"created":"2026-01-02T03:04:05Z","author":"me","architecture":"arm64","os":"linux","variant":"v8",
            "config":{"User":"1:2","ExposedPorts":{"80/tcp":{}},"Env":["A=1"],"Entrypoint":["/e"],"Cmd":["c"],
            "Volumes":{"/data":{}},"WorkingDir":"/w","Labels":{"l":"v"},"StopSignal":"SIGINT","ArgsEscaped":true,
            "Healthcheck":{"Test":["CMD","x"],"Interval":30000000000,"Timeout":1,"StartPeriod":2,"StartInterval":3,"Retries":4},
            "OnBuild":["RUN x"],"StopTimeout":7,"Shell":["/bin/bash","-c"]},
            "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},
            "history":[{"created":"2026-01-02T03:04:05Z","created_by":"COPY a","comment":"buildkit.dockerfile.v0"},
            {"created_by":"ENV A=1","empty_layer":true}],"moby.buildkit.cache.v0":"W10="}"#;
        let read: ImageConfig = serde_json::from_str(text).unwrap();
        let written: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }

    #[test]
    fn nulls_are_absent_values() {
        let text = r#"{"architecture":"amd64","os":"linux","author":null,"history":null,"moby.buildkit.cache.v0":null,
            "config":{"ExposedPorts":null,"Volumes":null,"Healthcheck":null,"OnBuild":null,"StopSignal":null,"Shell":null},
            "rootfs":{"type":"layers","diff_ids":null},"container":"gone","docker_version":"20.10"}"#;
        let read: ImageConfig = serde_json::from_str(text).unwrap();
        let platform =
            Platform { architecture: "amd64".into(), os: "linux".into(), os_version: None, variant: None };
        assert_eq!(read, ImageConfig::new(platform));
        assert_eq!(
            serde_json::to_string(&read).unwrap(),
            r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#
        );
    }
}
