//! Runs the scenario files: small programs of builds with the counts they must give.

mod caches;
mod exports;
mod managers;
mod model;
mod ops;
mod runner;

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use model::File;
use quern_solver::Blocking;

/// All scenario files: `solver*.json` in the folder of `QUERN_CASES`, or in the project's own.
fn files() -> Vec<(String, File)> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cases");
    let folder = std::env::var_os("QUERN_CASES").map_or_else(|| PathBuf::from(own), PathBuf::from);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("solver") && name.ends_with(".json")
        })
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no solver*.json in {}", folder.display());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let file = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, file)
    };
    paths.into_iter().map(read).collect()
}

/// Runs one scenario in a thread; a hang is a failure.
fn outcome(scenario: &model::Scenario, blocking: Blocking) -> Result<(), String> {
    let (sender, receiver) = channel();
    let copy = scenario.clone();
    let thread = std::thread::spawn(move || {
        runner::run(&copy, blocking);
        let _ = sender.send(());
    });
    match receiver.recv_timeout(Duration::from_secs(20)) {
        Ok(()) => Ok(()),
        Err(RecvTimeoutError::Timeout) => Err("hangs".into()),
        Err(RecvTimeoutError::Disconnected) => {
            let payload = thread.join().expect_err("a thread that sends nothing has panicked");
            let text = payload.downcast_ref::<String>().cloned();
            Err(text.or_else(|| payload.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default())
        }
    }
}

#[test]
fn conformance_of_scenarios() {
    let only = std::env::var("QUERN_SCENARIO").ok();
    let mut failures = Vec::new();
    let mut ran = 0;
    for (name, file) in files() {
        for scenario in file.scenarios.iter().filter(|s| only.as_ref().is_none_or(|id| *id == s.id)) {
            // Twice: with calls that may block, and with cache maps asked in one sweep after the load.
            let quick = runner::has_quick_maps(scenario).then_some(Blocking::Exec);
            for blocking in [Some(Blocking::Always), quick].into_iter().flatten() {
                for repetition in 0..scenario.repeat {
                    ran += 1;
                    if let Err(text) = outcome(scenario, blocking) {
                        let id = &scenario.id;
                        failures.push(format!("{name} {id} ({blocking:?}, run {repetition}): {text}"));
                        break;
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {ran} runs failed:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 0 || only.is_some(), "nothing ran");
}

#[test]
fn conformance_of_cache_managers() {
    for (_, file) in files() {
        for scenario in &file.cache_manager_scenarios {
            managers::run(scenario);
        }
    }
}
