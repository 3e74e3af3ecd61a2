//! `transform.build`: the source of a pipeline is built before it runs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Pipeline;
use super::pipeline::non_empty;
use crate::decode::{Object, string};
use crate::diagnostic::Diagnostics;
use crate::source::Spanned;
use crate::value::Node;

/// How the source of a pipeline becomes something that runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Build {
    /// The source directory, relative to the specification; see [`Build::path`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Spanned<String>>,
    /// The shipped builder to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<Spanned<String>>,
    /// The image of another builder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Spanned<String>>,
    /// Environment of the build step. Not in the original.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Globs for the part of `/pfs/source` the running pipeline may see; absent means all of it. What it
    /// cannot see cannot make its datums run again. Not in the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Vec<Spanned<String>>>,
}

/// Which builder builds a pipeline, and by which field it was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builder<'p> {
    /// `build.language`: the shipped builder of that name.
    Language(&'p Spanned<String>),
    /// `build.image`: the builder in that image.
    BuildImage(&'p Spanned<String>),
    /// `transform.image`: the builder in the image the pipeline runs in.
    TransformImage(&'p Spanned<String>),
}

impl Build {
    pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("transform.build", node, diagnostics)?;
        let build = Self {
            path: fields.spanned("path", string),
            language: fields.spanned("language", string),
            image: fields.spanned("image", string),
            env: fields.string_map("env"),
            runtime: match fields.node("runtime") {
                Some(_) => Some(fields.spanned_list("runtime", string)),
                None => None,
            },
        };
        fields.finish();
        Some(build)
    }

    /// The source directory as given; `.` when absent.
    pub fn path(&self) -> &str {
        self.path.as_ref().and_then(|path| non_empty(&path.value)).unwrap_or(".")
    }
}

impl Pipeline {
    /// The `build` section of a build pipeline.
    pub fn build(&self) -> Option<&Spanned<Build>> {
        self.transform.as_ref()?.build.as_ref()
    }

    /// The builder of a build pipeline by the documented order: `build.language`, then `build.image`,
    /// then `transform.image`. `None` when there is no build or nothing names a builder.
    pub fn builder(&self) -> Option<Builder<'_>> {
        self.builders().into_iter().next()
    }

    /// All that could name a builder, the one that does first.
    pub(super) fn builders(&self) -> Vec<Builder<'_>> {
        let Some(transform) = &self.transform else { return Vec::new() };
        let Some(build) = &transform.build else { return Vec::new() };
        let given = |text: &&Spanned<String>| !text.is_empty();
        [
            build.language.as_ref().filter(given).map(Builder::Language),
            build.image.as_ref().filter(given).map(Builder::BuildImage),
            transform.image.as_ref().filter(given).map(Builder::TransformImage),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Builder<'_> {
    /// The field that names it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Language(_) => "build.language",
            Self::BuildImage(_) => "build.image",
            Self::TransformImage(_) => "transform.image",
        }
    }

    /// What the field says, with its place.
    pub fn name(&self) -> &Spanned<String> {
        match self {
            Self::Language(name) | Self::BuildImage(name) | Self::TransformImage(name) => name,
        }
    }
}
