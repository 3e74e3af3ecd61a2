//! How long it takes to look at a build context, to hash it, and to copy it into a layer.
//!
//! `cargo run --release -p quern-store --example context -- FOLDER [FILES] [KIB]` makes FILES (5,000) files of KIB (20) KiB on average in
//! FOLDER, which must not exist, 20 per directory, and prints the median and all figures of each case in
//! milliseconds, wall clock and processor. Every look is a process of its own, as commands are. `survey` is the walk alone,
//! `digest` what selecting and hashing takes after it, `copy` what a `COPY . /` takes after both.

#![expect(clippy::print_stdout, reason = "figures for people")]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use quern_core::port::DraftLayer;
use quern_store::files::{
    Context, CopyTo, Draft, FileSource, Marks, Nothing, PlainTree, Selection, Survey, content_digest,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["look", folder] => look(Path::new(folder), false),
        ["copy", folder] => look(Path::new(folder), true),
        ["link", folder] => link(Path::new(folder)),
        [folder] => compare(Path::new(folder), 5_000, 20),
        [folder, files] => compare(Path::new(folder), files.parse()?, 20),
        [folder, files, kib] => compare(Path::new(folder), files.parse()?, kib.parse()?),
        _ => Err("usage: context FOLDER [FILES] [KIB]".into()),
    }
}

fn compare(folder: &Path, files: usize, kib: usize) -> Outcome<()> {
    fs::create_dir(folder)?;
    let name =
        |number: usize| folder.join(format!("context/{:03}/{:02}/{number}", number / 400, number / 20 % 20));
    let mut noise: u64 = 1;
    for number in 0..files {
        let path = name(number);
        fs::create_dir_all(path.parent().ok_or("a file is in a directory")?)?;
        let len = (number * 7919 % 2000 + 1) * kib * 1024 / 1000;
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&noise.to_le_bytes());
        }
        fs::write(path, &bytes[..len])?;
    }
    // Stamps younger than this are not believed.
    sleep(Duration::from_millis(500));
    let touch = |every: usize, run: usize| -> Outcome<()> {
        for number in (run % every..files).step_by(every) {
            let file = fs::File::options().append(true).open(name(number))?;
            file.set_modified(std::time::SystemTime::now())?;
        }
        sleep(Duration::from_millis(300));
        Ok(())
    };
    report(folder, "cold", "look", 1, &|_| Ok(()))?;
    report(folder, "null", "look", 9, &|_| Ok(()))?;
    report(folder, "one touched", "look", 5, &|run| touch(files, run))?;
    report(folder, "1% touched", "look", 5, &|run| touch(100, run))?;
    // Deleting would make the file system slow at making files; figures would be about that.
    let aside = |run: usize| -> Outcome<()> {
        match folder.join("upper") {
            upper if upper.exists() => {
                Ok(fs::rename(upper, folder.join(format!("old-{:?}-{run}", Instant::now())))?)
            }
            _ => Ok(()),
        }
    };
    report(folder, "copy", "copy", 3, &aside)?;
    fs::rename(folder.join("upper"), folder.join("below"))?;
    report(folder, "copy --from", "link", 3, &aside)
}

/// Runs this program again and prints what it measured.
fn report(
    folder: &Path,
    name: &str,
    verb: &str,
    runs: usize,
    before: &dyn Fn(usize) -> Outcome<()>,
) -> Outcome<()> {
    let mut lines = Vec::new();
    for run in 0..runs {
        before(run)?;
        let output =
            Command::new(std::env::current_exe()?).args([verb, &folder.to_string_lossy()]).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        lines.push(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    for line in lines {
        println!("{name:12} {line}");
    }
    Ok(())
}

struct Watch(Instant, Duration);

impl Watch {
    fn start() -> Self {
        Self(Instant::now(), processor())
    }

    fn lap(&mut self, name: &str) {
        let (wall, used) = (self.0.elapsed(), processor() - self.1);
        print!("{name} {:.1} ({:.1})  ", wall.as_secs_f64() * 1e3, used.as_secs_f64() * 1e3);
        *self = Self::start();
    }
}

/// Processor time of this process.
fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn look(folder: &Path, copy: bool) -> Outcome<()> {
    let mut watch = Watch::start();
    let memory = folder.join("memory");
    let survey = Survey { memory: Some(&memory), ..Survey::default() };
    let context = Context::survey(&folder.join("context"), &survey)?;
    watch.lap("survey");
    let sources = [PathBuf::from(".")];
    let selected = Selection { sources: &sources, exclude: None, parents: false }.find(&context)?;
    watch.lap("select");
    let digest = content_digest(&context, &selected)?;
    watch.lap("digest");
    if copy {
        let mut draft = Draft::open(&layer(folder)?, &Nothing, Marks::Trusted)?;
        draft.copy(&context, &selected, &to())?;
        watch.lap("copy");
    }
    drop(context);
    watch.lap("remember");
    println!("{}", digest.short());
    Ok(())
}

fn link(folder: &Path) -> Outcome<()> {
    let below = PlainTree::open(&folder.join("below"))?;
    let mut watch = Watch::start();
    let sources = [PathBuf::from("/")];
    let selected = Selection { sources: &sources, exclude: None, parents: false }.find(&below)?;
    watch.lap("select");
    let mut draft = Draft::open(&layer(folder)?, &below as &dyn FileSource, Marks::Trusted)?;
    draft.copy(&below, &selected, &CopyTo { dest: Path::new("/app"), ..to() })?;
    watch.lap("copy");
    println!();
    Ok(())
}

fn layer(folder: &Path) -> Outcome<DraftLayer> {
    let (dir, work) = (folder.join("upper"), folder.join("work"));
    fs::create_dir_all(&dir)?;
    fs::create_dir_all(&work)?;
    Ok(DraftLayer { dir, work })
}

fn to() -> CopyTo<'static> {
    CopyTo { dest: Path::new("/"), owner: None, mode: None, dirs: 0o755, modified: None, unpack: None }
}
