//! Dockerfiles: from text to the steps of a build, without files, network, clock or environment.
//!
//! A caller goes through four stages:
//!
//! 1. [`parse_dockerfile`] makes a tree of a text, with every problem at its place.
//! 2. [`plan_stages`] takes a [`Request`] (target, build arguments, named contexts, platforms) and finds which
//!    stages are needed, in which order, and what each starts from and takes from others ([`Origin`]).
//! 3. For every stage of [`Plan::order`] whose base is [`Origin::Image`] the caller resolves the image and
//!    gives the `ONBUILD` triggers of its configuration to [`Plan::add_triggers`], until no stage is new.
//! 4. In that order each stage gets a [`Scope`]: [`Plan::scope`] if it starts from an image, a context or
//!    nothing, [`Scope::child`] of the base's last scope if it starts from a stage. [`Scope::apply`] then
//!    turns one [`Instruction`] after the other into a [`Step`], every word expanded, paths absolute, command
//!    lines with their shell. Mapping steps to operations is all that is left.
//!
//! ```
//! use quern_spec::dockerfile::{Action, BaseConfig, Origin, Platform, Request, parse_dockerfile, plan_stages};
//! use quern_spec::source::SourceText;
//!
//! let text = "ARG VERSION=12\nFROM debian:$VERSION AS base\nWORKDIR /src\nCOPY . .\nRUN make\n";
//! let (dockerfile, mut problems) = parse_dockerfile(&SourceText::new("Dockerfile", text));
//! let (plan, more) = plan_stages(&dockerfile, &Request::new(Platform::new("linux", "amd64", "")));
//! problems.extend(more);
//! let plan = plan.expect("no errors");
//! let stage = &plan.stages[plan.target];
//! assert_eq!(stage.base, Origin::Image("debian:12".to_owned()));
//!
//! let mut scope = plan.scope(&BaseConfig::default());
//! let steps: Vec<_> =
//!     stage.instructions.iter().filter_map(|instruction| scope.apply(instruction, &mut problems)).collect();
//! assert!(!problems.has_errors() && steps.len() == stage.instructions.len());
//! let Action::Copy(copy) = &steps[1].action else { panic!("{:?}", steps[1]) };
//! assert_eq!(copy.dest, "/src/");
//! let Action::Run(run) = &steps[2].action else { panic!("{:?}", steps[2]) };
//! assert_eq!(run.argv, ["/bin/sh", "-c", "make"]);
//! assert_eq!(run.cwd, "/src");
//! ```
//!
//! The readings are those of BuildKit's current front end (its `master` of 2026), including that an `ARG`
//! after an `ENV` of the same name hides it from commands. What is stricter here: unknown flags, keys of
//! mounts and instructions behind `ONBUILD` are errors wherever they stand, also in stages that are not built.

mod ast;
mod chmod;
mod directive;
pub mod expand;
mod flags;
mod globals;
mod go;
mod heredoc;
mod ignore;
mod lines;
mod lint;
mod mount;
mod parse;
mod path;
mod pattern;
mod plan;
mod platform;
mod ports;
mod remote;
mod scope;
mod scope_files;
mod signal;
mod step;
mod style;
mod words;

pub use ast::{
    Arg, Command, Dockerfile, HealthOptions, Healthcheck, Heredoc, Instruction, Kind, Network, Onbuild, Pair,
    Run, Stage, Transfer, Word,
};
pub use chmod::Chmod;
pub use ignore::{DockerIgnore, IgnoreDir, IgnoreVisit, ignore_files};
pub use lint::{Check, Rule, Rules};
pub use mount::{Mount, MountFlag, MountKind, Sharing};
pub use parse::parse_dockerfile;
pub use pattern::InvalidPattern;
pub use plan::{Origin, Plan, PlannedStage, Request, plan_stages};
pub use platform::{InvalidPlatform, Platform};
pub use remote::{GitSource, SourcePath};
pub use scope::{BaseConfig, DEFAULT_PATH, Scope};
pub use step::{Action, CopyStep, InlineFile, Port, RunStep, Step, Unpack};
