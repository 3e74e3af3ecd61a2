//! Trees as directories: what is shown equals the tree, whatever was shown before and whoever was killed.

#![expect(clippy::unwrap_used, reason = "what a test calls fails as the test does")]

mod checkout;
mod history;
mod model;
mod outputs;
mod processes;
mod shown;
