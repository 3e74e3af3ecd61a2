//! The solver's tests, by subject.

mod bad_input;
mod chains;
mod fakes;
mod scenario;
mod stress;
mod watching;
