//! [`Meta`] in memory, and the obligations of the port as a suite.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, RwLock};
use std::thread::ThreadId;

use quern_core::port::{Meta, MetaRead, MetaWrite, PortError, Scan, Table, read, write};

type Rows = BTreeMap<String, String>;

/// The tables at one instant; cheap to clone, tables are shared until written to.
#[derive(Debug, Clone, Default)]
struct Instant(BTreeMap<Table, Arc<Rows>>);

/// Records in memory. Clones share their content.
#[derive(Debug, Clone, Default)]
pub struct MemMeta(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    committed: RwLock<Instant>,
    writer: Mutex<()>,
    /// Whose closure is running: a write inside it would wait for itself.
    running: Mutex<Option<ThreadId>>,
}

impl Meta for MemMeta {
    fn read(&self, f: &mut dyn FnMut(&dyn MetaRead) -> Result<(), PortError>) -> Result<(), PortError> {
        let instant = self.0.committed.read().expect("no holder of this lock panics").clone();
        f(&instant)
    }

    fn write(&self, f: &mut dyn FnMut(&mut dyn MetaWrite) -> Result<(), PortError>) -> Result<(), PortError> {
        let here = std::thread::current().id();
        if *self.0.running.lock().expect("no holder of this lock panics") == Some(here) {
            return Err(PortError::Other("a write inside a write".into()));
        }
        // A closure that panicked has changed nothing, so a poisoned lock is as good as any.
        let _serial = self.0.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut instant = self.0.committed.read().expect("no holder of this lock panics").clone();
        let _running = Running::start(&self.0.running, here);
        f(&mut instant)?;
        *self.0.committed.write().expect("no holder of this lock panics") = instant;
        Ok(())
    }

    fn sync(&self) -> Result<(), PortError> {
        Ok(())
    }
}

/// Says whose closure is running, until it ends, also by a panic.
struct Running<'a>(&'a Mutex<Option<ThreadId>>);

impl<'a> Running<'a> {
    fn start(slot: &'a Mutex<Option<ThreadId>>, thread: ThreadId) -> Self {
        *slot.lock().expect("no holder of this lock panics") = Some(thread);
        Self(slot)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.0.lock().expect("no holder of this lock panics") = None;
    }
}

impl MetaRead for Instant {
    fn get(&self, table: Table, key: &str) -> Result<Option<String>, PortError> {
        check_name(table)?;
        Ok(self.0.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, scan: &Scan) -> Result<Vec<(String, String)>, PortError> {
        check_name(table)?;
        let Some(rows) = self.0.get(&table) else { return Ok(Vec::new()) };
        let from = Bound::Included(scan.prefix.as_str());
        let mut found: Vec<_> = rows
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&scan.prefix))
            .filter(|(key, _)| match &scan.after {
                None => true,
                Some(after) if scan.reverse => *key < after,
                Some(after) => *key > after,
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if scan.reverse {
            found.reverse();
        }
        found.truncate(scan.limit.unwrap_or(usize::MAX));
        Ok(found)
    }
}

impl MetaWrite for Instant {
    fn put(&mut self, table: Table, key: &str, value: &str) -> Result<(), PortError> {
        check_name(table)?;
        Arc::make_mut(self.0.entry(table).or_default()).insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &str) -> Result<(), PortError> {
        check_name(table)?;
        Arc::make_mut(self.0.entry(table).or_default()).remove(key);
        Ok(())
    }

    fn as_read(&self) -> &dyn MetaRead {
        self
    }
}

fn check_name(table: Table) -> Result<(), PortError> {
    let valid = !table.0.is_empty() && table.0.bytes().all(|c| matches!(c, b'a'..=b'z' | b'_'));
    if valid {
        Ok(())
    } else {
        Err(PortError::Other(format!("`{}` is not a table name; use a-z and _", table.0)))
    }
}

const A: Table = Table("suite_a");
const B: Table = Table("suite_b");

/// Runs every obligation of [`Meta`]; `fresh` gives an empty database each time.
///
/// # Panics
/// If an obligation is broken.
pub fn meta_suite(fresh: &dyn Fn() -> Box<dyn Meta>) {
    values_are_set_replaced_and_deleted(&*fresh());
    scans_follow_prefix_after_order_and_limit(&*fresh());
    reads_inside_a_write_see_it(&*fresh());
    an_error_rolls_everything_back(&*fresh());
    a_read_sees_one_instant(&*fresh());
    a_panic_leaves_the_database_usable(&*fresh());
    bad_table_names_are_refused(&*fresh());
    a_write_inside_a_write_is_refused(&*fresh());
    many_threads_lose_no_write(&*fresh());
}

fn put(meta: &dyn Meta, table: Table, key: &str, value: &str) {
    meta.write(&mut |w| w.put(table, key, value)).expect("is written");
}

fn get(meta: &dyn Meta, table: Table, key: &str) -> Option<String> {
    read(meta, |r| r.get(table, key)).expect("is read")
}

fn values_are_set_replaced_and_deleted(meta: &dyn Meta) {
    assert_eq!(get(meta, A, "k"), None, "a table nobody wrote to is empty");
    for value in ["1", "", "ü\0'\"; DROP TABLE suite_a", &"long ".repeat(100_000)] {
        put(meta, A, "k", value);
        assert_eq!(get(meta, A, "k").as_deref(), Some(value));
    }
    assert_eq!(get(meta, B, "k"), None, "tables are apart");
    meta.write(&mut |w| w.delete(A, "k").and_then(|()| w.delete(A, "absent"))).expect("is deleted");
    meta.write(&mut |w| w.delete(Table("suite_new"), "absent")).expect("absent tables are empty");
    assert_eq!(get(meta, A, "k"), None);
}

fn scans_follow_prefix_after_order_and_limit(meta: &dyn Meta) {
    let keys = [
        "",
        "a",
        "a/",
        "a/1",
        "a/10",
        "a/2",
        "a/\u{10FFFF}",
        "a/\u{10FFFF}z",
        "a0",
        "b\0c",
        "é",
        "\u{10FFFF}",
    ];
    meta.write(&mut |w| keys.iter().rev().try_for_each(|key| w.put(A, key, &format!("v{key}"))))
        .expect("is written");
    let check = |scan: Scan, expected: &[&str]| {
        let found = read(meta, |r| r.scan(A, &scan)).expect("is read");
        let expected: Vec<_> = expected.iter().map(|key| ((*key).to_owned(), format!("v{key}"))).collect();
        assert_eq!(found, expected, "{scan:?}");
    };
    let scan = |prefix: &str, after: Option<&str>, reverse, limit| Scan {
        prefix: prefix.into(),
        after: after.map(Into::into),
        reverse,
        limit,
    };
    let below_a = ["a/", "a/1", "a/10", "a/2", "a/\u{10FFFF}", "a/\u{10FFFF}z"];
    let reversed = |keys: &[&'static str]| keys.iter().rev().copied().collect::<Vec<_>>();
    check(Scan::default(), &keys);
    check(scan("", None, true, None), &reversed(&keys));
    check(Scan::prefix("a/"), &below_a);
    check(scan("a/", None, true, None), &reversed(&below_a));
    check(scan("a/", None, false, Some(2)), &["a/", "a/1"]);
    check(scan("a/", None, true, Some(1)), &["a/\u{10FFFF}z"]);
    check(scan("a/", Some("a/1"), false, Some(2)), &["a/10", "a/2"]);
    check(scan("a/", Some("a/15"), false, None), &below_a[3..]);
    check(scan("a/", Some("a/2"), true, None), &["a/10", "a/1", "a/"]);
    check(scan("a/", Some("0"), false, None), &below_a);
    check(scan("a/", Some("zzz"), false, None), &[]);
    check(scan("a/", Some("zzz"), true, Some(1)), &["a/\u{10FFFF}z"]);
    check(scan("a/", Some("a"), true, None), &[]);
    check(Scan::prefix("\u{10FFFF}"), &["\u{10FFFF}"]);
    check(Scan::prefix("c"), &[]);
    check(scan("", None, false, Some(0)), &[]);
    assert_eq!(read(meta, |r| r.scan(B, &Scan::default())).expect("is read"), []);
}

fn reads_inside_a_write_see_it(meta: &dyn Meta) {
    put(meta, A, "old", "1");
    meta.write(&mut |w| {
        w.put(A, "new", "2")?;
        w.delete(A, "old")?;
        w.put(B, "other", "3")?;
        assert_eq!(w.get(A, "new")?.as_deref(), Some("2"));
        assert_eq!(w.as_read().get(A, "old")?, None);
        assert_eq!(w.scan(B, &Scan::default())?, [("other".to_owned(), "3".to_owned())]);
        assert_eq!(get(meta, A, "old").as_deref(), Some("1"), "others see it only when it is done");
        assert_eq!(get(meta, A, "new"), None);
        Ok(())
    })
    .expect("is written");
    assert_eq!((get(meta, A, "old"), get(meta, A, "new")), (None, Some("2".into())));
}

fn an_error_rolls_everything_back(meta: &dyn Meta) {
    put(meta, A, "k", "1");
    let result: Result<(), PortError> = write(meta, |w| {
        w.put(A, "k", "2")?;
        w.put(B, "k", "2")?;
        Err(PortError::Other("the caller's own words".into()))
    });
    assert_eq!(result.expect_err("fails").to_string(), "the caller's own words");
    assert_eq!((get(meta, A, "k"), get(meta, B, "k")), (Some("1".into()), None));
    let failed: Result<(), PortError> = read(meta, |_| Err(PortError::Other("of a read".into())));
    assert_eq!(failed.expect_err("fails").to_string(), "of a read");
    put(meta, B, "k", "3");
    assert_eq!(get(meta, B, "k").as_deref(), Some("3"), "the next write works");
}

fn a_read_sees_one_instant(meta: &dyn Meta) {
    put(meta, A, "k", "old");
    meta.read(&mut |r| {
        assert_eq!(r.get(A, "k")?.as_deref(), Some("old"));
        std::thread::scope(|scope| {
            scope.spawn(|| meta.write(&mut |w| w.put(A, "k", "new").and_then(|()| w.put(B, "k", "new"))));
        });
        assert_eq!(get(meta, A, "k").as_deref(), Some("new"), "another read sees the write");
        assert_eq!(r.get(A, "k")?.as_deref(), Some("old"));
        assert_eq!(r.get(B, "k")?, None, "not even in a table that did not exist");
        Ok(())
    })
    .expect("is read");
}

fn a_panic_leaves_the_database_usable(meta: &dyn Meta) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        meta.write(&mut |w| {
            w.put(A, "k", "half")?;
            std::panic::resume_unwind(Box::new("on purpose"))
        })
    }));
    assert!(result.is_err(), "the panic reaches the caller");
    assert_eq!(get(meta, A, "k"), None);
    put(meta, A, "k", "whole");
    assert_eq!(get(meta, A, "k").as_deref(), Some("whole"));
}

fn a_write_inside_a_write_is_refused(meta: &dyn Meta) {
    meta.write(&mut |w| {
        w.put(A, "outer", "1")?;
        assert!(meta.write(&mut |w| w.put(A, "inner", "1")).is_err(), "it would wait for itself");
        Ok(())
    })
    .expect("is written");
    assert_eq!((get(meta, A, "outer"), get(meta, A, "inner")), (Some("1".into()), None));
}

fn bad_table_names_are_refused(meta: &dyn Meta) {
    for name in ["", "a b", "x\"; --", "Upper", "a1"] {
        assert!(meta.write(&mut |w| w.put(Table(name), "k", "v")).is_err(), "{name:?}");
        assert!(meta.read(&mut |r| r.get(Table(name), "k").map(drop)).is_err(), "{name:?}");
    }
    for name in ["order", "select", "_"] {
        put(meta, Table(name), "k", "v");
        assert_eq!(get(meta, Table(name), "k").as_deref(), Some("v"), "{name:?}");
    }
}

fn many_threads_lose_no_write(meta: &dyn Meta) {
    const THREADS: usize = 8;
    const ROUNDS: usize = 25;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || (0..ROUNDS).for_each(|round| count_up(meta, thread, round)));
        }
    });
    let total = (THREADS * ROUNDS).to_string();
    assert_eq!(get(meta, A, "counter"), Some(total));
    let rows = read(meta, |r| r.scan(B, &Scan::default())).expect("is read");
    let values: BTreeSet<_> = rows.iter().map(|(_, value)| value).collect();
    assert_eq!((rows.len(), values.len()), (THREADS * ROUNDS, THREADS * ROUNDS), "each count was given once");
}

/// One read-modify-write; every fifth round a failing one goes before it.
fn count_up(meta: &dyn Meta, thread: usize, round: usize) {
    if round.is_multiple_of(5) {
        let failed = meta.write(&mut |w| {
            w.put(A, "counter", "nonsense")?;
            Err(PortError::Other("given up".into()))
        });
        assert!(failed.is_err());
    }
    let counted: Result<usize, PortError> = write(meta, |w| {
        let count = w.get(A, "counter")?.map_or(0, |text| text.parse().expect("a number")) + 1;
        w.put(A, "counter", &count.to_string())?;
        w.put(B, &format!("{thread}/{round}"), &count.to_string())?;
        Ok(count)
    });
    let counted = counted.expect("is written");
    let seen = get(meta, B, &format!("{thread}/{round}"));
    assert_eq!(seen, Some(counted.to_string()), "a write that returned is seen");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fake_passes_the_suite() {
        meta_suite(&|| Box::new(MemMeta::default()));
    }
}
