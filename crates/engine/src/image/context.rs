//! A directory of the user that a build reads: looked at once, and only where some instruction needs it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quern_core::Id;
use quern_spec::dockerfile::DockerIgnore;
use quern_store::files::{Context, PathFilter, Survey, SurveyError};
use quern_store::layers::LayerStore;

use super::ignore::Ignore;

/// A build context. Lowering says which paths it wants; the first operation that reads has them all looked at together.
pub struct LocalContext {
    /// Tells this look at the directory from later ones.
    id: Id,
    dir: PathBuf,
    ignore: DockerIgnore,
    /// Where digests of files are remembered.
    memory: PathBuf,
    /// Has the locks that processes share.
    layers: Arc<LayerStore>,
    wanted: Mutex<BTreeSet<PathBuf>>,
    surveyed: OnceLock<Result<Context, Arc<SurveyError>>>,
}

impl LocalContext {
    /// A directory, of which what `ignore` says is left out. Nothing is looked at yet.
    pub fn new(id: Id, dir: PathBuf, ignore: DockerIgnore, memory: PathBuf, layers: Arc<LayerStore>) -> Self {
        let (wanted, surveyed) = (Mutex::default(), OnceLock::new());
        Self { id, dir, ignore, memory, layers, wanted, surveyed }
    }

    /// Names this look at the directory.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Adds a path or pattern that will be read. Too late once anything was read.
    pub fn want(&self, path: &Path) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
    }

    /// The files, as they were when the first operation asked.
    ///
    /// # Errors
    /// [`SurveyError`], the same for everyone who asks.
    pub fn files(&self) -> Result<&Context, Arc<SurveyError>> {
        let surveyed = self.surveyed.get_or_init(|| {
            let wanted: Vec<PathBuf> =
                self.wanted.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
            let ignore = Ignore(&self.ignore);
            let survey = Survey {
                ignore: (!self.ignore.is_empty()).then_some(&ignore as &dyn PathFilter),
                wanted: &wanted,
                memory: Some(&self.memory),
            };
            let mut context = Context::survey(&self.dir, &survey).map_err(Arc::new)?;
            if !context.is_known() {
                // Of builds that look at the same directory at the same time one reads it.
                let work = super::ops::digest_of("quern.context.v1", |v| {
                    v.bytes("directory", self.dir.as_os_str().as_bytes());
                });
                let _alone = self.layers.alone(&work);
                context.learn();
            }
            Ok(context)
        });
        surveyed.as_ref().map_err(Arc::clone)
    }
}
