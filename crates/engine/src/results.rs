//! What the solver's cache keeps: results of every kind side by side, told apart by the first word of their ids.

use std::sync::Arc;

use quern_core::port::Blobs;
use quern_solver::{CacheError, CacheResult, CacheResultStorage, Remote, SharedResult, Timestamp};
use quern_store::Root;
use quern_store::layers::LayerStore;

use crate::snapshot::{self, Snapshot, SnapshotResults};
use crate::step_op::{self, StepResults};

/// Results of steps and of image builds.
pub struct Results {
    steps: StepResults,
    snapshots: SnapshotResults,
}

impl Results {
    /// Results kept in these places.
    pub fn new(blobs: Arc<dyn Blobs>, layers: Arc<LayerStore>) -> Self {
        Self { steps: StepResults::new(blobs), snapshots: SnapshotResults::new(layers) }
    }

    fn of_id(&self, id: &str) -> &dyn CacheResultStorage {
        if id.starts_with("snapshot") { &self.snapshots } else { &self.steps }
    }
}

/// What a cached result needs to stay usable.
pub fn content_of(id: &str) -> Vec<Root> {
    match snapshot::decode(id) {
        Some(snapshot) => snapshot.layers().iter().map(|layer| Root::Layer(*layer)).collect(),
        None => step_op::content_of(id),
    }
}

impl CacheResultStorage for Results {
    fn save(&self, result: &SharedResult, created_at: Timestamp) -> Result<CacheResult, CacheError> {
        match result.get::<Snapshot>() {
            Some(_) => self.snapshots.save(result, created_at),
            None => self.steps.save(result, created_at),
        }
    }

    fn load(&self, result: &CacheResult) -> Result<SharedResult, CacheError> {
        self.of_id(&result.id).load(result)
    }

    fn load_remotes(&self, result: &CacheResult) -> Vec<Remote> {
        self.of_id(&result.id).load_remotes(result)
    }

    fn exists(&self, result: &str) -> Result<bool, CacheError> {
        self.of_id(result).exists(result)
    }

    /// What was pruned is noticed when it is loaded, and made again; to ask for each of a hundred thousand results
    /// whenever the cache is opened would cost more than all of them are worth.
    fn may_lose(&self) -> bool {
        false
    }

    fn size(&self, result: &CacheResult) -> u64 {
        self.of_id(&result.id).size(result)
    }
}
