//! `kill -9` at any moment: the next command carries on, nothing is lost, nothing acknowledged runs again.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::space::{Space, copier, pfs, shell, sleeps, text, wait_until};

/// Most attempts until a command must have got through.
const MOST: u32 = 60;

/// Starts a command with its standard error in a file.
fn start(space: &Space, line: &str) -> Child {
    let args: Vec<&str> = line.split_whitespace().collect();
    let log = File::create(space.path("log")).expect("writable");
    let mut command = space.command(&args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("quern starts")
}

/// Kills the command after this time. True if it had ended by itself by then, with success.
fn kill_after(mut child: Child, delay: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < delay {
        if let Some(status) = child.try_wait().expect("it is a child") {
            assert!(status.success(), "{status}");
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("it is a child");
    child.wait().expect("it is a child").success()
}

/// Datum labels of all steps that began, as the log says. A line may be cut short by the kill.
fn begun(space: &Space) -> BTreeSet<String> {
    let log = space.read("log");
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == "step_started").map(|event| text(&event["step"])).collect()
}

/// Datums of a job whose result is acknowledged.
fn acknowledged(space: &Space) -> BTreeSet<String> {
    let job = space.newest_job("slow");
    let listed = space.json(&format!("list datum {}", text(&job["id"])));
    let datums = listed.as_array().expect("an array").iter();
    datums.filter(|datum| datum["state"] == "success").map(|datum| text(&datum["files"][0])).collect()
}

fn slow_pipeline(datums: usize) -> Space {
    let space = Space::with_repos(&["texts"]);
    for name in 0..datums {
        space.write(&format!("data/{name}"), format!("text {name}\n"));
    }
    space.quern("put file texts@master:/ -r -f data").ok();
    space.create(&shell(
        "slow",
        pfs("texts", "/*"),
        &["sleep 0.04; cat /pfs/texts/* >> /pfs/out/all; cp /pfs/texts/* /pfs/out/"],
    ));
    space.create(&shell("sum", pfs("slow", "/"), &["cat /pfs/slow/all | wc -l > /pfs/out/lines"]));
    space
}

/// Runs the slow pipeline to its end, killed at these moments (milliseconds from each start), and asserts that nothing
/// acknowledged ran again. Gives back how often it was killed.
fn flush_with_kills(space: &Space, delays: &[u64]) -> usize {
    let mut done: BTreeSet<String> = BTreeSet::new();
    for (kills, delay) in delays.iter().chain([&60_000]).enumerate() {
        let child = start(space, "flush commit texts@master --progress=rawjson");
        let ended = kill_after(child, Duration::from_millis(*delay));
        let again: Vec<String> = begun(space).intersection(&done).cloned().collect();
        assert!(again.is_empty(), "their results were acknowledged before: {again:?}");
        if ended {
            return kills;
        }
        done.extend(acknowledged(space));
        let states = space.names("list job", "state");
        assert!(!states.contains(&"running".to_owned()), "nobody is at it: {states:?}");
    }
    unreachable!("the last run is not killed")
}

#[test]
fn a_flush_killed_again_and_again_gets_there() {
    const DATUMS: usize = 10;
    let clean = slow_pipeline(DATUMS);
    clean.flush("texts@master").ran();
    let series: [&[u64]; 3] = [
        &[5, 10, 15, 20, 25, 30, 35, 40],
        &[45, 60, 75, 90, 105, 120, 135, 150],
        &[50, 100, 150, 200, 250, 300],
    ];
    for delays in series {
        let space = slow_pipeline(DATUMS);
        let kills = flush_with_kills(&space, delays);
        assert!(kills > 2, "it was killed at several points");
        for repo in ["slow", "sum"] {
            let (killed, clean) =
                (space.tree(&format!("{repo}@master")), clean.tree(&format!("{repo}@master")));
            assert_eq!(killed, clean, "{repo} after {kills} kills at {delays:?}");
        }
        assert_eq!(space.get("sum@master:/lines").trim(), "10");
        assert_eq!(space.names("list job", "state"), ["success", "success"]);
        assert_eq!(space.newest_job("slow")["data_total"], json!(DATUMS));
        assert!(space.flush("texts@master").began().is_empty());
        space.quern("prune").ok();
        assert_eq!(space.get("sum@master:/lines").trim(), "10");
    }
}

#[test]
fn a_job_that_gets_on_is_never_given_up() {
    const DATUMS: usize = 15;
    let space = slow_pipeline(DATUMS);
    let (mut kills, mut done) = (0, 0);
    while done < DATUMS {
        let mut flush = start(&space, "flush commit texts@master");
        wait_until("a datum gets done", || {
            acknowledged(&space).len() > done || space.newest_job("slow")["state"] == "success"
        });
        flush.kill().expect("it is a child");
        flush.wait().expect("it is a child");
        if space.newest_job("slow")["state"] != "running" {
            break;
        }
        kills += 1;
        done = acknowledged(&space).len();
    }
    space.flush("texts@master").ran();
    assert_eq!(space.get("sum@master:/lines").trim(), DATUMS.to_string(), "after {kills} kills");
    assert_eq!(space.names("list job", "state"), ["success", "success"], "after {kills} kills");
}

#[test]
fn a_job_that_never_gets_on_is_given_up_and_can_be_run_again() {
    let space = Space::with_repos(&["texts"]);
    space.put("texts@master:/a", "a");
    space.create(&shell("slow", pfs("texts", "/*"), &["sleep 987.6"]));
    let mut kills = 0;
    loop {
        let mut flush = start(&space, "flush commit texts@master");
        wait_until("the step runs or the job is given up", || {
            sleeps("987.6") || space.newest_job("slow")["state"] == "failure"
        });
        flush.kill().expect("it is a child");
        flush.wait().expect("it is a child");
        if space.newest_job("slow")["state"] == "failure" {
            break;
        }
        kills += 1;
        assert!(kills < 30, "a step that ends its worker is tried for ever");
        wait_until("the step ends", || !sleeps("987.6"));
    }
    assert!(kills > 2, "not at the first mishap");
    space.quern("flush commit texts@master").says(1, &["slow", "vanished"]);
    space.update(&copier("slow", "texts"));
    assert_eq!(space.flush("texts@master").ran(), ["slow texts:/a"]);
}

#[test]
fn a_killed_put_stores_everything_or_nothing() {
    let space = Space::with_repos(&["texts"]);
    let mut attempts: u32 = 0;
    let mut through = 0;
    while through < 3 {
        attempts += 1;
        assert!(attempts < MOST, "killed puts never get through");
        for file in 0..20 {
            space.write(&format!("data/{file}"), format!("{attempts} {file}\n").repeat(50));
        }
        let before = space.names("list commit texts", "id");
        let child = start(&space, "put file texts@master:/ -r -o -f data");
        let ended = kill_after(child, Duration::from_millis(2 + 3 * u64::from(attempts)));
        through += u32::from(ended);
        let after = space.names("list commit texts", "id");
        assert!(
            after.len() <= before.len() + 1 && (!ended || after.len() == before.len() + 1),
            "{before:?} {after:?}"
        );
        if after.len() > before.len() {
            space.quern("get file texts@master:/ -r -o got").ok();
            for file in 0..20 {
                assert_eq!(
                    space.read(&format!("got/{file}")),
                    space.read(&format!("data/{file}")),
                    "file {file}"
                );
            }
        }
    }
}

/// The versions of a pipeline and of what builds it, and the source that was pushed; nothing if there is none.
fn submitted(space: &Space) -> (Vec<String>, Option<String>) {
    let names = space.names("list pipeline", "name");
    let source = space.quern("get file count_build@source:/main.py");
    (names, (source.code() == Some(0)).then(|| source.ok()))
}

#[test]
fn a_killed_update_changes_everything_or_nothing() {
    let space = Space::with_repos(&["texts"]);
    space.put("texts@master:/a.txt", "one");
    let spec = json!({ "pipeline": { "name": "count" }, "input": pfs("texts", "/*"),
        "transform": { "build": { "language": "python", "path": "source" } } });
    space.write("count.json", spec.to_string());
    let program = |round: u32| format!("open('/pfs/out/round', 'w').write('{round}')\n");
    let (mut attempts, mut through): (u32, u32) = (0, 0);
    while through < 3 {
        attempts += 1;
        assert!(attempts < MOST, "killed updates never get through");
        // The first one takes longer: it looks at the machine's programs.
        let pace = if through == 0 { 40 } else { 2 };
        space.write("source/main.py", program(attempts));
        let before = submitted(&space);
        let child = start(&space, "update pipeline -f count.json");
        let ended = kill_after(child, Duration::from_millis(2 + pace * u64::from(attempts)));
        through += u32::from(ended);
        let after = submitted(&space);
        let whole = (vec!["count".to_owned(), "count_build".to_owned()], Some(program(attempts)));
        let sorted = {
            let mut names = after.0.clone();
            names.sort();
            (names, after.1.clone())
        };
        assert!(sorted == whole || (!ended && after == before), "half an update: {before:?} {after:?}");
    }
    space.flush("texts@master").ran();
    assert_eq!(space.get("count@master:/round"), attempts.to_string());
}

#[test]
fn a_killed_prune_takes_nothing_that_is_needed() {
    let space = slow_pipeline(4);
    space.flush("texts@master").ran();
    let tree = space.tree("slow@master");
    for attempt in 1..8 {
        space.put("texts@other:/big", format!("{attempt}").repeat(50_000));
        space.quern("delete commit texts@other").ok();
        kill_after(start(&space, "prune --all"), Duration::from_millis(6 * attempt));
        space.quern("get file slow@master:/ -r -o got").ok();
        assert_eq!(space.read("got/3"), "text 3\n");
    }
    space.quern("prune").ok();
    assert_eq!(space.tree("slow@master"), tree);
    assert!(Path::new(&space.path("got/all")).exists());
    assert!(space.flush("texts@master").began().is_empty());
}
