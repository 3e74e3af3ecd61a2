//! What every storage must do, as functions that panic where it does not.
//!
//! Behind the feature `testing`: whoever writes a [`CacheKeyStorage`] runs [`key_storage`] on it.

use std::collections::BTreeSet;
use std::sync::Arc;

use quern_core::Digest;

use crate::cache::{CacheInfoLink, CacheKeyStorage, CacheResult, Timestamp};
use crate::error::CacheError;
use crate::key::KeyId;
use crate::op::KeyScope;

fn id(name: &str) -> KeyId {
    KeyId(Digest::of(name.as_bytes()))
}

fn result(name: &str, at: u64) -> CacheResult {
    CacheResult { id: name.into(), created_at: Timestamp(at) }
}

fn link(input: u32, output: i64, digest: &str, selector: Option<&str>) -> CacheInfoLink {
    let of = |text: &str| Digest::of(text.as_bytes());
    CacheInfoLink { input, output, digest: of(digest), selector: selector.map(of) }
}

fn results(storage: &dyn CacheKeyStorage, key: &str) -> Vec<CacheResult> {
    let mut found = Vec::new();
    storage.walk_results(&id(key), &mut |r| found.push(r)).expect("walking results succeeds");
    found
}

fn targets(storage: &dyn CacheKeyStorage, key: &str, by: &CacheInfoLink) -> BTreeSet<KeyId> {
    let mut found = BTreeSet::new();
    storage
        .walk_links(&id(key), by, &mut |target| {
            found.insert(target);
        })
        .expect("walking links succeeds");
    let by_number = targets_by_number(storage, key, by);
    assert!(by_number.is_none_or(|by_number| by_number == found), "numbers and ids agree");
    found
}

/// What [`CacheKeyStorage::numbered`] says of the same question; none if the storage has no numbers.
fn targets_by_number(
    storage: &dyn CacheKeyStorage,
    key: &str,
    by: &CacheInfoLink,
) -> Option<BTreeSet<KeyId>> {
    let mut found = BTreeSet::new();
    let numbered = storage.numbered(&mut |keys| {
        let mut numbers = Vec::new();
        if let Some(source) = keys.number(&id(key)) {
            assert_eq!(keys.id(source), id(key));
            keys.targets(source, by, &mut numbers);
        }
        found.extend(numbers.iter().map(|number| keys.id(*number)));
    });
    numbered.then_some(found)
}

fn all(storage: &dyn CacheKeyStorage) -> BTreeSet<KeyId> {
    let mut found = BTreeSet::new();
    storage
        .walk(&mut |id| {
            found.insert(id);
        })
        .expect("walking succeeds");
    found
}

fn holders(storage: &dyn CacheKeyStorage, result: &str) -> BTreeSet<KeyId> {
    let mut found = BTreeSet::new();
    storage
        .walk_ids_by_result(result, &mut |id| {
            found.insert(id);
        })
        .expect("walking succeeds");
    found
}

fn ids<const N: usize>(names: [&str; N]) -> BTreeSet<KeyId> {
    names.map(id).into()
}

fn add_result(storage: &dyn CacheKeyStorage, key: &str, value: CacheResult) {
    storage.add_result(&id(key), value).expect("adding a result succeeds");
}

fn add_link(storage: &dyn CacheKeyStorage, key: &str, by: &CacheInfoLink, target: &str) {
    storage.add_link(&id(key), by, &id(target)).expect("adding a link succeeds");
}

/// Runs the whole suite, each part on a storage that `empty` makes anew.
pub fn key_storage(mut empty: impl FnMut() -> Arc<dyn CacheKeyStorage>) {
    for part in [
        results_are_kept,
        links_are_matched_exactly,
        release_of_a_single_level,
        backlinks_are_folded,
        release_of_several_levels,
        ids_are_found_by_result,
        visitors_may_change_the_storage,
    ] {
        part(&*empty());
    }
}

/// 64: results of keys, by key and by id.
fn results_are_kept(storage: &dyn CacheKeyStorage) {
    assert!(!storage.exists(&id("foo")).expect("asking succeeds"), "an empty storage knows nothing");
    add_result(storage, "foo", result("foo0", 1));
    add_result(storage, "bar", result("bar0", 2));
    add_result(storage, "foo", result("foo1", 3));
    assert_eq!(results(storage, "foo"), [result("foo0", 1), result("foo1", 3)]);
    assert_eq!(results(storage, "bar"), [result("bar0", 2)]);
    assert!(results(storage, "baz").is_empty());
    assert_eq!(storage.load(&id("foo"), "foo1").expect("it is there"), result("foo1", 3));
    for (key, value) in [("foo", "bar0"), ("foo", "none"), ("baz", "foo0")] {
        assert!(matches!(storage.load(&id(key), value), Err(CacheError::NotFound)), "{key} {value}");
    }
    add_result(storage, "foo", result("foo1", 9));
    assert_eq!(storage.load(&id("foo"), "foo1").expect("it is there").created_at, Timestamp(9));
    assert_eq!(results(storage, "foo").len(), 2, "a result of the same id replaces the earlier");
}

/// 65: links match on all four fields and may have several targets.
fn links_are_matched_exactly(storage: &dyn CacheKeyStorage) {
    let exact = link(0, 0, "op", None);
    add_link(storage, "foo", &exact, "target");
    add_link(storage, "foo", &exact, "target");
    assert_eq!(targets(storage, "foo", &exact), ids(["target"]));
    let others =
        [link(1, 0, "op", None), link(0, 1, "op", None), link(0, 0, "po", None), link(0, 0, "op", Some(""))];
    for other in others {
        assert!(targets(storage, "foo", &other).is_empty(), "{other:?}");
        assert!(!storage.has_link(&id("foo"), &other, &id("target")).expect("asking succeeds"));
    }
    add_link(storage, "foo", &exact, "second");
    add_link(storage, "foo", &link(0, 0, "op", Some("part")), "third");
    assert_eq!(targets(storage, "foo", &exact), ids(["target", "second"]));
    assert!(storage.has_link(&id("foo"), &exact, &id("second")).expect("asking succeeds"));
    assert!(targets(storage, "bar", &exact).is_empty());
}

/// 66: nothing stays after the last result.
fn release_of_a_single_level(storage: &dyn CacheKeyStorage) {
    add_result(storage, "foo", result("foo0", 1));
    add_result(storage, "foo", result("foo1", 2));
    storage.release("foo0").expect("releasing succeeds");
    assert_eq!(results(storage, "foo"), [result("foo1", 2)]);
    storage.release("unknown").expect("an unknown result is no error");
    storage.release("foo1").expect("releasing succeeds");
    assert!(all(storage).is_empty() && !storage.exists(&id("foo")).expect("asking succeeds"));
}

/// 67: what leads to a key, in the form exports need.
fn backlinks_are_folded(storage: &dyn CacheKeyStorage) {
    let by = link(0, 1, "to-sub0", Some("part"));
    add_result(storage, "foo", result("foo0", 1));
    add_result(storage, "sub0", result("sub0", 2));
    add_link(storage, "foo", &by, "sub0");
    let mut found = Vec::new();
    storage
        .walk_backlinks(&id("sub0"), &mut |source, link| found.push((source, link)))
        .expect("walking succeeds");
    let digest = KeyId::root(&by.digest, 1, KeyScope::Shared).0;
    assert_eq!(found, [(id("foo"), CacheInfoLink { digest, output: 0, ..by })]);
    storage.walk_backlinks(&id("foo"), &mut |_, _| panic!("nothing leads to foo")).expect("walking succeeds");
}

/// 68: a key goes once it has no result and leads nowhere, and so on upwards.
fn release_of_several_levels(storage: &dyn CacheKeyStorage) {
    let (to0, to1) = (link(0, 0, "to-sub0", None), link(0, 0, "to-sub1", None));
    add_result(storage, "foo", result("foo-result", 1));
    add_result(storage, "sub0", result("sub0-result", 2));
    add_result(storage, "sub1", result("sub1-result", 3));
    add_link(storage, "foo", &to0, "sub0");
    add_link(storage, "foo", &to1, "sub1");
    storage.release("sub0-result").expect("releasing succeeds");
    assert_eq!(all(storage), ids(["foo", "sub1"]));
    assert!(targets(storage, "foo", &to0).is_empty());
    assert_eq!(targets(storage, "foo", &to1), ids(["sub1"]));
    storage.release("foo-result").expect("releasing succeeds");
    assert_eq!(all(storage), ids(["foo", "sub1"]), "foo leads to sub1 and stays");
    storage.release("sub1-result").expect("releasing succeeds");
    assert!(all(storage).is_empty());
    add_result(storage, "sub1", result("again", 4));
    assert_eq!(all(storage), ids(["sub1"]), "a key may come back, without its links");
    assert!(targets(storage, "foo", &to1).is_empty());
}

/// 69: one result may hang on several keys.
fn ids_are_found_by_result(storage: &dyn CacheKeyStorage) {
    add_result(storage, "foo", result("shared", 1));
    add_result(storage, "foo2", result("shared", 1));
    add_result(storage, "bar", result("other", 2));
    assert_eq!(holders(storage, "shared"), ids(["foo", "foo2"]));
    assert!(holders(storage, "none").is_empty());
    storage.release("shared").expect("releasing succeeds");
    assert!(holders(storage, "shared").is_empty());
    assert_eq!(all(storage), ids(["bar"]));
}

/// Visitors are called without a lock held.
fn visitors_may_change_the_storage(storage: &dyn CacheKeyStorage) {
    let by = link(0, 0, "op", None);
    add_result(storage, "foo", result("foo0", 1));
    add_link(storage, "foo", &by, "bar");
    storage.walk(&mut |_| add_result(storage, "new", result("new0", 2))).expect("walking succeeds");
    storage
        .walk_results(&id("foo"), &mut |_| add_result(storage, "foo", result("foo1", 3)))
        .expect("it succeeds");
    storage.walk_links(&id("foo"), &by, &mut |_| add_link(storage, "foo", &by, "baz")).expect("it succeeds");
    storage
        .walk_backlinks(&id("bar"), &mut |_, _| add_link(storage, "bar", &by, "foo"))
        .expect("it succeeds");
    assert_eq!(results(storage, "foo").len(), 2);
    assert_eq!(targets(storage, "foo", &by), ids(["bar", "baz"]));
}
