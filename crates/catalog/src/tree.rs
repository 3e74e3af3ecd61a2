//! Trees over the blob port: loading, saving, and the algebra of whole trees. Everything stops at equal digests, so
//! the cost is in proportion to what differs, not to what there is.

use quern_core::port::{Blobs, PortError};
use quern_core::{ContentRef, Entry, InvalidPath, Tree, TreeError, TreePath};

pub mod diff;
pub mod edit;
pub mod place;
pub mod union;
pub mod walk;

pub use diff::{Difference, diff, size_change};
pub use edit::{Edits, edit};
pub use place::{place, place_many};
pub use union::{Overlay, union};
pub use walk::{Descend, find, walk};

/// Directories in each other, at most. Trees are walked by recursion, and those of users and programs must not be
/// able to end the process.
pub const MOST_DEPTH: usize = 256;

/// Why trees cannot be combined.
#[derive(Debug, thiserror::Error)]
pub enum TreesError {
    /// A directory on one side, something else on the other.
    #[error("`{path}` is a {there} and cannot become a {wanted}; delete it first")]
    Kind {
        /// Where.
        path: TreePath,
        /// What is there.
        there: &'static str,
        /// What was to be put there.
        wanted: &'static str,
    },
    /// Blobs that are not trees, or names no tree can hold.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A path that became too long.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// A tree deeper than [`MOST_DEPTH`].
    #[error("`{0}` ... is more than {MOST_DEPTH} directories deep; make it flatter")]
    Depth(String),
    /// The store cannot be read or written.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// The directory of this reference; the empty one needs no blob.
///
/// # Errors
/// [`TreesError`] if it is missing or no directory.
pub fn open(blobs: &dyn Blobs, tree: &ContentRef) -> Result<Tree, TreesError> {
    if tree.size == 0 { Ok(Tree::default()) } else { Ok(Tree::decode(&blobs.get(&tree.digest)?)?) }
}

/// Keeps a directory.
///
/// # Errors
/// Those of the store.
pub fn save(blobs: &dyn Blobs, tree: &Tree) -> Result<ContentRef, TreesError> {
    Ok(blobs.put(&tree.encode())?)
}

/// The path of an entry of the directory at `path`.
pub(crate) fn below(path: &TreePath, name: &str) -> Result<TreePath, TreesError> {
    if path.as_str().bytes().filter(|c| *c == b'/').count() + 1 >= MOST_DEPTH {
        return Err(too_deep(path.as_str()));
    }
    Ok(path.child(name)?)
}

pub(crate) fn too_deep(path: &str) -> TreesError {
    TreesError::Depth(path.chars().take(60).collect())
}

/// The kind of an entry in words.
pub(crate) const fn kind(entry: &Entry) -> &'static str {
    match entry {
        Entry::File { .. } => "file",
        Entry::Dir(_) => "directory",
        Entry::Link(_) => "link",
    }
}

/// Entries of two directories side by side, ascending by name.
pub(crate) struct Pairs {
    left: std::iter::Peekable<std::vec::IntoIter<(String, Entry)>>,
    right: std::iter::Peekable<std::vec::IntoIter<(String, Entry)>>,
}

impl Pairs {
    pub(crate) fn of(left: Tree, right: Tree) -> Self {
        Self {
            left: left.into_entries().into_iter().peekable(),
            right: right.into_entries().into_iter().peekable(),
        }
    }
}

impl Iterator for Pairs {
    type Item = (String, Option<Entry>, Option<Entry>);

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.left.peek(), self.right.peek()) {
            (Some((left, _)), Some((right, _))) => left.cmp(right),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return None,
        };
        let left = if order.is_le() { self.left.next() } else { None };
        let right = if order.is_ge() { self.right.next() } else { None };
        match (left, right) {
            (Some((name, left)), right) => Some((name, Some(left), right.map(|(_, entry)| entry))),
            (None, Some((name, right))) => Some((name, None, Some(right))),
            (None, None) => None,
        }
    }
}
