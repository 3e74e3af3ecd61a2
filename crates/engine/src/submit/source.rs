//! The source of a build pipeline: read into the store without what `.pachignore` names.

use std::path::{Path, PathBuf};

use quern_catalog::Content;
use quern_spec::diagnostic::{Diagnostic, Diagnostics, Plain, render};
use quern_spec::glob::Compat;
use quern_spec::pachignore::PachIgnore;
use quern_spec::pachyderm as spec;
use quern_spec::source::{SourceText, Span};
use quern_store::import::{Import, ImportOptions, Kind, Links};

use super::Desk;
use crate::lower::Source;

impl Desk<'_> {
    /// Reads a source directory into the store, without what `.pachignore` names.
    pub(super) fn push(
        &self,
        base: &Path,
        source: &Source,
        spec: &spec::Pipeline,
        diagnostics: &mut Diagnostics,
    ) -> Option<Content> {
        let directory = check_path(base, spec, diagnostics)?;
        let (ignore, lane) = read_ignore(&directory, source.span, diagnostics)?;
        let filter =
            |path: &quern_core::TreePath, kind: Kind| kind == Kind::Dir || !ignore.is_ignored(path.as_str());
        let options = ImportOptions { links: Links::FollowFiles, filter: Some(&filter), lane: &lane };
        match self.importer.import(&directory, &options) {
            Ok(Import { tree, bytes, files, .. }) => {
                warn_of_clutter(&directory, files, spec, diagnostics);
                Some(Content { tree, size: bytes })
            }
            Err(error) => {
                let message = format!("the source `{}` cannot be pushed: {error}", directory.display());
                diagnostics.push(Diagnostic::error("bad-source", source.span, message));
                None
            }
        }
    }
}

/// The source directory of a build pipeline's spec; reports one that does not exist.
pub(super) fn check_path(
    base: &Path,
    spec: &spec::Pipeline,
    diagnostics: &mut Diagnostics,
) -> Option<PathBuf> {
    let build = spec.build()?;
    let directory = base.join(build.path());
    if directory.is_dir() {
        return Some(directory);
    }
    let span = build.path.as_ref().map_or(build.span, |path| path.span);
    let message = format!("build path `{}` does not exist", directory.display());
    let help = "the path is relative to the spec's directory, or to the current one for standard input";
    diagnostics.push(Diagnostic::error("no-path", span, message).help(help));
    None
}

/// The rules of `.pachignore` in the root of a source directory, and a name for them.
fn read_ignore(directory: &Path, span: Span, diagnostics: &mut Diagnostics) -> Option<(PachIgnore, String)> {
    let path: PathBuf = directory.join(".pachignore");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            let message = format!("`{}` cannot be read: {error}", path.display());
            diagnostics.push(Diagnostic::error("bad-ignore", span, message));
            return None;
        }
    };
    let name = path.display().to_string();
    let source = SourceText::new(&name, &text);
    let (ignore, problems) = PachIgnore::parse(&source, Compat::Documented);
    if problems.is_empty() {
        return Some((ignore, format!("source {}", quern_core::Digest::of(text.as_bytes()).hex())));
    }
    // Its places are in another text than the spec's, so they are rendered here and carried as words.
    let report = render(&problems, &source, &Plain);
    let failed = problems.has_errors();
    let make = if failed { Diagnostic::error } else { Diagnostic::warning };
    diagnostics.push(make("ignore-file", span, report.trim_end().to_owned()));
    (!failed).then(|| (ignore, format!("source {}", quern_core::Digest::of(text.as_bytes()).hex())))
}

/// Nothing is ignored unasked, but what is seldom meant is named.
fn warn_of_clutter(directory: &Path, files: u64, spec: &spec::Pipeline, diagnostics: &mut Diagnostics) {
    let clutter: Vec<&str> = [".git", "venv", ".venv", "node_modules"]
        .into_iter()
        .filter(|name| directory.join(name).exists())
        .collect();
    if !clutter.is_empty() {
        let message = format!("the source holds {} and {files} files in all are pushed", clutter.join(", "));
        let help = format!("if that is not meant, add lines such as `{}/**` to .pachignore", clutter[0]);
        diagnostics.push(Diagnostic::warning("clutter", spec.name.span, message).help(help));
    }
}
