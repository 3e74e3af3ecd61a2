//! File systems as stacks of layers: the results of image builds, and how the cache keeps them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use quern_core::Digest;
use quern_core::canon::{Canon, Visitor};
use quern_core::port::{Layers as _, OpenLayers, PortError};
use quern_solver::{CacheError, CacheResult, CacheResultStorage, Remote, SharedResult, Timestamp};
use quern_store::layers::LayerStore;

/// A file system: layers, lowest first. The empty stack is `scratch`. Clones share the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(Arc<[Digest]>);

impl Snapshot {
    /// The empty file system.
    pub fn scratch() -> Self {
        Self(Arc::default())
    }

    /// A stack of these layers, lowest first.
    pub fn new(layers: impl Into<Arc<[Digest]>>) -> Self {
        Self(layers.into())
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[Digest] {
        &self.0
    }

    /// This stack with further layers on top.
    #[must_use]
    pub fn with(&self, above: &[Digest]) -> Self {
        Self(self.0.iter().chain(above).copied().collect())
    }

    /// What identifies it as the root file system of a step.
    pub fn id(&self) -> Digest {
        self.digest()
    }
}

impl Canon for Snapshot {
    const DOMAIN: &'static str = "quern.snapshot.v1";

    fn walk(&self, v: &mut dyn Visitor) {
        for layer in self.layers() {
            v.digest("layer", layer);
        }
    }
}

/// Snapshots in the solver's cache. A result's id names every layer, so there is nothing to store besides them. The layers of
/// what was saved or loaded are held until this is dropped, so that no prune takes them from a build that goes on.
pub struct SnapshotResults {
    layers: Arc<LayerStore>,
    held: Mutex<HashMap<Digest, OpenLayers>>,
}

impl SnapshotResults {
    /// Results whose layers are kept in this store.
    pub fn new(layers: Arc<LayerStore>) -> Self {
        Self { layers, held: Mutex::default() }
    }
}

impl SnapshotResults {
    /// Keeps the layers of a snapshot; false if one is gone.
    fn hold(&self, snapshot: &Snapshot) -> Result<bool, PortError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for layer in snapshot.layers() {
            if let Entry::Vacant(place) = held.entry(*layer) {
                match self.layers.open(&[*layer]) {
                    Ok(open) => place.insert(open),
                    Err(PortError::Missing(_)) => return Ok(false),
                    Err(error) => return Err(error),
                };
            }
        }
        Ok(true)
    }
}

impl CacheResultStorage for SnapshotResults {
    fn save(&self, result: &SharedResult, created_at: Timestamp) -> Result<CacheResult, CacheError> {
        let snapshot = result
            .get::<Snapshot>()
            .ok_or_else(|| CacheError::storage("a result that is not a snapshot was given to the cache"))?;
        // One that is gone already is noticed by whoever uses it.
        self.hold(snapshot).map_err(CacheError::storage)?;
        Ok(CacheResult { id: encode(snapshot).into(), created_at })
    }

    fn load(&self, result: &CacheResult) -> Result<SharedResult, CacheError> {
        let snapshot = decode(&result.id).ok_or(CacheError::NotFound)?;
        match self.hold(&snapshot).map_err(CacheError::storage)? {
            true => Ok(SharedResult::new(snapshot)),
            false => Err(CacheError::NotFound),
        }
    }

    fn load_remotes(&self, _: &CacheResult) -> Vec<Remote> {
        Vec::new()
    }

    fn exists(&self, result: &str) -> Result<bool, CacheError> {
        let Some(snapshot) = decode(result) else { return Ok(false) };
        for layer in snapshot.layers() {
            if !self.layers.exists(layer).map_err(CacheError::storage)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As for steps: a layer that was pruned is noticed when it is loaded, and made again.
    fn may_lose(&self) -> bool {
        false
    }

    fn size(&self, _: &CacheResult) -> u64 {
        0
    }
}

/// `snapshot LAYER*`.
pub fn encode(snapshot: &Snapshot) -> String {
    let mut text = String::from("snapshot");
    for layer in snapshot.layers() {
        text.push(' ');
        text.push_str(&layer.hex());
    }
    text
}

/// Reads what [`encode`] wrote; none for anything else.
pub fn decode(id: &str) -> Option<Snapshot> {
    let rest = id.strip_prefix("snapshot")?;
    let mut words = rest.split(' ');
    words.next().filter(|empty| empty.is_empty())?;
    words.map(|hex| Digest::from_hex(hex).ok()).collect::<Option<Vec<_>>>().map(Snapshot::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_results_id_names_its_layers() {
        for layers in [vec![], vec![Digest::of(b"a")], vec![Digest::of(b"a"), Digest::of(b"b")]] {
            let snapshot = Snapshot::new(layers);
            assert_eq!(decode(&encode(&snapshot)), Some(snapshot));
        }
        for text in ["", "snapshots", "snapshot x", "step 1", "snapshot  "] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn order_and_length_matter() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let stack = Snapshot::new(vec![a, b]);
        assert_eq!(Snapshot::scratch().with(&[a]).with(&[b]), stack);
        assert_ne!(Snapshot::new(vec![b, a]).id(), stack.id());
        assert_ne!(Snapshot::new(vec![a]).id(), stack.id());
    }
}
