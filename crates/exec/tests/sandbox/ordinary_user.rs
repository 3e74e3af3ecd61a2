//! The suite as an ordinary user, who makes sandboxes in user namespaces.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;

use crate::lab::{Lab, as_root, launcher};
use crate::{ends, escapes, limits, sees};

/// The user `nobody`.
const ORDINARY: u32 = 65534;

#[test]
fn the_suite_as_an_ordinary_user() {
    if as_root() {
        as_nobody("ordinary_user::the_suite_as_an_ordinary_user", &[]);
        return;
    }
    let failed: Vec<&str> = [ends::ALL, escapes::ALL, limits::ALL, sees::ALL]
        .into_iter()
        .flatten()
        .filter(|(name, check)| {
            println!("{name}");
            catch_unwind(|| check(&Lab::new(1))).is_err()
        })
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Runs one test of this program again as somebody who is not root.
fn as_nobody(test: &str, wrapper: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    // Copies, because the originals may lie where only root can read.
    let copy = |from: &Path, name: &str| {
        let to = dir.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let program = copy(&std::env::current_exe().unwrap(), "test");
    let mut words = wrapper.iter().map(std::ffi::OsString::from).collect::<Vec<_>>();
    words.push(program.into());
    let status = Command::new(&words[0])
        .args(&words[1..])
        .args(["--exact", test, "--nocapture"])
        .env("QUERN_TEST_LAUNCHER", copy(&launcher(), "launcher"))
        .env("TMPDIR", dir.path())
        .current_dir(dir.path())
        .uid(ORDINARY)
        .gid(ORDINARY)
        .status()
        .unwrap();
    assert!(status.success(), "as an ordinary user: {status}; its output is above");
}
