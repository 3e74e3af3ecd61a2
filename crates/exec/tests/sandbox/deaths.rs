//! Processes that are killed where nobody expects it.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use quern_core::port::{Cancel, Exit};
use quern_core::step::Attempt;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::ends::{long, runs};
use crate::lab::{Lab, as_root, launcher};

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain until {what}");
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_killed_launcher_costs_one_step() {
    let lab = Lab::new(1);
    let long = long(76543);
    let mut step = lab.sh(&format!("sleep {long} & sleep {long}"));
    step.outputs.push("/more".into());
    let attempt = Attempt::first(step);
    let error = std::thread::scope(|scope| {
        let run = scope.spawn(|| lab.attempt(&attempt, &Cancel::default()));
        wait_until("the step runs", || runs(&long));
        lab.launchers().into_iter().for_each(kill);
        run.join().unwrap().unwrap_err()
    });
    assert!(error.to_string().contains("launcher ended while the step ran"), "{error}");
    wait_until("nothing of the step runs", || !runs(&long));
    assert_eq!(lab.room.scratch_left(), 0);
    assert_eq!(lab.said(lab.sh("echo next")), "next");
    // One that dies while idle costs nothing.
    for pid in lab.launchers() {
        kill(pid);
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        wait_until("it is dead", || state().contains(") Z"));
    }
    assert_eq!(lab.said(lab.sh("echo after")), "after");
}

#[test]
fn a_launcher_that_does_not_obey_is_ended_with_its_step() {
    let lab = Lab::new(1);
    let long = long(54321);
    let attempt = Attempt::first(lab.sh(&format!("sleep {long} & sleep {long}")));
    let cancel = Cancel::default();
    let ran = std::thread::scope(|scope| {
        let run = scope.spawn(|| lab.attempt(&attempt, &cancel));
        wait_until("the step runs", || runs(&long));
        for pid in lab.launchers() {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
        }
        cancel.set();
        run.join().unwrap().unwrap()
    });
    assert_eq!(ran.outcome.exit, Exit::Cancelled);
    assert!(!runs(&long));
    assert_eq!(lab.said(lab.sh("echo next")), "next");
    assert_eq!(lab.room.scratch_left(), 0);
}

/// A script in an image can get hold of the launcher's file, see `launcher.rs`.
#[test]
fn the_launchers_program_cannot_be_written_to() {
    let lab = Lab::new(1);
    // A copy, because the original is busy in other tests.
    let program = lab.dir.path().join("launcher");
    std::fs::remove_file(&program).unwrap();
    std::fs::copy(launcher(), &program).unwrap();
    lab.said(lab.sh("true"));
    let open = |path: &str, flags| rustix::fs::open(path, flags, rustix::fs::Mode::empty());
    let pid = lab.launchers()[0];
    let file = open(&format!("/proc/{pid}/exe"), OFlags::PATH).unwrap();
    drop(lab.executor);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    assert!(open(&path, OFlags::RDONLY).is_ok());
    wait_until("the file is not busy", || open(&path, OFlags::WRONLY).err() != Some(Errno::TXTBSY));
    assert_eq!(open(&path, OFlags::WRONLY).err(), Some(Errno::ROFS));
}

#[test]
fn steps_die_with_the_program_that_started_them() {
    const CHILD: &str = "QUERN_TEST_CHILD";
    if let Ok(long) = std::env::var(CHILD) {
        let lab = Lab::new(1);
        let _ = lab.run(lab.sh(&format!("trap '' TERM HUP; sleep {long} & sleep {long}")));
        return;
    }
    let long = long(65432);
    let dir = tempfile::tempdir().unwrap();
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "deaths::steps_die_with_the_program_that_started_them"])
        .env(CHILD, &long)
        .env("TMPDIR", dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the step runs", || runs(&long));
    program.kill().unwrap();
    program.wait().unwrap();
    wait_until("nothing of the step runs", || !runs(&long));
}

/// The control groups named after a process.
fn groups_of(pid: i32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = dirs.pop() {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if entry.file_name().to_str() == Some(&format!("quern-{pid}")) {
                found.push(entry.path());
            }
            dirs.push(entry.path());
        }
    }
    found
}

#[test]
fn groups_carry_the_limits_and_vanish_with_the_executor() {
    let lab = Lab::new(1);
    let mut step = lab.sh("true");
    step.resources.memory = Some(64 << 20);
    step.resources.cpu_milli = Some(500);
    step.resources.pids = Some(7);
    assert_eq!(lab.run(step).unwrap().outcome.exit, Exit::Code(0));
    let pid = lab.launchers()[0];
    let read =
        |file: &str| groups_of(pid).iter().find_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
    for (file, expected) in [
        ("pids.max", "9"),
        ("memory.limit_in_bytes", "71303168"),
        ("memory.max", "71303168"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.max", "50000 100000"),
    ] {
        // Which of them there are depends on the machine and the rights of whoever runs the test.
        if let Some(limit) = read(file) {
            assert_eq!(limit.trim(), expected, "{file}");
        }
    }
    let groups = groups_of(pid);
    assert!(!as_root() || !Path::new("/sys/fs/cgroup/pids").exists() || groups.len() >= 2, "{groups:?}");
    drop(lab);
    assert_eq!(groups_of(pid), Vec::<PathBuf>::new());
}

#[test]
fn a_program_that_is_no_launcher_is_named() {
    let lab = Lab::new(1);
    let options = |launcher: &str| quern_exec::LocalOptions {
        workspace: lab.room.clone(),
        images: lab.room.clone(),
        layers: lab.layers.clone(),
        launcher: launcher.into(),
        workers: 1,
    };
    for program in ["/bin/true", "/no/such/program"] {
        let executor = quern_exec::LocalExecutor::new(options(program)).unwrap();
        for _ in 0..2 {
            let error = executor.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("the launcher {program} did not start")), "{error}");
        }
    }
    assert!(
        quern_exec::LocalExecutor::new(quern_exec::LocalOptions { workers: 0, ..options("/bin/true") })
            .is_err()
    );
    assert!(lab.executor.check().is_ok() && launcher().exists());
}
