//! Trees of files: surveyed, selected, hashed, copied.

#![expect(clippy::unwrap_used, reason = "tests")]

mod context;
mod copy;
mod digest;
mod fake;
mod model;
mod select;
