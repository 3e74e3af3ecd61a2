//! Several processes on one state folder at the same time.

use std::path::PathBuf;

use quern_core::Digest;
use quern_core::port::{Blobs as _, PortError, Scan, Table, read, write};
use quern_store::{OpenOptions, Store};
use quern_testkit::TempSpace;
use quern_testkit::again::{Again, part};
use quern_testkit::blobs::noise;

const COUNTS: Table = Table("counts");
const DONE: Table = Table("done");
const PROCESSES: usize = 4;
const ROUNDS: u64 = 60;

/// Counts up in the database, and keeps a blob for each count that everybody else keeps, too.
#[test]
fn counting_part() {
    let Some(root) = part() else { return };
    let store = Store::open(&PathBuf::from(root), &OpenOptions::default()).unwrap();
    for round in 0..ROUNDS {
        let digest = store.blobs().put(&noise(round, 5000)).unwrap().digest;
        store.blobs().sync().unwrap();
        let count: Result<u64, PortError> = write(&**store.meta(), |w| {
            let count = w.get(COUNTS, "all")?.map_or(0, |text| text.parse().unwrap()) + 1;
            w.put(COUNTS, "all", &count.to_string())?;
            w.put(DONE, &format!("{count:06}"), &digest.to_string())?;
            Ok(count)
        });
        // What a process has recorded any process can read at once.
        let count = count.unwrap();
        let records = read(&**store.meta(), |r| r.scan(DONE, &Scan::default())).unwrap();
        assert!(records.len() as u64 >= count);
        let other: Digest = records[records.len() / 2].1.parse().unwrap();
        assert_eq!(Digest::of(&store.blobs().get(&other).unwrap()), other);
    }
}

#[test]
fn processes_lose_no_count_and_share_blobs() {
    let space = TempSpace::new();
    let root = space.path("state");
    // All of them make the folder at once, too.
    let processes = (0..PROCESSES).map(|_| Again::start("counting_part", root.to_str().unwrap()));
    let mut processes: Vec<_> = processes.collect();
    processes.iter_mut().for_each(Again::succeed);
    let store = Store::open(&root, &OpenOptions::default()).unwrap();
    let count = read(&**store.meta(), |r| r.get(COUNTS, "all")).unwrap();
    assert_eq!(count, Some((PROCESSES as u64 * ROUNDS).to_string()));
    assert_eq!(
        read(&**store.meta(), |r| r.scan(DONE, &Scan::default())).unwrap().len(),
        PROCESSES * ROUNDS as usize
    );
    assert_eq!(store.disk_usage().unwrap().packed.count, ROUNDS, "each blob is indexed once");
    assert_eq!(
        std::fs::read_dir(store.layout().leases()).unwrap().count(),
        1,
        "leases end with their processes"
    );
}
