//! What copies make of a layer.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use quern_core::port::{DraftLayer, OpenLayers};
use quern_store::files::{
    ActionError, Alike, Context, CopyTo, Draft, Entry, FileKind, FileSource, MakeDir, MakeFile, Marks,
    Nothing, PlainTree, Remove, Selection, Survey, content_digest,
};
use quern_store::layers::{ChangeKind, Changes, Owners, Times};
use quern_testkit::TempSpace;

use crate::fake::Tree;

pub fn layer(space: &TempSpace) -> DraftLayer {
    let (dir, work) = (space.path("upper"), space.path("work"));
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir_all(&work).unwrap();
    DraftLayer { dir, work }
}

pub fn to(dest: &str) -> CopyTo<'_> {
    CopyTo { dest: Path::new(dest), owner: None, mode: None, dirs: 0o755, modified: None, unpack: None }
}

pub fn copy(
    draft: &mut Draft<'_>,
    source: &dyn FileSource,
    sources: &[&str],
    to: &CopyTo<'_>,
) -> Result<(), ActionError> {
    let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
    let selected = Selection { sources: &sources, exclude: None, parents: false }.find(source)?;
    draft.copy(source, &selected, to)
}

/// Everything in a tree: `path/ mode`, `path=bytes mode`, `path>target`.
pub fn shown(source: &dyn FileSource) -> Vec<String> {
    let mut lines = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for Entry { name, stat } in source.list(&dir).unwrap() {
            let path = dir.join(name);
            let text = path.to_str().unwrap();
            let owner = if (stat.uid, stat.gid) == (0, 0) {
                String::new()
            } else {
                format!(" {}:{}", stat.uid, stat.gid)
            };
            match stat.kind {
                FileKind::Dir => {
                    lines.push(format!("{text}/ {:o}{owner}", stat.mode));
                    dirs.push(path);
                }
                FileKind::Link => {
                    let target = source.target(&path).unwrap();
                    lines.push(format!("{text}>{}{owner}", target.display()));
                }
                FileKind::File => {
                    let bytes = std::io::read_to_string(source.open(&path).unwrap()).unwrap();
                    lines.push(format!("{text}={bytes} {:o}{owner}", stat.mode));
                }
                kind => lines.push(format!("{text} {kind:?}{owner}")),
            }
        }
    }
    lines.sort();
    lines
}

#[track_caller]
fn check(below: &[&str], source: &[&str], copies: &[(&[&str], &str)], expected: &[&str]) {
    let space = TempSpace::new();
    let (below, source) = (Tree::of(below), Tree::of(source));
    let mut draft = Draft::open(&layer(&space), &below, Marks::User).unwrap();
    for (sources, dest) in copies {
        copy(&mut draft, &source, sources, &to(dest)).unwrap();
    }
    assert_eq!(shown(&draft), expected);
}

#[track_caller]
fn refuse(below: &[&str], source: &[&str], sources: &[&str], dest: &str, expected: &str) {
    let space = TempSpace::new();
    let (below, source) = (Tree::of(below), Tree::of(source));
    let mut draft = Draft::open(&layer(&space), &below, Marks::User).unwrap();
    assert_eq!(copy(&mut draft, &source, sources, &to(dest)).unwrap_err().to_string(), expected);
}

#[test]
fn files_and_directories() {
    let source = ["d/a=1", "d/s/b=2", "f=3"];
    check(&[], &source, &[(&["d"], "/x")], &["x/ 755", "x/a=1 644", "x/s/ 755", "x/s/b=2 644"]);
    check(&[], &source, &[(&["d/"], "/x/")], &["x/ 755", "x/a=1 644", "x/s/ 755", "x/s/b=2 644"]);
    check(&[], &source, &[(&["f"], "/x")], &["x=3 644"]);
    check(&[], &source, &[(&["f"], "/x/")], &["x/ 755", "x/f=3 644"]);
    check(&[], &source, &[(&["f"], "/x/y/.")], &["x/ 755", "x/y/ 755", "x/y/f=3 644"]);
    check(&["x/"], &source, &[(&["f"], "/x")], &["x/ 755", "x/f=3 644"]);
    check(&[], &source, &[(&["f", "d/a", "d/s"], "/")], &["a=1 644", "b=2 644", "f=3 644"]);
    check(&[], &source, &[(&["f", "d/a"], "/one")], &["one=1 644"]);
    check(&[], &source, &[(&["f"], "/a"), (&["d/a"], "/a")], &["a=1 644"]);
    check(&[], &["empty/"], &[(&["empty"], "/x")], &["x/ 755"]);
}

#[test]
fn what_is_below_stays_or_gives_way() {
    let below = ["etc/a=old", "etc/b=old", "lib>usr/lib", "usr/lib/x=x", "self>etc/a"];
    check(
        &below,
        &["a=new", "d/b=new", "d/c=new"],
        &[(&["a"], "/etc/"), (&["d"], "/etc"), (&["a"], "/lib/y"), (&["a"], "/lib/")],
        &[
            "etc/ 755",
            "etc/a=new 644",
            "etc/b=new 644",
            "etc/c=new 644",
            "lib>usr/lib",
            "self>etc/a",
            "usr/ 755",
            "usr/lib/ 755",
            "usr/lib/a=new 644",
            "usr/lib/x=x 644",
            "usr/lib/y=new 644",
        ],
    );
    check(&["l>t", "t=old"], &["f=new"], &[(&["f"], "/l")], &["l>t", "t=new 644"]);
    check(&["d/l>t", "d/t=old"], &["s/l=new"], &[(&["s"], "/d")], &["d/ 755", "d/l=new 644", "d/t=old 644"]);
    check(&["out>../../../../x"], &["f=1"], &[(&["f"], "/out")], &["out>../../../../x", "x=1 644"]);
    refuse(&["x/y/"], &["s/y=1"], &["s"], "/x", "`x/y` is a directory and cannot be replaced by a file");
    refuse(&["x/y=1"], &["s/y/z=1"], &["s"], "/x", "`x/y` is not a directory");
    refuse(&["x/y>z", "x/z/"], &["s/y/z=1"], &["s"], "/x", "`x/y` is not a directory");
    refuse(&["x=1"], &["s/y=1"], &["s"], "/x", "`x` is not a directory");
    refuse(&["x=1"], &["s=1"], &["s"], "/x/", "`x` is not a directory");
    refuse(&["a>b", "b>a"], &["s=1"], &["s"], "/a/", "`a` leads through more than 255 symbolic links");
}

#[test]
fn owners_modes_and_times() {
    let space = TempSpace::new();
    let mut source = Tree::of(&["d/a=1", "d/s/b=2", "d/l>a"]);
    source.at("d").stat.mode = 0o700;
    source.at("d").stat.modified = 77_000_000_000;
    source.at("d/a").stat.mode = 0o4750;
    source.at("d/a").stat.uid = 7;
    source.at("d/s").stat.mode = 0o2711;
    source.at("d/s").stat.modified = 5_000_000_001;
    let mut draft = Draft::open(&layer(&space), &Nothing, Marks::User).unwrap();
    copy(&mut draft, &source, &["d"], &to("/new/x")).unwrap();
    let octal = |_, _| 0o640;
    let chown = CopyTo { owner: Some((5, 6)), ..to("/own/x") };
    copy(&mut draft, &source, &["d"], &chown).unwrap();
    let chmod = CopyTo { mode: Some(&octal), modified: Some(9_000_000_000), ..to("/mode/x") };
    copy(&mut draft, &source, &["d"], &chmod).unwrap();
    assert_eq!(
        shown(&draft),
        [
            "mode/ 755",
            "mode/x/ 755",
            "mode/x/a=1 640 7:0",
            "mode/x/l>a",
            "mode/x/s/ 640",
            "mode/x/s/b=2 640",
            "new/ 755",
            "new/x/ 755",
            "new/x/a=1 4750 7:0",
            "new/x/l>a",
            "new/x/s/ 2711",
            "new/x/s/b=2 644",
            "own/ 755 5:6",
            "own/x/ 755 5:6",
            "own/x/a=1 4750 5:6",
            "own/x/l>a 5:6",
            "own/x/s/ 2711 5:6",
            "own/x/s/b=2 644 5:6",
        ]
    );
    let time = |path: &str| draft.stat(Path::new(path)).unwrap().unwrap().modified;
    assert_eq!(time("new/x/a"), 1_000_000_000);
    assert_eq!(time("new/x/l"), 1_000_000_000);
    assert_eq!(
        time("new/x/s"),
        5_000_000_001,
        "directories keep their times although files were made in them"
    );
    assert_eq!(time("new/x"), 77_000_000_000);
    for path in ["mode", "mode/x", "mode/x/a", "mode/x/s", "mode/x/l"] {
        assert_eq!(time(path), 9_000_000_000, "{path}");
    }
}

#[test]
fn directories_are_copied_up_as_they_are() {
    let space = TempSpace::new();
    let mut below = Tree::of(&["a/b/c=1"]);
    below.at("a").stat.mode = 0o1777;
    below.at("a/b").stat.uid = 3;
    below.at("a/b").stat.modified = 4_000_000_000;
    below.at("a/b").xattrs = vec![(b"user.x".to_vec(), b"1".to_vec())];
    below.at("").stat.mode = 0o711;
    let layer = layer(&space);
    let mut draft = Draft::open(&layer, &below, Marks::User).unwrap();
    copy(&mut draft, &Tree::of(&["f=1"]), &["f"], &to("/a/b/")).unwrap();
    let upper = PlainTree::open(&layer.dir).unwrap();
    assert_eq!(shown(&upper), ["a/ 1777", "a/b/ 755 3:0", "a/b/f=1 644"]);
    let stat = upper.stat(Path::new("a/b")).unwrap().unwrap();
    assert_eq!(stat.modified, 4_000_000_000);
    assert_eq!(upper.xattrs(Path::new("a/b")).unwrap(), [(b"user.x".to_vec(), b"1".to_vec())]);
    assert_eq!(upper.stat(Path::new("")).unwrap().unwrap().mode, 0o711);
}

#[test]
fn what_is_removed_is_a_whiteout_and_what_comes_back_hides() {
    let space = TempSpace::new();
    let below = Tree::of(&["d/a=1", "d/b=2", "d/s/c=3", "e=4", "l>d"]);
    let layer = layer(&space);
    let mut draft = Draft::open(&layer, &below, Marks::User).unwrap();
    let plain = Remove::default();
    draft.remove(Path::new("/l/a"), plain).unwrap();
    draft.remove(Path::new("/d/s"), plain).unwrap();
    draft.remove(Path::new("/l"), plain).unwrap();
    assert_eq!(shown(&draft), ["d/ 755", "d/b=2 644", "e=4 644"]);
    assert!(fs::symlink_metadata(layer.dir.join("d/a")).unwrap().file_type().is_char_device());
    let dir = MakeDir { mode: 0o700, owner: (1, 2), parents: false, modified: Some(0) };
    draft.make_dir(Path::new("/d/s"), &dir).unwrap();
    copy(&mut draft, &Tree::of(&["f=1"]), &["f"], &to("/d/s/")).unwrap();
    assert_eq!(shown(&draft), ["d/ 755", "d/b=2 644", "d/s/ 700 1:2", "d/s/f=1 644", "e=4 644"]);
    draft.remove(Path::new("/*"), Remove { wildcard: true, ..plain }).unwrap();
    assert_eq!(shown(&draft), [""; 0]);
    let missing = draft.remove(Path::new("/nope"), plain).unwrap_err();
    assert!(matches!(missing, ActionError::Missing(_)));
    draft.remove(Path::new("/nope"), Remove { allow_missing: true, ..plain }).unwrap();
    draft.remove(Path::new("/nope*"), Remove { wildcard: true, ..plain }).unwrap();
    copy(&mut draft, &Tree::of(&["s/e/x=1"]), &["s"], &to("/")).unwrap();
    assert_eq!(shown(&draft), ["e/ 755", "e/x=1 644"]);
}

#[test]
fn single_files_directories_and_links() {
    let space = TempSpace::new();
    let below = Tree::of(&["etc/hosts=old", "run>var/run", "var/run/"]);
    let mut draft = Draft::open(&layer(&space), &below, Marks::User).unwrap();
    let file = MakeFile { mode: 0o600, owner: (1, 1), modified: Some(0) };
    let dir = MakeDir { mode: 0o711, owner: (2, 2), parents: true, modified: None };
    draft.make_file(Path::new("/etc/hosts"), b"new", &file).unwrap();
    draft.make_dir(Path::new("/run/a/b"), &dir).unwrap();
    draft.make_dir(Path::new("/run"), &dir).unwrap();
    draft.symlink(Path::new("/any/where"), Path::new("/run/l"), &file).unwrap();
    assert_eq!(
        shown(&draft),
        [
            "etc/ 755",
            "etc/hosts=new 600 1:1",
            "run>var/run",
            "var/ 755",
            "var/run/ 755",
            "var/run/a/ 711 2:2",
            "var/run/a/b/ 711 2:2",
            "var/run/l>/any/where 1:1",
        ]
    );
    let alone = MakeDir { parents: false, ..dir };
    assert_eq!(draft.make_dir(Path::new("/x/y"), &alone).unwrap_err().to_string(), "`x` does not exist");
    assert!(matches!(draft.make_file(Path::new("/x/y"), b"", &file), Err(ActionError::Missing(_))));
    assert!(matches!(draft.make_file(Path::new("/etc"), b"", &file), Err(ActionError::IsADirectory(_))));
}

#[test]
fn hard_links_holes_and_attributes_are_kept() {
    let space = TempSpace::new();
    let context = TempSpace::new();
    context.write("d/a", "linked");
    fs::hard_link(context.path("d/a"), context.path("d/b")).unwrap();
    let sparse = fs::File::create(context.path("d/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", 50 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"middle", 10 << 20).unwrap();
    sparse.set_len(60 << 20).unwrap();
    rustix::fs::fsetxattr(&sparse, "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    let source = Context::survey(context.root(), &Survey::default()).unwrap();
    let layer = layer(&space);
    let mut draft = Draft::open(&layer, &Nothing, Marks::User).unwrap();
    copy(&mut draft, &source, &["d"], &to("/")).unwrap();
    let (a, b) = (fs::metadata(layer.dir.join("a")).unwrap(), fs::metadata(layer.dir.join("b")).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    let copied = layer.dir.join("sparse");
    assert!(fs::metadata(&copied).unwrap().blocks() * 512 < 1 << 20);
    assert_eq!(fs::read(&copied).unwrap(), fs::read(context.path("d/sparse")).unwrap());
    assert_eq!(draft.xattrs(Path::new("sparse")).unwrap(), [(b"user.note".to_vec(), b"x".to_vec())]);
}

#[test]
fn immutable_files_are_linked_once() {
    let space = TempSpace::new();
    space.write("stage/f", "bytes");
    let stage = PlainTree::open(&space.path("stage")).unwrap();
    let layer = layer(&space);
    let mut draft = Draft::open(&layer, &Nothing, Marks::User).unwrap();
    for dest in ["/one", "/two"] {
        copy(&mut draft, &stage, &["f"], &to(dest)).unwrap();
    }
    let chmod = |mode, _| mode | 0o100;
    copy(&mut draft, &stage, &["f"], &CopyTo { mode: Some(&chmod), ..to("/three") }).unwrap();
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let from = inode(space.path("stage/f"));
    assert_eq!(inode(layer.dir.join("one")), from);
    assert_ne!(inode(layer.dir.join("two")), from, "two files are not to become one");
    assert_ne!(inode(layer.dir.join("three")), from);
    assert_eq!(fs::metadata(space.path("stage/f")).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn a_copy_has_the_digest_of_its_source() {
    let space = TempSpace::new();
    let context = TempSpace::new();
    for number in 0..200 {
        context.write(&format!("d/{}/{number}", number % 7), "x".repeat(number * 31));
    }
    std::os::unix::fs::symlink("1", context.path("d/l")).unwrap();
    let source = Context::survey(context.root(), &Survey::default()).unwrap();
    let layer = layer(&space);
    let mut draft = Draft::open(&layer, &Nothing, Marks::User).unwrap();
    copy(&mut draft, &source, &["d"], &to("/x")).unwrap();
    let digest = |source: &dyn FileSource, path: &str| {
        let sources = [PathBuf::from(path)];
        let selected = Selection { sources: &sources, exclude: None, parents: false }.find(source).unwrap();
        content_digest(source, &selected).unwrap()
    };
    assert_eq!(digest(&draft, "x"), digest(&source, "d"));
    assert_eq!(digest(&PlainTree::open(&layer.dir).unwrap(), "x"), digest(&source, "d"));
}

type Edit = (&'static str, fn(&Path));

#[test]
fn a_file_that_changes_before_it_is_copied_is_an_error() {
    let edits: [Edit; 4] = [
        ("longer", |path| fs::write(path, "longer").unwrap()),
        ("same size", |path| fs::write(path, "two").unwrap()),
        ("replaced", |path| {
            fs::remove_file(path).unwrap();
            fs::write(path, "one").unwrap();
        }),
        ("same size and time", |path| {
            let time = fs::metadata(path).unwrap().modified().unwrap();
            fs::write(path, "two").unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(time).unwrap();
        }),
    ];
    for (what, edit) in edits {
        for _ in 0..20 {
            let space = TempSpace::new();
            let context = TempSpace::new();
            let path = context.write("f", "one");
            let source = Context::survey(context.root(), &Survey::default()).unwrap();
            let selected =
                Selection { sources: &["f".into()], exclude: None, parents: false }.find(&source).unwrap();
            content_digest(&source, &selected).unwrap();
            edit(&path);
            let mut draft = Draft::open(&layer(&space), &Nothing, Marks::User).unwrap();
            let error = draft.copy(&source, &selected, &to("/f")).unwrap_err();
            assert!(error.to_string().contains("`f` changed while it was read"), "{what}: {error}");
        }
    }
}

#[test]
fn archives_are_unpacked_over_what_is_there() {
    let space = TempSpace::new();
    let below = Tree::of(&["x/was_dir/z=1", "x/was_file=1", "x/stays=1"]);
    let source = Tree::of(&["a.tar=tar", "plain=no"]);
    let unpack = |file: &mut fs::File, into: &Path| {
        if std::io::read_to_string(file).unwrap() != "tar" {
            return Ok(false);
        }
        fs::write(into.join("was_dir"), "now a file").unwrap();
        fs::create_dir(into.join("was_file")).unwrap();
        fs::write(into.join("was_file/in"), "it").unwrap();
        fs::hard_link(into.join("was_dir"), into.join("other")).unwrap();
        Ok(true)
    };
    let layer = layer(&space);
    let mut draft = Draft::open(&layer, &below, Marks::User).unwrap();
    let to = CopyTo { unpack: Some(&unpack), ..to("/x/") };
    copy(&mut draft, &source, &["a.tar", "plain"], &to).unwrap();
    assert_eq!(
        shown(&draft),
        [
            "x/ 755",
            "x/other=now a file 644",
            "x/plain=no 644",
            "x/stays=1 644",
            "x/was_dir=now a file 644",
            "x/was_file/ 755",
            "x/was_file/in=it 644",
        ]
    );
    assert_eq!(fs::metadata(layer.dir.join("x/other")).unwrap().nlink(), 2);
    assert_eq!(fs::read_dir(&layer.work).unwrap().count(), 0);
    let failing = |_: &mut fs::File, _: &Path| Err("it is damaged".to_owned());
    let to = CopyTo { unpack: Some(&failing), ..to };
    let error = copy(&mut draft, &source, &["a.tar"], &to).unwrap_err();
    assert_eq!(error.to_string(), "cannot unpack `a.tar`: it is damaged");
}

#[test]
fn files_of_layers_are_read_once() {
    use quern_core::port::Layers as _;
    let space = TempSpace::new();
    let state = space.path("state");
    let store = quern_store::Store::open(&state, &quern_store::OpenOptions::default()).unwrap();
    let layers = quern_store::layers::LayerStore::of(&store);
    let draft = layers.begin().unwrap();
    let below = layers.view(&[]).unwrap();
    let mut writing = Draft::open(&draft, &below, Marks::User).unwrap();
    copy(&mut writing, &Tree::of(&["d/a=1", "d/b=2"]), &["d"], &to("/d")).unwrap();
    drop(writing);
    let id = layers.commit(draft).unwrap();
    let digest = || {
        let view = layers.view(&[id]).unwrap();
        let selected =
            Selection { sources: &["d".into()], exclude: None, parents: false }.find(&view).unwrap();
        let digest = content_digest(&view, &selected).unwrap();
        // A name more does not make it another file.
        let link = layers.begin().unwrap();
        let mut draft = Draft::open(&link, &Nothing, Marks::User).unwrap();
        draft.copy(&view, &selected, &to("/")).unwrap();
        assert!(fs::metadata(link.dir.join("a")).unwrap().nlink() > 1);
        layers.discard(link);
        digest
    };
    let first = digest();
    let place = state.join("layers").join(id.hex());
    assert!(place.join("digests").exists());
    // Other bytes of the same size and time: only what is remembered can give the digest they had.
    let path = place.join("fs/d/a");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "9").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(digest(), first);
    fs::remove_file(place.join("digests")).unwrap();
    assert_ne!(digest(), first);
}

#[test]
fn what_is_as_it_was_the_time_before_is_not_written_again() {
    let space = TempSpace::new();
    for name in ["same", "bytes", "time", "mode", "twin"] {
        space.write(&format!("app/d/{name}"), if name == "twin" { "same" } else { name });
    }
    let made = |name: &str, before: Option<&DraftLayer>| {
        let (dir, work) = (space.path(format!("{name}/fs")), space.path(format!("{name}/work")));
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(&work).unwrap();
        let layer = DraftLayer { dir, work };
        let open = |layer: &DraftLayer| OpenLayers { dirs: vec![layer.dir.clone()], lease: Box::new(()) };
        let alike = Alike::to(before.map(open));
        let context = Context::survey(&space.path("app"), &Survey::default()).unwrap();
        let mut draft = Draft::open(&layer, &Nothing, Marks::User).unwrap();
        let selected =
            Selection { sources: &["d".into()], exclude: None, parents: false }.find(&context).unwrap();
        draft.copy_again(&context, &selected, &to("/x"), Some(&alike)).unwrap();
        alike.save(&layer);
        (layer, shown(&draft))
    };
    let inode = |layer: &DraftLayer, name: &str| fs::metadata(layer.dir.join("x").join(name)).unwrap().ino();
    let (first, _) = made("first", None);
    space.write("app/d/bytes", "other");
    let file = fs::File::options().write(true).open(space.path("app/d/time")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    fs::set_permissions(space.path("app/d/mode"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::rename(space.path("app/d/twin"), space.path("app/d/moved")).unwrap();
    let (second, seen) = made("second", Some(&first));
    assert_eq!(inode(&second, "same"), inode(&first, "same"));
    for name in ["bytes", "time", "mode"] {
        assert_ne!(inode(&second, name), inode(&first, name), "{name}");
    }
    assert_eq!(
        seen,
        [
            "x/ 755",
            "x/bytes=other 644",
            "x/mode=mode 640",
            "x/moved=same 644",
            "x/same=same 644",
            "x/time=time 644"
        ]
    );
    // Nothing that goes out tells that files have further names.
    let kinds = Changes::of_layer(&second.dir, Owners::Same, Times::Keep).map(|change| change.unwrap().kind);
    assert!(kinds.into_iter().all(|kind| !matches!(kind, ChangeKind::HardLink { .. })));
    // A third finds what the second only linked.
    let (third, again) = made("third", Some(&second));
    assert_eq!(again, seen);
    for name in ["same", "bytes", "time", "mode", "moved"] {
        assert_eq!(inode(&third, name), inode(&second, name), "{name}");
    }
}
