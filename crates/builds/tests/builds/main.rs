//! The rules of building: which jobs, why, in which order, and what follows from each event.
#![expect(clippy::unwrap_used, reason = "a failed step of a simulation is a failed test")]

mod machine;
mod planning;
mod simulation;
mod words;
mod world;
