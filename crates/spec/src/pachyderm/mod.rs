//! Pachyderm pipeline specifications.
//!
//! [`parse_pipelines`] is the way in: text to [`Pipeline`]s and every problem at once. Reading has two
//! stages, shape and rules: [`decode_pipelines`] does the first alone and takes whatever the original's
//! client would take, the second is [`Pipeline::validate`].

mod build;
mod input;
mod pipeline;
mod resources;
mod serve;
mod shorthand;
mod transform;
mod validate;

pub use build::{Build, Builder};
pub use input::{CronInput, GitInput, Input, InputKind, Leaf, LeafKind, PfsInput, Trigger};
pub use pipeline::{MergePolicy, Metadata, Pipeline, ReprocessPolicy};
pub use resources::{Gpu, HashtreeSpec, ParallelismSpec, Resources, SchedulingSpec};
pub use serve::{ChunkSpec, Egress, Service, Spout};
pub use transform::{Secret, Transform};

use crate::diagnostic::{Diagnostic, Diagnostics, Style, render};
use crate::glob::Compat;
use crate::source::SourceText;
use crate::value::{Budget, Dialect, read_documents};

/// What a text of pipeline specifications holds.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The text, for rendering problems found later.
    pub source: SourceText,
    /// The pipelines in order. Use them only if `diagnostics` has no errors: what could not be read is
    /// missing from them.
    pub pipelines: Vec<Pipeline>,
    /// Everything that is wrong, and warnings.
    pub diagnostics: Diagnostics,
}

impl Parsed {
    /// The diagnostics as text.
    pub fn render(&self, style: &dyn Style) -> String {
        render(&self.diagnostics, &self.source, style)
    }

    /// Whether nothing but warnings was found.
    pub fn is_ok(&self) -> bool {
        !self.diagnostics.has_errors()
    }
}

/// Reads and checks the pipelines of a text, JSON or YAML, one or several documents.
///
/// `name_of_source` is what diagnostics show: the path as the user gave it, or `<stdin>`.
pub fn parse_pipelines(name_of_source: &str, text: &str) -> Parsed {
    parse_pipelines_with(name_of_source, text, Compat::Documented)
}

/// [`parse_pipelines`] in a chosen compatibility mode, which decides on doubtful globs and on whether
/// a missing or double choice of builder is an error (see [`Pipeline::validate`]).
pub fn parse_pipelines_with(name_of_source: &str, text: &str, compat: Compat) -> Parsed {
    let mut parsed = decode_pipelines(name_of_source, text);
    for pipeline in &parsed.pipelines {
        pipeline.validate(compat, &mut parsed.diagnostics);
    }
    refuse_repeated_names(&parsed.pipelines, &mut parsed.diagnostics);
    parsed
}

/// Reads the pipelines of a text without checking the rules of their fields.
pub fn decode_pipelines(name_of_source: &str, text: &str) -> Parsed {
    let source = SourceText::new(name_of_source, text);
    let read = read_documents(&source, Dialect::GoYaml, Budget::default());
    let mut diagnostics = read.diagnostics;
    // A `---` too many makes an empty document, which says nothing.
    let written: Vec<_> = read.documents.iter().filter(|document| !document.root.is_null()).collect();
    if written.is_empty() && !diagnostics.has_errors() {
        let problem = Diagnostic::global("no-pipeline", "the text holds no pipeline specification");
        diagnostics.push(problem);
    }
    let one = |document| Pipeline::read(document, &source, &mut diagnostics);
    let pipelines = written.into_iter().filter_map(one).collect();
    Parsed { source, pipelines, diagnostics }
}

fn refuse_repeated_names(pipelines: &[Pipeline], diagnostics: &mut Diagnostics) {
    let mut seen = std::collections::BTreeMap::new();
    for pipeline in pipelines.iter().filter(|pipeline| !pipeline.name.is_empty()) {
        if let Some(first) = seen.insert(pipeline.name(), pipeline.name.span) {
            let message = format!("the pipeline `{}` is specified twice", pipeline.name());
            let problem = Diagnostic::error("duplicate-pipeline", pipeline.name.span, message);
            diagnostics.push(problem.label(first, "first specified here"));
        }
    }
}
