//! The store of layers: what is kept, held, removed, and what races and deaths leave.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use quern_core::Digest;
use quern_core::port::{Cancel, Layers as _, PortError};
use quern_store::layers::{LayerPruneOptions, ObtainError, Waited};
use quern_store::{Amount, LayerStore, Layout, OpenOptions, PruneOptions, Root, Store, TidyBudget};
use quern_testkit::again::{Again, part, say};

use quern_testkit::{TempSpace, blobs::noise, layers_suite};

fn open(root: &Path) -> (Store, LayerStore) {
    let store = Store::open(root, &OpenOptions::default()).unwrap();
    let layers = LayerStore::of(&store);
    (store, layers)
}

fn add(layers: &LayerStore, name: &str, bytes: usize) -> Digest {
    let draft = layers.begin().unwrap();
    fs::write(draft.dir.join(name), noise(1, bytes)).unwrap();
    layers.commit(draft).unwrap()
}

fn prune(layers: &LayerStore, keep: &[Digest], options: LayerPruneOptions) -> Amount {
    layers.prune(&|id| keep.contains(id), &options).unwrap()
}

/// As if the layer had been used so long ago.
fn age(layout: &Layout, id: &Digest, seconds: u64) {
    let lock = fs::File::options().write(true).open(layout.layers().join(id.hex()).join("lock")).unwrap();
    lock.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

#[test]
fn the_port_is_kept() {
    let spaces = std::sync::Mutex::new(Vec::new());
    layers_suite(&|| {
        let space = TempSpace::new();
        let (_, layers) = open(&space.path("state"));
        spaces.lock().unwrap().push(space);
        Box::new(layers)
    });
}

#[test]
fn layers_are_private_and_drafts_are_laid_out_for_overlayfs() {
    let space = TempSpace::new();
    let (store, layers) = open(&space.path("state"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store.layout().layers()), 0o700);
    let draft = layers.begin().unwrap();
    assert_eq!((mode(draft.dir.parent().unwrap()), mode(&draft.dir)), (0o700, 0o755));
    // As a mount leaves it.
    fs::create_dir(draft.work.join("work")).unwrap();
    fs::set_permissions(draft.work.join("work"), fs::Permissions::from_mode(0o000)).unwrap();
    let id = layers.commit(draft).unwrap();
    let dir = store.layout().layers().join(id.hex());
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["fs", "lock"]);
    assert_eq!(fs::read_dir(store.layout().scratch()).unwrap().count(), 0);
    assert!(store.tidy(&TidyBudget::UNLIMITED).unwrap().finished);
    // A directory of somebody else is no draft.
    let foreign = quern_core::port::DraftLayer { dir: space.path("home/fs"), work: space.path("home/work") };
    fs::create_dir_all(&foreign.dir).unwrap();
    assert!(layers.commit(foreign).is_err());
    assert!(space.path("home/work").parent().unwrap().exists());
}

#[test]
fn prune_takes_what_nobody_wants_and_nobody_uses() {
    let space = TempSpace::new();
    let (store, layers) = open(&space.path("state"));
    let ids: Vec<_> = (0..4).map(|i| add(&layers, "f", 10_000 * (i + 1))).collect();
    for (age_in_minutes, id) in ids.iter().enumerate() {
        age(store.layout(), id, age_in_minutes as u64 * 60);
    }
    let held = layers.open(&ids[3..]).unwrap();
    let old = LayerPruneOptions { unused_for: Duration::from_secs(90), ..LayerPruneOptions::default() };
    let dry = LayerPruneOptions { dry_run: true, ..LayerPruneOptions::default() };
    assert_eq!(prune(&layers, &ids[..1], dry).count, 2);
    assert_eq!(
        prune(&layers, &ids[..1], old).count,
        1,
        "the second was used a minute ago, the fourth is held"
    );
    let there: Vec<_> = ids.iter().map(|id| layers.exists(id).unwrap()).collect();
    assert_eq!(there, [true, true, false, true]);
    assert!(matches!(layers.open(&ids), Err(PortError::Missing(id)) if id == ids[2]));
    assert!(matches!(layers.size(&ids[2]), Err(PortError::Missing(id)) if id == ids[2]));
    drop(held);
    assert_eq!(prune(&layers, &ids[..1], LayerPruneOptions::default()).count, 2);
    assert_eq!(layers.usage().unwrap(), Amount { count: 1, bytes: layers.size(&ids[0]).unwrap() });
}

#[test]
fn a_ceiling_takes_the_least_recently_used_first() {
    let space = TempSpace::new();
    let (store, layers) = open(&space.path("state"));
    let ids: Vec<_> = (0..5).map(|_| add(&layers, "f", 100_000)).collect();
    // The third is the oldest, then the first.
    for (id, seconds) in ids.iter().zip([3000, 1000, 5000, 500, 100]) {
        age(store.layout(), id, seconds);
    }
    let usage = layers.usage().unwrap();
    let one = usage.bytes / 5;
    assert!((100_000..120_000).contains(&one), "{one}");
    let until = |bytes| LayerPruneOptions { until_bytes: Some(bytes), ..LayerPruneOptions::default() };
    assert_eq!(prune(&layers, &[], until(usage.bytes)).count, 0);
    assert_eq!(prune(&layers, &[ids[2]], until(usage.bytes - 1)), Amount { count: 1, bytes: one });
    assert!(!layers.exists(&ids[0]).unwrap());
    assert_eq!(prune(&layers, &[], until(2 * one)).count, 2);
    let there: Vec<_> = ids.iter().map(|id| layers.exists(id).unwrap()).collect();
    assert_eq!(there, [false, false, false, true, true]);
    // A use counts: the one used again goes last.
    layers.open(&[ids[3]]).unwrap();
    assert_eq!(prune(&layers, &[], until(one)).count, 1);
    assert!(layers.exists(&ids[3]).unwrap());
}

#[test]
fn the_whole_store_knows_its_layers() {
    let space = TempSpace::new();
    let (store, layers) = open(&space.path("state"));
    let (kept, gone) = (add(&layers, "f", 50_000), add(&layers, "f", 70_000));
    let usage = store.disk_usage().unwrap();
    assert_eq!(usage.layers.count, 2);
    assert!(usage.layers.bytes >= 120_000);
    let roots = |visit: &mut dyn FnMut(Root)| {
        visit(Root::Layer(kept));
        Ok::<(), PortError>(())
    };
    let pruned = store.prune(&PruneOptions::default(), &roots).unwrap();
    assert_eq!(pruned.layers.count, 0, "both were used today");
    let pruned = store.prune(&PruneOptions { all: true, ..PruneOptions::default() }, &roots).unwrap();
    assert_eq!((pruned.layers.count, pruned.missing.len()), (1, 0));
    assert!(layers.exists(&kept).unwrap() && !layers.exists(&gone).unwrap());
    assert_eq!(store.disk_usage().unwrap().layers.count, 1);
}

#[test]
fn hard_links_of_a_layer_count_once() {
    let space = TempSpace::new();
    let (_, layers) = open(&space.path("state"));
    let draft = layers.begin().unwrap();
    fs::write(draft.dir.join("a"), noise(1, 1 << 20)).unwrap();
    (0..9).for_each(|i| fs::hard_link(draft.dir.join("a"), draft.dir.join(format!("b{i}"))).unwrap());
    let id = layers.commit(draft).unwrap();
    let size = layers.size(&id).unwrap();
    assert!((1 << 20..1_100_000).contains(&size), "{size}");
    assert_eq!(layers.size(&id).unwrap(), size);
}

#[test]
fn a_layer_of_an_earlier_run_of_the_machine_is_good_if_it_was_made_durable() {
    let space = TempSpace::new();
    let (store, layers) = open(&space.path("state"));
    let (durable, lost) = (add(&layers, "f", 10), add(&layers, "f", 10));
    let path = |id: &Digest| store.layout().layers().join(id.hex()).join("lock");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let earlier = |file: &Path| {
        let text = fs::read_to_string(file).unwrap();
        fs::write(file, text.replace(boot.trim(), "an-earlier-run")).unwrap();
    };
    layers.settle().unwrap();
    earlier(&store.layout().settled());
    // The second was committed a day later in that run.
    let text = fs::read_to_string(path(&lost)).unwrap();
    let at = text.find("\"at\":").unwrap() + 5;
    fs::write(path(&lost), format!("{}9{}", &text[..at], &text[at..])).unwrap();
    [&durable, &lost].iter().for_each(|id| earlier(&path(id)));
    let again = LayerStore::of(&store);
    assert!(again.exists(&durable).unwrap() && again.open(&[durable]).is_ok());
    assert!(!again.exists(&lost).unwrap());
    assert!(matches!(again.open(&[durable, lost]), Err(PortError::Missing(id)) if id == lost));
    // It is made anew under its name, and what is not believed never blocks the way.
    again.obtain::<std::io::Error>(&lost, &Cancel::default(), |dir| fs::write(dir.join("new"), "")).unwrap();
    assert_eq!(fs::read_dir(&again.open(&[lost]).unwrap().dirs[0]).unwrap().count(), 1);
    earlier(&path(&lost));
    assert_eq!(prune(&LayerStore::of(&store), &[durable, lost], LayerPruneOptions::default()).count, 1);
}

#[test]
fn a_layer_that_cannot_be_made_leaves_nothing() {
    let space = TempSpace::new();
    let (store, layers) = open(&space.path("state"));
    let id = Digest::of(b"wanted");
    let failed = layers.obtain(&id, &Cancel::default(), |dir| {
        fs::write(dir.join("half"), "").unwrap();
        Err("no more")
    });
    assert!(matches!(failed, Err(ObtainError::Fill("no more"))));
    assert!(!layers.exists(&id).unwrap());
    assert_eq!(fs::read_dir(store.layout().scratch()).unwrap().count(), 0);
    let held = layers.obtain::<()>(&id, &Cancel::default(), |_| Ok(())).unwrap();
    layers.obtain::<()>(&id, &Cancel::default(), |_| panic!("it is there")).unwrap();
    assert_eq!(held.dirs.len(), 1);
}

#[test]
fn who_waits_for_another_may_stop() {
    let space = TempSpace::new();
    let (_, layers) = open(&space.path("state"));
    let (id, cancel) = (Digest::of(b"wanted"), Cancel::default());
    layers
        .obtain::<()>(&id, &Cancel::default(), |_| {
            cancel.set();
            let waited = layers.obtain::<()>(&id, &cancel, |_| panic!("somebody else makes it"));
            assert!(matches!(waited, Err(ObtainError::Cancelled)));
            Ok(())
        })
        .unwrap();
}

/// Wants twenty layers, notes which it made.
#[test]
fn obtaining_part() {
    let Some(root) = part() else { return };
    let (store, layers) = open(Path::new(&root));
    say("ready");
    for number in 0..20u8 {
        let id = Digest::of(&[number]);
        let open = layers.obtain::<std::io::Error>(&id, &Cancel::default(), |dir| {
            (0..50).try_for_each(|i| fs::write(dir.join(i.to_string()), noise(i, 100)))?;
            let log =
                store.layout().root().parent().unwrap().join(format!("made-{number}-{}", std::process::id()));
            fs::write(log, "")
        });
        let open = open.unwrap();
        assert_eq!(fs::read_dir(&open.dirs[0]).unwrap().count(), 50, "whole or not at all");
    }
}

#[test]
fn of_many_processes_one_makes_a_layer() {
    let space = TempSpace::new();
    let root = space.path("state");
    let mut processes: Vec<_> =
        (0..4).map(|_| Again::start("store::obtaining_part", root.to_str().unwrap())).collect();
    processes.iter_mut().for_each(Again::succeed);
    let made = space.files().into_iter().filter(|path| path.starts_with("made-")).count();
    assert_eq!(made, 20, "each was made once");
    assert_eq!(open(&root).1.usage().unwrap().count, 20);
}

/// Goes first with some work and never ends.
#[test]
fn going_first_part() {
    let Some(root) = part() else { return };
    let (_store, layers) = open(Path::new(&root));
    let _first = layers.first(&Digest::of(b"work")).unwrap().unwrap();
    say("first");
    loop {
        std::thread::park();
    }
}

#[test]
fn others_wait_for_the_first_until_it_ends_or_dies() {
    let space = TempSpace::new();
    let (_store, layers) = open(&space.path("state"));
    let work = Digest::of(b"work");
    assert_eq!(layers.wait_for_first(&work, &Cancel::default(), || ()).unwrap(), Waited::Nobody);
    let mut process = Again::start("store::going_first_part", space.path("state").to_str().unwrap());
    assert_eq!(process.said().as_deref(), Some("first"));
    assert!(layers.first(&work).unwrap().is_none());
    let cancel = Cancel::default();
    cancel.set();
    assert_eq!(layers.wait_for_first(&work, &cancel, || ()).unwrap(), Waited::Cancelled);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| layers.wait_for_first(&work, &Cancel::default(), || ()).unwrap());
        process.kill();
        assert_ne!(waiting.join().unwrap(), Waited::Cancelled);
    });
    let first = layers.first(&work).unwrap();
    assert!(first.is_some(), "whoever died is replaced");
    drop(first);
    assert_eq!(fs::read_dir(space.path("state/layers/.making")).unwrap().count(), 0);
}

/// Makes layers, keeps them open for a moment, prunes between. Every layer it made is its own to use.
#[test]
fn churning_part() {
    let Some(root) = part() else { return };
    let (_store, layers) = open(Path::new(&root));
    for round in 0..u64::MAX {
        let id = add(&layers, &format!("{round}"), 3000);
        let shared = Digest::of(&[(round % 3) as u8]);
        let fill = |dir: &Path| fs::write(dir.join("shared"), noise(9, 5000));
        let open = layers.obtain(&shared, &Cancel::default(), fill).unwrap();
        let own = layers.open(&[id]).unwrap();
        assert_eq!(fs::read(own.dirs[0].join(round.to_string())).unwrap().len(), 3000);
        // What is open stays, whoever prunes.
        layers.prune(&|_| false, &LayerPruneOptions::default()).unwrap();
        assert_eq!(fs::read(open.dirs[0].join("shared")).unwrap(), noise(9, 5000));
        assert_eq!(fs::read(own.dirs[0].join(round.to_string())).unwrap().len(), 3000);
        drop(own);
        say(&round.to_string());
    }
}

#[test]
fn makers_and_pruners_that_are_killed_leave_what_the_next_can_use() {
    let space = TempSpace::new();
    let root = space.path("state");
    for round in 0..8 {
        let mut processes: Vec<_> =
            (0..3).map(|_| Again::start("store::churning_part", root.to_str().unwrap())).collect();
        for process in &mut processes {
            (0..3 + round % 3).for_each(|_| drop(process.said().expect("it ended by itself")));
        }
        std::thread::sleep(Duration::from_micros(round * 1777 % 9000));
        processes.iter_mut().for_each(Again::kill);
    }
    let (store, layers) = open(&root);
    // Whatever is there is whole: made of the 3,000 or 5,000 bytes that it was made of.
    for entry in fs::read_dir(store.layout().layers()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Ok(id) = Digest::from_hex(&name) else { continue };
        let open = layers.open(&[id]).unwrap();
        let files: Vec<_> = fs::read_dir(&open.dirs[0]).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(files.len(), 1, "{name}");
        assert!(matches!(files[0].metadata().unwrap().len(), 3000 | 5000));
    }
    prune(&layers, &[], LayerPruneOptions::default());
    store.tidy(&TidyBudget::UNLIMITED).unwrap();
    assert_eq!(layers.usage().unwrap(), Amount::default());
    for dir in [store.layout().scratch(), store.layout().trash(), store.layout().layers().join(".making")] {
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{}", dir.display());
    }
}

#[test]
fn what_a_living_process_committed_is_left_to_it() {
    let space = TempSpace::new();
    let root = space.path("state");
    let mut process = Again::start("store::committing_part", root.to_str().unwrap());
    let id: Digest = process.said().unwrap().parse().unwrap();
    let (_store, layers) = open(&root);
    assert_eq!(prune(&layers, &[], LayerPruneOptions::default()).count, 0);
    assert!(layers.exists(&id).unwrap());
    process.kill();
    assert_eq!(prune(&layers, &[], LayerPruneOptions::default()).count, 1);
}

#[test]
fn committing_part() {
    let Some(root) = part() else { return };
    let (_store, layers) = open(Path::new(&root));
    say(&add(&layers, "f", 1).to_string());
    std::thread::park();
}

#[test]
fn a_stack_becomes_one_layer_once() {
    let space = TempSpace::new();
    let (_, layers) = open(&space.path("state"));
    let ids = [add(&layers, "a", 1), add(&layers, "b", 2)];
    let (flat, open) = layers.flatten(&ids, &Cancel::default()).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&open.dirs[0]).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(layers.flatten(&ids, &Cancel::default()).unwrap().0, flat);
    assert_ne!(layers.flatten(&[ids[1], ids[0]], &Cancel::default()).unwrap().0, flat);
    let absent = Digest::of(b"absent");
    let error = layers.flatten(&[absent], &Cancel::default()).map(|_| ()).unwrap_err();
    assert!(matches!(error, ObtainError::Store(PortError::Missing(id)) if id == absent));
}

#[test]
fn drafts_lie_apart_on_ext4() {
    const EXT4: i64 = 0xEF53;
    let space = TempSpace::new();
    let (store, layers) = open(&space.path("state"));
    layers.discard(layers.begin().unwrap());
    let scratch = fs::File::open(store.layout().scratch()).unwrap();
    let is_ext4 = rustix::fs::fstatfs(&scratch).unwrap().f_type as i64 == EXT4;
    let marks = rustix::fs::ioctl_getflags(&scratch);
    let marked = marks.is_ok_and(|marks| marks.contains(rustix::fs::IFlags::TOPDIR));
    assert!(marked || !is_ext4);
}
