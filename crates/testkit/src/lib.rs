//! Fakes, conformance suites and a temporary space for tests; a dev-dependency only.
//!
//! Every port of `quern_core::port` has its obligations written as a suite here, and each implementation, the
//! fake of this crate included, passes the same suite. The refused alternative is one set of tests per adapter:
//! they drift apart, and a rule tested against a fake would say nothing about the real thing.

pub mod again;
pub mod blobs;
pub mod clock;
pub mod layers;
pub mod meta;
pub mod space;

pub use again::Again;
pub use blobs::{MemBlobs, blobs_suite};
pub use clock::{ManualClock, SequentialIds};
pub use layers::{DirLayers, layers_suite};
pub use meta::{MemMeta, meta_suite};
pub use space::{Finished, TempSpace};
