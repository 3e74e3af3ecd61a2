//! Files in commits: put, delete, copy, list, get, diff.

use quern_catalog::{FileError, Literal, PutMode, PutOptions, TreesError, VersionError, Written};

use crate::shop::{self, Shop, prefix};

#[test]
fn one_put_is_one_finished_commit() {
    let shop = Shop::with_repo("r");
    let first = shop.put("r@master", &[("/a", "1"), ("/d/b", "22")]);
    assert!(first.finished.is_some() && first.parent.is_none());
    assert_eq!(first.size, 3);
    let second = shop.put("r@master", &[("/a", "1")]);
    assert_eq!(second.parent, Some(first.id));
    assert_eq!((second.size, second.number), (4, 2));
    assert_eq!(shop.show("r@master"), ["/a=11", "/d/b=22"]);
    assert_eq!(shop.show("r@master^"), ["/a=1", "/d/b=22"]);
    assert_eq!(shop.show("r@master.1"), ["/a=1", "/d/b=22"]);
}

#[test]
fn an_open_commit_takes_several_puts() {
    let shop = Shop::with_repo("r");
    let open = shop.catalog().write(|c| c.start_commit(&shop.branch("r@master"), "two")).unwrap();
    shop.put("r@master", &[("/a", "1")]);
    shop.put(&format!("r@{}", open.id), &[("/b", "2")]);
    assert_eq!(shop.show("r@master"), ["/a=1", "/b=2"], "users read their own open commit");
    let error = shop.catalog().write(|c| c.start_commit(&shop.branch("r@master"), "")).unwrap_err();
    assert!(matches!(error, VersionError::HeadIsOpen { commit, .. } if commit == open.id));
    let done = shop.catalog().write(|c| c.finish(open.id, None)).unwrap();
    assert_eq!((done.size, done.description.as_str()), (2, "two"));
    let error = shop.try_put(&format!("r@{}", open.id), &[("/b", "2")], &PutOptions::default()).unwrap_err();
    assert!(matches!(error, FileError::Version(VersionError::Finished(id)) if id == open.id), "{error}");
}

#[test]
fn modes() {
    let check = |mode, expected: &[&str]| {
        let shop = Shop::with_repo("r");
        shop.put("r@b", &[("/d/a", "1"), ("/d/b", "2"), ("/c", "3")]);
        let source = shop.tree(&[("/a", "x"), ("/n", "y")]);
        let sources = [(shop::path("/d"), quern_core::Entry::Dir(source))];
        shop.catalog().put(&shop.at("r@b"), &sources, &PutOptions { mode, ..PutOptions::default() }).unwrap();
        assert_eq!(shop.show("r@b"), expected, "{mode:?}");
    };
    check(PutMode::Append, &["/c=3", "/d/a=1x", "/d/b=2", "/d/n=y"]);
    check(PutMode::Overwrite, &["/c=3", "/d/a=x", "/d/b=2", "/d/n=y"]);
    check(PutMode::Replace, &["/c=3", "/d/a=x", "/d/n=y"]);
}

#[test]
fn nothing_new_needs_no_commit() {
    let shop = Shop::with_repo("r");
    let first = shop.put("r@b", &[("/a", "1")]);
    let options = PutOptions { mode: PutMode::Overwrite, skip_unchanged: true, ..PutOptions::default() };
    let again = shop.try_put("r@b", &[("/a", "1")], &options).unwrap();
    assert_eq!(again, Written::Unchanged(Box::new(first)));
    assert!(matches!(shop.try_put("r@b", &[("/a", "2")], &options).unwrap(), Written::Commit(_)));
}

#[test]
fn files_and_directories_do_not_replace_each_other() {
    let shop = Shop::with_repo("r");
    shop.put("r@b", &[("/d/a", "1"), ("/f", "2")]);
    for mode in [PutMode::Append, PutMode::Overwrite] {
        let options = PutOptions { mode, ..PutOptions::default() };
        for (path, at) in [("/d", "/d"), ("/f/x", "/f")] {
            let error = shop.try_put("r@b", &[(path, "x")], &options).unwrap_err();
            assert!(
                matches!(&error, FileError::Trees(TreesError::Kind { path, .. }) if path.to_string() == at),
                "{error}"
            );
        }
    }
    assert_eq!(shop.show("r@b"), ["/d/a=1", "/f=2"], "nothing is half done");
}

#[test]
fn deleting_by_pattern() {
    let shop = Shop::with_repo("r");
    shop.put("r@b", &[("/a1", "1"), ("/a2", "2"), ("/b", "3"), ("/d/a", "4")]);
    let delete = |pattern: &dyn quern_catalog::PathPattern| {
        shop.catalog().delete_files(&shop.at("r@b"), pattern, "").unwrap()
    };
    assert!(matches!(delete(&Literal::new(&shop::path("/nothing"))), Written::Unchanged(_)));
    delete(&prefix("/a"));
    assert_eq!(shop.show("r@b"), ["/b=3", "/d/a=4"]);
    let all = delete(&Literal::new(&shop::path("/")));
    assert_eq!(all.commit().size, 0);
    assert_eq!(shop.show("r@b"), Vec::<String>::new());
}

#[test]
fn copying_shares_content() {
    let shop = Shop::with_repo("r");
    shop.put("r@b", &[("/d/a", "1"), ("/d/b", "2")]);
    let count = shop.blobs.len();
    let copy = |from: &str, to: &str| {
        shop.catalog().copy(
            (&shop.at("r@b"), &shop::path(from)),
            (&shop.at("r@c"), &shop::path(to)),
            &PutOptions::default(),
        )
    };
    copy("/d", "/e/f").unwrap();
    assert_eq!(shop.show("r@c"), ["/e/f/a=1", "/e/f/b=2"]);
    assert!(shop.blobs.len() <= count + 2, "only directories are new");
    assert!(matches!(copy("/x", "/y"), Err(FileError::NotFound { .. })));
}

#[test]
fn looking_at_files() {
    let shop = Shop::with_repo("r");
    let commit = shop.put("r@b", &[("/d/a", "1"), ("/d/e/b", "22"), ("/f", "333")]);
    let catalog = shop.catalog();
    let list = |path: &str| -> Vec<(String, u64)> {
        let found = catalog.list(&commit, &shop::path(path)).unwrap();
        found.into_iter().map(|info| (info.path.to_string(), info.size)).collect()
    };
    assert_eq!(list("/"), [("/d".into(), 3), ("/f".into(), 3)]);
    assert_eq!(list("/d"), [("/d/a".into(), 1), ("/d/e".into(), 2)]);
    assert_eq!(list("/f"), [("/f".into(), 3)]);
    assert_eq!(catalog.glob(&commit, &prefix("/d")).unwrap().len(), 4);
    let mut bytes = String::new();
    std::io::Read::read_to_string(&mut catalog.open_all(&commit, &prefix("/d")).unwrap(), &mut bytes)
        .unwrap();
    assert_eq!(bytes, "122");
    assert!(matches!(catalog.open(&commit, &shop::path("/d")), Err(FileError::NotAFile { .. })));
    assert!(matches!(catalog.list(&commit, &shop::path("/x")), Err(FileError::NotFound { .. })));
}

#[test]
fn differences() {
    let shop = Shop::with_repo("r");
    shop.put("r@b", &[("/d/a", "1"), ("/d/b", "2"), ("/e/x", "9")]);
    let options = PutOptions { mode: PutMode::Overwrite, ..PutOptions::default() };
    let new = shop.try_put("r@b", &[("/d/a", "7"), ("/g/h/i", "8")], &options).unwrap();
    let lines = |differences: Vec<quern_catalog::tree::Difference>| -> Vec<String> {
        let sign = |d: &quern_catalog::tree::Difference| match (&d.old, &d.new) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        differences.iter().map(|d| format!("{}{}", sign(d), d.path)).collect()
    };
    let catalog = shop.catalog();
    assert_eq!(lines(catalog.diff(new.commit(), None).unwrap()), ["~/d/a", "+/g/h/i"]);
    let first = catalog.readable(&shop.at("r@b^")).unwrap();
    assert_eq!(lines(catalog.diff(&first, Some(new.commit())).unwrap()), ["~/d/a", "-/g/h/i"]);
    assert_eq!(lines(catalog.diff(&first, None).unwrap()), ["+/d/a", "+/d/b", "+/e/x"]);
}
