//! Trees of files with all their metadata: selected, hashed, copied into layers.
//!
//! A [`FileSource`] is a tree that can be read: a [`Context`] on the user's disk, a view over layers. A [`Selection`] says which of its
//! files a `COPY` means, [`content_digest`] whether they are what they were, a [`Draft`] puts them into a layer.

mod context;
mod digest;
mod draft;
mod filter;
mod known;
mod look;
mod pattern;
mod plain;
mod resolve;
mod select;
mod source;
mod xattr;

pub use context::{Context, Survey, SurveyError};
pub use digest::content_digest;
pub use draft::{ActionError, Alike, ChangeMode, CopyTo, Draft, MakeDir, MakeFile, Marks, Remove, Unpack};
pub use filter::{PathFilter, Verdict};
pub use known::{KnownDigests, Trust};
pub use pattern::PatternError;
pub use plain::{Nothing, PlainTree};
pub use resolve::{Last, ResolveError, resolve};
pub use select::{SelectError, Selected, Selection};
pub use source::{
    Absence, Content, Entry, FileKind, FileSource, Inode, SourceError, Stat, Witness, Xattrs, keeps_xattr,
};
