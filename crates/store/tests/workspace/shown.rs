//! Showing trees.

use std::fs;
use std::os::unix::fs::MetadataExt;

use quern_core::port::{Blobs, InlineEntry, Presented, Workspace};
use quern_core::{Digest, TreePath};
use quern_store::workspace::{FolderWorkspace, Limits};
use quern_store::{OpenOptions, Store};
use quern_testkit::TempSpace;

use crate::model::{Bench, Model, Shown, Thing, large, put_model, read_dir, show, text};

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
