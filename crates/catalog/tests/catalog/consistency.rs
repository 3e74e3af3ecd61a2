//! Random changes to repos, branches and commits; after each, records and indexes agree.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Strategy, any, proptest};
use proptest::{collection, sample};
use quern_catalog::{Branch, BranchRef, Change, Commit, CommitState, Origin, Repo, VersionError};
use quern_core::Id;
use quern_core::port::{Meta, MetaRead, Scan, Table};
use serde::de::DeserializeOwned;

use crate::shop::Shop;

#[derive(Debug, Clone)]
struct Act {
    kind: usize,
    branch: &'static str,
    other: &'static str,
    pick: usize,
    force: bool,
}

fn acts() -> impl Strategy<Value = Act> {
    let branch = || sample::select(vec!["p@x", "p@y", "q@x", "q@y", "r@x"]);
    (0..13usize, branch(), branch(), any::<usize>(), any::<bool>())
        .prop_map(|(kind, branch, other, pick, force)| Act { kind, branch, other, pick, force })
}

/// Does one change; refusals are as good as any.
fn act(change: &mut Change<'_>, act: &Act, commits: &[Id]) -> Result<(), VersionError> {
    let (branch, other): (BranchRef, BranchRef) = (act.branch.parse().unwrap(), act.other.parse().unwrap());
    let commit = commits.get(act.pick % commits.len().max(1)).copied().unwrap_or(Id::from_bytes([0; 16]));
    match act.kind {
        0 => change.create_repo(&branch.repo, "").map(drop),
        1 if act.pick.is_multiple_of(4) => change.delete_repo(&branch.repo, act.force),
        2 => change.delete_branch(&branch, act.force),
        3 => change.set_provenance(&branch, &[other]),
        4 => change.set_provenance(&branch, &[]),
        5 => change.set_head(&branch, commit),
        6 => change.start_commit(&branch, "").map(drop),
        7 => change.start_output_commit(&branch, &[commit], Id::from_bytes([9; 16])).map(drop),
        8 => change.finish(commit, None).map(drop),
        9 => change.fail(commit).map(drop),
        10 => change.drop_open(commit),
        11 => change.delete_commit(commit).map(drop),
        _ => change.commit(&branch, quern_catalog::Content::empty(), "").map(drop),
    }
}

fn table<T: DeserializeOwned>(meta: &dyn MetaRead, name: &'static str) -> BTreeMap<String, T> {
    let rows = meta.scan(Table(name), &Scan::default()).unwrap();
    rows.into_iter().map(|(key, text)| (key, serde_json::from_str(&text).unwrap())).collect()
}

fn check(meta: &dyn MetaRead) {
    let repos: BTreeMap<String, Repo> = table(meta, "repos");
    let branches: BTreeMap<String, Branch> = table(meta, "branches");
    let commits: BTreeMap<String, Commit> = table(meta, "commits");
    let (mut order, mut links, mut readers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for commit in commits.values() {
        assert!(repos[commit.repo.as_str()].last_number >= commit.number);
        for place in [commit.repo.to_string(), commit.branch_ref().to_string()] {
            order.insert(format!("{place}/{:016x}", commit.number), commit.id);
        }
        if let Some(parent) = commit.parent {
            let parent = &commits[&parent.to_string()];
            assert!(parent.repo == commit.repo && parent.number < commit.number);
            links.insert(format!("child/{}/{}", parent.id, commit.id), commit.id);
        }
        for upstream in &commit.provenance {
            links.insert(format!("reader/{upstream}/{}", commit.id), commit.id);
        }
        assert_eq!(commit.finished.is_none(), commit.state == CommitState::Open);
        assert!(commit.origin == Origin::Auto || commit.provenance.is_empty());
        let heads = branches.values().filter(|b| b.head == Some(commit.id)).count();
        assert!(commit.state != CommitState::Open || heads > 0, "an open commit nobody points to");
    }
    for (name, branch) in &branches {
        assert!(repos.contains_key(branch.branch.repo.as_str()));
        assert!(branch.head.is_none_or(|head| commits[&head.to_string()].repo == branch.branch.repo));
        for upstream in &branch.provenance {
            assert!(branches.contains_key(&upstream.to_string()));
            readers.insert(format!("{upstream}/{name}"), branch.branch.clone());
        }
    }
    assert_eq!(table::<Id>(meta, "commit_order"), order);
    assert_eq!(table::<Id>(meta, "commit_links"), links);
    assert_eq!(table::<BranchRef>(meta, "branch_readers"), readers);
    let graph = |from: &BranchRef| branches[&from.to_string()].provenance.clone();
    for branch in branches.values() {
        let (mut seen, mut to_visit) = (BTreeSet::new(), graph(&branch.branch));
        while let Some(next) = to_visit.pop() {
            assert_ne!(next, branch.branch, "made from itself");
            if seen.insert(next.clone()) {
                to_visit.extend(graph(&next));
            }
        }
    }
}

proptest! {
    #[test]
    fn records_and_indexes_agree(history in collection::vec(acts(), 1..60)) {
        let shop = Shop::with_repo("p");
        shop.repo("q");
        for step in &history {
            let commits: Vec<Id> = {
                let mut found = Vec::new();
                shop.meta.read(&mut |r| {
                    found = table::<Commit>(r, "commits").into_values().map(|commit| commit.id).collect();
                    Ok(())
                }).unwrap();
                found
            };
            // Refusals leave everything as it was, which the same check shows.
            let _ = shop.catalog().write(|change| act(change, step, &commits));
            shop.meta.read(&mut |r| { check(r); Ok(()) }).unwrap();
        }
    }
}
