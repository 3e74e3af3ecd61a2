//! How long it takes to import and to present a large tree.
//!
//! `cargo run --release -p quern-store --example trees -- FOLDER [FILES]` makes FILES (100,000) files of 1 KiB in
//! FOLDER, which must not exist, 1,000 per directory, and prints the median and all figures of each case in
//! milliseconds. Every import and presentation is a process of its own, as commands are, and includes opening the
//! state folder and syncing what was put.

#![expect(clippy::print_stdout, reason = "figures for people")]

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use quern_core::Digest;
use quern_core::port::{Blobs, Presented, Workspace};
use quern_store::import::{ImportOptions, Importer, Links};
use quern_store::workspace::FolderWorkspace;
use quern_store::{OpenOptions, Store};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["import", state, source] => import(Path::new(state), Path::new(source)),
        ["present", state, tree] => present(Path::new(state), tree),
        ["outputs", state] => outputs(Path::new(state)),
        [folder] => compare(Path::new(folder), 100_000),
        [folder, files] => compare(Path::new(folder), files.parse()?),
        _ => Err("usage: trees FOLDER [FILES]".into()),
    }
}

fn compare(folder: &Path, files: usize) -> Outcome<()> {
    fs::create_dir(folder)?;
    let bench = Bench { folder: folder.to_owned(), files };
    bench.generate()?;
    // Stamps younger than this are not believed.
    sleep(Duration::from_millis(500));
    bench.report("import cold", 1, |_| Ok(()))?;
    bench.report("import null", 7, |_| Ok(()))?;
    bench.report("import 1%", 3, |run| bench.touch(run))?;
    bench.report("import add1", 5, |run| bench.add(run))?;

    let mut tree = bench.import()?.1;
    let mut show = |name: &str, runs: usize, edit: &dyn Fn(usize) -> Outcome<()>| -> Outcome<()> {
        let mut figures = Vec::new();
        for run in 0..runs {
            edit(run)?;
            tree = bench.import()?.1;
            figures.push(bench.run(&["present", &bench.state(), &tree])?.0);
        }
        print(name, figures);
        Ok(())
    };
    show("present cold", 1, &|_| Ok(()))?;
    show("present null", 7, &|_| Ok(()))?;
    show("present 1%", 3, &|run| bench.touch(100 + run))?;
    show("present add1", 5, &|run| bench.add(100 + run))?;
    println!("{}", bench.run(&["outputs", &bench.state()])?.1);
    Ok(())
}

struct Bench {
    folder: PathBuf,
    files: usize,
}

impl Bench {
    fn state(&self) -> String {
        self.folder.join("state").display().to_string()
    }

    fn source(&self) -> String {
        self.folder.join("source").display().to_string()
    }

    fn path(&self, file: usize) -> PathBuf {
        self.folder.join(format!("source/{:03}/f{file:06}", file / 1000))
    }

    fn generate(&self) -> Outcome<()> {
        let body = "the quick brown fox jumps over the lazy dog\n".repeat(24);
        for file in 0..self.files {
            let path = self.path(file);
            if file % 1000 == 0 {
                fs::create_dir_all(path.parent().ok_or("a file has a directory")?)?;
            }
            let text = format!("datum {file}\n{body}");
            fs::write(path, &text[..1024])?;
        }
        Ok(())
    }

    fn touch(&self, run: usize) -> Outcome<()> {
        for file in (0..self.files).step_by(100) {
            let mut file = fs::File::options().append(true).open(self.path(file))?;
            file.write_all(format!("edit {run}\n").as_bytes())?;
        }
        Ok(())
    }

    fn add(&self, run: usize) -> Outcome<()> {
        Ok(fs::write(self.folder.join(format!("source/000/g{run}")), format!("new {run}\n"))?)
    }

    fn import(&self) -> Outcome<(f64, String)> {
        self.run(&["import", &self.state(), &self.source()])
    }

    fn report(&self, name: &str, runs: usize, edit: impl Fn(usize) -> Outcome<()>) -> Outcome<()> {
        let mut figures = Vec::new();
        for run in 0..runs {
            edit(run)?;
            figures.push(self.import()?.0);
        }
        print(name, figures);
        Ok(())
    }

    /// Milliseconds and last line of this program run with these arguments.
    fn run(&self, args: &[&str]) -> Outcome<(f64, String)> {
        let start = Instant::now();
        let output = Command::new(std::env::current_exe()?).args(args).output()?;
        let elapsed = start.elapsed().as_secs_f64() * 1000.0;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok((elapsed, String::from_utf8(output.stdout)?.trim().to_owned()))
    }
}

fn print(name: &str, mut figures: Vec<f64>) {
    let all: Vec<String> = figures.iter().map(|ms| format!("{ms:.1}")).collect();
    figures.sort_by(f64::total_cmp);
    println!("{name:<14} {:>8.1} ms   ({})", figures[figures.len() / 2], all.join(", "));
}

fn import(state: &Path, source: &Path) -> Outcome<()> {
    let store = Store::open(state, &OpenOptions::default())?;
    let importer = Importer::of(&store)?;
    let options = ImportOptions { links: Links::FollowFiles, filter: None, lane: "" };
    let import = importer.import(source, &options)?;
    store.blobs().sync()?;
    println!("{}", import.tree.digest);
    Ok(())
}

fn present(state: &Path, tree: &str) -> Outcome<()> {
    let store = Store::open(state, &OpenOptions::default())?;
    let workspace = FolderWorkspace::of(&store);
    match workspace.present(&tree.parse::<Digest>()?)? {
        Presented::Directory { path, .. } => println!("{}", path.display()),
        Presented::Inline(entries) => println!("{} entries", entries.len()),
    }
    Ok(())
}

/// Outputs of one small file each, as a map over many small files makes them.
fn outputs(state: &Path) -> Outcome<()> {
    let store = Store::open(state, &OpenOptions::default())?;
    let workspace = FolderWorkspace::of(&store);
    let runs = 10_000u32;
    let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
    for run in 0..runs {
        let start = Instant::now();
        let dir = workspace.scratch()?;
        let made = Instant::now();
        fs::write(dir.join("out"), format!("result {run} of process {}\n", std::process::id()))?;
        let written = Instant::now();
        workspace.take(&dir)?;
        ours += start.elapsed() - (written - made);
        theirs += written - made;
    }
    let start = Instant::now();
    store.blobs().sync()?;
    let micros = |all: Duration| all.as_secs_f64() * 1e6 / f64::from(runs);
    println!(
        "scratch + take of one small file: {:.1} us (writing it: {:.1} us, sync: {:.1} us)",
        micros(ours),
        micros(theirs),
        micros(start.elapsed())
    );
    Ok(())
}
