//! Several processes, killed ones, and other users.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use quern_core::Digest;
use quern_core::port::{Blobs, Workspace};
use quern_store::workspace::FolderWorkspace;
use quern_store::{OpenOptions, Store};
use quern_testkit::TempSpace;
use quern_testkit::again::{Again, part, say};

use crate::model::{Bench, Model, Thing, large, put_model, read_dir, set, show, text};

const TREES: usize = 12;

/// Tree number `n`: like all others in two files of three, so that one snapshot is changed into the next.
fn nth(n: usize) -> Model {
    let mut model = large(&[]);
    for i in 0..300 {
        match i % 6 {
            0 => set(&mut model, &format!("d{}/f{i}", i % 7), text(format!("{}", i + n))),
            1 if (i + n).is_multiple_of(4) => {}
            1 => set(&mut model, &format!("e{}/f{i}", (i + n) % 3), text("moved")),
            _ => set(&mut model, &format!("d{}/f{i}", i % 7), text("same")),
        }
    }
    model
}

/// Not a test by itself: the process that [`a_killed_process_leaves_nothing_wrong`] kills.
#[test]
fn shows_trees_until_killed() {
    let Some(root) = part() else { return };
    let store = Store::open(Path::new(&root), &OpenOptions::default()).unwrap();
    let workspace = FolderWorkspace::of(&store);
    for n in (0..TREES).cycle() {
        drop(show(&workspace, &put_model(&**store.blobs(), &nth(n))));
        say("shown");
    }
}

#[test]
fn a_killed_process_leaves_nothing_wrong() {
    let space = TempSpace::new();
    let store = Store::open(space.root(), &OpenOptions::default()).unwrap();
    let trees = put_all(&store);
    let workspace = FolderWorkspace::of(&store);
    let mut interrupted = 0;
    for round in 0..40u64 {
        let mut other = Again::start("processes::shows_trees_until_killed", space.root().to_str().unwrap());
        for _ in 0..=round % 3 {
            assert_eq!(other.said().as_deref(), Some("shown"));
        }
        std::thread::sleep(Duration::from_micros(round * 371 % 9000));
        other.kill();
        interrupted += locks(&space).filter(|lock| lock.contains("Changing")).count();
        let n = (round as usize * 5) % TREES;
        assert_eq!(read_dir(&show(&workspace, &trees[n]).path), nth(n), "round {round}");
    }
    assert!(interrupted > 0, "no process was killed in the middle");
}

/// What the lock files of all snapshots say.
fn locks(space: &TempSpace) -> impl Iterator<Item = String> {
    let snapshots = fs::read_dir(space.path("snapshots")).unwrap();
    snapshots.filter_map(|snapshot| fs::read_to_string(snapshot.unwrap().path().join("lock")).ok())
}

fn put_all(store: &Store) -> Vec<Digest> {
    let trees = (0..TREES).map(|n| put_model(&**store.blobs(), &nth(n))).collect();
    store.blobs().sync().unwrap();
    trees
}

/// Not a test by itself: one of the processes of [`processes_share_snapshots`].
#[test]
fn shows_trees_and_looks_at_them() {
    let Some(root) = part() else { return };
    let store = Store::open(Path::new(&root), &OpenOptions::default()).unwrap();
    let workspace = FolderWorkspace::of(&store);
    let trees = put_all(&store);
    let start = std::process::id() as usize;
    for round in 0..25 {
        let n = (start + round * 7) % TREES;
        let shown = show(&workspace, &trees[n]);
        assert_eq!(read_dir(&shown.path), nth(n));
        std::thread::yield_now();
        assert_eq!(read_dir(&shown.path), nth(n));
    }
}

#[test]
fn processes_share_snapshots() {
    let space = TempSpace::new();
    drop(Store::open(space.root(), &OpenOptions::default()).unwrap());
    let root = space.root().to_str().unwrap();
    let others: Vec<Again> =
        (0..3).map(|_| Again::start("processes::shows_trees_and_looks_at_them", root)).collect();
    for mut other in others {
        other.succeed();
    }
    let snapshots = fs::read_dir(space.path("snapshots")).unwrap().count();
    assert!(snapshots <= TREES + 1, "{snapshots} snapshots");
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
    command
        .args(["--exact", "processes::works_for_whoever_runs_it"])
        .env(USER, "1")
        .env("TMPDIR", space.root());
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(space.root(), Some(NOBODY), Some(NOBODY)).unwrap();
        std::os::unix::process::CommandExt::uid(&mut command, NOBODY).current_dir(space.root());
        std::os::unix::process::CommandExt::gid(&mut command, NOBODY);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
