//! The whole way of the data on fakes: text to spec to pipelines to jobs to datums to steps to commits, with what was
//! executed and reported as a log. Read it after ARCHITECTURE.md.

#![expect(
    clippy::unwrap_used,
    reason = "a fake that cannot go on has no better answer than to stop the test"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use quern_catalog::{Catalog, PutMode, PutOptions};
use quern_core::event::{Event, Sink, Stream};
use quern_core::port::{
    Blobs, Cancel, Executor, Exit, Image, Images, Observer, Outcome, PortError, RootFs, Usage, read, write,
};
use quern_core::step::Platform;
use quern_core::{Attempt, ContentRef, Digest, Entry, Timestamp, Tree, TreePath};
use quern_engine::lease::Owner;
use quern_engine::schedule::{Scheduler, active};
use quern_engine::step_op::StepResults;
use quern_engine::submit::{Desk, Submission};
use quern_engine::{Records, Runner};
use quern_solver::{InMemoryKeyStorage, KeyedCache, Solver, SolverOptions};
use quern_store::import::Importer;
use quern_testkit::{ManualClock, MemBlobs, MemMeta, SequentialIds};

/// Writes what happens, line by line.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn line(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Sink for Log {
    fn emit(&self, event: Event) {
        self.line(match event {
            Event::JobStarted { name, reason, .. } => format!("{name} starts: {}", without_ids(&reason)),
            Event::JobPlanned { total, skipped, .. } => format!("  {skipped} of {total} known"),
            Event::StepStarted { step, .. } => format!("  step {step}"),
            Event::StepFinished { step, status, .. } => format!("  {status:?} {step}"),
            Event::Log { line, .. } => format!("  says {line}"),
            Event::JobFinished { name, state, reason, .. } => format!("{name}: {state} {reason}"),
            Event::Warning { message } => format!("warning: {message}"),
        });
    }
}

/// Ids are made of digits only here, and a walk should not depend on them.
fn without_ids(text: &str) -> String {
    text.split(' ')
        .filter(|word| word.len() != 12 || !word.bytes().all(|b| b.is_ascii_hexdigit()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs nothing: copies every input file in upper case into the output; a file that says `fail` fails.
struct Shouter {
    blobs: Arc<dyn Blobs>,
}

impl Shouter {
    fn shout(&self, tree: &Digest, failed: &mut bool) -> ContentRef {
        let tree = Tree::decode(&self.blobs.get(tree).unwrap()).unwrap();
        let entries = tree.into_entries().into_iter().map(|(name, entry)| match entry {
            Entry::Dir(dir) => (name, Entry::Dir(self.shout(&dir.digest, failed))),
            Entry::File { content, executable } => {
                let bytes = self.blobs.get(&content.digest).unwrap();
                *failed |= bytes == b"fail";
                let content = self.blobs.put(&bytes.to_ascii_uppercase()).unwrap();
                (name, Entry::File { content, executable })
            }
            link @ Entry::Link(_) => (name, link),
        });
        self.blobs.put(&Tree::new(entries.collect()).unwrap().encode()).unwrap()
    }
}

impl Executor for Shouter {
    fn run(&self, attempt: &Attempt, observer: &dyn Observer, _: &Cancel) -> Result<Outcome, PortError> {
        let mut failed = false;
        observer.line(Stream::Stdout, attempt.step.argv.join(" ").as_bytes());
        let outputs = vec![self.shout(&attempt.step.inputs[0].tree, &mut failed)];
        let usage = Usage::default();
        if failed {
            return Ok(Outcome { exit: Exit::Code(1), outputs: Vec::new(), layer: None, usage });
        }
        Ok(Outcome { exit: Exit::Code(0), outputs, layer: None, usage })
    }
}

/// Any name is an image.
struct AnyImage;

impl Images for AnyImage {
    fn resolve(&self, name: &str, _: &Platform) -> Result<Image, PortError> {
        Ok(Image { id: Digest::of(name.as_bytes()), env: Vec::new(), workdir: "/".into(), user: None })
    }

    fn rootfs(&self, _: &Digest) -> Result<RootFs, PortError> {
        Err(PortError::Other("nothing is run here".into()))
    }
}

struct House {
    runner: Runner,
    log: Arc<Log>,
    folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let blobs: Arc<dyn Blobs> = Arc::new(MemBlobs::default());
        let records = Records {
            meta: Arc::new(MemMeta::default()),
            blobs: Arc::clone(&blobs),
            clock: Arc::new(ManualClock::at(Timestamp(1_000))),
            ids: Arc::new(SequentialIds::default()),
            owner: Owner::current().unwrap(),
        };
        let log = Arc::new(Log::default());
        let results = Arc::new(StepResults::new(Arc::clone(&blobs)));
        let cache = KeyedCache::new("test", Arc::new(InMemoryKeyStorage::new()), results).unwrap();
        let options =
            SolverOptions { cache: Arc::new(cache), parallelism: Some(1), ..SolverOptions::default() };
        let runner = Runner {
            records,
            executor: Arc::new(Shouter { blobs }),
            images: Arc::new(AnyImage),
            sink: Arc::clone(&log) as _,
            solver: Solver::new(options),
        };
        Self { runner, log, folder: tempfile::tempdir().unwrap() }
    }

    fn catalog(&self) -> Catalog<'_> {
        let records = &self.runner.records;
        Catalog::new(&*records.blobs, &*records.meta, &*records.clock, &*records.ids)
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let content = self.runner.records.blobs.put(bytes).unwrap();
        let entry = Entry::File { content, executable: false };
        let options = PutOptions { mode: PutMode::Overwrite, skip_unchanged: true, ..PutOptions::default() };
        let target = "in@master".parse().unwrap();
        self.catalog().put(&target, &[(TreePath::parse(path).unwrap(), entry)], &options).unwrap();
    }

    fn submit(&self, text: &str) {
        let records = &self.runner.records;
        let importer = Importer::new(Arc::clone(&records.blobs), self.folder.path(), 0);
        let desk = Desk {
            records,
            importer: &importer,
            images: &AnyImage,
            default_image: "some",
            builder_images: &BTreeMap::new(),
        };
        let submission = Submission {
            name: "spec",
            text,
            base: self.folder.path(),
            update: true,
            reprocess: false,
            rebuild: false,
        };
        desk.submit(&submission).unwrap();
    }

    /// Plans and runs everything; gives back what happened.
    fn flush(&self) -> Vec<String> {
        let records = &self.runner.records;
        write(&*records.meta, |w| {
            let now = records.clock.now();
            Scheduler::new(w, &*records.ids, &records.owner, now)
                .advance()
                .map_err(|e| PortError::Other(e.to_string()))
        })
        .unwrap();
        self.runner.drive(&|_| Ok(true), &Cancel::default()).unwrap();
        assert!(read(&*records.meta, active).unwrap().is_empty(), "no build is left open");
        self.log.take()
    }

    fn output(&self, reference: &str) -> Vec<String> {
        let catalog = self.catalog();
        let commit = catalog.readable(&reference.parse().unwrap()).unwrap();
        let files = catalog.list(&commit, &TreePath::root()).unwrap();
        files.iter().map(|file| file.path.to_string()).collect()
    }
}

const SPEC: &str = r#"
pipeline: {name: shout}
transform: {cmd: [shout]}
datum_tries: 1
input: {pfs: {repo: in, glob: "/*"}}
---
pipeline: {name: again}
transform: {cmd: [again]}
input: {pfs: {repo: shout, glob: "/"}}
"#;

#[test]
fn the_way_of_the_data() {
    let house = House::new();
    house.catalog().write(|change| change.create_repo(&"in".parse().unwrap(), "").map(|_| ())).unwrap();
    house.put("/a", b"a");
    house.put("/b", b"b");
    house.submit(SPEC);
    assert_eq!(
        sorted(house.flush()),
        sorted(
            [
                "shout starts: it was never built",
                "  0 of 2 known",
                "  step in:/a",
                "  says shout",
                "  Ran in:/a",
                "  step in:/b",
                "  says shout",
                "  Ran in:/b",
                "shout: success ",
                "again starts: it was never built; input shout@master is rebuilt by `shout` in this build",
                "  0 of 1 known",
                "  step everything",
                "  says again",
                "  Ran everything",
                "again: success ",
            ]
            .map(str::to_owned)
            .to_vec()
        ),
        "everything runs once"
    );
    assert_eq!(house.output("again@master"), ["/a", "/b"]);
    assert_eq!(house.flush(), [""; 0], "nothing advanced, so nothing runs");

    house.put("/b", b"bb");
    assert_eq!(
        house.flush(),
        [
            "shout starts: input in@master advanced from to",
            "  1 of 2 known",
            "  step in:/b",
            "  says shout",
            "  Ran in:/b",
            "shout: success ",
            "again starts: input shout@master is rebuilt by `shout` in this build",
            "  0 of 1 known",
            "  step everything",
            "  says again",
            "  Ran everything",
            "again: success ",
        ]
    );

    house.put("/b", b"BB");
    let log = house.flush();
    assert!(log.contains(&"  Ran in:/b".to_owned()), "{log:?}");
    assert!(
        !log.iter().any(|line| line.starts_with("again")),
        "the output is the same, so it is cut off: {log:?}"
    );

    house.put("/b", b"fail");
    let log = house.flush();
    assert_eq!(log.last().unwrap(), "shout: failure datum in:/b failed: `shout` exited with code 1");
    assert_eq!(house.output("shout@master"), ["/a", "/b"], "the last good output stays");
    assert_eq!(house.flush(), [""; 0], "what failed is not tried again by itself");
}

/// Two datums of one job may be reported in any order.
fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}
