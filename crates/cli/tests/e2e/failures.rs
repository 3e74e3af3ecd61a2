//! What goes wrong while jobs run: datums that fail, time out or are stopped, and what is kept.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::space::{Space, copier, counts, pfs, shell, text, wait_until};

/// Copies each file, but fails for those that hold `bad`; each attempt is written to the log.
const PICKY: &str = "f=$(ls /pfs/texts); echo \"try $f\"; if grep -q bad /pfs/texts/$f; then exit 1; fi; cp /pfs/texts/$f /pfs/out/";

fn texts(contents: &[(&str, &str)]) -> Space {
    let space = Space::with_repos(&["texts"]);
    for (name, content) in contents {
        space.put(&format!("texts@master:/{name}"), content);
    }
    space
}

fn states(space: &Space, pipeline: &str) -> Vec<String> {
    let job = space.newest_job(pipeline);
    space.names(&format!("list datum {}", text(&job["id"])), "state")
}

#[test]
fn a_failing_datum_fails_the_job_and_the_others_are_kept() {
    let space = texts(&[("a", "good"), ("b", "bad"), ("c", "good")]);
    let mut spec = shell("pick", pfs("texts", "/*"), &[PICKY]);
    spec["datum_tries"] = json!(2);
    space.feed("create pipeline", format!("{spec}{}", copier("after", "pick"))).ok();
    let flushed = space.flush("texts@master");
    let said = flushed.fails(1);
    assert!(said.contains("pick") && said.contains("quern logs"), "{said}");
    assert_eq!(flushed.steps("ran"), ["pick texts:/a", "pick texts:/c"]);
    assert_eq!(flushed.steps("failed"), ["pick texts:/b"]);
    assert_eq!(flushed.lines("pick").iter().filter(|line| *line == "try b").count(), 2, "tried twice");
    let job = space.newest_job("pick");
    assert_eq!((text(&job["state"]), counts(&job)), ("failure".into(), [2, 0, 1, 0, 3]));
    assert!(text(&job["reason"]).contains("texts:/b"), "{job}");
    assert_eq!(states(&space, "pick"), ["failed", "success", "success"], "failed ones first");
    let id = text(&job["id"]);
    let datum = space.json(&format!("list datum {id}"))[0].clone();
    assert_eq!((&datum["files"], &datum["tries"]), (&json!(["texts:/b"]), &json!(2)));
    let after = space.newest_job("after");
    assert_eq!(text(&after["state"]), "failure", "{after}");
    assert_eq!(text(&after["reason"]), "inputs failed: pick@master");

    space.put("texts@master:/b", "good now");
    assert_eq!(space.flush("texts@master").ran().first().map(String::as_str), Some("after pick:/a"));
    assert_eq!(counts(&space.newest_job("pick")), [1, 2, 0, 0, 3], "what had succeeded is not run again");
    assert_eq!(space.get("after@master:/b"), "good now");
}

#[test]
fn a_failed_job_is_not_repeated_by_itself() {
    let space = texts(&[("b", "bad")]);
    let mut spec = shell("pick", pfs("texts", "/*"), &[PICKY]);
    spec["datum_tries"] = json!(1);
    space.create(&spec);
    space.flush("texts@master").fails(1);
    let again = space.flush("texts@master");
    again.fails(1);
    assert!(again.began().is_empty(), "the flush still reports it: {:?}", again.events);
    assert_eq!(space.json("list job").as_array().map(Vec::len), Some(1));
    space.quern("run pipeline pick").ok();
    assert_eq!(space.flush("texts@master").steps("failed"), ["pick texts:/b"], "a person may ask for it");
}

#[test]
fn an_error_handler_recovers_a_datum_and_it_runs_again_next_time() {
    let space = texts(&[("a", "good"), ("b", "bad")]);
    let mut spec = shell("pick", pfs("texts", "/*"), &[PICKY]);
    spec["transform"]["err_cmd"] = json!(["sh"]);
    spec["transform"]["err_stdin"] = json!(["echo handled; echo rescued > /pfs/out/b"]);
    spec["datum_tries"] = json!(2);
    space.create(&spec);
    let flushed = space.flush("texts@master");
    flushed.ran();
    assert_eq!(flushed.steps("recovered"), ["pick texts:/b"]);
    let handled = flushed.lines("pick").iter().filter(|line| *line == "handled").count();
    assert_eq!(handled, 1, "after the last attempt only");
    assert_eq!(counts(&space.newest_job("pick")), [1, 0, 0, 1, 2]);
    assert!(space.quern("list job").ok().contains("1 + 0 + 1 / 2"));
    assert_eq!(space.names("list file pick@master", "path"), ["/a"], "its output is dropped");
    assert_eq!(states(&space, "pick"), ["recovered", "success"]);
    space.put("texts@master:/c", "good");
    let second = space.flush("texts@master");
    assert_eq!(
        (second.ran(), second.steps("recovered")),
        (vec!["pick texts:/c".to_owned()], vec!["pick texts:/b".to_owned()])
    );
    spec["transform"]["err_stdin"] = json!(["exit 1"]);
    space.update(&spec);
    space.flush("texts@master").fails(1);
    assert_eq!(counts(&space.newest_job("pick"))[2], 1, "a handler that fails leaves it failed");
}

#[test]
fn attempts_are_repeated_until_one_succeeds() {
    let space = texts(&[("a", "x")]);
    // Half of all nanosecond clocks are even; sixty attempts that all fail do not happen.
    let mut spec = shell(
        "flaky",
        pfs("texts", "/*"),
        &["echo try; test $(($(date +%N | sed 's/^0*//;s/^$/0/') / 1000 % 2)) = 0"],
    );
    spec["datum_tries"] = json!(60);
    space.create(&spec);
    let flushed = space.flush("texts@master");
    assert_eq!(flushed.ran(), ["flaky texts:/a"]);
    let id = text(&space.newest_job("flaky")["id"]);
    let tries = space.json(&format!("list datum {id}"))[0]["tries"].as_u64();
    assert_eq!(tries, Some(flushed.lines("flaky").len() as u64), "as many as were made");
}

#[test]
fn accepted_codes_are_success() {
    let space = texts(&[("a", "x")]);
    let mut spec = shell("odd", pfs("texts", "/*"), &["cp /pfs/texts/* /pfs/out/; exit 7"]);
    spec["datum_tries"] = json!(1);
    space.create(&spec);
    let said = space.flush("texts@master").fails(1);
    assert!(said.contains('7'), "the code is named: {said}");
    spec["transform"]["accept_return_code"] = json!([3, 7]);
    space.update(&spec);
    assert_eq!(space.flush("texts@master").ran(), ["odd texts:/a"]);
    assert_eq!(space.get("odd@master:/a"), "x");
}

#[test]
fn a_missing_program_is_named() {
    let space = texts(&[("a", "x")]);
    let mut spec = shell("absent", pfs("texts", "/*"), &[]);
    spec["transform"]["cmd"] = json!(["no-such-program"]);
    spec["datum_tries"] = json!(1);
    space.create(&spec);
    let said = space.flush("texts@master").fails(1);
    assert!(said.contains("no-such-program"), "{said}");
}

#[test]
fn a_datum_that_takes_too_long_is_killed() {
    let space = texts(&[("a", "x"), ("b", "slow")]);
    let slow = "f=$(ls /pfs/texts); if grep -q slow /pfs/texts/$f; then sleep 60 & sleep 60; fi; cp /pfs/texts/$f /pfs/out/";
    let mut spec = shell("timed", pfs("texts", "/*"), &[slow]);
    spec["datum_tries"] = json!(1);
    spec["datum_timeout"] = json!("300ms");
    space.create(&spec);
    let start = Instant::now();
    let flushed = space.flush("texts@master");
    flushed.fails(1);
    assert!(start.elapsed() < Duration::from_secs(30), "nobody waited for the sleeping programs");
    assert_eq!(
        (flushed.steps("ran"), flushed.steps("failed")),
        (vec!["timed texts:/a".into()], vec!["timed texts:/b".into()])
    );
    let job = space.newest_job("timed");
    let reason = text(&job["reason"]);
    assert!(reason.contains("300 ms") || reason.contains("300ms") || reason.contains("0.3"), "{reason}");
}

#[test]
fn a_job_that_takes_too_long_is_killed() {
    let space = texts(&[("a", "x"), ("b", "y")]);
    let mut spec = shell("timed", pfs("texts", "/*"), &["sleep 60"]);
    spec["job_timeout"] = json!("500ms");
    space.create(&spec);
    let start = Instant::now();
    space.flush("texts@master").fails(1);
    assert!(start.elapsed() < Duration::from_secs(30));
    let job = space.newest_job("timed");
    assert_eq!((text(&job["state"]), text(&job["reason"])), ("killed".into(), "job timed out".into()));
}

#[test]
fn a_failed_build_fails_the_pipeline_that_needs_it() {
    let space = texts(&[("a.txt", "one two")]);
    space.example("wordcount");
    space.write("wordcount/source/main.py", "def broken(:\n");
    space.quern("create pipeline -f wordcount/count.json").ok();
    let flushed = space.flush("texts@master");
    flushed.fails(1);
    assert_eq!(flushed.steps("failed"), ["count_build everything"]);
    let (build, main) = (space.newest_job("count_build"), space.newest_job("count"));
    assert_eq!((text(&build["state"]), text(&main["state"])), ("failure".into(), "failure".into()));
    assert_eq!(text(&main["reason"]), "inputs failed: count_build@build");
    let logs = space.quern("logs -p count_build").ok();
    assert!(logs.contains("main.py"), "the build's own message: {logs}");

    space.write("wordcount/source/main.py", "open('/pfs/out/x', 'w').write('fixed')\n");
    space.quern("update pipeline -f wordcount/count.json").ok();
    space.flush("texts@master").ran();
    assert_eq!(space.get("count@master:/x"), "fixed");
}

#[test]
fn a_job_is_stopped_wherever_it_runs() {
    let space = texts(&[("a", "x")]);
    space.create(&shell("slow", pfs("texts", "/*"), &["sleep 60"]));
    let mut flush = space.command(&["flush", "commit", "texts@master"]);
    let flush = flush
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("quern starts");
    wait_until("the job runs", || space.newest_job("slow")["state"] == "running");
    let id = text(&space.newest_job("slow")["id"]);
    space.quern(&format!("delete job {id}")).says(3, &["stop"]);
    space.quern(&format!("stop job {id}")).ok();
    let output = flush.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text(&space.newest_job("slow")["state"]), "killed");
    space.quern(&format!("stop job {id}")).ok();
    assert!(space.flush("texts@master").began().is_empty(), "a stopped job does not come back by itself");
    space.update(&copier("slow", "texts"));
    assert_eq!(space.flush("texts@master").ran(), ["slow texts:/a"]);
}

#[test]
fn an_update_replaces_the_job_that_was_not_run_yet() {
    let space = texts(&[("a", "x")]);
    space.create(&shell("fail", pfs("texts", "/*"), &["exit 1"]));
    space.update(&copier("fail", "texts"));
    assert_eq!(space.flush("texts@master").ran(), ["fail texts:/a"]);
    let states = space.names("list job", "state");
    assert!(!states.contains(&"failure".to_owned()), "what was replaced never ran: {states:?}");
}

#[test]
fn outputs_that_do_not_fit_together_name_both_datums() {
    let space = texts(&[("a", "x"), ("b", "y")]);
    space.create(&shell("clash", pfs("texts", "/*"), &["if [ -e /pfs/texts/a ]; then echo 1 > /pfs/out/x; else mkdir /pfs/out/x; echo 2 > /pfs/out/x/y; fi"]));
    space.flush("texts@master").fails(1);
    let reason = text(&space.newest_job("clash")["reason"]);
    assert!(reason.contains("/x"), "{reason}");
    let mut spec = shell("strict", pfs("texts", "/*"), &["cat /pfs/texts/* > /pfs/out/same"]);
    spec["merge"] = json!("fail");
    space.create(&spec);
    space.flush("texts@master").fails(1);
    assert_eq!(text(&space.newest_job("strict")["state"]), "failure");
    spec["merge"] = json!("concat");
    space.update(&spec);
    space.flush("texts@master").fails(1);
    let both = space.get("strict@master:/same");
    assert!(both == "xy" || both == "yx", "{both}");
    assert_eq!(counts(&space.newest_job("strict")), [0, 2, 0, 0, 2], "only the merge was done again");
}
