//! [`Layers`] in a temporary directory, and the obligations of the port as a suite.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use quern_core::Digest;
use quern_core::port::{DraftLayer, Layers, OpenLayers, PortError};

/// Layers in a temporary directory that goes away with it.
#[derive(Debug)]
pub struct DirLayers {
    dir: tempfile::TempDir,
    made: AtomicU64,
    drafts: Mutex<u64>,
}

impl DirLayers {
    /// An empty place for layers below `dir`, which must not be an overlay file system itself.
    ///
    /// # Panics
    /// If no directory can be made there.
    pub fn below(dir: &Path) -> Self {
        let dir = tempfile::tempdir_in(dir).expect("a temporary directory can be made");
        Self { dir, made: AtomicU64::new(0), drafts: Mutex::new(0) }
    }

    /// An empty place for layers in the machine's temporary directory.
    ///
    /// # Panics
    /// If no directory can be made there.
    pub fn fresh() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// Makes a layer of what `fill` puts into its directory.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn add(&self, fill: impl FnOnce(&Path) -> io::Result<()>) -> Digest {
        let draft = self.begin().expect("a layer can be made");
        fill(&draft.dir).expect("a layer can be filled");
        self.commit(draft).expect("a layer can be kept")
    }

    /// The directory of a committed layer.
    pub fn path(&self, layer: &Digest) -> PathBuf {
        self.dir.path().join(layer.hex())
    }

    /// Drafts that were neither committed nor discarded.
    pub fn open_drafts(&self) -> u64 {
        *self.drafts.lock().expect("no holder of this lock panics")
    }

    fn count(&self, change: impl FnOnce(u64) -> u64) {
        let mut drafts = self.drafts.lock().expect("no holder of this lock panics");
        *drafts = change(*drafts);
    }
}

impl Layers for DirLayers {
    fn open(&self, layers: &[Digest]) -> Result<OpenLayers, PortError> {
        let dirs = layers.iter().map(|layer| {
            let dir = self.path(layer);
            if dir.is_dir() { Ok(dir) } else { Err(PortError::Missing(*layer)) }
        });
        Ok(OpenLayers { dirs: dirs.collect::<Result<_, _>>()?, lease: Box::new(()) })
    }

    fn begin(&self) -> Result<DraftLayer, PortError> {
        let draft = self.dir.path().join(format!("draft-{}", self.made.fetch_add(1, Ordering::SeqCst)));
        let (dir, work) = (draft.join("dir"), draft.join("work"));
        for dir in [&dir, &work] {
            fs::create_dir_all(dir)
                .map_err(|error| PortError::io(format!("making {}", dir.display()), error))?;
        }
        self.count(|drafts| drafts + 1);
        Ok(DraftLayer { dir, work })
    }

    fn commit(&self, draft: DraftLayer) -> Result<Digest, PortError> {
        let id = Digest::of(draft.dir.as_os_str().as_encoded_bytes());
        fs::rename(&draft.dir, self.path(&id)).map_err(|error| PortError::io("keeping a layer", error))?;
        self.discard(draft);
        Ok(id)
    }

    fn discard(&self, draft: DraftLayer) {
        if let Some(both) = draft.dir.parent() {
            // Owned by this process or it is root, so that modes do not matter but for an ordinary user's directories.
            let _ = make_removable(both);
            fs::remove_dir_all(both).expect("a draft can be removed");
        }
        self.count(|drafts| drafts - 1);
    }
}

fn make_removable(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_removable(&entry.path())?;
        }
    }
    Ok(())
}

/// Runs every obligation of [`Layers`]; `fresh` gives an empty store each time.
///
/// # Panics
/// If an obligation is broken.
pub fn layers_suite(fresh: &dyn Fn() -> Box<dyn Layers>) {
    nothing_opens_as_nothing(&*fresh());
    drafts_are_empty_and_apart(&*fresh());
    layers_open_in_the_order_asked_for(&*fresh());
    equal_layers_are_different_layers(&*fresh());
    an_absent_layer_is_named(&*fresh());
    files_keep_what_they_are(&*fresh());
    a_discarded_draft_leaves_nothing(&*fresh());
    threads_make_layers_at_once(&*fresh());
}

fn layer_with(layers: &dyn Layers, text: &str) -> Digest {
    let draft = layers.begin().expect("a layer can be begun");
    fs::write(draft.dir.join("file"), text).expect("a draft can be written to");
    layers.commit(draft).expect("a layer can be kept")
}

fn open_one(layers: &dyn Layers, layer: Digest) -> OpenLayers {
    let open = layers.open(&[layer]).expect("a layer opens");
    assert_eq!(open.dirs.len(), 1);
    open
}

fn nothing_opens_as_nothing(layers: &dyn Layers) {
    assert!(layers.open(&[]).expect("no layers open").dirs.is_empty());
}

fn drafts_are_empty_and_apart(layers: &dyn Layers) {
    let (one, other) = (layers.begin().expect("begins"), layers.begin().expect("begins"));
    for dir in [&one.dir, &one.work, &other.dir, &other.work] {
        assert_eq!(fs::read_dir(dir).expect("a draft is a directory").count(), 0);
        assert!(dir.is_absolute(), "{}", dir.display());
    }
    // As overlayfs does: what is prepared in the one directory is moved into the other.
    fs::write(one.work.join("file"), "x").expect("work can be written to");
    fs::rename(one.work.join("file"), one.dir.join("file")).expect("both are on one file system");
    assert_eq!(fs::read_dir(&other.dir).expect("a draft is a directory").count(), 0);
    layers.discard(one);
    layers.discard(other);
}

fn layers_open_in_the_order_asked_for(layers: &dyn Layers) {
    let ids: Vec<_> = ["a", "b", "c"].iter().map(|text| layer_with(layers, text)).collect();
    for order in [[0, 1, 2], [2, 0, 1], [1, 1, 1]] {
        let open = layers.open(&order.map(|at| ids[at])).expect("layers open");
        let texts: Vec<_> =
            open.dirs.iter().map(|dir| fs::read_to_string(dir.join("file")).expect("reads")).collect();
        assert_eq!(texts, order.map(|at| ["a", "b", "c"][at]));
    }
}

fn equal_layers_are_different_layers(layers: &dyn Layers) {
    assert_ne!(layer_with(layers, "same"), layer_with(layers, "same"));
}

fn an_absent_layer_is_named(layers: &dyn Layers) {
    let (there, absent) = (layer_with(layers, "there"), Digest::of(b"never made"));
    let Err(error) = layers.open(&[there, absent]) else { panic!("an absent layer opened") };
    assert!(matches!(error, PortError::Missing(id) if id == absent), "{error}");
}

fn files_keep_what_they_are(layers: &dyn Layers) {
    let draft = layers.begin().expect("begins");
    let at = |name: &str| draft.dir.join(name);
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_007, 123_456_789);
    fs::create_dir(at("dir")).expect("makes a directory");
    fs::write(at("dir/file"), "text").expect("writes a file");
    fs::File::options()
        .write(true)
        .open(at("dir/file"))
        .and_then(|file| file.set_modified(time))
        .expect("sets a time");
    fs::set_permissions(at("dir/file"), fs::Permissions::from_mode(0o4711)).expect("sets a mode");
    fs::hard_link(at("dir/file"), at("again")).expect("makes a link");
    symlink("../../nowhere", at("link")).expect("makes a link");
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o1755)).expect("sets a mode");
    fs::set_permissions(&draft.dir, fs::Permissions::from_mode(0o751)).expect("sets the mode of the root");
    let id = layers.commit(draft).expect("is kept");

    let open = open_one(layers, id);
    let at = |name: &str| open.dirs[0].join(name);
    let found = |name: &str| fs::symlink_metadata(at(name)).expect("is there");
    assert_eq!(fs::read_to_string(at("dir/file")).expect("reads"), "text");
    assert_eq!(found("dir/file").modified().expect("has a time"), time);
    assert_eq!(found("dir/file").mode() & 0o7777, 0o4711);
    assert_eq!((found("again").ino(), found("again").nlink()), (found("dir/file").ino(), 2));
    assert_eq!(fs::read_link(at("link")).expect("is a link"), Path::new("../../nowhere"));
    assert_eq!(found("dir").mode() & 0o7777, 0o1755);
    assert_eq!(found("").mode() & 0o7777, 0o751);
    assert_eq!(fs::read_dir(&open.dirs[0]).expect("lists").count(), 3);
}

fn a_discarded_draft_leaves_nothing(layers: &dyn Layers) {
    let draft = layers.begin().expect("begins");
    let (dir, work) = (draft.dir.clone(), draft.work.clone());
    fs::create_dir_all(dir.join("closed/deep")).expect("makes directories");
    fs::write(dir.join("closed/deep/file"), "x").expect("writes a file");
    fs::set_permissions(dir.join("closed/deep"), fs::Permissions::from_mode(0o000)).expect("sets a mode");
    // As overlayfs leaves it behind.
    fs::create_dir(work.join("work")).expect("makes a directory");
    fs::set_permissions(work.join("work"), fs::Permissions::from_mode(0o000)).expect("sets a mode");
    symlink("/", dir.join("root")).expect("makes a link");
    layers.discard(draft);
    assert!(!dir.exists() && !work.exists());
    assert!(Path::new("/").exists());
}

fn threads_make_layers_at_once(layers: &dyn Layers) {
    const THREADS: usize = 4;
    let ids = std::thread::scope(|scope| {
        let make = |thread: usize| {
            (0..20).map(move |n| (layer_with(layers, &format!("{thread}.{n}")), format!("{thread}.{n}")))
        };
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || make(thread).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no thread panics")).collect::<Vec<_>>()
    });
    for (id, text) in ids {
        let open = open_one(layers, id);
        assert_eq!(fs::read_to_string(open.dirs[0].join("file")).expect("reads"), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fake_passes_the_suite() {
        layers_suite(&|| Box::new(DirLayers::fresh()));
    }

    #[test]
    fn the_fake_counts_drafts() {
        let layers = DirLayers::fresh();
        let draft = layers.begin().unwrap();
        assert_eq!(layers.open_drafts(), 1);
        layers.discard(draft);
        layers.add(|dir| fs::write(dir.join("x"), ""));
        assert_eq!(layers.open_drafts(), 0);
    }
}
