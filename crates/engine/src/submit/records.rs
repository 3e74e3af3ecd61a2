//! Pipelines, their repos and branches, changed inside a transaction.

use quern_catalog::{BranchRef, Change, RepoName};
use quern_core::Canon;
use quern_core::port::{self, MetaWrite, PortError};

use super::{Effect, Ready, Submission, SubmitError};
use crate::pipeline::{self, Pipeline};
use crate::schedule::Scheduler;
use crate::{Records, commits, job, journal, known};

/// Stores one pipeline with its repos, branches and source.
pub(super) fn store(
    w: &mut dyn MetaWrite,
    submission: &Submission<'_>,
    ready: &Ready,
    records: &Records,
) -> Result<(String, Effect), SubmitError> {
    let main = &ready.lowered.main;
    // It was checked before, but that was another instant.
    if !submission.update && pipeline::get(w.as_read(), &main.name)?.is_some() {
        return Err(SubmitError::Exists(main.name.clone()));
    }
    let mut pushed = false;
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
                pushed = true;
            }
        }
    }
    let effect = match store_one(w, main, submission.reprocess, records)? {
        Effect::Unchanged if pushed => Effect::Pushed,
        effect => effect,
    };
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
    known::delete(w, &pipeline.name)?;
    let mut change = Change::new(w, now, &*records.ids);
    let repo = RepoName::new(pipeline.output_repo.as_str()).map_err(|e| PortError::Other(e.to_string()))?;
    if keep_repo {
        change.set_provenance(&commits::branch_ref(&pipeline.output())?, &[])?;
    } else if change.view().find_repo(&repo)?.is_some() {
        change.delete_repo(&repo, force)?;
    }
    Ok(())
}
