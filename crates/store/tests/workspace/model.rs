//! Trees in the mind, on disk and in a store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quern_core::port::{Blobs, Presented, Workspace};
use quern_core::tree::Entry;
use quern_core::{Digest, Tree};
use quern_store::workspace::{FolderWorkspace, Limits, Places};
use quern_store::{OpenOptions, Store};
use quern_testkit::{MemBlobs, TempSpace};

/// What a path holds; directories are given by their paths ending in `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    File(Vec<u8>, bool),
    Link(String),
    Dir,
}

/// A tree in the mind: paths without trailing slash. Parents of files need not be listed.
pub type Model = BTreeMap<String, Thing>;

pub fn text(content: impl AsRef<[u8]>) -> Thing {
    Thing::File(content.as_ref().to_vec(), false)
}

/// Files enough that a tree is not handed over inline.
pub fn large(extra: &[(&str, Thing)]) -> Model {
    let mut model: Model = (0..80).map(|i| (format!("filler/{}/{i}", i % 4), text(format!("{i}")))).collect();
    model.extend(extra.iter().map(|(path, thing)| ((*path).to_owned(), thing.clone())));
    model
}

pub fn put_model(blobs: &dyn Blobs, model: &Model) -> Digest {
    let mut entries = Vec::new();
    let mut below: BTreeMap<String, Model> = BTreeMap::new();
    for (path, thing) in model {
        match (path.split_once('/'), thing) {
            (Some((dir, rest)), thing) => {
                below.entry(dir.to_owned()).or_default().insert(rest.to_owned(), thing.clone());
            }
            (None, Thing::Dir) => drop(below.entry(path.clone()).or_default()),
            (None, Thing::Link(target)) => entries.push((path.clone(), Entry::Link(target.clone()))),
            (None, Thing::File(bytes, executable)) => {
                let content = blobs.put(bytes).unwrap();
                entries.push((path.clone(), Entry::File { content, executable: *executable }));
            }
        }
    }
    for (name, model) in below {
        let digest = put_model(blobs, &model);
        let size = blobs.get(&digest).unwrap().len() as u64;
        entries.push((name, Entry::Dir(quern_core::ContentRef { digest, size })));
    }
    blobs.put(&Tree::new(entries).unwrap().encode()).unwrap().digest
}

/// What is on disk, modes checked.
pub fn read_dir(root: &Path) -> Model {
    let mut model = Model::new();
    read_below(root, "", &mut model);
    model
}

pub fn read_below(dir: &Path, prefix: &str, model: &mut Model) {
    assert_eq!(fs::symlink_metadata(dir).unwrap().mode() & 0o7777, 0o755, "{}", dir.display());
    let mut empty = true;
    for entry in fs::read_dir(dir).unwrap() {
        empty = false;
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            read_below(&entry.path(), &format!("{path}/"), model);
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            model.insert(path, Thing::Link(target.to_str().unwrap().to_owned()));
        } else {
            let mode = entry.metadata().unwrap().mode() & 0o7777;
            assert!(mode == 0o644 || mode == 0o755, "{path} has mode {mode:o}");
            model.insert(path, Thing::File(fs::read(entry.path()).unwrap(), mode == 0o755));
        }
    }
    if empty && !prefix.is_empty() {
        model.insert(prefix.trim_end_matches('/').to_owned(), Thing::Dir);
    }
}

/// The model with directories only where nothing else shows them.
pub fn normal(model: &Model) -> Model {
    let dirs = |path: &String| model.range(format!("{path}/")..format!("{path}0")).next().is_none();
    model
        .iter()
        .filter(|(path, thing)| **thing != Thing::Dir || dirs(path))
        .map(|(p, t)| (p.clone(), t.clone()))
        .collect()
}

/// Removes a path with all below it.
pub fn remove(model: &mut Model, path: &str) {
    let inside = format!("{path}/");
    model.retain(|other, _| other != path && !other.starts_with(&inside));
}

/// Sets a path, removing what is in its way.
pub fn set(model: &mut Model, path: &str, thing: Thing) {
    remove(model, path);
    for (at, _) in path.match_indices('/') {
        if model.get(&path[..at]).is_some_and(|thing| *thing != Thing::Dir) {
            model.remove(&path[..at]);
        }
    }
    model.insert(path.to_owned(), thing);
}

pub struct Bench {
    pub space: TempSpace,
    pub blobs: MemBlobs,
    pub workspace: FolderWorkspace,
    _store: Store,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let space = TempSpace::new();
        let store = Store::open(space.root(), &OpenOptions::default()).unwrap();
        let layout = store.layout();
        let places = Places {
            snapshots: layout.snapshots(),
            scratch: layout.scratch(),
            caches: layout.caches(),
            trash: layout.trash(),
        };
        let blobs = MemBlobs::default();
        let lease = Arc::clone(store.lease());
        let workspace =
            FolderWorkspace::new(Arc::new(blobs.clone()), places, lease, None).with_limits(limits);
        Self { space, blobs, workspace, _store: store }
    }

    pub fn put(&self, model: &Model) -> Digest {
        put_model(&self.blobs, model)
    }

    pub fn present(&self, model: &Model) -> Shown {
        show(&self.workspace, &self.put(model))
    }

    pub fn snapshots(&self) -> usize {
        fs::read_dir(self.space.path("snapshots"))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().is_dir())
            .count()
    }
}

/// A directory shown, with its lease.
pub struct Shown {
    pub path: PathBuf,
    _lease: Box<dyn std::any::Any + Send + Sync>,
}

pub fn show(workspace: &FolderWorkspace, tree: &Digest) -> Shown {
    match workspace.present(tree).unwrap() {
        Presented::Directory { path, lease } => Shown { path, _lease: lease },
        Presented::Inline(entries) => panic!("{} entries are shown inline", entries.len()),
    }
}
