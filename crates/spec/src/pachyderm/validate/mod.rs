//! The rules a pipeline has to keep, beyond the shape of its fields.

mod inputs;
mod transform;

use super::pipeline::unknown_word;
use super::{Builder, Pipeline, Resources, Service};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::duration::GoDuration;
use crate::glob::Compat;
use crate::quantity::Quantity;
use crate::source::{Span, Spanned};

/// Longest pipeline name.
const MAX_NAME: usize = 63;
/// Longest name of a build pipeline: `_build` is appended to it.
const MAX_BUILD_NAME: usize = MAX_NAME - "_build".len();

impl Pipeline {
    /// Reports every rule the pipeline breaks.
    ///
    /// In [`Compat::Strict`] a build pipeline must name its builder by exactly one of `build.language` and
    /// `build.image`, as the original's code demands; otherwise the documented order of preference
    /// decides, with a warning when several are named.
    pub fn validate(&self, compat: Compat, diagnostics: &mut Diagnostics) {
        let mut check = Check { pipeline: self, compat, diagnostics };
        check.name();
        check.transform();
        check.workers();
        check.kind();
        check.build();
        check.input();
        check.output();
        check.limits();
    }
}

/// A pipeline under examination.
struct Check<'p, 'd> {
    pipeline: &'p Pipeline,
    compat: Compat,
    diagnostics: &'d mut Diagnostics,
}

impl Check<'_, '_> {
    fn error(&mut self, code: &'static str, span: Span, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(code, span, message));
    }

    /// Whether something inside this span could not be read, so that its absence is no news.
    fn is_reported(&self, span: Span) -> bool {
        let inside = |place: Span| span.start <= place.start && place.end <= span.end;
        let unread =
            |problem: &Diagnostic| problem.severity == Severity::Error && problem.code != "missing-field";
        let mut problems = self.diagnostics.iter().filter(|problem| unread(problem));
        problems.any(|problem| problem.span.is_some_and(inside))
    }

    /// Whether the author wrote this field of the pipeline, readable or not.
    fn is_written(&self, field: &str) -> bool {
        self.pipeline.original.value.get(field).is_some_and(|value| !value.is_null())
    }

    fn name(&mut self) {
        let name = &self.pipeline.name;
        if name.is_empty() && self.is_reported(name.span) {
            return;
        }
        if name.is_empty() {
            let problem = Diagnostic::error("missing-field", name.span, "the pipeline has no name");
            self.diagnostics.push(problem.help("add \"pipeline\": {\"name\": \"…\"}"));
            return;
        }
        check_name("pipeline name", name, self.diagnostics);
        let building = self.pipeline.build().is_some();
        let most = if building { MAX_BUILD_NAME } else { MAX_NAME };
        if name.chars().count() > most {
            let message = format!("a pipeline name must have at most {MAX_NAME} characters");
            let problem = Diagnostic::error("name-too-long", name.span, message);
            self.diagnostics.push(match building {
                true => problem.help(format!("with `build` at most {most}: `_build` is appended to it")),
                false => problem,
            });
        }
    }

    fn workers(&mut self) {
        let pipeline = self.pipeline;
        if let Some(job) = &pipeline.tf_job {
            self.error("unsupported", job.span, "`tf_job` is not supported");
        }
        if let Some(spec) = &pipeline.parallelism_spec {
            let coefficient = spec.coefficient.unwrap_or(0.0);
            if coefficient < 0.0 {
                self.error("out-of-range", spec.span, "the parallelism coefficient must not be negative");
            }
            if spec.constant.unwrap_or(0) != 0 && coefficient != 0.0 {
                let message = "contradictory parallelism: give `constant` or `coefficient`, not both";
                self.error("contradiction", spec.span, message);
            }
        }
        if let Some(spec) = &pipeline.hashtree_spec
            && spec.constant == Some(0)
        {
            self.error("out-of-range", spec.span, "`hashtree_spec.constant` must not be 0");
        }
        let all = [&pipeline.resource_requests, &pipeline.resource_limits, &pipeline.sidecar_resource_limits];
        for resources in all.into_iter().flatten() {
            self.resources(resources);
        }
        self.quantity("cache_size", pipeline.cache_size.as_ref());
    }

    fn resources(&mut self, resources: &Resources) {
        self.quantity("memory", resources.memory.as_ref());
        self.quantity("disk", resources.disk.as_ref());
        if let Some(cpu) = &resources.cpu
            && cpu.value < 0.0
        {
            self.error("out-of-range", cpu.span, "`cpu` must not be negative");
        }
        let number = resources.gpu.as_ref().and_then(|gpu| gpu.number.as_ref());
        self.not_negative("gpu.number", number);
    }

    fn quantity(&mut self, field: &str, given: Option<&Spanned<String>>) {
        let Some(given) = given.filter(|given| !given.is_empty()) else { return };
        match given.parse::<Quantity>() {
            Err(error) => self.error("invalid-quantity", given.span, format!("bad `{field}`: {error}")),
            Ok(quantity) if quantity.millis() < 0 => {
                self.error("out-of-range", given.span, format!("`{field}` must not be negative"));
            }
            Ok(_) => {}
        }
    }

    fn not_negative(&mut self, field: &str, given: Option<&Spanned<i64>>) {
        if let Some(given) = given.filter(|given| given.value < 0) {
            self.error("out-of-range", given.span, format!("`{field}` must not be negative"));
        }
    }

    /// What only plain pipelines, services or spouts may have.
    fn kind(&mut self) {
        let pipeline = self.pipeline;
        if let Some(service) = &pipeline.service {
            self.service(service);
            if let Some(spec) = &pipeline.parallelism_spec
                && spec.constant != Some(1)
            {
                let message = "a service runs with a constant parallelism of 1 only";
                self.error("contradiction", spec.span, message);
            }
        }
        if let Some(spout) = &pipeline.spout {
            if let Some(service) = &pipeline.service {
                let message = "`service` and `spout` exclude each other";
                let problem = Diagnostic::error("contradiction", spout.span, message);
                self.diagnostics.push(problem.label(service.span, "the service"));
            }
            if let Some(service) = &spout.service {
                self.service(service);
            } else if let Some(input) = &pipeline.input {
                self.error("contradiction", input.span, "a spout has no input");
            }
            if let Some(stats) = pipeline.enable_stats.as_ref().filter(|stats| stats.value) {
                self.error("contradiction", stats.span, "a spout has no statistics");
            }
        } else if pipeline.build().is_none() && !self.is_written("input") {
            let message = "the pipeline has no input, so it never runs";
            let problem = Diagnostic::warning("no-input", pipeline.name.span, message);
            self.diagnostics.push(problem.help("add an `input`"));
        }
    }

    fn service(&mut self, service: &Service) {
        for (field, port) in
            [("internal_port", &service.internal_port), ("external_port", &service.external_port)]
        {
            if let Some(port) = port.as_ref().filter(|port| !(0..=65535).contains(&port.value)) {
                self.error("out-of-range", port.span, format!("`{field}` must be a port, 1 to 65535"));
            }
        }
        let kinds = ["ClusterIP", "LoadBalancer", "NodePort"];
        if let Some(kind) = service.kind.as_ref().filter(|kind| !kind.is_empty())
            && !kinds.contains(&kind.as_str())
        {
            self.diagnostics.push(unknown_word("service.type", kind, &kinds));
        }
    }

    fn output(&mut self) {
        let pipeline = self.pipeline;
        if let Some(branch) = pipeline.output_branch.as_ref().filter(|branch| !branch.is_empty()) {
            check_name("output branch", branch, self.diagnostics);
        }
        if let Some(url) = pipeline.egress.as_ref().and_then(|egress| egress.url.as_ref()) {
            let schemes = ["s3", "gs", "gcs", "local", "as", "wasb"];
            let scheme = url.split_once("://").map(|(scheme, _)| scheme);
            if !scheme.is_some_and(|scheme| schemes.contains(&scheme)) {
                let message = format!("`{}` is no target for output", url.value);
                let help = "write one of s3://, gs://, gcs://, local://, as://, wasb://";
                self.diagnostics.push(Diagnostic::error("invalid-url", url.span, message).help(help));
            }
        }
        let Some(s3) = pipeline.s3_out.as_ref().filter(|s3| s3.value) else { return };
        let stats = pipeline.enable_stats.as_ref().is_some_and(|stats| stats.value);
        let clashes = [
            (pipeline.service.is_some(), "service"),
            (pipeline.spout.is_some(), "spout"),
            (stats, "enable_stats"),
        ];
        for (_, other) in clashes.into_iter().filter(|(present, _)| *present) {
            self.error("contradiction", s3.span, format!("`s3_out` and `{other}` exclude each other"));
        }
    }

    fn limits(&mut self) {
        let pipeline = self.pipeline;
        self.not_negative("max_queue_size", pipeline.max_queue_size.as_ref());
        self.not_negative("datum_tries", pipeline.datum_tries.as_ref());
        if let Some(chunks) = &pipeline.chunk_spec {
            self.not_negative("chunk_spec.number", chunks.number.as_ref());
            self.not_negative("chunk_spec.size_bytes", chunks.size_bytes.as_ref());
        }
        self.timeout("datum_timeout", pipeline.datum_timeout.as_ref());
        self.timeout("job_timeout", pipeline.job_timeout.as_ref());
        self.json("pod_spec", pipeline.pod_spec.as_ref());
        self.json("pod_patch", pipeline.pod_patch.as_ref());
        self.word("reprocess_spec", pipeline.reprocess_spec.as_ref(), &["until_success", "every_job"]);
        self.word("merge", pipeline.merge.as_ref(), &["concat", "fail", "last"]);
    }

    fn timeout(&mut self, field: &str, given: Option<&Spanned<GoDuration>>) {
        if let Some(given) = given.filter(|given| given.value < GoDuration::default()) {
            self.error("out-of-range", given.span, format!("`{field}` must not be negative"));
        }
    }

    fn json(&mut self, field: &str, given: Option<&Spanned<String>>) {
        let Some(given) = given.filter(|given| !given.is_empty()) else { return };
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(given) {
            let message = format!("malformed `{field}`: {error}");
            let problem = Diagnostic::error("invalid-json", given.span, message);
            self.diagnostics.push(problem.help("the field is a string that holds JSON"));
        }
    }

    fn word(&mut self, field: &str, given: Option<&Spanned<String>>, known: &[&str]) {
        if let Some(given) = given.filter(|given| !given.is_empty() && !known.contains(&given.as_str())) {
            self.diagnostics.push(unknown_word(field, given, known));
        }
    }

    /// What a build pipeline has to keep besides; its names are checked with the inputs.
    fn build(&mut self) {
        let Some(build) = self.pipeline.build() else { return };
        if let Some(spout) = &self.pipeline.spout {
            self.error("contradiction", spout.span, "a build pipeline cannot be a spout");
        }
        if !self.is_written("input") && self.pipeline.spout.is_none() {
            self.error("missing-field", build.span, "a build pipeline must have an input");
        }
        if self.is_reported(build.span) {
            return;
        }
        let builders = self.pipeline.builders();
        if self.compat == Compat::Strict {
            self.one_builder(build.span, &builders);
        } else if let [chosen, others @ ..] = builders.as_slice() {
            for other in others {
                self.diagnostics.push(overruled(chosen, other));
            }
        } else {
            let message = "nothing names a builder";
            let problem = Diagnostic::error("no-builder", build.span, message);
            self.diagnostics.push(problem.help("add `build.language`, like \"python\", or `build.image`"));
        }
    }

    fn one_builder(&mut self, span: Span, builders: &[Builder<'_>]) {
        let own = builders.iter().filter(|builder| !matches!(builder, Builder::TransformImage(_)));
        match own.count() {
            1 => {}
            0 => self.error("no-builder", span, "must specify either a build language or image"),
            _ => self.error("contradiction", span, "cannot specify both a build language and image"),
        }
    }
}

fn overruled(chosen: &Builder<'_>, other: &Builder<'_>) -> Diagnostic {
    let message = format!("`{}` is overruled by `{}`", other.field(), chosen.field());
    Diagnostic::warning("overruled", other.name().span, message)
        .label(chosen.name().span, "names the builder")
        .help("remove the one that is not meant")
}

/// Repo, branch and pipeline names: letters, digits, `_`, `-`, the first a letter or digit.
fn check_name(what: &str, name: &Spanned<String>, diagnostics: &mut Diagnostics) {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if let Some(bad) = name.chars().find(|c| !good(*c)) {
        let message = format!("the {what} `{}` has the character `{bad}`", name.value);
        let problem = Diagnostic::error("invalid-name", name.span, message);
        diagnostics.push(problem.help("use letters, digits, `_` and `-` only"));
    } else if what == "pipeline name" && !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        let message = format!("the {what} `{}` must start with an alphanumeric character", name.value);
        diagnostics.push(Diagnostic::error("invalid-name", name.span, message));
    }
}
