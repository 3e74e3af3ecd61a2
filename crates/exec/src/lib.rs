//! Runs steps in sandboxes on this machine.
//!
//! A step gets a root file system of its own, sees the trees it declares and nothing else, has no network
//! unless it asks for the machine's, and leaves nothing running behind. The way of a step:
//!
//! | file | what happens there |
//! |---|---|
//! | `local.rs` | the executor port: a worker is found, outputs are kept |
//! | `plan.rs`, `checks.rs` | the step's names become places of this machine |
//! | `cache.rs`, `relay.rs` | caches are waited for, and made; sockets are handed on |
//! | `worker.rs`, `log.rs` | the order goes to a launcher, what the step says comes back |
//! | `launcher.rs`, `root.rs` | the launcher prepares the root, follows the step and sweeps after it |
//! | `sandbox.rs`, `init.rs` | it makes a sandbox, whose first process ends what a step leaves; or it takes the last one again |
//! | `enter.rs`, `mounts.rs`, `filter.rs` | the step's process enters it, mounts what is its own, gives up its rights, executes |
//! | `own_root.rs`, `overlay.rs` | or that process mounts a root of its own, which an image build can change |
//!
//! The central decision: each worker has a *launcher*, a process of one thread that is this program executed
//! again. Cloning from a program with threads is undefined in practice, and an OCI runtime per step costs
//! several times the step; the launcher also keeps everything that steps share, so that a step costs little
//! more than the kernel's work. Part of that is the last sandbox: process numbers, network and root serve the next
//! step too, if it can be shown that nothing in them is left of the last one; `sandbox.rs` lists what and how. What cannot be
//! looked through, mounts and shared memory, is new for each step. Steps of image builds share nothing.
//!
//! A step of an image build (one whose root is writable) sees what a Docker build shows it: a root to change, with `/tmp`
//! as a part of it, a `/dev` of its own, a read-only `/sys`, `/etc/hosts` and `/etc/resolv.conf`, setuid programs that work, and
//! Docker's default capabilities. What it changed is an upper directory of overlayfs, and nothing of the sandbox
//! is left in it: places that the image lacks lie in memory. No device it makes can be opened.
//!
//! What keeps a step in: namespaces (mount, pid, ipc, uts, cgroup, network), a read-only root, no new privileges, few
//! capabilities (`enter.rs`), a system call filter (`filter.rs`), a read-only `/proc`, control groups where they are
//! usable and resource limits where not (`groups.rs`). Nothing of it needs the step's cooperation to end: killing
//! the first process of the sandbox ends all others, and the kernel kills that one with its launcher. A step's own process is
//! the launcher's child; it has no parent in the sandbox.
//!
//! An ordinary user's steps need a user namespace. One with subordinate ids gets it before anything else (`subordinate.rs`): then steps
//! have all users an image names, and the program itself is root of that namespace, which alone can read and remove what
//! they made. Without, each launcher makes a namespace with that one user.
//!
//! Limits: Linux 5.14 or newer. An ordinary user without subordinate ids can run steps as root of the sandbox only, which is
//! that user outside. `/sys` is there, read-only, in steps on a writable root alone; disk space has no limit.
//! Without control groups, limits of memory hold for each process rather than for the step, memory limits end a
//! program by its own reaction rather than as [`quern_core::port::Exit::OutOfMemory`], and processor time
//! is not limited. A step that is root can leave setuid files in an output directory:
//! keep the folder of those directories closed to other users.

mod cache;
mod checks;
mod copy;
mod devices;
mod enter;
mod filter;
mod groups;
mod init;
mod launcher;
mod local;
mod log;
mod mounts;
mod network;
mod order;
mod overlay;
mod own_root;
mod plan;
mod privilege;
mod refusal;
mod relay;
mod root;
mod sandbox;
mod skeleton;
mod subordinate;
mod sys;
mod user;
mod wire;
mod worker;

pub use launcher::launcher_main;
pub use local::{LocalExecutor, LocalOptions};
pub use privilege::Rights;
pub use refusal::{ExecError, Refusal};
pub use subordinate::{NoSubordinates, use_subordinates};

/// The first and only argument of a program that is to become a launcher; see [`launcher_main`].
pub const LAUNCHER_ARGUMENT: &str = "__quern-launcher";
