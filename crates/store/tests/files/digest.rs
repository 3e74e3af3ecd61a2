//! What content digests tell apart, and what they do not.

use std::path::{Path, PathBuf};

use quern_core::Digest;
use quern_store::files::{FileSource, Selected, Selection, content_digest};

use crate::fake::Tree;

fn digest_of(tree: &dyn FileSource, sources: &[&str]) -> Digest {
    let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
    let selected = Selection { sources: &sources, exclude: None, parents: false }.find(tree).unwrap();
    content_digest(tree, &selected).unwrap()
}

type Change = (&'static str, fn(&mut Tree));

fn tree() -> Tree {
    Tree::of(&["d/a=1", "d/b=2", "d/sub/c=3", "d/l>a", "e/a=1", "e/b=2", "e/sub/c=3", "e/l>a", "f=1"])
}

#[test]
fn each_change_that_lands_shows() {
    let changes: &[Change] = &[
        ("bytes", |tree| tree.at("d/a").bytes = b"9".to_vec()),
        ("mode of a file", |tree| tree.at("d/a").stat.mode = 0o755),
        ("mode of a directory", |tree| tree.at("d/sub").stat.mode = 0o700),
        ("owner", |tree| tree.at("d/sub/c").stat.uid = 1),
        ("group", |tree| tree.at("d/l").stat.gid = 1),
        ("target", |tree| tree.at("d/l").target = "b".into()),
        ("attribute", |tree| tree.at("d/a").xattrs.push((b"user.x".to_vec(), b"1".to_vec()))),
        ("attribute of a directory", |tree| {
            tree.at("d/sub").xattrs.push((b"user.x".to_vec(), b"1".to_vec()));
        }),
        ("name", |tree| {
            let node = tree.0.remove(Path::new("d/a")).unwrap();
            tree.put("d/A", node);
        }),
        ("place", |tree| {
            let node = tree.0.remove(Path::new("d/a")).unwrap();
            tree.put("d/sub/a", node);
        }),
        ("one more", |tree| tree.put("d/empty", tree.0[Path::new("d/sub")].clone())),
        ("one less", |tree| drop(tree.0.remove(Path::new("d/b")))),
    ];
    let before = digest_of(&tree(), &["d"]);
    for (what, change) in changes {
        let mut changed = tree();
        change(&mut changed);
        assert_ne!(digest_of(&changed, &["d"]), before, "{what}");
    }
}

#[test]
fn what_does_not_land_does_not_show() {
    let changes: &[Change] = &[
        ("time", |tree| tree.at("d/a").stat.modified += 1),
        ("time of a directory", |tree| tree.at("d/sub").stat.modified += 1),
        ("change time", |tree| tree.at("d/a").stat.changed += 1),
        ("inode", |tree| tree.at("d/a").stat.inode.ino += 1),
        ("links", |tree| tree.at("d/a").stat.links += 1),
        ("mode of the directory itself", |tree| tree.at("d").stat.mode = 0o700),
        ("something else", |tree| tree.at("f").bytes = b"9".to_vec()),
    ];
    let before = digest_of(&tree(), &["d"]);
    for (what, change) in changes {
        let mut changed = tree();
        change(&mut changed);
        assert_eq!(digest_of(&changed, &["d"]), before, "{what}");
    }
    assert_eq!(digest_of(&tree(), &["e"]), before, "the path of a directory");
}

#[test]
fn sources_are_told_apart() {
    let tree = tree();
    assert_ne!(digest_of(&tree, &["d/a"]), digest_of(&tree, &["f"]), "a file lands under its name");
    assert_eq!(digest_of(&tree, &["d/a"]), digest_of(&tree, &["e/a"]));
    assert_ne!(digest_of(&tree, &["d/a", "d/b"]), digest_of(&tree, &["d/b", "d/a"]), "the later one wins");
    assert_ne!(digest_of(&tree, &["d"]), digest_of(&tree, &["d", "d"]));
    assert_ne!(digest_of(&tree, &["d"]), digest_of(&tree, &["d/sub"]));
}

#[test]
fn a_mount_shows_its_directory() {
    let before = tree();
    let mut after = tree();
    after.at("d").stat.mode = 0o700;
    let whole = |tree: &Tree| content_digest(tree, &Selected::whole(tree, Path::new("/d")).unwrap()).unwrap();
    assert_ne!(whole(&before), whole(&after));
    assert_eq!(whole(&before), whole(&tree()));
}
