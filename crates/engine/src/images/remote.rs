//! Images of registries.

use quern_core::Version;
use quern_core::step::Platform;
use quern_oci::image::Stored;
use quern_oci::registry::{Transfer, pull, push};
use quern_oci::{Limits, Reference};

use super::records::{ImageLayer, ImageRecord};
use super::store::{ImageError, ImageStore, KnownImage};
use super::write::Form;

impl ImageStore {
    /// Pulls an image and records it under its name. What is here already is not fetched again.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        transfer: &Transfer<'_>,
    ) -> Result<KnownImage, ImageError> {
        let pulled = pull(&*self.registry, reference, platform, &*self.blobs, transfer)?;
        let layer = |layer: &quern_oci::image::Layer| ImageLayer {
            diff_id: layer.diff_id,
            blob: Some(layer.descriptor.clone()),
        };
        let [manifest, _] = &pulled.image.documents;
        let record = ImageRecord {
            format: Version,
            id: pulled.image.id,
            manifest: Some(manifest.clone()),
            layers: pulled.image.layers.iter().map(layer).collect(),
            snapshot: None,
            epoch: None,
            origin: Some(format!(
                "{}/{}@{}",
                reference.registry(),
                reference.repository(),
                pulled.root.digest
            )),
            since: self.clock.now(),
        };
        self.note_blobs(&record.layers)?;
        self.put(&[reference.to_string()], &record)?;
        self.with_config(record)
    }

    /// Uploads an image under a name. One that came from elsewhere keeps its manifest.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn push(
        &self,
        image: &KnownImage,
        form: &Form,
        reference: &Reference,
        transfer: &Transfer<'_>,
    ) -> Result<quern_oci::Descriptor, ImageError> {
        let root = match &image.record.manifest {
            Some(manifest) if self.blobs.contains(&manifest.digest)? => manifest.clone(),
            _ => self.manifest(image, form)?.descriptor,
        };
        let limits = Limits::default();
        let stored = Stored { blobs: &*self.blobs, document_limit: limits.document };
        push(&*self.registry, &stored, &root, reference, transfer)?;
        Ok(root)
    }
}
