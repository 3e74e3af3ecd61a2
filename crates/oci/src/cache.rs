//! Build caches in registries and layouts, in the forms that BuildKit writes and reads: the configuration, whose bytes the
//! solver makes, in the place of an image's config, with the layers that it numbers.

use std::collections::BTreeMap;

use crate::document::{self, Assembled, Descriptor, Document, Format, Manifest, assemble_index, media};
use crate::image::{ImageProblem, Layer, Source, contents};
use crate::limits::Limits;

/// The type of a cache's configuration.
pub const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// The annotation of a layer with the digest of its plain stream.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The annotation of a layer with the time when it was made, RFC 3339.
pub const CREATED_AT: &str = "buildkit/createdat";

/// BuildKit refuses to import a configuration or a manifest with more bytes.
pub const BUILDKIT_LIMIT: u64 = 1 << 20;

/// How a cache is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheForm {
    /// As an image manifest, which every registry takes (`image-manifest=true`, the default of BuildKit 0.21).
    #[default]
    Manifest,
    /// As an index of layers with the configuration at the end (`image-manifest=false`).
    Index(Format),
}

/// A cache as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundCache {
    /// The bytes of its configuration.
    pub config: Vec<u8>,
    /// The layers that are there, with their annotations. The configuration names them by digest.
    pub layers: Vec<Descriptor>,
}

/// A cache inside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineCache {
    /// Base64 of a JSON array of records, which number the layers of the image from the lowest.
    pub records: String,
    /// The layers of the image, lowest first.
    pub layers: Vec<Layer>,
}

/// The layer as an entry of a cache; `created` is RFC 3339.
pub fn cache_layer(layer: &Layer, created: Option<&str>) -> Descriptor {
    let mut descriptor = layer.descriptor.clone();
    descriptor.media_type = Format::Oci.layer(&descriptor.media_type).to_owned();
    descriptor.annotations.insert(UNCOMPRESSED.to_owned(), layer.diff_id.to_string());
    if let Some(created) = created {
        descriptor.annotations.insert(CREATED_AT.to_owned(), created.to_owned());
    }
    descriptor
}

/// Makes the documents of a cache from its configuration and its layers.
pub fn assemble_cache(config: Vec<u8>, layers: Vec<Descriptor>, form: CacheForm) -> Assembled {
    let config = Document::of(CACHE_CONFIG, config);
    let manifest = match form {
        CacheForm::Manifest => {
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(media::MANIFEST.to_owned()),
                config: config.descriptor.clone(),
                layers,
                annotations: BTreeMap::new(),
            };
            Document::json(media::MANIFEST, &manifest)
        }
        CacheForm::Index(format) => {
            let typed = |layer: Descriptor| {
                let media_type = format.layer(&layer.media_type).to_owned();
                Descriptor { media_type, ..layer }
            };
            let mut entries: Vec<_> = layers.into_iter().map(typed).collect();
            entries.push(config.descriptor.clone());
            assemble_index(entries, format, BTreeMap::new())
        }
    };
    Assembled { config, manifest }
}

/// Reads the cache that a manifest or an index holds; none if it is something else, such as an image.
///
/// # Errors
/// Those of the place, and an [`ImageProblem`] inside of them.
pub fn find_cache<S: Source>(source: &S, root: &Descriptor) -> Result<Option<FoundCache>, S::Error> {
    let problem = |what| move |problem| ImageProblem::Document { what, digest: root.digest, problem };
    let (config, layers) = if media::is_index(&root.media_type) {
        let bytes = source.document(root, "an index")?;
        let index = document::index(&bytes, &root.media_type).map_err(problem("index"))?;
        let (mut configs, layers): (Vec<_>, Vec<_>) =
            index.manifests.into_iter().partition(|entry| entry.media_type == CACHE_CONFIG);
        let Some(config) = configs.pop() else { return Ok(None) };
        (config, layers)
    } else {
        let bytes = source.document(root, "a manifest")?;
        let manifest = document::manifest(&bytes, &root.media_type).map_err(problem("manifest"))?;
        if manifest.config.media_type != CACHE_CONFIG {
            return Ok(None);
        }
        (manifest.config, manifest.layers)
    };
    let config = source.document(&config, "a cache's configuration")?;
    Ok(Some(FoundCache { config, layers }))
}

/// Reads the caches inside of all images below a root: one for each image that has one.
///
/// # Errors
/// Those of the place, and an [`ImageProblem`] inside of them.
pub fn find_inline<S: Source>(
    source: &S,
    root: &Descriptor,
    limits: &Limits,
) -> Result<Vec<InlineCache>, S::Error> {
    let mut found = Vec::new();
    for document in contents(source, root, limits)?.documents {
        let Document { descriptor, bytes } = document;
        if !media::is_manifest(&descriptor.media_type) {
            continue;
        }
        let problem =
            |what| move |problem| ImageProblem::Document { what, digest: descriptor.digest, problem };
        let manifest = document::manifest(&bytes, &descriptor.media_type).map_err(problem("manifest"))?;
        if !media::is_config(&manifest.config.media_type) {
            continue;
        }
        let config = source.document(&manifest.config, "a config")?;
        let config = document::config(&config).map_err(problem("config"))?;
        let diff_ids = config.rootfs.diff_ids;
        if let Some(records) = config.inline_cache
            && diff_ids.len() == manifest.layers.len()
        {
            let layers = manifest.layers.into_iter().zip(diff_ids);
            let layers = layers.map(|(descriptor, diff_id)| Layer { descriptor, diff_id }).collect();
            found.push(InlineCache { records, layers });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{ImageConfig, Platform, assemble};
    use crate::image::Stored;
    use quern_core::Digest;
    use quern_core::port::Blobs;
    use quern_testkit::MemBlobs;

    fn layer(blobs: &MemBlobs, text: &str) -> Layer {
        blobs.put(text.as_bytes()).unwrap();
        let (digest, size) = (Digest::of(text.as_bytes()), text.len() as u64);
        Layer { descriptor: Descriptor::new(media::LAYER_GZIP, digest, size), diff_id: Digest::of(b"plain") }
    }

    #[test]
    fn both_forms_are_written_and_found() {
        let blobs = MemBlobs::default();
        let layers: Vec<_> =
            ["one", "two"].map(|text| cache_layer(&layer(&blobs, text), Some("2026-01-02T03:04:05Z"))).into();
        let source = Stored { blobs: &blobs, document_limit: BUILDKIT_LIMIT };
        let forms = [CacheForm::Manifest, CacheForm::Index(Format::Oci), CacheForm::Index(Format::Docker)];
        for form in forms {
            let made = assemble_cache(b"{\"layers\":[]}".to_vec(), layers.clone(), form);
            blobs.put(&made.config.bytes).unwrap();
            blobs.put(&made.manifest.bytes).unwrap();
            let found = find_cache(&source, &made.manifest.descriptor).unwrap().unwrap();
            assert_eq!(found.config, made.config.bytes);
            let same = |one: &Descriptor, other: &Descriptor| {
                (one.digest, &one.annotations) == (other.digest, &other.annotations)
            };
            assert!(
                found.layers.iter().zip(&layers).all(|(one, other)| same(one, other))
                    && found.layers.len() == 2
            );
            assert_eq!(
                contents(&source, &made.manifest.descriptor, &Limits::default()).unwrap().blobs.len(),
                3
            );
            assert_eq!(find_inline(&source, &made.manifest.descriptor, &Limits::default()).unwrap(), []);
        }
        let annotations = &layers[0].annotations;
        assert_eq!(annotations["containerd.io/uncompressed"], Digest::of(b"plain").to_string());
        assert_eq!(annotations["buildkit/createdat"], "2026-01-02T03:04:05Z");
    }

    #[test]
    fn caches_inside_of_images() {
        let blobs = MemBlobs::default();
        let layer = layer(&blobs, "one");
        let platform = |arch: &str| Platform {
            architecture: arch.into(),
            os: "linux".into(),
            os_version: None,
            variant: None,
        };
        let image = |arch, inline_cache: Option<&str>| {
            let inline_cache = inline_cache.map(str::to_owned);
            let config = ImageConfig { inline_cache, ..ImageConfig::new(platform(arch)) };
            let made = assemble(&config, std::slice::from_ref(&layer), Format::Oci, BTreeMap::new());
            blobs.put(&made.config.bytes).unwrap();
            blobs.put(&made.manifest.bytes).unwrap();
            made.manifest.descriptor
        };
        let manifests = vec![image("amd64", Some("W10=")), image("arm64", None)];
        let index = assemble_index(manifests.clone(), Format::Oci, BTreeMap::new());
        blobs.put(&index.bytes).unwrap();
        let source = Stored { blobs: &blobs, document_limit: BUILDKIT_LIMIT };
        let found = find_inline(&source, &index.descriptor, &Limits::default()).unwrap();
        assert_eq!(found, [InlineCache { records: "W10=".into(), layers: vec![layer.clone()] }]);
        assert_eq!(find_cache(&source, &index.descriptor).unwrap(), None);
        assert_eq!(find_cache(&source, &manifests[0]).unwrap(), None);
    }
}
