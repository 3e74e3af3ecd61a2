//! `transform`: what runs for each datum.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Build;
use super::pipeline::non_empty;
use crate::decode::{Object, boolean, int64, string};
use crate::diagnostic::Diagnostics;
use crate::source::Spanned;
use crate::value::Node;

/// The program of a pipeline and its surroundings.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Transform {
    /// The image it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Spanned<String>>,
    /// The program and its arguments, run without a shell; the image's entry point is ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Lines of its standard input; absent means empty. See [`Transform::stdin_text`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Vec<String>>,
    /// The program that runs when `cmd` fails; if it succeeds the datum counts as recovered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub err_cmd: Vec<String>,
    /// Lines of the standard input of `err_cmd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub err_stdin: Option<Vec<String>>,
    /// Environment variables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Secrets as files or environment variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Spanned<Secret>>,
    /// Names of the secrets the image is pulled with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// Exit codes that count as success, of `cmd` and `err_cmd` alike.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accept_return_code: Vec<i64>,
    /// More verbose logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug: Option<bool>,
    /// `name-or-uid[:group-or-gid]`, looked up in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Spanned<String>>,
    /// The working directory; the image's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<Spanned<String>>,
    /// The Dockerfile `--build` builds the image from; `./Dockerfile` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<Spanned<String>>,
    /// Makes this a build pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<Spanned<Build>>,
}

/// A secret the program may see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The key within it, for `env_var`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The directory its keys appear in as files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
    /// The environment variable that holds the value of `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_var: Option<String>,
}

impl Transform {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("transform", node, diagnostics)?;
        let transform = Self {
            image: fields.spanned("image", string),
            cmd: fields.list("cmd", string),
            stdin: lines(&mut fields, "stdin"),
            err_cmd: fields.list("err_cmd", string),
            err_stdin: lines(&mut fields, "err_stdin"),
            env: fields.string_map("env"),
            secrets: fields.spanned_list("secrets", Secret::read),
            image_pull_secrets: fields.list("image_pull_secrets", string),
            accept_return_code: fields.list("accept_return_code", int64),
            debug: fields.optional("debug", boolean),
            user: fields.spanned("user", string),
            working_dir: fields.spanned("working_dir", string),
            dockerfile: fields.spanned("dockerfile", string),
            build: fields.spanned("build", Build::read),
        };
        fields.finish();
        Some(transform)
    }

    /// The image, if one is named.
    pub fn image(&self) -> Option<&Spanned<String>> {
        self.image.as_ref().filter(|image| non_empty(image).is_some())
    }

    /// The bytes `cmd` reads: every line with a newline.
    pub fn stdin_text(&self) -> String {
        joined(self.stdin.as_deref())
    }

    /// The bytes `err_cmd` reads.
    pub fn err_stdin_text(&self) -> String {
        joined(self.err_stdin.as_deref())
    }
}

fn lines(fields: &mut Object<'_, '_>, name: &'static str) -> Option<Vec<String>> {
    fields.node(name)?;
    Some(fields.list(name, string)).filter(|lines| !lines.is_empty())
}

fn joined(lines: Option<&[String]>) -> String {
    lines.unwrap_or_default().iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

impl Secret {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("transform.secrets", node, diagnostics)?;
        let secret = Self {
            name: fields.or_default("name", string),
            key: fields.optional("key", string),
            mount_path: fields.optional("mount_path", string),
            env_var: fields.optional("env_var", string),
        };
        fields.finish();
        Some(secret)
    }
}
