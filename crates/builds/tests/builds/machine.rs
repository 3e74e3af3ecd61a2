//! One build, event by event.

use std::collections::BTreeMap;

use quern_builds::{
    AbortCause, Build, BuildPolicy, BuildStatus, Completion, Effect, Event, EventError, Facts, InputFailure,
    JobFailure, JobIndex, JobState, LastBuilt, Request, Selection, plan,
};
use quern_core::{Digest, Timestamp, Version};

use crate::words::{branch, head, id, specs};

/// A build of these specs, all of them stale, with `a` at its first commit.
fn open(texts: &[&str], policy: BuildPolicy, request: impl FnOnce(&mut Request)) -> Build {
    let specs = specs(texts);
    let heads = BTreeMap::from([(branch("a"), head(1, "a")), (branch("b"), head(1, "old b"))]);
    let mut wanted = Request::of(Selection::All);
    request(&mut wanted);
    let plan = plan(&wanted, &Facts { specs: &specs, heads: &heads, last_built: &BTreeMap::new() }).unwrap();
    let mut next = 100;
    let ids = || {
        next += 1;
        id(next)
    };
    let (build, effects) = Build::open(id(1), plan, policy, ids, Timestamp(0));
    let none = [Effect::Close { status: BuildStatus::Succeeded }];
    let locks = (0..build.jobs().len() as u32).map(|n| Effect::LockOutputs { job: JobIndex(n) });
    let locks: Vec<_> = locks.collect();
    assert_eq!(effects, if locks.is_empty() { &none } else { locks.as_slice() });
    build
}

fn simple(texts: &[&str]) -> Build {
    open(texts, BuildPolicy::default(), |_| {})
}

const J0: JobIndex = JobIndex(0);
const J1: JobIndex = JobIndex(1);
const J2: JobIndex = JobIndex(2);

/// Applies events at one second each and gives the effects of the last one in words.
fn after(build: &mut Build, events: &[Event]) -> String {
    let mut effects = Vec::new();
    for event in events {
        effects = build.on(Timestamp(1000), event).unwrap();
    }
    effects.iter().map(effect).collect::<Vec<_>>().join(", ")
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::LockOutputs { job } => format!("lock {}", job.0),
        Effect::Run { job, attempt, not_before: None, .. } => format!("run {}.{attempt}", job.0),
        Effect::Run { job, attempt, not_before: Some(at), .. } => {
            format!("run {}.{attempt} at {}", job.0, at.0)
        }
        Effect::Cancel { job } => format!("cancel {}", job.0),
        Effect::FinishOutputs { job } => format!("finish {}", job.0),
        Effect::KeepOutputs { job } => format!("keep {}", job.0),
        Effect::DropOutputs { job } => format!("drop {}", job.0),
        Effect::Close { status } => format!("close {status:?}"),
    }
}

fn locked(job: JobIndex) -> Event {
    Event::OutputsLocked { job, last: None }
}

fn started(job: JobIndex) -> Event {
    Event::Started { job }
}

fn completed(job: JobIndex, dataset: &str, content: &str) -> Event {
    Event::Completed { job, outputs: BTreeMap::from([(branch(dataset), head(2, content))]) }
}

fn failed(job: JobIndex, retryable: bool) -> Event {
    Event::Failed { job, failure: JobFailure { message: "no".into(), retryable } }
}

fn states(build: &Build) -> Vec<&'static str> {
    build.jobs().iter().map(|job| job.state().name()).collect()
}

#[test]
fn a_chain_runs_in_order() {
    let build = &mut simple(&["a > b", "b > c"]);
    assert_eq!(states(build), ["WAITING", "WAITING"]);
    assert_eq!(after(build, &[locked(J0)]), "run 0.1");
    assert_eq!(after(build, &[locked(J1)]), "", "its input is not there yet");
    assert_eq!(after(build, &[started(J0)]), "");
    assert_eq!(states(build), ["RUNNING", "WAITING"]);
    let effects = build.on(Timestamp(5), &completed(J0, "b", "new b")).unwrap();
    assert_eq!(effects[0], Effect::FinishOutputs { job: J0 });
    let inputs = BTreeMap::from([(branch("b"), head(2, "new b"))]);
    assert_eq!(effects[1..], [Effect::Run { job: J1, attempt: 1, not_before: None, inputs }]);
    assert_eq!(after(build, &[started(J1), completed(J1, "c", "c")]), "finish 1, close Succeeded");
    assert_eq!((build.status(), build.closed()), (BuildStatus::Succeeded, Some(Timestamp(1000))));
    let remembered = build.job(J1).unwrap().remembered().unwrap();
    assert_eq!(remembered.inputs, BTreeMap::from([(branch("b"), head(2, "new b"))]));
    assert_eq!(remembered.outputs, BTreeMap::from([(branch("c"), head(2, "c"))]));
    assert!(build.job(J1).unwrap().changed_something());
}

#[test]
fn nothing_to_do_is_done_at_once() {
    let build = simple(&[]);
    assert_eq!((build.status(), build.closed()), (BuildStatus::Succeeded, Some(Timestamp(0))));
}

#[test]
fn a_failure_aborts_what_depends_on_it_and_nothing_else() {
    let build = &mut simple(&["a > b", "b > c", "a > x"]);
    after(build, &[locked(J0), locked(J1), locked(J2), started(J0), started(J2)]);
    assert_eq!(after(build, &[failed(J0, false)]), "drop 0, drop 1");
    assert_eq!(states(build), ["FAILED", "ABORTED", "RUNNING"]);
    assert!(build.jobs().iter().all(|job| !job.changed_something() && job.remembered().is_none()));
    let JobState::Aborted { cause, .. } = build.job(J1).unwrap().state() else { panic!() };
    assert_eq!(*cause, AbortCause::Upstream { job: J0 });
    assert_eq!(after(build, &[completed(J2, "x", "x")]), "finish 2, close Failed");
}

#[test]
fn the_first_failure_may_end_the_build() {
    let policy = BuildPolicy { finish_on_failure: true, ..BuildPolicy::default() };
    let build = &mut open(&["a > b", "b > c", "a > x"], policy, |_| {});
    after(build, &[locked(J0), locked(J1), locked(J2), started(J0), started(J2)]);
    assert_eq!(after(build, &[failed(J0, true)]), "drop 0, drop 1, cancel 2");
    assert_eq!(states(build), ["FAILED", "ABORTED", "ABORT_PENDING"]);
    assert_eq!(after(build, &[Event::Stopped { job: J2 }]), "drop 2, close Failed");
}

#[test]
fn retries() {
    let check = |attempts, retry_everything, retryable, backoff_seconds, expected: &[&str]| {
        let policy = BuildPolicy { attempts, retry_everything, backoff_seconds, ..BuildPolicy::default() };
        let build = &mut open(&["a > b"], policy, |_| {});
        after(build, &[locked(J0)]);
        let mut effects = Vec::new();
        while build.status() == BuildStatus::Running {
            effects.push(after(build, &[started(J0), failed(J0, retryable)]));
        }
        assert_eq!(effects, expected);
        assert_eq!(build.job(J0).unwrap().attempts.len(), expected.len());
    };
    check(0, false, true, 0, &["drop 0, close Failed"]);
    check(1, true, true, 0, &["drop 0, close Failed"]);
    check(3, false, false, 0, &["drop 0, close Failed"]);
    check(3, false, true, 0, &["run 0.2", "run 0.3", "drop 0, close Failed"]);
    check(2, true, false, 60, &["run 0.2 at 61000", "drop 0, close Failed"]);
}

#[test]
fn a_lost_worker_is_no_failure_but_not_for_ever() {
    let build = &mut simple(&["a > b"]);
    after(build, &[locked(J0)]);
    let lost = [started(J0), Event::Lost { job: J0 }];
    for n in 2..=10 {
        assert_eq!(after(build, &lost), format!("run 0.{n}"));
    }
    assert_eq!(after(build, &lost), "drop 0, close Failed");
    let build = &mut simple(&["a > b"]);
    after(build, &[locked(J0)]);
    let mut effects = Vec::new();
    for _ in 0..10 {
        after(build, &[started(J0)]);
        effects = build.resume(Timestamp(1)).unwrap();
    }
    assert_eq!(effects.iter().map(effect).collect::<Vec<_>>(), ["drop 0", "close Failed"]);
    assert_eq!(build.closed(), Some(Timestamp(1)));
}

#[test]
fn abort_touches_only_what_has_not_ended() {
    let build = &mut simple(&["a > b", "a > x", "b x > y"]);
    after(build, &[locked(J0), locked(J1), started(J0), completed(J0, "b", "b")]);
    assert_eq!(after(build, &[Event::Abort]), "cancel 1, drop 2");
    assert_eq!(states(build), ["COMPLETED", "ABORT_PENDING", "ABORTED"]);
    assert_eq!(after(build, &[Event::Abort]), "", "once is enough");
    assert_eq!(after(build, &[Event::Stopped { job: J1 }]), "drop 1, close Canceled");
}

#[test]
fn a_result_that_comes_after_the_abort_is_dropped() {
    let build = &mut simple(&["a > b"]);
    after(build, &[locked(J0), started(J0), Event::Abort]);
    assert_eq!(after(build, &[completed(J0, "b", "b")]), "drop 0, close Canceled");
    assert_eq!(build.job(J0).unwrap().remembered(), None);
}

#[test]
fn one_job_may_be_stopped() {
    let build = &mut simple(&["a > b", "b > c", "a > x"]);
    let stop = Event::AbortJob { job: J0, cause: AbortCause::Superseded };
    after(build, &[locked(J0), locked(J2), started(J0), stop]);
    assert_eq!(states(build), ["ABORT_PENDING", "WAITING", "RUN_PENDING"]);
    assert_eq!(after(build, &[Event::Stopped { job: J0 }]), "drop 0, drop 1");
}

#[test]
fn a_reader_may_go_on_with_the_old_state_of_a_failed_input() {
    let go_on = |dataset: &'static str| {
        move |request: &mut Request| {
            request.input_failures.insert(branch(dataset), InputFailure::Continue);
        }
    };
    let build = &mut open(&["a > b", "b > c"], BuildPolicy::default(), go_on("b"));
    after(build, &[locked(J0), locked(J1), started(J0)]);
    let effects = build.on(Timestamp(1), &failed(J0, false)).unwrap();
    let inputs = BTreeMap::from([(branch("b"), head(1, "old b"))]);
    assert_eq!(effects[1], Effect::Run { job: J1, attempt: 1, not_before: None, inputs });
    let build = &mut open(&["a > x", "x > y"], BuildPolicy::default(), go_on("x"));
    after(build, &[locked(J0), locked(J1), started(J0)]);
    assert_eq!(after(build, &[failed(J0, false)]), "drop 0, drop 1, close Failed", "x never had a state");
}

/// What an earlier build of `b > c` left, made from `content` of b.
fn last(content: &str) -> LastBuilt {
    LastBuilt {
        version: Version,
        job: id(50),
        logic: Digest::of(b"logic"),
        inputs: BTreeMap::from([(branch("b"), head(1, content))]),
        outputs: BTreeMap::from([(branch("c"), head(1, "c"))]),
    }
}

#[test]
fn early_cut_off() {
    let check = |request: fn(&mut Request), known: LastBuilt, expected: &str| {
        let build = &mut open(&["a > b", "b > c"], BuildPolicy::default(), request);
        after(build, &[locked(J0), Event::OutputsLocked { job: J1, last: Some(known) }, started(J0)]);
        assert_eq!(after(build, &[completed(J0, "b", "same b")]), expected);
        build.job(J1).unwrap().clone()
    };
    let job = check(|_| {}, last("same b"), "finish 0, keep 1, close Succeeded");
    let JobState::Completed { how: Completion::Reused, outputs, .. } = job.state() else { panic!() };
    assert_eq!(*outputs, BTreeMap::from([(branch("c"), head(1, "c"))]));
    assert!(!job.changed_something() && job.attempts.is_empty());
    let remembered = job.remembered().unwrap();
    assert_eq!(remembered.inputs[&branch("b")].commit, id(2), "so that the next plan finds it fresh");
    check(|_| {}, last("another b"), "finish 0, run 1.1");
    check(|_| {}, LastBuilt { logic: Digest::of(b"x"), ..last("same b") }, "finish 0, run 1.1");
    check(|request| request.force = true, last("same b"), "finish 0, run 1.1");
}

#[test]
fn events_that_cannot_have_happened_change_nothing() {
    let build = &mut simple(&["a > b"]);
    let refused = |build: &mut Build, event: Event| {
        let before = build.clone();
        let error = build.on(Timestamp(0), &event).unwrap_err();
        assert_eq!(*build, before, "{event:?}");
        error
    };
    for event in [
        started(J0),
        completed(J0, "b", ""),
        failed(J0, true),
        Event::Lost { job: J0 },
        Event::Stopped { job: J0 },
    ] {
        assert!(matches!(refused(build, event), EventError::Transition(_)));
    }
    let stop = Event::AbortJob { job: J2, cause: AbortCause::Requested };
    for event in
        [started(J2), completed(J2, "b", ""), failed(J2, true), Event::Lost { job: J2 }, locked(J2), stop]
    {
        assert_eq!(refused(build, event), EventError::NoJob { build: id(1), job: J2 });
    }
    after(build, &[locked(J0)]);
    let error = refused(build, locked(J0));
    assert_eq!(error.to_string(), format!("job {} is RUN_PENDING and cannot become WAITING", id(101)));
    after(build, &[started(J0), failed(J0, false)]);
    refused(build, failed(J0, false));
    refused(build, completed(J0, "b", ""));
}

#[test]
fn another_driver_carries_on() {
    let build = &mut simple(&["a > b", "a > x", "b x > y"]);
    after(
        build,
        &[
            locked(J0),
            locked(J1),
            started(J0),
            started(J1),
            Event::AbortJob { job: J1, cause: AbortCause::Requested },
        ],
    );
    let stored = serde_json::to_string(build).unwrap();
    let mut build: Build = serde_json::from_str(&stored).unwrap();
    let effects = build.resume(Timestamp(9)).unwrap();
    assert_eq!(effects.iter().map(effect).collect::<Vec<_>>(), ["run 0.2", "cancel 1", "lock 2"]);
    let again = build.resume(Timestamp(9)).unwrap();
    assert_eq!(again, effects, "resuming twice asks for the same");
}

#[test]
fn records_of_another_format_are_refused() {
    let stored = serde_json::to_string(&simple(&["a > b"])).unwrap();
    assert!(stored.starts_with(r#"{"version":1,"#), "{stored}");
    let newer = stored.replacen(r#""version":1"#, r#""version":2"#, 1);
    let error = serde_json::from_str::<Build>(&newer).unwrap_err().to_string();
    assert!(error.contains("format 2"), "{error}");
}

#[test]
fn outputs_that_are_left_as_they_were() {
    let build = &mut simple(&["a > b c"]);
    let before = LastBuilt {
        outputs: BTreeMap::from([
            (branch("b"), head(1, "b")),
            (branch("c"), head(1, "c")),
            (branch("old"), head(1, "")),
        ]),
        ..last("other")
    };
    let outputs = BTreeMap::from([(branch("b"), head(2, "new")), (branch("foreign"), head(2, ""))]);
    let events = [
        Event::OutputsLocked { job: J0, last: Some(before) },
        started(J0),
        Event::Completed { job: J0, outputs },
    ];
    assert_eq!(after(build, &events), "finish 0, close Succeeded");
    let expected = BTreeMap::from([(branch("b"), head(2, "new")), (branch("c"), head(1, "c"))]);
    assert_eq!(build.job(J0).unwrap().remembered().unwrap().outputs, expected);
    assert!(build.job(J0).unwrap().changed_something());
}
