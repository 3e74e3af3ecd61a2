//! Figures of the store: `cargo run --release -p quern-store --example blobs_and_records -- [DIR] [COUNT] [LOOSE_FROM]`.
//!
//! Opens a fresh state folder below DIR (default: the temporary directory), keeps COUNT (default 100,000) blobs of
//! 1 KiB, reads them back, keeps them again, commits records one by one and from many threads, and opens the folder anew.
#![expect(clippy::print_stdout, reason = "an example that reports figures")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use quern_core::Digest;
use quern_core::port::{Blobs, Meta, Table, read};
use quern_store::{OpenOptions, Store};

type Outcome = Result<(), Box<dyn Error>>;
/// What a short process does, with its name.
type Errand<'a> = (&'a str, &'a dyn Fn(&Store) -> Outcome);

const TABLE: Table = Table("figures");

fn main() -> Outcome {
    let mut args = std::env::args().skip(1);
    let parent = args.next().map_or_else(std::env::temp_dir, Into::into);
    let count: usize = args.next().map_or(Ok(100_000), |text| text.parse())?;
    let dir = tempfile::Builder::new().prefix("quern-figures-").tempdir_in(parent)?;
    let root = dir.path().join("state");
    let mut options = OpenOptions::default();
    if let Some(text) = args.next() {
        options.loose_from = text.parse()?;
    }
    let store = timed("open a new folder", 1, || Store::open(&root, &options))?;
    blobs(&store, count)?;
    records(&store)?;
    drop(store);
    opening(&root)
}

fn blobs(store: &Store, count: usize) -> Outcome {
    let blobs = store.blobs();
    let mut digests = Vec::with_capacity(count);
    timed("hash only, 1 KiB", count, || (0..count).for_each(|i| digests.push(Digest::of(&content(i)))));
    timed("put 1 KiB, one sync at the end", count, || -> Outcome {
        (0..count).try_for_each(|i| blobs.put(&content(i)).map(drop))?;
        Ok(blobs.sync()?)
    })?;
    timed("put again (known or indexed)", count, || {
        (0..count).try_for_each(|i| blobs.put(&content(i)).map(drop))
    })?;
    let fresh = Store::open(store.layout().root(), &OpenOptions::default())?;
    timed("get, places unknown", count, || {
        digests.iter().try_for_each(|digest| fresh.blobs().get(digest).map(drop))
    })?;
    timed("contains, places unknown", count, || {
        (0..count).try_for_each(|i| fresh.blobs().contains(&Digest::of(&i.to_le_bytes())).map(drop))
    })?;
    timed("get", count, || digests.iter().try_for_each(|digest| blobs.get(digest).map(drop)))?;
    timed("put 1 KiB on two threads", count, || -> Outcome {
        std::thread::scope(|scope| {
            let half = |from: usize| {
                move || (from..from + count / 2).try_for_each(|i| blobs.put(&content(i)).map(drop))
            };
            let other = scope.spawn(half(count));
            half(2 * count)()?;
            other.join().expect("does not panic")
        })?;
        Ok(blobs.sync()?)
    })?;
    timed("put 1 KiB and sync, each", 1000, || {
        (0..1000).try_for_each(|i| blobs.put(&content(10 * count + i)).and_then(|_| blobs.sync()))
    })?;
    for size in [32 << 10, 128 << 10, 255 << 10, 256 << 10, 1 << 20] {
        let many = (64 << 20) / size;
        timed(&format!("put {} KiB", size >> 10), many, || -> Outcome {
            (0..many)
                .try_for_each(|i| blobs.put(&vec![i as u8 ^ (size >> 8) as u8; size + i / 256]).map(drop))?;
            Ok(blobs.sync()?)
        })?;
    }
    Ok(())
}

fn records(store: &Store) -> Outcome {
    let meta = store.meta();
    let value = "{\"state\":\"done\"}".repeat(20);
    let put = |key: String| meta.write(&mut |w| w.put(TABLE, &key, &value));
    timed("commit one record", 500, || (0..500).try_for_each(|i| put(format!("one/{i}"))))?;
    timed("commit one record, 16 threads", 4000, || {
        std::thread::scope(|scope| {
            for thread in 0..16 {
                scope.spawn(move || (0..250).try_for_each(|i| put(format!("{thread}/{i}"))));
            }
        });
    });
    timed("put a record, one commit", 100_000, || {
        meta.write(&mut |w| (0..100_000).try_for_each(|i| w.put(TABLE, &format!("many/{i:06}"), &value)))
    })?;
    timed("get a record, one read", 100_000, || {
        meta.read(&mut |r| (0..100_000).try_for_each(|i| r.get(TABLE, &format!("many/{i:06}")).map(drop)))
    })?;
    timed("get a record, a read each", 20_000, || {
        (0..20_000).try_for_each(|i| meta.read(&mut |r| r.get(TABLE, &format!("many/{i:06}")).map(drop)))
    })?;
    Ok(())
}

fn opening(root: &Path) -> Outcome {
    let get = |store: &Store| read(&**store.meta(), |r| r.get(TABLE, "many/000001"));
    let parts: [Errand<'_>; 5] = [
        ("open and close", &|_| Ok(())),
        ("the same with one record", &|store| Ok(get(store).map(drop)?)),
        ("the same with one record, one blob", &|store| {
            get(store)?;
            Ok(store.blobs().get(&Digest::of(&content(1))).map(drop)?)
        }),
        ("the same with one commit", &|store| Ok(store.meta().write(&mut |w| w.put(TABLE, "one", "{}"))?)),
        ("the same with a new blob, one commit", &|store| {
            store.blobs().put(store.lease().id().as_bytes())?;
            store.blobs().sync()?;
            Ok(store.meta().write(&mut |w| w.put(TABLE, "one", "{}"))?)
        }),
    ];
    for (what, part) in parts {
        let mut times = Vec::new();
        for _ in 0..15 {
            let start = Instant::now();
            let store = Store::open(root, &OpenOptions::default())?;
            part(&store)?;
            drop(store);
            times.push(start.elapsed());
        }
        times.sort();
        println!("{what:40} {:>10.0?} median, {:.0?} to {:.0?}", times[7], times[0], times[14]);
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("no VmHWM"));
    Ok(())
}

fn content(i: usize) -> [u8; 1024] {
    let mut bytes = [b'.'; 1024];
    bytes[..8].copy_from_slice(&i.to_le_bytes());
    bytes
}

fn timed<T>(what: &str, count: usize, f: impl FnOnce() -> T) -> T {
    let (start, cpu) = (Instant::now(), processor_time());
    let value = f();
    let (whole, cpu) = (start.elapsed(), processor_time().saturating_sub(cpu));
    let each = |time: Duration| time / u32::try_from(count).expect("a count of repetitions is small");
    println!("{what:40} {:>10.2?} each, processor {:>10.2?}, {whole:.2?} in all", each(whole), each(cpu));
    value
}

/// Of all threads, user and system: less shaken by neighbours than the clock on the wall.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}
