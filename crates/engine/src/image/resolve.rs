//! What stages start from and take files from: images, directories.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use quern_core::port::Cancel;
use quern_core::step::Platform;
use quern_spec::diagnostic::Diagnostics;
use quern_spec::dockerfile::{DockerIgnore, Origin, Plan};

use super::context::LocalContext;
use super::lower::Outside;
use super::request::{Directory, Place, Request};
use super::{BuildError, ImageBuilder};
use crate::images::{Freshness, KnownImage};

type Resolved = BTreeMap<(Origin, String), Outside>;

impl ImageBuilder {
    /// Resolves everything outside the file that the plan needs, and adds the triggers of base images to it.
    pub(super) fn resolve(
        &self,
        plan: &mut Plan,
        request: &Request,
        diagnostics: &mut Diagnostics,
        cancel: &Cancel,
    ) -> Result<Resolved, BuildError> {
        let mut resolved = Resolved::new();
        let mut triggered: Vec<usize> = Vec::new();
        // Triggers may take files from stages that were not needed before.
        loop {
            let new = plan.order.iter().copied().filter(|stage| !triggered.contains(stage));
            let new: Vec<usize> = new.collect();
            if new.is_empty() || diagnostics.has_errors() {
                return Ok(resolved);
            }
            for index in new {
                triggered.push(index);
                let stage = &plan.stages[index];
                let (base, platform) = (stage.base.clone(), stage.platform.to_string());
                let takes = stage.takes.clone();
                let given = self.one(&base, &platform, request, &mut resolved, cancel)?;
                if let Some(Outside::Image(image)) = given {
                    let triggers = image.config.config.on_build.clone();
                    diagnostics.extend(plan.add_triggers(index, &triggers));
                }
                let own = request.platform.to_string();
                for origin in takes {
                    self.one(&origin, &own, request, &mut resolved, cancel)?;
                }
            }
        }
    }

    fn one(
        &self,
        origin: &Origin,
        platform: &str,
        request: &Request,
        resolved: &mut Resolved,
        cancel: &Cancel,
    ) -> Result<Option<Outside>, BuildError> {
        let key = (origin.clone(), platform.to_owned());
        if let Some(known) = resolved.get(&key) {
            return Ok(Some(known.clone()));
        }
        let outside = match origin {
            Origin::Scratch | Origin::Stage(_) => return Ok(None),
            Origin::Image(name) => Outside::Image(self.image(name, platform, request, cancel)?),
            Origin::Context(name) => match request.contexts.get(name) {
                Some(Place::Directory(dir)) => Outside::Local(Arc::new(self.local(dir))),
                Some(Place::Image(image)) => Outside::Image(self.image(image, platform, request, cancel)?),
                None => return Ok(None),
            },
        };
        resolved.insert(key, outside.clone());
        Ok(Some(outside))
    }

    fn image(
        &self,
        name: &str,
        platform: &str,
        request: &Request,
        cancel: &Cancel,
    ) -> Result<Arc<KnownImage>, BuildError> {
        let (os, arch) = platform.split_once('/').unwrap_or((platform, ""));
        let arch = arch.split('/').next().unwrap_or(arch);
        let platform = Platform { os: os.to_owned(), arch: arch.to_owned() };
        let freshness = if request.pull { Freshness::Newest } else { Freshness::Known };
        let image = self.images.resolve(name, &platform, freshness, cancel);
        image
            .map(Arc::new)
            .map_err(|error| BuildError::Image { name: name.to_owned(), error: Box::new(error) })
    }

    /// A directory as a context.
    pub(super) fn local(&self, directory: &Directory) -> LocalContext {
        let Directory { path, ignore } = directory;
        LocalContext::new(
            self.ids.fresh(),
            path.clone(),
            ignore.clone(),
            self.memory.clone(),
            Arc::clone(&self.tools.layers),
        )
    }
}

impl Directory {
    /// A directory of which everything counts.
    pub fn whole(path: PathBuf) -> Self {
        Self { path, ignore: DockerIgnore::default() }
    }
}
