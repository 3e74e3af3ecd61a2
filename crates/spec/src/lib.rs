//! Text to typed documents with diagnostics; pure.
//!
//! A text becomes a tree with the place of every node ([`value`]), the tree a typed document
//! ([`decode`] and the folder of each language, such as [`pachyderm`]), and whatever is wrong becomes
//! [`diagnostic`]s: all of them at once, each with line, column, the offending text and a hint.
//! Globs, `.pachignore` files, durations and quantities are read here too.
//!
//! The central decision is a tree of our own under a typed reader that collects problems. The refused
//! alternative, deserializing straight into structs, stops at the first problem, loses places, and
//! takes its idea of a scalar from the YAML library instead of from the system whose files we read.
//!
//! ```
//! use quern_spec::diagnostic::Plain;
//! use quern_spec::pachyderm::parse_pipelines;
//!
//! let parsed = parse_pipelines("spec.yaml", "pipeline: {name: map}\ntransfrom: {cmd: [sh]}\n");
//! assert!(!parsed.is_ok());
//! let shown = parsed.render(&Plain);
//! assert!(shown.contains("spec.yaml:2:1: error[unknown-field]: unknown field `transfrom`"));
//! assert!(shown.contains("help: did you mean `transform`?"));
//! ```
//!
//! Limits: no file, environment, clock or network is touched; callers bring text and names. Every
//! input is bounded (see [`value::Budget`]) and no pattern or document can make the work explode.

pub mod cron;
pub mod decode;
pub mod diagnostic;
pub mod dockerfile;
pub mod duration;
pub mod glob;
pub mod pachignore;
pub mod pachyderm;
pub mod quantity;
pub mod source;
pub mod value;
