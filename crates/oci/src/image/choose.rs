//! From entry documents to one image: through nested indexes, by platform.

use std::collections::BTreeSet;

use quern_core::Digest;
use quern_core::step::Platform;

use super::{Image, ImageProblem, Layer, Source};
use crate::document::{self, Descriptor, ImageConfig, Manifest, REFERENCE_TYPE, media};
use crate::limits::Limits;

/// Indexes inside indexes; nobody makes more than two.
pub(super) const MAX_DEPTH: usize = 8;

/// Finds, reads and checks the image for a platform, and tells how many there are. Of several variants that run there it is
/// the one that makes most use of it, and of equal ones the first, which its maker prefers.
///
/// # Errors
/// Those of the place, and an [`ImageProblem`] inside of them.
pub fn choose<S: Source>(
    source: &S,
    entries: &[Descriptor],
    platform: &Platform,
    limits: &Limits,
) -> Result<(Image, usize), S::Error> {
    let mut search =
        Search { source, platform, limits, seen: BTreeSet::new(), found: Vec::new(), others: Vec::new() };
    for entry in entries {
        search.visit(entry, 0)?;
    }
    let Search { mut found, others, .. } = search;
    let best = found.iter().enumerate().min_by_key(|(_, candidate)| candidate.distance);
    let Some(best) = best.map(|(number, _)| number) else {
        let wanted = document::Platform::of(platform).name();
        return Err(ImageProblem::NoSuchPlatform { wanted, known: others }.into());
    };
    let count = found.len();
    Ok((found.swap_remove(best).image(limits.layers)?, count))
}

struct Search<'a, S> {
    source: &'a S,
    platform: &'a Platform,
    limits: &'a Limits,
    seen: BTreeSet<Digest>,
    found: Vec<Candidate>,
    /// Platforms of images that do not fit.
    others: Vec<String>,
}

struct Candidate {
    /// [`document::Platform::distance`].
    distance: u32,
    entry: Descriptor,
    manifest: Manifest,
    config: ImageConfig,
}

impl<S: Source> Search<'_, S> {
    fn visit(&mut self, entry: &Descriptor, depth: usize) -> Result<(), S::Error> {
        let not_for_running = entry.annotations.contains_key(REFERENCE_TYPE);
        if not_for_running || !self.seen.insert(entry.digest) {
            return Ok(());
        }
        let refuse = |reason: &str| ImageProblem::Image { digest: entry.digest, reason: reason.to_owned() };
        if self.seen.len() > self.limits.documents {
            return Err(refuse("it refers to too many manifests").into());
        }
        if let Some(platform) = &entry.platform
            && !platform.satisfies(self.platform)
        {
            self.others.push(platform.name());
            return Ok(());
        }
        let problem = |what| move |problem| ImageProblem::Document { what, digest: entry.digest, problem };
        if media::is_index(&entry.media_type) {
            if depth == MAX_DEPTH {
                return Err(refuse("its indexes are nested too deeply").into());
            }
            let bytes = self.source.document(entry, "an index")?;
            let index = document::index(&bytes, &entry.media_type).map_err(problem("index"))?;
            return index.manifests.iter().try_for_each(|entry| self.visit(entry, depth + 1));
        }
        if !media::is_manifest(&entry.media_type) {
            return Ok(()); // Some other artifact beside the images.
        }
        let bytes = self.source.document(entry, "a manifest")?;
        let manifest = document::manifest(&bytes, &entry.media_type).map_err(problem("manifest"))?;
        if media::is_config(&manifest.config.media_type) {
            self.candidate(entry, manifest)?;
        }
        Ok(())
    }

    fn candidate(&mut self, entry: &Descriptor, manifest: Manifest) -> Result<(), S::Error> {
        let bytes = self.source.document(&manifest.config, "a config")?;
        let config = document::config(&bytes).map_err(|problem| ImageProblem::Document {
            what: "config",
            digest: manifest.config.digest,
            problem,
        })?;
        // Configs often leave the variant out that the index names.
        let told = entry.platform.as_ref().unwrap_or(&config.platform);
        let same = (&told.os, &told.architecture) == (&config.platform.os, &config.platform.architecture);
        match told.distance(self.platform).filter(|_| same) {
            Some(distance) => {
                self.found.push(Candidate { distance, entry: entry.clone(), manifest, config });
            }
            None => self.others.push(config.platform.name()),
        }
        Ok(())
    }
}

impl Candidate {
    fn image(self, max_layers: usize) -> Result<Image, ImageProblem> {
        let digest = self.entry.digest;
        let refuse = |reason| ImageProblem::Image { digest, reason };
        let (layers, diff_ids) = (&self.manifest.layers, &self.config.rootfs.diff_ids);
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
        let layers = layers.iter().cloned().zip(diff_ids.iter().copied());
        Ok(Image {
            manifest: self.entry,
            config_document: self.manifest.config,
            layers: layers.map(|(descriptor, diff_id)| Layer { descriptor, diff_id }).collect(),
            config: self.config,
        })
    }
}
