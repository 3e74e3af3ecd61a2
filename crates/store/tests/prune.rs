//! What prune removes, and above all what it does not.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::time::Duration;

use quern_core::port::{Blobs as _, PortError};
use quern_core::{Digest, Entry, Tree};
use quern_store::{OpenOptions, PruneError, PruneOptions, Pruned, Root, Store, TidyBudget};
use quern_testkit::TempSpace;
use quern_testkit::blobs::noise;

fn open(space: &TempSpace) -> Store {
    Store::open(&space.path("state"), &OpenOptions { loose_from: 10_000, ..OpenOptions::default() }).unwrap()
}

fn put(store: &Store, bytes: &[u8]) -> Digest {
    store.blobs().put(bytes).unwrap().digest
}

fn prune(store: &Store, options: &PruneOptions, alive: &[Root]) -> Pruned {
    let roots = |visit: &mut dyn FnMut(Root)| {
        alive.iter().for_each(|root| visit(*root));
        Ok::<(), PortError>(())
    };
    store.prune(options, &roots).unwrap()
}

fn prune_all_but(store: &Store, alive: &[Root]) -> Pruned {
    prune(store, &PruneOptions::default(), alive)
}

/// Some small and some large blobs.
fn fill(store: &Store, seed: u64) -> Vec<Digest> {
    (0..40).map(|i| put(store, &noise(seed * 1000 + i, if i % 8 == 7 { 20_000 } else { 900 }))).collect()
}

fn assert_kept(store: &Store, digests: &[Digest]) {
    for digest in digests {
        assert!(store.blobs().contains(digest).unwrap(), "{digest}");
        assert_eq!(Digest::of(&store.blobs().get(digest).unwrap()), *digest);
    }
}

fn assert_gone(store: &Store, digests: &[Digest]) {
    for digest in digests {
        assert!(!store.blobs().contains(digest).unwrap(), "{digest}");
        assert!(matches!(store.blobs().get(digest), Err(PortError::Missing(_))));
    }
}

#[test]
fn what_roots_lead_to_stays_and_the_rest_goes() {
    let space = TempSpace::new();
    let store = open(&space);
    let (kept, gone) = (fill(&store, 1), fill(&store, 2));
    let entries = kept.iter().enumerate().map(|(i, digest)| {
        let size = store.blobs().get(digest).unwrap().len() as u64;
        let content = quern_core::ContentRef { digest: *digest, size };
        (format!("f{i}"), Entry::File { content, executable: false })
    });
    let tree = put(&store, &Tree::new(entries.collect()).unwrap().encode());
    let before = store.disk_usage().unwrap();
    assert_eq!((before.loose.count, before.packed.count), (0, 0), "nothing is public before a sync");

    let pruned = prune_all_but(&store, &[Root::Tree(tree)]);
    assert_eq!((pruned.blobs.count, pruned.waiting.count, pruned.missing.len()), (40, 0, 0));
    assert!(pruned.blobs.bytes >= 35 * 900 + 5 * 20_000);
    assert_kept(&store, &kept);
    assert_gone(&store, &gone);
    let after = store.disk_usage().unwrap();
    assert_eq!((after.loose.count, after.packed.count), (5, 36));
    assert_kept(&open(&space), &kept);
    assert_gone(&open(&space), &gone);

    let again = prune_all_but(&store, &[Root::Tree(tree)]);
    assert_eq!(again.blobs.count, 0);
    // What went can come again.
    assert_eq!(fill(&store, 2), gone);
    store.blobs().sync().unwrap();
    assert_kept(&open(&space), &gone);
}

#[test]
fn a_pack_that_is_mostly_dead_is_compacted() {
    let space = TempSpace::new();
    let store = open(&space);
    let digests: Vec<_> = (0..1000).map(|i| put(&store, &noise(i, 4000))).collect();
    store.blobs().sync().unwrap();
    let reader = open(&space);
    assert_kept(&reader, &digests[..300]);
    drop(reader);
    let packed = |store: &Store| store.disk_usage().unwrap().packed.bytes;
    let full = packed(&store);

    let roots: Vec<_> = digests[..600].iter().map(|digest| Root::Blob(*digest)).collect();
    assert_eq!(prune_all_but(&store, &roots).packs.count, 0, "most of it is alive");
    let reader = open(&space);
    assert_kept(&reader, &digests[..10]);
    let pruned = prune_all_but(&store, &roots[..300]);
    assert_eq!((pruned.blobs.count, pruned.waiting.count), (0, 300), "the reader may rely on them");
    // Compacting takes nothing from a reader who has the place of a blob in mind: the old file is gone, the blob is not.
    drop(reader);
    let reader = open(&space);
    assert_kept(&reader, &digests[..100]);
    let pruned = prune_all_but(&store, &roots[..300]);
    assert_eq!((pruned.blobs.count, pruned.packs.count), (300, 1));
    assert!(packed(&store) < full / 2, "{} of {full}", packed(&store));
    assert_kept(&reader, &digests[..300]);
    assert_kept(&store, &digests[..300]);
    assert_kept(&open(&space), &digests[..300]);
    let pruned = prune_all_but(&open(&space), &[]);
    assert_eq!(pruned.waiting.count, 300, "two others are alive");
}

#[test]
fn what_a_living_process_may_rely_on_waits_for_its_end() {
    let space = TempSpace::new();
    let store = open(&space);
    let digests = fill(&store, 1);
    store.blobs().sync().unwrap();

    // The other has seen all of them and will record a reference to one later.
    let other = open(&space);
    assert_kept(&other, &digests);
    let pruned = prune_all_but(&store, &[]);
    assert_eq!((pruned.blobs.count, pruned.waiting.count), (0, 40));
    assert_kept(&other, &digests);
    let newcomer = open(&space);
    for digest in &digests {
        assert!(!newcomer.blobs().contains(digest).unwrap(), "a newcomer does not rely on the doomed");
        assert_eq!(Digest::of(&newcomer.blobs().get(digest).unwrap()), *digest, "but can read them");
    }
    // The newcomer puts two of them again and so keeps them.
    let (small, large) = (noise(1000, 900), noise(1007, 20_000));
    assert_eq!([put(&newcomer, &small), put(&newcomer, &large)], [digests[0], digests[7]]);
    newcomer.blobs().sync().unwrap();
    drop(newcomer);
    assert_kept(&open(&space), &[digests[0], digests[7]]);

    assert_eq!(
        prune_all_but(&store, &[]).waiting.count,
        40,
        "38 wait for the first sentence, 2 for the second"
    );
    drop(other);
    let pruned = prune_all_but(&store, &[Root::Blob(digests[3]), Root::Blob(digests[7])]);
    assert_eq!((pruned.blobs.count, pruned.waiting.count), (38, 0));
    assert_kept(&store, &[digests[3], digests[7]]);
    assert_gone(&store, &[digests[0], digests[1], digests[15]]);
}

#[test]
fn an_epoch_ends_when_something_is_removed() {
    let space = TempSpace::new();
    let store = open(&space);
    let first = store.blobs().epoch().unwrap();
    let digests = fill(&store, 1);
    store.blobs().sync().unwrap();
    prune(&store, &PruneOptions { dry_run: true, ..PruneOptions::default() }, &[]);
    assert_eq!((store.blobs().epoch().unwrap(), open(&space).blobs().epoch().unwrap()), (first, first));
    let roots: Vec<_> = digests.iter().map(|digest| Root::Blob(*digest)).collect();
    prune_all_but(&store, &roots);
    assert_eq!(store.blobs().epoch().unwrap(), first, "nothing was removed");
    prune_all_but(&store, &roots[1..]);
    let second = store.blobs().epoch().unwrap();
    prune_all_but(&store, &roots[2..]);
    let third = store.blobs().epoch().unwrap();
    drop(store);
    for file in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = fs::remove_file(space.path("state/db").join(file));
    }
    let fourth = open(&space).blobs().epoch().unwrap();
    let epochs = std::collections::BTreeSet::from([first, second, third, fourth]);
    assert_eq!(epochs.len(), 4, "no epoch comes back");
}

#[test]
fn unsynced_blobs_of_others_are_not_touched() {
    let space = TempSpace::new();
    let (store, writer) = (open(&space), open(&space));
    let first = fill(&writer, 1);
    writer.blobs().sync().unwrap();
    let second = fill(&writer, 2);
    assert_eq!(prune_all_but(&store, &[]).waiting.count, 40);
    store.tidy(&TidyBudget::UNLIMITED).unwrap();
    writer.blobs().sync().unwrap();
    assert_kept(&writer, &first);
    assert_kept(&writer, &second);
    assert_kept(&open(&space), &second);
}

#[test]
fn age_bytes_and_dry_runs() {
    let space = TempSpace::new();
    let store = open(&space);
    let digests = fill(&store, 1);
    let options = PruneOptions { dry_run: true, ..PruneOptions::default() };
    let pruned = prune(&store, &options, &[]);
    assert_eq!(pruned.blobs.count, 40);
    assert_kept(&store, &digests);
    let hour = PruneOptions { older_than: Duration::from_secs(3600), ..PruneOptions::default() };
    assert_eq!(prune(&store, &hour, &[]).blobs.count, 0);
    let most = PruneOptions { keep_bytes: pruned.blobs.bytes - 1, ..PruneOptions::default() };
    assert_eq!(prune(&store, &most, &[]).blobs.count, 1);
    let some = PruneOptions { keep_bytes: 50_000, ..PruneOptions::default() };
    assert!(prune(&store, &some, &[]).blobs.count < 39);
    assert_eq!(digests.iter().filter(|digest| store.blobs().contains(digest).unwrap()).count(), {
        let left = prune(&store, &options, &[]).blobs;
        assert!(left.bytes <= 50_000);
        left.count as usize
    });
}

#[test]
fn missing_content_is_reported_and_errors_of_roots_stop_everything() {
    let space = TempSpace::new();
    let store = open(&space);
    let digests = fill(&store, 1);
    let lost = Digest::of(b"lost");
    let roots: Vec<_> = digests.iter().map(|digest| Root::Blob(*digest)).chain([Root::Tree(lost)]).collect();
    assert_eq!(prune_all_but(&store, &roots).missing, [lost]);
    let failing = |_: &mut dyn FnMut(Root)| Err(PortError::Other("the records cannot be read".into()));
    let error = store.prune(&PruneOptions::default(), &failing).unwrap_err();
    assert_eq!(error.to_string(), "the records cannot be read");
    assert_kept(&store, &digests);
    let nested = |_: &mut dyn FnMut(Root)| {
        let busy = store.prune(&PruneOptions::default(), &failing).unwrap_err();
        assert!(matches!(busy, PruneError::Busy), "{busy}");
        Ok(())
    };
    store.prune(&PruneOptions { dry_run: true, ..PruneOptions::default() }, &nested).unwrap();
}

#[test]
fn idle_snapshots_and_memories_of_imports_go() {
    let space = TempSpace::new();
    let store = open(&space);
    for name in ["idle", "held", "unfinished"] {
        space.write(&format!("state/snapshots/{name}/files/a"), noise(1, 5000));
    }
    space.write("state/snapshots/idle/lock", "");
    let held = fs::File::open(space.write("state/snapshots/held/lock", "")).unwrap();
    held.lock_shared().unwrap();
    space.write("state/imports/memory", "1234");
    let pruned = prune_all_but(&store, &[]);
    assert_eq!(
        (pruned.snapshots.count, pruned.imports.count),
        (1, 0),
        "one was never finished, one was used today"
    );
    let all = PruneOptions { all: true, dry_run: true, ..PruneOptions::default() };
    assert_eq!(prune(&store, &all, &[]).snapshots.count, 1);
    let pruned = prune(&store, &PruneOptions { dry_run: false, ..all }, &[]);
    assert_eq!((pruned.snapshots.count, pruned.imports.count, pruned.imports.bytes), (1, 1, 4));
    assert!(pruned.snapshots.bytes >= 5000 && pruned.trash.count >= 3);
    let left: Vec<_> = space.files().into_iter().filter(|file| file.contains("/snapshots/")).collect();
    assert_eq!(left, ["state/snapshots/held/files/a", "state/snapshots/held/lock", "state/snapshots/lock"]);
}

#[test]
fn caches_that_nobody_uses_are_emptied() {
    let space = TempSpace::new();
    let store = open(&space);
    for file in ["idle/data/a", "idle/data.1/a", "held/data/a", "half/data/a", "half/data.1/a"] {
        space.write(&format!("state/caches/{file}"), noise(1, 5000));
    }
    let held = ["held/lock", "half/lock.1"]
        .map(|lock| fs::File::open(space.write(&format!("state/caches/{lock}"), "")).unwrap());
    held.iter().for_each(|lock| lock.lock_shared().unwrap());
    assert_eq!(prune_all_but(&store, &[]).caches.count, 0, "only when all is to go");
    let all = PruneOptions { all: true, dry_run: true, ..PruneOptions::default() };
    assert_eq!(prune(&store, &all, &[]).caches.count, 2);
    let pruned = prune(&store, &PruneOptions { dry_run: false, ..all }, &[]);
    assert!(pruned.caches.count == 2 && pruned.caches.bytes >= 15_000, "{pruned:?}");
    let left: Vec<_> = space.files().into_iter().filter(|file| file.ends_with("/a")).collect();
    assert_eq!(left, ["state/caches/half/data.1/a", "state/caches/held/data/a"]);
}

#[test]
fn usage_is_what_the_file_system_says() {
    let space = TempSpace::new();
    let store = open(&space);
    let digests = fill(&store, 1);
    store.blobs().sync().unwrap();
    space.write("state/snapshots/s/files/copy", noise(1, 30_000));
    let loose = store.blobs().loose_path(&digests[7]).unwrap();
    fs::hard_link(loose, space.path("state/snapshots/s/files/linked")).unwrap();
    space.write("state/caches/pip/data/wheel", "x");
    space.write("state/caches/emptied/lock", "");
    let usage = store.disk_usage().unwrap();
    let du = space.run("du", &["-s", "-B1", "state"]).ok();
    assert_eq!(du.split_whitespace().next(), Some(&*usage.total_bytes().to_string()), "{usage:?}");
    assert_eq!(
        (usage.loose.count, usage.packed.count, usage.snapshots.count, usage.caches.count),
        (5, 35, 1, 1)
    );
}
