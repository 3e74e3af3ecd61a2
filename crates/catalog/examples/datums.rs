//! How long it takes to find datums, to compare them with known ones and to merge their outputs.
//!
//! `cargo run --release -p quern-catalog --example datums -- [DATUMS]` makes an input of DATUMS (100,000) files, 1,000 per
//! directory, in memory, and an output of one file for each, and prints the median and all figures of each case in
//! milliseconds. Reading trees from memory is included; a store on disk comes on top.

#![expect(clippy::print_stdout, reason = "figures for people")]

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use quern_catalog::tree::place;
use quern_catalog::{
    DatumError, DatumInput, DatumSet, MergePolicy, OutputChange, PathPattern, PfsInput, difference,
    enumerate, merge, remerge,
};
use quern_core::port::Blobs;
use quern_core::{ContentRef, Digest, Entry, Tree, TreePath};
use quern_testkit::MemBlobs;

type Outcome<T> = Result<T, Box<dyn Error>>;

const RUNS: usize = 9;

/// The pattern `/*/*`.
struct TwoDeep;

impl PathPattern for TwoDeep {
    fn matches(&self, path: &str) -> bool {
        path.bytes().filter(|c| *c == b'/').count() == 2
    }
    fn may_descend(&self, dir: &str) -> bool {
        dir.bytes().filter(|c| *c == b'/').count() < 2
    }
    fn literal(&self) -> Option<&str> {
        None
    }
}

fn main() -> Outcome<()> {
    let datums: usize = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let blobs = MemBlobs::default();
    let tree = input(&blobs, datums)?;
    let pfs = DatumInput::Pfs(PfsInput { name: "in".into(), tree: Some(tree), pattern: &TwoDeep });
    report("find datums", || enumerate(&blobs, &pfs))?;
    let found = enumerate(&blobs, &pfs)?;
    report("keys, sorted", || Ok::<_, DatumError>(found.planned()))?;
    let planned = found.planned();

    let mut outputs =
        planned.iter().map(|d| Ok((d.key, output(&blobs, d.index, "old")?))).collect::<Outcome<Vec<_>>>()?;
    let known = DatumSet::new(outputs.clone());
    let none = DatumSet::default();
    report("read known datums", || DatumSet::decode(known.encoded().to_vec()))?;
    report("compare", || Ok::<_, DatumError>(difference(&planned, &known, &none)))?;
    report("merge all outputs", || merge(&blobs, &outputs, MergePolicy::Concat))?;

    let before = merge(&blobs, &outputs, MergePolicy::Concat)?;
    let gone: Vec<_> = outputs.iter().copied().step_by(100).collect();
    let indexes = planned.iter().step_by(100).map(|d| d.index);
    let added = gone
        .iter()
        .zip(indexes)
        .map(|(old, i)| Ok((old.0, output(&blobs, i, "new")?)))
        .collect::<Outcome<Vec<_>>>()?;
    outputs.clear();
    for (name, count) in [("merge 1 % changed", gone.len()), ("merge one changed", 1)] {
        let change = OutputChange { gone: &gone[..count], added: &added[..count] };
        let all = || unreachable!("no path is shared");
        report(name, || remerge(&blobs, &before, &change, MergePolicy::Concat, all))?;
    }
    Ok(())
}

fn input(blobs: &MemBlobs, files: usize) -> Outcome<ContentRef> {
    let mut dirs = Vec::new();
    for dir in 0..files.div_ceil(1000) {
        let entries = (dir * 1000..files.min(dir * 1000 + 1000))
            .map(|i| (format!("file{i:06}.txt"), file(&format!("{i}"))));
        dirs.push((format!("dir{dir:04}"), Entry::Dir(blobs.put(&Tree::new(entries.collect())?.encode())?)));
    }
    Ok(blobs.put(&Tree::new(dirs)?.encode())?)
}

fn file(text: &str) -> Entry {
    let content = ContentRef { digest: Digest::of(text.as_bytes()), size: text.len() as u64 };
    Entry::File { content, executable: false }
}

fn output(blobs: &MemBlobs, index: u64, text: &str) -> Outcome<ContentRef> {
    let path = TreePath::parse(&format!("dir{:04}/file{index:06}.txt", index / 1000))?;
    Ok(place(blobs, &path, &file(&format!("{text} {index}")))?)
}

fn report<T, E: Into<Box<dyn Error>>>(name: &str, mut case: impl FnMut() -> Result<T, E>) -> Outcome<()> {
    let mut millis = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        black_box(case().map_err(Into::into)?);
        millis.push(start.elapsed().as_secs_f64() * 1e3);
    }
    millis.sort_by(f64::total_cmp);
    let all = millis.iter().map(|m| format!("{m:.1}")).collect::<Vec<_>>().join(" ");
    println!("{name:20} {:8.1} ms   ({all})", millis[RUNS / 2]);
    Ok(())
}
