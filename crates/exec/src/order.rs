//! What travels between [`crate::LocalExecutor`] and its launchers: private, both ends are one program.

use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;

/// From the executor to a launcher. The order is borrowed where it is sent.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request<O = Box<Order>> {
    /// Run this; standard output, error and, unless it is empty, input travel beside it.
    Run(O),
    /// End what runs now.
    Kill,
}

/// From a launcher to the executor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// It has set itself up; these control groups are its own, to be removed when it is gone.
    Ready {
        /// Directories of the control groups.
        groups: Vec<String>,
    },
    /// A program ended by itself or by the system.
    Ended(Ending),
    /// A program was ended on request.
    Killed(Cost),
    /// The launcher or the step could not be set up.
    Refused(Refusal),
}

/// How a program ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// Exit code, or the negative number of the signal.
    pub code: i32,
    /// Whether its memory limit ended it or one of its children.
    pub out_of_memory: bool,
    /// What it cost.
    pub cost: Cost,
}

/// What a program and its children cost.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Processor time, microseconds.
    pub cpu_micros: u64,
    /// Largest resident set of one of its processes, bytes.
    pub peak_memory: u64,
}

/// A step with every name resolved to a place on this machine.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    /// The root file system.
    pub root: Root,
    /// Places that must exist in the root before anything is mounted, parents first.
    pub points: Vec<Point>,
    /// Mounts besides the standard ones, parents first.
    pub mounts: Vec<Placed>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `NAME=value`, the whole environment.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Whether the working directory lies in memory and has to be made.
    pub make_cwd: bool,
    /// `name-or-uid[:group-or-gid]`, none for root.
    pub user: Option<String>,
    /// The platform it is for, such as `linux/arm64`, if this machine is another.
    pub foreign: Option<String>,
    /// Whether it shares the machine's network.
    pub host_network: bool,
    /// What it may use.
    pub limits: Limits,
    /// Whether the number of processes is the step's own wish rather than the default.
    pub exact_pids: bool,
}

/// Where the root file system is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Root {
    /// Directories to be overlaid, lowest first.
    Layers(Vec<String>),
    /// Directories to be overlaid, lowest first, for this step alone.
    Own {
        /// The directories; there may be none.
        layers: Vec<String>,
        /// Where what the step changes goes; nothing can be changed if absent.
        upper: Option<Upper>,
    },
    /// Directories and files of the machine, at the same places.
    Host {
        /// Absolute paths.
        places: Vec<String>,
        /// What is shown as `/etc`.
        etc: String,
    },
}

/// The writable part of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Upper {
    /// What changes.
    pub dir: String,
    /// The kernel's, on the same file system.
    pub work: String,
}

impl Order {
    /// Whether the step may change its root, as the steps of image builds do.
    pub fn changes_root(&self) -> bool {
        matches!(self.root, Root::Own { upper: Some(_), .. })
    }
}

/// A place that must exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Absolute path.
    pub path: String,
    /// Whether it is a file rather than a directory.
    pub file: bool,
}

/// A mount at a place.
#[derive(Serialize, Deserialize)]
pub(crate) struct Placed {
    /// Absolute path.
    pub target: String,
    /// What appears there.
    pub what: What,
    /// Whether it lies inside a writable mount above it, where its place is made when the step starts.
    pub nested: bool,
}

/// What appears at a place.
#[derive(Serialize, Deserialize)]
pub(crate) enum What {
    /// A directory of the machine.
    Bind {
        /// Which.
        source: String,
        /// Whether the step may write; it then owns the directory.
        write: bool,
    },
    /// A directory that outlives the step.
    Cache {
        /// Which.
        source: String,
        /// Whether the step may write.
        write: bool,
        /// What it is made of before; it is there already if absent.
        fill: Option<Fill>,
        /// Whether it belongs to the step's user.
        give: bool,
    },
    /// A file or directory of a snapshot.
    Snapshot {
        /// The directories of its layers, lowest first.
        layers: Vec<String>,
        /// What of it, from its root.
        path: String,
        /// Where changes go; read-only if absent.
        upper: Option<Upper>,
    },
    /// A socket of this process.
    Socket {
        /// Where it is.
        source: String,
        /// Permission bits.
        mode: u32,
        /// User and group number, the step's user if absent.
        owner: Option<(u32, u32)>,
    },
    /// Files in memory, read-only.
    Files(Vec<File>),
    /// An empty directory in memory.
    Tmpfs {
        /// Upper limit in bytes.
        size: Option<u64>,
    },
    /// A file in memory, read-only.
    Text {
        /// Its bytes.
        bytes: Span,
        /// Permission bits.
        mode: u32,
        /// User and group number, the step's user if absent.
        owner: Option<(u32, u32)>,
    },
}

/// What a cache holds at first.
#[derive(Serialize, Deserialize)]
pub(crate) struct Fill {
    /// The directories of a snapshot's layers, lowest first.
    pub layers: Vec<String>,
    /// A directory of it, from its root.
    pub path: String,
    /// Owner of the whole, as in the snapshot if absent.
    pub owner: Option<(u32, u32)>,
    /// Permission bits of the whole, as in the snapshot if absent.
    pub mode: Option<u32>,
}

/// An entry of [`What::Files`], relative to its place; parents first.
#[derive(Serialize, Deserialize)]
pub(crate) enum File {
    /// A directory.
    Dir(String),
    /// A file: path, bytes, whether it may be executed.
    Plain(String, Span, bool),
    /// A symbolic link: path and target.
    Link(String, String),
}

/// A part of the payload beside a message.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Span {
    start: usize,
    len: usize,
}

impl Span {
    /// Appends bytes to a payload and says where they are.
    pub fn append(payload: &mut Vec<u8>, bytes: &[u8]) -> Self {
        let start = payload.len();
        payload.extend_from_slice(bytes);
        Self { start, len: bytes.len() }
    }

    /// The bytes in the payload they were appended to.
    pub fn of(self, payload: &[u8]) -> &[u8] {
        payload.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

/// What a step may use; absent means the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Thousandths of a core.
    pub cpu_milli: Option<u64>,
}
