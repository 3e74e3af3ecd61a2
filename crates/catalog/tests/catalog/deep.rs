//! Trees as deep as trees can be, and deeper.

use quern_catalog::tree::{Edits, MOST_DEPTH, Overlay, TreesError, diff, edit, place, save, union};
use quern_catalog::{
    DatumInput, FileError, LinkError, MergePolicy, OutputChange, PfsInput, PutOptions, enumerate, merge,
    remerge, resolve_links,
};
use quern_core::{ContentRef, Digest, Entry, Tree};

use crate::shop::{Shop, path, prefix};

/// The deepest directory a file may be in.
fn bottom() -> String {
    "/a".repeat(MOST_DEPTH - 1)
}

fn deep(shop: &Shop, text: &str) -> ContentRef {
    shop.tree(&[(&format!("{}/f", bottom()), text)])
}

#[test]
fn every_operation_reaches_the_bottom() {
    let shop = Shop::with_repo("r");
    let (one, two) = (deep(&shop, "1"), deep(&shop, "2"));
    let appended = union(&shop.blobs, &one, &two, Overlay::Append).unwrap();
    assert_eq!(appended, deep(&shop, "12"));
    let mut found = 0;
    diff(&shop.blobs, &one, &two, &mut |_| found += 1).unwrap();
    assert_eq!(found, 1);
    let mut edits = Edits::default();
    edits.remove_and_prune(&path(&format!("{}/f", bottom())));
    assert_eq!(edit(&shop.blobs, &one, &edits).unwrap(), shop.tree(&[]));
    let outputs = [(Digest::of(b"1"), one), (Digest::of(b"2"), two)];
    let mut sorted = outputs;
    sorted.sort();
    let both = merge(&shop.blobs, &sorted, MergePolicy::Concat).unwrap();
    let change = OutputChange { gone: &[outputs[1]], added: &[] };
    let back = remerge(&shop.blobs, &both, &change, MergePolicy::Concat, || panic!("anew")).unwrap();
    assert_eq!(back.tree, one);
    let commit = shop.put("r@b", &[(&format!("{}/f", bottom()), "1")]);
    assert_eq!(shop.catalog().glob(&commit, &prefix("/a")).unwrap().len(), MOST_DEPTH);
    assert_eq!(shop.catalog().size_of(&commit.tree).unwrap(), 1);
    let pattern = prefix("/a");
    let input = DatumInput::Pfs(PfsInput { name: "in".into(), tree: Some(one), pattern: &pattern });
    assert_eq!(enumerate(&shop.blobs, &input).unwrap().len(), MOST_DEPTH as u64);
    let none = |_: quern_catalog::LinkTarget<'_>| Ok(None);
    assert_eq!(resolve_links(&shop.blobs, &one, &none).unwrap(), one);
}

#[test]
fn nothing_gets_deeper_by_copying() {
    let shop = Shop::with_repo("r");
    shop.put("r@b", &[(&format!("{}/f", bottom()), "1")]);
    let (at, below) = (shop.at("r@b"), path("/a/b"));
    let error = shop.catalog().copy((&at, &path("/a")), (&at, &below), &PutOptions::default()).unwrap_err();
    assert!(matches!(error, FileError::Trees(TreesError::Depth(_))), "{error}");
    let deeper = format!("{}/b/c", bottom());
    assert!(matches!(place(&shop.blobs, &path(&deeper), &shop.file("1")), Err(TreesError::Depth(_))));
    let error = shop.try_put("r@b", &[(&deeper, "1")], &PutOptions::default()).unwrap_err();
    assert!(matches!(error, FileError::Trees(TreesError::Depth(_))), "{error}");
}

/// As a program could leave it: 2,000 directories in each other.
#[test]
fn trees_that_are_too_deep_are_refused_by_everything() {
    let shop = Shop::with_repo("r");
    let abyss = |content: &str| {
        let mut entry = shop.file(content);
        for _ in 0..2000 {
            entry = Entry::Dir(save(&shop.blobs, &Tree::new(vec![("a".into(), entry)]).unwrap()).unwrap());
        }
        let Entry::Dir(tree) = entry else { panic!() };
        tree
    };
    let (one, two) = (abyss("1"), abyss("2"));
    let none = |_: quern_catalog::LinkTarget<'_>| Ok(None);
    let mut outputs = [(Digest::of(b"1"), one), (Digest::of(b"2"), two)];
    outputs.sort();
    let shared = merge(&shop.blobs, &[], MergePolicy::Concat).unwrap();
    let change = OutputChange { gone: &[], added: &outputs[..1] };
    let pattern = prefix("/a");
    let input = DatumInput::Pfs(PfsInput { name: "in".into(), tree: Some(one), pattern: &pattern });
    let sources = [(path("/x"), Entry::Dir(one))];
    let errors = [
        union(&shop.blobs, &one, &two, Overlay::Append).unwrap_err().to_string(),
        diff(&shop.blobs, &one, &two, &mut |_| {}).unwrap_err().to_string(),
        resolve_links(&shop.blobs, &one, &none).unwrap_err().to_string(),
        merge(&shop.blobs, &outputs, MergePolicy::Concat).unwrap_err().to_string(),
        remerge(&shop.blobs, &shared, &change, MergePolicy::Concat, Vec::new).unwrap_err().to_string(),
        enumerate(&shop.blobs, &input).unwrap_err().to_string(),
        shop.catalog().size_of(&one).unwrap_err().to_string(),
        shop.catalog().put(&shop.at("r@b"), &sources, &PutOptions::default()).unwrap_err().to_string(),
    ];
    for error in errors {
        assert!(error.ends_with("is more than 256 directories deep; make it flatter"), "{error}");
    }
}

#[test]
fn chains_of_links_through_deep_directories_are_refused() {
    let shop = Shop::new();
    let mut entries = vec![(path("/d30/f"), shop.file("1"))];
    for i in 0..30 {
        let link = path(&format!("/d{i}{}/l", "/a".repeat(250)));
        entries.push((link, Entry::Link(format!("/pfs/out/d{}", i + 1))));
    }
    let output = quern_catalog::tree::place_many(&shop.blobs, &entries).unwrap();
    let none = |_: quern_catalog::LinkTarget<'_>| Ok(None);
    let error = resolve_links(&shop.blobs, &output, &none).unwrap_err();
    assert!(matches!(error, LinkError::Trees(TreesError::Depth(_))), "{error}");
    let shallow = place(&shop.blobs, &path("/x"), &Entry::Link("../../etc".into())).unwrap();
    assert!(matches!(resolve_links(&shop.blobs, &shallow, &none), Err(LinkError::Outside { .. })));
}
