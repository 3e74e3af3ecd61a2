//! The `quern` command from end to end: the real program, real files, real sandboxes. Each test has a state folder of
//! its own, so they run side by side.

mod bad_input;
mod conformance;
mod containment;
mod failures;
mod histories;
mod image_builds;
mod image_failures;
mod image_mounts;
mod image_platforms;
mod image_room;
mod image_sharing;
mod image_space;
mod image_statements;
mod kills;
mod lifecycle;
mod processes;
mod rootless;
mod space;
mod verbs_data;
mod verbs_image;
mod verbs_pipeline;
