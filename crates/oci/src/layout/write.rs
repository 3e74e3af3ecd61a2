//! Making an image layout.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quern_core::Digest;

use crate::document::{Descriptor, ImageConfig, Index, Manifest, REF_NAME, media};

/// A layout directory under construction. It is complete after each [`LayoutWriter::tag`].
pub struct LayoutWriter {
    folder: PathBuf,
    index: Index,
}

impl LayoutWriter {
    /// Starts a layout in a directory, which is made if need be.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256"))?;
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let media_type = Some(media::INDEX.to_owned());
        let index =
            Index { schema_version: 2, media_type, manifests: Vec::new(), annotations: BTreeMap::new() };
        let writer = Self { folder: folder.to_owned(), index };
        writer.write_index()?;
        Ok(writer)
    }

    /// Keeps a blob.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> io::Result<Descriptor> {
        let digest = Digest::of(bytes);
        let place = self.folder.join("blobs/sha256").join(digest.hex());
        let partial = place.with_extension("partial");
        fs::write(&partial, bytes)?;
        fs::rename(&partial, &place)?;
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    }

    /// Keeps a manifest of layers kept before. The config must name the digests of the unpacked layers.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn manifest(&self, config: &ImageConfig, layers: Vec<Descriptor>) -> io::Result<Descriptor> {
        let bytes = serde_json::to_vec(config).expect("a config has only text keys");
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media::MANIFEST.to_owned()),
            config: self.blob(media::CONFIG, &bytes)?,
            layers,
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&manifest).expect("a manifest has only text keys");
        let descriptor = self.blob(media::MANIFEST, &bytes)?;
        Ok(Descriptor { platform: Some(config.platform.clone()), ..descriptor })
    }

    /// Keeps an index of manifests kept before.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn index(&self, manifests: Vec<Descriptor>) -> io::Result<Descriptor> {
        let index = Index { manifests, annotations: BTreeMap::new(), ..self.index.clone() };
        let bytes = serde_json::to_vec(&index).expect("an index has only text keys");
        self.blob(media::INDEX, &bytes)
    }

    /// Makes a manifest or an index findable under a tag, which is taken from whatever had it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn tag(&mut self, tag: &str, mut descriptor: Descriptor) -> io::Result<()> {
        self.index.manifests.retain(|entry| entry.annotations.get(REF_NAME).is_none_or(|name| name != tag));
        descriptor.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        self.index.manifests.push(descriptor);
        self.write_index()
    }

    fn write_index(&self) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self.index).expect("an index has only text keys");
        let partial = self.folder.join("index.json.partial");
        fs::write(&partial, bytes)?;
        fs::rename(partial, self.folder.join("index.json"))
    }
}
