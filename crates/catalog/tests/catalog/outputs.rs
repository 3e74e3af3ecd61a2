//! Merging the outputs of datums, all at once and step by step, and links in them.

use std::collections::BTreeMap;

use proptest::prelude::{Strategy, prop_assert_eq, proptest};
use proptest::{collection, sample};
use quern_catalog::tree::{place_many, save};
use quern_catalog::{
    LinkError, LinkTarget, MergeError, MergePolicy, Merged, OutputChange, Shared, merge, remerge,
    resolve_links,
};
use quern_core::port::Blobs;
use quern_core::{ContentRef, Digest, Entry, Tree};

use crate::shop::{Shop, path};

type Outputs = Vec<(Digest, ContentRef)>;

/// Outputs under the keys 1, 2, 3 ..., which are in this order.
fn outputs(shop: &Shop, trees: &[&[(&str, &str)]]) -> Outputs {
    (1..).zip(trees).map(|(n, files)| (key(n), shop.tree(files))).collect()
}

fn key(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

fn merged(shop: &Shop, outputs: &Outputs, policy: MergePolicy) -> Result<Vec<String>, String> {
    merge(&shop.blobs, outputs, policy).map(|m| shop.show_tree(&m.tree)).map_err(|e| e.to_string())
}

#[test]
fn several_files_at_one_path() {
    let shop = Shop::new();
    let outputs =
        outputs(&shop, &[&[("/a", "1"), ("/d/x", "2")], &[("/a", "3")], &[("/d/y", "4"), ("/a", "5")]]);
    let check = |policy, expected: Result<&[&str], &str>| {
        let expected = expected.map(|l| l.iter().map(ToString::to_string).collect()).map_err(str::to_owned);
        assert_eq!(merged(&shop, &outputs, policy), expected);
    };
    check(MergePolicy::Concat, Ok(&["/a=135", "/d/x=2", "/d/y=4"]));
    check(MergePolicy::Last, Ok(&["/a=5", "/d/x=2", "/d/y=4"]));
    check(
        MergePolicy::Fail,
        Err("`/a` is a file in the output of datum 010101010101 and a file in that of datum 020202020202; \
             the pipeline says that no path may have two files"),
    );
}

#[test]
fn a_file_where_another_datum_has_a_directory() {
    let shop = Shop::new();
    let outputs = outputs(&shop, &[&[("/d/a", "1")], &[("/d/b", "1")], &[("/d", "2")]]);
    for policy in [MergePolicy::Concat, MergePolicy::Last, MergePolicy::Fail] {
        let error = merge(&shop.blobs, &outputs, policy).unwrap_err();
        let MergeError::Conflict { path, datums, .. } = &error else { panic!("{error}") };
        assert_eq!((path.to_string().as_str(), **datums), ("/d", [key(1), key(3)]));
    }
}

#[test]
fn links_that_were_left_as_they_are() {
    let shop = Shop::new();
    let link = |target: &str| Entry::Link(target.to_owned());
    let check = |entries: [Entry; 2], policy, expected: Option<&str>| {
        let outputs = (1..)
            .zip(entries)
            .map(|(n, entry)| (key(n), place_many(&shop.blobs, &[(path("/l"), entry)]).unwrap()));
        let found = merged(&shop, &outputs.collect(), policy).ok();
        assert_eq!(found, expected.map(|line| vec![line.to_owned()]), "{policy:?}");
    };
    check([link("a"), link("a")], MergePolicy::Concat, Some("/l>a"));
    check([link("a"), link("b")], MergePolicy::Concat, None);
    check([link("a"), link("b")], MergePolicy::Last, Some("/l>b"));
    check([link("a"), link("a")], MergePolicy::Fail, None);
    check([link("a"), shop.file("1")], MergePolicy::Last, None);
    check([shop.file("1"), link("a")], MergePolicy::Concat, None);
}

#[test]
fn nothing_and_one() {
    let shop = Shop::new();
    assert_eq!(merged(&shop, &vec![], MergePolicy::Concat), Ok(vec![]));
    let one = outputs(&shop, &[&[("/d/a", "1")]]);
    assert_eq!(merge(&shop.blobs, &one, MergePolicy::Concat).unwrap().tree, one[0].1);
}

#[test]
fn work_in_proportion_to_the_change() {
    let shop = Shop::new();
    let output = |i: u32, text: &str| {
        let tree = shop.tree(&[(&format!("/{}/{i}", i % 20), text)]);
        (Digest::of(&i.to_le_bytes()), tree)
    };
    let mut all: Outputs = (0..400).map(|i| output(i, "old")).collect();
    all.sort();
    let before = merge(&shop.blobs, &all, MergePolicy::Concat).unwrap();
    let (gone, added) = ([output(7, "old")], [output(7, "new")]);
    let blobs = shop.blobs.len();
    let change = OutputChange { gone: &gone, added: &added };
    let after =
        remerge(&shop.blobs, &before, &change, MergePolicy::Concat, || panic!("merged anew")).unwrap();
    assert_eq!(shop.blobs.len(), blobs + 2, "one directory and the root");
    let mut now: Outputs = all.into_iter().filter(|o| *o != gone[0]).chain(added).collect();
    now.sort();
    assert_eq!(after, merge(&shop.blobs, &now, MergePolicy::Concat).unwrap());
}

/// One datum's output: files, empty directories (`path/`), few enough paths for everything to meet.
fn output() -> impl Strategy<Value = BTreeMap<&'static str, &'static str>> {
    let paths = vec!["/1", "/2", "/a/1", "/a/2", "/a/b/1", "/a/", "/a/b/", "/c/", "/c/1", "/d/e/"];
    collection::btree_map(sample::select(paths), sample::select(vec!["x", "y", "zz"]), 0..5)
}

fn tree_of(shop: &Shop, files: &BTreeMap<&str, &str>) -> ContentRef {
    let empty = save(&shop.blobs, &Tree::default()).unwrap();
    let below = |dir: &str| files.keys().any(|p| p.starts_with(dir) && *p != dir);
    let entries: Vec<_> = files
        .iter()
        .filter(|(p, _)| !p.ends_with('/') || !below(p))
        .map(|(p, c)| (path(p), if p.ends_with('/') { Entry::Dir(empty) } else { shop.file(c) }))
        .collect();
    place_many(&shop.blobs, &entries).unwrap()
}

fn list(shop: &Shop, datums: &BTreeMap<u8, BTreeMap<&str, &str>>) -> Outputs {
    datums.iter().map(|(n, files)| (key(*n), tree_of(shop, files))).collect()
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(300))]
    #[test]
    fn step_by_step_is_all_at_once(
        history in collection::vec(collection::btree_map(0u8..6, output(), 0..6), 1..5),
        policy in sample::select(vec![MergePolicy::Concat, MergePolicy::Last]),
    ) {
        let shop = Shop::new();
        let mut before = Merged { tree: Tree::default().content_ref(), shared: Shared::default() };
        let mut old = Outputs::new();
        for datums in &history {
            let new = list(&shop, datums);
            let gone: Outputs = old.iter().filter(|o| !new.contains(o)).copied().collect();
            let added: Outputs = new.iter().filter(|o| !old.contains(o)).copied().collect();
            let change = OutputChange { gone: &gone, added: &added };
            let after = remerge(&shop.blobs, &before, &change, policy, || new.clone()).unwrap();
            let expected = merge(&shop.blobs, &new, policy).unwrap();
            prop_assert_eq!(shop.show_tree(&after.tree), shop.show_tree(&expected.tree));
            prop_assert_eq!(&after, &expected);
            prop_assert_eq!(&Shared::decode(&after.shared.encode().unwrap()).unwrap(), &after.shared);
            (before, old) = (after, new);
        }
    }

    #[test]
    fn the_order_of_arrival_plays_no_part(datums in collection::btree_map(0u8..6, output(), 0..6)) {
        let shop = Shop::new();
        let outputs = list(&shop, &datums);
        let whole = merge(&shop.blobs, &outputs, MergePolicy::Concat).unwrap();
        let mut grown = Merged { tree: Tree::default().content_ref(), shared: Shared::default() };
        let mut so_far = Outputs::new();
        for output in outputs.iter().rev() {
            so_far.insert(0, *output);
            let change = OutputChange { gone: &[], added: &[*output] };
            grown = remerge(&shop.blobs, &grown, &change, MergePolicy::Concat, || so_far.clone()).unwrap();
        }
        prop_assert_eq!(grown.shared, whole.shared);
        prop_assert_eq!(grown.tree.digest, whole.tree.digest);
    }
}

/// An output of files and links, resolved with an input `in` that has `/f` and `/d/g`.
fn resolved(files: &[(&str, &str)], links: &[(&str, &str)]) -> Result<Vec<String>, LinkError> {
    let shop = Shop::new();
    let input = shop.tree(&[("/f", "input"), ("/d/g", "deep")]);
    let mut entries: Vec<_> = files.iter().map(|(p, c)| (path(p), shop.file(c))).collect();
    entries.extend(links.iter().map(|(p, target)| (path(p), Entry::Link((*target).to_owned()))));
    let output = place_many(&shop.blobs, &entries).unwrap();
    let find = |target: LinkTarget<'_>| match target.input {
        "in" => Ok(quern_catalog::tree::find(&shop.blobs, &input, target.path)?),
        _ => Ok(None),
    };
    resolve_links(&shop.blobs, &output, &find).map(|tree| shop.show_tree(&tree))
}

#[test]
fn links_become_what_they_point_to() {
    let check = |files: &[(&str, &str)], links: &[(&str, &str)], expected: &[&str]| {
        assert_eq!(resolved(files, links).unwrap(), expected, "{links:?}");
    };
    check(&[("/a", "1")], &[], &["/a=1"]);
    check(&[], &[("/l", "/pfs/in/f")], &["/l=input"]);
    check(&[], &[("/x/l", "/pfs/in/d")], &["/x/l/g=deep"]);
    check(&[], &[("/x/l", "../../in/./d//g")], &["/x/l=deep"]);
    check(&[("/a", "1")], &[("/x/l", "../a"), ("/m", "/pfs/out/a")], &["/a=1", "/m=1", "/x/l=1"]);
    check(&[("/d/a", "1")], &[("/d/l", "a"), ("/e", "d")], &["/d/a=1", "/d/l=1", "/e/a=1", "/e/l=1"]);
    check(&[("/d/a", "1")], &[("/l", "m/a"), ("/m", "d")], &["/d/a=1", "/l=1", "/m/a=1"]);
}

#[test]
fn links_that_lead_nowhere() {
    let check = |links: &[(&str, &str)], expected: fn(&LinkError) -> bool| {
        let error = resolved(&[("/a", "1")], links).unwrap_err();
        assert!(expected(&error), "{links:?}: {error}");
    };
    check(&[("/l", "/etc/passwd")], |e| matches!(e, LinkError::Outside { .. }));
    check(&[("/l", "/pfs")], |e| matches!(e, LinkError::Outside { .. }));
    check(&[("/l", "../../../..")], |e| matches!(e, LinkError::Outside { .. }));
    check(&[("/l", "missing")], |e| matches!(e, LinkError::Dangling { .. }));
    check(&[("/l", "a/b")], |e| matches!(e, LinkError::Dangling { .. }));
    check(&[("/l", "/pfs/in/missing")], |e| matches!(e, LinkError::Dangling { .. }));
    check(&[("/l", "/pfs/other/f")], |e| matches!(e, LinkError::Dangling { .. }));
    check(&[("/l", "l")], |e| matches!(e, LinkError::Circle { .. }));
    check(&[("/l", "m"), ("/m", "l")], |e| matches!(e, LinkError::Circle { .. }));
    check(&[("/d/l", "..")], |e| matches!(e, LinkError::Circle { .. }));
}

#[test]
fn directories_that_link_to_each_other_do_not_fill_the_world() {
    let links: Vec<(String, String)> =
        (0..30).flat_map(|i| ["x", "y"].map(|n| (format!("/d{i}/{n}"), format!("../d{}", i + 1)))).collect();
    let links: Vec<(&str, &str)> = links.iter().map(|(l, t)| (l.as_str(), t.as_str())).collect();
    assert!(matches!(resolved(&[("/d30/f", "1")], &links), Err(LinkError::Circle { .. })));
}

#[test]
fn an_output_without_links_is_not_written_again() {
    let shop = Shop::new();
    let output = shop.tree(&[("/d/a", "1")]);
    let blobs = shop.blobs.len();
    let none = |_: LinkTarget<'_>| -> Result<Option<Entry>, LinkError> { panic!("no link asked") };
    assert_eq!(resolve_links(&shop.blobs, &output, &none).unwrap(), output);
    assert_eq!(shop.blobs.len(), blobs);
    assert!(shop.blobs.contains(&output.digest).unwrap());
}

#[test]
fn records_of_shared_paths_that_are_refused() {
    let check = |text: &str, expected: &str| {
        let error = Shared::decode(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    assert!(Shared::decode(br#"{"version":1,"policy":"concat","paths":[]}"#).unwrap().is_empty());
    check(r#"{"version":2,"policy":"concat","paths":[]}"#, "format 2");
    check(r#"{"version":1,"policy":"other","paths":[]}"#, "unknown variant");
    check(r#"{"version":1,"policy":"last","paths":[["/a/../b",[]]]}"#, "contains `..`");
    check("", "EOF");
}

#[test]
fn another_policy_merges_anew() {
    let shop = Shop::new();
    let outputs = outputs(&shop, &[&[("/a", "1")], &[("/a", "2")]]);
    let before = merge(&shop.blobs, &outputs, MergePolicy::Concat).unwrap();
    let change = OutputChange { gone: &[], added: &[] };
    let after = remerge(&shop.blobs, &before, &change, MergePolicy::Last, || outputs.clone()).unwrap();
    assert_eq!(shop.show_tree(&after.tree), ["/a=2"]);
    let error = remerge(&shop.blobs, &before, &change, MergePolicy::Fail, || outputs.clone()).unwrap_err();
    assert!(matches!(error, MergeError::Conflict { .. }), "{error}");
}

#[test]
fn files_made_of_the_same_contributions_are_not_made_again() {
    let shop = Shop::new();
    let mut outputs = outputs(&shop, &[&[("/a", "1"), ("/own", "x")], &[("/a", "2")]]);
    let before = merge(&shop.blobs, &outputs, MergePolicy::Concat).unwrap();
    // The parts are gone, so /a could not be made again.
    for part in ["1", "2"] {
        shop.blobs.remove(&Digest::of(part.as_bytes()));
    }
    let added = [(key(3), shop.tree(&[("/own", "y")]))];
    outputs.extend(added);
    let change = OutputChange { gone: &[], added: &added };
    let after = remerge(&shop.blobs, &before, &change, MergePolicy::Concat, || outputs.clone()).unwrap();
    assert_eq!(shop.show_tree(&after.tree), ["/a=12", "/own=xy"]);
}
