//! Trees of files with all their metadata: selected, hashed, copied into layers.
//!
//! A [`FileSource`] is a tree that can be read: a [`Context`] on the user's disk, a view over layers. A [`Selection`] says which of its
//! files a `COPY` means. [`content_digest`] tells whether what is selected is what it was; [`Draft`] puts it into a
//! layer.

mod resolve;
mod source;

pub use resolve::{Last, ResolveError, resolve};
pub use source::{
    Content, Entry, FileKind, FileSource, Inode, SourceError, Stat, Witness, Xattrs, keeps_xattr,
};
