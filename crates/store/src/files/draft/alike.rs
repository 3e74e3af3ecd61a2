//! Copies that are made again and again: what is as it was the time before gets a further name instead of further bytes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use quern_core::port::{DraftLayer, OpenLayers};
use rustix::fs::{Mode, OFlags};

use super::write::{Job, Wanted, link_at};
use super::{ActionError, Draft};
use crate::files::known::{KnownDigests, Trust};
use crate::files::look;
use crate::files::source::{Content, FileKind};
use crate::workspace::beneath;

/// What a copy finds in the layer that it made the time before, and what it leaves for the next time: the digests of its files.
pub struct Alike {
    before: Option<Before>,
    made: KnownDigests,
}

struct Before {
    dir: OwnedFd,
    digests: KnownDigests,
    _lease: OpenLayers,
}

impl Alike {
    /// With the one layer that was made before, if there is one.
    pub fn to(layer: Option<OpenLayers>) -> Self {
        Self { before: layer.and_then(Before::open), made: KnownDigests::open(None, Trust::Immutable) }
    }

    /// Writes the digests of what was made into a draft, before it becomes a layer. Nothing is lost but time if it fails.
    pub fn save(&self, layer: &DraftLayer) {
        if let Some(place) = digests_of(&layer.dir) {
            self.made.save_as(&place);
        }
    }

    /// A directory of the layer before.
    pub(super) fn dir(&self, path: &Path) -> Option<OwnedFd> {
        beneath::open(
            &self.before.as_ref()?.dir,
            path,
            beneath::Through::NoLinks,
            OFlags::PATH | OFlags::DIRECTORY,
        )
        .ok()
    }

    /// Gives a file of the layer before, which is in the open directory `from`, a name in `dir` if it is what is to be made.
    pub(super) fn link(
        &self,
        draft: &Draft<'_>,
        (from, dir): (&OwnedFd, &OwnedFd),
        name: &OsStr,
        job: &Job,
        content: &Content,
    ) -> Result<bool, ActionError> {
        let (Some(before), false) = (&self.before, content.xattrs) else { return Ok(false) };
        let Ok(found) = look::look(from, name) else { return Ok(false) };
        let seen = draft.seen(found);
        let looks = Wanted { mode: seen.mode, owner: (seen.uid, seen.gid), modified: seen.modified };
        let same = (seen.kind, seen.size, looks) == (FileKind::File, job.stat.size, job.wanted)
            && before.digests.get(&found) == Some(*content);
        if !same || !link_at(draft, &found.inode, (from.as_fd(), name), dir, job)? {
            return Ok(false);
        }
        self.made.note(&found, *content);
        Ok(true)
    }

    /// Remembers what a file was made of.
    pub(super) fn made(&self, file: impl AsFd, content: Content) {
        if let Ok(stat) = look::look_at(file) {
            self.made.note(&stat, content);
        }
    }
}

impl Before {
    fn open(layer: OpenLayers) -> Option<Self> {
        let [dir] = layer.dirs.as_slice() else { return None };
        let digests = KnownDigests::open(Some(&digests_of(dir)?), Trust::Immutable);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty()).ok()?;
        Some(Self { dir, digests, _lease: layer })
    }
}

fn digests_of(dir: &Path) -> Option<PathBuf> {
    Some(dir.parent()?.join("digests"))
}
