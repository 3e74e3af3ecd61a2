//! Importing directories: what is read, what is refused, and that remembering changes nothing.

#![expect(clippy::unwrap_used, reason = "what a test calls fails as the test does")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};
use quern_core::port::{Blobs, PortError};
use quern_core::tree::Entry;
use quern_core::{ContentRef, Digest, Tree, TreePath};
use quern_store::import::{Import, ImportError, ImportOptions, Importer, Kind, Links};
use quern_store::{OpenOptions, PruneOptions, Root, Store};
use quern_testkit::{MemBlobs, TempSpace};

const FOLLOW: ImportOptions<'static> = ImportOptions { links: Links::FollowFiles, filter: None, lane: "" };
const KEEP: ImportOptions<'static> = ImportOptions { links: Links::Keep, filter: None, lane: "" };

/// A source directory, a store, and an importer that remembers.
struct Bench {
    space: TempSpace,
    blobs: MemBlobs,
    importer: Importer,
}

impl Bench {
    fn new() -> Self {
        let space = TempSpace::new();
        let blobs = MemBlobs::default();
        fs::create_dir(space.path("source")).unwrap();
        let importer = Importer::new(Arc::new(blobs.clone()), space.path("memories"), 0);
        Self { space, blobs, importer }
    }

    fn source(&self) -> PathBuf {
        self.space.path("source")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.source().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn import(&self, options: &ImportOptions) -> Import {
        self.importer.import(&self.source(), options).unwrap()
    }

    fn flaws(&self, options: &ImportOptions) -> String {
        match self.importer.import(&self.source(), options) {
            Err(error @ ImportError::Flaws(_)) => error.to_string(),
            other => panic!("expected flaws, got {other:?}"),
        }
    }

    /// All paths of a tree with what they are.
    fn show(&self, tree: &ContentRef) -> Vec<String> {
        let mut lines = Vec::new();
        self.show_below(tree, "", &mut lines);
        lines
    }

    fn show_below(&self, tree: &ContentRef, path: &str, lines: &mut Vec<String>) {
        for (name, entry) in Tree::decode(&self.blobs.get(&tree.digest).unwrap()).unwrap().entries() {
            match entry {
                Entry::File { content, executable } => {
                    let text = String::from_utf8(self.blobs.get(&content.digest).unwrap()).unwrap();
                    lines.push(format!("{path}{name}{} {text}", if *executable { "*" } else { "" }));
                }
                Entry::Link(target) => lines.push(format!("{path}{name} -> {target}")),
                Entry::Dir(tree) => {
                    lines.push(format!("{path}{name}/"));
                    self.show_below(tree, &format!("{path}{name}/"), lines);
                }
            }
        }
    }
}

/// Long enough for every stamp so far to be believed.
fn settle() {
    sleep(Duration::from_millis(260));
}

#[test]
fn a_directory_becomes_its_tree() {
    let bench = Bench::new();
    bench.write("b/c/d.txt", "deep");
    bench.write("a.txt", "shallow");
    bench.write("b/new\nline", "odd");
    fs::create_dir(bench.source().join("empty")).unwrap();
    bench.write("run", "program");
    fs::set_permissions(bench.source().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
    let import = bench.import(&FOLLOW);
    assert_eq!(
        bench.show(&import.tree),
        ["a.txt shallow", "b/", "b/c/", "b/c/d.txt deep", "b/new\nline odd", "empty/", "run* program"]
    );
    assert_eq!((import.files, import.bytes, import.hashed_files), (4, 21, 4));
}

#[test]
fn only_what_changed_is_read() {
    let bench = Bench::new();
    for i in 0..20 {
        bench.write(&format!("d{}/f{i}", i % 3), &format!("text {i}"));
    }
    settle();
    let first = bench.import(&FOLLOW);
    assert_eq!(first.hashed_files, 20);
    let again = bench.import(&FOLLOW);
    assert_eq!((again.tree, again.files, again.bytes), (first.tree, first.files, first.bytes));
    assert_eq!(again.hashed_files, 0);

    bench.write("d1/f4", "text X");
    bench.write("d9/new", "new");
    fs::remove_file(bench.source().join("d0/f0")).unwrap();
    let third = bench.import(&FOLLOW);
    assert_eq!((third.files, third.hashed_files), (20, 2));
    assert!(bench.show(&third.tree).contains(&"d1/f4 text X".to_owned()));

    // Touched, not changed: read once more, the tree stays.
    settle();
    bench.import(&FOLLOW);
    fs::File::open(bench.source().join("d1/f4")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let touched = bench.import(&FOLLOW);
    assert_eq!((touched.tree, touched.hashed_files), (third.tree, 1));
}

#[test]
fn an_edit_of_equal_size_in_the_same_instant_is_seen() {
    let bench = Bench::new();
    for round in 0..50 {
        bench.write("f", &format!("{round:04}"));
        let import = bench.import(&FOLLOW);
        assert_eq!(bench.show(&import.tree), [format!("f {round:04}")]);
    }
}

#[test]
fn content_the_store_lost_is_read_again() {
    let bench = Bench::new();
    bench.write("a/f", "one");
    bench.write("g", "two");
    settle();
    let first = bench.import(&FOLLOW);
    // A root that is gone: everything below it is in doubt.
    bench.blobs.remove(&first.tree.digest);
    bench.blobs.remove(&Digest::of(b"two"));
    let second = bench.import(&FOLLOW);
    assert_eq!((second.tree, second.hashed_files), (first.tree, 1));
    assert_eq!(bench.show(&second.tree), ["a/", "a/f one", "g two"]);
    // The root is there but the store says that it removed something.
    bench.blobs.remove(&Digest::of(b"one"));
    let importer = Importer::new(Arc::new(bench.blobs.clone()), bench.space.path("memories"), 1);
    let third = importer.import(&bench.source(), &FOLLOW).unwrap();
    assert_eq!((third.tree, third.hashed_files), (first.tree, 1));
    assert_eq!(importer.import(&bench.source(), &FOLLOW).unwrap().hashed_files, 0);
}

#[test]
fn what_was_pruned_is_imported_again() {
    let space = TempSpace::new();
    space.write("source/a/f", "one");
    space.write("source/g", "two");
    settle();
    let import = || {
        let store = Store::open(&space.path("state"), &OpenOptions::default()).unwrap();
        let import = Importer::of(&store).unwrap().import(&space.path("source"), &FOLLOW).unwrap();
        store.blobs().sync().unwrap();
        import
    };
    let first = import();
    assert_eq!((first.hashed_files, import().hashed_files), (2, 0));
    let store = Store::open(&space.path("state"), &OpenOptions::default()).unwrap();
    // All but the root is unreferenced.
    let roots = |show: &mut dyn FnMut(Root)| {
        show(Root::Blob(first.tree.digest));
        Ok::<(), PortError>(())
    };
    store.prune(&PruneOptions::default(), &roots).unwrap();
    drop(store);
    assert_eq!((import(), import().hashed_files), (first, 0));
    let store = Store::open(&space.path("state"), &OpenOptions::default()).unwrap();
    assert_eq!(store.blobs().get(&Digest::of(b"one")).unwrap(), b"one");
}

#[test]
fn a_damaged_memory_is_ignored() {
    let bench = Bench::new();
    bench.write("f", "text");
    settle();
    let first = bench.import(&FOLLOW);
    let memory = fs::read_dir(bench.space.path("memories")).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&memory).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&memory, &bad).unwrap();
        let import = bench.import(&FOLLOW);
        assert_eq!((import.tree, import.hashed_files), (first.tree, 1), "byte {at}");
        fs::write(&memory, &good[..at]).unwrap();
        assert_eq!(bench.import(&FOLLOW).hashed_files, 1, "cut at {at}");
    }
    assert_eq!(bench.import(&FOLLOW).hashed_files, 0);
}

#[test]
fn links_are_followed_kept_or_refused() {
    let bench = Bench::new();
    bench.write("a/real", "text");
    symlink("../a/real", bench.source().join("a/by_parent")).unwrap();
    symlink("a/real", bench.source().join("top")).unwrap();
    let followed = bench.import(&FOLLOW);
    assert_eq!(bench.show(&followed.tree), ["a/", "a/by_parent text", "a/real text", "top text"]);
    let kept = bench.import(&KEEP);
    assert_eq!(bench.show(&kept.tree), ["a/", "a/by_parent -> ../a/real", "a/real text", "top -> a/real"]);
    let refuse = ImportOptions { links: Links::Refuse, ..FOLLOW };
    assert_eq!(bench.flaws(&refuse).lines().count(), 2);

    // What a link leads to changes without a trace in the link or in its directory.
    settle();
    bench.import(&FOLLOW);
    bench.import(&KEEP);
    bench.write("a/real", "other");
    let followed = bench.import(&FOLLOW);
    assert_eq!(bench.show(&followed.tree), ["a/", "a/by_parent other", "a/real other", "top other"]);
    let kept = bench.import(&KEEP);
    assert_eq!(bench.show(&kept.tree), ["a/", "a/by_parent -> ../a/real", "a/real other", "top -> a/real"]);
    fs::remove_file(bench.source().join("top")).unwrap();
    symlink("nowhere", bench.source().join("top")).unwrap();
    let kept = bench.import(&KEEP);
    assert_eq!(bench.show(&kept.tree)[3], "top -> nowhere");
}

#[test]
fn everything_wrong_is_said_at_once() {
    let bench = Bench::new();
    bench.space.write("outside", "secret");
    bench.write("dir/file", "fine");
    let source = bench.source();
    symlink("../outside", source.join("l1")).unwrap();
    symlink("../../outside", source.join("dir/l2")).unwrap();
    symlink("/etc/passwd", source.join("l3")).unwrap();
    symlink("dir", source.join("l4")).unwrap();
    symlink("nothing", source.join("l5")).unwrap();
    symlink("l6", source.join("l6")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"odd\xff");
    fs::write(source.join(Path::new::<std::ffi::OsStr>(odd)), "").unwrap();
    let flaws = bench.flaws(&FOLLOW);
    let lines: Vec<&str> = flaws.lines().collect();
    let expected = [
        ("dir/l2", "outside the directory"),
        ("l1", "is a link to `../outside`, outside"),
        ("l3", "is a link to `/etc/passwd`, outside"),
        ("l4", "is a link to the directory `dir`"),
        ("l5", "does not exist"),
        ("l6", "does not exist"),
        ("odd", "not UTF-8"),
        ("pipe", "named pipe"),
    ];
    assert_eq!(lines.len(), expected.len(), "{flaws}");
    for (line, (path, reason)) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("`{path}")) && line.contains(reason), "{line}");
    }
    // What the filter leaves out is not looked at; a name that is no text cannot be shown to it.
    fs::remove_file(source.join(Path::new::<std::ffi::OsStr>(odd))).unwrap();
    let only_dir = |path: &TreePath, _: Kind| path.as_str() == "dir" || path.as_str() == "dir/file";
    let import = bench.import(&ImportOptions { filter: Some(&only_dir), ..FOLLOW });
    assert_eq!(bench.show(&import.tree), ["dir/", "dir/file fine"]);
}

#[test]
fn the_filter_is_asked_every_time() {
    let bench = Bench::new();
    for path in ["a.txt", "a.log", "d/b.log", "d/b.txt"] {
        bench.write(path, path);
    }
    settle();
    let texts = |path: &TreePath, kind: Kind| kind == Kind::Dir || path.as_str().ends_with(".txt");
    let logs = |path: &TreePath, kind: Kind| kind == Kind::Dir || path.as_str().ends_with(".log");
    for _ in 0..2 {
        let import = bench.import(&ImportOptions { filter: Some(&texts), ..FOLLOW });
        assert_eq!(bench.show(&import.tree), ["a.txt a.txt", "d/", "d/b.txt d/b.txt"]);
        let import = bench.import(&ImportOptions { filter: Some(&logs), ..FOLLOW });
        assert_eq!(bench.show(&import.tree), ["a.log a.log", "d/", "d/b.log d/b.log"]);
    }
    assert_eq!(bench.import(&FOLLOW).files, 4);
    assert_eq!(bench.import(&ImportOptions { filter: Some(&texts), ..FOLLOW }).hashed_files, 0);
}

#[test]
fn directories_swapped_for_links_while_we_walk_lead_nowhere() {
    let bench = Bench::new();
    bench.space.write("outside/f", "secret");
    bench.space.write("outside/g", "secret");
    bench.write("other", "public");
    let (dir, hidden) = (bench.source().join("dir"), bench.space.path("hidden"));
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut imported = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                fs::create_dir(&dir).unwrap();
                fs::write(dir.join("f"), "public").unwrap();
                symlink("../other", dir.join("g")).unwrap();
                fs::rename(&dir, &hidden).unwrap();
                symlink("../outside", &dir).unwrap();
                fs::remove_file(&dir).unwrap();
                fs::remove_dir_all(&hidden).unwrap();
            }
        });
        for _ in 0..400 {
            if let Ok(import) = bench.importer.import(&bench.source(), &FOLLOW) {
                imported += 1;
                let shown = bench.show(&import.tree).join("\n");
                assert!(!shown.contains("secret"), "{shown}");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(imported > 0, "no import came through");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_whole_or_refused() {
    let bench = Bench::new();
    bench.write("f", "");
    let path = bench.source().join("f");
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut whole, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in (0..10u8).cycle() {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                // Written in two halves: a reader in between sees a file that is neither old nor new.
                let mut file = fs::File::create(&path).unwrap();
                for _ in 0..2 {
                    std::io::Write::write_all(&mut file, &vec![b'0' + round; 150_000]).unwrap();
                }
                sleep(Duration::from_millis(2));
            }
        });
        for _ in 0..300 {
            match bench.importer.import(&bench.source(), &FOLLOW) {
                Ok(import) => {
                    whole += 1;
                    let tree = Tree::decode(&bench.blobs.get(&import.tree.digest).unwrap()).unwrap();
                    let Some(Entry::File { content, .. }) = tree.get("f") else { panic!("a file") };
                    let bytes = bench.blobs.get(&content.digest).unwrap();
                    assert_eq!(bytes.len() as u64, content.size);
                }
                Err(ImportError::Flaws(flaws)) => {
                    refused += 1;
                    assert!(flaws[0].to_string().contains("changed while it was read"), "{}", flaws[0]);
                }
                Err(error) => panic!("{error}"),
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(whole > 0, "{refused} refused");
}

/// One edit of a directory.
#[derive(Debug, Clone)]
enum Edit {
    Write(String, u8),
    Remove(String),
    Executable(String, bool),
    Rename(String, String),
    MakeDir(String),
    Link(String, String),
    Import,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let path = "[abc](/[abc]){0,2}";
    let edit = prop_oneof![
        4 => (path, any::<u8>()).prop_map(|(path, byte)| Edit::Write(path, byte % 4)),
        2 => path.prop_map(Edit::Remove),
        1 => (path, any::<bool>()).prop_map(|(path, on)| Edit::Executable(path, on)),
        1 => (path, path).prop_map(|(from, to)| Edit::Rename(from, to)),
        1 => path.prop_map(Edit::MakeDir),
        1 => (path, path).prop_map(|(at, to)| Edit::Link(at, to)),
        3 => proptest::prelude::Just(Edit::Import),
    ];
    proptest::collection::vec(edit, 1..30)
}

/// Makes the edit if the directory allows it; otherwise nothing happens.
fn apply(root: &Path, edit: &Edit) {
    let parent_of = |path: &Path| fs::create_dir_all(path.parent().unwrap()).is_ok();
    match edit {
        Edit::Write(path, byte) => {
            let path = root.join(path);
            if parent_of(&path) && !path.is_symlink() {
                let _ = fs::write(path, [b'a' + byte]);
            }
        }
        Edit::Remove(path) => {
            let path = root.join(path);
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
        Edit::Executable(path, on) => {
            let path = root.join(path);
            if path.is_file() && !path.is_symlink() {
                let mode = if *on { 0o755 } else { 0o644 };
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        Edit::Rename(from, to) => {
            let to = root.join(to);
            if parent_of(&to) {
                let _ = fs::rename(root.join(from), to);
            }
        }
        Edit::MakeDir(path) => drop(fs::create_dir_all(root.join(path))),
        Edit::Link(at, to) => {
            let at = root.join(at);
            if parent_of(&at) {
                let _ = symlink(to, at);
            }
        }
        Edit::Import => {}
    }
}

proptest! {
    #[test]
    fn remembering_changes_nothing(edits in edits(), epochs in any::<bool>()) {
        let bench = Bench::new();
        for (i, edit) in edits.iter().chain([&Edit::Import]).enumerate() {
            apply(&bench.source(), edit);
            if !matches!(edit, Edit::Import) {
                continue;
            }
            let epoch = if epochs { i as u64 } else { 0 };
            let importer = Importer::new(Arc::new(bench.blobs.clone()), bench.space.path("memories"), epoch);
            let fresh = Importer::new(Arc::new(MemBlobs::default()), bench.space.path(format!("m{i}")), 0);
            let (import, clean) = (importer.import(&bench.source(), &KEEP), fresh.import(&bench.source(), &KEEP));
            let (import, clean) = (import.unwrap(), clean.unwrap());
            prop_assert_eq!(import.tree, clean.tree);
            prop_assert_eq!((import.files, import.bytes), (clean.files, clean.bytes));
            bench.show(&import.tree);
        }
    }
}
