//! Layers: the view against the kernel's overlay and against a model, archives against GNU tar, processes that race and die.
#![expect(clippy::unwrap_used, reason = "tests")]

mod archive;
mod kernel;
mod model;
mod show;
mod store;
mod view;
