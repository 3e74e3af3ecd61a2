//! The suite as whoever runs the tests.

mod suite;

/// Each check is a test of its own here.
const EACH: bool = true;
