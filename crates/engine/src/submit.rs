//! Creating, changing and deleting pipelines: everything is checked and every byte stored before one transaction
//! changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use quern_catalog::{BranchRef, Change, Commit, Content, Datums, RepoName, VersionError, View};
use quern_core::port::{self, Blobs, Images, MetaRead, MetaWrite, PortError};
use quern_core::step::Platform;
use quern_core::tree::{ContentRef, Entry, Tree};
use quern_core::{Canon, Id};
use quern_spec::diagnostic::{Diagnostic, Diagnostics, Plain, Severity, render};
use quern_spec::glob::Compat;
use quern_spec::pachignore::PachIgnore;
use quern_spec::pachyderm::{self as spec, Parsed};
use quern_spec::source::{SourceText, Span};
use quern_store::import::{Import, ImportOptions, Importer, Kind, Links};

use crate::builders::Builder;
use crate::images::host;
use crate::lower::{Context, Lowered, Source, lower};
use crate::pipeline::{self, Pipeline};
use crate::schedule::{ScheduleError, Scheduler};
use crate::{Records, commits, datums, job, journal};

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
        let mut ready = Vec::new();
        for (lowered, spec) in lowered.into_iter().zip(&pipelines) {
            let Some(lowered) = lowered else { continue };
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
                done.pipelines.push(store(w, submission, one, self.records)?);
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

    /// What a spec names must exist, and what it makes must not be in the way.
    fn check_names(
        &self,
        submission: &Submission<'_>,
        pipelines: &[spec::Pipeline],
        lowered: &[Option<Lowered>],
        diagnostics: &mut Diagnostics,
    ) -> Result<(), PortError> {
        let made: BTreeSet<&str> = pipelines.iter().map(spec::Pipeline::name).collect();
        for (spec, lowered) in pipelines.iter().zip(lowered) {
            if let Some(lowered) = lowered {
                self.check_images(spec, lowered, diagnostics);
            }
            port::read(&*self.records.meta, |r| {
                check_pipeline(r, submission, spec, lowered.as_ref(), diagnostics)?;
                check_inputs(r, spec, &made, diagnostics)
            })?;
        }
        Ok(())
    }

    fn check_images(&self, spec: &spec::Pipeline, lowered: &Lowered, diagnostics: &mut Diagnostics) {
        let twin = lowered.build.as_ref().map(|(twin, _)| &twin.run.image);
        let images: BTreeSet<&String> = std::iter::once(&lowered.main.run.image).chain(twin).collect();
        if let Some((twin, Source { builder: Some(builder), .. })) = &lowered.build
            && twin.run.image == "host"
        {
            let missing = host::missing(&builder.requires);
            if !missing.is_empty() {
                let message =
                    format!("the {} builder needs {} on this machine", builder.language, missing.join(", "));
                let help = "install it where image `host` shows it (/usr, /bin), or set `[builders.<language>] image`";
                diagnostics.push(Diagnostic::error("missing-program", spec.name.span, message).help(help));
            }
        }
        for image in images {
            if let Err(error) = self.images.resolve(image, &Platform::current()) {
                let named = spec.transform.iter().flat_map(|t| t.image().into_iter());
                let built = spec.build().and_then(|build| build.image.as_ref());
                let span =
                    named.chain(built).find(|name| name.value == *image).map_or(spec.name.span, |n| n.span);
                diagnostics.push(Diagnostic::error("unknown-image", span, error.to_string()));
            }
        }
    }

    /// Reads a source directory into the store, without what `.pachignore` names.
    fn push(
        &self,
        base: &Path,
        source: &Source,
        spec: &spec::Pipeline,
        diagnostics: &mut Diagnostics,
    ) -> Option<Content> {
        let directory = base.join(&source.path);
        if !directory.is_dir() {
            let message = format!("build path `{}` does not exist", directory.display());
            let help =
                "the path is relative to the spec's directory, or to the current one for standard input";
            diagnostics.push(Diagnostic::error("no-path", source.span, message).help(help));
            return None;
        }
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

fn check_pipeline(
    r: &dyn MetaRead,
    submission: &Submission<'_>,
    spec: &spec::Pipeline,
    lowered: Option<&Lowered>,
    diagnostics: &mut Diagnostics,
) -> Result<(), PortError> {
    let (name, span) = (spec.name(), spec.name.span);
    match pipeline::get(r, name)? {
        Some(old) if old.build_of.is_some() => {
            let message = format!("`{name}` is the build pipeline of another one");
            diagnostics.push(Diagnostic::error("exists", span, message));
        }
        Some(_) if !submission.update => {
            let message = format!("pipeline `{name}` already exists");
            diagnostics.push(Diagnostic::error("exists", span, message).help("use `quern update pipeline`"));
        }
        Some(_) => {}
        None => {
            let twin = lowered.and_then(|lowered| lowered.build.as_ref()).map(|(twin, _)| twin.name.as_str());
            for repo in std::iter::once(name).chain(twin) {
                let Ok(repo) = RepoName::new(repo) else { continue };
                let in_use = View::new(r).find_repo(&repo).map_err(commits::port_error)?.is_some();
                if in_use && written_by_users(r, &repo)? {
                    let message =
                        format!("repo `{repo}` already exists and holds data that no pipeline wrote");
                    diagnostics.push(Diagnostic::error("exists", span, message));
                }
            }
        }
    }
    Ok(())
}

/// Whether a repo has a commit that a user made on a branch that is not a pushed source.
fn written_by_users(r: &dyn MetaRead, repo: &RepoName) -> Result<bool, PortError> {
    let commits =
        View::new(r).commits(&quern_catalog::CommitQuery::of(repo.clone())).map_err(commits::port_error)?;
    let by_user =
        |commit: &Commit| commit.origin == quern_catalog::Origin::User && commit.branch.as_str() != "source";
    Ok(commits.iter().any(by_user))
}

fn check_inputs(
    r: &dyn MetaRead,
    spec: &spec::Pipeline,
    made: &BTreeSet<&str>,
    diagnostics: &mut Diagnostics,
) -> Result<(), PortError> {
    let leaves = spec.input.iter().flat_map(|input| input.leaves(spec.name()));
    for leaf in leaves {
        let Ok(repo) = RepoName::new(leaf.repo.as_str()) else { continue };
        let exists = View::new(r).find_repo(&repo).map_err(commits::port_error)?.is_some();
        if !exists && !made.contains(leaf.repo.as_str()) {
            let message = format!("repo `{repo}` does not exist");
            let help = format!("create it with `quern create repo {repo}`");
            diagnostics.push(Diagnostic::error("no-repo", leaf.span, message).help(help));
        }
    }
    Ok(())
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

/// Stores one pipeline with its repos, branches and source.
fn store(
    w: &mut dyn MetaWrite,
    submission: &Submission<'_>,
    ready: &Ready,
    records: &Records,
) -> Result<(String, Effect), SubmitError> {
    let main = &ready.lowered.main;
    let old_twin = pipeline::get(w.as_read(), &format!("{}_build", main.name))?
        .filter(|twin| twin.build_of.as_deref() == Some(&main.name));
    if let Some((twin, _)) = &ready.lowered.build {
        let source =
            BranchRef::new(&twin.output_repo, "source").map_err(|e| PortError::Other(e.to_string()))?;
        store_one(w, twin, submission.rebuild, records)?;
        if let Some(content) = ready.source {
            let mut change = Change::new(w, records.clock.now(), &*records.ids);
            let before = change.view().finished_head(&source)?;
            if before.is_none_or(|before| before.tree != content.tree) {
                change.commit(&source, content, "pushed by a pipeline update")?;
            }
        }
    }
    let effect = store_one(w, main, submission.reprocess, records)?;
    if let (Some(old), None) = (old_twin, &ready.lowered.build) {
        remove(w, &old, true, false, records)?;
    }
    Ok((main.name.clone(), effect))
}

/// Stores one pipeline record; it keeps its creation time, salt and stop, and its version grows if it changed.
fn store_one(
    w: &mut dyn MetaWrite,
    new: &Pipeline,
    reprocess: bool,
    records: &Records,
) -> Result<Effect, SubmitError> {
    let old = pipeline::get(w.as_read(), &new.name)?;
    let mut next = new.clone();
    let effect = match &old {
        None => Effect::Created,
        Some(old) => {
            next.created = old.created;
            next.salt = if reprocess { Some(records.ids.fresh()) } else { old.salt };
            next.stopped = old.stopped;
            let same = next.digest() == old.digest() && next.spec == old.spec && next.run == old.run;
            next.version = old.version + u64::from(!same);
            if same {
                next.updated = old.updated;
            }
            if same { Effect::Unchanged } else { Effect::Changed }
        }
    };
    connect(w, &next, records)?;
    pipeline::put(w, &next)?;
    Ok(effect)
}

/// Makes the repo and branch a pipeline writes, made from what it reads.
fn connect(w: &mut dyn MetaWrite, pipeline: &Pipeline, records: &Records) -> Result<(), SubmitError> {
    let name = |text: &str| RepoName::new(text).map_err(|e| PortError::Other(e.to_string()));
    let mut change = Change::new(w, records.clock.now(), &*records.ids);
    let inputs = pipeline.job_spec().inputs;
    for repo in inputs.iter().map(|i| &i.source.dataset).chain([&pipeline.output_repo]) {
        if change.view().find_repo(&name(repo)?)?.is_none() {
            change.create_repo(&name(repo)?, &format!("Output of pipeline {}.", pipeline.name))?;
        }
    }
    let upstream: Result<Vec<BranchRef>, PortError> =
        inputs.iter().map(|input| commits::branch_ref(&input.source)).collect();
    change.set_provenance(&commits::branch_ref(&pipeline.output())?, &upstream?)?;
    Ok(())
}

/// What is kept when a pipeline is deleted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep {
    /// The output repo.
    pub repo: bool,
    /// The build pipeline and its repo.
    pub build: bool,
    /// Delete even if others read the output.
    pub force: bool,
}

/// Deletes a pipeline with its jobs, its output repo and its build pipeline, in one transaction.
///
/// # Errors
/// [`SubmitError`]; nothing is deleted then.
pub fn delete(records: &Records, name: &str, keep: Keep) -> Result<(), SubmitError> {
    port::write(&*records.meta, |w| {
        let pipeline =
            pipeline::get(w.as_read(), name)?.ok_or_else(|| SubmitError::NoPipeline(name.to_owned()))?;
        if let Some(of) = &pipeline.build_of
            && pipeline::get(w.as_read(), of)?.is_some()
        {
            return Err(SubmitError::BuildOf { name: name.to_owned(), of: of.clone() });
        }
        let twin = pipeline::get(w.as_read(), &format!("{name}_build"))?
            .filter(|twin| twin.build_of.as_deref() == Some(name));
        remove(w, &pipeline, keep.force, keep.repo, records)?;
        if let Some(twin) = twin.filter(|_| !keep.build) {
            remove(w, &twin, keep.force, false, records)?;
        }
        Ok(())
    })
}

fn remove(
    w: &mut dyn MetaWrite,
    pipeline: &Pipeline,
    force: bool,
    keep_repo: bool,
    records: &Records,
) -> Result<(), SubmitError> {
    let now = records.clock.now();
    Scheduler::new(w, &*records.ids, &records.owner, now).forget(&pipeline.name)?;
    for job in job::list(w.as_read(), Some(&pipeline.name), None)? {
        journal::delete(w, job.id)?;
        job::delete(w, &job)?;
    }
    pipeline::delete(w, &pipeline.name)?;
    crate::known::delete(w, &pipeline.name)?;
    let mut change = Change::new(w, now, &*records.ids);
    let repo = RepoName::new(pipeline.output_repo.as_str()).map_err(|e| PortError::Other(e.to_string()))?;
    if keep_repo {
        change.set_provenance(&commits::branch_ref(&pipeline.output())?, &[])?;
    } else if change.view().find_repo(&repo)?.is_some() {
        change.delete_repo(&repo, force)?;
    }
    Ok(())
}
