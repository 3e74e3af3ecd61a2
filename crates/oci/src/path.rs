//! Paths inside a layer: bytes, relative, normalised.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path inside a layer. The root is the empty path.
///
/// Invariant: no component is empty, `.` or `..` or contains NUL or is longer than 255 bytes; at most 4095 bytes. Unlike
/// [`quern_core::TreePath`] it may be any bytes, because images hold such names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LayerPath(Vec<u8>);

/// Why bytes are no [`LayerPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// It climbs.
    #[error("contains `..`")]
    Climbs,
    /// It contains a NUL byte.
    #[error("contains a NUL byte")]
    Nul,
    /// It is the root, of which there is one already.
    #[error("is the root, but it is not a directory")]
    Root,
    /// No file system takes it.
    #[error("is longer than a file system allows")]
    TooLong,
}

impl LayerPath {
    /// The root.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Reads a path as tar has it: `./a`, `/a`, `a/` and `a` are the same.
    ///
    /// # Errors
    /// [`PathProblem`]; `..` is never resolved, because it would hide where a path leads.
    pub fn parse(raw: &[u8]) -> Result<Self, PathProblem> {
        let mut path = Self::root();
        for name in raw.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
            path = path.child(name)?;
        }
        Ok(path)
    }

    /// This path and one more name.
    ///
    /// # Errors
    /// [`PathProblem`] for a name or a whole path that cannot be.
    pub fn child(mut self, name: &[u8]) -> Result<Self, PathProblem> {
        if name == b".." {
            return Err(PathProblem::Climbs);
        }
        if name.contains(&0) {
            return Err(PathProblem::Nul);
        }
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
        if name.len() > 255 || self.0.len() > 4095 {
            return Err(PathProblem::TooLong);
        }
        Ok(self)
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative path of the file system; `.` for the root.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(if self.0.is_empty() { b"." } else { &self.0 }))
    }

    /// The names from the root downwards.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// The path without its last name, and that name; none for the root.
    pub fn split_last(&self) -> Option<(Self, &[u8])> {
        let name = self.names().next_back()?;
        let parent = &self.0[..self.0.len() - name.len()];
        Some((Self(parent.strip_suffix(b"/").unwrap_or(parent).to_vec()), name))
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &[u8], expected: Result<&str, PathProblem>) {
        let found = LayerPath::parse(raw).map(|path| path.to_string());
        assert_eq!(found, expected.map(str::to_owned), "{:?}", raw.escape_ascii().to_string());
    }

    #[test]
    fn tars_ways_to_write_a_path() {
        check(b"./", Ok("/"));
        check(b"./a//b/", Ok("/a/b"));
        check(b"/etc/passwd", Ok("/etc/passwd"));
        check(b"a/...", Ok("/a/..."));
        check(b"\xff\n", Ok("/\\xff\\n"));
        check(b"..", Err(PathProblem::Climbs));
        check(b"a/../../etc/passwd", Err(PathProblem::Climbs));
        check(b"a\0b", Err(PathProblem::Nul));
        check(&[b'x'; 256], Err(PathProblem::TooLong));
        check(&b"x/".repeat(2100), Err(PathProblem::TooLong));
    }

    #[test]
    fn the_last_name_splits_off() {
        let path = LayerPath::parse(b"a/b/c").unwrap();
        assert_eq!(path.split_last(), Some((LayerPath::parse(b"a/b").unwrap(), b"c".as_slice())));
        let top = LayerPath::parse(b"a").unwrap();
        assert_eq!(top.split_last(), Some((LayerPath::root(), b"a".as_slice())));
        assert_eq!(LayerPath::root().split_last(), None);
    }
}
