//! A directory of the user that a build reads: looked at once, and only where some instruction needs it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
    /// Looked at, until digests are needed.
    looked: Mutex<Option<Looked>>,
    surveyed: OnceLock<Result<Context, Arc<SurveyError>>>,
}

/// A directory that was looked at.
struct Looked {
    found: Result<Context, Arc<SurveyError>>,
    /// Whether no file has to be read. One that could not be looked at is left to whoever reads it.
    is_known: bool,
}

impl LocalContext {
    /// A directory, of which what `ignore` says is left out. Nothing is looked at yet.
    pub fn new(id: Id, dir: PathBuf, ignore: DockerIgnore, memory: PathBuf, layers: Arc<LayerStore>) -> Self {
        let (wanted, looked, surveyed) = (Mutex::default(), Mutex::default(), OnceLock::new());
        Self { id, dir, ignore, memory, layers, wanted, looked, surveyed }
    }

    /// Names this look at the directory.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a path or pattern that will be read. Too late once anything was read.
    pub fn want(&self, path: &Path) {
        self.wanted().insert(path.to_owned());
    }

    /// The files, as they were when the first operation asked.
    ///
    /// # Errors
    /// [`SurveyError`], the same for everyone who asks.
    pub fn files(&self) -> Result<&Context, Arc<SurveyError>> {
        let surveyed = self.surveyed.get_or_init(|| {
            let looked = self.looked().take().unwrap_or_else(|| self.look());
            let mut context = looked.found?;
            if !looked.is_known {
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

    /// Whether no file has to be read, by what is remembered now.
    pub fn is_known(&self) -> bool {
        if self.surveyed.get().is_some() || self.wanted().is_empty() {
            return true;
        }
        let mut looked = self.looked();
        match &mut *looked {
            None => looked.insert(self.look()).is_known,
            Some(looked) => {
                if let (Ok(context), false) = (&mut looked.found, looked.is_known) {
                    context.take_in();
                    looked.is_known = context.is_known();
                }
                looked.is_known
            }
        }
    }

    /// Writes down what was read, where other processes find it.
    pub fn remember(&self) {
        if let Some(Ok(context)) = self.surveyed.get() {
            context.remember();
        }
    }

    fn looked(&self) -> MutexGuard<'_, Option<Looked>> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Looked {
        let wanted: Vec<PathBuf> = self.wanted().iter().cloned().collect();
        let ignore = Ignore(&self.ignore);
        let survey = Survey {
            ignore: (!self.ignore.is_empty()).then_some(&ignore as &dyn PathFilter),
            wanted: &wanted,
            memory: Some(&self.memory),
        };
        let found = Context::survey(&self.dir, &survey).map_err(Arc::new);
        let is_known = found.as_ref().map_or(true, Context::is_known);
        Looked { found, is_known }
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use quern_core::port::Ids as _;
    use quern_store::files::FileSource as _;
    use quern_store::{OpenOptions, Store};
    use quern_testkit::{SequentialIds, TempSpace};

    use super::*;

    #[test]
    fn of_two_that_look_at_a_directory_one_reads_it() {
        let space = TempSpace::new();
        let file = space.write("app/in", "1");
        let store = Store::open(&space.path("state"), &OpenOptions::default()).unwrap();
        let layers = Arc::new(LayerStore::of(&store));
        let ids = SequentialIds::default();
        let look = || {
            let memory = store.layout().imports();
            let ignore = DockerIgnore::default();
            let context =
                LocalContext::new(ids.fresh(), space.path("app"), ignore, memory, Arc::clone(&layers));
            context.want(Path::new("in"));
            context
        };
        let waiting = look();
        assert!(!waiting.is_known());
        // A file that was written a moment ago is read until its time says that it was not written since.
        while !look().is_known() {
            look().files().unwrap();
        }
        assert!(waiting.is_known());
        std::fs::remove_file(file).unwrap();
        let files = waiting.files().unwrap();
        let stat = files.stat(Path::new("in")).unwrap().unwrap();
        assert_eq!(files.content(Path::new("in"), &stat).unwrap().digest, quern_core::Digest::of(b"1"));
        assert!(look().is_known(), "what nobody wants any more needs no reading");
    }
}
