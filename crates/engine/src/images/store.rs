//! The images this machine keeps: found by name, taken in from elsewhere, put on disk as layers.
//!
//! An image is a record ([`super::records`]), a config (a blob) and layers. Each layer is on disk (made here by a step), a blob
//! (pulled or loaded), or both; one is made from the other when it is needed and not before.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use quern_core::port::{self, Blobs, Cancel, Clock, Layers as _, Meta, PortError};
use quern_core::step::Platform;
use quern_core::{Digest, DigestWriter, Version};
use quern_exec::Rights;
use quern_oci::archive::ArchiveError;
use quern_oci::blob::{Blob, BlobError};
use quern_oci::document::{self, Descriptor, Document, ImageConfig, InvalidDocument};
use quern_oci::image::{Image, ImageProblem, Source, Stored, StoredError};
use quern_oci::layer::{InvalidCompression, LayerReader};
use quern_oci::registry::{Registry, RegistryError, Transfer, TransferError};
use quern_oci::unpack::{UnpackError, Unpacker, chain_id};
use quern_oci::{InvalidReference, Layout, LayoutError, Limits, Reference, UnpackOptions};
use quern_store::layers::{LayerStore, ObtainError, Times};

use super::name::ImageName;
use super::pack::{PackError, measure_all};
use super::records::{self, ImageLayer, ImageRecord, LayerRecord};
use crate::snapshot::Snapshot;

/// Keeps images.
pub struct ImageStore {
    pub(super) meta: Arc<dyn Meta>,
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) layers: Arc<LayerStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) registry: Arc<dyn Registry>,
    limits: Limits,
}

/// An image with its config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownImage {
    /// What is recorded of it.
    pub record: ImageRecord,
    /// Its config.
    pub config: ImageConfig,
}

/// Whether a name that is known here is looked up elsewhere all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freshness {
    /// What is known is good enough.
    #[default]
    Known,
    /// Where the name comes from is asked.
    Newest,
}

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A text that names no image.
    #[error(transparent)]
    Name(InvalidReference),
    /// Nobody knows it.
    #[error("there is no image `{0}` here; `quern image ls` lists what there is")]
    Unknown(String),
    /// The start of several ids.
    #[error("several images have ids that start with `{0}`; write more of it")]
    SeveralIds(String),
    /// An id whose names would all go.
    #[error("image {id} has several names ({}); remove them one by one, or all with --force", names.join(", "))]
    SeveralNames {
        /// Which image.
        id: Digest,
        /// What it is called.
        names: Vec<String>,
    },
    /// A new name must be free to stand for anything.
    #[error("`{0}` has a digest, which cannot be given to an image; write NAME[:TAG]")]
    Digested(String),
    /// It is for something else.
    #[error("`{name}` is an image for {found}, not for {wanted}")]
    Platform {
        /// Its name.
        name: String,
        /// What it is for.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// A layer is neither on disk nor a blob, and nobody says where to get it.
    #[error("layer {0} of the image is gone; pull, load or build the image again")]
    Gone(Digest),
    /// A layout that cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Its documents do not fit together.
    #[error(transparent)]
    Problem(#[from] ImageProblem),
    /// Its config cannot be read.
    #[error("the config of the image is not valid: {0}")]
    Config(#[from] InvalidDocument),
    /// A blob is not what was announced.
    #[error(transparent)]
    Blob(BlobError),
    /// It cannot be unpacked.
    #[error("the image cannot be unpacked: {0}")]
    Unpack(#[from] UnpackError),
    /// A registry did not do what was asked.
    #[error(transparent)]
    Registry(#[from] TransferError),
    /// What the store has of it is not whole.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// A layer cannot be packed.
    #[error(transparent)]
    Pack(Box<PackError>),
    /// A layer on disk is not what it was when it was measured.
    #[error("layer {0} changed on disk; run `quern prune --all` and build the image again")]
    Changed(Digest),
    /// A compression level that does not exist.
    #[error(transparent)]
    Compression(InvalidCompression),
    /// It could not be written.
    #[error("{0}")]
    Write(String),
    /// Somebody said stop.
    #[error("cancelled")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

impl ImageStore {
    /// Images over these ports.
    pub fn new(
        meta: Arc<dyn Meta>,
        blobs: Arc<dyn Blobs>,
        layers: Arc<LayerStore>,
        clock: Arc<dyn Clock>,
        registry: Arc<dyn Registry>,
    ) -> Self {
        Self { meta, blobs, layers, clock, registry, limits: Limits::default() }
    }

    /// Where layers are.
    pub fn layers(&self) -> &Arc<LayerStore> {
        &self.layers
    }

    /// The image of a name (complete, as [`Reference`] prints it) or of an id, if this machine has it.
    ///
    /// # Errors
    /// [`ImageError::Store`], [`ImageError::Config`].
    pub fn find(&self, name: &str) -> Result<Option<KnownImage>, ImageError> {
        let key = key_of(name);
        let record = port::read(&*self.meta, |r| records::image(r, &key))?;
        record.map(|record| self.with_config(record)).transpose()
    }

    /// Reads the config of an image.
    ///
    /// # Errors
    /// [`ImageError::Store`], [`ImageError::Config`].
    pub fn with_config(&self, record: ImageRecord) -> Result<KnownImage, ImageError> {
        let config = document::config(&self.blobs.get(&record.id)?)?;
        Ok(KnownImage { record, config })
    }

    /// Names an image. Its blobs are made durable first; nothing is written if the name means the same already.
    ///
    /// # Errors
    /// Those of the store.
    pub fn put(&self, names: &[String], record: &ImageRecord) -> Result<(), PortError> {
        let own = [record.id.to_string()];
        let keys: Vec<String> =
            if names.is_empty() { &own[..] } else { names }.iter().map(|n| key_of(n)).collect();
        let same = |known: Option<ImageRecord>| {
            known.is_some_and(|known| ImageRecord { since: record.since, ..known } == *record)
        };
        let known = port::read(&*self.meta, |r| {
            keys.iter().map(|key| records::image(r, key).map(same)).collect::<Result<Vec<_>, _>>()
        })?;
        if known.iter().all(|same| *same) {
            return Ok(());
        }
        self.blobs.sync()?;
        port::write(&*self.meta, |w| keys.iter().try_for_each(|key| records::put_image(w, key, record)))
    }

    /// The image a build names: one that this machine has, one of a layout (`oci:/PATH[:TAG]`), or one of a registry, which is
    /// pulled then.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn resolve(
        &self,
        name: &str,
        platform: &Platform,
        freshness: Freshness,
        cancel: &Cancel,
    ) -> Result<KnownImage, ImageError> {
        if let Ok(ImageName::Layout { path, tag }) = name.parse() {
            return self.import_layout(&path, tag.as_deref(), platform);
        }
        let known = self.find(name)?;
        let distance = known.as_ref().and_then(|image| image.config.platform.distance(platform));
        let made_here = known.as_ref().is_some_and(|image| image.record.origin.is_none());
        // A registry may have an image of a better variant.
        let fits = distance.is_some_and(|distance| made_here || distance == 0);
        let good_enough = made_here || freshness == Freshness::Known;
        match (known, name.parse::<Reference>()) {
            (Some(image), _) if fits && good_enough => Ok(image),
            (known, reference) => {
                let sibling = known.as_ref().filter(|_| good_enough);
                if let Some(image) = sibling.map(|known| self.sibling(known, platform)).transpose()?.flatten()
                {
                    return Ok(image);
                }
                if let Some(image) = known.as_ref().filter(|_| made_here) {
                    let wanted = document::Platform::of(platform).name();
                    let found = image.config.platform.name();
                    return Err(ImageError::Platform { name: name.to_owned(), found, wanted });
                }
                let transfer = Transfer { cancel: cancel.clone(), ..Transfer::default() };
                let reference = reference.map_err(ImageError::Name)?;
                self.pull_beside(known.as_ref(), &reference, platform, &transfer)
            }
        }
    }

    /// Takes in an image of a layout, with all its blobs.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn import_layout(
        &self,
        path: &Path,
        tag: Option<&str>,
        platform: &Platform,
    ) -> Result<KnownImage, ImageError> {
        let layout = Layout::open(path, &self.limits)?;
        let image = layout.resolve(tag, platform)?;
        self.import(&layout, &image)
    }

    /// Takes in an image from a place, with all its blobs.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn import<S: Source>(&self, place: &S, image: &Image) -> Result<KnownImage, ImageError>
    where
        ImageError: From<S::Error>,
    {
        let layers = image.layers.iter().map(|layer| {
            self.take_blob(place, &layer.descriptor)?;
            Ok(ImageLayer { diff_id: layer.diff_id, blob: Some(layer.descriptor.clone()) })
        });
        let layers = layers.collect::<Result<Vec<_>, ImageError>>()?;
        let config = self.blobs.put(&place.document(&image.config_document, "a config")?)?;
        self.note_blobs(&layers)?;
        let record = ImageRecord {
            format: Version,
            id: config.digest,
            manifest: None,
            layers,
            snapshot: None,
            epoch: None,
            origin: None,
            family: None,
            since: self.clock.now(),
        };
        self.with_config(record)
    }

    /// Takes in the blobs of layers from a place.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn take_layers<S: Source>(&self, place: &S, layers: &[ImageLayer]) -> Result<(), ImageError>
    where
        ImageError: From<S::Error>,
    {
        layers
            .iter()
            .filter_map(|layer| layer.blob.as_ref())
            .try_for_each(|blob| self.take_blob(place, blob))?;
        Ok(self.note_blobs(layers)?)
    }

    /// Layers whose blobs are here as layers on disk.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn layers_on_disk(&self, layers: Vec<ImageLayer>, cancel: &Cancel) -> Result<Snapshot, ImageError> {
        let id = Digest::of(b"");
        let since = self.clock.now();
        let record = ImageRecord {
            format: Version,
            id,
            manifest: None,
            layers,
            snapshot: None,
            epoch: None,
            origin: None,
            family: None,
            since,
        };
        self.unpacked(&record, cancel)
    }

    /// The registries.
    pub fn registry(&self) -> &dyn Registry {
        &*self.registry
    }

    /// The store as a place of images.
    pub fn stored(&self) -> Stored<'_> {
        Stored { blobs: &*self.blobs, document_limit: self.limits.document }
    }

    /// Keeps a document.
    ///
    /// # Errors
    /// Those of the store.
    pub fn put_document(&self, document: &Document) -> Result<(), PortError> {
        self.blobs.put(&document.bytes).map(drop)
    }

    /// Remembers which blobs hold which layers, for images that are built on them.
    pub(super) fn note_blobs(&self, layers: &[ImageLayer]) -> Result<(), PortError> {
        port::write(&*self.meta, |w| {
            let blobs = layers.iter().filter_map(|layer| Some((layer.diff_id, layer.blob.as_ref()?)));
            for (diff_id, blob) in blobs {
                records::add_layer_blob(w, &diff_id, blob)?;
            }
            Ok(())
        })
    }

    fn take_blob<S: Source>(&self, place: &S, blob: &Descriptor) -> Result<(), ImageError>
    where
        ImageError: From<S::Error>,
    {
        if !self.blobs.contains(&blob.digest)? {
            self.blobs.put_stream(&mut place.open(blob)?).map_err(|error| match &error {
                PortError::Io { source, .. } => {
                    BlobError::from_io(source).map_or(error.into(), ImageError::Blob)
                }
                _ => error.into(),
            })?;
        }
        Ok(())
    }

    /// The image as layers on disk, unpacked now if need be.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn unpacked(&self, image: &ImageRecord, cancel: &Cancel) -> Result<Snapshot, ImageError> {
        if image.layers.is_empty() {
            return Ok(Snapshot::scratch());
        }
        if let Some(layers) = &image.snapshot
            && layers
                .iter()
                .try_fold(true, |all, layer| Ok::<_, PortError>(all && self.layers.exists(layer)?))?
        {
            return Ok(Snapshot::new(layers.clone()));
        }
        let id = image.chain_id();
        let mut made = None;
        let filled = self.layers.obtain(&id, cancel, |directory| {
            made = Some(self.unpack(image, directory)?);
            Ok(())
        });
        filled.map_err(|error| match error {
            ObtainError::Store(error) => ImageError::Store(error),
            ObtainError::Cancelled => ImageError::Cancelled,
            ObtainError::Fill(error) => error,
        })?;
        if let Some(size) = made {
            let (diff_ids, since) = (image.diff_ids(), self.clock.now());
            let record = LayerRecord { diff_ids, size, is_base: true, since };
            port::write(&*self.meta, |w| records::put_layer(w, &id, None, &record))?;
        }
        Ok(Snapshot::new(vec![id]))
    }

    /// Unpacks all layers into one directory and gives the length of their plain streams.
    fn unpack(&self, image: &ImageRecord, directory: &Path) -> Result<u64, ImageError> {
        let options = UnpackOptions {
            devices: Rights::current().is_machine_root(),
            ..UnpackOptions::for_current_user()
        };
        let mut unpacker = Unpacker::new(directory, &options)?;
        let mut size = 0;
        for (number, layer) in image.layers.iter().enumerate() {
            let blob = self.blob_of(layer)?;
            let source = Blob::new(self.blobs.open(&blob.digest)?, &blob);
            let reader = LayerReader::new(source, &options.limits).map_err(archive)?;
            let reader = unpacker.layer(reader)?;
            size += reader.unpacked();
            let found = reader.finish().map_err(archive)?;
            if found != layer.diff_id {
                let problem =
                    BlobError::Digest { what: "the unpacked layer", expected: layer.diff_id, found };
                return Err(UnpackError::DiffId { layer: number + 1, problem }.into());
            }
        }
        Ok(size)
    }

    /// A blob that holds a layer and is here.
    pub(super) fn blob_of(&self, layer: &ImageLayer) -> Result<Descriptor, ImageError> {
        let mut known: Vec<Descriptor> = layer.blob.iter().cloned().collect();
        known.extend(port::read(&*self.meta, |r| records::layer_blobs(r, &layer.diff_id))?);
        for blob in known {
            if self.blobs.contains(&blob.digest)? {
                return Ok(blob);
            }
        }
        Err(ImageError::Gone(layer.diff_id))
    }

    /// What layers on disk are in the terms of images, with their own times or dated by an epoch (those of a base image always have
    /// their own). Those of which nothing is known yet are measured, several at a time.
    ///
    /// # Errors
    /// [`PackError`] for one that cannot be packed.
    pub fn describe(&self, layers: &[Digest], epoch: Option<i64>) -> Result<Vec<LayerRecord>, PackError> {
        let mut known = self.described(layers, epoch)?;
        let unknown = |known: &BTreeMap<Digest, LayerRecord>| -> Vec<Digest> {
            layers.iter().filter(|id| !known.contains_key(*id)).copied().collect()
        };
        if !unknown(&known).is_empty() {
            let mut work = DigestWriter::new();
            work.update(b"quern measured layers 1\n");
            layers.iter().for_each(|id| work.update(id.as_bytes()));
            // Builds of the same image that end together measure its layers once.
            let _alone = self.layers.alone(&work.finish())?;
            known = self.described(layers, epoch)?;
            known.extend(self.measured(&unknown(&known), epoch)?);
        }
        Ok(layers.iter().map(|id| known[id].clone()).collect())
    }

    /// What is recorded of layers.
    fn described(
        &self,
        layers: &[Digest],
        epoch: Option<i64>,
    ) -> Result<BTreeMap<Digest, LayerRecord>, PortError> {
        let mut known = BTreeMap::new();
        port::read(&*self.meta, |r| {
            for id in layers {
                let plain = records::layer(r, id, None)?;
                let is_base = plain.as_ref().is_some_and(|record| record.is_base);
                let record = if is_base || epoch.is_none() { plain } else { records::layer(r, id, epoch)? };
                known.extend(record.map(|record| (*id, record)));
            }
            Ok::<_, PortError>(())
        })?;
        Ok(known)
    }

    /// Measures layers and records them.
    fn measured(
        &self,
        unknown: &[Digest],
        epoch: Option<i64>,
    ) -> Result<Vec<(Digest, LayerRecord)>, PackError> {
        let _open = self.layers.open(unknown)?;
        let measured = measure_all(&self.layers, unknown, times(epoch))?;
        let since = self.clock.now();
        let new = measured.into_iter().map(|measured| {
            let diff_ids = vec![measured.diff_id];
            (measured.id, LayerRecord { diff_ids, size: measured.size, is_base: false, since })
        });
        let new: Vec<_> = new.collect();
        port::write(&*self.meta, |w| {
            new.iter().try_for_each(|(id, record)| records::put_layer(w, id, epoch, record))
        })?;
        Ok(new)
    }
}

impl From<RegistryError> for ImageError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error.into())
    }
}

impl ImageRecord {
    /// Digests of the plain layers, lowest first.
    pub fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.diff_id).collect()
    }

    /// What identifies the root file system, however its layers are compressed.
    pub fn chain_id(&self) -> Digest {
        chain_id(self.diff_ids()).unwrap_or_else(|| Digest::of(b""))
    }
}

/// How layers made here are dated when they are packed.
pub(super) fn times(epoch: Option<i64>) -> Times {
    epoch.map_or(Times::Keep, |seconds| Times::AtMost(seconds.saturating_mul(1_000_000_000)))
}

/// The key of a name: complete, if it is a reference. An id is one only by its looks.
fn key_of(name: &str) -> String {
    if name.parse::<Digest>().is_ok() {
        return name.to_owned();
    }
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |reference| reference.to_string())
}

fn archive(error: io::Error) -> UnpackError {
    UnpackError::Archive(ArchiveError::from(error))
}
