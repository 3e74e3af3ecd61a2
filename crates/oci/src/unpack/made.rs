//! What the current layer has made so far.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use rustix::fs::{Timespec, fstat};
use rustix::io::Errno;

use crate::path::LayerPath;

/// Canonical paths and what the layer made there.
///
/// Whiteouts and new members concern only what lies in the layers below; this tells the two apart.
#[derive(Default)]
pub(super) struct Made {
    kinds: BTreeMap<LayerPath, MadeKind>,
    /// Directories of lower layers that this one writes into, with their times before.
    touched: BTreeMap<LayerPath, Timespec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MadeKind {
    Directory,
    /// One that the layer needs and does not name.
    ImpliedDirectory,
    Link,
    Other,
}

impl Made {
    pub(super) fn get(&self, path: &LayerPath) -> Option<MadeKind> {
        self.kinds.get(path).copied()
    }

    pub(super) fn insert(&mut self, path: LayerPath, kind: MadeKind) {
        self.kinds.insert(path, kind);
    }

    /// Remembers the time of a directory that is going to be written into, unless the layer has made it.
    pub(super) fn touch(&mut self, path: &LayerPath, directory: impl AsFd) -> Result<(), Errno> {
        if !self.kinds.contains_key(path) && !self.touched.contains_key(path) {
            let stat = fstat(directory)?;
            let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
            self.touched.insert(path.clone(), time);
        }
        Ok(())
    }

    /// The directories whose time writing has changed although the layer does not name them, and the time each should
    /// have: the one before, or none at all if the layer needed the directory and did not say when it was made.
    pub(super) fn unnamed(&self) -> impl Iterator<Item = (&LayerPath, Timespec)> {
        let implied = self.kinds.iter().filter(|(_, kind)| **kind == MadeKind::ImpliedDirectory);
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.touched
            .iter()
            .map(|(path, time)| (path, *time))
            .chain(implied.map(move |(path, _)| (path, never)))
    }

    /// Whether anything was made below a path, whoever made the directory itself.
    pub(super) fn any_below(&self, path: &LayerPath) -> bool {
        let start = [path.as_bytes(), b"/"].concat();
        let after = (std::ops::Bound::Excluded(path), std::ops::Bound::Unbounded);
        // `a.b` sorts between `a` and `a/b`, so the first key after `a` need not be below it.
        self.kinds
            .range::<LayerPath, _>(after)
            .map(|(path, _)| path.as_bytes())
            .find(|path| *path >= start.as_slice())
            .is_some_and(|path| path.starts_with(&start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_counts() {
        let path = |text: &str| LayerPath::parse(text.as_bytes()).unwrap();
        let mut made = Made::default();
        made.insert(path("a.b"), MadeKind::Other);
        made.insert(path("ab/c"), MadeKind::Other);
        assert!(!made.any_below(&path("a")));
        made.insert(path("a/c"), MadeKind::Other);
        assert!(made.any_below(&path("a")) && made.any_below(&path("ab")) && !made.any_below(&path("a/c")));
    }
}
