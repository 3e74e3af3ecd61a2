//! One file for each noun; each command is a function from options to output.

pub mod branch;
pub mod commit;
pub mod datum;
pub mod drive;
pub mod file;
pub mod flush;
pub mod image;
pub mod image_build;
pub mod job;
pub mod pipeline;
pub mod repo;
pub mod state;
