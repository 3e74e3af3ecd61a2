//! Images for others: layers as blobs, manifests, archives.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZero;

use quern_core::port::{self, Layers as _, PortError};
use quern_core::step::Platform;
use quern_core::{ContentRef, Digest, Version};
use quern_oci::Limits;
use quern_oci::document::{Descriptor, Document, Format, Manifest};
use quern_oci::image::{Layer, Stored};
use quern_oci::layer::{Codec, Compression};
use quern_oci::save::{Archived, Entry, save};

use super::pack::{PackError, pack};
use super::records::{self, ImageLayer, ImageRecord};
use super::store::{ImageError, ImageStore, KnownImage, times};
use crate::snapshot::Snapshot;

/// How an image is written.
#[derive(Debug, Clone)]
pub struct Form {
    /// Whose media types.
    pub format: Format,
    /// How layers that were made here are compressed; others stay as they came unless `recompress` says so.
    pub codec: Codec,
    /// The level; the codec's usual one if absent.
    pub level: Option<i32>,
    /// Compress layers anew that came from elsewhere.
    pub recompress: bool,
    /// Notes in the manifest.
    pub annotations: BTreeMap<String, String>,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            format: Format::Oci,
            codec: Codec::Gzip,
            level: None,
            recompress: false,
            annotations: BTreeMap::new(),
        }
    }
}

impl ImageStore {
    /// The manifest of an image, with every blob it names in the store.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn manifest(&self, image: &KnownImage, form: &Form) -> Result<Document, ImageError> {
        let layers = self.layer_blobs(&image.record, form)?;
        let config =
            ContentRef { digest: image.record.id, size: self.blobs.get(&image.record.id)?.len() as u64 };
        let typed = |blob: Descriptor| {
            let media_type = form.format.layer(&blob.media_type).to_owned();
            Descriptor { media_type, platform: None, ..blob }
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(form.format.manifest().to_owned()),
            config: Descriptor::new(form.format.config(), config.digest, config.size),
            layers: layers.into_iter().map(typed).collect(),
            annotations: form.annotations.clone(),
        };
        let mut document = Document::json(form.format.manifest(), &manifest);
        document.descriptor.platform = Some(image.config.platform.clone());
        self.blobs.put(&document.bytes)?;
        Ok(document)
    }

    /// A blob for each image layer of a snapshot, dated by an epoch or not, made now where there is none.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn blobs_of(
        &self,
        snapshot: &Snapshot,
        epoch: Option<i64>,
        form: &Form,
    ) -> Result<Vec<Layer>, ImageError> {
        let described =
            self.describe(snapshot.layers(), epoch).map_err(|error| ImageError::Pack(Box::new(error)))?;
        let diff_ids: Vec<Digest> = described.into_iter().flat_map(|layer| layer.diff_ids).collect();
        let layers = diff_ids.iter().map(|diff_id| ImageLayer { diff_id: *diff_id, blob: None }).collect();
        let (id, since) = (Digest::of(b""), self.clock.now());
        let snapshot = Some(snapshot.layers().to_vec());
        let (manifest, origin, family) = (None, None, None);
        let record =
            ImageRecord { format: Version, id, manifest, layers, snapshot, epoch, origin, family, since };
        let blobs = self.layer_blobs(&record, form)?;
        Ok(blobs
            .into_iter()
            .zip(diff_ids)
            .map(|(descriptor, diff_id)| Layer { descriptor, diff_id })
            .collect())
    }

    /// A blob for each layer, made now where there is none, several at a time.
    fn layer_blobs(&self, image: &ImageRecord, form: &Form) -> Result<Vec<Descriptor>, ImageError> {
        let on_disk = self.made_here(image)?;
        let mut blobs = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            blobs.push(match (self.fitting_blob(layer, form), on_disk.get(&layer.diff_id)) {
                (Ok(Some(blob)), _) => blob,
                (Err(error), _) => return Err(error),
                (Ok(None), Some(id)) => self.pack_layer(id, &layer.diff_id, image.epoch, form)?,
                (Ok(None), None) => self.blob_of(layer)?,
            });
        }
        Ok(blobs)
    }

    /// A blob of a layer that is here and compressed as it should be.
    fn fitting_blob(&self, layer: &ImageLayer, form: &Form) -> Result<Option<Descriptor>, ImageError> {
        let came = layer.blob.iter().filter(|_| !form.recompress).cloned();
        let known = port::read(&*self.meta, |r| records::layer_blobs(r, &layer.diff_id))?;
        let wanted = form.codec.media_type();
        for blob in came.chain(known.into_iter().filter(|blob| blob.media_type == wanted)) {
            if self.blobs.contains(&blob.digest)? {
                return Ok(Some(blob));
            }
        }
        Ok(None)
    }

    /// The layers on disk that were made by steps, by diff id.
    fn made_here(&self, image: &ImageRecord) -> Result<BTreeMap<Digest, Digest>, ImageError> {
        let Some(layers) = &image.snapshot else { return Ok(BTreeMap::new()) };
        let described = self.describe(layers, image.epoch).map_err(|error| match error {
            PackError::Store(error) => ImageError::Store(error),
            error => ImageError::Pack(Box::new(error)),
        })?;
        let single = described.iter().zip(layers).filter(|(record, _)| !record.is_base);
        Ok(single.map(|(record, id)| (record.diff_ids[0], *id)).collect())
    }

    /// Packs a layer into the store.
    fn pack_layer(
        &self,
        id: &Digest,
        diff_id: &Digest,
        epoch: Option<i64>,
        form: &Form,
    ) -> Result<Descriptor, ImageError> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        let compression =
            Compression::new(form.codec, form.level, threads).map_err(ImageError::Compression)?;
        let _open = self.layers.open(&[*id])?;
        let failed = |error| PortError::io("making a pipe", error);
        let (mut reader, writer) = std::io::pipe().map_err(failed)?;
        let (packed, stored) = std::thread::scope(|scope| {
            // The writer is dropped where it ends, or the reader would wait for more.
            let packing = scope.spawn(move || {
                pack(&self.layers, id, times(epoch), compression, writer).map(|(layer, _)| layer)
            });
            let stored = self.blobs.put_stream(&mut reader);
            // A writer must not wait for a reader that gave up.
            drop(reader);
            (packing.join(), stored)
        });
        let layer = match packed {
            Ok(packed) => packed.map_err(|error| ImageError::Pack(Box::new(error)))?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let stored = stored?;
        if layer.diff_id != *diff_id || stored.digest != layer.descriptor.digest {
            return Err(ImageError::Changed(*id));
        }
        self.blobs.sync()?;
        port::write(&*self.meta, |w| records::add_layer_blob(w, diff_id, &layer.descriptor))?;
        Ok(layer.descriptor)
    }

    /// Writes images as one archive: each with its manifest and the names it has there.
    ///
    /// # Errors
    /// [`ImageError::Write`].
    pub fn save<W: Write>(
        &self,
        images: &[Entry],
        docker: Option<Platform>,
        out: W,
    ) -> Result<W, ImageError> {
        let kind = docker.map_or(Archived::Oci, Archived::Docker);
        let limits = Limits::default();
        let stored = Stored { blobs: &*self.blobs, document_limit: limits.document };
        save(&stored, images, &kind, out, &limits).map_err(|error| ImageError::Write(error.to_string()))
    }
}
