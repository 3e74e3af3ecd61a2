use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use quern_core::Digest;

use super::*;
use crate::cache::{InMemoryKeyStorage, Timestamp};
use crate::conformance;

#[test]
fn the_storage_on_disk_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    conformance::key_storage(|| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(FileKeyStorage::open(folder.path().join(number.to_string())).unwrap())
    });
}

/// The same with everything read from the snapshot: each question goes to a storage that was
/// compacted and opened again.
struct Reopened(PathBuf);

impl Reopened {
    fn with<T>(&self, run: impl FnOnce(&FileKeyStorage) -> T) -> T {
        let storage = FileKeyStorage::open(&self.0).unwrap();
        let value = run(&storage);
        storage.compact().unwrap();
        value
    }
}

impl CacheKeyStorage for Reopened {
    fn exists(&self, id: &KeyId) -> Result<bool, CacheError> {
        self.with(|s| s.exists(id))
    }
    fn walk(&self, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        self.with(|s| s.walk(visit))
    }
    fn walk_results(&self, id: &KeyId, visit: &mut dyn FnMut(CacheResult)) -> Result<(), CacheError> {
        self.with(|s| s.walk_results(id, visit))
    }
    fn load(&self, id: &KeyId, result: &str) -> Result<CacheResult, CacheError> {
        self.with(|s| s.load(id, result))
    }
    fn add_result(&self, id: &KeyId, result: CacheResult) -> Result<(), CacheError> {
        self.with(|s| s.add_result(id, result))
    }
    fn release(&self, result: &str) -> Result<(), CacheError> {
        self.with(|s| s.release(result))
    }
    fn walk_ids_by_result(&self, result: &str, visit: &mut dyn FnMut(KeyId)) -> Result<(), CacheError> {
        self.with(|s| s.walk_ids_by_result(result, visit))
    }
    fn add_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<(), CacheError> {
        self.with(|s| s.add_link(id, link, target))
    }
    fn walk_links(
        &self,
        id: &KeyId,
        link: &CacheInfoLink,
        visit: &mut dyn FnMut(KeyId),
    ) -> Result<(), CacheError> {
        self.with(|s| s.walk_links(id, link, visit))
    }
    fn walk_leaving(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(CacheInfoLink, KeyId),
    ) -> Result<(), CacheError> {
        self.with(|s| s.walk_leaving(id, visit))
    }
    fn knows_operation(&self, digest: &Digest) -> Result<bool, CacheError> {
        self.with(|s| s.knows_operation(digest))
    }
    fn has_link(&self, id: &KeyId, link: &CacheInfoLink, target: &KeyId) -> Result<bool, CacheError> {
        self.with(|s| s.has_link(id, link, target))
    }
    fn walk_backlinks(
        &self,
        id: &KeyId,
        visit: &mut dyn FnMut(KeyId, CacheInfoLink),
    ) -> Result<(), CacheError> {
        let mut found = Vec::new();
        self.with(|s| s.walk_backlinks(id, &mut |source, link| found.push((source, link))))?;
        found.into_iter().for_each(|(source, link)| visit(source, link));
        Ok(())
    }
}

#[test]
fn snapshots_hold_the_content_of_a_small_storage() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Reopened(folder.path().to_path_buf());
    let by =
        CacheInfoLink { input: 1, output: 0, digest: Digest::of(b"op"), selector: Some(Digest::of(b"s")) };
    let (foo, bar) = (KeyId(Digest::of(b"foo")), KeyId(Digest::of(b"bar")));
    let result = |id: &str| CacheResult { id: id.into(), created_at: Timestamp(5) };
    storage.add_result(&foo, result("r")).unwrap();
    storage.add_result(&bar, result("r")).unwrap();
    storage.add_link(&foo, &by, &bar).unwrap();
    assert!(storage.has_link(&foo, &by, &bar).unwrap());
    assert_eq!(storage.load(&bar, "r").unwrap(), result("r"));
    storage.release("r").unwrap();
    storage.walk(&mut |id| panic!("{id:?} is left")).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    AddResult(u8, u8),
    AddLink(u8, u8, u8),
    Release(u8),
    Sync,
    Compact,
    Reopen,
    Other,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..8u8, 0..6u8).prop_map(|(key, result)| Step::AddResult(key, result)),
        4 => (0..8u8, 0..2u8, 0..8u8).prop_map(|(key, link, target)| Step::AddLink(key, link, target)),
        2 => (0..6u8).prop_map(Step::Release),
        1 => Just(Step::Sync),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Other),
    ];
    prop::collection::vec(step, 1..40)
}

fn key(number: u8) -> KeyId {
    KeyId(Digest::of(&[number]))
}

fn by(number: u8) -> CacheInfoLink {
    CacheInfoLink { input: number.into(), output: 0, digest: Digest::of(b"op"), selector: None }
}

/// Everything a storage knows, in an order of its own.
fn content(storage: &dyn CacheKeyStorage) -> Vec<String> {
    let mut lines = Vec::new();
    for k in 0..8 {
        storage.walk_results(&key(k), &mut |r| lines.push(format!("{k} has {}", r.id))).unwrap();
        for l in 0..2 {
            storage.walk_links(&key(k), &by(l), &mut |t| lines.push(format!("{k} -{l}-> {t:?}"))).unwrap();
            let numbered = storage.numbered(&mut |keys| {
                let mut targets = Vec::new();
                keys.number(&key(k)).inspect(|source| keys.targets(*source, &by(l), &mut targets));
                lines.extend(targets.iter().map(|t| format!("{k} -{l}-> {:?} by number", keys.id(*t))));
            });
            assert!(numbered);
        }
        storage.walk_leaving(&key(k), &mut |l, t| lines.push(format!("{k} ={}=> {t:?}", l.input))).unwrap();
        storage.walk_backlinks(&key(k), &mut |s, l| lines.push(format!("{k} <-{}- {s:?}", l.input))).unwrap();
        lines.push(format!("{k} exists: {}", storage.exists(&key(k)).unwrap()));
    }
    for r in 0..6u8 {
        storage.walk_ids_by_result(&r.to_string(), &mut |id| lines.push(format!("{r} on {id:?}"))).unwrap();
    }
    storage.walk(&mut |id| lines.push(format!("{id:?}"))).unwrap();
    lines.sort();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is done, with whatever is written in between, the storage on disk equals the one
    /// in memory.
    #[test]
    fn it_equals_the_storage_in_memory(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let model = InMemoryKeyStorage::new();
        let mut storage = FileKeyStorage::open(folder.path()).unwrap();
        for step in steps {
            match step {
                Step::AddResult(k, r) => {
                    let result = CacheResult { id: r.to_string().into(), created_at: Timestamp(r.into()) };
                    model.add_result(&key(k), result.clone()).unwrap();
                    storage.add_result(&key(k), result).unwrap();
                }
                Step::AddLink(k, l, t) if k != t => {
                    model.add_link(&key(k), &by(l), &key(t)).unwrap();
                    storage.add_link(&key(k), &by(l), &key(t)).unwrap();
                }
                Step::AddLink(..) => {}
                Step::Release(r) => {
                    model.release(&r.to_string()).unwrap();
                    storage.release(&r.to_string()).unwrap();
                }
                Step::Sync => storage.sync().unwrap(),
                Step::Compact => storage.compact().unwrap(),
                Step::Reopen => {
                    drop(storage);
                    storage = FileKeyStorage::open(folder.path()).unwrap();
                }
                Step::Other => {
                    storage.sync().unwrap();
                    FileKeyStorage::open(folder.path()).unwrap().compact().unwrap();
                    storage.refresh().unwrap();
                }
            }
            prop_assert_eq!(content(&storage), content(&model));
        }
    }
}

fn filled(folder: &Path) -> Vec<String> {
    let storage = FileKeyStorage::open(folder).unwrap();
    for k in 0..8u8 {
        let result = CacheResult { id: k.to_string().into(), created_at: Timestamp(1) };
        storage.add_result(&key(k), result).unwrap();
        storage.sync().unwrap();
    }
    content(&storage)
}

#[test]
fn a_writer_killed_half_way_loses_only_what_it_had_not_synced() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let path = path_of(folder.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    let base = usize::try_from(base::Base::read(&File::open(&path).unwrap()).unwrap().end()).unwrap();
    for cut in base..=whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let storage = FileKeyStorage::open(folder.path()).unwrap();
        let mut left = 0;
        storage.walk(&mut |_| left += 1).unwrap();
        assert_eq!(left, 8 * (cut - base) / (whole.len() - base), "cut at {cut}");
        let result = CacheResult { id: "new".into(), created_at: Timestamp(2) };
        storage.add_result(&key(9), result).unwrap();
        storage.sync().unwrap();
        drop(storage);
        let storage = FileKeyStorage::open(folder.path()).unwrap();
        assert!(storage.exists(&key(9)).unwrap(), "what is appended after a torn tail counts");
    }
}

#[test]
fn a_damaged_file_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    FileKeyStorage::open(folder.path()).unwrap().compact().unwrap();
    let path = path_of(folder.path(), 2);
    let whole = std::fs::read(&path).unwrap();
    for at in [0, 20, 60, 70, 200] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let storage = FileKeyStorage::open(folder.path()).unwrap();
        storage.walk(&mut |id| panic!("{id:?} in an empty storage")).unwrap();
        assert!(path.with_extension("bad").exists());
        drop(storage);
        std::fs::remove_file(path_of(folder.path(), 3)).unwrap();
    }
    let mut newer = whole.clone();
    newer[7] = 9;
    std::fs::write(&path, newer).unwrap();
    let error = FileKeyStorage::open(folder.path()).err().expect("a newer format is refused");
    assert!(error.to_string().contains("format 9 is newer"), "{error}");
}

/// Keys enough for the thread to take part, with questions in between whose answers may still wait.
#[test]
fn what_waits_to_be_applied_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (model, storage) = (InMemoryKeyStorage::new(), FileKeyStorage::open(folder.path()).unwrap());
    let key = |number: u32| KeyId(Digest::of(&number.to_le_bytes()));
    let by = |number: u32| CacheInfoLink { digest: Digest::of(&(number % 1500).to_be_bytes()), ..by(0) };
    let same = |storage: &FileKeyStorage, source: u32, target: u32| {
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let (id, link) = (key(source), by(target));
        model.links(&id, &link, &mut old).unwrap();
        storage.links(&id, &link, &mut new).unwrap();
        assert_eq!(old, new, "from {source} by the operation of {target}");
        assert_eq!(
            model.knows_operation(&link.digest).unwrap(),
            storage.knows_operation(&link.digest).unwrap()
        );
        let links = [(id, link), (key(target), CacheInfoLink { input: 1, ..link })];
        assert_eq!(model.common_targets(&links).unwrap(), storage.common_targets(&links).unwrap());
    };
    for number in 1..3000 {
        let links =
            [(key(number / 2), by(number)), (key(number / 3), CacheInfoLink { input: 1, ..by(number) })];
        let result = CacheResult { id: number.to_string().into(), created_at: Timestamp(1) };
        for storage in [&model as &dyn CacheKeyStorage, &storage] {
            storage.add_key(&key(number), result.clone(), &links).unwrap();
        }
        same(&storage, number / 2, number + 1);
        if number % 700 == 0 {
            same(&storage, number / 2, number);
            assert!(storage.exists(&key(number)).unwrap());
        }
    }
    drop(storage);
    let storage = FileKeyStorage::open(folder.path()).unwrap();
    (1..3000).for_each(|number| same(&storage, number / 2, number));
}

#[test]
fn several_writers_share_one_file() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let folder = folder.path();
            scope.spawn(move || {
                let storage = FileKeyStorage::open(folder).unwrap();
                for i in 0..20u8 {
                    let result = CacheResult { id: format!("{writer}-{i}").into(), created_at: Timestamp(1) };
                    storage.add_result(&key(writer * 20 + i), result).unwrap();
                    if i % 7 == writer {
                        storage.compact().unwrap();
                    }
                    storage.sync().unwrap();
                }
            });
        }
    });
    let storage = FileKeyStorage::open(folder.path()).unwrap();
    let mut count = 0;
    storage.walk(&mut |_| count += 1).unwrap();
    assert_eq!(count, 80);
}
