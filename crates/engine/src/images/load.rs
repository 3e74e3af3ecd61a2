//! Images of archives: those of `docker save`, and OCI's layout as an archive or a directory.

use std::path::Path;

use quern_core::step::Platform;
use quern_oci::image::{Source as _, choose};
use quern_oci::{Layout, Limits, Reference};

use super::records::ImageRecord;
use super::store::{ImageError, ImageStore};

/// An image that was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its record.
    pub record: ImageRecord,
    /// The names it has there.
    pub names: Vec<Reference>,
}

impl ImageStore {
    /// Takes in every image of a layout that runs on a platform, with the names they have there. Names are recorded when
    /// all of them are here: a layout with a single bad image gives none.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn load(&self, path: &Path, platform: &Platform) -> Result<Vec<Loaded>, ImageError> {
        let limits = Limits::default();
        let layout = Layout::open(path, &limits)?;
        let mut loaded: Vec<Loaded> = Vec::new();
        for (name, entry) in layout.entries() {
            // A tag alone, as some tools write it, names no image.
            let name = name.filter(|name| name.contains(['/', ':'])).and_then(|name| name.parse().ok());
            let (image, _) = choose(&layout, std::slice::from_ref(entry), platform, &limits)?;
            if let Some(known) = loaded.iter_mut().find(|known| known.record.id == image.id()) {
                known.names.extend(name);
                continue;
            }
            let mut record = self.import(&layout, &image)?.record;
            let mut manifest = image.manifest;
            let stored = self.blobs.put(&layout.document(&manifest, "a manifest")?)?;
            debug_assert_eq!(stored.digest, manifest.digest, "a layout compares digests");
            manifest.annotations.clear();
            record.manifest = Some(manifest);
            loaded.push(Loaded { record, names: name.into_iter().collect() });
        }
        for Loaded { record, names } in &loaded {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            self.put(&names, record)?;
        }
        Ok(loaded)
    }
}
