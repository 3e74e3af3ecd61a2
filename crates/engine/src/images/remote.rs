//! Images of registries.

use std::collections::BTreeMap;

use quern_core::port::{self, PortError};
use quern_core::step::Platform;
use quern_core::{Digest, Version};
use quern_oci::registry::{Transfer, pull, push};
use quern_oci::{Descriptor, Reference};

use super::records::{self, ImageLayer, ImageRecord};
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
        let record = self.fetch(reference, platform, transfer)?;
        self.put(&[reference.to_string()], &record)?;
        self.with_config(record)
    }

    /// The image for a platform that belongs to one that is known: of the same index of a registry, or made by the same build.
    pub(super) fn sibling(
        &self,
        known: &KnownImage,
        platform: &Platform,
    ) -> Result<Option<KnownImage>, ImageError> {
        let ImageRecord { origin, family, .. } = &known.record;
        let mut best: Option<(u32, KnownImage)> = None;
        for (_, record) in port::read(&*self.meta, |r| records::images(r))? {
            let same_index = origin.is_some() && record.origin == *origin;
            if !same_index && (family.is_none() || record.family != *family) {
                continue;
            }
            let image = self.with_config(record)?;
            // Its registry may have one that fits better.
            let distance = image.config.platform.distance(platform).filter(|it| *it == 0 || !same_index);
            if let Some(distance) = distance
                && best.as_ref().is_none_or(|(least, _)| distance < *least)
            {
                best = Some((distance, image));
            }
        }
        Ok(best.map(|(_, image)| image))
    }

    /// Pulls the image of a platform, where `known` is what the name stands for here. If both are of one index, the name goes on
    /// standing for that of this machine's platform; the other can be found by its id.
    pub(super) fn pull_beside(
        &self,
        known: Option<&KnownImage>,
        reference: &Reference,
        platform: &Platform,
        transfer: &Transfer<'_>,
    ) -> Result<KnownImage, ImageError> {
        let record = self.fetch(reference, platform, transfer)?;
        let keeps_name = known.is_some_and(|known| {
            known.record.origin == record.origin && known.config.platform.satisfies(&Platform::current())
        });
        let names = if keeps_name { Vec::new() } else { vec![reference.to_string()] };
        self.put(&names, &record)?;
        self.with_config(record)
    }

    fn fetch(
        &self,
        reference: &Reference,
        platform: &Platform,
        transfer: &Transfer<'_>,
    ) -> Result<ImageRecord, ImageError> {
        let pulled = pull(&*self.registry, reference, platform, &*self.blobs, transfer)?;
        let layer = |layer: &quern_oci::image::Layer| ImageLayer {
            diff_id: layer.diff_id,
            blob: Some(layer.descriptor.clone()),
        };
        let record = ImageRecord {
            format: Version,
            id: pulled.image.id(),
            manifest: Some(pulled.image.manifest.clone()),
            layers: pulled.image.layers.iter().map(layer).collect(),
            snapshot: None,
            epoch: None,
            family: None,
            origin: Some(format!(
                "{}/{}@{}",
                reference.registry(),
                reference.repository(),
                pulled.root.digest
            )),
            since: self.clock.now(),
        };
        self.note_blobs(&record.layers)?;
        Ok(record)
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
    ) -> Result<Descriptor, ImageError> {
        let root = self.root(image, form)?;
        self.push_root(&root, reference, transfer)?;
        Ok(root)
    }

    /// Uploads a manifest or an index with everything it names, which is in the store.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn push_root(
        &self,
        root: &Descriptor,
        reference: &Reference,
        transfer: &Transfer<'_>,
    ) -> Result<(), ImageError> {
        let homes = self.homes(reference)?;
        let mounts = |blob: &Digest| homes.get(blob).cloned().unwrap_or_default();
        let Transfer { parallel, limits, progress, cancel, .. } = transfer;
        let (limits, cancel) = (limits.clone(), cancel.clone());
        let transfer = Transfer { parallel: *parallel, limits, progress, mounts: &mounts, cancel };
        Ok(push(&*self.registry, &self.stored(), root, reference, &transfer)?)
    }

    /// Repositories of the same registry from which images with these blobs came, so that they need not be sent.
    fn homes(&self, reference: &Reference) -> Result<BTreeMap<Digest, Vec<String>>, PortError> {
        let mut homes: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for (_, image) in port::read(&*self.meta, |r| records::images(r))? {
            let origin = image.origin.as_ref().and_then(|origin| origin.parse::<Reference>().ok());
            let Some(origin) = origin.filter(|origin| origin.registry() == reference.registry()) else {
                continue;
            };
            for blob in image.layers.iter().filter_map(|layer| layer.blob.as_ref()) {
                let known = homes.entry(blob.digest).or_default();
                if known.iter().all(|name| name != origin.repository()) {
                    known.push(origin.repository().to_owned());
                }
            }
        }
        Ok(homes)
    }

    /// The manifest by which an image came, or one made now.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn root(&self, image: &KnownImage, form: &Form) -> Result<Descriptor, ImageError> {
        match &image.record.manifest {
            Some(manifest) if self.blobs.contains(&manifest.digest)? => Ok(manifest.clone()),
            _ => Ok(self.manifest(image, form)?.descriptor),
        }
    }
}
