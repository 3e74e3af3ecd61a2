//! Trees of files: surveyed, selected, hashed, copied.

#![expect(clippy::unwrap_used, reason = "tests")]

mod context;
mod digest;
mod fake;
mod select;
