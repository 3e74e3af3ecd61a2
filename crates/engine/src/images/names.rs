//! The images a person sees: listed, found by name or by the start of their id, named, removed.

use std::collections::{BTreeMap, HashSet};

use quern_core::port::{self, MetaRead, PortError};
use quern_core::{Digest, Timestamp};
use quern_oci::Reference;

use super::records::{self, ImageRecord};
use super::store::{ImageError, ImageStore, KnownImage};

/// An image with everything it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedImage {
    /// The image; `since` is the time of its newest name.
    pub image: KnownImage,
    /// Its names, sorted; none if it can be found by its id only.
    pub names: Vec<Reference>,
    /// Bytes of its layers as they are on disk or would be; of one that was pulled and never unpacked, those of its blobs.
    pub size: u64,
}

/// What a removal took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names.
    pub names: Vec<Reference>,
    /// The image, if nothing names it any more. Its content stays until the next prune.
    pub image: Option<Digest>,
}

impl ImageStore {
    /// All images, the newest first.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn list(&self) -> Result<Vec<NamedImage>, ImageError> {
        let rows = port::read(&*self.meta, |r| {
            let images = by_id(r)?.into_values();
            images.map(|row| Ok((size(r, &row.record)?, row))).collect::<Result<Vec<_>, PortError>>()
        })?;
        let mut images = rows
            .into_iter()
            .map(|(size, Row { record, names })| {
                Ok(NamedImage { image: self.with_config(record)?, names, size })
            })
            .collect::<Result<Vec<_>, ImageError>>()?;
        images.sort_by_key(|named| (std::cmp::Reverse(named.image.record.since), named.image.record.id));
        Ok(images)
    }

    /// The image of a name, an id, or the start of an id.
    ///
    /// # Errors
    /// [`ImageError::Unknown`] if there is none, [`ImageError::SeveralIds`] if the start fits several.
    pub fn lookup(&self, text: &str) -> Result<NamedImage, ImageError> {
        let (size, Row { record, names }) = port::read(&*self.meta, |r| {
            let row = row_of(r, text)?;
            Ok::<_, ImageError>((size(r, &row.record)?, row))
        })?;
        Ok(NamedImage { image: self.with_config(record)?, names, size })
    }

    /// Gives an image another name; one that stood for another image stands for this one then.
    ///
    /// # Errors
    /// As [`ImageStore::lookup`]; [`ImageError::Digested`] for a name that says itself what it stands for.
    pub fn tag(&self, text: &str, name: &Reference) -> Result<NamedImage, ImageError> {
        if name.digest().is_some() {
            return Err(ImageError::Digested(name.familiar()));
        }
        let found = self.lookup(text)?;
        let record = ImageRecord { since: self.clock.now(), ..found.image.record.clone() };
        self.put(&[name.to_string()], &record)?;
        Ok(found)
    }

    /// Takes a name away, or all names of an id. Several names of an id go only with `force`.
    ///
    /// # Errors
    /// As [`ImageStore::lookup`]; [`ImageError::SeveralNames`].
    pub fn remove(&self, text: &str, force: bool) -> Result<Removed, ImageError> {
        port::write(&*self.meta, |w| {
            let row = row_of(w.as_read(), text)?;
            let name = text.parse::<Reference>().ok().filter(|name| row.names.contains(name));
            let names = name.map_or_else(|| row.names.clone(), |name| vec![name]);
            let by_id = text_is_id(text, &row);
            if by_id && names.len() > 1 && !force {
                let names = names.iter().map(Reference::familiar).collect();
                return Err(ImageError::SeveralNames { id: row.record.id, names });
            }
            for name in &names {
                records::delete_image(w, &name.to_string())?;
            }
            let all = names.len() == row.names.len();
            if all {
                records::delete_image(w, &row.record.id.to_string())?;
            }
            Ok(Removed { names, image: all.then_some(row.record.id) })
        })
    }
}

impl ImageStore {
    /// Forgets what is recorded of layers and blobs that are gone, after a prune; tells how many records went.
    ///
    /// # Errors
    /// Those of the store.
    pub fn forget_gone(&self) -> Result<u64, PortError> {
        let layer_is_there = |id: &Digest| self.layers.exists(id);
        let blob_is_there = |digest: &Digest| self.blobs.contains(digest);
        port::write(&*self.meta, |w| records::forget_gone(w, &layer_is_there, &blob_is_there))
    }

    /// Layers on disk that images with names are made of.
    ///
    /// # Errors
    /// Those of the store.
    pub fn named_layers(&self) -> Result<HashSet<Digest>, PortError> {
        let mut layers = HashSet::new();
        for row in port::read(&*self.meta, |r| by_id(r))?.into_values().filter(|row| !row.names.is_empty()) {
            layers.insert(row.record.chain_id());
            layers.extend(row.record.snapshot.into_iter().flatten());
        }
        Ok(layers)
    }

    /// Removes images without names: all of them, or those whose layers are gone. Tells how many went.
    ///
    /// # Errors
    /// Those of the store.
    pub fn forget_unnamed(&self, all: bool) -> Result<u64, PortError> {
        port::write(&*self.meta, |w| {
            let mut forgotten = 0;
            for row in by_id(w.as_read())?.into_values().filter(|row| row.names.is_empty()) {
                let mut layers = row.record.snapshot.iter().flatten();
                let whole =
                    layers.try_fold(true, |all, id| Ok::<_, PortError>(all && self.layers.exists(id)?))?;
                if all || !whole {
                    records::delete_image(w, &row.record.id.to_string())?;
                    forgotten += 1;
                }
            }
            Ok(forgotten)
        })
    }

    /// How many images there are.
    ///
    /// # Errors
    /// Those of the store.
    pub fn count(&self) -> Result<u64, PortError> {
        Ok(port::read(&*self.meta, |r| by_id(r))?.len() as u64)
    }
}

/// An image as it is recorded, with its names.
struct Row {
    record: ImageRecord,
    names: Vec<Reference>,
}

fn text_is_id(text: &str, row: &Row) -> bool {
    !text.parse::<Reference>().is_ok_and(|name| row.names.contains(&name))
}

/// The images by id. Of several records of one image, the newest counts.
fn by_id(r: &dyn MetaRead) -> Result<BTreeMap<Digest, Row>, PortError> {
    let mut images: BTreeMap<Digest, Row> = BTreeMap::new();
    for (key, record) in records::images(r)? {
        let name = if key == record.id.to_string() { None } else { key.parse::<Reference>().ok() };
        let row =
            images.entry(record.id).or_insert_with(|| Row { record: record.clone(), names: Vec::new() });
        row.names.extend(name);
        if record.since > row.record.since {
            row.record = record;
        }
    }
    for row in images.values_mut() {
        row.names.sort_by_key(ToString::to_string);
    }
    Ok(images)
}

fn row_of(r: &dyn MetaRead, text: &str) -> Result<Row, ImageError> {
    let mut images = by_id(r)?;
    if text.parse::<Digest>().is_err()
        && let Ok(name) = text.parse::<Reference>()
        && let Some(record) = records::image(r, &name.to_string())?
    {
        let names = images.remove(&record.id).map(|row| row.names).unwrap_or_default();
        return Ok(Row { record, names });
    }
    let start = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    let is_start = !start.is_empty() && start.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut fitting = images.into_values().filter(|row| is_start && row.record.id.hex().starts_with(&start));
    match (fitting.next(), fitting.next()) {
        (Some(row), None) => Ok(row),
        (None, _) => Err(ImageError::Unknown(text.to_owned())),
        (Some(_), Some(_)) => Err(ImageError::SeveralIds(text.to_owned())),
    }
}

fn size(r: &dyn MetaRead, image: &ImageRecord) -> Result<u64, PortError> {
    let unpacked = records::layer(r, &image.chain_id(), None)?;
    let on_disk = match (&image.snapshot, unpacked) {
        (Some(layers), _) => {
            let sizes = layers.iter().map(|id| {
                let dated = records::layer(r, id, image.epoch)?;
                let layer = if dated.is_some() { dated } else { records::layer(r, id, None)? };
                Ok::<_, PortError>(layer.map(|layer| layer.size))
            });
            sizes.collect::<Result<Option<Vec<_>>, _>>()?.map(|sizes| sizes.iter().sum())
        }
        (None, unpacked) => unpacked.map(|layer| layer.size),
    };
    let blobs = || image.layers.iter().filter_map(|layer| layer.blob.as_ref()).map(|blob| blob.size).sum();
    Ok(on_disk.unwrap_or_else(blobs))
}

/// When an image says it was made; its record's time if it does not say.
pub fn created(image: &KnownImage) -> Timestamp {
    let said = image.config.created.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let millis = said.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    millis.map_or(image.record.since, Timestamp)
}
