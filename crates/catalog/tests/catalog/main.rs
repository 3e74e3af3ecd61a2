//! The catalog on fakes of its ports.

mod files;
mod shop;
