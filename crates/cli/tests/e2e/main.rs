//! The `quern` command from end to end: the real program, real files, real sandboxes. Each test has a state folder of
//! its own, so they run side by side.

mod failures;
mod lifecycle;
mod space;
mod verbs_data;
mod verbs_pipeline;
