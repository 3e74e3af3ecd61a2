//! Build caches that leave the machine: in a registry, in a directory, inside an image; in BuildKit's format.
//!
//! An export makes a blob of every layer it names, so that the documents can be sent like those of an image. An import reads
//! only documents; layers are fetched when a step's result is loaded.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use quern_core::Digest;
use quern_core::port::{Cancel, PortError};
use quern_oci::cache::{
    CREATED_AT, CacheForm, FoundCache, InlineCache, UNCOMPRESSED, assemble_cache, find_cache, find_inline,
};
use quern_oci::document::{Descriptor, Document};
use quern_oci::image::{Layer, Source, contents};
use quern_oci::registry::{Remote as RemotePlace, Repository, Transfer, push};
use quern_oci::{Layout, Limits, Reference};
use quern_solver::{
    CacheBlobs, CacheChains, CacheConfigError, CacheError, CacheExportMode, CacheExportOptions,
    ImportedCache, KeyedCache, Remote, SharedResult, export_keys, import_cache,
};
use serde_json::{Value, json};

use super::BuiltStage;
use crate::images::{Form, ImageError, ImageLayer, ImageStore};
use crate::snapshot::Snapshot;

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// Under a name in a registry; also inside an image of that name.
    Registry(Reference),
    /// In a directory, an OCI layout, under a tag.
    Local(PathBuf, String),
}

/// Why a cache could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum CacheTransferError {
    /// The chains could not be collected.
    #[error("the build cache could not be collected: {0}")]
    Collect(#[from] CacheError),
    /// A layer could not be packed, or the place refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The directory cannot be written.
    #[error("cannot write `{path}`: {source}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl From<PortError> for CacheTransferError {
    fn from(error: PortError) -> Self {
        Self::Image(error.into())
    }
}

/// What an export holds.
struct Exported {
    config: Vec<u8>,
    layers: Vec<Descriptor>,
}

/// How a cache is written.
#[derive(Debug, Clone)]
pub struct CacheExport {
    /// How much of it.
    pub mode: CacheExportMode,
    /// How layers are written.
    pub form: Form,
    /// By what they are dated: the epoch of the image, so that its layers are the same ones.
    pub epoch: Option<i64>,
    /// How the documents are written.
    pub documents: CacheForm,
}

/// Exports the cache of a build to a place: that of all its platforms in one.
///
/// # Errors
/// [`CacheTransferError`].
pub fn export(
    images: &ImageStore,
    built: &[BuiltStage],
    place: &CachePlace,
    how: &CacheExport,
) -> Result<(), CacheTransferError> {
    let Exported { config, layers } = collect(images, built, how.epoch, how.mode, &how.form)?;
    let made = assemble_cache(config, layers, how.documents);
    images.put_document(&made.config)?;
    images.put_document(&made.manifest)?;
    match place {
        CachePlace::Registry(reference) => {
            let (registry, stored) = (images.registry(), images.stored());
            push(registry, &stored, &made.manifest.descriptor, reference, &Transfer::default())
                .map_err(ImageError::from)?;
            Ok(())
        }
        CachePlace::Local(folder, tag) => to_folder(images, &made.manifest, folder, tag),
    }
}

/// The records of a build for the config of its own image: base64, and only those whose layers the image has.
///
/// # Errors
/// [`CacheTransferError`].
pub fn inline(
    images: &ImageStore,
    built: &BuiltStage,
    epoch: Option<i64>,
    form: &Form,
    diff_ids: &[Digest],
) -> Result<String, CacheTransferError> {
    let Exported { config, .. } =
        collect(images, std::slice::from_ref(built), epoch, CacheExportMode::Min, form)?;
    let mut config: Value = serde_json::from_slice(&config).map_err(CacheError::storage)?;
    let stacks = stacks(&config);
    let numbers: BTreeMap<String, usize> =
        diff_ids.iter().enumerate().map(|(number, id)| (id.to_string(), number)).collect();
    for record in config["records"].as_array_mut().into_iter().flatten() {
        let layers = record["layers"].take();
        let mut chains = Vec::new();
        for layer in layers.as_array().into_iter().flatten() {
            let stack = layer["layer"].as_u64().and_then(|number| stacks.get(usize::try_from(number).ok()?));
            let places: Option<Vec<usize>> =
                stack.and_then(|stack| stack.iter().map(|diff_id| numbers.get(diff_id).copied()).collect());
            if let Some(places) = places {
                chains.push(json!({ "layers": places, "createdAt": layer["createdAt"] }));
            }
        }
        let fields = record.as_object_mut().expect("a record is an object");
        fields.remove("layers");
        if !chains.is_empty() {
            fields.insert("chains".into(), chains.into());
        }
    }
    Ok(BASE64_STANDARD.encode(config["records"].to_string()))
}

/// The diff ids of each layer of a configuration with those below it, lowest first.
fn stacks(config: &Value) -> Vec<Vec<String>> {
    let layers: Vec<&Value> = config["layers"].as_array().into_iter().flatten().collect();
    let stack = |mut at: usize| {
        let mut stack = Vec::new();
        while let Some(layer) = layers.get(at).filter(|_| stack.len() <= layers.len()) {
            stack.push(layer["annotations"]["diffID"].as_str().unwrap_or_default().to_owned());
            match layer.get("parent").map_or(Some(0), Value::as_u64) {
                Some(parent) => at = usize::try_from(parent).unwrap_or(usize::MAX),
                None => break,
            }
        }
        stack.reverse();
        stack
    };
    (0..layers.len()).map(stack).collect()
}

fn collect(
    images: &ImageStore,
    built: &[BuiltStage],
    epoch: Option<i64>,
    mode: CacheExportMode,
    form: &Form,
) -> Result<Exported, CacheTransferError> {
    let convert = |result: &SharedResult| -> Result<Vec<Remote>, CacheError> {
        let Some(snapshot) = result.get::<Snapshot>() else { return Ok(Vec::new()) };
        let layers = images.blobs_of(snapshot, epoch, form).map_err(CacheError::storage)?;
        Ok(vec![Remote { descriptors: layers.iter().map(for_solver).collect() }])
    };
    let options = CacheExportOptions { mode, convert: Some(&convert), ..CacheExportOptions::default() };
    let mut chains = CacheChains::new();
    let keys: Vec<_> = built.iter().flat_map(|stage| stage.result.keys()).collect();
    export_keys(&keys, &mut chains, &options)?;
    let (config, layers) = chains.marshal();
    Ok(Exported { config, layers: layers.into_iter().map(of_solver).collect() })
}

fn for_solver(layer: &Layer) -> quern_solver::Descriptor {
    let cached = quern_oci::cache::cache_layer(layer, None);
    let Descriptor { media_type, digest, size, annotations, .. } = cached;
    quern_solver::Descriptor { media_type, digest, size, annotations }
}

fn of_solver(layer: quern_solver::Descriptor) -> Descriptor {
    let quern_solver::Descriptor { media_type, digest, size, annotations } = layer;
    Descriptor { annotations, ..Descriptor::new(&media_type, digest, size) }
}

/// Writes a manifest with everything it names into a layout, beside what is there, and points a tag to it.
fn to_folder(
    images: &ImageStore,
    manifest: &Document,
    folder: &std::path::Path,
    tag: &str,
) -> Result<(), CacheTransferError> {
    let failed = |source| CacheTransferError::Directory { path: folder.display().to_string(), source };
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(failed)?;
    let stored = images.stored();
    let all = contents(&stored, &manifest.descriptor, &Limits::default()).map_err(ImageError::from)?;
    let documents = all.documents.iter().map(|document| &document.descriptor);
    for blob in all.blobs.iter().chain(documents) {
        let path = blobs.join(blob.digest.hex());
        if path.exists() {
            continue;
        }
        let temporary = blobs.join(format!(".{}.{}", blob.digest.short(), std::process::id()));
        let mut source = stored.open(blob).map_err(ImageError::from)?;
        let written = File::create(&temporary)
            .and_then(|mut file| io::copy(&mut source, &mut file))
            .and_then(|_| fs::rename(&temporary, &path));
        written.map_err(failed)?;
    }
    let layout = quern_solver::LayoutFolder::new(folder);
    let Descriptor { media_type, digest, size, .. } = manifest.descriptor.clone();
    let named = quern_solver::Descriptor { media_type, digest, size, annotations: BTreeMap::new() };
    Ok(layout.publish(tag, &named)?)
}

/// A cache of a place as a source of builds; nothing is read before a step asks for it.
pub fn import(images: &Arc<ImageStore>, place: CachePlace) -> ImportedCache {
    let (images, id) = (Arc::clone(images), format!("{place:?}"));
    ImportedCache::new(id.clone(), move || {
        let failed = |error: ImageError| CacheConfigError::Blobs(CacheError::storage(error));
        match &place {
            CachePlace::Registry(reference) => {
                let registry = images.registry();
                let resolved = registry.resolve(reference).map_err(|e| failed(registry_failed(e)))?;
                let remote =
                    RemotePlace { registry, repository: Repository::of(reference), document_limit: LARGEST };
                let found = found(&remote, &resolved).map_err(failed)?;
                read(&id, found, &images, &place)
            }
            CachePlace::Local(folder, tag) => {
                let limits = Limits { document: LARGEST, ..Limits::default() };
                let layout = Layout::open(folder, &limits).map_err(|error| failed(error.into()))?;
                let entry = layout.entries().find(|(name, _)| *name == Some(tag.as_str()));
                let entry = entry.map(|(_, descriptor)| descriptor.clone());
                let root = entry.ok_or_else(|| CacheConfigError::NotFound(tag.clone()))?;
                let found = found(&layout, &root).map_err(failed)?;
                read(&id, found, &images, &place)
            }
        }
    })
}

/// Largest configuration that is read; the original stops at 1 MiB, which large graphs exceed.
const LARGEST: u64 = 256 << 20;

fn registry_failed(error: quern_oci::registry::RegistryError) -> ImageError {
    ImageError::Registry(error.into())
}

/// The cache that a manifest is, or the one inside an image.
fn found<S: Source>(place: &S, root: &Descriptor) -> Result<Option<FoundCache>, ImageError>
where
    ImageError: From<S::Error>,
{
    if let Some(found) = find_cache(place, root)? {
        return Ok(Some(found));
    }
    let inline = find_inline(place, root, &Limits::default())?;
    Ok(of_inline(&inline))
}

/// The caches inside the images of an index as one of its own. Those that cannot be read are left out.
fn of_inline(inline: &[InlineCache]) -> Option<FoundCache> {
    let (mut layers, mut records, mut descriptors) = (Vec::new(), Vec::new(), Vec::new());
    for image in inline {
        let Some(own) = BASE64_STANDARD.decode(&image.records).ok() else { continue };
        let Ok(Value::Array(mut own)) = serde_json::from_slice(&own) else { continue };
        for record in &mut own {
            renumber(record, records.len(), layers.len());
        }
        records.extend(own);
        let first = layers.len();
        for (number, layer) in image.layers.iter().enumerate() {
            let parent = if number == 0 { json!(-1) } else { json!(first + number - 1) };
            layers.push(json!({
                "blob": layer.descriptor.digest.to_string(),
                "parent": parent,
                "annotations": {
                    "mediaType": layer.descriptor.media_type,
                    "diffID": layer.diff_id.to_string(),
                    "size": layer.descriptor.size,
                },
            }));
            descriptors.push(quern_oci::cache::cache_layer(layer, None));
        }
    }
    let config = json!({ "layers": layers, "records": records }).to_string().into_bytes();
    (!records.is_empty()).then_some(FoundCache { config, layers: descriptors })
}

/// Counts the records and layers that a record names from others on.
fn renumber(record: &mut Value, records: usize, layers: usize) {
    let add = |number: &mut Value, more: usize| {
        if let Some(old) = number.as_u64() {
            *number = json!(old + more as u64);
        }
    };
    fn each(value: &mut Value) -> impl Iterator<Item = &mut Value> {
        value.as_array_mut().into_iter().flatten()
    }
    if let Some(inputs) = record.get_mut("inputs") {
        each(inputs)
            .flat_map(each)
            .filter_map(|input| input.get_mut("link"))
            .for_each(|link| add(link, records));
    }
    if let Some(chains) = record.get_mut("chains") {
        let chains = each(chains).filter_map(|chain| chain.get_mut("layers"));
        chains.flat_map(each).for_each(|layer| add(layer, layers));
    }
}

fn read(
    id: &str,
    found: Option<FoundCache>,
    images: &Arc<ImageStore>,
    place: &CachePlace,
) -> Result<KeyedCache, CacheConfigError> {
    let Some(FoundCache { config, layers }) = found else {
        return Err(CacheConfigError::NotFound(id.to_owned()));
    };
    let documents = assemble_cache(config, layers, CacheForm::Manifest);
    let (images, place) = (Arc::clone(images), place.clone());
    let loader = Arc::new(move |remote: &Remote| load(&images, &place, remote).map(SharedResult::new));
    import_cache(id, &Documents([documents.config, documents.manifest]), "", loader)
}

/// Fetches the layers of a result and puts them on disk.
fn load(images: &ImageStore, place: &CachePlace, remote: &Remote) -> Result<Snapshot, CacheError> {
    let layers = remote.descriptors.iter().map(|layer| {
        let diff_id = layer.annotations.get(UNCOMPRESSED).and_then(|text| text.parse().ok());
        let diff_id = diff_id.ok_or_else(|| CacheError::Inconsistent("a layer has no diff id".into()))?;
        let mut blob = of_solver(layer.clone());
        blob.annotations.retain(|name, _| name != UNCOMPRESSED && name != CREATED_AT);
        Ok(ImageLayer { diff_id, blob: Some(blob) })
    });
    let layers = layers.collect::<Result<Vec<_>, CacheError>>()?;
    let taken = match place {
        CachePlace::Registry(reference) => {
            let registry = images.registry();
            let repository = Repository::of(reference);
            images.take_layers(&RemotePlace { registry, repository, document_limit: LARGEST }, &layers)
        }
        CachePlace::Local(folder, _) => Layout::open(folder, &Limits::default())
            .map_err(ImageError::from)
            .and_then(|layout| images.take_layers(&layout, &layers)),
    };
    let snapshot = taken.and_then(|()| images.layers_on_disk(layers, &Cancel::default()));
    // A layer that cannot be had is as good as none: the step runs.
    snapshot.map_err(|_| CacheError::NotFound)
}

/// Two documents as a place.
struct Documents([Document; 2]);

impl CacheBlobs for Documents {
    fn has(&self, digest: &Digest) -> Result<bool, CacheError> {
        Ok(self.0.iter().any(|document| document.descriptor.digest == *digest))
    }

    fn read(&self, digest: &Digest) -> Result<Vec<u8>, CacheError> {
        let found = self.0.iter().find(|document| document.descriptor.digest == *digest);
        found.map(|document| document.bytes.clone()).ok_or(CacheError::NotFound)
    }

    fn write(&self, _: &Digest, _: &[u8]) -> Result<(), CacheError> {
        Err(CacheError::ReadOnly("imported".into()))
    }

    fn manifest(&self, _: &str) -> Result<Option<quern_solver::Descriptor>, CacheError> {
        let Descriptor { media_type, digest, size, annotations, .. } = self.0[1].descriptor.clone();
        Ok(Some(quern_solver::Descriptor { media_type, digest, size, annotations }))
    }

    fn publish(&self, _: &str, _: &quern_solver::Descriptor) -> Result<(), CacheError> {
        Err(CacheError::ReadOnly("imported".into()))
    }
}
