//! What the current layer has made so far.

use std::collections::BTreeMap;

use crate::path::LayerPath;

/// Canonical paths and what the layer made there.
///
/// Whiteouts and new members concern only what lies in the layers below; this tells the two apart.
#[derive(Default)]
pub(super) struct Made(BTreeMap<LayerPath, MadeKind>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MadeKind {
    Directory,
    Link,
    Other,
}

impl Made {
    pub(super) fn get(&self, path: &LayerPath) -> Option<MadeKind> {
        self.0.get(path).copied()
    }

    pub(super) fn insert(&mut self, path: LayerPath, kind: MadeKind) {
        self.0.insert(path, kind);
    }

    /// Whether anything was made below a path, whoever made the directory itself.
    pub(super) fn any_below(&self, path: &LayerPath) -> bool {
        let start = [path.as_bytes(), b"/"].concat();
        let after = (std::ops::Bound::Excluded(path), std::ops::Bound::Unbounded);
        // `a.b` sorts between `a` and `a/b`, so the first key after `a` need not be below it.
        self.0
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
