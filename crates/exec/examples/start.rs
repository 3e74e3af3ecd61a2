//! Measures the start of a step: `start ROOTFS COUNT [none|host|build|map] [WORKERS] [DIR]` prints the microseconds of each start.
//!
//! `none` and `host` are the network of a step that changes nothing; `build` is a step with a root to change, and its
//! layer is kept; `map` is a datum of `benches/w3.py`: `/bin/datum map` with one file of 1 KiB as input, and what it writes stays
//! in a directory of its own below DIR.
//!
//! ROOTFS is an unpacked image with /bin/true. Everything that is paid per step is included: the message to the
//! launcher, an output directory, and giving it back.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its purpose is to print figures")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use quern_core::event::Stream;
use quern_core::port::{
    Cancel, Executor, Exit, Image, Images, InlineEntry, Observer, PortError, Presented, RootFs, RootLayout,
    Workspace,
};
use quern_core::step::{Attempt, Input, Network, Platform, Resources, RootAccess, Step};
use quern_core::{ContentRef, Digest, TreePath};
use quern_exec::{LAUNCHER_ARGUMENT, LocalExecutor, LocalOptions, launcher_main};

/// Where the input of a datum is, and its content.
const DATUM: (&str, &str, [u8; 1024]) = ("in", "000/f000000", [b'x'; 1024]);

/// Empty outputs in directories that are used again, and one image.
struct Bench {
    rootfs: PathBuf,
    keep: bool,
    scratch: PathBuf,
    spare: std::sync::Mutex<Vec<PathBuf>>,
    made: AtomicUsize,
}

impl Workspace for Bench {
    fn present(&self, _: &Digest) -> Result<Presented, PortError> {
        let path = TreePath::parse(DATUM.1).map_err(|error| PortError::Other(error.to_string()))?;
        let dir = path.parent().unwrap_or_else(TreePath::root);
        let file = InlineEntry::File { path, bytes: DATUM.2.to_vec(), executable: false };
        Ok(Presented::Inline(vec![InlineEntry::Dir(dir), file]))
    }

    fn scratch(&self) -> Result<PathBuf, PortError> {
        if let Some(spare) = self.spare.lock().expect("no panic while held").pop() {
            return Ok(spare);
        }
        let dir = self.scratch.join(self.made.fetch_add(1, Ordering::SeqCst).to_string());
        std::fs::create_dir_all(&dir).map_err(|error| PortError::io("making a directory", error))?;
        Ok(dir)
    }

    fn take(&self, scratch: &Path) -> Result<ContentRef, PortError> {
        let count =
            std::fs::read_dir(scratch).map_err(|error| PortError::io("reading a directory", error))?.count();
        self.discard(scratch);
        Ok(ContentRef { digest: Digest::of(b""), size: count as u64 })
    }

    fn discard(&self, scratch: &Path) {
        if !self.keep {
            self.spare.lock().expect("no panic while held").push(scratch.to_owned());
        }
    }

    fn cache_dir(&self, id: &str) -> Result<PathBuf, PortError> {
        Err(PortError::Other(format!("there is no cache {id}")))
    }
}

impl Images for Bench {
    fn resolve(&self, name: &str, _: &Platform) -> Result<Image, PortError> {
        Ok(Image { id: Digest::of(name.as_bytes()), env: Vec::new(), workdir: "/".into(), user: None })
    }

    fn rootfs(&self, _: &Digest) -> Result<RootFs, PortError> {
        Ok(RootFs { layout: RootLayout::Layers(vec![self.rootfs.clone()]), lease: Box::new(()) })
    }
}

struct Deaf;

impl Observer for Deaf {
    fn line(&self, _: Stream, _: &[u8]) {}
}

fn step(kind: &str) -> Step {
    let (builds, map) = (kind == "build", kind == "map");
    let (input, path, _) = DATUM;
    let target = format!("/pfs/{input}");
    let words: &[&str] = if map { &["/bin/datum", "map"] } else { &["/bin/true"] };
    let variable = map.then(|| (input.to_owned(), format!("{target}/{path}")));
    Step {
        argv: words.iter().map(ToString::to_string).collect(),
        env: variable.into_iter().collect(),
        cwd: "/".into(),
        user: None,
        stdin: Vec::new(),
        image: Digest::of(b"bench"),
        root: if builds { RootAccess::Writable } else { RootAccess::ReadOnly },
        inputs: if map { vec![Input { target, tree: Digest::of(b"datum") }] } else { Vec::new() },
        mounts: Vec::new(),
        network: if kind == "host" { Network::Host } else { Network::None },
        hosts: Vec::new(),
        platform: Platform::current(),
        outputs: if builds { Vec::new() } else { vec!["/pfs/out".into()] },
        accept: Vec::new(),
        resources: Resources::default(),
        timeout: None,
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|first| first == LAUNCHER_ARGUMENT) {
        launcher_main()
    }
    let Some((rootfs, count)) =
        arguments.get(1).zip(arguments.get(2).and_then(|count| count.parse::<usize>().ok()))
    else {
        eprintln!("usage: start ROOTFS COUNT [none|host|build|map] [WORKERS] [DIR]");
        return ExitCode::from(2);
    };
    let kind = arguments.get(3).map_or("none", String::as_str);
    let workers = arguments.get(4).and_then(|count| count.parse().ok()).unwrap_or(1);
    match measure(Path::new(rootfs), count, kind, workers, arguments.get(5).map(Path::new)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(
    rootfs: &Path,
    count: usize,
    kind: &str,
    workers: usize,
    dir: Option<&Path>,
) -> Result<(), Box<dyn std::error::Error>> {
    let name = format!("quern-start-{}", std::process::id());
    let scratch = dir.map_or_else(std::env::temp_dir, Path::to_owned).join(name);
    std::fs::create_dir_all(&scratch)?;
    let bench = Arc::new(Bench {
        rootfs: rootfs.canonicalize()?,
        keep: dir.is_some(),
        scratch: scratch.clone(),
        spare: std::sync::Mutex::default(),
        made: AtomicUsize::new(0),
    });
    let executor = LocalExecutor::new(LocalOptions {
        workspace: bench.clone(),
        images: bench,
        layers: Arc::new(quern_testkit::DirLayers::fresh()),
        launcher: std::env::current_exe()?,
        workers,
    })?;
    let attempt = Attempt::first(step(kind));
    let one = || -> Result<u128, PortError> {
        let start = Instant::now();
        let outcome = executor.run(&attempt, &Deaf, &Cancel::default())?;
        if outcome.exit != Exit::Code(0) {
            return Err(PortError::Other(format!("the program ended with {:?}", outcome.exit)));
        }
        Ok(start.elapsed().as_micros())
    };
    one()?;
    let start = Instant::now();
    let mut micros = Vec::new();
    std::thread::scope(|scope| -> Result<(), PortError> {
        let threads: Vec<_> = (0..workers)
            .map(|_| scope.spawn(|| (0..count / workers).map(|_| one()).collect::<Result<Vec<_>, _>>()))
            .collect();
        for thread in threads {
            micros.extend(thread.join().expect("a measuring thread does not panic")?);
        }
        Ok(())
    })?;
    let all = start.elapsed();
    micros.sort_unstable();
    let at = |part: usize| micros[(micros.len() - 1) * part / 100];
    println!(
        "steps {} median_us {} p90_us {} min_us {} per_step_us {}",
        micros.len(),
        at(50),
        at(90),
        at(0),
        all.as_micros() / micros.len() as u128
    );
    if dir.is_none() {
        std::fs::remove_dir_all(scratch)?;
    }
    Ok(())
}
