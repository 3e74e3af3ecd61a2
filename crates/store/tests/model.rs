//! Random histories against a model in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;
use quern_core::Digest;
use quern_core::port::{Blobs as _, Meta, MetaWrite, PortError, Scan, Table, read};
use quern_store::{OpenOptions, PruneOptions, Root, Store};
use quern_testkit::blobs::noise;
use quern_testkit::{MemMeta, TempSpace};

const TABLES: [Table; 2] = [Table("one"), Table("two")];

#[derive(Debug, Clone)]
enum Write {
    Put(usize, String, String),
    Delete(usize, String),
    Scan(usize, Scan),
}

/// Transactions of writes, each with whether it fails in the end.
fn transactions() -> impl Strategy<Value = Vec<(Vec<Write>, bool)>> {
    let key = "[ab/\u{0}\u{10FFFF}]{0,3}";
    let scan = (key, proptest::option::of(key), any::<bool>(), proptest::option::of(0..4_usize))
        .prop_map(|(prefix, after, reverse, limit)| Scan { prefix, after, reverse, limit });
    let write = prop_oneof![
        4 => (0..2_usize, key, ".{0,5}").prop_map(|(table, key, value)| Write::Put(table, key, value)),
        2 => (0..2_usize, key).prop_map(|(table, key)| Write::Delete(table, key)),
        2 => (0..2_usize, scan).prop_map(|(table, scan)| Write::Scan(table, scan)),
    ];
    proptest::collection::vec((proptest::collection::vec(write, 0..12), any::<bool>()), 1..12)
}

fn apply(w: &mut dyn MetaWrite, writes: &[Write]) -> Result<Vec<Vec<(String, String)>>, PortError> {
    let mut seen = Vec::new();
    for write in writes {
        match write {
            Write::Put(table, key, value) => w.put(TABLES[*table], key, value)?,
            Write::Delete(table, key) => w.delete(TABLES[*table], key)?,
            Write::Scan(table, scan) => seen.push(w.scan(TABLES[*table], scan)?),
        }
    }
    Ok(seen)
}

fn run(meta: &dyn Meta, writes: &[Write], fails: bool) -> Vec<Vec<(String, String)>> {
    let mut seen = Vec::new();
    let result = meta.write(&mut |w| {
        seen = apply(w, writes)?;
        if fails { Err(PortError::Other("fails".into())) } else { Ok(()) }
    });
    assert_eq!(result.is_err(), fails);
    seen
}

fn everything(meta: &dyn Meta) -> Vec<Vec<(String, String)>> {
    TABLES.iter().map(|table| read(meta, |r| r.scan(*table, &Scan::default())).unwrap()).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64),
    PutAndForget(u64),
    Sync,
    DropRoot(usize),
    Prune,
    Reopen,
    /// Another process comes, and looks at what is there, or the one before goes.
    Other,
    LoseIndex,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..40_u64).prop_map(Step::Put),
        3 => (0..40_u64).prop_map(Step::PutAndForget),
        2 => Just(Step::Sync),
        3 => any::<usize>().prop_map(Step::DropRoot),
        2 => Just(Step::Prune),
        1 => Just(Step::Reopen),
        1 => Just(Step::Other),
        1 => Just(Step::LoseIndex),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A state folder, the process under test, another one that may be alive, and what must be there.
struct World {
    space: TempSpace,
    store: Option<Store>,
    other: Option<(Store, BTreeSet<Digest>)>,
    /// Blobs that records refer to, with their contents' numbers.
    roots: BTreeMap<Digest, u64>,
}

fn content(number: u64) -> Vec<u8> {
    noise(number, if number.is_multiple_of(5) { 9000 } else { 100 + number as usize * 10 })
}

impl World {
    fn open(&self) -> Store {
        let options = OpenOptions { loose_from: 8000, ..OpenOptions::default() };
        Store::open(&self.space.path("state"), &options).unwrap()
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put(number) => {
                let digest = self.store().blobs().put(&content(*number)).unwrap().digest;
                self.store().blobs().sync().unwrap();
                self.roots.insert(digest, *number);
            }
            Step::PutAndForget(number) => assert!(self.store().blobs().put(&content(*number)).is_ok()),
            Step::Sync => self.store().blobs().sync().unwrap(),
            Step::DropRoot(index) => {
                let digest = self.roots.keys().nth(index % self.roots.len().max(1)).copied();
                digest.map(|digest| self.roots.remove(&digest));
            }
            Step::Prune => drop(self.prune()),
            Step::Reopen => {
                self.store = None;
                self.store = Some(self.open());
            }
            Step::Other => match self.other.take() {
                Some(_) => {}
                None => {
                    let other = self.open();
                    let digests = (0..40).map(|number| Digest::of(&content(number)));
                    let seen = digests.filter(|digest| other.blobs().contains(digest).unwrap()).collect();
                    self.other = Some((other, seen));
                }
            },
            Step::LoseIndex => {
                (self.store, self.other) = (None, None);
                for file in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
                    let _ = fs::remove_file(self.space.path("state/db").join(file));
                }
                self.store = Some(self.open());
            }
        }
    }

    fn prune(&self) -> quern_store::Pruned {
        let roots = |visit: &mut dyn FnMut(Root)| {
            self.roots.keys().for_each(|digest| visit(Root::Blob(*digest)));
            Ok(())
        };
        self.store().prune(&PruneOptions::default(), &roots).unwrap()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (digest, number) in &self.roots {
            prop_assert_eq!(self.store().blobs().get(digest).unwrap(), content(*number));
        }
        if let Some((other, seen)) = &self.other {
            for digest in seen {
                prop_assert!(other.blobs().get(digest).is_ok(), "what a living process has seen stays");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 40, ..Default::default() })]

    #[test]
    fn records_are_those_of_the_model(transactions in transactions()) {
        let space = TempSpace::new();
        let store = Store::open(&space.path("state"), &OpenOptions::default()).unwrap();
        let model = MemMeta::default();
        for (writes, fails) in &transactions {
            prop_assert_eq!(run(&**store.meta(), writes, *fails), run(&model, writes, *fails));
            prop_assert_eq!(everything(&**store.meta()), everything(&model));
        }
        drop(store);
        let store = Store::open(&space.path("state"), &OpenOptions::default()).unwrap();
        prop_assert_eq!(everything(&**store.meta()), everything(&model));
    }

    #[test]
    fn what_is_referred_to_is_always_there(steps in steps()) {
        let mut world = World { space: TempSpace::new(), store: None, other: None, roots: BTreeMap::new() };
        world.store = Some(world.open());
        for step in &steps {
            world.step(step);
            world.check()?;
        }
        // Alone, one prune leaves exactly what is referred to.
        world.other = None;
        let pruned = world.prune();
        prop_assert_eq!(pruned.waiting.count, 0);
        prop_assert_eq!(pruned.missing, []);
        world.check()?;
        let usage = world.store().disk_usage().unwrap();
        prop_assert_eq!(usage.loose.count + usage.packed.count, world.roots.len() as u64);
        prop_assert_eq!(world.prune().blobs.count, 0);
    }

    #[test]
    fn a_damaged_pack_gives_what_is_whole_and_nothing_else(
        lengths in proptest::collection::vec(0..300_usize, 1..20),
        damage in proptest::collection::vec((0..6000_u64, any::<u8>()), 0..4),
        cut in proptest::option::of(0..6000_u64),
    ) {
        let space = TempSpace::new();
        let root = space.path("state");
        let contents: BTreeSet<_> = lengths.iter().enumerate().map(|(i, length)| noise(i as u64, *length)).collect();
        let store = Store::open(&root, &OpenOptions::default()).unwrap();
        contents.iter().for_each(|content| assert!(store.blobs().put(content).is_ok()));
        store.blobs().sync().unwrap();
        drop(store);
        let pack = fs::read_dir(root.join("packs")).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&pack).unwrap();
        let mut bytes = whole.clone();
        for (at, value) in damage {
            let at = at as usize % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut as usize % bytes.len()));
        fs::write(&pack, &bytes).unwrap();
        for file in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
            let _ = fs::remove_file(root.join("db").join(file));
        }
        let store = Store::open(&root, &OpenOptions::default()).unwrap();
        // The records in the order of the pack, from their lengths alone.
        let mut at = 8;
        while at < whole.len() {
            let length = u32::from_le_bytes(whole[at + 4..at + 8].try_into().unwrap()) as usize;
            let end = at + 40 + length;
            let intact = bytes.get(at..end) == Some(&whole[at..end]);
            let content = &whole[at + 40..end];
            match store.blobs().get(&Digest::of(content)) {
                Ok(found) => prop_assert!(intact && found == content),
                Err(error) => prop_assert!(!intact, "{error}"),
            }
            at = end;
        }
        contents.iter().for_each(|content| assert!(store.blobs().put(content).is_ok()));
        store.blobs().sync().unwrap();
        for content in &contents {
            prop_assert_eq!(&store.blobs().get(&Digest::of(content)).unwrap(), content);
        }
    }
}
