//! What is recorded of images, layers and their blobs.
//!
//! | table | key | value |
//! |---|---|---|
//! | `images` | a complete name (`docker.io/library/app:latest`), or the image's id if it has none | [`ImageRecord`] |
//! | `layers` | id of a layer on disk | [`LayerRecord`]: what it unpacks or will be packed to |
//! | `web` | digest of an address | [`WebRecord`]: what was fetched from it last |
//! | `layer_blobs` | diff id | descriptors of blobs that hold that layer, compressed in one way or another |

use quern_core::port::{MetaRead, MetaWrite, PortError, Scan, Table};
use quern_core::{Digest, Timestamp, Version};
use quern_oci::Descriptor;
use quern_store::Root;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const IMAGES: Table = Table("images");
const LAYERS: Table = Table("layers");
const WEB: Table = Table("web");
const LAYER_BLOBS: Table = Table("layer_blobs");

/// An image this machine knows. Its config is a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Format of this record.
    pub format: Version<1>,
    /// Digest of the config, which identifies the image.
    pub id: Digest,
    /// The manifest by which it was pulled or loaded, or under which it was last written out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Descriptor>,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// The layers on disk that hold it, lowest first, if it was made here. Otherwise they are made from the blobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Vec<Digest>>,
    /// The time its layers on disk are dated by when they are packed, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// The name under which blobs that are not here can be fetched: a reference with a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// What images have in common that one build made for several platforms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Digest>,
    /// When it was made here, or arrived.
    pub since: Timestamp,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// Digest of the plain tar stream.
    pub diff_id: Digest,
    /// The blob the manifest names; none if the layer was never packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Descriptor>,
}

/// What a layer on disk is in the terms of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The image layers it stands for, lowest first: one if a step made it, all those of a base image.
    pub diff_ids: Vec<Digest>,
    /// Bytes of the plain tar streams together.
    pub size: u64,
    /// Whether it is a base image: packed as it came, never dated by an epoch.
    #[serde(default)]
    pub is_base: bool,
    /// When it was recorded first: for a layer made here, about when it was made.
    pub since: Timestamp,
}

/// What an image needs to stay whole: config, manifest, blobs and layers on disk.
///
/// # Errors
/// Those of the port.
pub fn roots_of(r: &dyn MetaRead, image: &ImageRecord) -> Result<Vec<Root>, PortError> {
    let mut roots = vec![Root::Blob(image.id), Root::Layer(image.chain_id())];
    roots.extend(image.manifest.iter().map(|manifest| Root::Blob(manifest.digest)));
    roots.extend(image.snapshot.iter().flatten().map(|layer| Root::Layer(*layer)));
    for layer in &image.layers {
        roots.extend(layer.blob.iter().map(|blob| Root::Blob(blob.digest)));
        // Of a base image the blobs are all there is; those of layers made here can be made again.
        roots.extend(layer_blobs(r, &layer.diff_id)?.iter().map(|blob| Root::Blob(blob.digest)));
    }
    Ok(roots)
}

/// A file that was fetched from a web server. Its bytes are a blob, which may have been pruned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebRecord {
    /// Digest of its bytes.
    pub digest: Digest,
    /// What the server calls this version of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When it changed, in the words of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<String>,
}

/// What was fetched from an address last.
///
/// # Errors
/// Those of the port.
pub fn web(r: &dyn MetaRead, url: &str) -> Result<Option<WebRecord>, PortError> {
    read(r, WEB, &Digest::of(url.as_bytes()).hex())
}

/// Notes what was fetched from an address. (Addresses may hold passwords, so their digests are the keys.)
///
/// # Errors
/// Those of the port.
pub fn put_web(w: &mut dyn MetaWrite, url: &str, record: &WebRecord) -> Result<(), PortError> {
    write(w, WEB, &Digest::of(url.as_bytes()).hex(), record)
}

/// The image of this key.
///
/// # Errors
/// Those of the port.
pub fn image(r: &dyn MetaRead, key: &str) -> Result<Option<ImageRecord>, PortError> {
    read(r, IMAGES, key)
}

/// All images with their keys.
///
/// # Errors
/// Those of the port.
pub fn images(r: &dyn MetaRead) -> Result<Vec<(String, ImageRecord)>, PortError> {
    let rows = r.scan(IMAGES, &Scan::default())?;
    rows.into_iter().map(|(key, text)| parse(IMAGES, &key, &text).map(|record| (key, record))).collect()
}

/// Names an image; its blobs must be durable.
///
/// # Errors
/// Those of the port.
pub fn put_image(w: &mut dyn MetaWrite, key: &str, record: &ImageRecord) -> Result<(), PortError> {
    write(w, IMAGES, key, record)
}

/// Takes a name away.
///
/// # Errors
/// Those of the port.
pub fn delete_image(w: &mut dyn MetaWrite, key: &str) -> Result<(), PortError> {
    w.delete(IMAGES, key)
}

/// What is known of a layer on disk, packed with its own times or dated by an epoch.
///
/// # Errors
/// Those of the port.
pub fn layer(r: &dyn MetaRead, id: &Digest, epoch: Option<i64>) -> Result<Option<LayerRecord>, PortError> {
    read(r, LAYERS, &layer_key(id, epoch))
}

/// Notes what a layer on disk is.
///
/// # Errors
/// Those of the port.
pub fn put_layer(
    w: &mut dyn MetaWrite,
    id: &Digest,
    epoch: Option<i64>,
    record: &LayerRecord,
) -> Result<(), PortError> {
    write(w, LAYERS, &layer_key(id, epoch), record)
}

fn layer_key(id: &Digest, epoch: Option<i64>) -> String {
    epoch.map_or_else(|| id.hex(), |epoch| format!("{}@{epoch}", id.hex()))
}

/// Forgets layers and blobs that are gone, and tells how many records went.
///
/// # Errors
/// Those of the port and of what tells whether something is there.
pub fn forget_gone(
    w: &mut dyn MetaWrite,
    layer_is_there: &dyn Fn(&Digest) -> Result<bool, PortError>,
    blob_is_there: &dyn Fn(&Digest) -> Result<bool, PortError>,
) -> Result<u64, PortError> {
    let mut forgotten = 0;
    for (key, _) in w.as_read().scan(LAYERS, &Scan::default())? {
        let id = Digest::from_hex(key.split('@').next().unwrap_or(&key)).ok();
        if !id.map_or(Ok(false), |id| layer_is_there(&id))? {
            w.delete(LAYERS, &key)?;
            forgotten += 1;
        }
    }
    for (key, text) in w.as_read().scan(WEB, &Scan::default())? {
        let record: WebRecord = parse(WEB, &key, &text)?;
        if !blob_is_there(&record.digest)? {
            w.delete(WEB, &key)?;
            forgotten += 1;
        }
    }
    for (key, text) in w.as_read().scan(LAYER_BLOBS, &Scan::default())? {
        let mut blobs: Vec<Descriptor> = parse(LAYER_BLOBS, &key, &text)?;
        let known = blobs.len();
        let there = blobs.iter().map(|blob| blob_is_there(&blob.digest)).collect::<Result<Vec<_>, _>>()?;
        let mut there = there.into_iter();
        blobs.retain(|_| there.next().unwrap_or(false));
        if blobs.len() == known {
            continue;
        }
        forgotten += 1;
        match blobs.is_empty() {
            true => w.delete(LAYER_BLOBS, &key)?,
            false => write(w, LAYER_BLOBS, &key, &blobs)?,
        }
    }
    Ok(forgotten)
}

/// Blobs that hold a layer. They may have been pruned.
///
/// # Errors
/// Those of the port.
pub fn layer_blobs(r: &dyn MetaRead, diff_id: &Digest) -> Result<Vec<Descriptor>, PortError> {
    Ok(read(r, LAYER_BLOBS, &diff_id.hex())?.unwrap_or_default())
}

/// Notes a blob that holds a layer.
///
/// # Errors
/// Those of the port.
pub fn add_layer_blob(w: &mut dyn MetaWrite, diff_id: &Digest, blob: &Descriptor) -> Result<(), PortError> {
    let mut known = layer_blobs(w.as_read(), diff_id)?;
    if known.iter().all(|other| other.digest != blob.digest) {
        known.push(blob.clone());
        write(w, LAYER_BLOBS, &diff_id.hex(), &known)?;
    }
    Ok(())
}

fn read<T: DeserializeOwned>(r: &dyn MetaRead, table: Table, key: &str) -> Result<Option<T>, PortError> {
    r.get(table, key)?.map(|text| parse(table, key, &text)).transpose()
}

fn parse<T: DeserializeOwned>(table: Table, key: &str, text: &str) -> Result<T, PortError> {
    serde_json::from_str(text).map_err(|error| {
        PortError::Other(format!("the record of `{key}` in {} is not readable: {error}", table.0))
    })
}

fn write<T: Serialize>(w: &mut dyn MetaWrite, table: Table, key: &str, value: &T) -> Result<(), PortError> {
    w.put(
        table,
        key,
        &serde_json::to_string(value).expect("records hold only text, numbers and lists of them"),
    )
}
