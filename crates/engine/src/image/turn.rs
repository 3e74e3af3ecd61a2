//! Builds of the same at the same time: where there are files that nobody has read yet one build goes first, and the others wait
//! until they find everything done, so that each of them costs what a build without changes costs.
//!
//! Nothing rests on it. Whoever waits for nobody, because the first one died or differs in some word, shares single steps
//! ([`LayerStore::make_once`](quern_store::layers::LayerStore::make_once)).

use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use quern_core::Digest;
use quern_core::canon::Visitor;
use quern_core::event::Event;
use quern_core::port::Cancel;
use quern_store::layers::{First, Waited};

use super::context::LocalContext;
use super::ops::digest_of;
use super::request::{Directory, Place, Request};
use super::{BuildError, ImageBuilder};

/// Going first with a build; the others wait until it is dropped.
pub struct Turn(#[expect(dead_code, reason = "held for its lock")] First);

impl ImageBuilder {
    /// Waits while another process builds the same from files that have to be read, then takes in what it left. A turn, if this
    /// build has to read them itself.
    pub(super) fn turn(
        &self,
        request: &Request,
        contexts: &[Arc<LocalContext>],
        cancel: &Cancel,
    ) -> Result<Option<Turn>, BuildError> {
        if request.no_cache {
            return Ok(None);
        }
        let turn = self.go_first(&work_of(request), contexts, cancel)?;
        self.exchange();
        Ok(turn)
    }

    fn go_first(
        &self,
        work: &Digest,
        contexts: &[Arc<LocalContext>],
        cancel: &Cancel,
    ) -> Result<Option<Turn>, BuildError> {
        let are_known = || contexts.iter().all(|context| context.is_known());
        loop {
            // In this order: what makes files known is the work of one that others wait for.
            let known = are_known();
            match self.tools.layers.wait_for_first(work, cancel, || self.tell())? {
                Waited::Cancelled => return Err(BuildError::Cancelled),
                Waited::Over => continue,
                Waited::Nobody if known => return Ok(None),
                Waited::Nobody => {}
            }
            if let Some(first) = self.tools.layers.first(work)? {
                // The one before may have ended between our look and our turn.
                return Ok((!are_known()).then(|| Turn(first)));
            }
        }
    }

    /// Writes down what those who wait are to find; nothing is lost but time if that fails.
    pub(super) fn hand_on(&self, contexts: &[Arc<LocalContext>]) {
        contexts.iter().for_each(|context| context.remember());
        self.exchange();
    }

    fn tell(&self) {
        let message = "another process builds the same; this one waits until it has ended".to_owned();
        self.sink.emit(Event::Warning { message });
    }

    fn exchange(&self) {
        let _ = self.solver.exchange();
    }
}

/// What makes two builds the same before anything is looked at.
fn work_of(request: &Request) -> Digest {
    digest_of("quern.build.v1", |v| {
        v.text("dockerfile", request.dockerfile.text());
        walk(v, &request.context);
        v.text("target", request.target.as_deref().unwrap_or_default());
        for platform in &request.platforms {
            v.text("platform", &platform.to_string());
        }
        for (name, value) in &request.build_args {
            v.text("argument", name);
            v.text("value", value);
        }
        for stage in &request.no_cache_stages {
            v.text("anew", stage);
        }
        for (name, place) in &request.contexts {
            v.text("name", name);
            match place {
                Place::Directory(directory) => walk(v, directory),
                Place::Image(image) => v.text("image", image),
            }
        }
    })
}

fn walk(v: &mut dyn Visitor, directory: &Directory) {
    v.bytes("directory", directory.path.as_os_str().as_bytes());
}
