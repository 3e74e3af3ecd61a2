//! The catalog on fakes of its ports.
#![expect(clippy::unwrap_used, reason = "a failed fake is a failed test")]

mod consistency;
mod datums;
mod deep;
mod durable;
mod files;
mod histories;
mod outputs;
mod shop;
mod trees;
mod versions;
