//! Taking what steps wrote.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use quern_core::port::{Blobs, Workspace};
use quern_core::tree::Entry;
use quern_core::{Digest, Tree};
use quern_store::workspace::FolderWorkspace;
use quern_store::{OpenOptions, Store};
use quern_testkit::TempSpace;

use crate::model::{Bench, Model, Thing, put_model, read_dir, show, text};

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
