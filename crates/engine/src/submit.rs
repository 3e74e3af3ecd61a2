//! Creating, changing and deleting pipelines: everything is checked and every byte stored before one transaction
//! changes anything.

mod check;
mod records;
mod source;

use std::collections::BTreeMap;
use std::path::Path;

use quern_catalog::{Content, Datums, VersionError};
use quern_core::Id;
use quern_core::port::{self, Blobs, Images, PortError};
use quern_core::tree::{ContentRef, Entry, Tree};
use quern_spec::diagnostic::{Diagnostics, Plain, Severity, render};
use quern_spec::pachyderm::{self as spec, Parsed};
use quern_spec::source::SourceText;
use quern_store::import::Importer;

pub use records::{Keep, delete};

use crate::builders::Builder;
use crate::lower::{Context, Lowered, lower};
use crate::schedule::{ScheduleError, Scheduler};
use crate::{Records, commits, datums};

/// A text of specs and how it is to be taken.
pub struct Submission<'a> {
    /// Its name in reports: the path as given, or `<stdin>`.
    pub name: &'a str,
    /// The text.
    pub text: &'a str,
    /// The directory that relative source paths start from.
    pub base: &'a Path,
    /// Whether pipelines may exist already.
    pub update: bool,
    /// Process every datum again.
    pub reprocess: bool,
    /// Run the builder again.
    pub rebuild: bool,
}

/// What submissions need besides the records.
pub struct Desk<'a> {
    /// The records.
    pub records: &'a Records,
    /// Reads source directories.
    pub importer: &'a Importer,
    /// Knows images by name.
    pub images: &'a dyn Images,
    /// Image of steps whose spec names none.
    pub default_image: &'a str,
    /// Images of shipped builders by language.
    pub builder_images: &'a BTreeMap<String, String>,
}

/// What a submission did.
#[derive(Debug, Default)]
pub struct Submitted {
    /// Names of the pipelines, in the order of the text, and whether each is new or changed.
    pub pipelines: Vec<(String, Effect)>,
    /// Jobs that were planned.
    pub jobs: Vec<Id>,
    /// Warnings, rendered.
    pub warnings: String,
}

/// What became of one pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It did not exist.
    Created,
    /// It does something else now.
    Changed,
    /// Only its source did.
    Pushed,
    /// It is what it was.
    Unchanged,
}

/// Why nothing was submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The text or what it names is wrong; the report shows every problem with its place.
    #[error("{report}")]
    Invalid {
        /// All problems, rendered.
        report: String,
        /// Whether all of them are about things that do not exist, or exist already.
        only_names: bool,
    },
    /// Something stands in the way.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// Another process created it a moment ago.
    #[error("pipeline `{0}` already exists; use `quern update pipeline`")]
    Exists(String),
    /// No such pipeline.
    #[error("pipeline `{0}` does not exist; `quern list pipeline` shows those that do")]
    NoPipeline(String),
    /// The pipeline belongs to another one.
    #[error("pipeline `{name}` builds the source of `{of}`; delete that one")]
    BuildOf {
        /// The pipeline.
        name: String,
        /// The one it builds for.
        of: String,
    },
    /// Builds could not be planned.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// One pipeline, checked, with its source in the store.
struct Ready {
    lowered: Lowered,
    source: Option<Content>,
}

impl Desk<'_> {
    /// Creates or updates all pipelines of a text, or none.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is stored then.
    pub fn submit(&self, submission: &Submission<'_>) -> Result<Submitted, SubmitError> {
        let Parsed { source, pipelines, mut diagnostics } =
            spec::parse_pipelines(submission.name, submission.text);
        let lowered = self.lower_all(&pipelines, &mut diagnostics)?;
        self.check_names(submission, &pipelines, &lowered, &mut diagnostics)?;
        self.check_graph(&pipelines, &lowered, &mut diagnostics)?;
        let mut ready = Vec::new();
        for (lowered, spec) in lowered.into_iter().zip(&pipelines) {
            let Some(lowered) = lowered else {
                source::check_path(submission.base, spec, &mut diagnostics);
                continue;
            };
            let content = match &lowered.build {
                Some((_, source)) => self.push(submission.base, source, spec, &mut diagnostics),
                None => None,
            };
            ready.push(Ready { lowered, source: content });
        }
        fail_on_errors(&diagnostics, &source)?;
        self.records.blobs.sync()?;
        let (now, ids) = (self.records.clock.now(), &*self.records.ids);
        let mut done = port::write(&*self.records.meta, |w| {
            let mut done = Submitted::default();
            for one in &ready {
                done.pipelines.push(records::store(w, submission, one, self.records)?);
            }
            done.jobs = Scheduler::new(w, ids, &self.records.owner, now).advance()?;
            Ok::<_, SubmitError>(done)
        })?;
        done.warnings = render(&diagnostics, &source, &Plain);
        Ok(done)
    }

    /// Paths, sizes and warnings of what would be pushed for each build pipeline of a text.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn dry_push(&self, submission: &Submission<'_>) -> Result<Vec<(String, ContentRef)>, SubmitError> {
        let Parsed { source, pipelines, mut diagnostics } =
            spec::parse_pipelines(submission.name, submission.text);
        let mut trees = Vec::new();
        for (lowered, spec) in self.lower_all(&pipelines, &mut diagnostics)?.into_iter().zip(&pipelines) {
            if let Some((_, source)) = lowered.and_then(|lowered| lowered.build)
                && let Some(content) = self.push(submission.base, &source, spec, &mut diagnostics)
            {
                trees.push((spec.name().to_owned(), content.tree));
            }
        }
        fail_on_errors(&diagnostics, &source)?;
        Ok(trees)
    }

    /// The datums that each pipeline of a text would have now.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn dry_plan(&self, submission: &Submission<'_>) -> Result<Vec<(String, Datums)>, SubmitError> {
        let Parsed { source, pipelines, mut diagnostics } =
            spec::parse_pipelines(submission.name, submission.text);
        let lowered = self.lower_all(&pipelines, &mut diagnostics)?;
        self.check_names(submission, &pipelines, &lowered, &mut diagnostics)?;
        fail_on_errors(&diagnostics, &source)?;
        let mut plans = Vec::new();
        for lowered in lowered.into_iter().flatten() {
            let trees = port::read(&*self.records.meta, |r| {
                let mut heads = BTreeMap::new();
                for input in lowered.main.job_spec().inputs {
                    if let Some(head) = commits::head(r, &input.source)? {
                        heads.insert(input.source, head);
                    }
                }
                datums::trees(r, &heads)
            })?;
            let found = datums::find(&*self.records.blobs, &lowered.main, &trees);
            plans.push((lowered.main.name, found.map_err(|e| PortError::Other(e.to_string()))?));
        }
        Ok(plans)
    }

    /// Lowers each spec on its own, so that a problem of one does not hide those of another.
    fn lower_all(
        &self,
        pipelines: &[spec::Pipeline],
        diagnostics: &mut Diagnostics,
    ) -> Result<Vec<Option<Lowered>>, PortError> {
        let context = Context {
            default_image: self.default_image,
            builder_images: self.builder_images,
            now: self.records.clock.now(),
        };
        let mut failed = None;
        let lowered = pipelines
            .iter()
            .map(|spec| {
                let mut own = Diagnostics::new();
                let tree = |builder: &Builder| match store_builder(&*self.records.blobs, builder) {
                    Ok(tree) => tree.digest,
                    Err(error) => {
                        failed.replace(error);
                        builder.digest
                    }
                };
                let tree = std::cell::RefCell::new(tree);
                let lowered = lower(spec, &context, &|builder| (tree.borrow_mut())(builder), &mut own);
                diagnostics.extend(own);
                lowered
            })
            .collect();
        failed.map_or(Ok(lowered), Err)
    }
}

fn fail_on_errors(diagnostics: &Diagnostics, source: &SourceText) -> Result<(), SubmitError> {
    const NAMES: [&str; 6] =
        ["exists", "no-repo", "no-path", "unknown-builder", "unknown-image", "missing-program"];
    if !diagnostics.has_errors() {
        return Ok(());
    }
    let mut errors = diagnostics.iter().filter(|d| d.severity == Severity::Error);
    let only_names = errors.all(|d| NAMES.contains(&d.code));
    Err(SubmitError::Invalid { report: render(diagnostics, source, &Plain), only_names })
}

/// Stores a shipped builder's files as a tree.
fn store_builder(blobs: &dyn Blobs, builder: &Builder) -> Result<ContentRef, PortError> {
    let mut entries = Vec::new();
    for (name, text) in builder.files {
        let content = blobs.put(text.as_bytes())?;
        entries.push(((*name).to_owned(), Entry::File { content, executable: true }));
    }
    let tree = Tree::new(entries).map_err(|e| PortError::Other(e.to_string()))?;
    blobs.put(&tree.encode())
}
