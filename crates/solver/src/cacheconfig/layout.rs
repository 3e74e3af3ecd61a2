//! An OCI layout as a place for caches.

use std::io;
use std::path::{Path, PathBuf};

use quern_core::Digest;
use serde::{Deserialize, Serialize};

use crate::error::CacheError;
use crate::export::Descriptor;

use super::CacheBlobs;
use super::format::{WireDescriptor, json};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A folder with `oci-layout`, `index.json` and `blobs/sha256/`.
pub struct LayoutFolder(PathBuf);

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    manifests: Vec<WireDescriptor>,
}

impl LayoutFolder {
    /// Uses a folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }

    fn index(&self) -> Result<Index, CacheError> {
        let path = self.0.join("index.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| CacheError::Inconsistent(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(at(&path, &error)),
        }
    }
}

fn at(path: &Path, error: &io::Error) -> CacheError {
    CacheError::storage(format!("{}: {error}", path.display()))
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| at(folder, &error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|error| at(path, &error))
}

impl CacheBlobs for LayoutFolder {
    fn has(&self, digest: &Digest) -> Result<bool, CacheError> {
        let path = self.blob(digest);
        path.try_exists().map_err(|error| at(&path, &error))
    }

    fn read(&self, digest: &Digest) -> Result<Vec<u8>, CacheError> {
        let path = self.blob(digest);
        std::fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CacheError::NotFound,
            _ => at(&path, &error),
        })
    }

    fn write(&self, digest: &Digest, bytes: &[u8]) -> Result<(), CacheError> {
        write_whole(&self.blob(digest), bytes)
    }

    fn manifest(&self, name: &str) -> Result<Option<Descriptor>, CacheError> {
        let named = |d: &WireDescriptor| d.annotations.get(REF_NAME).is_some_and(|n| n == name);
        Ok(self.index()?.manifests.into_iter().find(named).map(Descriptor::from))
    }

    fn publish(&self, name: &str, manifest: &Descriptor) -> Result<(), CacheError> {
        let mut index = self.index()?;
        index.schema_version = 2;
        index.manifests.retain(|d| d.annotations.get(REF_NAME).is_none_or(|n| n != name));
        let mut entry = WireDescriptor::from(manifest);
        entry.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        index.manifests.push(entry);
        write_whole(&self.0.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        write_whole(&self.0.join("index.json"), &json(&index))
    }
}
