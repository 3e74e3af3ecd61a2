//! The specification of one pipeline.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    ChunkSpec, Egress, HashtreeSpec, Input, ParallelismSpec, Resources, SchedulingSpec, Service, Spout,
    Transform,
};
use crate::decode::{Object, boolean, duration, int64, string};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::duration::GoDuration;
use crate::source::{SourceText, Span, Spanned};
use crate::value::{Document, Node};

/// A pipeline as its author wrote it: absent fields stay absent, defaults come from the methods.
///
/// Serializes to the snake_case JSON of the original, with two differences: fields left out stay left
/// out, and 64-bit integers are JSON numbers, not strings (both forms are read back).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pipeline {
    /// `pipeline.name`; empty when missing, which validation reports.
    #[serde(rename = "pipeline", serialize_with = "as_reference")]
    pub name: Spanned<String>,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Annotations and labels; they change nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// What runs for each datum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform: Option<Spanned<Transform>>,
    /// Read, then refused: never supported by the original either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tf_job: Option<Spanned<serde_json::Value>>,
    /// How many workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism_spec: Option<Spanned<ParallelismSpec>>,
    /// Number of metadata shards of the output; has no meaning here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hashtree_spec: Option<Spanned<HashtreeSpec>>,
    /// Where to copy all output after success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// The branch jobs write to; see [`Pipeline::output_branch`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_branch: Option<Spanned<String>>,
    /// Output through S3 instead of `/pfs/out`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_out: Option<Spanned<bool>>,
    /// What a worker asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_requests: Option<Resources>,
    /// What a worker may use at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_limits: Option<Resources>,
    /// What the storage sidecar may use at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar_resource_limits: Option<Resources>,
    /// What the datums are made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
    /// Read cache of the sidecar, a quantity; 64M by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_size: Option<Spanned<String>>,
    /// Statistics per datum; always kept here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_stats: Option<Spanned<bool>>,
    /// Datums a worker may have in flight; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queue_size: Option<Spanned<i64>>,
    /// Makes the pipeline a long-running service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Spanned<Service>>,
    /// Makes the pipeline an endless source of data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spout: Option<Spanned<Spout>>,
    /// How datums are batched into tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_spec: Option<ChunkSpec>,
    /// Longest time one attempt at a datum may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datum_timeout: Option<Spanned<GoDuration>>,
    /// Longest time a job may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_timeout: Option<Spanned<GoDuration>>,
    /// Attempts at a datum within a job; see [`Pipeline::datum_tries`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datum_tries: Option<Spanned<i64>>,
    /// Part of every datum's identity; the original draws one at random when it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// No workers while there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<bool>,
    /// As many workers as there is work for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<bool>,
    /// Where workers may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduling_spec: Option<SchedulingSpec>,
    /// JSON merged into the pod, as a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_spec: Option<Spanned<String>>,
    /// A JSON patch of the pod, as a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_patch: Option<Spanned<String>>,
    /// Set when a backup is restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec_commit: Option<serde_json::Value>,
    /// Which datums run again; see [`Pipeline::reprocess_policy`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reprocess_spec: Option<Spanned<String>>,
    /// Set by the command line of the original; the verb decides here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<bool>,
    /// Set by the command line of the original; the flag decides here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reprocess: Option<bool>,
    /// What happens when several datums write the same path; see [`Pipeline::merge_policy`]. Not in the
    /// original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge: Option<Spanned<String>>,
    /// The document as its author wrote it, for `extract` and `edit`.
    #[serde(skip)]
    pub original: Original,
}

/// The text a pipeline was read from.
#[derive(Debug, Clone, Default)]
pub struct Original {
    /// The document, comments included.
    pub text: String,
    /// The same as JSON.
    pub value: serde_json::Value,
    /// Where it stands in the source.
    pub span: Span,
}

impl PartialEq for Original {
    /// Two pipelines are the same pipeline however they were written.
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

/// Cosmetic annotations and labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What happens when several datums of a job write the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MergePolicy {
    /// Their contents are joined, in the order of the datum keys.
    #[default]
    Concat,
    /// The job fails and names both datums.
    Fail,
    /// The last in the order of the datum keys wins.
    Last,
}

/// Which datums of an unchanged pipeline run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReprocessPolicy {
    /// Those that never succeeded.
    #[default]
    UntilSuccess,
    /// All, in every job.
    EveryJob,
}

impl Pipeline {
    /// Reads a document; `None` when it is no map at all.
    pub(super) fn read(
        document: &Document,
        source: &SourceText,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let mut fields = Object::open("pipeline spec", &document.root, diagnostics)?;
        let pipeline = Self {
            name: name(&mut fields),
            description: fields.or_default("description", string),
            metadata: fields.optional("metadata", Metadata::read),
            transform: fields.spanned("transform", Transform::read),
            tf_job: fields.spanned("tf_job", tf_job),
            parallelism_spec: fields.spanned("parallelism_spec", ParallelismSpec::read),
            hashtree_spec: fields.spanned("hashtree_spec", HashtreeSpec::read),
            egress: fields.optional("egress", Egress::read),
            output_branch: fields.spanned("output_branch", string),
            s3_out: fields.spanned("s3_out", boolean),
            resource_requests: fields.optional("resource_requests", Resources::read),
            resource_limits: fields.optional("resource_limits", Resources::read),
            sidecar_resource_limits: fields.optional("sidecar_resource_limits", Resources::read),
            input: fields.optional("input", Input::read),
            cache_size: fields.spanned("cache_size", string),
            enable_stats: fields.spanned("enable_stats", boolean),
            max_queue_size: fields.spanned("max_queue_size", int64),
            service: fields.spanned("service", Service::read),
            spout: fields.spanned("spout", Spout::read),
            chunk_spec: fields.optional("chunk_spec", ChunkSpec::read),
            datum_timeout: fields.spanned("datum_timeout", duration),
            job_timeout: fields.spanned("job_timeout", duration),
            datum_tries: fields.spanned("datum_tries", int64),
            salt: fields.optional("salt", string),
            standby: fields.optional("standby", boolean),
            autoscaling: fields.optional("autoscaling", boolean),
            scheduling_spec: fields.optional("scheduling_spec", SchedulingSpec::read),
            pod_spec: fields.spanned("pod_spec", string),
            pod_patch: fields.spanned("pod_patch", string),
            spec_commit: fields.optional("spec_commit", commit),
            reprocess_spec: fields.spanned("reprocess_spec", string),
            update: fields.optional("update", boolean),
            reprocess: fields.optional("reprocess", boolean),
            merge: fields.spanned("merge", string),
            original: Original::of(document, source),
        };
        fields.finish();
        Some(pipeline)
    }

    /// The name; empty when missing.
    pub fn name(&self) -> &str {
        &self.name.value
    }

    /// The branch jobs write to.
    pub fn output_branch(&self) -> &str {
        self.output_branch.as_ref().map_or("master", |branch| non_empty(&branch.value).unwrap_or("master"))
    }

    /// Attempts at a datum within a job, at least 1.
    pub fn datum_tries(&self) -> u32 {
        let given = self.datum_tries.as_ref().map(|tries| tries.value);
        let given = given.filter(|tries| *tries != 0).unwrap_or(3);
        u32::try_from(given.max(1)).unwrap_or(u32::MAX)
    }

    /// Which datums run again. An unknown policy is reported by validation and stands for the default.
    pub fn reprocess_policy(&self) -> ReprocessPolicy {
        match self.reprocess_spec.as_ref().map(|policy| policy.value.as_str()) {
            Some("every_job") => ReprocessPolicy::EveryJob,
            _ => ReprocessPolicy::UntilSuccess,
        }
    }

    /// What happens to paths written twice. An unknown policy is reported by validation and stands for
    /// the default.
    pub fn merge_policy(&self) -> MergePolicy {
        match self.merge.as_ref().map(|policy| policy.value.as_str()) {
            Some("fail") => MergePolicy::Fail,
            Some("last") => MergePolicy::Last,
            _ => MergePolicy::Concat,
        }
    }
}

pub(super) fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// `pipeline: {name: …}`.
fn name(fields: &mut Object<'_, '_>) -> Spanned<String> {
    let whole = fields.span;
    let missing = Spanned::new(String::new(), Span::new(whole.start, whole.start + 1));
    let Some(node) = fields.node("pipeline") else { return missing };
    let place = Spanned::new(String::new(), node.span);
    if let crate::value::Kind::String(text) = &node.kind {
        let problem = crate::decode::wrong_kind(node, "a map");
        let text: String = text.chars().take(63).collect();
        fields.diagnostics().push(problem.help(format!("write {{\"name\": \"{text}\"}}")));
        return Spanned::new(text, node.span);
    }
    let Some(mut inner) = Object::open("pipeline", node, fields.diagnostics()) else { return place };
    let name = inner.spanned("name", string).unwrap_or(place);
    inner.finish();
    name
}

/// `tf_job: {tf_job: "…"}`.
fn tf_job(node: &Node, diagnostics: &mut Diagnostics) -> Option<serde_json::Value> {
    let mut fields = Object::open("tf_job", node, diagnostics)?;
    fields.optional("tf_job", string);
    fields.finish();
    Some(node.to_json())
}

/// `spec_commit: {repo: {name: …}, id: …}`.
fn commit(node: &Node, diagnostics: &mut Diagnostics) -> Option<serde_json::Value> {
    let mut fields = Object::open("spec_commit", node, diagnostics)?;
    fields.optional("id", string);
    fields.optional("repo", |node, diagnostics| {
        let mut fields = Object::open("spec_commit.repo", node, diagnostics)?;
        fields.optional("name", string);
        fields.finish();
        Some(())
    });
    fields.finish();
    Some(node.to_json())
}

fn as_reference<S: serde::Serializer>(name: &Spanned<String>, serializer: S) -> Result<S::Ok, S::Error> {
    BTreeMap::from([("name", &name.value)]).serialize(serializer)
}

impl Original {
    fn of(document: &Document, source: &SourceText) -> Self {
        let text = source.slice(document.span).trim_start_matches(['\n', '\r']).to_owned();
        Self { text, value: document.root.to_json(), span: document.span }
    }
}

impl Metadata {
    fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut fields = Object::open("metadata", node, diagnostics)?;
        let metadata =
            Self { annotations: fields.string_map("annotations"), labels: fields.string_map("labels") };
        fields.finish();
        Some(metadata)
    }
}

/// The problem of a value that is none of the words a field knows.
pub(super) fn unknown_word(field: &str, given: &Spanned<String>, known: &[&str]) -> Diagnostic {
    let message = format!("`{}` is no value of `{field}`", given.value);
    let help = match crate::decode::closest(given, known) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("known values: {}", known.join(", ")),
    };
    Diagnostic::error("unknown-value", given.span, message).help(help)
}
