//! One image in a place that holds many: found by platform, checked, and followed to every blob it consists of.

mod choose;
mod contents;

use std::io::Read;

use quern_core::Digest;
use quern_core::port::{Blobs, PortError};

use crate::blob::{Blob, BlobError};
use crate::document::{Descriptor, ImageConfig, InvalidDocument};
use crate::unpack::chain_id;

pub use choose::choose;
pub use contents::{Contents, contents};

/// One image, read and checked; its layers are not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What names the manifest.
    pub manifest: Descriptor,
    /// What names the config.
    pub config_document: Descriptor,
    /// The config.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

/// A layer as it is stored, and what it unpacks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the plain tar stream.
    pub diff_id: Digest,
}

impl Image {
    /// Digest of the config, which Docker calls the id of the image.
    pub fn id(&self) -> Digest {
        self.config_document.digest
    }

    /// What identifies the root file system, however its layers are compressed: the chain id of the topmost layer, or
    /// the digest of nothing for an image without layers.
    pub fn chain_id(&self) -> Digest {
        chain_id(self.layers.iter().map(|layer| layer.diff_id)).unwrap_or_else(|| Digest::of(b""))
    }
}

/// Why the documents of an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageProblem {
    /// No image for the platform.
    #[error("the image is not made for {wanted}, only for {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    NoSuchPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A document that is not what it should be.
    #[error("{what} {digest} is not valid: {problem}")]
    Document {
        /// Index, manifest or config.
        what: &'static str,
        /// Which.
        digest: Digest,
        /// Why.
        problem: InvalidDocument,
    },
    /// Documents that do not fit together or exceed a limit.
    #[error("the image {digest} is not valid: {reason}")]
    Image {
        /// Manifest or index.
        digest: Digest,
        /// Why.
        reason: String,
    },
}

/// A place that images are read from: a layout, the store, a repository of a registry.
pub trait Source: Sync {
    /// Why a blob cannot be had.
    type Error: std::error::Error + Send + From<ImageProblem>;

    /// The bytes of a blob. The stream ends with an error if they are not those of the descriptor.
    ///
    /// # Errors
    /// Those of the place.
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Self::Error>;

    /// All bytes of an index, a manifest or a config, checked, and never more than a few MiB; `what` is for messages.
    ///
    /// # Errors
    /// Those of the place.
    fn document(&self, descriptor: &Descriptor, what: &'static str) -> Result<Vec<u8>, Self::Error>;
}

/// The store as a place of images.
pub struct Stored<'a> {
    /// Where the blobs are.
    pub blobs: &'a dyn Blobs,
    /// Largest document that is read.
    pub document_limit: u64,
}

/// Why an image cannot be read from the store.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
    /// The documents cannot be used.
    #[error(transparent)]
    Image(#[from] ImageProblem),
    /// A blob is not what a document announced.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl Source for Stored<'_> {
    type Error = StoredError;

    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, StoredError> {
        Ok(Box::new(Blob::new(self.blobs.open(&descriptor.digest)?, descriptor)))
    }

    fn document(&self, descriptor: &Descriptor, what: &'static str) -> Result<Vec<u8>, StoredError> {
        let limit = self.document_limit;
        if descriptor.size > limit {
            return Err(BlobError::TooLarge { what, limit }.into());
        }
        let mut bytes = Vec::new();
        self.open(descriptor)?.read_to_end(&mut bytes).map_err(|source| {
            match BlobError::from_io(&source) {
                Some(error) => StoredError::Blob(error),
                None => PortError::io(format!("reading {what} {}", descriptor.digest), source).into(),
            }
        })?;
        Ok(bytes)
    }
}
