//! A view of layers written by hand against a plain model of what they show.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use quern_store::files::FileKind;
use quern_store::layers::{Times, View};
use quern_testkit::TempSpace;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::{archive, show};

/// What a path shows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    File(u32),
    Dir,
    Link(String),
}

type Tree = BTreeMap<PathBuf, Thing>;

#[derive(Debug, Clone)]
enum Act {
    Put(PathBuf, Thing),
    Remove(PathBuf),
}

fn path() -> impl Strategy<Value = PathBuf> {
    // Names that sort oddly, break lines and are no text.
    let names: [&[u8]; 6] = [b"a", b"b", b"a.", b"new\nline", b"\xff\xfe", b".wh"];
    let name = prop::sample::select(names.to_vec());
    prop::collection::vec(name, 1..5)
        .prop_map(|names| names.iter().map(|name| OsStr::from_bytes(name)).collect())
}

fn act() -> impl Strategy<Value = Act> {
    let thing = prop_oneof![
        any::<u32>().prop_map(Thing::File),
        Just(Thing::Dir),
        "[a/.]{1,6}".prop_map(Thing::Link),
    ];
    prop_oneof![
        3 => (path(), thing).prop_map(|(path, thing)| Act::Put(path, thing)),
        1 => path().prop_map(Act::Remove),
    ]
}

fn without(tree: &mut Tree, path: &Path) {
    tree.retain(|other, _| !other.starts_with(path));
}

/// Does the acts to the model, and to a layer what an overlay would do to its upper directory.
fn write_layer(dir: &Path, tree: &mut Tree, acts: &[Act], mark: &str) {
    fs::create_dir(dir).unwrap();
    let below = tree.clone();
    let is_dir =
        |tree: &Tree, path: &Path| path.as_os_str().is_empty() || tree.get(path) == Some(&Thing::Dir);
    for act in acts {
        let (Act::Put(path, _) | Act::Remove(path)) = act;
        if !is_dir(tree, path.parent().unwrap()) {
            continue;
        }
        if matches!(act, Act::Put(_, Thing::Dir)) && is_dir(tree, path) {
            continue;
        }
        copy_up(dir, path.parent().unwrap());
        let place = dir.join(path);
        archive::remove(&place);
        without(tree, path);
        match act {
            Act::Remove(_) if below.contains_key(path) => {
                rustix::fs::mknodat(CWD, &place, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
            }
            Act::Remove(_) => {}
            Act::Put(_, thing) => {
                match thing {
                    Thing::File(content) => fs::write(&place, content.to_string()).unwrap(),
                    Thing::Link(target) => std::os::unix::fs::symlink(target, &place).unwrap(),
                    Thing::Dir => {
                        fs::create_dir(&place).unwrap();
                        if below.contains_key(path) {
                            rustix::fs::lsetxattr(&place, mark, b"y", XattrFlags::empty()).unwrap();
                        }
                    }
                }
                tree.insert(path.clone(), thing.clone());
            }
        }
    }
}

/// Makes the directories that lead to a path in the upper layer.
fn copy_up(dir: &Path, path: &Path) {
    fs::create_dir_all(dir.join(path)).unwrap();
}

fn shown(view: &View) -> Tree {
    let nodes = view.walk(&view.root().unwrap()).map(|node| node.unwrap());
    let things = nodes.map(|node| {
        let thing = match node.stat.kind {
            FileKind::File => Thing::File(fs::read_to_string(node.real_path()).unwrap().parse().unwrap()),
            FileKind::Dir => Thing::Dir,
            FileKind::Link => Thing::Link(node.target().unwrap().to_str().unwrap().to_owned()),
            other => panic!("{other:?}"),
        };
        (node.path, thing)
    });
    things.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn a_view_shows_what_was_done(history in prop::collection::vec(prop::collection::vec(act(), 0..25), 0..8)) {
        let space = TempSpace::new();
        // An ordinary user can write only the marks of user namespaces, and each is understood.
        let marks = if show::is_root() { ["trusted.overlay.opaque", "user.overlay.opaque"] } else { ["user.overlay.opaque"; 2] };
        let (mut tree, mut dirs) = (Tree::new(), Vec::new());
        let applied = space.path("applied");
        fs::create_dir(&applied).unwrap();
        for (number, acts) in history.iter().enumerate() {
            let dir = space.path(number.to_string());
            write_layer(&dir, &mut tree, acts, marks[number % 2]);
            archive::apply(quern_store::layers::Changes::of_layer(&dir, show::owners(), Times::Keep), &applied);
            dirs.push(dir);
            let view = View::new(&dirs);
            prop_assert_eq!(&shown(&view), &tree);
            prop_assert_eq!(&shown(&View::new(std::slice::from_ref(&applied))), &tree);
            let walked: Vec<_> = view.walk(&view.root().unwrap()).map(|node| node.unwrap().path).collect();
            // Parents before children and siblings by their bytes is the order of paths, part by part.
            prop_assert!(walked.is_sorted());
        }
        show::assert_found(&View::new(&dirs));
    }
}
