//! The command line as a value: verbs, nouns and flags. Nothing is read or done here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod build;
mod image;
mod verbs;
pub use build::{Build, BuildOther, ImageBuild};
pub use image::{Image, ImageList, ImageSave};
pub use verbs::{
    Copy, Create, Delete, Diff, Edit, Extract, Finish, Flush, Get, Glob, Inspect, JobFilter, List, Logs,
    Prune, Put, PutFile, RepoSpec, Run, Start, Stop, Update, Why,
};

/// Builds code, data and models incrementally, on one content-addressed graph.
#[derive(Debug, Parser)]
#[command(name = "quern", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Examples:
  quern create repo texts
  quern put file texts@master -r -f ./data
  quern create pipeline -f wordcount.json
  quern flush commit texts@master
  quern get file wordcount@master:/counts.txt

Exit codes: 0 done; 1 a job failed; 2 the input is wrong; 3 something named does not exist or stands in
the way; 4 this machine lacks something; 5 an internal failure; 130 interrupted.")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every command, before or after the verb.
#[derive(Debug, Args)]
pub struct Global {
    /// Folder that holds everything Quern knows [default: $XDG_DATA_HOME/quern]
    #[arg(long, global = true, env = "QUERN_STATE", value_name = "DIR", help_heading = "Global options")]
    pub state: Option<PathBuf>,
    /// Form of what is listed or inspected: text or json
    #[arg(
        long,
        global = true,
        value_parser = ["text", "json"],
        value_name = "FORM",
        help_heading = "Global options"
    )]
    pub output: Option<String>,
    /// How work is shown while it goes on
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "KIND",
        help_heading = "Global options"
    )]
    pub progress: Progress,
}

impl Global {
    /// Form of what is listed or inspected. (Text, because `quern build --output` takes other values.)
    pub fn form(&self) -> Output {
        Output::of(self.output.as_deref())
    }
}

/// Form of what is listed or inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// Tables for people.
    #[default]
    Text,
    /// JSON for programs: lists are arrays, newest first.
    Json,
}

impl Output {
    /// The form of this name; text if there is none.
    pub fn of(name: Option<&str>) -> Self {
        if name == Some("json") { Self::Json } else { Self::Text }
    }
}

/// How work is shown while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Progress {
    /// Live on a terminal, lines otherwise.
    #[default]
    Auto,
    /// Live display.
    Tty,
    /// One line for each thing that happens.
    Plain,
    /// One JSON object a line.
    Rawjson,
    /// Nothing but failures.
    Quiet,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a repo, a branch or pipelines
    #[command(subcommand)]
    Create(Create),
    /// Change a repo or pipelines
    #[command(subcommand)]
    Update(Update),
    /// List what there is
    #[command(subcommand)]
    List(List),
    /// Show one thing in full
    #[command(subcommand)]
    Inspect(Inspect),
    /// Delete a repo, branch, commit, file, pipeline or job
    #[command(subcommand)]
    Delete(Delete),
    /// Put files into a repo
    #[command(subcommand)]
    Put(Put),
    /// Get files out of a repo
    #[command(subcommand)]
    Get(Get),
    /// Find files by a pattern
    #[command(subcommand)]
    Glob(Glob),
    /// Compare files of two commits
    #[command(subcommand)]
    Diff(Diff),
    /// Copy files inside Quern
    #[command(subcommand)]
    Copy(Copy),
    /// Start a commit or a stopped pipeline
    #[command(subcommand)]
    Start(Start),
    /// Finish a commit
    #[command(subcommand)]
    Finish(Finish),
    /// Stop a pipeline or a job
    #[command(subcommand)]
    Stop(Stop),
    /// Run a pipeline on what its inputs hold now
    #[command(subcommand)]
    Run(Run),
    /// Bring everything downstream of commits up to date
    #[command(subcommand)]
    Flush(Flush),
    /// Print a pipeline's spec as it was given
    #[command(subcommand)]
    Extract(Extract),
    /// Change a pipeline's spec in an editor
    #[command(subcommand)]
    Edit(Edit),
    /// Show what the steps of a job printed
    Logs(Logs),
    /// Explain why a job ran, and what it could reuse
    Why(Why),
    /// Build an image from a Dockerfile
    Build(Box<Build>),
    /// List, pull, push, save, load, name and remove images
    #[command(subcommand)]
    Image(Image),
    /// Show how much disk is used, and by what
    Du,
    /// Remove what nothing refers to
    Prune(Prune),
    /// Check this machine and read everything in the state folder
    Doctor {
        /// Put damaged content aside, so that it is made again
        #[arg(long)]
        mend: bool,
    },
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}
