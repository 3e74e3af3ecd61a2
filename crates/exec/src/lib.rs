//! Runs one step in a sandbox.
