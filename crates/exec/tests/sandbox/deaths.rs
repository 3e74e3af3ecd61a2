//! Processes that are killed where nobody expects it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use quern_core::port::{Cancel, Exit};
use quern_core::step::Attempt;
use rustix::process::{Pid, Signal, kill_process};

use crate::ends::{long, runs};
use crate::lab::{Lab, launcher};

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
    lab.launchers().into_iter().for_each(kill);
    wait_until("it is gone", || lab.launchers().is_empty());
    assert_eq!(lab.said(lab.sh("echo after")), "after");
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

#[test]
fn groups_vanish_with_the_executor() {
    let lab = Lab::new(1);
    let mut step = lab.sh("true");
    step.resources.memory = Some(64 << 20);
    step.resources.cpu_milli = Some(500);
    assert_eq!(lab.run(step).unwrap().outcome.exit, Exit::Code(0));
    let launchers = lab.launchers();
    let groups = || {
        let dirs = ["pids", "memory", "cpu"].iter().flat_map(|controller| {
            launchers.iter().map(move |pid| format!("/sys/fs/cgroup/{controller}/quern-{pid}"))
        });
        dirs.filter(|dir| Path::new(dir).exists()).count()
    };
    let before = groups();
    drop(lab);
    assert_eq!((launchers.len(), groups()), (1, 0), "of {before} groups");
}

#[test]
fn a_program_that_is_no_launcher_is_named() {
    let lab = Lab::new(1);
    let options = |launcher: &str| quern_exec::LocalOptions {
        workspace: lab.room.clone(),
        images: lab.room.clone(),
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
