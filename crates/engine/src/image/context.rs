//! A directory of the user that a build reads: looked at once, and only where some instruction needs it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quern_core::Id;
use quern_spec::dockerfile::DockerIgnore;
use quern_store::files::{Context, PathFilter, Survey, SurveyError};

use super::ignore::Ignore;

/// A build context. Lowering says which paths it wants; the first operation that reads has them all looked at together.
pub struct LocalContext {
    /// Tells this look at the directory from later ones.
    id: Id,
    dir: PathBuf,
    ignore: DockerIgnore,
    /// Where digests of files are remembered.
    memory: PathBuf,
    wanted: Mutex<BTreeSet<PathBuf>>,
    surveyed: OnceLock<Result<Context, Arc<SurveyError>>>,
}

impl LocalContext {
    /// A directory, of which what `ignore` says is left out. Nothing is looked at yet.
    pub fn new(id: Id, dir: PathBuf, ignore: DockerIgnore, memory: PathBuf) -> Self {
        let (wanted, surveyed) = (Mutex::default(), OnceLock::new());
        Self { id, dir, ignore, memory, wanted, surveyed }
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
            Context::survey(&self.dir, &survey).map_err(Arc::new)
        });
        surveyed.as_ref().map_err(Arc::clone)
    }
}
