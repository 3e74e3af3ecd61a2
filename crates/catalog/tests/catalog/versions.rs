//! Repos, branches and commits: what may be done to them, and what follows.

use quern_catalog::{CommitQuery, CommitState, Content, Origin, RepoName, VersionError};
use quern_core::Id;

use crate::shop::Shop;

/// A source feeding `mid@out`, which feeds `end@out`, with one commit each.
fn chain() -> (Shop, [Id; 3]) {
    let shop = Shop::with_repo("source");
    shop.repo("mid");
    shop.repo("end");
    let (source, mid, end) = (shop.branch("source@m"), shop.branch("mid@out"), shop.branch("end@out"));
    let set = |to, from: &quern_catalog::BranchRef| {
        shop.catalog().write(|c| c.set_provenance(to, std::slice::from_ref(from))).unwrap();
    };
    set(&mid, &source);
    set(&end, &mid);
    let first = shop.put("source@m", &[("/a", "1")]).id;
    let make = |branch, input| {
        let job = Id::from_bytes([7; 16]);
        let open = shop.catalog().write(|c| c.start_output_commit(branch, &[input], job)).unwrap();
        shop.catalog().write(|c| c.finish(open.id, None)).unwrap().id
    };
    let second = make(&mid, first);
    let third = make(&end, second);
    (shop, [first, second, third])
}

#[test]
fn repos() {
    let shop = Shop::with_repo("r");
    let name = RepoName::new("r").unwrap();
    let error = shop.catalog().write(|c| c.create_repo(&name, "")).unwrap_err();
    assert!(matches!(error, VersionError::RepoExists(_)));
    shop.catalog().write(|c| c.update_repo(&name, "text")).unwrap();
    shop.clock.advance(5);
    shop.repo("s");
    let repos = shop.catalog().read(|v| v.repos()).unwrap();
    let shown: Vec<_> = repos.iter().map(|r| (r.name.as_str(), r.description.as_str())).collect();
    assert_eq!(shown, [("s", ""), ("r", "text")], "newest first");
    shop.put("r@b", &[("/a", "1")]);
    shop.catalog().write(|c| c.delete_repo(&name, false)).unwrap();
    assert!(matches!(shop.catalog().read(|v| v.repo(&name)), Err(VersionError::NoRepo(_))));
    shop.repo("r");
    assert_eq!(shop.catalog().read(|v| v.branches(&name)).unwrap(), []);
    assert_eq!(shop.catalog().read(|v| v.commits(&CommitQuery::of(name.clone()))).unwrap(), []);
}

#[test]
fn listing_is_newest_first_and_goes_on_where_it_ended() {
    let shop = Shop::with_repo("r");
    for i in 0..5 {
        shop.put(if i % 2 == 0 { "r@even" } else { "r@odd" }, &[("/f", "x")]);
    }
    let numbers = |query: &CommitQuery| -> Vec<u64> {
        shop.catalog().read(|v| v.commits(query)).unwrap().iter().map(|c| c.number).collect()
    };
    let mut query = CommitQuery::of(RepoName::new("r").unwrap());
    assert_eq!(numbers(&query), [5, 4, 3, 2, 1]);
    query.limit = Some(2);
    assert_eq!(numbers(&query), [5, 4]);
    query.before = Some(4);
    assert_eq!(numbers(&query), [3, 2]);
    query.branch = Some(shop.branch("r@even").branch);
    assert_eq!(numbers(&query), [3, 1]);
}

#[test]
fn references_name_what_is_missing() {
    let shop = Shop::with_repo("r");
    let commit = shop.put("r@b", &[("/a", "1")]);
    shop.repo("empty");
    shop.catalog().write(|c| c.ensure_branch(&shop.branch("r@unborn"))).unwrap();
    let check = |text: &str, expected: fn(&VersionError) -> bool| {
        let error = shop.catalog().read(|v| v.resolve(&shop.at(text))).unwrap_err();
        assert!(expected(&error), "{text}: {error}");
    };
    check("none@b", |e| matches!(e, VersionError::NoRepo(_)));
    check("r@none", |e| matches!(e, VersionError::NoBranch(_)));
    check("r@unborn", |e| matches!(e, VersionError::NoHead(_)));
    check("r@b^", |e| matches!(e, VersionError::NoAncestor(_)));
    check("r@b.2", |e| matches!(e, VersionError::NoAncestor(_)));
    check(&format!("empty@{}", commit.id), |e| matches!(e, VersionError::NoCommit { .. }));
    check(&format!("none@{}", commit.id), |e| matches!(e, VersionError::NoRepo(_)));
    check(&format!("r@{}", "0".repeat(32)), |e| matches!(e, VersionError::NoCommit { .. }));
}

#[test]
fn provenance_is_all_that_a_commit_was_made_from() {
    let (shop, [first, second, third]) = chain();
    let commit = shop.catalog().read(|v| v.commit(third)).unwrap();
    let mut expected = vec![first, second];
    expected.sort();
    assert_eq!((commit.provenance, commit.origin), (expected, Origin::Auto));
    let readers = shop.catalog().read(|v| v.readers_of_commit(first)).unwrap();
    assert_eq!(readers.len(), 2);
    let down = shop.catalog().read(|v| v.downstream(&shop.branch("source@m"))).unwrap();
    assert_eq!(down.iter().map(ToString::to_string).collect::<Vec<_>>(), ["end@out", "mid@out"]);
    let up = shop.catalog().read(|v| v.upstream(&shop.branch("end@out"))).unwrap();
    assert_eq!(up.iter().map(ToString::to_string).collect::<Vec<_>>(), ["mid@out", "source@m"]);
}

#[test]
fn users_do_not_write_outputs() {
    let (shop, _) = chain();
    let mid = shop.branch("mid@out");
    let refused = |error: &VersionError| matches!(error, VersionError::OutputBranch(b) if *b == mid);
    assert!(refused(&shop.catalog().write(|c| c.start_commit(&mid, "")).unwrap_err()));
    assert!(refused(&shop.catalog().write(|c| c.commit(&mid, Content::empty(), "")).unwrap_err()));
    let put = shop.try_put("mid@out", &[("/x", "1")], &quern_catalog::PutOptions::default()).unwrap_err();
    assert!(matches!(&put, quern_catalog::FileError::Version(error) if refused(error)));
    shop.catalog().write(|c| c.set_provenance(&mid, &[])).unwrap();
    shop.put("mid@out", &[("/x", "1")]);
}

#[test]
fn loops_are_refused() {
    let (shop, _) = chain();
    let check = |to: &str, from: &str, through: &str| {
        let (to, from) = (shop.branch(to), shop.branch(from));
        let error = shop.catalog().write(|c| c.set_provenance(&to, std::slice::from_ref(&from))).unwrap_err();
        assert!(
            matches!(&error, VersionError::Loop { through: t, .. } if t.to_string() == through),
            "{error}"
        );
    };
    check("source@m", "end@out", "end@out");
    check("mid@out", "mid@out", "mid@out");
    let branch = shop.catalog().read(|v| v.branch(&shop.branch("source@m"))).unwrap();
    assert_eq!(branch.provenance, [], "a refused change leaves nothing behind");
}

#[test]
fn an_output_is_unreadable_until_it_is_finished() {
    let (shop, [first, ..]) = chain();
    let mid = shop.branch("mid@out");
    let open =
        shop.catalog().write(|c| c.start_output_commit(&mid, &[first], Id::from_bytes([1; 16]))).unwrap();
    let error = shop.catalog().readable(&shop.at("mid@out")).unwrap_err();
    assert!(matches!(error, VersionError::NotFinished(id) if id == open.id));
    let written = shop.catalog().write(|c| c.commit(&mid, Content::empty(), ""));
    assert!(
        matches!(written, Err(VersionError::OutputBranch(_))),
        "users do not write into a job's open commit"
    );
    let second = shop.catalog().write(|c| c.start_output_commit(&mid, &[first], Id::from_bytes([2; 16])));
    assert!(matches!(second, Err(VersionError::HeadIsOpen { .. })), "the open commit is the lock");
    let before = shop.catalog().read(|v| v.finished_head(&mid)).unwrap().unwrap();
    assert_eq!(Some(before.id), open.parent);
    let failed = shop.catalog().write(|c| c.fail(open.id)).unwrap();
    assert_eq!((failed.state, failed.size), (CommitState::Failed, 0));
    assert_eq!(shop.catalog().read(|v| v.finished_head(&mid)).unwrap().unwrap().id, before.id);
}

#[test]
fn a_dropped_commit_was_never_there() {
    let (shop, [first, second, _]) = chain();
    let mid = shop.branch("mid@out");
    let open =
        shop.catalog().write(|c| c.start_output_commit(&mid, &[first], Id::from_bytes([1; 16]))).unwrap();
    shop.catalog().write(|c| c.drop_open(open.id)).unwrap();
    assert_eq!(shop.catalog().read(|v| v.head(&mid)).unwrap().unwrap().id, second);
    assert_eq!(shop.catalog().read(|v| v.find_commit(open.id)).unwrap(), None);
    assert_eq!(shop.catalog().read(|v| v.readers_of_commit(first)).unwrap().len(), 2);
    assert!(matches!(shop.catalog().write(|c| c.drop_open(second)), Err(VersionError::Finished(_))));
}

#[test]
fn deleting_a_commit_takes_what_follows_from_it() {
    let (shop, [first, second, third]) = chain();
    let error = shop.catalog().write(|c| c.delete_commit(second)).unwrap_err();
    assert!(matches!(error, VersionError::MadeByJob(id) if id == second));
    let newer = shop.put("source@m", &[("/b", "2")]);
    let deleted = shop.catalog().write(|c| c.delete_commit(first)).unwrap();
    assert_eq!(
        deleted.iter().map(|c| c.id).collect::<std::collections::BTreeSet<_>>(),
        [first, second, third].into()
    );
    assert_eq!(shop.catalog().read(|v| v.head(&shop.branch("mid@out"))).unwrap(), None);
    let newer = shop.catalog().read(|v| v.commit(newer.id)).unwrap();
    assert_eq!(newer.parent, None, "children get the parent of the deleted");
    assert_eq!(shop.show("source@m"), ["/a=1", "/b=2"], "and keep their files");
    assert_eq!(shop.catalog().read(|v| v.readers_of_commit(first)).unwrap(), []);
}

#[test]
fn deleting_a_head_moves_it_back() {
    let shop = Shop::with_repo("r");
    let first = shop.put("r@b", &[("/a", "1")]);
    let second = shop.put("r@b", &[("/b", "2")]);
    let third = shop.put("r@b", &[("/c", "3")]);
    shop.catalog().write(|c| c.delete_commit(third.id)).unwrap();
    assert_eq!(shop.catalog().read(|v| v.head(&shop.branch("r@b"))).unwrap().unwrap().id, second.id);
    shop.catalog().write(|c| c.delete_commit(first.id)).unwrap();
    shop.catalog().write(|c| c.delete_commit(second.id)).unwrap();
    assert_eq!(shop.catalog().read(|v| v.head(&shop.branch("r@b"))).unwrap(), None);
    let next = shop.put("r@b", &[("/d", "4")]);
    assert_eq!((next.parent, next.number), (None, 4), "numbers are not given twice");
}

#[test]
fn what_others_read_is_deleted_only_by_force() {
    let (shop, _) = chain();
    let (source, mid) = (shop.branch("source@m"), shop.branch("mid@out"));
    let in_use = |error: VersionError| matches!(error, VersionError::InUse { reader, .. } if reader == mid);
    assert!(in_use(shop.catalog().write(|c| c.delete_branch(&source, false)).unwrap_err()));
    assert!(in_use(shop.catalog().write(|c| c.delete_repo(&source.repo, false)).unwrap_err()));
    shop.catalog().write(|c| c.delete_repo(&source.repo, true)).unwrap();
    let branch = shop.catalog().read(|v| v.branch(&mid)).unwrap();
    assert_eq!(branch.provenance, []);
    assert!(branch.head.is_some());
}

#[test]
fn heads_move_within_a_repo() {
    let shop = Shop::with_repo("r");
    shop.repo("s");
    let dev = shop.put("r@dev", &[("/a", "1")]);
    let master = shop.branch("r@master");
    shop.catalog().write(|c| c.set_head(&master, dev.id)).unwrap();
    assert_eq!(shop.show("r@master"), ["/a=1"]);
    let other = shop.catalog().write(|c| c.set_head(&shop.branch("s@master"), dev.id)).unwrap_err();
    assert!(matches!(other, VersionError::NoCommit { .. }));
    shop.catalog().write(|c| c.start_commit(&master, "")).unwrap();
    let open = shop.catalog().write(|c| c.set_head(&master, dev.id)).unwrap_err();
    assert!(matches!(open, VersionError::HeadIsOpen { .. }));
}

#[test]
fn a_write_that_lost_the_race_is_done_again() {
    let shop = Shop::with_repo("r");
    std::thread::scope(|scope| {
        for i in 0..4 {
            let shop = &shop;
            scope.spawn(move || {
                for j in 0..10 {
                    shop.put("r@b", &[("/log", "x"), (&format!("/{i}/{j}"), "y")]);
                }
            });
        }
    });
    let commit = shop.catalog().readable(&shop.at("r@b")).unwrap();
    assert_eq!((commit.number, commit.size), (40, 80));
    assert_eq!(shop.show("r@b").len(), 41);
}
