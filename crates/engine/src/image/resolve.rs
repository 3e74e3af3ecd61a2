//! What stages start from and take files from: images, directories.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use quern_core::port::Cancel;
use quern_core::step::Platform;
use quern_spec::diagnostic::Diagnostics;
use quern_spec::dockerfile::{self as file, DockerIgnore, Origin, Plan};

use super::context::LocalContext;
use super::lower::Outside;
use super::request::{Directory, Place, Request};
use super::{BuildError, ImageBuilder};
use crate::images::{Freshness, KnownImage};

/// What names stand for, each with the platform it was looked up for.
type Resolved = BTreeMap<(Origin, String), Outside>;

/// Looks names up for the plans of one build, each once.
pub(super) struct Names<'a> {
    builder: &'a ImageBuilder,
    request: &'a Request,
    cancel: &'a Cancel,
    known: Resolved,
}

impl<'a> Names<'a> {
    pub fn new(builder: &'a ImageBuilder, request: &'a Request, cancel: &'a Cancel) -> Self {
        Self { builder, request, cancel, known: Resolved::new() }
    }

    /// Resolves everything outside the file that the plan of a platform needs, and adds the triggers of base images to it.
    pub fn resolve(
        &mut self,
        plan: &mut Plan,
        own: &file::Platform,
        diagnostics: &mut Diagnostics,
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
                let given = self.one(&base, &platform, &mut resolved)?;
                if let Some(Outside::Image(image)) = given {
                    let triggers = image.config.config.on_build.clone();
                    diagnostics.extend(plan.add_triggers(index, &triggers));
                }
                for origin in takes {
                    self.one(&origin, &own.to_string(), &mut resolved)?;
                }
            }
        }
    }

    fn one(
        &mut self,
        origin: &Origin,
        platform: &str,
        resolved: &mut Resolved,
    ) -> Result<Option<Outside>, BuildError> {
        let place = match origin {
            Origin::Scratch | Origin::Stage(_) => return Ok(None),
            Origin::Image(name) => Place::Image(name.clone()),
            Origin::Context(name) => match self.request.contexts.get(name) {
                Some(place) => place.clone(),
                None => return Ok(None),
            },
        };
        // A directory is the same for every platform, and looked at once.
        let of = if matches!(place, Place::Directory(_)) { "" } else { platform };
        let key = (origin.clone(), of.to_owned());
        let outside = match (self.known.get(&key), &place) {
            (Some(known), _) => known.clone(),
            (None, Place::Directory(dir)) => Outside::Local(Arc::new(self.builder.local(dir))),
            (None, Place::Image(name)) => Outside::Image(self.image(name, platform)?),
        };
        self.known.insert(key, outside.clone());
        resolved.insert((origin.clone(), platform.to_owned()), outside.clone());
        Ok(Some(outside))
    }

    fn image(&self, name: &str, platform: &str) -> Result<Arc<KnownImage>, BuildError> {
        let mut parts = platform.split('/').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        let platform = Platform { os: part(), arch: part(), variant: part() };
        let freshness = if self.request.pull { Freshness::Newest } else { Freshness::Known };
        let image = self.builder.images.resolve(name, &platform, freshness, self.cancel);
        image
            .map(Arc::new)
            .map_err(|error| BuildError::Image { name: name.to_owned(), error: Box::new(error) })
    }
}

impl ImageBuilder {
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
