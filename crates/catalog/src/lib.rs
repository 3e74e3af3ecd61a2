//! Versioned data: repos, branches and commits of trees; patterns to datums; outputs of datums to one tree.
//!
//! A commit is a tree of files, named by digest, with a record around it. Everything here is therefore algebra on
//! Merkle trees that stops at equal digests, and records in one metadata transaction per operation. The refused
//! alternative is a log of file operations per commit, replayed to read: its cost grows with history, and the same
//! bytes put in another order would be another version.
//!
//! Several processes share one catalog. Whoever needs more than one change at once, or changes beside those of other
//! rooms, works on [`Change`] inside a transaction of their own; [`Catalog`] is the convenient form.
//!
//! Limits: no threads, no clock, no pattern language ([`PathPattern`] is given by the caller), no execution.

mod concat;

pub mod change;
pub mod datum;
pub mod datum_set;
pub mod delete;
pub mod files;
pub mod links;
pub mod merge;
pub mod names;
pub mod pattern;
pub mod read;
pub mod record;
pub mod tree;
pub mod view;

pub use change::{Change, Content};
pub use datum::{
    ChangedDatums, Datum, DatumError, DatumInput, Datums, Leaf, PfsInput, PlannedDatum, enumerate,
    enumerate_changed,
};
pub use datum_set::{
    DatumSet, DatumSetError, Difference as DatumDifference, LoadError, difference, difference_of,
};
pub use files::{Catalog, FileError, PutMode, PutOptions, Written};
pub use links::{LinkError, LinkTarget, resolve_links};
pub use merge::{MergeError, MergePolicy, Merged, OutputChange, Shared, merge, remerge};
pub use names::{Ancestry, At, BranchName, BranchRef, NameError, Ref, RepoName};
pub use pattern::{Literal, PathPattern, choose, choose_changed};
pub use read::FileInfo;
pub use record::{Branch, Commit, CommitState, Origin, Repo};
pub use tree::{Edits, Overlay, TreesError};
pub use view::{CommitQuery, VersionError, View};
