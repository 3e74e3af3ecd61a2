//! What a command that did not succeed says and returns.

use std::fmt;
use std::process::ExitCode;

use quern_catalog::VersionError;
use quern_core::port::PortError;

/// Why a command did not succeed. Each kind has one stable exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A job failed.
    Failed = 1,
    /// The input is wrong: arguments, a spec, a name.
    Input = 2,
    /// Something named does not exist, exists already or stands in the way.
    Named = 3,
    /// This machine lacks something.
    Machine = 4,
    /// Quern or its store failed.
    Internal = 5,
    /// A person interrupted it.
    Interrupted = 130,
}

/// A failure with its message, ready to be printed.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// What happened and what to do, without a final line end; empty if all was said already.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }

    /// Wrong input.
    pub fn input(message: impl fmt::Display) -> Self {
        Self::new(Kind::Input, message)
    }

    /// Something named that is not there or in the way.
    pub fn named(message: impl fmt::Display) -> Self {
        Self::new(Kind::Named, message)
    }

    /// Prints the message and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprint_line(&format!("error: {}", self.message));
        }
        ExitCode::from(self.kind as u8)
    }
}

/// Writes a line to standard error; if that is closed there is nobody to tell.
pub fn eprint_line(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        Self::new(Kind::Internal, error)
    }
}

impl From<VersionError> for Failure {
    fn from(error: VersionError) -> Self {
        let kind = if matches!(error, VersionError::Port(_)) { Kind::Internal } else { Kind::Named };
        Self::new(kind, error)
    }
}

impl From<quern_catalog::NameError> for Failure {
    fn from(error: quern_catalog::NameError) -> Self {
        Self::input(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Kind::Internal, error)
    }
}
