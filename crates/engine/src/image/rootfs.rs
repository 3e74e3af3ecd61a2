//! Snapshots as root file systems: what the executor asks for while images are built.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use quern_core::Digest;
use quern_core::port::{Image, Images, Layers as _, PortError, RootFs, RootLayout};
use quern_core::step::Platform;
use quern_store::layers::LayerStore;

use crate::snapshot::Snapshot;

/// Knows the snapshots that steps of this process run in, and passes every other image on.
pub struct SnapshotRoots {
    images: Arc<dyn Images>,
    layers: Arc<LayerStore>,
    /// Snapshots by identity, with the number of steps that use them.
    known: Mutex<BTreeMap<Digest, (Snapshot, usize)>>,
}

impl SnapshotRoots {
    /// Roots over these layers; other images are `images`'.
    pub fn new(images: Arc<dyn Images>, layers: Arc<LayerStore>) -> Self {
        Self { images, layers, known: Mutex::default() }
    }

    /// The layers.
    pub fn layers(&self) -> &Arc<LayerStore> {
        &self.layers
    }

    /// Makes a snapshot known to the executor until the answer is dropped.
    pub(super) fn announce(&self, snapshot: &Snapshot) -> Announced<'_> {
        let id = snapshot.id();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(id).or_insert_with(|| (snapshot.clone(), 0)).1 += 1;
        Announced { roots: self, id }
    }
}

/// A snapshot the executor knows.
pub(super) struct Announced<'a> {
    roots: &'a SnapshotRoots,
    id: Digest,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let mut known = self.roots.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, users)) = known.get_mut(&self.id) {
            *users -= 1;
            if *users == 0 {
                known.remove(&self.id);
            }
        }
    }
}

impl Images for SnapshotRoots {
    fn resolve(&self, name: &str, platform: &Platform) -> Result<Image, PortError> {
        self.images.resolve(name, platform)
    }

    fn rootfs(&self, image: &Digest) -> Result<RootFs, PortError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((snapshot, _)) = known.get(image) else {
            drop(known);
            return self.images.rootfs(image);
        };
        let open = self.layers.open(snapshot.layers())?;
        Ok(RootFs { layout: RootLayout::Layers(open.dirs), lease: open.lease })
    }
}
