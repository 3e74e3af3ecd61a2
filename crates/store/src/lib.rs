//! Everything on disk: blobs, trees, snapshots, layers, metadata. Nothing else touches a state folder.
//!
//! A state folder holds content-addressed blobs ([`DiskBlobs`]), records ([`SqliteMeta`]), directories made from
//! blobs, and layers of root file systems ([`LayerStore`]). `docs/store-format.md` draws it. Any number of processes use one folder at the same time; whatever was
//! acknowledged survives their death and a power cut.
//!
//! The central decision: small blobs are appended to pack files, one open pack per writing process, and found
//! through an index that can be made anew from the packs. One file per blob was refused: an inode costs 30 us to make
//! and more to delete, hashing a small file costs 1 us.
//!
//! Limits: one machine; a file system with `flock`, `rename` and hard links; packs of 256 MiB.

mod blobs;
mod boot;
mod checkup;
pub mod files;
pub mod import;
pub mod layers;
mod layout;
mod lease;
mod meta;
mod prune;
mod sealed;
mod sqlite;
mod store;
mod tidy;
mod usage;
pub mod workspace;

pub use blobs::DiskBlobs;
pub use checkup::CheckUp;
pub use layers::LayerStore;
pub use layout::Layout;
pub use lease::Lease;
pub use meta::SqliteMeta;
pub use prune::{Amount, PruneError, PruneOptions, Pruned, Root, Roots};
pub use store::{OpenError, OpenOptions, Store};
pub use tidy::{Tidied, TidyBudget};
pub use usage::DiskUsage;
