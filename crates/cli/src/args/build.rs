//! `quern build`: the options of `docker buildx build`, as values.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::verbs::PipelineSpec;

/// `quern build`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  quern build -t app .
  quern build -t registry.example/app:1 --push .
  quern build --target test -o type=local,dest=out .
  quern build -o type=oci,dest=app.tar --build-arg VERSION=2 .
  quern build --platform linux/amd64,linux/arm64 -t registry.example/app --push .
  quern build --check .
  quern build - < Dockerfile

An argument named like a subcommand is a directory when written as ./ls.")]
pub struct Build {
    /// Something else than building an image
    #[command(subcommand)]
    pub other: Option<BuildOther>,
    /// What to build
    #[command(flatten)]
    pub image: ImageBuild,
}

/// Other things under `quern build`.
#[derive(Debug, Subcommand)]
pub enum BuildOther {
    /// List the source files that a build pipeline's spec would push
    Ls {
        /// The spec.
        #[command(flatten)]
        spec: PipelineSpec,
        /// Form of the list: text or json
        #[arg(long, value_parser = ["text", "json"], value_name = "FORM")]
        output: Option<String>,
    },
}

/// An image build.
#[derive(Debug, Args)]
pub struct ImageBuild {
    /// Directory or git repository that COPY and ADD read; `-` reads a Dockerfile or an archive from standard input
    #[arg(value_name = "PATH|URL|-", required = true)]
    pub context: Option<String>,
    /// The Dockerfile [default: PATH/Dockerfile]; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// Name of the image (repeat for several)
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Vec<String>,
    /// Build this stage instead of the last one
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Value of an ARG; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Another place that FROM and --from can name: NAME=PATH, a git repository, docker-image://IMAGE or oci-layout://PATH
    #[arg(long, value_name = "NAME=PLACE")]
    pub build_context: Vec<String>,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// A secret for RUN --mount=type=secret: id=ID[,src=FILE|,env=NAME]
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// An agent for RUN --mount=type=ssh: default or ID[=SOCKET]
    #[arg(long, value_name = "ID[=SOCKET]", num_args = 0..=1, default_missing_value = "default")]
    pub ssh: Vec<String>,
    /// What to build for, such as linux/amd64 (several after commas, or repeat)
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Run every step, whatever the cache holds
    #[arg(long)]
    pub no_cache: bool,
    /// Run every step of these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Look for newer base images in their registries
    #[arg(long)]
    pub pull: bool,
    /// Network of RUN steps that name none
    #[arg(long, value_name = "MODE", value_parser = ["default", "host", "none"], default_value = "default")]
    pub network: String,
    /// A name of a machine for RUN steps; host-gateway stands for this machine (repeat for several)
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Upload the image to the registry of its name
    #[arg(long)]
    pub push: bool,
    /// Keep the image in this machine's store (the default if nothing else is asked for)
    #[arg(long)]
    pub load: bool,
    /// What to make: type=image|oci|docker|local|tar|cacheonly[,dest=PATH][,name=NAME][,push=true]..., or a directory
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Vec<String>,
    /// Where results may be found: type=registry,ref=NAME or type=local,src=PATH
    #[arg(long, value_name = "CACHE")]
    pub cache_from: Vec<String>,
    /// Where to keep results: type=registry,ref=NAME, type=local,dest=PATH or type=inline; mode=min|max
    #[arg(long, value_name = "CACHE")]
    pub cache_to: Vec<String>,
    /// Write what was made to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Print only the image's id
    #[arg(short, long)]
    pub quiet: bool,
    /// Attach a statement of how it was made to what is uploaded or written with type=oci: true (the default), false,
    /// mode=min or mode=max[,builder-id=ADDRESS][,reproducible=true]
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub provenance: Option<String>,
    /// Attach a list of what is in it, made by this program (it gets the root file system as a directory and writes SPDX JSON)
    #[arg(long, value_name = "generator=PROGRAM", require_equals = true)]
    pub sbom: Option<String>,
    /// Check the Dockerfile and build nothing
    #[arg(long)]
    pub check: bool,
}
