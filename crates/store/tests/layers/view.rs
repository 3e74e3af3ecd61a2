//! Views of layers: links, names, marks, depth, many files.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use quern_store::files::{FileKind, FileSource, Last, ResolveError, SourceError, resolve};
use quern_store::layers::{ChangeKind, Changes, Files, Owners, Times, View, ViewError, materialise};
use quern_testkit::TempSpace;
use rustix::fs::{Mode, OFlags, ResolveFlags, XattrFlags, openat2};
use rustix::io::Errno;

use crate::show;

fn layer(space: &TempSpace, name: &str, files: &[(&str, &str)]) -> PathBuf {
    fs::create_dir_all(space.path(name)).unwrap();
    for (path, content) in files {
        space.write(&format!("{name}/{path}"), content);
    }
    space.path(name)
}

/// A path of a few names, `..` among them, perhaps from the root.
fn wandering() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "l", "m", "..", "../..", "a/l"]);
    let names = prop::collection::vec(name, 1..5).prop_map(|names| names.join("/"));
    (any::<bool>(), names).prop_map(|(rooted, path)| if rooted { format!("/{path}") } else { path })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// The kernel resolves paths inside a root as well; what it finds in the same files as one directory is found here.
    #[test]
    fn links_lead_where_the_kernel_says(
        links in prop::collection::vec((0..3usize, wandering(), wandering()), 0..12),
        wanted in prop::collection::vec(wandering(), 20),
    ) {
        let space = TempSpace::new();
        let base = [("a/b/c/f", "1"), ("b/c/f", "2"), ("c/a/a/f", "3"), ("a/a/f", "4")];
        let dirs: Vec<_> = (0..3).map(|i| layer(&space, &i.to_string(), &base[i..])).collect();
        for (number, at, target) in &links {
            // Where it fits; what is there already stays.
            let at = dirs[*number].join(at.replace("..", "a").trim_start_matches('/'));
            if at.parent().unwrap().is_dir() {
                let _ = symlink(target, at);
            }
        }
        let view = View::new(&dirs);
        let flat = layer(&space, "flat", &[]);
        materialise(&view, &flat, Files::Link).unwrap();
        let root = rustix::fs::open(&flat, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        for path in &wanted {
            let ask = || openat2(&root, path.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT);
            // It asks to be called again when somebody renamed something elsewhere meanwhile.
            let kernel = std::iter::repeat_with(ask).find(|found| !matches!(found, Err(Errno::AGAIN)));
            let kernel = kernel.expect("it is asked until it answers");
            let ours = resolve(&view, Path::new(path), Last::Follow).map(|path| view.find(&path).unwrap());
            match (kernel, ours) {
                (Ok(found), ours) => {
                    let node = ours.unwrap().expect("the kernel finds it");
                    let stat = fs::symlink_metadata(flat.join(&node.path)).unwrap();
                    let found = rustix::fs::fstat(&found).unwrap();
                    prop_assert_eq!((stat.dev(), stat.ino()), (found.st_dev, found.st_ino), "{}", path);
                }
                // It gives up after 40 links.
                (Err(Errno::LOOP), Err(ResolveError::Links(_)) | Ok(_)) => {}
                // It does not take `..` of what is not there.
                (Err(Errno::NOENT | Errno::NOTDIR), Ok(_) | Err(ResolveError::Links(_))) => {}
                (kernel, ours) => prop_assert!(false, "{path}: {kernel:?}, {ours:?}"),
            }
        }
    }
}

#[test]
fn links_never_lead_out_and_circles_end() {
    let space = TempSpace::new();
    space.write("secret", "outside");
    let dir = layer(&space, "layer", &[("etc/passwd", "inside"), ("a/f", "")]);
    for (name, target) in [
        ("up", "../../../../../../../../etc/passwd"),
        ("a/up", "../../secret"),
        ("root", "/"),
        ("self", "self"),
        ("ping", "pong/x"),
        ("pong", "/ping"),
        ("out", space.path("secret").to_str().unwrap()),
        ("dirs", "a/../etc/../root/etc"),
    ] {
        symlink(target, dir.join(name)).unwrap();
    }
    let view = View::new(&[dir]);
    let read = |path: &str| -> Result<Option<String>, ResolveError> {
        let path = resolve(&view, Path::new(path), Last::Follow)?;
        Ok(view.find(&path).unwrap().map(|node| fs::read_to_string(node.real_path()).unwrap()))
    };
    assert_eq!(read("up").unwrap().as_deref(), Some("inside"));
    assert_eq!(read("dirs/passwd").unwrap().as_deref(), Some("inside"));
    assert_eq!(read("root/root/../root/up").unwrap().as_deref(), Some("inside"));
    for absent in ["a/up", "out", "a/f/x", "../secret"] {
        assert_eq!(read(absent).unwrap(), None, "{absent}");
    }
    for circle in ["self", "ping", "root/self/x"] {
        assert!(matches!(read(circle), Err(ResolveError::Links(_))), "{circle}");
    }
    // Without following, a path through a link is absent.
    assert!(view.find(Path::new("root/etc/passwd")).unwrap().is_none());
    assert!(matches!(view.open(Path::new("up")), Err(SourceError::Absent(_))));
    assert!(view.find(Path::new("../secret")).unwrap().is_none());
    assert!(view.find(Path::new("/etc/passwd")).unwrap().is_none(), "paths are relative");
    assert!(view.find(Path::new(&"x".repeat(300))).unwrap().is_none());
}

#[test]
fn a_redirect_is_refused() {
    let space = TempSpace::new();
    let (lower, upper) = (layer(&space, "lower", &[("d/f", "")]), layer(&space, "upper", &[("d/g", "")]));
    let mark = "user.overlay.redirect";
    rustix::fs::lsetxattr(upper.join("d"), mark, b"/other", XattrFlags::empty()).unwrap();
    let view = View::new(&[lower, upper.clone()]);
    assert!(matches!(view.find(Path::new("d/f")), Err(ViewError::Redirected { .. })));
    assert!(matches!(view.list(&view.root().unwrap()), Err(ViewError::Redirected { .. })));
    assert!(matches!(FileSource::list(&view, Path::new("d")), Err(SourceError::Damaged { .. })));
    assert!(Changes::of_layer(&upper, show::owners(), Times::Keep).any(|change| change.is_err()));
}

#[test]
fn what_one_layer_has_is_looked_for_in_no_other() {
    let space = TempSpace::new();
    let dirs: Vec<_> = (0..100)
        .map(|i| {
            layer(&space, &format!("layer{i:03}"), &[(&format!("own{i:03}/deep/f"), "x"), ("all/f", "y")])
        })
        .collect();
    let view = View::new(&dirs);
    let root = view.root().unwrap();
    assert_eq!(view.list(&root).unwrap().len(), 101);
    let deep = view.find(Path::new("own050/deep")).unwrap().unwrap();
    let own = view.find(Path::new("own050")).unwrap().unwrap();
    // All others go away, so whoever asks them fails.
    for (number, dir) in dirs.iter().enumerate().filter(|(number, _)| *number != 50) {
        fs::rename(dir, space.path(format!("gone{number}"))).unwrap();
        fs::write(dir, "no directory").unwrap();
    }
    assert_eq!(view.list(&deep).unwrap().len(), 1);
    assert_eq!(view.walk(&own).filter(Result::is_ok).count(), 2);
    assert!(view.find(Path::new("own050/deep/f")).unwrap().is_some());
    assert!(view.find(Path::new("own050/deep/g")).unwrap().is_none());
    assert!(view.list(&root).is_err(), "the others would have been noticed");
}

#[test]
fn depth_does_not_matter() {
    let space = TempSpace::new();
    let name = "d".repeat(250);
    let dir = layer(&space, "layer", &[("f", "deep")]);
    for _ in 0..40 {
        fs::create_dir(space.path("outer")).unwrap();
        fs::rename(&dir, space.path("outer").join(&name)).unwrap();
        fs::rename(space.path("outer"), &dir).unwrap();
    }
    let view = View::new(std::slice::from_ref(&dir));
    let nodes: Vec<_> = view.walk(&view.root().unwrap()).map(|node| node.unwrap()).collect();
    assert_eq!(nodes.len(), 41);
    let file = &nodes[40];
    assert!(file.path.as_os_str().len() > 10_000);
    assert_eq!(std::io::read_to_string(file.contents().unwrap()).unwrap(), "deep");
    assert_eq!(view.find(&file.path).unwrap().unwrap().stat, file.stat);
    let entries = Changes::of_layer(&dir, show::owners(), Times::Keep).filter(Result::is_ok);
    assert_eq!(entries.count(), 41);
    for (to, files) in [("linked", Files::Link), ("copied", Files::Copy)] {
        let to = layer(&space, to, &[]);
        materialise(&view, &to, files).unwrap();
        let again = View::new(&[to]);
        assert_eq!(show::of_view(&again), show::of_view(&view));
    }
}

#[test]
fn owners_are_those_that_steps_see() {
    let space = TempSpace::new();
    let dir = layer(&space, "layer", &[("f", "")]);
    let own = fs::metadata(dir.join("f")).unwrap();
    let (uid, gid) = (own.uid(), own.gid());
    let check = |owners, expected| {
        let view = View::new(std::slice::from_ref(&dir)).with_owners(owners);
        let stat = view.find(Path::new("f")).unwrap().unwrap().stat;
        assert_eq!((stat.uid, stat.gid), expected, "{owners:?}");
        // A clone in use changes nothing.
        let other = view.clone().with_owners(Owners::Same);
        assert_eq!(FileSource::stat(&other, Path::new("f")).unwrap().unwrap().uid, uid);
        assert_eq!(FileSource::stat(&view, Path::new("f")).unwrap().unwrap().uid, expected.0);
    };
    check(Owners::Same, (uid, gid));
    check(Owners::Root { uid, gid }, (0, 0));
    check(Owners::Root { uid: uid + 1, gid }, (65534, 0));
    check(Owners::Root { uid, gid: gid + 1 }, (0, 65534));
}

#[test]
fn a_hundred_thousand_files_in_deep_stacks() {
    let space = TempSpace::new();
    const LAYERS: usize = 20;
    let dirs: Vec<_> = (0..LAYERS).map(|i| layer(&space, &format!("l{i}"), &[])).collect();
    // One file with many names: what is listed is what matters.
    space.write("one", "x");
    for (number, dir) in dirs.iter().enumerate() {
        for group in 0..10 {
            let place = dir.join(format!(
                "shared/{group}/{}",
                if group < 5 { "same".into() } else { format!("own{number}") }
            ));
            fs::create_dir_all(&place).unwrap();
            for i in 0..500 {
                fs::hard_link(space.path("one"), place.join(format!("f{number:02}-{i:03}"))).unwrap_or_else(
                    |_| {
                        // ext4 allows 65,000 names.
                        fs::remove_file(space.path("one")).unwrap();
                        space.write("one", "x");
                        fs::hard_link(space.path("one"), place.join(format!("f{number:02}-{i:03}"))).unwrap();
                    },
                );
            }
        }
    }
    let view = View::new(&dirs);
    let (mut files, mut directories) = (0, 0);
    let mut last = PathBuf::new();
    for node in view.walk(&view.root().unwrap()) {
        let node = node.unwrap();
        assert!(last < node.path);
        last = node.path;
        match node.stat.kind {
            FileKind::Dir => directories += 1,
            _ => files += 1,
        }
    }
    assert_eq!((files, directories), (100_000, 1 + 10 + 5 + 5 * LAYERS));
    let mut walk = view.walk(&view.root().unwrap());
    let mut given = 0;
    while let Some(node) = walk.next() {
        given += 1;
        if node.unwrap().path.as_os_str().as_bytes().ends_with(b"same") {
            walk.skip_contents();
        }
    }
    assert_eq!(given, 100_000 / 2 + directories);
    let entries = Changes::of_layer(&dirs[3], show::owners(), Times::Keep).map(|change| change.unwrap().kind);
    assert_eq!(entries.filter(|kind| matches!(kind, ChangeKind::HardLink { .. })).count(), 4999);
}
