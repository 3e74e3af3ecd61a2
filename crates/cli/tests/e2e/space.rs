//! A folder with a state of its own, in which the command runs, and what it said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use quern_testkit::{Finished, TempSpace};
use serde_json::{Value, json};

/// A temporary folder; the state lies in `state`, the home directory in `home`.
pub struct Space {
    temp: TempSpace,
}

impl Space {
    /// A fresh folder with nothing in it.
    pub fn new() -> Self {
        Self { temp: TempSpace::new() }
    }

    /// A fresh folder with these repos.
    pub fn with_repos(names: &[&str]) -> Self {
        let space = Self::new();
        for name in names {
            space.quern(&format!("create repo {name}")).ok();
        }
        space
    }

    /// A path in the folder.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.temp.path(relative)
    }

    /// Writes a file in the folder.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.temp.write(relative, content)
    }

    /// The text of a file in the folder.
    pub fn read(&self, relative: &str) -> String {
        self.temp.read(relative)
    }

    /// Copies a directory of the repository's examples into the folder.
    pub fn example(&self, name: &str) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
        copy_tree(&from, &self.path(name));
    }

    /// The command as the tests run it: nothing of the environment reaches it but what is set here.
    pub fn command(&self, args: &[&str]) -> Command {
        self.clean(Command::new(env!("CARGO_BIN_EXE_quern")), args)
    }

    /// The same, killed after a time in which any of these tests must be over, so that a hang is a failure.
    fn limited(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "90", env!("CARGO_BIN_EXE_quern")]);
        self.clean(command, args)
    }

    fn clean(&self, mut command: Command, args: &[&str]) -> Command {
        command.args(args).current_dir(self.temp.root());
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("HOME", self.path("home")).env("QUERN_STATE", self.path("state"));
        command
    }

    /// Runs `quern` with the words of this line.
    pub fn quern(&self, line: &str) -> Ran {
        self.call(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `quern` with these arguments.
    pub fn call(&self, args: &[&str]) -> Ran {
        Ran(Finished::of(self.limited(args), b""))
    }

    /// Runs `quern` with the words of this line and these bytes on standard input.
    pub fn feed(&self, line: &str, input: impl AsRef<[u8]>) -> Ran {
        let args: Vec<&str> = line.split_whitespace().collect();
        Ran(Finished::of(self.limited(&args), input.as_ref()))
    }

    /// Runs a shell script in the folder; `$0` is the command.
    pub fn script(&self, script: &str) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "90", "sh", "-c", script, env!("CARGO_BIN_EXE_quern")]);
        Ran(Finished::of(self.clean(command, &[]), b""))
    }

    /// What a command lists or shows, as JSON.
    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        self.quern(&format!("{line} --output json")).json()
    }

    /// Replaces one file of a repo.
    #[track_caller]
    pub fn put(&self, target: &str, content: impl AsRef<[u8]>) {
        self.feed(&format!("put file {target} -o"), content).ok();
    }

    /// The bytes of a file or of all files that match, as text.
    #[track_caller]
    pub fn get(&self, target: &str) -> String {
        self.quern(&format!("get file {target}")).ok()
    }

    /// Creates a pipeline.
    #[track_caller]
    pub fn create(&self, spec: &Value) {
        self.feed("create pipeline", spec.to_string()).ok();
    }

    /// Changes a pipeline.
    #[track_caller]
    pub fn update(&self, spec: &Value) {
        self.feed("update pipeline", spec.to_string()).ok();
    }

    /// Runs everything downstream; asserts nothing.
    pub fn flush(&self, target: &str) -> Flushed {
        Flushed::of(self.quern(&format!("flush job {target} --progress=rawjson --output json")))
    }

    /// Names in the order of a listing.
    #[track_caller]
    pub fn names(&self, line: &str, field: &str) -> Vec<String> {
        let found = self.json(line);
        found.as_array().expect("lists are arrays").iter().map(|one| text(&one[field])).collect()
    }

    /// The newest job of a pipeline.
    #[track_caller]
    pub fn newest_job(&self, pipeline: &str) -> Value {
        self.json(&format!("list job -p {pipeline} -n 1"))[0].clone()
    }

    /// Digest of the tree of a commit.
    #[track_caller]
    pub fn tree(&self, commit: &str) -> String {
        text(&self.json(&format!("inspect commit {commit}"))["tree"])
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Ran(Finished);

impl Ran {
    /// Asserts success and gives the standard output.
    #[track_caller]
    pub fn ok(&self) -> String {
        self.0.ok()
    }

    /// Asserts this exit code and gives the standard error.
    #[track_caller]
    pub fn fails(&self, code: i32) -> String {
        self.0.code(code).stderr()
    }

    /// Asserts this exit code and that standard error holds all of these texts.
    #[track_caller]
    pub fn says(&self, code: i32, parts: &[&str]) {
        let said = self.fails(code);
        for part in parts {
            assert!(said.contains(part), "`{part}` is not in:\n{said}");
        }
    }

    /// Asserts success and reads the standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The standard error.
    pub fn stderr(&self) -> String {
        self.0.stderr()
    }

    /// The exit code; none if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.0.output().status.code()
    }
}

/// What a flush did, as its own events say.
#[derive(Debug)]
pub struct Flushed {
    ran: Ran,
    /// The events in their order.
    pub events: Vec<Value>,
}

impl Flushed {
    /// Reads the events of a flush with `--progress=rawjson`.
    pub fn of(ran: Ran) -> Self {
        let stderr = ran.stderr();
        let events = stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Self { ran, events }
    }

    /// Asserts success and gives the steps that ran, as `pipeline label`, sorted.
    #[track_caller]
    pub fn ran(&self) -> Vec<String> {
        self.ran.ok();
        self.steps("ran")
    }

    /// Asserts this exit code and gives the standard error.
    #[track_caller]
    pub fn fails(&self, code: i32) -> String {
        self.ran.fails(code)
    }

    /// Steps that ended like this, as `pipeline label`, sorted.
    pub fn steps(&self, status: &str) -> Vec<String> {
        let ended = self.of_kind("step_finished").filter(|event| event["status"] == status);
        let mut steps: Vec<String> =
            ended.map(|event| format!("{} {}", self.pipeline(event), text(&event["step"]))).collect();
        steps.sort();
        steps
    }

    /// Pipelines whose jobs began, in order.
    pub fn began(&self) -> Vec<String> {
        self.of_kind("job_started").map(|event| text(&event["name"])).collect()
    }

    /// Lines that the steps of a pipeline wrote.
    pub fn lines(&self, pipeline: &str) -> Vec<String> {
        let logs = self.of_kind("log").filter(|event| self.pipeline(event) == pipeline);
        logs.map(|event| text(&event["line"])).collect()
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |event| event["event"] == kind)
    }

    fn pipeline(&self, event: &Value) -> String {
        let started = self.of_kind("job_started").find(|start| start["job"] == event["job"]);
        started.map_or_else(String::new, |start| text(&start["name"]))
    }
}

/// A text in JSON.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

/// Datums of a job: processed, skipped, failed, recovered, total.
#[track_caller]
pub fn counts(job: &Value) -> [u64; 5] {
    ["data_processed", "data_skipped", "data_failed", "data_recovered", "data_total"]
        .map(|field| job[field].as_u64().unwrap_or_else(|| panic!("{field} in {job}")))
}

/// A pipeline of shell lines on image `host`.
pub fn shell(name: &str, input: Value, lines: &[&str]) -> Value {
    let mut spec = json!({
        "pipeline": { "name": name },
        "transform": { "image": "host", "cmd": ["sh", "-eu"], "stdin": lines },
    });
    spec["input"] = input;
    spec
}

/// An input of one repo.
pub fn pfs(repo: &str, glob: &str) -> Value {
    json!({ "pfs": { "repo": repo, "glob": glob } })
}

/// A pipeline that copies each file of a repo and writes a line for each to its log. It fails where something lies in its
/// output already.
pub fn copier(name: &str, repo: &str) -> Value {
    let each =
        format!("for f in /pfs/{repo}/*; do cp \"$f\" /pfs/out/; echo \"ran $(basename \"$f\")\"; done");
    shell(name, pfs(repo, "/*"), &["test -z \"$(ls -A /pfs/out)\"", &each])
}

/// Waits until something is so; a test that waits in vain fails.
#[track_caller]
pub fn wait_until(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: waited in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a `sleep` of so many seconds runs on this machine.
pub fn sleeps(seconds: &str) -> bool {
    let sought = format!("sleep\0{seconds}\0");
    let processes = fs::read_dir("/proc").expect("Linux has it").filter_map(Result::ok);
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| line == sought.as_bytes())
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("directory entry is readable");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type is known").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap_or_else(|error| panic!("{}: {error}", target.display()));
        }
    }
}
