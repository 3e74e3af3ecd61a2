//! Registries: the port, a client for real ones, and whole images pushed and pulled.
//!
//! The client is our own because what makes it safe and restartable is not in a crate: `oci-client` 0.18 neither tries again
//! nor goes on where a download or upload broke off, sets no limit to a document, and brings an async runtime with it.
//!
//! | step | file |
//! |---|---|
//! | one request: where it may go, when it is tried again | [`http`](self), `http.rs` |
//! | what a registry asks for, tokens | `auth.rs`, `challenge.rs` |
//! | whom to trust at one registry | `certificates.rs` |
//! | users and passwords from Docker's files and helpers | [`DockerCredentials`] |
//! | the requests of the distribution API | [`Client`] |
//! | a download or upload that breaks off and goes on | `download.rs`, `upload.rs` |
//! | whole images | [`push`], [`pull`] |

mod auth;
mod certificates;
mod challenge;
mod client;
mod credentials;
mod download;
mod error;
mod http;
mod transfer;
mod upload;
mod web;

use std::io::{self, Read};

use quern_core::Digest;

use crate::document::{Descriptor, Document, media};
use crate::image::Source;
use crate::reference::Reference;

pub use challenge::{Challenge, challenges};
pub use client::Client;
pub use credentials::{Credentials, CredentialsError, DockerCredentials};
pub use error::{Failure, Problem, RegistryError};
pub use http::Options;
pub use transfer::{Progress, Pulled, Stage, Transfer, TransferError, pull, push};
pub use web::{FetchError, Fetched, Validators};

/// A repository: registry and path inside of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repository {
    /// Host and port.
    pub registry: String,
    /// The path, such as `library/debian`.
    pub name: String,
}

impl Repository {
    /// The repository of a reference.
    pub fn of(reference: &Reference) -> Self {
        Self { registry: reference.registry().to_owned(), name: reference.repository().to_owned() }
    }
}

/// Gives the bytes of a blob from their start, as often as asked.
pub type OpenBlob<'a> = &'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>;

/// Registries, as the rest of Quern sees them. Every call blocks and may be made from several threads at once.
///
/// Obligations: what is given has the digest and size asked for, or ends with an error; nothing is visible under a tag
/// before [`Registry::put_manifest`] returned.
pub trait Registry: Send + Sync {
    /// What a reference names now. Its digest wins over its tag.
    ///
    /// # Errors
    /// [`RegistryError`].
    fn resolve(&self, reference: &Reference) -> Result<Descriptor, RegistryError>;

    /// The bytes of an index or a manifest.
    ///
    /// # Errors
    /// [`RegistryError`].
    fn manifest(&self, repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError>;

    /// The bytes of a blob as a stream.
    ///
    /// # Errors
    /// [`RegistryError`]; later failures come out of the stream as an I/O error around one.
    fn blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Box<dyn Read + Send>, RegistryError>;

    /// Whether the repository has an index or a manifest.
    ///
    /// # Errors
    /// [`RegistryError`].
    fn has_manifest(&self, repository: &Repository, digest: &Digest) -> Result<bool, RegistryError>;

    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    fn has_blob(&self, repository: &Repository, digest: &Digest) -> Result<bool, RegistryError>;

    /// Makes a blob of another repository of the same registry one of this, without sending it; false if the registry
    /// does not want to.
    ///
    /// # Errors
    /// [`RegistryError`].
    fn mount(&self, repository: &Repository, digest: &Digest, from: &str) -> Result<bool, RegistryError>;

    /// Sends a blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    fn upload(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        open: OpenBlob<'_>,
    ) -> Result<(), RegistryError>;

    /// Sends an index or a manifest and points a tag to it, or none. Everything it names is there already.
    ///
    /// # Errors
    /// [`RegistryError`].
    fn put_manifest(
        &self,
        repository: &Repository,
        tag: Option<&str>,
        document: &Document,
    ) -> Result<(), RegistryError>;

    /// The tags of a repository.
    ///
    /// # Errors
    /// [`RegistryError`].
    fn tags(&self, repository: &Repository) -> Result<Vec<String>, RegistryError>;
}

/// A repository as a place of images.
pub struct Remote<'a> {
    /// Where.
    pub registry: &'a dyn Registry,
    /// Which.
    pub repository: Repository,
    /// Largest document that is read.
    pub document_limit: u64,
}

impl Source for Remote<'_> {
    type Error = RegistryError;

    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, RegistryError> {
        self.registry.blob(&self.repository, descriptor)
    }

    fn document(&self, descriptor: &Descriptor, what: &'static str) -> Result<Vec<u8>, RegistryError> {
        let limit = self.document_limit;
        let refuse = |problem| RegistryError::new(&self.repository, format!("reading {what}"), problem);
        if descriptor.size > limit {
            return Err(refuse(crate::blob::BlobError::TooLarge { what, limit }.into()));
        }
        if media::is_index(&descriptor.media_type) || media::is_manifest(&descriptor.media_type) {
            return self.registry.manifest(&self.repository, descriptor);
        }
        let mut bytes = Vec::new();
        let mut blob = self.registry.blob(&self.repository, descriptor)?;
        blob.read_to_end(&mut bytes).map_err(|error| {
            RegistryError::from_io(&error).unwrap_or_else(|| refuse(Problem::Broken(error.to_string())))
        })?;
        Ok(bytes)
    }
}
