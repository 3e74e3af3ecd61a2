//! Writing trees into directories of the user.

use std::fs;
use std::os::unix::fs::symlink;

use quern_store::workspace::Existing;

use crate::model::{Bench, Model, Thing, read_dir, text};

#[test]
fn a_checkout_writes_whole_files_and_follows_no_links() {
    let bench = Bench::new();
    let model: Model = [
        ("d/f", text("new")),
        ("run", Thing::File(b"#!".to_vec(), true)),
        ("l", Thing::Link("d/f".into())),
        ("empty", Thing::Dir),
    ]
    .map(|(path, thing)| (path.to_owned(), thing))
    .into();
    let tree = bench.put(&model);
    let dest = bench.space.path("deep/dest");
    let checkout = |existing| bench.workspace.checkout_to(&tree, &dest, existing).map_err(|e| e.to_string());
    checkout(Existing::Refuse).unwrap();
    assert_eq!(read_dir(&dest), model);
    let error = checkout(Existing::Refuse).unwrap_err();
    assert!(error.contains("exists; remove it"), "{error}");
    fs::write(dest.join("d/f"), "old").unwrap();
    fs::write(dest.join("d/other"), "mine").unwrap();
    checkout(Existing::Replace).unwrap();
    let mut expected = model.clone();
    expected.insert("d/other".into(), text("mine"));
    assert_eq!(read_dir(&dest), expected);

    // A link to a file is replaced, not written through; a link to a directory stops everything.
    let outside = bench.space.write("outside/f", "outside");
    fs::remove_file(dest.join("d/f")).unwrap();
    symlink(&outside, dest.join("d/f")).unwrap();
    checkout(Existing::Replace).unwrap();
    assert_eq!(read_dir(&dest), expected);
    fs::remove_dir_all(dest.join("d")).unwrap();
    symlink(outside.parent().unwrap(), dest.join("d")).unwrap();
    for existing in [Existing::Refuse, Existing::Replace] {
        fs::remove_file(dest.join("run")).unwrap();
        assert!(checkout(existing).is_err());
        fs::write(dest.join("run"), "").unwrap();
    }
    assert_eq!(bench.space.read("outside/f"), "outside");
    assert!(fs::read_dir(bench.space.path("outside")).unwrap().count() == 1);
}
