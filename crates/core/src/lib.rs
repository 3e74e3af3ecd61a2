//! The vocabulary of Quern: values and ports, no I/O.
pub mod digest;

pub use digest::{Digest, DigestWriter, InvalidDigest};
