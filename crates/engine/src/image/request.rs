//! What a build is asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use quern_core::step::{self, Network};
use quern_spec::dockerfile::{self, DockerIgnore, Platform};
use quern_spec::source::SourceText;

/// What a build is asked for, without what becomes of the result.
pub struct Request {
    /// The Dockerfile.
    pub dockerfile: SourceText,
    /// The build context.
    pub context: Directory,
    /// The stage to build; the last one by default.
    pub target: Option<String>,
    /// Values for `ARG`.
    pub build_args: BTreeMap<String, String>,
    /// What the image shall run on: one image for each; never empty.
    pub platforms: Vec<Platform>,
    /// Labels added to the image.
    pub labels: Vec<(String, String)>,
    /// Whether every step runs, whatever the cache holds.
    pub no_cache: bool,
    /// Stages of which every step runs.
    pub no_cache_stages: Vec<String>,
    /// Whether registries are asked for newer images.
    pub pull: bool,
    /// The network of commands that name none.
    pub network: Network,
    /// Names of machines for commands, beside those they know anyway.
    pub hosts: Vec<(String, IpAddr)>,
    /// Values of secrets by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Sockets of agents by id.
    pub agents: BTreeMap<String, PathBuf>,
    /// Named contexts.
    pub contexts: BTreeMap<String, Place>,
    /// Where the context was fetched from; none if it was a directory here.
    pub origin: Option<FetchedContext>,
}

/// Where a context came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedContext {
    /// Its address, without user and password.
    pub uri: String,
    /// Name of the function to hexadecimal digest of what was there.
    pub digest: BTreeMap<String, String>,
    /// Whether the Dockerfile came from there, too.
    pub dockerfile: bool,
}

/// A directory, and what of it does not count.
#[derive(Debug, Clone)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// The rules of its `.dockerignore`.
    pub ignore: DockerIgnore,
}

/// What a named context is.
#[derive(Debug, Clone)]
pub enum Place {
    /// A directory of this machine.
    Directory(Directory),
    /// An image, by name.
    Image(String),
}

impl Request {
    /// What the front end has to know to plan the image of a platform.
    pub fn plan(&self, platform: &Platform) -> dockerfile::Request {
        let here = step::Platform::current();
        dockerfile::Request {
            target: self.target.clone(),
            build_args: self.build_args.clone(),
            contexts: self.contexts.keys().cloned().collect(),
            ignore: self.context.ignore.clone(),
            target_platform: platform.clone(),
            build_platform: Platform::new(&here.os, &here.arch, ""),
            all_stages: false,
        }
    }

    /// Whether the steps of a stage run whatever the cache holds.
    pub fn runs_anew(&self, stage: &str) -> bool {
        self.no_cache || self.no_cache_stages.iter().any(|name| name.eq_ignore_ascii_case(stage))
    }
}
