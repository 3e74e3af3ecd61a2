//! From patterns to datums, and sets of known ones.

use std::collections::BTreeMap;

use proptest::prelude::{any, prop_assert_eq, proptest};
use quern_catalog::{
    ChangedDatums, DatumError, DatumInput, DatumSet, DatumSetError, Literal, PathPattern, PfsInput,
    PlannedDatum, difference, difference_of, enumerate, enumerate_changed,
};
use quern_core::port::Blobs as _;
use quern_core::{ContentRef, Digest, Entry, Tree};

use crate::shop::{Depth, Shop, path};

fn pfs<'a>(name: &str, tree: ContentRef, pattern: &'a dyn PathPattern) -> DatumInput<'a> {
    DatumInput::Pfs(PfsInput { name: name.into(), tree: Some(tree), pattern })
}

/// Each datum as `input:path` joined by spaces.
fn list(shop: &Shop, input: &DatumInput<'_>) -> Vec<String> {
    let datums = enumerate(&shop.blobs, input).unwrap();
    let lines: Vec<String> = datums
        .iter()
        .map(|d| d.leaves.iter().map(|l| format!("{}:{}", l.input, l.path)).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines.len() as u64, datums.len());
    assert_eq!(lines.is_empty(), datums.is_empty());
    lines
}

#[test]
fn files_and_directories_are_datums() {
    let shop = Shop::new();
    let tree = shop.tree(&[("/a.txt", "1"), ("/b", "2"), ("/dir/c.txt", "3"), ("/dir/sub/d.txt", "4")]);
    let check = |pattern: &dyn PathPattern, expected: &[&str]| {
        assert_eq!(list(&shop, &pfs("in", tree, pattern)), expected);
    };
    check(&Depth(1), &["in:/a.txt", "in:/b", "in:/dir"]);
    check(&Depth(2), &["in:/dir/c.txt", "in:/dir/sub"]);
    check(&Literal::new(&path("/")), &["in:/"]);
    check(&Literal::new(&path("/dir")), &["in:/dir"]);
    check(&Literal::new(&path("/missing")), &[]);
    check(&Literal::new(&path("/b/x")), &[]);
}

/// Chooses the root and `/d`, without looking below.
struct Shallow;

impl PathPattern for Shallow {
    fn matches(&self, path: &str) -> bool {
        matches!(path, "" | "/d")
    }
    fn may_descend(&self, dir: &str) -> bool {
        assert!(dir.starts_with('/'), "only asked about directories below the root");
        false
    }
    fn literal(&self) -> Option<&str> {
        None
    }
}

#[test]
fn directories_are_read_only_if_something_in_them_may_be_chosen() {
    let shop = Shop::new();
    let tree = shop.tree(&[("/d/x", "1"), ("/e/y", "2")]);
    for gone in [&[("/x", "1")], &[("/y", "2")]] {
        shop.blobs.remove(&shop.tree(gone).digest);
    }
    assert_eq!(list(&shop, &pfs("in", tree, &Shallow)), ["in:/", "in:/d"]);
    assert!(enumerate(&shop.blobs, &pfs("in", tree, &Depth(2))).is_err());
}

#[test]
fn without_files_there_are_no_datums() {
    let shop = Shop::new();
    let root = Literal::new(&path("/"));
    let none = || DatumInput::Pfs(PfsInput { name: "n".into(), tree: None, pattern: &root });
    assert_eq!(list(&shop, &none()), Vec::<String>::new());
    assert_eq!(list(&shop, &pfs("n", shop.tree(&[]), &root)), Vec::<String>::new());
    let some = pfs("s", shop.tree(&[("/a", "1")]), &root);
    assert_eq!(list(&shop, &DatumInput::Cross(vec![some, none()])), Vec::<String>::new());
}

#[test]
fn products_and_unions() {
    let shop = Shop::new();
    let (letters, numbers) = (shop.tree(&[("/a", ""), ("/b", "")]), shop.tree(&[("/1", ""), ("/2", "")]));
    let cross = DatumInput::Cross(vec![pfs("z", letters, &Depth(1)), pfs("n", numbers, &Depth(1))]);
    assert_eq!(
        list(&shop, &cross),
        ["n:/1 z:/a", "n:/1 z:/b", "n:/2 z:/a", "n:/2 z:/b"],
        "the first member runs fastest; inside a datum inputs are sorted by name"
    );
    let union = DatumInput::Union(vec![cross, pfs("z", letters, &Depth(1))]);
    assert_eq!(list(&shop, &union)[4..], ["z:/a", "z:/b"]);
    let whole = pfs("src", letters, &Depth(1));
    let nested = DatumInput::Cross(vec![whole, DatumInput::Union(vec![pfs("u", numbers, &Depth(1))])]);
    assert_eq!(list(&shop, &nested).len(), 4);
}

#[test]
fn kinds_that_are_not_executed_yet_have_a_name() {
    let shop = Shop::new();
    for (input, kind) in [(DatumInput::Join(vec![]), "join"), (DatumInput::Group(vec![]), "group")] {
        let error = enumerate(&shop.blobs, &DatumInput::Cross(vec![input])).unwrap_err();
        assert!(matches!(&error, DatumError::NotExecutedYet(k) if *k == kind), "{error}");
    }
}

#[test]
fn too_many_datums_are_refused_before_any_is_made() {
    let shop = Shop::new();
    let tree = shop.tree(&(0..200).map(|_| ("/x", "")).chain([("/a", ""), ("/b", "")]).collect::<Vec<_>>());
    let members = (0..64).map(|i| pfs(&format!("i{i}"), tree, &Depth(1))).collect();
    assert!(matches!(enumerate(&shop.blobs, &DatumInput::Cross(members)), Err(DatumError::TooMany)));
}

#[test]
fn keys_are_made_from_content_only() {
    let shop = Shop::new();
    let keys = |name: &str, files: &[(&str, &str)]| {
        let datums = enumerate(&shop.blobs, &pfs(name, shop.tree(files), &Depth(1))).unwrap();
        datums.iter().map(|d| d.key()).collect::<Vec<_>>()
    };
    let base = keys("in", &[("/a", "1"), ("/d/x", "2")]);
    assert_eq!(base, keys("in", &[("/a", "1"), ("/d/x", "2")]));
    assert_eq!(base[0], keys("in", &[("/a", "1"), ("/b", "3")])[0], "other files play no part");
    assert_ne!(base[0], keys("in", &[("/a", "2")])[0], "content");
    assert_ne!(base[0], keys("in", &[("/b", "1")])[0], "path");
    assert_ne!(base[0], keys("on", &[("/a", "1")])[0], "input name");
    assert_ne!(base[1], keys("in", &[("/a", "1"), ("/d/y", "2")])[1], "names inside a directory");
}

#[test]
fn the_order_of_a_spec_plays_no_part() {
    let shop = Shop::new();
    let (a, b) = (shop.tree(&[("/a", "1"), ("/b", "2")]), shop.tree(&[("/c", "3"), ("/d", "4")]));
    let keys = |members| {
        let datums = enumerate(&shop.blobs, &DatumInput::Cross(members)).unwrap();
        datums.planned().into_iter().map(|d| d.key).collect::<Vec<_>>()
    };
    let one = keys(vec![pfs("x", a, &Depth(1)), pfs("y", b, &Depth(1))]);
    assert_eq!(one, keys(vec![pfs("y", b, &Depth(1)), pfs("x", a, &Depth(1))]));
    assert!(one.is_sorted() && one.len() == 4);
}

/// Computed from the rules in the header of `datum.rs` by another program.
#[test]
fn the_encoding_of_keys_is_fixed() {
    let shop = Shop::new();
    let datums = enumerate(&shop.blobs, &pfs("in", shop.tree(&[("/a", "1")]), &Depth(1))).unwrap();
    let key = datums.get(0).unwrap().key();
    assert_eq!(key.hex(), "08c2833c248030b8f66c72839666dcd881576fba10374f5e979149bd2c6df84f");
    assert_eq!(datums.planned(), [PlannedDatum { key, index: 0, copies: 1 }]);
}

#[test]
fn the_same_file_by_two_arms_is_one_work_counted_twice() {
    let shop = Shop::new();
    let tree = shop.tree(&[("/a", "1"), ("/b", "2")]);
    let first = Literal::new(&path("/a"));
    let union = DatumInput::Union(vec![pfs("in", tree, &Depth(1)), pfs("in", tree, &first)]);
    let datums = enumerate(&shop.blobs, &union).unwrap();
    assert_eq!(datums.len(), 3);
    let planned = datums.planned();
    let mut counted: Vec<_> = planned.iter().map(|d| (d.index, d.copies)).collect();
    counted.sort_unstable();
    assert_eq!(counted, [(0, 2), (1, 1)]);
    let known = DatumSet::new(planned.iter().map(|d| (d.key, tree)).collect());
    assert_eq!(difference(&planned, &known, &DatumSet::default()).skipped(), 3);
}

#[test]
fn a_datum_sees_only_its_path() {
    let shop = Shop::new();
    let tree = shop.tree(&[("/d/e/f", "1"), ("/d/x", "2"), ("/y", "3")]);
    let input = DatumInput::Cross(vec![
        pfs("deep", tree, &Depth(3)),
        pfs("dir", tree, &Depth(2)),
        pfs("all", tree, &Depth(1)),
    ]);
    let datums = enumerate(&shop.blobs, &input).unwrap();
    let trees = datums.get(0).unwrap().trees(&shop.blobs).unwrap();
    let shown: Vec<_> = trees.iter().map(|(name, tree)| (&**name, shop.show_tree(tree))).collect();
    assert_eq!(shown[0], ("all", vec!["/d/e/f=1".to_owned(), "/d/x=2".to_owned()]));
    assert_eq!(shown[1], ("deep", vec!["/d/e/f=1".to_owned()]));
    assert_eq!(shown[2], ("dir", vec!["/d/e/f=1".to_owned()]));
    let whole = enumerate(&shop.blobs, &pfs("in", tree, &Literal::new(&path("/")))).unwrap();
    assert_eq!(whole.get(0).unwrap().trees(&shop.blobs).unwrap()[0].1, tree, "no new tree for everything");
}

fn digest(n: u16) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn set(entries: &BTreeMap<u16, u8>) -> DatumSet {
    DatumSet::new(entries.iter().map(|(k, v)| (digest(*k), output(*v))).collect())
}

fn output(n: u8) -> ContentRef {
    ContentRef { digest: Digest::of(&[n]), size: u64::from(n) }
}

#[test]
fn of_one_key_the_last_counts() {
    let set = DatumSet::new(vec![(digest(1), output(1)), (digest(2), output(2)), (digest(1), output(3))]);
    assert_eq!((set.len(), set.get(&digest(1))), (2, Some(output(3))));
    assert!(!set.is_empty() && DatumSet::default().is_empty());
    assert_eq!(set.updated(&[digest(1)], vec![(digest(1), output(4))]).get(&digest(1)), Some(output(4)));
}

#[test]
fn damaged_sets_are_refused() {
    let good = set(&BTreeMap::from([(1, 1), (2, 2), (3, 3)]));
    assert_eq!(DatumSet::decode(good.encoded().to_vec()), Ok(good.clone()));
    let bytes = good.encoded();
    assert_eq!(DatumSet::decode(bytes[..bytes.len() - 1].to_vec()), Err(DatumSetError::Damaged(2)));
    assert_eq!(DatumSet::decode(b"quern.datums.v2\n".to_vec()), Err(DatumSetError::Format));
    assert_eq!(DatumSet::decode(Vec::new()), Err(DatumSetError::Format));
    let repeated = [bytes, &bytes[bytes.len() - 72..]].concat();
    assert_eq!(DatumSet::decode(repeated), Err(DatumSetError::Damaged(3)));
}

#[test]
fn a_set_is_kept_in_parts_of_which_few_change() {
    let shop = Shop::new();
    let entries =
        |count: u32| (0..count).map(|n| (Digest::of(&n.to_le_bytes()), output(n as u8))).collect::<Vec<_>>();
    let files = |set: &DatumSet| {
        let parts = set.save(&shop.blobs).unwrap();
        assert_eq!(&DatumSet::load(&shop.blobs, &parts).unwrap(), set);
        Tree::decode(&shop.blobs.get(&parts.digest).unwrap_or_default()).unwrap().into_entries()
    };
    let large = DatumSet::new(entries(10_000));
    let before = files(&large);
    assert_eq!(before.len(), 16);
    let after = files(&large.clone().updated(&[], vec![(digest(1), output(9))]));
    assert_eq!(before.iter().zip(&after).filter(|(before, after)| before != after).count(), 1);
    assert_eq!(files(&DatumSet::new(entries(3))).len(), 1);
    assert_eq!(files(&DatumSet::default()).len(), 0);
}

#[test]
fn damaged_parts_are_refused() {
    let shop = Shop::new();
    let parts = |parts: &[(&str, &[u8])]| {
        let file = |bytes| Entry::File { content: shop.blobs.put(bytes).unwrap(), executable: false };
        let entries = parts.iter().map(|(name, bytes)| ((*name).to_owned(), file(bytes))).collect();
        shop.blobs.put(&Tree::new(entries).unwrap().encode()).unwrap()
    };
    let [low, high] = [&[(1, 1)], &[(2, 2)]].map(|entries| set(&entries.iter().copied().collect()));
    let (low, high) = if digest(1) < digest(2) { (low, high) } else { (high, low) };
    assert!(DatumSet::load(&shop.blobs, &parts(&[("0", low.encoded()), ("1", high.encoded())])).is_ok());
    for wrong in [
        parts(&[("0", high.encoded()), ("1", low.encoded())]),
        parts(&[("0", &low.encoded()[..20])]),
        parts(&[("0", b"")]),
        ContentRef { digest: digest(3), size: 3 },
    ] {
        assert!(DatumSet::load(&shop.blobs, &wrong).is_err());
    }
}

#[test]
fn of_what_did_not_change_nothing_is_read() {
    let shop = Shop::new();
    let before = shop.tree(&[("/d/x", "1"), ("/e/y", "2")]);
    let after = shop.tree(&[("/d/x", "1"), ("/e/y", "3"), ("/e/z", "4")]);
    shop.blobs.remove(&shop.tree(&[("/x", "1")]).digest);
    let input = PfsInput { name: "in".into(), tree: Some(after), pattern: &Depth(2) };
    let ChangedDatums { datums, gone } = enumerate_changed(&shop.blobs, &input, &before).unwrap();
    assert_eq!(datums.iter().map(|d| d.leaves[0].path.to_string()).collect::<Vec<_>>(), ["/e/y", "/e/z"]);
    assert_eq!(gone.len(), 1);
    assert_eq!(difference_of(&datums.planned(), &gone, &DatumSet::default(), &DatumSet::default()), None);
}

proptest! {
    #[test]
    fn what_changed_is_the_difference_of_all(before: BTreeMap<[u8; 3], u8>, after: BTreeMap<[u8; 3], u8>) {
        let shop = Shop::new();
        // Few names, so that the trees overlap and files take the place of directories.
        let tree = |files: &BTreeMap<[u8; 3], u8>| {
            let mut files: Vec<_> = files.iter().map(|([a, b, c], content)| {
                let path = format!("/{}/{}/{}", a % 3, b % 3, c % 3);
                (path[..2 + 2 * (*c as usize % 3)].to_owned(), (content % 3).to_string())
            }).collect();
            files.sort();
            files.dedup_by(|later, first| later.0.starts_with(&first.0));
            shop.tree(&files.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect::<Vec<_>>())
        };
        let (before, after) = (tree(&before), tree(&after));
        let patterns: [&dyn PathPattern; 5] =
            [&Depth(1), &Depth(2), &Depth(3), &Literal::new(&path("/")), &Literal::new(&path("/1/1"))];
        for pattern in patterns {
            let all = |tree| enumerate(&shop.blobs, &pfs("in", tree, pattern)).unwrap().planned();
            let current = DatumSet::new(all(before).iter().map(|d| (d.key, output(1))).collect());
            let older = DatumSet::new(all(after).iter().step_by(2).map(|d| (d.key, output(2))).collect());
            let input = PfsInput { name: "in".into(), tree: Some(after), pattern };
            let ChangedDatums { datums, gone } = enumerate_changed(&shop.blobs, &input, &before).unwrap();
            let changes = difference_of(&datums.planned(), &gone, &current, &older).unwrap();
            let whole = difference(&all(after), &current, &older);
            let keys = |missing: &[PlannedDatum]| missing.iter().map(|d| d.key).collect::<Vec<_>>();
            prop_assert_eq!(keys(&changes.missing), keys(&whole.missing));
            prop_assert_eq!(changes.kept + datums.len(), all(after).len() as u64);
            prop_assert_eq!((changes.kept, changes.revived, changes.gone), (whole.kept, whole.revived, whole.gone));
        }
    }

    #[test]
    fn sets_behave_like_maps(
        start: BTreeMap<u16, u8>, gone: Vec<u16>, added: BTreeMap<u16, u8>, probe in any::<u16>(),
    ) {
        let gone: Vec<u16> = gone.into_iter().chain(start.keys().copied().step_by(3)).collect();
        let added_list = added.iter().map(|(k, v)| (digest(*k), output(*v))).collect();
        let updated = set(&start).updated(&gone.iter().map(|k| digest(*k)).collect::<Vec<_>>(), added_list);
        let mut model = start;
        model.retain(|k, _| !gone.contains(k));
        model.extend(added);
        prop_assert_eq!(&updated, &set(&model));
        prop_assert_eq!(DatumSet::decode(updated.encoded().to_vec()).unwrap(), updated.clone());
        for key in model.keys().chain([&probe]) {
            prop_assert_eq!(updated.get(&digest(*key)), model.get(key).map(|v| output(*v)));
        }
    }

    #[test]
    fn no_bytes_are_read_as_another_set(mut bytes: Vec<u8>, entries in 0usize..3, cut in 0usize..80) {
        bytes.resize(entries * 72, 7);
        let whole = [b"quern.datums.v1\n".as_slice(), &bytes].concat();
        let given = whole[..whole.len().saturating_sub(cut)].to_vec();
        if let Ok(set) = DatumSet::decode(given.clone()) {
            let again = DatumSet::new(set.iter().collect());
            prop_assert_eq!(again.encoded(), given.as_slice());
        }
    }

    #[test]
    fn difference_is_set_difference(
        planned: BTreeMap<u16, u8>, current: BTreeMap<u16, u8>, older: BTreeMap<u16, u8>,
    ) {
        // Small numbers, so that the sets overlap.
        let narrow = |map: BTreeMap<u16, u8>| map.into_iter().map(|(k, v)| (k % 40, v)).collect::<BTreeMap<_, _>>();
        let (planned, current, older) = (narrow(planned), narrow(current), narrow(older));
        let mut work: Vec<PlannedDatum> = planned
            .iter()
            .map(|(k, v)| PlannedDatum { key: digest(*k), index: u64::from(*k), copies: u32::from(*v % 3) + 1 })
            .collect();
        work.sort_by_key(|d| d.key);
        let found = difference(&work, &set(&current), &set(&older));
        let count = |of: &dyn Fn(u16) -> bool| {
            work.iter().filter(|d| of(d.index as u16)).map(|d| u64::from(d.copies)).sum::<u64>()
        };
        prop_assert_eq!(found.kept, count(&|k| current.contains_key(&k)));
        prop_assert_eq!(found.revived_count, count(&|k| !current.contains_key(&k) && older.contains_key(&k)));
        let missing: Vec<u64> = found.missing.iter().map(|d| d.index).collect();
        let expected: Vec<u64> = work.iter().map(|d| d.index)
            .filter(|k| !current.contains_key(&(*k as u16)) && !older.contains_key(&(*k as u16))).collect();
        prop_assert_eq!(missing, expected);
        let gone = current.iter().filter(|(k, _)| !planned.contains_key(k)).map(|(k, v)| (digest(*k), output(*v)));
        let mut gone: Vec<_> = gone.collect();
        gone.sort();
        prop_assert_eq!(&found.gone, &gone);
        prop_assert_eq!(found.is_unchanged(), set(&planned).iter().map(|(k, _)| k).eq(set(&current).iter().map(|(k, _)| k)));
    }
}
