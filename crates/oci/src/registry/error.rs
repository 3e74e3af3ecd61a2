//! Why a registry did not do what it was asked, and what a person can do about it.

use std::io;

use crate::blob::BlobError;
use crate::image::ImageProblem;

use super::Repository;

/// A request that failed, or documents that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// A request failed.
    #[error(transparent)]
    Request(Box<Failure>),
    /// What was received does not make an image.
    #[error("{0}")]
    Image(std::sync::Arc<ImageProblem>),
}

impl From<ImageProblem> for RegistryError {
    fn from(problem: ImageProblem) -> Self {
        Self::Image(problem.into())
    }
}

/// What was tried, where, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action} in {registry}/{repository}: {}", problem.text(registry))]
pub struct Failure {
    /// Host and port.
    pub registry: String,
    /// The path.
    pub repository: String,
    /// What was tried.
    pub action: String,
    /// Why it failed.
    pub problem: Problem,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// No connection, or none that lasted, after all attempts.
    Unreachable(String),
    /// Nothing came for as long as the client waits, after all attempts.
    Stalled,
    /// No secure connection.
    Tls(String),
    /// The registry knows no one; a login is needed.
    LoginNeeded,
    /// The registry refuses the login that was used.
    LoginRefused,
    /// The login is good, but not for this. Registries answer the same about repositories that do not exist.
    Denied(String),
    /// There is no such thing.
    NotFound,
    /// It answers "later", even after all attempts.
    Throttled,
    /// The registry refused, with its status and its words.
    Status(u16, String),
    /// An answer that the protocol does not have.
    Broken(String),
    /// It sends elsewhere, and that is not followed.
    Redirect(String),
    /// The bytes are not what was announced.
    Blob(BlobError),
    /// Something of ours failed: the source of an upload, the credentials.
    Local(String),
    /// The caller said stop.
    Cancelled,
}

/// A part of what servers say to plain http where https is spoken.
pub(super) const WANTS_HTTPS: &str = "HTTPS server";

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

impl Problem {
    pub(super) fn text(&self, registry: &str) -> String {
        match self {
            Self::Unreachable(reason) => format!(
                "{registry} cannot be reached ({reason}); check the name and the network, and list it among the insecure registries if it speaks plain http"
            ),
            Self::Stalled => format!("{registry} stopped answering; try again"),
            Self::Tls(reason) if reason.contains("certificate") => format!(
                "no secure connection to {registry} ({reason}); if its authority is one of your own, put that one's certificate \
                 into /etc/docker/certs.d/{registry}/ca.crt or ~/.docker/certs.d/{registry}/ca.crt"
            ),
            Self::Tls(reason) => format!(
                "no secure connection to {registry} ({reason}); if it speaks plain http, list it among the insecure registries"
            ),
            Self::LoginNeeded => {
                format!("{registry} wants a login; check the name, or run `docker login {registry}`")
            }
            Self::LoginRefused => {
                format!("{registry} refuses the stored login; run `docker login {registry}` again")
            }
            Self::Denied(words) => {
                format!("access denied{}; check the name and the rights of the login", said(words))
            }
            Self::NotFound => "there is no such thing; check the name".to_owned(),
            Self::Throttled => format!("{registry} wants fewer requests; try again later"),
            Self::Status(400, words) if words.contains(WANTS_HTTPS) => format!(
                "{registry} speaks https; put the certificate of its authority into /etc/docker/certs.d/{registry}/ca.crt or \
                 ~/.docker/certs.d/{registry}/ca.crt"
            ),
            Self::Status(status, words) => format!("the registry answered {status}{}", said(words)),
            Self::Broken(reason) => format!("the answer is not valid: {reason}"),
            Self::Redirect(reason) => format!("a redirect was not followed: {reason}"),
            Self::Blob(error) => error.to_string(),
            Self::Local(reason) => reason.clone(),
            Self::Cancelled => "cancelled".to_owned(),
        }
    }

    /// Whether the same request may well succeed later.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Stalled | Self::Throttled => true,
            Self::Status(status, _) => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(" (\"{words}\")") }
}

impl RegistryError {
    pub(super) fn new(repository: &Repository, action: impl Into<String>, problem: Problem) -> Self {
        let Repository { registry, name } = repository.clone();
        Self::Request(Box::new(Failure { registry, repository: name, action: action.into(), problem }))
    }

    /// Why it failed, if a request did.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Request(failure) => Some(&failure.problem),
            Self::Image(_) => None,
        }
    }

    /// As an I/O error, to travel through readers; [`RegistryError::from_io`] takes it out again.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// The error inside an I/O error, if that is what it is.
    pub fn from_io(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().cloned()
    }
}
