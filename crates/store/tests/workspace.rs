//! Trees as directories: what is shown equals the tree, whatever was shown before and whoever was killed.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use quern_core::port::{Blobs, InlineEntry, Presented, Workspace};
use quern_core::tree::Entry;
use quern_core::{Digest, Tree, TreePath};
use quern_store::workspace::{Existing, FolderWorkspace, Limits, Places};
use quern_store::{OpenOptions, Store};
use quern_testkit::{MemBlobs, TempSpace};

/// What a path holds; directories are given by their paths ending in `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    File(Vec<u8>, bool),
    Link(String),
    Dir,
}

/// A tree in the mind: paths without trailing slash. Parents of files need not be listed.
type Model = BTreeMap<String, Thing>;

fn text(content: impl AsRef<[u8]>) -> Thing {
    Thing::File(content.as_ref().to_vec(), false)
}

/// Files enough that a tree is not handed over inline.
fn large(extra: &[(&str, Thing)]) -> Model {
    let mut model: Model = (0..80).map(|i| (format!("filler/{}/{i}", i % 4), text(format!("{i}")))).collect();
    model.extend(extra.iter().map(|(path, thing)| ((*path).to_owned(), thing.clone())));
    model
}

fn put_model(blobs: &dyn Blobs, model: &Model) -> Digest {
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
fn read_dir(root: &Path) -> Model {
    let mut model = Model::new();
    read_below(root, "", &mut model);
    model
}

fn read_below(dir: &Path, prefix: &str, model: &mut Model) {
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
fn normal(model: &Model) -> Model {
    let dirs = |path: &String| model.range(format!("{path}/")..format!("{path}0")).next().is_none();
    model
        .iter()
        .filter(|(path, thing)| **thing != Thing::Dir || dirs(path))
        .map(|(p, t)| (p.clone(), t.clone()))
        .collect()
}

struct Bench {
    space: TempSpace,
    blobs: MemBlobs,
    workspace: FolderWorkspace,
    _store: Store,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
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

    fn put(&self, model: &Model) -> Digest {
        put_model(&self.blobs, model)
    }

    fn present(&self, model: &Model) -> Shown {
        show(&self.workspace, &self.put(model))
    }

    fn snapshots(&self) -> usize {
        fs::read_dir(self.space.path("snapshots"))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().is_dir())
            .count()
    }
}

/// A directory shown, with its lease.
struct Shown {
    path: PathBuf,
    _lease: Box<dyn std::any::Any + Send + Sync>,
}

fn show(workspace: &FolderWorkspace, tree: &Digest) -> Shown {
    match workspace.present(tree).unwrap() {
        Presented::Directory { path, lease } => Shown { path, _lease: lease },
        Presented::Inline(entries) => panic!("{} entries are shown inline", entries.len()),
    }
}

#[test]
fn small_trees_are_handed_over_as_bytes() {
    let bench = Bench::new();
    let model: Model =
        [("b/c", text("1")), ("a", Thing::File(b"2".to_vec(), true)), ("l", Thing::Link("b/c".into()))]
            .map(|(path, thing)| (path.to_owned(), thing))
            .into();
    let Presented::Inline(entries) = bench.workspace.present(&bench.put(&model)).unwrap() else {
        panic!("expected inline entries")
    };
    let path = |text: &str| TreePath::parse(text).unwrap();
    let expected = [
        InlineEntry::File { path: path("a"), bytes: b"2".to_vec(), executable: true },
        InlineEntry::Dir(path("b")),
        InlineEntry::Link { path: path("l"), target: "b/c".into() },
        InlineEntry::File { path: path("b/c"), bytes: b"1".to_vec(), executable: false },
    ];
    assert_eq!(entries, expected);
    let big: Model = [("big".to_owned(), text(vec![7; 300_000]))].into();
    assert_eq!(read_dir(&bench.present(&big).path), big);
}

#[test]
fn a_shown_tree_stays_while_it_is_looked_at() {
    let bench = Bench::new();
    let (one, two) = (large(&[("a", text("1"))]), large(&[("a", text("2"))]));
    let first = bench.present(&one);
    let again = bench.present(&one);
    assert_eq!(first.path, again.path);
    let other = bench.present(&two);
    assert_ne!(first.path, other.path);
    assert_eq!((read_dir(&first.path), read_dir(&other.path)), (one, two));
    assert_eq!(bench.snapshots(), 2);
}

#[test]
fn a_free_snapshot_is_changed_and_only_where_it_differs() {
    let bench = Bench::new();
    let one = large(&[("a", text("1")), ("gone/x", text("x")), ("kind", text("file"))]);
    let two = large(&[("a", text("22")), ("new/y", text("y")), ("kind/is", text("directory"))]);
    let inode = |shown: &Shown, path: &str| fs::metadata(shown.path.join(path)).unwrap().ino();
    let first = bench.present(&one);
    let (path, kept, written) = (first.path.clone(), inode(&first, "filler/0/0"), inode(&first, "a"));
    drop(first);
    let second = bench.present(&two);
    assert_eq!(read_dir(&second.path), two);
    assert_eq!(second.path, path);
    assert_eq!((inode(&second, "filler/0/0"), inode(&second, "a")), (kept, written));
    drop(second);
    // Nothing in common: another snapshot.
    let foreign: Model = (0..80).map(|i| (format!("other{i}"), text("?"))).collect();
    let third = bench.present(&foreign);
    assert_ne!(third.path, path);
    assert_eq!(read_dir(&third.path), foreign);
}

#[test]
fn the_number_of_snapshots_is_bounded() {
    let bench = Bench::with(Limits { snapshots: 3, bytes: u64::MAX });
    let foreign =
        |n: usize| -> Model { (0..80).map(|i| (format!("{n}/{i}"), text(format!("{n}")))).collect() };
    let kept = bench.present(&foreign(0));
    for n in 1..10 {
        assert_eq!(read_dir(&bench.present(&foreign(n)).path), foreign(n));
        assert!(bench.snapshots() <= 3);
    }
    assert_eq!(read_dir(&kept.path), foreign(0));
    let bench = Bench::with(Limits { snapshots: 30, bytes: 1 });
    for n in 1..10 {
        bench.present(&foreign(n));
        assert_eq!(bench.snapshots(), 1);
    }
}

#[test]
fn many_who_want_the_same_tree_make_it_once() {
    let bench = Bench::new();
    let models: Vec<Model> = (0..3).map(|n| large(&[("a", text(format!("{n}")))])).collect();
    for model in &models {
        let tree = bench.put(model);
        let shown: Vec<Shown> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| show(&bench.workspace, &tree))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(shown.iter().all(|other| other.path == shown[0].path));
        assert_eq!(read_dir(&shown[0].path), *model);
    }
    assert_eq!(bench.snapshots(), 1);
}

#[test]
fn a_snapshot_of_unknown_state_is_not_used() {
    let bench = Bench::new();
    let model = large(&[]);
    let first = bench.present(&model).path;
    for damage in ["", "{", "{\"version\":2}"] {
        let shown = bench.present(&model);
        let lock = shown.path.parent().unwrap().join("lock");
        drop(shown);
        fs::write(lock, damage).unwrap();
        assert_eq!(read_dir(&bench.present(&model).path), model);
        assert_eq!(bench.snapshots(), 1);
    }
    assert_ne!(bench.present(&model).path, first);
}

#[test]
fn missing_content_is_an_error_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let model = large(&[("a", text("precious"))]);
    let tree = bench.put(&model);
    bench.blobs.remove(&Digest::of(b"precious"));
    assert!(bench.workspace.present(&tree).is_err());
    assert_eq!(bench.snapshots(), 0);
    bench.blobs.put(b"precious").unwrap();
    assert_eq!(read_dir(&show(&bench.workspace, &tree).path), model);
    // The tree a snapshot holds is gone from the store: it cannot be compared, so another one is made.
    bench.blobs.remove(&tree);
    let other = large(&[("a", text("other"))]);
    assert_eq!(read_dir(&bench.present(&other).path), other);
}

#[test]
fn large_blobs_are_linked_and_never_written_to() {
    let space = TempSpace::new();
    let store = Store::open(space.root(), &OpenOptions::default()).unwrap();
    let workspace = FolderWorkspace::of(&store);
    let (one, two) = (vec![1u8; 500_000], vec![2u8; 400_000]);
    let models = [
        large(&[("big", text(&one)), ("run", Thing::File(one.clone(), true))]),
        large(&[("big", text(&two)), ("run", Thing::File(two.clone(), true))]),
        large(&[("big", text("small")), ("run", text("small"))]),
    ];
    for model in &models {
        let tree = put_model(&**store.blobs(), model);
        store.blobs().sync().unwrap();
        let shown = show(&workspace, &tree);
        assert_eq!(read_dir(&shown.path), *model);
        let links = fs::metadata(shown.path.join("big")).unwrap().nlink();
        assert_eq!(links, if model["big"] == text("small") { 1 } else { 2 });
    }
    for bytes in [one, two] {
        assert_eq!(store.blobs().get(&Digest::of(&bytes)).unwrap(), bytes);
    }
}

#[test]
fn outputs_are_taken_as_trees() {
    let bench = Bench::new();
    let scratch = bench.workspace.scratch().unwrap();
    fs::create_dir_all(scratch.join("d/e")).unwrap();
    fs::write(scratch.join("d/e/f"), "deep").unwrap();
    symlink("/pfs/in/f", scratch.join("d/link")).unwrap();
    fs::write(scratch.join("locked"), "locked").unwrap();
    fs::set_permissions(scratch.join("locked"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(scratch.join("d/e"), fs::Permissions::from_mode(0o4000)).unwrap();
    let sparse = fs::File::create(scratch.join("sparse")).unwrap();
    sparse.set_len(5_000_000).unwrap();
    let expected: Model = [
        ("d/e/f", text("deep")),
        ("d/link", Thing::Link("/pfs/in/f".into())),
        ("locked", text("locked")),
        ("sparse", text(vec![0; 5_000_000])),
    ]
    .map(|(path, thing)| (path.to_owned(), thing))
    .into();
    assert_eq!(bench.workspace.take(&scratch).unwrap().digest, bench.put(&expected));
    // The directory is used again, empty.
    let again = bench.workspace.scratch().unwrap();
    assert_eq!(again, scratch);
    assert_eq!(fs::read_dir(&again).unwrap().count(), 0);
    assert_eq!(bench.workspace.take(&again).unwrap(), Tree::default().content_ref());
}

#[test]
fn large_outputs_change_hands_without_a_copy() {
    let space = TempSpace::new();
    let store = Store::open(space.root(), &OpenOptions::default()).unwrap();
    let workspace = FolderWorkspace::of(&store);
    let bytes = vec![9u8; 3_000_000];
    let scratch = workspace.scratch().unwrap();
    fs::write(scratch.join("big"), &bytes).unwrap();
    let inode = fs::metadata(scratch.join("big")).unwrap().ino();
    let tree = workspace.take(&scratch).unwrap();
    store.blobs().sync().unwrap();
    let file = store.blobs().loose_path(&Digest::of(&bytes)).unwrap();
    assert_eq!(fs::metadata(file).unwrap().ino(), inode);
    // The same bytes under two names of one file, and once more.
    for _ in 0..2 {
        let scratch = workspace.scratch().unwrap();
        fs::write(scratch.join("a"), &bytes).unwrap();
        fs::hard_link(scratch.join("a"), scratch.join("b")).unwrap();
        let model: Model = ["a", "b"].map(|name| (name.to_owned(), text(&bytes))).into();
        assert_eq!(workspace.take(&scratch).unwrap().digest, put_model(&**store.blobs(), &model));
    }
    assert_eq!(read_dir(&show(&workspace, &tree.digest).path), [("big".to_owned(), text(&bytes))].into());
    // A file that pretends to be huge is refused before it is read.
    let scratch = workspace.scratch().unwrap();
    fs::File::create(scratch.join("hole")).unwrap().set_len(1 << 42).unwrap();
    let error = workspace.take(&scratch).unwrap_err().to_string();
    assert!(error.contains("`hole` is a sparse file"), "{error}");
}

#[test]
fn what_cannot_be_kept_is_named() {
    let bench = Bench::new();
    let scratch = bench.workspace.scratch().unwrap();
    fs::write(scratch.join("fine"), "").unwrap();
    fs::create_dir(scratch.join("d")).unwrap();
    for path in ["pipe", "d/pipe"] {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, scratch.join(path), kind, mode, 0).unwrap();
    }
    let error = bench.workspace.take(&scratch).unwrap_err().to_string();
    assert!(error.contains("`pipe` is a socket, named pipe") && error.contains("`d/pipe`"), "{error}");
    assert_eq!(fs::read_dir(bench.workspace.scratch().unwrap()).unwrap().count(), 0);
    assert!(bench.workspace.take(bench.space.root()).is_err());
}

#[test]
fn a_scratch_directory_that_was_tampered_with_is_not_used_again() {
    let bench = Bench::new();
    let plain = bench.workspace.scratch().unwrap();
    bench.workspace.discard(&plain);
    assert_eq!(bench.workspace.scratch().unwrap(), plain);
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o777)).unwrap();
    bench.workspace.discard(&plain);
    let second = bench.workspace.scratch().unwrap();
    assert_ne!(second, plain);
    rustix::fs::setxattr(&second, "user.note", b"psst", rustix::fs::XattrFlags::empty()).unwrap();
    bench.workspace.discard(&second);
    let third = bench.workspace.scratch().unwrap();
    assert_ne!(third, second);
    for i in 0..100 {
        fs::write(third.join(format!("{i}")), "").unwrap();
    }
    bench.workspace.discard(&third);
    assert_ne!(bench.workspace.scratch().unwrap(), third);
}

#[test]
fn cache_ids_are_names() {
    let bench = Bench::new();
    let dir = bench.workspace.cache_dir("pip-3.11_x").unwrap();
    fs::write(dir.join("kept"), "").unwrap();
    assert!(bench.workspace.cache_dir("pip-3.11_x").unwrap().join("kept").exists());
    for id in ["", ".", "..", ".x", "a/b", "a\0", "a b", "é", &"x".repeat(129)] {
        assert!(bench.workspace.cache_dir(id).is_err(), "{id:?}");
    }
}

#[test]
fn a_checkout_writes_whole_files_and_follows_no_links() {
    let bench = Bench::new();
    let model: Model = [
        ("d/f", text("new")),
        ("run", Thing::File(b"#!".to_vec(), true)),
        ("l", Thing::Link("d/f".into())),
        ("empty", Thing::Dir),
    ]
    .map(|(path, thing)| (path.to_owned(), thing))
    .into();
    let tree = bench.put(&model);
    let dest = bench.space.path("deep/dest");
    let checkout = |existing| bench.workspace.checkout_to(&tree, &dest, existing).map_err(|e| e.to_string());
    checkout(Existing::Refuse).unwrap();
    assert_eq!(read_dir(&dest), model);
    let error = checkout(Existing::Refuse).unwrap_err();
    assert!(error.contains("exists; remove it"), "{error}");
    fs::write(dest.join("d/f"), "old").unwrap();
    fs::write(dest.join("d/other"), "mine").unwrap();
    checkout(Existing::Replace).unwrap();
    let mut expected = model.clone();
    expected.insert("d/other".into(), text("mine"));
    assert_eq!(read_dir(&dest), expected);

    // A link to a file is replaced, not written through; a link to a directory stops everything.
    let outside = bench.space.write("outside/f", "outside");
    fs::remove_file(dest.join("d/f")).unwrap();
    symlink(&outside, dest.join("d/f")).unwrap();
    checkout(Existing::Replace).unwrap();
    assert_eq!(read_dir(&dest), expected);
    fs::remove_dir_all(dest.join("d")).unwrap();
    symlink(outside.parent().unwrap(), dest.join("d")).unwrap();
    for existing in [Existing::Refuse, Existing::Replace] {
        fs::remove_file(dest.join("run")).unwrap();
        assert!(checkout(existing).is_err());
        fs::write(dest.join("run"), "").unwrap();
    }
    assert_eq!(bench.space.read("outside/f"), "outside");
    assert!(fs::read_dir(bench.space.path("outside")).unwrap().count() == 1);
}

/// One edit of a tree in the mind.
#[derive(Debug, Clone)]
enum Edit {
    Write(String, u8, bool),
    Remove(String),
    Link(String),
    MakeDir(String),
    Show { keep: bool },
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let path = "[abc](/[abc]){0,3}";
    let edit = prop_oneof![
        6 => (path, any::<u8>(), any::<bool>()).prop_map(|(path, byte, x)| Edit::Write(path, byte, x)),
        3 => path.prop_map(Edit::Remove),
        1 => path.prop_map(Edit::Link),
        1 => path.prop_map(Edit::MakeDir),
        3 => any::<bool>().prop_map(|keep| Edit::Show { keep }),
    ];
    proptest::collection::vec(edit, 1..40)
}

fn remove(model: &mut Model, path: &str) {
    let inside = format!("{path}/");
    model.retain(|other, _| other != path && !other.starts_with(&inside));
}

fn set(model: &mut Model, path: &str, thing: Thing) {
    remove(model, path);
    for (at, _) in path.match_indices('/') {
        if model.get(&path[..at]).is_some_and(|thing| *thing != Thing::Dir) {
            model.remove(&path[..at]);
        }
    }
    model.insert(path.to_owned(), thing);
}

fn edit(model: &mut Model, edit: &Edit) {
    match edit {
        Edit::Write(path, byte, executable) => {
            let bytes = vec![*byte; usize::from(*byte) * 3];
            set(model, path, Thing::File(bytes, *executable));
        }
        Edit::Remove(path) => remove(model, path),
        Edit::Link(path) => set(model, path, Thing::Link("filler".into())),
        Edit::MakeDir(path) => set(model, path, Thing::Dir),
        Edit::Show { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_is_shown_is_the_tree(edits in edits()) {
        let bench = Bench::with(Limits { snapshots: 4, bytes: u64::MAX });
        let mut model = large(&[]);
        let mut kept: Vec<(Shown, Model)> = Vec::new();
        for (i, next) in edits.iter().chain([&Edit::Show { keep: false }]).enumerate() {
            edit(&mut model, next);
            let Edit::Show { keep } = next else { continue };
            let shown = bench.present(&model);
            let (found, expected) = (read_dir(&shown.path), normal(&model));
            prop_assert_eq!(&found, &expected);
            let fresh = bench.space.path(format!("fresh{i}"));
            bench.workspace.checkout_to(&bench.put(&model), &fresh, Existing::Refuse).unwrap();
            prop_assert_eq!(read_dir(&fresh), expected);
            // What was shown, written out as an output, is the same tree again.
            let scratch = bench.workspace.scratch().unwrap();
            bench.workspace.checkout_to(&bench.put(&model), &scratch, Existing::Refuse).unwrap();
            prop_assert_eq!(bench.workspace.take(&scratch).unwrap().digest, bench.put(&model));
            if *keep {
                kept.push((shown, found));
            }
        }
        for (shown, model) in &kept {
            prop_assert_eq!(&read_dir(&shown.path), model);
        }
    }
}

/// Not a test by itself: run by [`an_ordinary_user_can_do_it_all`] under another user.
#[test]
fn works_for_whoever_runs_it() {
    if std::env::var(USER).is_err() {
        return;
    }
    assert_ne!(rustix::process::geteuid().as_raw(), 0);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let bench = Bench::new();
    for text_of_a in ["1", "2"] {
        let model = large(&[("a", text(text_of_a)), ("run", Thing::File(b"#!".to_vec(), true))]);
        assert_eq!(read_dir(&bench.present(&model).path), model);
    }
    let scratch = bench.workspace.scratch().unwrap();
    let expected: Model =
        [("d/e/f", text("deep")), ("locked", text("?"))].map(|(path, thing)| (path.to_owned(), thing)).into();
    for (path, thing) in &expected {
        let Thing::File(bytes, _) = thing else { continue };
        fs::create_dir_all(scratch.join(path).parent().unwrap()).unwrap();
        fs::write(scratch.join(path), bytes).unwrap();
    }
    for (path, mode) in [("d/e/f", 0o000), ("d/e", 0o100), ("d", 0o400), ("locked", 0o222), ("", 0o000)] {
        fs::set_permissions(scratch.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    assert_eq!(bench.workspace.take(&scratch).unwrap().digest, bench.put(&expected));
    let next = bench.workspace.scratch().unwrap();
    assert_eq!(fs::read_dir(next).unwrap().count(), 0);
}

const USER: &str = "QUERN_TEST_WORKSPACE_USER";

#[test]
fn an_ordinary_user_can_do_it_all() {
    const NOBODY: u32 = 65534;
    let space = TempSpace::new();
    let program = space.path("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["--exact", "works_for_whoever_runs_it"]).env(USER, "1").env("TMPDIR", space.root());
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(space.root(), Some(NOBODY), Some(NOBODY)).unwrap();
        std::os::unix::process::CommandExt::uid(&mut command, NOBODY).current_dir(space.root());
        std::os::unix::process::CommandExt::gid(&mut command, NOBODY);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn depth_ends_where_paths_end() {
    let bench = Bench::new();
    let scratch = bench.workspace.scratch().unwrap();
    let mut dir = fs::File::open(&scratch).unwrap();
    let dig = |dir: &fs::File, name: &str| {
        rustix::fs::mkdirat(dir, name, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        fs::File::from(rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty()).unwrap())
    };
    for _ in 0..2000 {
        dir = dig(&dir, "d");
    }
    let taken = bench.workspace.take(&scratch).unwrap();
    let mut expected = Tree::default();
    bench.blobs.put(&expected.encode()).unwrap();
    for _ in 0..2000 {
        expected = Tree::new(vec![("d".to_owned(), Entry::Dir(expected.content_ref()))]).unwrap();
    }
    assert_eq!(taken, expected.content_ref());
    let shown = show(&bench.workspace, &taken.digest);
    assert!(shown.path.join(vec!["d"; 1900].join("/")).is_dir());
    drop(shown);
    // Changed into another tree and thrown away, as any other one.
    expected.set("file", Some(Entry::Link("x".into()))).unwrap();
    let shown = show(&bench.workspace, &bench.blobs.put(&expected.encode()).unwrap().digest);
    assert!(shown.path.join("file").is_symlink());

    let scratch = bench.workspace.scratch().unwrap();
    let mut dir = fs::File::open(&scratch).unwrap();
    for _ in 0..3000 {
        dir = dig(&dir, "d");
    }
    let error = bench.workspace.take(&scratch).unwrap_err().to_string();
    assert!(error.contains("longer than 4096 bytes"), "{error}");
    assert_eq!(fs::read_dir(bench.workspace.scratch().unwrap()).unwrap().count(), 0);
    // Too deep for the library that removes temporary directories.
    assert!(Command::new("rm").arg("-rf").arg(bench.space.root()).status().unwrap().success());
}

const CHILD: &str = "QUERN_TEST_WORKSPACE_CHILD";

/// Tree number `n` of the trees the killed processes show.
fn nth(n: usize) -> Model {
    let mut model = large(&[]);
    for i in 0..400 {
        if !(i * 7 + n).is_multiple_of(5) {
            set(&mut model, &format!("d{}/f{i}", (i + n / 3) % 6), text(format!("{}", i + n % 4)));
        }
    }
    model
}

/// Not a test by itself: the process that [`a_killed_process_leaves_nothing_wrong`] kills.
#[test]
fn shows_trees_until_killed() {
    let Ok(root) = std::env::var(CHILD) else { return };
    let store = Store::open(Path::new(&root), &OpenOptions::default()).unwrap();
    let workspace = FolderWorkspace::of(&store);
    for n in (0..12).cycle() {
        drop(show(&workspace, &put_model(&**store.blobs(), &nth(n))));
    }
}

#[test]
fn a_killed_process_leaves_nothing_wrong() {
    let space = TempSpace::new();
    let store = Store::open(space.root(), &OpenOptions::default()).unwrap();
    let trees: Vec<Digest> = (0..12).map(|n| put_model(&**store.blobs(), &nth(n))).collect();
    store.blobs().sync().unwrap();
    let workspace = FolderWorkspace::of(&store);
    for round in 0..25u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shows_trees_until_killed", "--nocapture"])
            .env(CHILD, space.root())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(40 + round * 7 % 60));
        child.kill().unwrap();
        child.wait().unwrap();
        let n = (round as usize * 5) % 12;
        assert_eq!(read_dir(&show(&workspace, &trees[n]).path), nth(n), "round {round}");
    }
}
