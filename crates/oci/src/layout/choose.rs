//! From an entry document to one image: by tag, through nested indexes, by platform.

use std::collections::BTreeSet;

use quern_core::Digest;
use quern_core::step::Platform;

use super::{Image, Layer, Layout, LayoutError};
use crate::document::{self, Descriptor, ImageConfig, Index, Manifest, REF_NAME, REFERENCE_TYPE, media};

/// Indexes inside indexes; nobody makes more than two.
const MAX_DEPTH: usize = 8;

/// The tags in an index, each once.
pub(super) fn tags(index: &Index) -> Vec<String> {
    let names: BTreeSet<_> =
        index.manifests.iter().filter_map(|entry| entry.annotations.get(REF_NAME)).collect();
    names.into_iter().cloned().collect()
}

/// Finds, reads and checks one image.
pub(super) fn choose(layout: &Layout, tag: Option<&str>, platform: &Platform) -> Result<Image, LayoutError> {
    let entries = tagged(layout, tag)?;
    let mut search =
        Search { layout, platform, seen: BTreeSet::new(), found: Vec::new(), others: Vec::new() };
    for entry in entries {
        search.visit(entry, 0)?;
    }
    let Search { mut found, others, .. } = search;
    if tag.is_none() && found.len() > 1 {
        return Err(LayoutError::Ambiguous { path: layout.path.clone(), known: layout.tags() });
    }
    if found.is_empty() {
        let wanted = format!("{}/{}", platform.os, platform.arch);
        return Err(LayoutError::NoSuchPlatform { wanted, known: others });
    }
    // Several variants of one platform: the first is the one its maker prefers.
    found.swap_remove(0).image(layout.limits.layers)
}

fn tagged<'a>(layout: &'a Layout, tag: Option<&str>) -> Result<Vec<&'a Descriptor>, LayoutError> {
    let entries = layout.index.manifests.iter();
    let Some(tag) = tag else { return Ok(entries.collect()) };
    let matches: Vec<_> = entries.filter(|entry| has_tag(entry, tag)).collect();
    if matches.is_empty() {
        let (path, known) = (layout.path.clone(), layout.tags());
        return Err(LayoutError::NoSuchTag { path, tag: tag.to_owned(), known });
    }
    Ok(matches)
}

/// Some tools write the tag alone, others the whole name of the image.
fn has_tag(entry: &Descriptor, tag: &str) -> bool {
    entry.annotations.get(REF_NAME).is_some_and(|name| {
        name == tag || name.strip_suffix(tag).is_some_and(|image| image.ends_with(':') && !tag.contains('/'))
    })
}

struct Search<'a> {
    layout: &'a Layout,
    platform: &'a Platform,
    seen: BTreeSet<Digest>,
    found: Vec<Candidate>,
    /// Platforms of images that do not fit.
    others: Vec<String>,
}

struct Candidate {
    digest: Digest,
    manifest: Manifest,
    config: ImageConfig,
}

impl Search<'_> {
    fn visit(&mut self, entry: &Descriptor, depth: usize) -> Result<(), LayoutError> {
        let not_for_running = entry.annotations.contains_key(REFERENCE_TYPE);
        if not_for_running || !self.seen.insert(entry.digest) {
            return Ok(());
        }
        let refuse = |reason: &str| LayoutError::Image { digest: entry.digest, reason: reason.to_owned() };
        if self.seen.len() > self.layout.limits.documents {
            return Err(refuse("it refers to too many manifests"));
        }
        if let Some(platform) = &entry.platform
            && !platform.satisfies(self.platform)
        {
            self.others.push(platform.name());
            return Ok(());
        }
        let problem = |what| move |problem| LayoutError::Document { what, digest: entry.digest, problem };
        if media::is_index(&entry.media_type) {
            if depth == MAX_DEPTH {
                return Err(refuse("its indexes are nested too deeply"));
            }
            let bytes = self.layout.document(entry, "an index")?;
            let index = document::index(&bytes, &entry.media_type).map_err(problem("index"))?;
            return index.manifests.iter().try_for_each(|entry| self.visit(entry, depth + 1));
        }
        if !media::is_manifest(&entry.media_type) {
            return Ok(()); // Some other artifact beside the images.
        }
        let bytes = self.layout.document(entry, "a manifest")?;
        let manifest = document::manifest(&bytes, &entry.media_type).map_err(problem("manifest"))?;
        if media::is_config(&manifest.config.media_type) {
            self.candidate(entry, manifest)?;
        }
        Ok(())
    }

    fn candidate(&mut self, entry: &Descriptor, manifest: Manifest) -> Result<(), LayoutError> {
        let bytes = self.layout.document(&manifest.config, "a config")?;
        let config = document::config(&bytes).map_err(|problem| LayoutError::Document {
            what: "config",
            digest: manifest.config.digest,
            problem,
        })?;
        if config.platform.satisfies(self.platform) {
            self.found.push(Candidate { digest: entry.digest, manifest, config });
        } else {
            self.others.push(config.platform.name());
        }
        Ok(())
    }
}

impl Candidate {
    fn image(self, max_layers: usize) -> Result<Image, LayoutError> {
        let refuse = |reason| LayoutError::Image { digest: self.digest, reason };
        let (layers, diff_ids) = (self.manifest.layers, &self.config.rootfs.diff_ids);
        if layers.len() != diff_ids.len() {
            return Err(refuse(format!(
                "the manifest has {} layers but the config describes {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        if layers.len() > max_layers {
            return Err(refuse(format!("it has more than {max_layers} layers")));
        }
        if let Some(layer) = layers.iter().find(|layer| !media::is_layer(&layer.media_type)) {
            return Err(refuse(format!(
                "a layer is of type `{}`, which cannot be unpacked",
                layer.media_type
            )));
        }
        let layers = layers.into_iter().zip(diff_ids.iter().copied());
        Ok(Image {
            manifest: self.digest,
            layers: layers.map(|(descriptor, diff_id)| Layer { descriptor, diff_id }).collect(),
            config: self.config,
        })
    }
}
