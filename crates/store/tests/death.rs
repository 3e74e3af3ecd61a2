//! Processes that die at any moment lose nothing that was acknowledged, and leave nothing that the next cannot mend.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quern_core::Digest;
use quern_core::port::{Blobs as _, Meta as _, PortError, Scan, Table, read};
use quern_store::{OpenOptions, PruneOptions, Root, Store, TidyBudget};
use quern_testkit::TempSpace;
use quern_testkit::again::{Again, part, say};
use quern_testkit::blobs::noise;

const RECORDS: Table = Table("records");
const MIRROR: Table = Table("mirror");

fn open(root: &Path) -> Store {
    Store::open(root, &OpenOptions { loose_from: 20_000, ..OpenOptions::default() }).unwrap()
}

/// Different for every number; mostly small.
fn content(number: u64) -> Vec<u8> {
    noise(number, if number.is_multiple_of(7) { 30_000 } else { 200 + number as usize % 3000 })
}

/// Keeps blobs and, after each sync, a record of them in two tables; says so when the record is written.
fn write_for_ever(root: &Path, from: u64) {
    let store = open(root);
    let mut number = from;
    loop {
        let count = 1 + number % 5;
        let digests: Vec<_> = (number..number + count)
            .map(|number| store.blobs().put(&content(number)).unwrap().digest.to_string())
            .collect();
        store.blobs().sync().unwrap();
        let (key, value) = (format!("{number:012}"), digests.join(" "));
        store
            .meta()
            .write(&mut |w| w.put(RECORDS, &key, &value).and_then(|()| w.put(MIRROR, &key, &value)))
            .unwrap();
        say(&key);
        number += count;
    }
}

fn records(store: &Store, table: Table) -> Vec<(String, String)> {
    read(&**store.meta(), |r| r.scan(table, &Scan::default())).unwrap()
}

/// Shows every blob that a record refers to.
fn visit_recorded(store: &Store, visit: &mut dyn FnMut(Root)) -> Result<(), PortError> {
    for (_, digests) in read(&**store.meta(), |r| r.scan(RECORDS, &Scan::default()))? {
        digests.split(' ').for_each(|digest| visit(Root::Blob(digest.parse().unwrap())));
    }
    Ok(())
}

/// Asserts that what was said was kept, and that what was kept is whole.
fn assert_whole(root: &Path, said: &BTreeSet<String>) {
    let store = open(root);
    let records = records(&store, RECORDS);
    assert_eq!(records, self::records(&store, MIRROR), "a transaction is seen whole or not at all");
    let keys: BTreeSet<_> = records.iter().map(|(key, _)| key.clone()).collect();
    assert!(said.is_subset(&keys), "lost: {:?}", said.difference(&keys).collect::<Vec<_>>());
    visit_recorded(&store, &mut |root| {
        let Root::Blob(digest) = root else { unreachable!("only blobs are recorded") };
        assert_eq!(Digest::of(&store.blobs().get(&digest).unwrap()), digest);
    })
    .unwrap();
}

/// Starts a part, lets it say `count` things and a little more, and kills it. Gives what it said.
fn kill_after(test: &str, root: &Path, count: usize, delay: Duration) -> Vec<String> {
    let mut process = Again::start(test, root.to_str().unwrap());
    let mut said: Vec<_> = (0..count).map_while(|_| process.said()).collect();
    assert_eq!(said.len(), count, "the process ended by itself");
    std::thread::sleep(delay);
    process.kill();
    said.extend(std::iter::from_fn(|| process.said()));
    said
}

#[test]
fn writer_part() {
    if let Some(root) = part() {
        // Every process writes numbers of its own.
        let from = u64::from(std::process::id()) << 24;
        write_for_ever(&PathBuf::from(root), from);
    }
}

#[test]
fn killed_writers_lose_nothing_acknowledged() {
    let space = TempSpace::new();
    let root = space.path("state");
    let mut said = BTreeSet::new();
    for round in 0..60 {
        let delay = Duration::from_micros(round * 397 % 5000);
        said.extend(kill_after("writer_part", &root, round as usize % 4, delay));
        if round % 10 == 9 {
            assert_whole(&root, &said);
        }
    }
    assert!(said.len() > 60);
    let store = open(&root);
    store.tidy(&TidyBudget::UNLIMITED).unwrap();
    assert_eq!(fs::read_dir(store.layout().tmp()).unwrap().count(), 0, "leftovers are buried");
    assert!(fs::read_dir(store.layout().packs()).unwrap().count() <= 3, "packs of the dead are continued");
    // The index can be lost as well.
    drop(store);
    for file in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = fs::remove_file(root.join("db").join(file));
    }
    assert_whole(&root, &said);
}

#[test]
fn several_writers_at_once_are_killed_and_seen_by_each_other() {
    let space = TempSpace::new();
    let root = space.path("state");
    let said: Vec<_> = std::thread::scope(|scope| {
        let root = &root;
        let threads: Vec<_> = (0..4)
            .map(|i| {
                scope.spawn(move || {
                    let rounds = (0..3).map(|round| Duration::from_micros((i * 7 + round * 3) % 11 * 400));
                    rounds.flat_map(|delay| kill_after("writer_part", root, 5, delay)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(said.len() >= 60);
    assert_whole(&root, &said.into_iter().collect());
}

/// Writes without end, prunes between: every other record is dropped, so that there is something to remove.
#[test]
fn pruner_part() {
    let Some(root) = part() else { return };
    let store = open(&PathBuf::from(root));
    for round in 0_u64.. {
        let number = (u64::from(std::process::id()) << 24) + round * 40;
        let digests: Vec<_> = (number..number + 40)
            .map(|n| store.blobs().put(&content(n)).unwrap().digest.to_string())
            .collect();
        store.blobs().sync().unwrap();
        let (key, value) = (format!("{number:012}"), digests[..20].join(" "));
        store
            .meta()
            .write(&mut |w| w.put(RECORDS, &key, &value).and_then(|()| w.put(MIRROR, &key, &value)))
            .unwrap();
        say(&key);
        match store.prune(&PruneOptions::default(), &|visit| visit_recorded(&store, visit)) {
            Ok(_) | Err(quern_store::PruneError::Busy) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn killed_pruners_remove_nothing_alive() {
    let space = TempSpace::new();
    let root = space.path("state");
    let mut said = BTreeSet::new();
    for round in 0..25 {
        let mut writer = Again::start("writer_part", root.to_str().unwrap());
        said.extend(writer.said());
        let delay = Duration::from_micros(round * 1103 % 20_000);
        said.extend(kill_after("pruner_part", &root, 1 + round as usize % 3, delay));
        writer.kill();
        said.extend(std::iter::from_fn(|| writer.said()));
        assert_whole(&root, &said);
    }
    // With everybody dead, one prune removes all the rest.
    let store = open(&root);
    store.prune(&PruneOptions::default(), &|visit| visit_recorded(&store, visit)).unwrap();
    let mut alive = BTreeSet::new();
    visit_recorded(&store, &mut |root| {
        let Root::Blob(digest) = root else { unreachable!("only blobs are recorded") };
        assert!(store.blobs().contains(&digest).unwrap(), "nothing alive stays doomed");
        alive.insert(digest);
    })
    .unwrap();
    let usage = store.disk_usage().unwrap();
    assert_eq!(usage.loose.count + usage.packed.count, alive.len() as u64);
    assert_eq!(usage.trash.count, 0);
    drop(store);
    assert_whole(&root, &said);
}
