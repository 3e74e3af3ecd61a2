//! The vocabulary of Quern: values and ports, without I/O, threads, clock or environment.
//!
//! Everything above speaks in these words. A value here is immutable and comparable; whatever must be
//! the same tomorrow has a canonical encoding ([`canon`]) and a [`Digest`]. What needs the outside world
//! is a port ([`port`]), whose obligations stand in its documentation.

pub mod canon;
pub mod digest;
pub mod event;
pub mod id;
mod mount;
pub mod path;
pub mod port;
pub mod step;
pub mod tree;
pub mod version;

pub use canon::Canon;
pub use digest::{Digest, DigestWriter, InvalidDigest};
pub use event::Event;
pub use id::{Id, Timestamp};
pub use path::{InvalidPath, TreePath};
pub use step::{Attempt, Step};
pub use tree::{ContentRef, Entry, Tree, TreeError};
pub use version::Version;
