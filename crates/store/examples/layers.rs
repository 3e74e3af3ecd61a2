//! Measures layers: `layers DIR [FILES] [LAYERS]` makes a stack below DIR and prints what looking at it costs.
//!
//! Each layer holds its share of the files in directories of 100, half of which every layer has. `find` of the whole
//! stack, one `lstat` a file, is the floor.

#![expect(clippy::print_stdout, reason = "its purpose is to print figures")]

use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use quern_core::Digest;
use quern_core::port::{Cancel, Layers as _};
use quern_store::layers::{LayerPruneOptions, Times};
use quern_store::{LayerStore, OpenOptions, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("name a directory")?);
    let files: usize = args.next().map_or(Ok(100_000), |text| text.parse())?;
    let count: usize = args.next().map_or(Ok(20), |text| text.parse())?;
    let store = Store::open(&dir.join("state"), &OpenOptions::default())?;
    let layers = LayerStore::of(&store);

    let mut stack = Vec::new();
    for number in 0..count {
        stack.push(make(&layers, number, files / count)?);
    }
    let timed = |what: &str, each: usize, began: Instant| {
        let passed = began.elapsed();
        println!(
            "{what:28} {:8.1} ms {:8.2} us each",
            passed.as_secs_f64() * 1e3,
            passed.as_secs_f64() * 1e6 / each as f64
        );
    };
    let began = Instant::now();
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(layers.open(&stack)?);
    }
    timed("open the stack", 100 * count, began);
    let began = Instant::now();
    let mut seen = 0;
    for dir in &open[0].dirs {
        seen += lstat_all(dir)?;
    }
    timed("floor: lstat everything", seen, began);
    let view = layers.view(&stack)?;
    let root = view.root()?;
    let began = Instant::now();
    let nodes: Vec<_> = view.walk(&root).collect::<Result<_, _>>()?;
    timed("walk the view", nodes.len(), began);
    let began = Instant::now();
    for node in &nodes {
        view.find(&node.path)?.ok_or("what was listed is there")?;
    }
    timed("find everything", nodes.len(), began);
    let began = Instant::now();
    for node in &nodes {
        if view.find(&node.path.with_extension("absent"))?.is_some() {
            return Err("what is absent is there".into());
        }
    }
    timed("find what is absent", nodes.len(), began);
    let began = Instant::now();
    let mut entries = 0;
    for id in &stack {
        for change in layers.changes(id, Times::Keep) {
            change?;
            entries += 1;
        }
    }
    timed("entries of all layers", entries, began);
    let began = Instant::now();
    layers.flatten(&stack, &Cancel::default())?;
    timed("one layer of all", nodes.len(), began);
    let began = Instant::now();
    let usage = layers.usage()?;
    timed("sizes, first time", usage.count as usize, began);
    let began = Instant::now();
    layers.usage()?;
    timed("sizes, again", usage.count as usize, began);
    drop(open);
    drop(view);
    let began = Instant::now();
    let pruned = layers.prune(&|_| false, &LayerPruneOptions::default())?;
    timed("prune", pruned.count as usize, began);
    Ok(())
}

fn make(layers: &LayerStore, number: usize, files: usize) -> Result<Digest, Box<dyn Error>> {
    let draft = layers.begin()?;
    for file in 0..files {
        let group = file / 100;
        let place = if group.is_multiple_of(2) {
            format!("usr/all/{group}")
        } else {
            format!("usr/own{number}/{group}")
        };
        let place = draft.dir.join(place);
        if file.is_multiple_of(100) {
            fs::create_dir_all(&place)?;
        }
        fs::write(place.join(format!("file-{number}-{file}")), "content")?;
    }
    Ok(layers.commit(draft)?)
}

fn lstat_all(dir: &Path) -> std::io::Result<usize> {
    let mut seen = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        seen += 1;
        if entry.metadata()?.is_dir() {
            seen += lstat_all(&entry.path())?;
        } else {
            std::hint::black_box(entry.metadata()?.ino());
        }
    }
    Ok(seen)
}
