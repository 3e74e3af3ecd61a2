//! Why a step was not run: the errors of this crate.

use std::fmt::Display;
use std::io;

use quern_core::port::PortError;
use serde::{Deserialize, Serialize};

/// Why a step could not be started. Found in the sandbox's own processes and carried to the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// There is no such program.
    #[error(
        "program not found: {program}; name one that the image has, with a path or in a directory of PATH"
    )]
    ProgramNotFound {
        /// As the step names it.
        program: String,
    },
    /// The program is there but what should run it is not.
    #[error(
        "program {program} cannot start: the interpreter in its first line, or its dynamic loader, is not in the image"
    )]
    InterpreterNotFound {
        /// Where it was found.
        program: String,
    },
    /// The kernel does not execute this file.
    #[error("program {program} cannot be executed: {}", os_error(*errno))]
    NotExecutable {
        /// Where it was found.
        program: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// The kernel does not execute programs of this platform.
    #[error(
        "program {program} is for {platform}, and this machine has no emulator for it; install one (package `qemu-user-static`, \
         or `docker run --privileged --rm tonistiigi/binfmt --install all`), or start the stage with \
         `FROM --platform=$BUILDPLATFORM` and cross-compile"
    )]
    Foreign {
        /// Where it was found.
        program: String,
        /// What it is for.
        platform: String,
    },
    /// The user or group is not in the image.
    #[error("user `{user}` cannot be used: {reason}")]
    User {
        /// As the step names it.
        user: String,
        /// Why not.
        reason: String,
    },
    /// A mount has no place in the root file system.
    #[error("nothing can be mounted at {target}: {reason}")]
    Place {
        /// Where it should appear.
        target: String,
        /// Why it cannot.
        reason: String,
    },
    /// The machine does not allow the namespaces a sandbox is made of.
    #[error("this machine does not allow {what} ({}); {hint}", os_error(*errno))]
    Namespaces {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        errno: i32,
        /// What to do.
        hint: String,
    },
    /// A system call failed.
    #[error("{doing}: {}", os_error(*errno))]
    System {
        /// What was being done.
        doing: String,
        /// The kernel's answer.
        errno: i32,
    },
}

impl Refusal {
    /// Longest refusal told in full.
    const MOST_TEXT: usize = 4096;

    /// This, or its beginning if it names something very long.
    pub(crate) fn in_short(self) -> Self {
        let text = self.to_string();
        if text.len() <= Self::MOST_TEXT {
            return self;
        }
        let doing = text.chars().take(Self::MOST_TEXT / 4).collect();
        Self::System { doing, errno: libc::ENAMETOOLONG }
    }
}

fn os_error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// Adds what was being done to the result of a system call.
pub(crate) trait Doing<T> {
    /// `doing` reads as in "mounting /proc".
    fn doing(self, doing: impl Display) -> Result<T, Refusal>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl Display) -> Result<T, Refusal> {
        self.map_err(|error| {
            let error: io::Error = error.into();
            match error.raw_os_error() {
                Some(errno) => Refusal::System { doing: doing.to_string(), errno },
                None => Refusal::System { doing: format!("{doing} ({error})"), errno: libc::EIO },
            }
        })
    }
}

/// Why an attempt could not be run on this machine.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The sandbox refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The step itself makes no sense.
    #[error("the step cannot be run: {0}")]
    Invalid(String),
    /// The launcher's process did not start.
    #[error("the launcher {program} did not start: {source}")]
    LauncherStart {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The launcher's process ended while a step ran.
    #[error(
        "the launcher ended while the step ran, perhaps killed by a person or for lack of memory; run it again"
    )]
    LauncherLost,
    /// Talking to the launcher failed.
    #[error("talking to the launcher: {0}")]
    Talk(io::Error),
    /// The content or image of the step is not to be had.
    #[error(transparent)]
    Port(#[from] PortError),
}

impl From<ExecError> for PortError {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Port(error) => error,
            other => Self::Other(other.to_string()),
        }
    }
}
