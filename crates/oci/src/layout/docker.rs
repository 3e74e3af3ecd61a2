//! An archive as a place of files, and the form that `docker save` used before version 25: a list `manifest.json` of
//! configs and layers by path. Manifests are made for it, so that it reads like a layout.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use quern_core::{Digest, DigestWriter};
use serde::Deserialize;

use super::{LayoutError, invalid};
use crate::blob::BlobError;
use crate::document::{self, Descriptor, Document, Index, InvalidDocument, Manifest, REF_NAME, media};
use crate::limits::Limits;
use crate::path::LayerPath;

/// A tar archive whose members have been found.
pub(super) struct Archive {
    pub file: File,
    /// Path in the archive to first byte and length. Links have been followed.
    pub members: BTreeMap<Vec<u8>, (u64, u64)>,
    /// Files that are not in the archive but were made for it.
    pub made: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// One image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Archive {
    /// Whether it is of the old form and no layout.
    pub fn is_docker(&self) -> bool {
        self.members.contains_key(b"manifest.json".as_slice())
            && !self.members.contains_key(b"oci-layout".as_slice())
    }

    /// A file with its size; none if there is none.
    pub fn open(&self, name: &[u8]) -> io::Result<Option<(Box<dyn Read + Send>, u64)>> {
        if let Some(bytes) = self.made.get(name) {
            return Ok(Some((Box::new(Cursor::new(bytes.clone())), bytes.len() as u64)));
        }
        let Some((start, length)) = self.members.get(name).copied() else { return Ok(None) };
        let source = Section { file: self.file.try_clone()?, at: start, end: start + length };
        Ok(Some((Box::new(source), length)))
    }

    /// Makes the manifests and the index.
    pub fn index(&mut self, path: &Path, limits: &Limits) -> Result<Index, LayoutError> {
        let list = self.small("manifest.json", path, limits)?;
        let list: Vec<Saved> = serde_json::from_slice(&list)
            .map_err(|error| invalid("list of images", &list, InvalidDocument::Json(error.to_string())))?;
        if list.len() > limits.documents {
            return Err(not_docker(path, "`manifest.json` names too many images".to_owned()));
        }
        let mut manifests = Vec::new();
        for saved in list {
            let manifest = self.manifest(&saved, path, limits)?;
            let tags = saved.repo_tags.unwrap_or_default();
            manifests.extend(tags.iter().map(|tag| {
                let annotations = BTreeMap::from([(REF_NAME.to_owned(), tag.clone())]);
                Descriptor { annotations, ..manifest.clone() }
            }));
            if tags.is_empty() {
                manifests.push(manifest);
            }
        }
        Ok(Index { schema_version: 2, media_type: None, manifests, annotations: BTreeMap::new() })
    }

    fn manifest(&mut self, saved: &Saved, path: &Path, limits: &Limits) -> Result<Descriptor, LayoutError> {
        let bytes = self.small(&saved.config, path, limits)?;
        let config = document::config(&bytes).map_err(|problem| invalid("config", &bytes, problem))?;
        let paths = saved.layers.as_deref().unwrap_or_default();
        let diff_ids = &config.rootfs.diff_ids;
        if paths.len() != diff_ids.len() || paths.len() > limits.layers {
            let counts = format!("{} layers, its config {}", paths.len(), diff_ids.len());
            return Err(not_docker(path, format!("an image has {counts}")));
        }
        let layers = paths.iter().zip(diff_ids).map(|(layer, diff_id)| self.layer(layer, *diff_id, path));
        let layers = layers.collect::<Result<_, _>>()?;
        let config = Document::of(media::CONFIG, bytes);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media::MANIFEST.to_owned()),
            config: config.descriptor.clone(),
            layers,
            annotations: BTreeMap::new(),
        };
        let manifest = Document::json(media::MANIFEST, &manifest);
        for made in [config, manifest.clone()] {
            self.made.insert(blob_name(&made.descriptor.digest), made.bytes);
        }
        Ok(manifest.descriptor)
    }

    /// A plain layer has its diff id as digest, which is compared when it is read; of a compressed one the digest must be
    /// computed.
    fn layer(&mut self, layer: &str, diff_id: Digest, path: &Path) -> Result<Descriptor, LayoutError> {
        let io_error = |source| LayoutError::Io { path: path.join(layer), source };
        let place = self.place(layer, path)?;
        let open = || {
            Ok::<_, io::Error>(Section { file: self.file.try_clone()?, at: place.0, end: place.0 + place.1 })
        };
        let mut start = Vec::new();
        open().and_then(|section| section.take(4).read_to_end(&mut start)).map_err(io_error)?;
        let media_type = match start.as_slice() {
            [0x1f, 0x8b, ..] => media::LAYER_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd] => media::LAYER_ZSTD,
            _ => media::LAYER,
        };
        let digest = if media_type == media::LAYER {
            diff_id
        } else {
            let mut writer = DigestWriter::new();
            open().and_then(|mut section| io::copy(&mut section, &mut writer)).map_err(io_error)?;
            writer.finish()
        };
        self.members.insert(blob_name(&digest), place);
        Ok(Descriptor::new(media_type, digest, place.1))
    }

    fn place(&self, name: &str, path: &Path) -> Result<(u64, u64), LayoutError> {
        LayerPath::parse(name.as_bytes())
            .ok()
            .and_then(|name| self.members.get(name.as_bytes()).copied())
            .ok_or_else(|| not_docker(path, format!("it has no `{}`", name.escape_debug())))
    }

    fn small(&self, name: &str, path: &Path, limits: &Limits) -> Result<Vec<u8>, LayoutError> {
        let (start, length) = self.place(name, path)?;
        let limit = limits.document;
        if length > limit {
            return Err(BlobError::TooLarge { what: "a document", limit }.into());
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let io_error = |source| LayoutError::Io { path: path.join(name), source };
        self.file.read_exact_at(&mut bytes, start).map_err(io_error)?;
        Ok(bytes)
    }
}

fn blob_name(digest: &Digest) -> Vec<u8> {
    format!("blobs/sha256/{}", digest.hex()).into_bytes()
}

fn not_docker(path: &Path, reason: String) -> LayoutError {
    LayoutError::NotALayout { path: path.to_owned(), reason }
}

/// A part of a file.
struct Section {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
