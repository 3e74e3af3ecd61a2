//! Several processes at once on one state folder.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use quern_core::port::{self, Scan, Table};
use quern_store::{OpenOptions, Store};
use serde_json::{Value, json};

use crate::space::{Flushed, Space, copier, counts, pfs, shell, sleeps, text, wait_until};

/// Runs these closures side by side.
fn together<T: Send>(runs: impl IntoIterator<Item: FnOnce() -> T + Send>) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = runs.into_iter().map(|run| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().expect("the run does not panic")).collect()
    })
}

#[test]
fn parallel_puts_lose_nothing() {
    const PROCESSES: usize = 5;
    const FILES: usize = 4;
    let space = Space::with_repos(&["texts"]);
    let space = &space;
    together((0..PROCESSES).map(|process| {
        move || {
            for file in 0..FILES {
                space.put(&format!("texts@master:/{process}/{file}"), format!("{process} {file}"));
                space.feed("put file texts@master:/log", format!("{process} {file}\n")).ok();
            }
        }
    }));
    for process in 0..PROCESSES {
        for file in 0..FILES {
            assert_eq!(space.get(&format!("texts@master:/{process}/{file}")), format!("{process} {file}"));
        }
    }
    let log = space.get("texts@master:/log");
    let lines: BTreeSet<&str> = log.lines().collect();
    assert_eq!(
        (log.lines().count(), lines.len()),
        (PROCESSES * FILES, PROCESSES * FILES),
        "every append once: {log}"
    );
    let mut own: Vec<&str> = log.lines().filter(|line| line.starts_with("0 ")).collect();
    own.dedup();
    assert_eq!(own, ["0 0", "0 1", "0 2", "0 3"], "in the order of each process");
    assert_eq!(
        space.names("list commit texts", "id").len(),
        2 * PROCESSES * FILES,
        "one commit for each put"
    );
}

#[test]
fn parallel_flushes_run_each_datum_once() {
    const DATUMS: usize = 12;
    let space = Space::with_repos(&["texts"]);
    for name in 0..DATUMS {
        space.write(&format!("data/{name}"), name.to_string());
    }
    space.quern("put file texts@master:/ -r -f data").ok();
    let copy = "f=$(ls /pfs/texts); sleep 0.05; cp /pfs/texts/$f /pfs/out/; echo \"ran $f\"";
    space.create(&shell("copy", pfs("texts", "/*"), &[copy]));
    space.create(&copier("second", "copy"));
    let flushes: Vec<Flushed> = together((0..4).map(|_| || space.flush("texts@master")));
    let mut ran: Vec<String> = flushes.iter().flat_map(Flushed::ran).collect();
    let mut lines: Vec<String> = flushes.iter().flat_map(|flush| flush.lines("copy")).collect();
    assert_eq!((ran.len(), lines.len()), (2 * DATUMS, DATUMS));
    ran.sort();
    ran.dedup();
    lines.sort();
    lines.dedup();
    assert_eq!((ran.len(), lines.len()), (2 * DATUMS, DATUMS), "each datum once over all processes");
    assert_eq!(space.names("list job", "state"), ["success", "success"], "one job for each pipeline");
    assert_eq!(space.names("list file second@master", "path").len(), DATUMS);
}

#[test]
fn data_may_change_while_jobs_run() {
    let space = Space::with_repos(&["texts"]);
    space.create(&copier("copy", "texts"));
    space.put("texts@master:/start", "x");
    let space = &space;
    let mut runs: Vec<Box<dyn FnOnce() + Send>> = vec![];
    for process in 0..2 {
        runs.push(Box::new(move || {
            for file in 0..4 {
                space.put(&format!("texts@master:/{process}{file}"), format!("{process}{file}"));
            }
        }));
        runs.push(Box::new(move || {
            for _ in 0..3 {
                space.flush("texts@master").ran();
            }
        }));
    }
    together(runs);
    space.flush("texts@master").ran();
    let names = |repo: &str| space.names(&format!("list file {repo}@master"), "path");
    assert_eq!(names("copy"), names("texts"));
    assert_eq!(names("copy").len(), 1 + 8);
    let files = |repo: &str| space.json(&format!("list file {repo}@master"));
    assert_eq!(files("copy"), files("texts"), "byte for byte");
    let states = space.names("list job", "state");
    assert!(
        !states.iter().any(|state| ["failure", "starting", "running"].contains(&state.as_str())),
        "{states:?}"
    );
}

#[test]
fn a_job_that_is_overtaken_by_newer_data_spoils_nothing() {
    let space = Space::with_repos(&["texts"]);
    let copy = [
        "cat /pfs/texts/* >> /pfs/out/all; cp /pfs/texts/* /pfs/out/; if [ -e /pfs/texts/slow ]; then sleep 0.8; fi",
    ];
    space.create(&shell("copy", pfs("texts", "/*"), &copy));
    space.put("texts@master:/slow", "slow\n");
    thread::scope(|scope| {
        let first = scope.spawn(|| space.flush("texts@master").ran());
        wait_until("the step runs", || sleeps("0.8"));
        space.put("texts@master:/a", "a\n");
        let second = scope.spawn(|| space.flush("texts@master").ran());
        space.put("texts@master:/b", "b\n");
        space.quern("delete file texts@master:/a").ok();
        space.flush("texts@master").ran();
        first.join().expect("it succeeds");
        second.join().expect("it succeeds");
    });
    space.put("texts@master:/c", "c\n");
    space.flush("texts@master").ran();
    let mut lines: Vec<String> = space.get("copy@master:/all").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["b", "c", "slow"], "each text once, and only those that are there");
    assert_eq!(space.names("list file copy@master", "path"), ["/all", "/b", "/c", "/slow"]);
}

#[test]
fn pruning_meanwhile_takes_nothing_that_is_needed() {
    let space = Space::with_repos(&["texts"]);
    space.put("texts@master:/start", "x");
    space.create(&copier("copy", "texts"));
    let space = &space;
    let mut runs: Vec<Box<dyn FnOnce() + Send>> = vec![Box::new(|| {
        for _ in 0..12 {
            space.quern("prune --all").ok();
        }
    })];
    for process in 0..2 {
        runs.push(Box::new(move || {
            for file in 0..4 {
                let text = format!("{process} {file}\n").repeat(20_000);
                space.put(&format!("texts@master:/{process}{file}"), text);
                space.flush("texts@master").ran();
            }
        }));
    }
    together(runs);
    space.flush("texts@master").ran();
    space.quern("get file texts@master:/ -r -o before").ok();
    for process in 0..2 {
        for file in 0..4 {
            let text = format!("{process} {file}\n").repeat(20_000);
            assert_eq!(space.read(&format!("before/{process}{file}")), text);
            assert!(space.get(&format!("copy@master:/{process}{file}")).starts_with(&text));
        }
    }
}

#[test]
fn one_of_many_creates_a_thing() {
    let space = Space::new();
    let repos = together((0..5).map(|_| || space.quern("create repo texts").code()));
    assert_eq!(repos.iter().filter(|code| **code == Some(0)).count(), 1, "{repos:?}");
    assert_eq!(repos.iter().filter(|code| **code == Some(3)).count(), 4, "{repos:?}");
    space.put("texts@master:/a", "a");
    let spec = copier("copy", "texts").to_string();
    let pipelines = together((0..4).map(|_| || space.feed("create pipeline", &spec).code()));
    assert_eq!(pipelines.iter().filter(|code| **code == Some(0)).count(), 1, "{pipelines:?}");
    assert_eq!(pipelines.iter().filter(|code| **code == Some(3)).count(), 3, "{pipelines:?}");
    let updates = together((0..4).map(|_| || space.feed("update pipeline", &spec).code()));
    assert_eq!(updates, [Some(0); 4]);
    assert_eq!(space.json("inspect pipeline copy")["version"], 1, "nothing changed");
    assert_eq!(space.flush("texts@master").ran(), ["copy texts:/a"]);
    assert_eq!(counts(&space.newest_job("copy")), [1, 0, 0, 0, 1]);
}

/// A flush in the background whose one datum sleeps for so many seconds.
fn sleeping(space: &Space, seconds: &str) -> Child {
    space.put("texts@master:/a", "a");
    space.create(&shell("slow", pfs("texts", "/*"), &[&format!("sleep {seconds}")]));
    let mut flush = space.command(&["flush", "commit", "texts@master"]);
    let flush =
        flush.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("quern starts");
    wait_until("the step runs", || sleeps(seconds));
    flush
}

#[test]
fn steps_die_with_the_process_that_runs_them() {
    let space = Space::with_repos(&["texts"]);
    let mut flush = sleeping(&space, "987.1");
    flush.kill().expect("it runs");
    flush.wait().expect("it is a child");
    wait_until("the step ends", || !sleeps("987.1"));
    assert_eq!(space.newest_job("slow")["state"], "starting", "its process is gone, so it waits for another");
    space.update(&copier("slow", "texts"));
    assert_eq!(space.flush("texts@master").ran(), ["slow texts:/a"], "the next one takes over at once");
}

#[test]
fn an_interrupted_flush_says_so_and_is_carried_on() {
    let space = Space::with_repos(&["texts"]);
    let mut flush = sleeping(&space, "987.2");
    let pid = rustix::process::Pid::from_child(&flush);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert_eq!(flush.wait().expect("it is a child").code(), Some(130));
    wait_until("its steps end", || !sleeps("987.2"));
    space.update(&copier("slow", "texts"));
    assert_eq!(space.flush("texts@master").ran(), ["slow texts:/a"]);
}

/// Rewrites the owners of all leases, as another time of the machine would have left them.
fn change_leases(space: &Space, change: impl Fn(&mut Value)) {
    const LEASES: Table = Table("leases");
    let store = Store::open(&space.path("state"), &OpenOptions::default()).expect("the state is whole");
    let leases =
        port::read(&**store.meta(), |r| r.scan(LEASES, &Scan::default())).expect("leases are readable");
    assert!(!leases.is_empty(), "the killed process left its leases");
    for (key, lease) in leases {
        let mut lease: Value = serde_json::from_str(&lease).expect("leases are JSON");
        change(&mut lease);
        port::write(&**store.meta(), |w| w.put(LEASES, &key, &lease.to_string()))
            .expect("leases are writable");
    }
}

#[test]
fn leases_from_before_a_restart_of_the_machine_hold_nobody_up() {
    let restarted = |lease: &mut Value| {
        lease["owner"]["boot"] = json!("00000000-0000-0000-0000-000000000000");
        lease["expires"] = json!(1);
    };
    // Process 1 always exists; that it is another one shows in its start time.
    let reused = |lease: &mut Value| lease["owner"]["pid"] = json!(1);
    for (seconds, is_reused) in [("987.3", false), ("987.4", true)] {
        let space = Space::with_repos(&["texts"]);
        let mut flush = sleeping(&space, seconds);
        flush.kill().expect("it runs");
        flush.wait().expect("it is a child");
        change_leases(&space, |lease| if is_reused { reused(lease) } else { restarted(lease) });
        space.update(&copier("slow", "texts"));
        let start = Instant::now();
        assert_eq!(space.flush("texts@master").ran(), ["slow texts:/a"]);
        assert!(start.elapsed() < Duration::from_secs(13), "it did not wait for the lease to run out");
        assert_eq!(text(&space.newest_job("slow")["state"]), "success");
    }
}
