//! Cache chains as `application/vnd.buildkit.cacheconfig.v0`, in an OCI layout or a registry.
//!
//! [`CacheChains`] takes an export in and writes the configuration: which layers there are, and which
//! keys lead to them. Equal content gives equal bytes, whatever the order it was exported in. Time and
//! space are linear in the number of links; rings, which only merged alternatives can form, are cut in
//! one walk at the end instead of being searched for at every addition.

mod chains;
mod format;
mod import;
mod layout;
mod rings;
mod time;

use std::collections::BTreeMap;

use quern_core::Digest;

pub use chains::CacheChains;
pub use import::{ImportedCache, LayerLoader, import_cache};
pub use layout::LayoutFolder;

use crate::error::CacheError;
use crate::export::Descriptor;

/// The media type of the configuration.
pub(crate) const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Why a cache configuration cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CacheConfigError {
    /// There is nothing under this name.
    #[error("no cache is stored under `{0}`")]
    NotFound(String),
    /// A manifest or configuration is not what it should be.
    #[error("the {what} of the cache is malformed: {why}")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A blob is not what its digest says.
    #[error("blob {0} has other content than its digest says")]
    WrongContent(Digest),
    /// A record names one that does not exist.
    #[error("input {input} of record {record} is record {link}, which does not exist")]
    UnknownRecord {
        /// The record.
        record: usize,
        /// Its input.
        input: usize,
        /// What it names.
        link: usize,
    },
    /// A record or layer names a layer that does not exist.
    #[error("{whose} {number} names layer {layer}, which does not exist")]
    UnknownLayer {
        /// "record" or "layer".
        whose: &'static str,
        /// Its number.
        number: usize,
        /// What it names.
        layer: i64,
    },
    /// Records or layers follow from each other in a ring.
    #[error("{what} {chain:?} follow from each other in a ring")]
    Loop {
        /// "records" or "layers".
        what: &'static str,
        /// The ring, by number.
        chain: Vec<usize>,
    },
    /// The place the cache is stored in failed.
    #[error(transparent)]
    Blobs(#[from] CacheError),
}

/// A place for cache blobs: a folder, a registry.
pub trait CacheBlobs: Send + Sync {
    /// True if the blob is there.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if that cannot be told.
    fn has(&self, digest: &Digest) -> Result<bool, CacheError>;

    /// The bytes of a blob.
    ///
    /// # Errors
    /// [`CacheError::NotFound`] if it is not there.
    fn read(&self, digest: &Digest) -> Result<Vec<u8>, CacheError>;

    /// Stores a blob.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if that fails.
    fn write(&self, digest: &Digest, bytes: &[u8]) -> Result<(), CacheError>;

    /// The manifest under a name.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if that cannot be told.
    fn manifest(&self, name: &str) -> Result<Option<Descriptor>, CacheError>;

    /// Puts a manifest, written before, under a name.
    ///
    /// # Errors
    /// [`CacheError::Storage`] if that fails.
    fn publish(&self, name: &str, manifest: &Descriptor) -> Result<(), CacheError>;
}

/// Stores chains under a name: first the layers that are not there yet, whose bytes `layer` gives,
/// then the configuration, then the manifest. Returns the manifest.
///
/// # Errors
/// [`CacheConfigError`] if the place fails or a layer cannot be had.
pub fn export_cache(
    chains: &CacheChains,
    blobs: &dyn CacheBlobs,
    name: &str,
    layer: &dyn Fn(&Descriptor) -> Result<Vec<u8>, CacheError>,
) -> Result<Descriptor, CacheConfigError> {
    let (config, layers) = chains.marshal();
    for descriptor in &layers {
        if !blobs.has(&descriptor.digest)? {
            let bytes = layer(descriptor)?;
            if Digest::of(&bytes) != descriptor.digest {
                return Err(CacheConfigError::WrongContent(descriptor.digest));
            }
            blobs.write(&descriptor.digest, &bytes)?;
        }
    }
    let config = write_blob(blobs, CONFIG_TYPE, &config)?;
    let manifest = format::manifest(&config, &layers);
    let manifest = write_blob(blobs, MANIFEST_TYPE, &manifest)?;
    blobs.publish(name, &manifest)?;
    Ok(manifest)
}

fn write_blob(blobs: &dyn CacheBlobs, media_type: &str, bytes: &[u8]) -> Result<Descriptor, CacheError> {
    let digest = Digest::of(bytes);
    if !blobs.has(&digest)? {
        blobs.write(&digest, bytes)?;
    }
    let (media_type, size) = (media_type.to_owned(), bytes.len() as u64);
    Ok(Descriptor { media_type, digest, size, annotations: BTreeMap::new() })
}
