//! What a submission names must exist, and what it makes must not be in the way.

use std::collections::{BTreeMap, BTreeSet};

use quern_builds::JobSpecs;
use quern_catalog::{Commit, CommitQuery, Origin, RepoName, View};
use quern_core::port::{self, MetaRead, PortError};
use quern_core::step::Platform;
use quern_spec::diagnostic::{Diagnostic, Diagnostics};
use quern_spec::pachyderm as spec;

use super::{Desk, Submission};
use crate::commits;
use crate::images::host;
use crate::lower::{Lowered, Source};
use crate::pipeline::{self, Pipeline};

impl Desk<'_> {
    /// What a spec names must exist, and what it makes must not be in the way.
    pub(super) fn check_names(
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

    /// All pipelines together must not read each other in a circle, nor write the same branch.
    pub(super) fn check_graph(
        &self,
        pipelines: &[spec::Pipeline],
        lowered: &[Option<Lowered>],
        diagnostics: &mut Diagnostics,
    ) -> Result<(), PortError> {
        // A pipeline that could not be read whole would only be reported a second time.
        if diagnostics.has_errors() {
            return Ok(());
        }
        let new = lowered.iter().flatten().flat_map(|lowered| {
            std::iter::once(&lowered.main).chain(lowered.build.as_ref().map(|(twin, _)| twin))
        });
        let mut all: BTreeMap<String, Pipeline> = port::read(&*self.records.meta, pipeline::all)?
            .into_iter()
            .map(|pipeline| (pipeline.name.clone(), pipeline))
            .collect();
        all.extend(new.map(|pipeline| (pipeline.name.clone(), pipeline.clone())));
        if let (Err(error), Some(first)) =
            (JobSpecs::new(all.values().map(Pipeline::job_spec).collect()), pipelines.first())
        {
            diagnostics.push(Diagnostic::error("bad-graph", first.name.span, error.to_string()));
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
        for image in images.into_iter().filter(|image| !image.is_empty()) {
            if let Err(error) = self.images.resolve(image, &Platform::current()) {
                let named = spec.transform.iter().flat_map(|t| t.image().into_iter());
                let built = spec.build().and_then(|build| build.image.as_ref());
                let span =
                    named.chain(built).find(|name| name.value == *image).map_or(spec.name.span, |n| n.span);
                diagnostics.push(Diagnostic::error("unknown-image", span, error.to_string()));
            }
        }
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
    let commits = View::new(r).commits(&CommitQuery::of(repo.clone())).map_err(commits::port_error)?;
    let by_user = |commit: &Commit| commit.origin == Origin::User && commit.branch.as_str() != "source";
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
