//! The solver's tests, by subject.
#![expect(clippy::unwrap_used, reason = "a test panics where something is not as expected")]

mod bad_input;
mod chains;
mod fakes;
mod scenario;
mod stress;
mod sweeps;
mod watching;
