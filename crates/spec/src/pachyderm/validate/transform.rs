//! Rules of `transform`.

use std::collections::BTreeMap;

use super::Check;
use crate::diagnostic::Diagnostic;
use crate::glob::Glob;
use crate::pachyderm::{Build, Secret, Transform};
use crate::source::{Span, Spanned};

impl Check<'_, '_> {
    pub(super) fn transform(&mut self) {
        let Some(transform) = &self.pipeline.transform else {
            if self.is_written("transform") {
                return;
            }
            let span = self.pipeline.name.span;
            let problem = Diagnostic::error("missing-field", span, "the pipeline must specify a transform");
            self.diagnostics.push(problem.help("add \"transform\": {\"image\": …, \"cmd\": […]}"));
            return;
        };
        if transform.build.is_none() {
            self.program(transform);
        }
        self.environment(transform.span, &transform.env);
        for (field, texts) in [("cmd", &transform.cmd), ("err_cmd", &transform.err_cmd)] {
            if texts.iter().any(|text| text.contains('\0')) {
                self.error("nul-byte", head(transform.span), format!("`{field}` contains a NUL character"));
            }
        }
        for secret in &transform.secrets {
            self.secret(secret);
        }
        if let Some(build) = &transform.build {
            self.environment(build.span, &build.env);
            self.runtime(build);
            if build.path().contains('\0') {
                self.error("nul-byte", build.span, "`build.path` contains a NUL character");
            }
        }
    }

    /// Warnings about what runs; a build pipeline brings its own program and image.
    fn program(&mut self, transform: &Spanned<Transform>) {
        if transform.cmd.is_empty() && !self.is_reported(transform.span) {
            let message = "there is no `cmd`, so every datum fails";
            let problem = Diagnostic::warning("no-cmd", head(transform.span), message);
            self.diagnostics.push(problem.help("the image's own entry point is not used; name the program"));
        }
        let Some(image) = transform.image() else { return };
        let (name, tag) = split_tag(image);
        if image.contains('@')
            || tag.is_some_and(|tag| tag != "latest")
            || name == "host"
            || image.starts_with("dir:")
            || image.starts_with("oci:")
        {
            return;
        }
        let message = match tag {
            None => format!("the image `{}` has no tag", image.value),
            Some(_) => format!("the image `{}` is a moving target", image.value),
        };
        let problem = Diagnostic::warning("moving-image", image.span, message);
        self.diagnostics.push(problem.help("name a version, so that old results stay what they were"));
    }

    fn environment(&mut self, span: Span, variables: &BTreeMap<String, String>) {
        for (name, value) in variables {
            if name.is_empty() || name.contains(['=', '\0']) {
                let message = format!("`{name}` cannot be the name of an environment variable");
                self.error("invalid-name", head(span), message);
            } else if value.contains('\0') {
                let message = format!("the environment variable `{name}` contains a NUL character");
                self.error("nul-byte", head(span), message);
            }
        }
    }

    fn secret(&mut self, secret: &Spanned<Secret>) {
        if secret.name.is_empty() {
            self.error("missing-field", secret.span, "the secret has no name");
        }
        match (&secret.mount_path, &secret.env_var, &secret.key) {
            (None, None, _) => {
                let message = "the secret is used nowhere";
                let problem = Diagnostic::error("missing-field", secret.span, message);
                self.diagnostics.push(problem.help("add `mount_path`, or `env_var` and `key`"));
            }
            (_, Some(_), None) => self.error("missing-field", secret.span, "`env_var` needs a `key`"),
            _ => {}
        }
    }

    fn runtime(&mut self, build: &Build) {
        for pattern in build.runtime.iter().flatten() {
            if let Err(error) = Glob::compile(pattern, self.compat) {
                self.error("invalid-glob", pattern.span, error.to_string());
            }
        }
    }
}

/// The first character of something long.
fn head(span: Span) -> Span {
    Span::new(span.start, (span.start + 1).min(span.end))
}

/// An image reference without its digest: the name and the tag.
fn split_tag(image: &str) -> (&str, Option<&str>) {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    }
}
