//! Instructions after expansion: what a build does.

use std::fmt;

use super::ast::{Healthcheck, Network};
use super::chmod::Chmod;
use super::mount::Mount;
use super::plan::Origin;
use super::remote::SourcePath;

/// An instruction ready to be carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// The line of the image's history (`created_by`).
    pub created_by: String,
    /// Whether the history's entry has a layer.
    pub layer: bool,
}

/// What an instruction does, every word expanded.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Copies files.
    Copy(CopyStep),
    /// Runs a command.
    Run(RunStep),
    /// Makes a directory, if it is not there, and sets the image's working directory: absolute and clean.
    Workdir(String),
    /// Declares variables for the build; the image does not keep them.
    Arg(Vec<(String, Option<String>)>),
    /// Sets variables of the image, in this order.
    Env(Vec<(String, String)>),
    /// Sets labels of the image.
    Label(Vec<(String, String)>),
    /// Sets the image's user for what follows and for its program.
    User(String),
    /// Sets the image's command.
    Cmd(Vec<String>),
    /// Sets the image's entry point; a command that the base set is dropped (see [`Action::Entrypoint`]).
    Entrypoint {
        /// The argument vector; empty removes the entry point.
        argv: Vec<String>,
        /// Whether the command is to be removed: no `CMD` came before in this stage.
        drops_cmd: bool,
    },
    /// Sets the shell for shell-form commands.
    Shell(Vec<String>),
    /// Adds ports of the image.
    Expose(Vec<Port>),
    /// Adds volumes of the image.
    Volume(Vec<String>),
    /// Sets the signal that stops the image's program.
    Stopsignal(String),
    /// Sets how to see that the program is well; the argument vector begins with `NONE`, `CMD` or
    /// `CMD-SHELL`.
    Healthcheck {
        /// The test as the image's configuration has it.
        test: Vec<String>,
        /// The check as the file has it, with its options.
        check: Healthcheck,
    },
    /// Adds a trigger to the image's configuration.
    Onbuild(String),
    /// Sets the image's author.
    Maintainer(String),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunStep {
    /// The argument vector, the shell included.
    pub argv: Vec<String>,
    /// The environment, in order: that of the image and every declared argument that has a value.
    pub env: Vec<(String, String)>,
    /// Variables the command also sees unless `env` has them, which change no key: the proxies.
    pub proxies: Vec<(String, String)>,
    /// The working directory, absolute and clean.
    pub cwd: String,
    /// The user, as `USER` or the base image says; empty is root.
    pub user: String,
    /// The mounts, in order.
    pub mounts: Vec<Mount>,
    /// A here-document that is a program of its own, to be put read-only at [`InlineFile::path`] with mode
    /// 0755; the shell in `argv` starts it.
    pub script: Option<InlineFile>,
    /// The network.
    pub network: Network,
    /// Whether the command wants all privileges.
    pub insecure: bool,
}

/// A file that stands in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// For `RUN` an absolute path, for `COPY` and `ADD` the name as a source has it.
    pub path: String,
    /// What it holds.
    pub content: String,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyStep {
    /// Where local sources come from; `None` is the build context.
    pub from: Option<Origin>,
    /// The sources, in order, before the files.
    pub sources: Vec<SourcePath>,
    /// Files that stand in the Dockerfile; their mode is 0644 unless `chmod` says otherwise.
    pub files: Vec<InlineFile>,
    /// The destination, absolute; a trailing slash says that it is a directory.
    pub dest: String,
    /// The owner: `user`, `user:group`, names or numbers.
    pub chown: Option<String>,
    /// The permission bits.
    pub chmod: Option<Chmod>,
    /// Copy into a layer of its own, independent of what is below.
    pub link: bool,
    /// Keep the directories of the sources, from a `/./` on if there is one.
    pub parents: bool,
    /// Patterns of what is left out, as `.dockerignore` has them.
    pub exclude: Vec<String>,
    /// What a remote source must hash to: `sha256:...` for HTTP, a commit for git.
    pub checksum: Option<String>,
    /// Keep the `.git` directory of git sources, if it was said.
    pub keep_git_dir: Option<bool>,
    /// Unpack archives: local ones unless it was said otherwise for `ADD`, remote ones only if it was
    /// said; never for `COPY`.
    pub unpack: Unpack,
}

/// Which archives among the sources are unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unpack {
    /// None.
    Never,
    /// Local ones.
    Local,
    /// Local and remote ones.
    All,
}

/// A port of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}
