//! Everything that an image, or an index of images, consists of.

use std::collections::BTreeSet;

use quern_core::Digest;

use super::choose::MAX_DEPTH;
use super::{ImageProblem, Source};
use crate::document::{self, Descriptor, Document, media};
use crate::limits::Limits;

/// The documents and blobs below a root, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Configs, layers and whatever else the manifests name.
    pub blobs: Vec<Descriptor>,
    /// Manifests and indexes, each after what it names, so the root is the last.
    pub documents: Vec<Document>,
}

/// Follows a manifest or an index to everything it names. Reads documents, but no other blob.
///
/// # Errors
/// Those of the place, and an [`ImageProblem`] inside of them.
pub fn contents<S: Source>(source: &S, root: &Descriptor, limits: &Limits) -> Result<Contents, S::Error> {
    let mut walk = Walk { source, limits, seen: BTreeSet::new(), found: Contents::default() };
    walk.document(root, 0)?;
    Ok(walk.found)
}

struct Walk<'a, S> {
    source: &'a S,
    limits: &'a Limits,
    seen: BTreeSet<Digest>,
    found: Contents,
}

impl<S: Source> Walk<'_, S> {
    fn document(&mut self, descriptor: &Descriptor, depth: usize) -> Result<(), S::Error> {
        if !self.seen.insert(descriptor.digest) {
            return Ok(());
        }
        let refuse =
            |reason: &str| ImageProblem::Image { digest: descriptor.digest, reason: reason.to_owned() };
        if depth > MAX_DEPTH || self.found.documents.len() >= self.limits.documents {
            return Err(refuse("it refers to too many manifests").into());
        }
        let problem =
            |what| move |problem| ImageProblem::Document { what, digest: descriptor.digest, problem };
        let media_type = &descriptor.media_type;
        let bytes = if media::is_index(media_type) {
            let bytes = self.source.document(descriptor, "an index")?;
            let index = document::index(&bytes, media_type).map_err(problem("index"))?;
            for entry in &index.manifests {
                if media::is_index(&entry.media_type) || media::is_manifest(&entry.media_type) {
                    self.document(entry, depth + 1)?;
                } else {
                    self.blob(entry); // An index may name blobs; BuildKit's older cache manifests do.
                }
            }
            bytes
        } else if media::is_manifest(media_type) {
            let bytes = self.source.document(descriptor, "a manifest")?;
            let manifest = document::manifest(&bytes, media_type).map_err(problem("manifest"))?;
            if manifest.layers.len() > self.limits.layers {
                return Err(refuse("it has too many layers").into());
            }
            self.blob(&manifest.config);
            manifest.layers.iter().for_each(|layer| self.blob(layer));
            bytes
        } else {
            return Err(refuse(&format!("it is of type `{media_type}`, not an index or a manifest")).into());
        };
        self.found.documents.push(Document { descriptor: descriptor.clone(), bytes });
        Ok(())
    }

    fn blob(&mut self, descriptor: &Descriptor) {
        if self.seen.insert(descriptor.digest) {
            self.found.blobs.push(descriptor.clone());
        }
    }
}
