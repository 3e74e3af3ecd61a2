//! Paths inside a tree: relative, normalised, always below the root.

use std::fmt;

/// A path inside a tree. The root is the empty path; components are joined by `/`.
///
/// Invariant: UTF-8; no component is empty, `.` or `..`, contains NUL or is longer than 255 bytes;
/// at most 4096 bytes in all. So joining it to a directory cannot leave that directory by text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(String);

/// Text that cannot be a [`TreePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path `{}` {reason}", path.escape_debug())]
pub struct InvalidPath {
    /// The offending text.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;

impl TreePath {
    /// The root of a tree.
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// Reads a user's path: a leading `/`, doubled slashes, `.` and a trailing `/` are dropped.
    ///
    /// # Errors
    /// [`InvalidPath`] for `..` (never resolved: it would hide where a path leads), NUL, and names or
    /// paths that no file system takes.
    pub fn parse(text: &str) -> Result<Self, InvalidPath> {
        let invalid = |reason| InvalidPath { path: text.to_owned(), reason };
        if text.len() > MAX_PATH {
            return Err(invalid("is longer than 4096 bytes"));
        }
        let mut path = String::with_capacity(text.len());
        for name in text.split('/').filter(|name| !matches!(*name, "" | ".")) {
            check_name(name).map_err(invalid)?;
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(name);
        }
        Ok(Self(path))
    }

    /// This path extended by one name.
    ///
    /// # Errors
    /// [`InvalidPath`] if `name` is not a single valid component.
    pub fn child(&self, name: &str) -> Result<Self, InvalidPath> {
        let whole = if self.is_root() { name.to_owned() } else { format!("{}/{name}", self.0) };
        let invalid = |reason| InvalidPath { path: whole.clone(), reason };
        if name.is_empty() || name == "." || name.contains('/') {
            return Err(invalid("has a name that is empty, `.` or contains `/`"));
        }
        check_name(name).map_err(invalid)?;
        if whole.len() > MAX_PATH {
            return Err(invalid("is longer than 4096 bytes"));
        }
        Ok(Self(whole))
    }

    /// This path followed by `other`.
    ///
    /// # Errors
    /// [`InvalidPath`] if the whole is longer than 4096 bytes.
    pub fn join(&self, other: &Self) -> Result<Self, InvalidPath> {
        if self.is_root() || other.is_root() {
            return Ok(Self(format!("{}{}", self.0, other.0)));
        }
        Self::parse(&format!("{}/{}", self.0, other.0))
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The text without a leading slash; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names from the root downwards.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The last name, none for the root.
    pub fn name(&self) -> Option<&str> {
        self.names().next_back()
    }

    /// The path without its last name, none for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(Self(self.0.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned()))
    }
}

/// Checks one component of a path.
///
/// # Errors
/// The reason in words, to be put after the path.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" | "." => Err("has an empty name"),
        ".." => Err("contains `..`; write the path without it"),
        _ if name.contains('\0') => Err("contains a NUL character"),
        _ if name.contains('/') => Err("has a name with `/` in it"),
        _ if name.len() > MAX_NAME => Err("has a name longer than 255 bytes"),
        _ => Ok(()),
    }
}

/// With a leading slash, as users write it: `/` is the root.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(TreePath::parse(text).ok().map(|p| p.to_string()).as_deref(), expected, "{text:?}");
    }

    #[test]
    fn users_paths_are_normalised_and_contained() {
        check("", Some("/"));
        check("/", Some("/"));
        check("a//b/./c/", Some("/a/b/c"));
        check("/a b/\n", Some("/a b/\n"));
        check("..", None);
        check("/a/../b", None);
        check("a/..", None);
        check("a\0b", None);
        check(&"x".repeat(256), None);
        check(&"x/".repeat(3000), None);
    }

    #[test]
    fn parts() {
        let path = TreePath::parse("a/b/c").unwrap();
        assert_eq!(path.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(path.parent().unwrap().to_string(), "/a/b");
        assert_eq!(path.name(), Some("c"));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(TreePath::root().child("a").unwrap().join(&path).unwrap().as_str(), "a/a/b/c");
        assert!(path.child("x/y").is_err() && path.child("..").is_err() && path.child("").is_err());
    }
}
