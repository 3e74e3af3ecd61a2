//! A git repository, for `ADD`.

use std::sync::{Arc, OnceLock};

use quern_core::Digest;
use quern_core::port::Layers as _;
use quern_solver::{Blocking, CacheMap, MapStep, Op, OpContext, OpError, SharedResult};
use quern_spec::dockerfile::GitSource;

use super::{Defined, Tools, digest_of};
use crate::image::git;
use crate::image::provenance::Materials;
use crate::snapshot::Snapshot;

/// The files of a commit. The remote is asked each time what the name stands for, unless a commit is given.
pub struct GitOp {
    tools: Arc<Tools>,
    materials: Arc<Materials>,
    source: GitSource,
    /// What the commit must begin with.
    checksum: Option<String>,
    keep_git_dir: bool,
    commit: OnceLock<Result<String, OpError>>,
}

impl GitOp {
    /// The files of a repository.
    pub fn new(
        tools: &Arc<Tools>,
        materials: &Arc<Materials>,
        source: &GitSource,
        checksum: Option<&str>,
        keep_git_dir: bool,
    ) -> Self {
        let checksum = checksum.map(str::to_owned);
        Self {
            tools: Arc::clone(tools),
            materials: Arc::clone(materials),
            source: source.clone(),
            checksum,
            keep_git_dir,
            commit: OnceLock::new(),
        }
    }

    fn commit(&self) -> Result<&String, OpError> {
        let commit = self.commit.get_or_init(|| {
            let commit = git::resolve(&self.source).map_err(OpError::failed)?;
            match &self.checksum {
                Some(expected) if !commit.starts_with(expected.as_str()) => Err(OpError::failed(format!(
                    "{} is at commit {commit}, not {expected}",
                    git::shown(&self.source.remote)
                ))),
                _ => {
                    let GitSource { remote, reference, .. } = &self.source;
                    self.materials.commit(remote, reference.as_deref(), &commit);
                    Ok(commit)
                }
            }
        });
        commit.as_ref().map_err(Clone::clone)
    }
}

impl Defined for GitOp {
    fn definition(&self) -> Digest {
        digest_of("quern.git.definition.v1", |v| {
            v.text("remote", &self.source.remote);
            v.text("reference", self.source.reference.as_deref().unwrap_or_default());
            v.text("subdir", self.source.subdir.as_deref().unwrap_or_default());
            v.text("checksum", self.checksum.as_deref().unwrap_or_default());
            v.number("keep", self.keep_git_dir.into());
        })
    }
}

impl Op for GitOp {
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        let commit = self.commit()?;
        Ok(MapStep::Last(CacheMap::new(digest_of("quern.git.v1", |v| {
            v.text("commit", commit);
            v.text("subdir", self.source.subdir.as_deref().unwrap_or_default());
            v.number("keep", self.keep_git_dir.into());
        }))))
    }

    fn exec(&self, _: &OpContext<'_>, _: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        let commit = self.commit()?;
        let draft = self.tools.layers.begin().map_err(OpError::failed)?;
        let scratch = draft.work.clone();
        let checked_out = git::check_out(&self.source, commit, self.keep_git_dir, &scratch, &draft.dir);
        if let Err(error) = checked_out {
            self.tools.layers.discard(draft);
            return Err(OpError::failed(error));
        }
        let layer = self.tools.layers.commit(draft).map_err(OpError::failed)?;
        Ok(vec![SharedResult::new(Snapshot::new(vec![layer]))])
    }

    fn blocking(&self) -> Blocking {
        Blocking::Always
    }
}
