//! A view as a source of files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quern_core::Digest;

use super::node::Node;
use super::view::{View, ViewError};
use crate::files::{Content, Entry, FileKind, FileSource, KnownDigests, SourceError, Stat, Trust, Xattrs};

impl View {
    /// What is at a path and of this kind.
    fn expect(&self, path: &Path, kind: FileKind) -> Result<Arc<Node>, SourceError> {
        let node = self.find_shared(path).map_err(|error| failed(path, error))?;
        node.filter(|node| node.stat.kind == kind).ok_or_else(|| SourceError::Absent(path.to_owned()))
    }
}

impl FileSource for View {
    fn stat(&self, path: &Path) -> Result<Option<Stat>, SourceError> {
        let node = self.find_shared(path).map_err(|error| failed(path, error))?;
        Ok(node.map(|node| node.stat))
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>, SourceError> {
        let node = self.expect(dir, FileKind::Dir)?;
        let nodes = self.list_shared(&node).map_err(|error| failed(dir, error))?;
        let named = nodes.iter().filter_map(|node| {
            let name = node.path.file_name()?.to_owned();
            Some(Entry { name, stat: node.stat })
        });
        Ok(named.collect())
    }

    fn target(&self, path: &Path) -> Result<PathBuf, SourceError> {
        self.expect(path, FileKind::Link)?.target().map_err(|error| SourceError::io(path, error))
    }

    fn open(&self, path: &Path) -> Result<File, SourceError> {
        self.expect(path, FileKind::File)?.open().map_err(|error| SourceError::io(path, error))
    }

    fn xattrs(&self, path: &Path) -> Result<Xattrs, SourceError> {
        let node = self.find_shared(path).map_err(|error| failed(path, error))?;
        let node = node.ok_or_else(|| SourceError::Absent(path.to_owned()))?;
        node.xattrs().map_err(|error| SourceError::io(path, error))
    }

    fn content(&self, path: &Path, stat: &Stat) -> Result<Content, SourceError> {
        let node = self.expect(path, stat.kind)?;
        if node.is_nothing() {
            return Ok(Content { digest: Digest::of(b""), xattrs: false });
        }
        let open = || node.open().map_err(|error| SourceError::io(path, error));
        match self.digests_of(&node) {
            Some(digests) => digests.content(path, stat, open),
            None => KnownDigests::open(None, Trust::Immutable).content(path, stat, open),
        }
    }

    fn immutable(&self, path: &Path) -> Option<PathBuf> {
        Some(self.expect(path, FileKind::File).ok()?.real_path())
    }
}

fn failed(path: &Path, error: ViewError) -> SourceError {
    match error {
        ViewError::Io { source, .. } => SourceError::io(path, source),
        ViewError::Redirected { .. } => {
            SourceError::Damaged { path: path.to_owned(), reason: error.to_string() }
        }
    }
}
