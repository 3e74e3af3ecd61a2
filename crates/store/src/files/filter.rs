//! Which paths somebody wants to leave out.

use std::path::Path;

/// What a filter says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It is left out, with everything below it.
    Drop,
    /// A directory that is left out unless something below it stays.
    DropUnlessKept,
}

/// Rules that leave paths out, such as those of `.dockerignore` or `--exclude`.
pub trait PathFilter: Sync {
    /// What becomes of a path. Asked only for paths all of whose parents were not [`Verdict::Drop`].
    fn verdict(&self, path: &Path, is_dir: bool) -> Verdict;
}

impl<F: Fn(&Path, bool) -> Verdict + Sync> PathFilter for F {
    fn verdict(&self, path: &Path, is_dir: bool) -> Verdict {
        self(path, is_dir)
    }
}
