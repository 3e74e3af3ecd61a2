//! The solver's tests, by subject.

mod scenario;
