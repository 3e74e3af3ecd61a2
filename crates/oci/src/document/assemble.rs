//! The documents of an image that is made here. Equal input gives equal bytes.

use std::collections::BTreeMap;

use quern_core::Digest;
use serde::Serialize;

use super::{Descriptor, ImageConfig, Index, Manifest, RootFs, media};
use crate::image::Layer;

/// A document as it is stored: its bytes, and the descriptor that names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What names it.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Document {
    /// Bytes of a kind.
    pub fn of(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { descriptor: Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64), bytes }
    }

    /// A value as JSON, without spaces, fields in the order of the struct, maps sorted.
    pub fn json(media_type: &str, value: &impl Serialize) -> Self {
        Self::of(media_type, serde_json::to_vec(value).expect("documents have only text keys"))
    }
}

/// Whose media types an image is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// OCI's.
    #[default]
    Oci,
    /// Docker's, for readers from before OCI's.
    Docker,
}

impl Format {
    /// The type of an index.
    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => media::INDEX,
            Self::Docker => media::DOCKER_INDEX,
        }
    }

    /// The type of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media::MANIFEST,
            Self::Docker => media::DOCKER_MANIFEST,
        }
    }

    /// The type of a config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => media::CONFIG,
            Self::Docker => media::DOCKER_CONFIG,
        }
    }

    /// The type of the same layer in this format; other types stay.
    pub fn layer(self, media_type: &str) -> &str {
        const PAIRS: [(&str, &str); 3] = [
            (media::LAYER, media::DOCKER_LAYER),
            (media::LAYER_GZIP, media::DOCKER_LAYER_GZIP),
            (media::LAYER_ZSTD, media::DOCKER_LAYER_ZSTD),
        ];
        let pair = PAIRS.iter().find(|(oci, docker)| *oci == media_type || *docker == media_type);
        pair.map_or(media_type, |(oci, docker)| match self {
            Self::Oci => oci,
            Self::Docker => docker,
        })
    }
}

/// Config and manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    /// The config.
    pub config: Document,
    /// The manifest; its descriptor names the platform, as an index wants it.
    pub manifest: Document,
}

/// Makes config and manifest of an image of these layers, lowest first. What `config` says of layers is replaced.
pub fn assemble(
    config: &ImageConfig,
    layers: &[Layer],
    format: Format,
    annotations: BTreeMap<String, String>,
) -> Assembled {
    let rootfs = RootFs::new(layers.iter().map(|layer| layer.diff_id).collect());
    let config = ImageConfig { rootfs, ..config.clone() };
    let platform = config.platform.clone();
    let config = Document::json(format.config(), &config);
    let typed = |layer: &Layer| {
        let media_type = format.layer(&layer.descriptor.media_type).to_owned();
        Descriptor { media_type, platform: None, ..layer.descriptor.clone() }
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(format.manifest().to_owned()),
        config: config.descriptor.clone(),
        layers: layers.iter().map(typed).collect(),
        annotations,
    };
    let mut manifest = Document::json(format.manifest(), &manifest);
    manifest.descriptor.platform = Some(platform);
    Assembled { config, manifest }
}

/// Makes an index of manifests, in this order.
pub fn assemble_index(
    manifests: Vec<Descriptor>,
    format: Format,
    annotations: BTreeMap<String, String>,
) -> Document {
    let media_type = Some(format.index().to_owned());
    Document::json(format.index(), &Index { schema_version: 2, media_type, manifests, annotations })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{self, Platform};
    use quern_core::step::Platform as Wanted;

    #[test]
    fn an_image_in_both_formats() {
        let platform =
            Platform::of(&Wanted { os: "linux".into(), arch: "amd64".into(), variant: String::new() });
        let layer = Layer {
            descriptor: Descriptor::new(media::LAYER_GZIP, Digest::of(b"blob"), 4),
            diff_id: Digest::of(b"plain"),
        };
        let config = ImageConfig::new(platform);
        for (format, layer_type) in
            [(Format::Oci, media::LAYER_GZIP), (Format::Docker, media::DOCKER_LAYER_GZIP)]
        {
            let made = assemble(&config, std::slice::from_ref(&layer), format, BTreeMap::new());
            assert_eq!(made, assemble(&config, std::slice::from_ref(&layer), format, BTreeMap::new()));
            let manifest = document::manifest(&made.manifest.bytes, format.manifest()).unwrap();
            assert_eq!(manifest.config, made.config.descriptor);
            assert_eq!(manifest.layers[0].media_type, layer_type);
            let read = document::config(&made.config.bytes).unwrap();
            assert_eq!(read.rootfs.diff_ids, [layer.diff_id]);
            let index = assemble_index(vec![made.manifest.descriptor], format, BTreeMap::new());
            assert_eq!(document::index(&index.bytes, format.index()).unwrap().manifests.len(), 1);
        }
    }
}
