//! Random changes to random trees: the draft, overlayfs's reading of its directory, and a model that only knows plain trees agree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use quern_store::files::{
    ActionError, CopyTo, Draft, FileKind, FileSource, Last, MakeDir, MakeFile, Marks, PlainTree, Remove,
    resolve,
};
use quern_testkit::TempSpace;

use crate::copy::{copy, layer, shown, to};
use crate::fake::{Node, Tree};

#[derive(Debug, Clone)]
enum Act {
    Copy { from: String, dest: String, owner: Option<(u32, u32)> },
    MakeDir { path: String, parents: bool },
    MakeFile { path: String },
    Symlink { path: String, target: String },
    Remove { path: String },
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

fn tree() -> impl Strategy<Value = Tree> {
    let targets = prop::sample::select(vec!["a", "../b", "/c/a", "b/../a", "/.", "../../../c", "nowhere"]);
    let item = (path(), 0..4, targets);
    prop::collection::vec(item, 0..9).prop_map(|items| {
        let mut tree = Tree::new();
        for (number, (path, kind, target)) in items.into_iter().enumerate() {
            let item = match kind {
                0 => format!("{path}/"),
                1 => format!("{path}>{target}"),
                _ => format!("{path}={number}"),
            };
            let plain = |path: &Path| tree.0.get(path).is_none_or(|node| node.stat.kind == FileKind::Dir);
            if Path::new(&path).ancestors().skip(1).all(plain) && !tree.0.contains_key(Path::new(&path)) {
                let mut one = Tree::of(&[&item]).0.remove(Path::new(&path)).unwrap();
                one.stat.mode = if kind == 1 { 0o777 } else { 0o600 + number as u32 };
                tree.put(&path, one);
            }
        }
        tree
    })
}

fn act() -> impl Strategy<Value = Act> {
    let slash = prop::sample::select(vec!["", "/"]);
    let owner = prop::option::weighted(0.2, Just((7, 8)));
    prop_oneof![
        4 => (path(), path(), slash, owner)
            .prop_map(|(from, dest, slash, owner)| Act::Copy { from, dest: format!("/{dest}{slash}"), owner }),
        1 => (path(), any::<bool>()).prop_map(|(path, parents)| Act::MakeDir { path, parents }),
        1 => path().prop_map(|path| Act::MakeFile { path }),
        1 => (path(), path()).prop_map(|(path, target)| Act::Symlink { path, target: format!("/{target}") }),
        3 => path().prop_map(|path| Act::Remove { path }),
    ]
}

const DIR: MakeDir = MakeDir { mode: 0o711, owner: (1, 2), parents: true, modified: Some(0) };
const FILE: MakeFile = MakeFile { mode: 0o640, owner: (3, 4), modified: Some(0) };

fn on_draft(draft: &mut Draft<'_>, source: &Tree, act: &Act) -> Result<(), ActionError> {
    match act {
        Act::Copy { from, dest, owner } => {
            copy(draft, source, &[from], &CopyTo { owner: *owner, ..to(dest) })
        }
        Act::MakeDir { path, parents } => {
            draft.make_dir(Path::new(path), &MakeDir { parents: *parents, ..DIR })
        }
        Act::MakeFile { path } => draft.make_file(Path::new(path), b"made", &FILE),
        Act::Symlink { path, target } => draft.symlink(Path::new(target), Path::new(path), &FILE),
        Act::Remove { path } => draft.remove(Path::new(path), Remove::default()),
    }
}

/// The model: a plain tree, changed as the words of the documentation say.
struct Model(Tree);

impl Model {
    fn kind(&self, path: &Path) -> Option<FileKind> {
        self.0.0.get(path).map(|node| node.stat.kind)
    }

    fn dir(mode: u32, (uid, gid): (u32, u32)) -> Node {
        let mut node = Tree::new().0.remove(Path::new("")).unwrap();
        (node.stat.mode, node.stat.uid, node.stat.gid) = (mode, uid, gid);
        node
    }

    /// Makes the missing directories down to `path`.
    fn make_dirs(&mut self, path: &Path, mode: u32, owner: (u32, u32)) -> Option<()> {
        for dir in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            match self.kind(dir) {
                Some(FileKind::Dir) => {}
                Some(_) => return None,
                None => drop(self.0.0.insert(dir.to_owned(), Self::dir(mode, owner))),
            }
        }
        Some(())
    }

    fn place(&mut self, path: &Path, mut node: Node, owner: Option<(u32, u32)>) -> Option<()> {
        if let Some((uid, gid)) = owner {
            (node.stat.uid, node.stat.gid) = (uid, gid);
        }
        let is_dir = node.stat.kind == FileKind::Dir;
        match self.kind(path) {
            Some(FileKind::Dir) if !is_dir => return None,
            Some(kind) if is_dir && kind != FileKind::Dir => return None,
            _ => {}
        }
        self.0.0.insert(path.to_owned(), node);
        Some(())
    }

    fn act(&mut self, source: &Tree, act: &Act) -> Option<()> {
        let follow = |tree: &Tree, path: &str| resolve(tree, Path::new(path), Last::Follow).ok();
        match act {
            Act::Copy { from, dest, owner } => {
                let real = follow(source, from)?;
                let node = source.0.get(&real)?.clone();
                let way = owner.unwrap_or((0, 0));
                if dest.ends_with('/') {
                    let dir = follow(&self.0, dest)?;
                    self.make_dirs(&dir, 0o755, way)?;
                }
                let mut target = follow(&self.0, dest)?;
                if node.stat.kind != FileKind::Dir {
                    if self.kind(&target) == Some(FileKind::Dir) {
                        target.push(Path::new(from).file_name()?);
                    }
                    self.make_dirs(target.parent()?, 0o755, way)?;
                    return self.place(&target, node, *owner);
                }
                self.make_dirs(&target, 0o755, way)?;
                for (path, node) in source.0.iter().filter(|(path, _)| path.starts_with(&real)) {
                    let below = path.strip_prefix(&real).ok()?;
                    if !below.as_os_str().is_empty() {
                        self.place(&target.join(below), node.clone(), *owner)?;
                    }
                }
                Some(())
            }
            Act::MakeDir { path, parents } => {
                let path = follow(&self.0, path)?;
                if !parents && self.kind(path.parent().unwrap_or(Path::new(""))).is_none() {
                    return None;
                }
                self.make_dirs(&path, DIR.mode, DIR.owner)
            }
            Act::MakeFile { path } => {
                let path = follow(&self.0, path)?;
                let mut node = Tree::of(&["x=made"]).0.remove(Path::new("x"))?;
                node.stat.mode = FILE.mode;
                self.make_one(&path, node)
            }
            Act::Symlink { path, target } => {
                let path = resolve(&self.0, Path::new(path), Last::Keep).ok()?;
                let mut node = Tree::of(&["x>y"]).0.remove(Path::new("x"))?;
                node.target = target.into();
                self.make_one(&path, node)
            }
            Act::Remove { path } => {
                let path = resolve(&self.0, Path::new(path), Last::Keep).ok()?;
                self.kind(&path)?;
                self.0.0.retain(|there, _| !there.starts_with(&path));
                Some(())
            }
        }
    }

    fn make_one(&mut self, path: &Path, node: Node) -> Option<()> {
        let parent = path.parent()?;
        (self.kind(parent)? == FileKind::Dir).then_some(())?;
        self.place(path, node, Some(FILE.owner))
    }
}

/// What overlayfs shows of a directory above a tree, by the words of its documentation.
fn overlay(below: &Tree, upper: &Path) -> Tree {
    let mut merged = below.clone();
    let mut names: Vec<PathBuf> = vec![PathBuf::new()];
    while let Some(path) = names.pop() {
        let place = upper.join(&path);
        let meta = fs::symlink_metadata(&place).unwrap();
        let is_dir = |tree: &Tree| tree.0.get(&path).is_some_and(|node| node.stat.kind == FileKind::Dir);
        let whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
        let opaque = meta.is_dir() && {
            let dir = fs::File::open(&place).unwrap();
            rustix::fs::fgetxattr(&dir, "user.overlay.opaque", &mut [0u8; 8][..]) == Ok(1)
        };
        if whiteout || opaque || !meta.is_dir() || !is_dir(&merged) {
            merged.0.retain(|there, _| !there.starts_with(&path));
        }
        if whiteout {
            continue;
        }
        let plain = PlainTree::open(upper).unwrap();
        let stat = plain.stat(&path).unwrap().unwrap();
        let mut node = Node { stat, bytes: Vec::new(), target: PathBuf::new(), xattrs: Vec::new() };
        if meta.is_dir() {
            let entries = fs::read_dir(&place).unwrap();
            names.extend(entries.map(|entry| path.join(entry.unwrap().file_name())));
        } else if meta.is_symlink() {
            node.target = fs::read_link(&place).unwrap();
        } else {
            node.bytes = fs::read(&place).unwrap();
        }
        merged.0.insert(path, node);
    }
    merged
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn draft_overlay_and_model_agree(below in tree(), source in tree(), acts in prop::collection::vec(act(), 1..7)) {
        let space = TempSpace::new();
        let layer = layer(&space);
        let mut draft = Draft::open(&layer, &below, Marks::User).unwrap();
        let mut model = Model(below.clone());
        let mut log = BTreeMap::new();
        for (number, act) in acts.iter().enumerate() {
            let expected = model.act(&source, act);
            let done = on_draft(&mut draft, &source, act);
            log.insert(number, format!("{act:?}: {done:?}"));
            prop_assert_eq!(done.is_ok(), expected.is_some(), "{:?}", log);
            if done.is_err() {
                return Ok(());
            }
            prop_assert_eq!(shown(&draft), shown(&model.0), "draft: {:?}", log);
            prop_assert_eq!(shown(&overlay(&below, &layer.dir)), shown(&model.0), "overlay: {:?}", log);
        }
    }
}
