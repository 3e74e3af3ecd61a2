//! What follows each verb: nouns and their flags.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `quern create`
#[derive(Debug, Subcommand)]
pub enum Create {
    /// Create a repo
    Repo(RepoSpec),
    /// Create a branch, or move its head
    Branch {
        /// REPO@BRANCH
        branch: String,
        /// Commit or branch the new branch points to
        #[arg(long, value_name = "REF")]
        head: Option<String>,
    },
    /// Create pipelines from a spec
    Pipeline(PipelineSpec),
}

/// `quern update`
#[derive(Debug, Subcommand)]
pub enum Update {
    /// Change a repo's description
    Repo(RepoSpec),
    /// Change pipelines, or create those that do not exist
    Pipeline {
        /// The spec.
        #[command(flatten)]
        spec: PipelineSpec,
        /// Process every datum again
        #[arg(long)]
        reprocess: bool,
        /// Run the builder again even if the source is unchanged
        #[arg(long)]
        rebuild: bool,
    },
}

/// A repo and its description.
#[derive(Debug, Args)]
pub struct RepoSpec {
    /// Name of the repo
    pub name: String,
    /// What it is for
    #[arg(short, long)]
    pub description: Option<String>,
}

/// Where a pipeline spec comes from.
#[derive(Debug, Args)]
pub struct PipelineSpec {
    /// File with one or more specs as JSON or YAML; `-` is standard input
    #[arg(short, long, default_value = "-", value_name = "FILE")]
    pub file: String,
}

/// `quern list`
#[derive(Debug, Subcommand)]
pub enum List {
    /// List repos
    Repo,
    /// List the branches of a repo
    Branch {
        /// Name of the repo
        repo: String,
    },
    /// List commits, newest first
    Commit {
        /// REPO or REPO@BRANCH; all if absent
        target: Option<String>,
        /// At most so many
        #[arg(short, long, value_name = "N")]
        number: Option<usize>,
    },
    /// List a directory
    File {
        /// REPO@REF[:PATH]
        target: String,
    },
    /// List pipelines
    Pipeline {
        /// Only this one
        name: Option<String>,
        /// Only those in this state: running or paused
        #[arg(long, value_name = "STATE", value_parser = ["running", "paused"])]
        status: Vec<String>,
        /// Print the specs instead
        #[arg(long)]
        spec: bool,
    },
    /// List jobs, newest first
    Job(JobFilter),
    /// List the datums of a job, failed ones first
    Datum {
        /// Id of the job
        job: Option<String>,
        /// Dry run: what a spec would process, without creating it
        #[arg(short, long, value_name = "FILE", conflicts_with = "job")]
        file: Option<String>,
    },
}

/// Which jobs.
#[derive(Debug, Args)]
pub struct JobFilter {
    /// Only jobs of this pipeline
    #[arg(short, long)]
    pub pipeline: Option<String>,
    /// Only jobs that read this commit (repeat: all of them)
    #[arg(short, long, value_name = "REF")]
    pub input: Vec<String>,
    /// Only jobs in this state, such as failure (repeat: any of them)
    #[arg(long, value_name = "STATE", value_parser = ["starting", "running", "merging", "success", "failure", "killed"])]
    pub status: Vec<String>,
    /// At most so many
    #[arg(short, long, value_name = "N")]
    pub number: Option<usize>,
}

/// `quern inspect`
#[derive(Debug, Subcommand)]
pub enum Inspect {
    /// Show a repo
    Repo {
        /// Name of the repo
        name: String,
    },
    /// Show a branch
    Branch {
        /// REPO@BRANCH
        branch: String,
    },
    /// Show a commit
    Commit {
        /// REPO@REF
        commit: String,
    },
    /// Show a file or directory
    File {
        /// REPO@REF:PATH
        target: String,
    },
    /// Show a pipeline
    Pipeline {
        /// Name of the pipeline
        name: String,
    },
    /// Show a job
    Job {
        /// Id of the job
        id: String,
        /// Run or wait for it first
        #[arg(short, long)]
        block: bool,
    },
    /// Show a datum
    Datum {
        /// Id of the job
        job: String,
        /// Id of the datum, as `list datum` prints it
        datum: String,
    },
}

/// `quern delete`
#[derive(Debug, Subcommand)]
pub enum Delete {
    /// Delete a repo and all its commits
    Repo {
        /// Name of the repo
        name: Option<String>,
        /// Delete all repos
        #[arg(long, conflicts_with = "name", required_unless_present = "name")]
        all: bool,
        /// Even if pipelines read it
        #[arg(short, long)]
        force: bool,
    },
    /// Delete a branch; its commits stay
    Branch {
        /// REPO@BRANCH
        branch: String,
        /// Even if branches depend on it
        #[arg(short, long)]
        force: bool,
    },
    /// Delete a commit and everything made from it
    Commit {
        /// REPO@REF
        commit: String,
    },
    /// Delete files
    File {
        /// REPO@BRANCH:PATH or a pattern
        target: String,
    },
    /// Delete a pipeline, its output repo and its build pipeline
    Pipeline {
        /// Name of the pipeline
        name: Option<String>,
        /// Delete all pipelines
        #[arg(long, conflicts_with = "name", required_unless_present = "name")]
        all: bool,
        /// Even if pipelines read its output
        #[arg(short, long)]
        force: bool,
        /// Keep the output repo
        #[arg(long)]
        keep_repo: bool,
        /// Keep the build pipeline and its repo
        #[arg(long)]
        keep_build: bool,
    },
    /// Delete the record of a finished job
    Job {
        /// Id of the job
        id: String,
    },
}

/// `quern put`
#[derive(Debug, Subcommand)]
pub enum Put {
    /// Put files into a branch; all files of one call land in one commit
    #[command(after_help = "Examples:
  quern put file texts@master:/a.txt -f a.txt       one file
  quern put file texts@master -r -f ./data          a directory, kept as data/
  quern put file texts@master:/ -r -o -f ./data     its content at the root, replacing files
  echo hi | quern put file texts@master:/hi.txt     standard input, appended")]
    File(PutFile),
}

/// What to put where.
#[derive(Debug, Args)]
pub struct PutFile {
    /// REPO@BRANCH[:PATH]
    pub target: String,
    /// File or directory to put; `-` is standard input; may be repeated
    #[arg(short, long = "file", value_name = "PATH")]
    pub files: Vec<String>,
    /// Put directories with all that is in them
    #[arg(short, long)]
    pub recursive: bool,
    /// Replace files instead of appending to them
    #[arg(short, long)]
    pub overwrite: bool,
    /// Read the list of files to put from here, one a line
    #[arg(short, long, value_name = "FILE")]
    pub input_file: Option<String>,
    /// Also bring everything downstream up to date
    #[arg(long)]
    pub flush: bool,
}

/// `quern get`
#[derive(Debug, Subcommand)]
pub enum Get {
    /// Print files, or write them to a directory
    File {
        /// REPO@REF:PATH or a pattern; matches are printed in the order of their paths
        target: String,
        /// A directory with all that is in it
        #[arg(short, long, requires = "to")]
        recursive: bool,
        /// Write to this file or directory instead of standard output
        #[arg(short = 'o', long = "to", value_name = "PATH")]
        to: Option<PathBuf>,
    },
}

/// `quern glob`
#[derive(Debug, Subcommand)]
pub enum Glob {
    /// List files and directories that match a pattern
    File {
        /// "REPO@REF:PATTERN"
        target: String,
    },
}

/// `quern diff`
#[derive(Debug, Subcommand)]
pub enum Diff {
    /// Show what differs between two commits; the second is the first one's parent if absent
    File {
        /// REPO@REF[:PATH]
        new: String,
        /// REPO@REF[:PATH]
        old: Option<String>,
        /// Only paths
        #[arg(long)]
        name_only: bool,
    },
}

/// `quern copy`
#[derive(Debug, Subcommand)]
pub enum Copy {
    /// Copy a file or directory; no byte is moved
    File {
        /// REPO@REF:PATH
        source: String,
        /// REPO@BRANCH:PATH
        destination: String,
        /// Replace instead of appending
        #[arg(short, long)]
        overwrite: bool,
    },
}

/// `quern start`
#[derive(Debug, Subcommand)]
pub enum Start {
    /// Start a commit: puts go into it until it is finished
    Commit {
        /// REPO@BRANCH
        branch: String,
        /// What it is for
        #[arg(short = 'm', long)]
        description: Option<String>,
    },
    /// Let a stopped pipeline run again
    Pipeline {
        /// Name of the pipeline
        name: String,
    },
}

/// `quern finish`
#[derive(Debug, Subcommand)]
pub enum Finish {
    /// Finish a commit
    Commit {
        /// REPO@BRANCH
        branch: String,
        /// What it is for
        #[arg(short = 'm', long)]
        description: Option<String>,
    },
}

/// `quern stop`
#[derive(Debug, Subcommand)]
pub enum Stop {
    /// Stop a pipeline: new commits start no jobs
    Pipeline {
        /// Name of the pipeline
        name: String,
    },
    /// Stop a job, wherever it runs
    Job {
        /// Id of the job
        id: String,
    },
}

/// `quern run`
#[derive(Debug, Subcommand)]
pub enum Run {
    /// Run a pipeline on what its inputs hold now, even if nothing changed
    Pipeline {
        /// Name of the pipeline
        name: String,
    },
}

/// `quern flush`
#[derive(Debug, Subcommand)]
pub enum Flush {
    /// Run, or wait for, every job downstream of commits and print their output commits
    Commit {
        /// REPO@REF, one or more
        #[arg(required = true)]
        commits: Vec<String>,
        /// Only what these repos need (repeat)
        #[arg(short, long = "repos", value_name = "REPO")]
        repos: Vec<String>,
    },
    /// Run, or wait for, every job downstream of commits and print the jobs
    Job {
        /// REPO@REF, one or more
        #[arg(required = true)]
        commits: Vec<String>,
        /// Only what these pipelines need (repeat)
        #[arg(short, long = "pipeline", value_name = "PIPELINE")]
        pipelines: Vec<String>,
    },
}

/// `quern extract`
#[derive(Debug, Subcommand)]
pub enum Extract {
    /// Print a pipeline's spec as it was given
    Pipeline {
        /// Name of the pipeline
        name: String,
    },
}

/// `quern edit`
#[derive(Debug, Subcommand)]
pub enum Edit {
    /// Change a pipeline's spec in an editor
    Pipeline {
        /// Name of the pipeline
        name: String,
        /// Program to edit with [default: $EDITOR or vi]
        #[arg(long, env = "EDITOR", default_value = "vi")]
        editor: String,
        /// Process every datum again
        #[arg(long)]
        reprocess: bool,
    },
}

/// `quern logs`
#[derive(Debug, Args)]
pub struct Logs {
    /// Of the newest job of this pipeline
    #[arg(short, long, required_unless_present = "job")]
    pub pipeline: Option<String>,
    /// Of this job
    #[arg(short, long)]
    pub job: Option<String>,
    /// Only of this datum
    #[arg(long)]
    pub datum: Option<String>,
    /// Go on as datums end, until the job has ended
    #[arg(short, long)]
    pub follow: bool,
}

/// `quern why`
#[derive(Debug, Args)]
pub struct Why {
    /// Id of a job, or a pipeline's name for its newest job
    pub job: String,
}

/// `quern prune`
#[derive(Debug, Args)]
pub struct Prune {
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Forget cached results and images without names, and empty cache mounts, too
    #[arg(short, long)]
    pub all: bool,
    /// Keep so much of what could go, such as 10GiB: of content and of layers each, what is newest or was used last
    #[arg(long, value_name = "SIZE", value_parser = crate::table::bytes, default_value = "0")]
    pub keep_bytes: u64,
}
