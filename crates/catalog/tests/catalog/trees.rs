//! The algebra of trees against a model: a map from paths to contents.

use std::collections::BTreeMap;

use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};
use proptest::{collection, sample};
use quern_catalog::tree::{Edits, Overlay, diff, edit, place_many, save, size_change, union};
use quern_catalog::{Content, TreesError};
use quern_core::{ContentRef, Entry, Tree};

use crate::shop::{Shop, path};

type Files = BTreeMap<String, String>;

/// Paths that never collide: directories are letters, files are digits.
fn files() -> impl Strategy<Value = Files> {
    let name = sample::select(vec![
        "/1", "/2", "/a/1", "/a/2", "/a/b/1", "/a/b/2", "/c/1", "/c/d/1", "/c.1", "/c-d/1",
    ]);
    collection::btree_map(name.prop_map(str::to_owned), "[xyz]{0,3}", 0..8)
}

fn tree(shop: &Shop, files: &Files) -> ContentRef {
    shop.tree(&files.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect::<Vec<_>>())
}

fn lines(files: &Files) -> Vec<String> {
    // In the order of a walk: a directory's name is compared before what follows the slash.
    let mut lines: Vec<(Vec<&str>, String)> =
        files.iter().map(|(p, c)| (p.split('/').collect(), format!("{p}={c}"))).collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn bytes(files: &Files) -> i128 {
    files.values().map(|c| c.len() as i128).sum()
}

proptest! {
    #[test]
    fn union_is_the_union_of_maps(below in files(), above in files()) {
        let shop = Shop::new();
        let (b, a) = (tree(&shop, &below), tree(&shop, &above));
        let replaced = union(&shop.blobs, &b, &a, Overlay::Replace).unwrap();
        let mut model = below.clone();
        model.extend(above.clone());
        prop_assert_eq!(shop.show_tree(&replaced), lines(&model));
        prop_assert_eq!(replaced, tree(&shop, &model), "one content has one tree");
        let appended = union(&shop.blobs, &b, &a, Overlay::Append).unwrap();
        let mut model = below;
        for (path, content) in above {
            model.entry(path).or_default().push_str(&content);
        }
        prop_assert_eq!(appended, tree(&shop, &model));
    }

    #[test]
    fn diff_names_what_differs(old in files(), new in files()) {
        let shop = Shop::new();
        let (o, n) = (tree(&shop, &old), tree(&shop, &new));
        let mut found = BTreeMap::new();
        diff(&shop.blobs, &o, &n, &mut |d| drop(found.insert(d.path.to_string(), (d.old, d.new)))).unwrap();
        let all: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let expected = all.into_iter().filter(|p| old.get(*p) != new.get(*p)).map(|p| {
            let entry = |files: &Files| files.get(p).map(|c| shop.file(c));
            (p.clone(), (entry(&old), entry(&new)))
        });
        prop_assert_eq!(found, expected.collect::<BTreeMap<_, _>>());
        prop_assert_eq!(size_change(&shop.blobs, &o, &n).unwrap(), bytes(&new) - bytes(&old));
    }

    #[test]
    fn edits_lead_from_one_tree_to_any_other(old in files(), new in files()) {
        let shop = Shop::new();
        let (o, n) = (tree(&shop, &old), tree(&shop, &new));
        let mut edits = Edits::default();
        diff(&shop.blobs, &o, &n, &mut |d| match d.new {
            Some(entry) => edits.set(&d.path, entry),
            None => edits.remove_and_prune(&d.path),
        }).unwrap();
        prop_assert_eq!(edit(&shop.blobs, &o, &edits).unwrap(), n);
    }

    #[test]
    fn every_part_of_a_tree_can_be_read_again(files in files()) {
        let shop = Shop::new();
        let built = tree(&shop, &files);
        let catalog = shop.catalog();
        prop_assert_eq!(i128::from(catalog.size_of(&built).unwrap()), bytes(&files));
        let empty = Content::empty();
        prop_assert_eq!(i128::from(catalog.size_after(&empty, &built).unwrap()), bytes(&files));
        prop_assert!(files.is_empty() || !shop.show_tree(&built).is_empty());
    }
}

#[test]
fn differences_between_files_links_and_directories() {
    let shop = Shop::new();
    let empty = || Entry::Dir(save(&shop.blobs, &Tree::default()).unwrap());
    let full = || Entry::Dir(shop.tree(&[("/x", "1")]));
    let check = |old: Option<Entry>, new: Option<Entry>, expected: &[(&str, &str, &str)]| {
        let root = |entry: Option<Entry>| {
            let entries: Vec<_> = entry.into_iter().map(|entry| (path("/e"), entry)).collect();
            place_many(&shop.blobs, &entries).unwrap()
        };
        let kind = |entry: Option<Entry>| match entry {
            None => "nothing",
            Some(Entry::File { .. }) => "file",
            Some(Entry::Link(_)) => "link",
            Some(Entry::Dir(_)) => "directory",
        };
        let mut found = Vec::new();
        diff(&shop.blobs, &root(old), &root(new), &mut |d| {
            found.push((d.path.to_string(), kind(d.old), kind(d.new)));
        })
        .unwrap();
        let found: Vec<_> = found.iter().map(|(p, old, new)| (p.as_str(), *old, *new)).collect();
        assert_eq!(found, expected);
    };
    let (file, link) = (|| shop.file("1"), || Entry::Link("t".into()));
    check(None, Some(empty()), &[("/e", "nothing", "directory")]);
    check(Some(empty()), None, &[("/e", "directory", "nothing")]);
    check(Some(empty()), Some(full()), &[("/e/x", "nothing", "file")]);
    check(Some(full()), Some(empty()), &[("/e/x", "file", "nothing")]);
    check(Some(empty()), Some(file()), &[("/e", "directory", "file")]);
    check(Some(full()), Some(file()), &[("/e", "nothing", "file"), ("/e/x", "file", "nothing")]);
    check(Some(link()), Some(full()), &[("/e", "link", "nothing"), ("/e/x", "nothing", "file")]);
    check(Some(file()), Some(link()), &[("/e", "file", "link")]);
    check(Some(full()), Some(full()), &[]);
}

#[test]
fn removing_keeps_or_prunes_directories() {
    let shop = Shop::new();
    let start = shop.tree(&[("/a/b/c", "1"), ("/d", "2")]);
    let check = |act: fn(&mut Edits), expected: &[&str]| {
        let mut edits = Edits::default();
        act(&mut edits);
        assert_eq!(shop.show_tree(&edit(&shop.blobs, &start, &edits).unwrap()), expected);
    };
    check(|e| e.remove(&path("/a/b/c")), &["/a/b/", "/d=2"]);
    check(|e| e.remove_and_prune(&path("/a/b/c")), &["/d=2"]);
    check(|e| e.remove_and_prune(&path("/a/b")), &["/d=2"]);
    check(|e| e.remove(&path("/a/b/c/x/y")), &["/a/b/c=1", "/d=2"]);
    check(|e| e.remove_and_prune(&path("/x/y")), &["/a/b/c=1", "/d=2"]);
    check(|e| e.remove(&path("/")), &[]);
}

#[test]
fn only_directories_on_the_way_are_written() {
    let shop = Shop::new();
    let files: Vec<(String, String)> = (0..50).map(|i| (format!("/{}/{i}", i % 10), i.to_string())).collect();
    let tree = shop.tree(&files.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect::<Vec<_>>());
    let before = shop.blobs.len();
    let mut edits = Edits::default();
    edits.set(&path("/3/new"), Entry::Link("x".into()));
    edit(&shop.blobs, &tree, &edits).unwrap();
    assert_eq!(shop.blobs.len(), before + 2, "the directory and the root");
}

#[test]
fn entries_do_not_lead_through_each_other() {
    let shop = Shop::new();
    for order in [["/a", "/a/b"], ["/a/b", "/a"]] {
        let entries = order.map(|p| (path(p), shop.file("1")));
        let error = place_many(&shop.blobs, &entries).unwrap_err();
        assert!(matches!(error, TreesError::Kind { .. }), "{error}");
    }
}
