//! The limit of `[limits] layers`: kept before a build begins and while it goes on.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use quern_core::port::PortError;
use quern_engine::images::ImageStore;
use quern_store::TidyBudget;
use quern_store::layers::LayerPruneOptions;

use crate::failure::{Failure, eprint_line};
use crate::wiring::Home;

/// How often it is looked whether there is too much.
const LOOK: Duration = Duration::from_secs(2);

/// Watches the layers until dropped.
pub struct Ceiling(Option<(Sender<()>, JoinHandle<()>)>);

impl Ceiling {
    /// Removes what is too much now, and goes on to; nothing happens without a limit.
    ///
    /// Images with names keep their layers, and so does whoever uses one: a build holds what it has made and what it has taken from the cache.
    ///
    /// # Errors
    /// Those of the store.
    pub fn keep(home: &Home) -> Result<Self, Failure> {
        let Some(limit) = home.config.limits.layers else { return Ok(Self(None)) };
        let images = home.image_store()?;
        enforce(&images, limit)?;
        home.store.tidy(&TidyBudget::UNLIMITED)?;
        let (stop, stopped) = mpsc::channel();
        let watcher = std::thread::spawn(move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = enforce(&images, limit) {
                    eprint_line(&format!("warning: the limit of layers cannot be kept: {error}"));
                    return;
                }
            }
        });
        Ok(Self(Some((stop, watcher))))
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        if let Some((stop, watcher)) = self.0.take() {
            drop(stop);
            // A panic of the watcher has been printed already and must not hide the build's own result.
            let _ = watcher.join();
        }
    }
}

fn enforce(images: &ImageStore, limit: u64) -> Result<(), PortError> {
    let layers = images.layers();
    if layers.usage()?.bytes <= limit {
        return Ok(());
    }
    let kept = images.named_layers()?;
    let options = LayerPruneOptions { until_bytes: Some(limit), ..LayerPruneOptions::default() };
    layers.prune(&|id| kept.contains(id), &options)?;
    images.forget_unnamed(false).map(drop)
}
