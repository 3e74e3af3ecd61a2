//! The suite as an ordinary user, who makes sandboxes in user namespaces.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;

use quern_exec::{ExecError, Refusal};

use crate::lab::{Lab, as_root, launcher};
use crate::{again, changes, ends, escapes, hostile, limits, sees, shown};

/// The user `nobody`.
const ORDINARY: u32 = 65534;

#[test]
fn the_suite_as_an_ordinary_user() {
    if as_root() {
        as_nobody("ordinary_user::the_suite_as_an_ordinary_user", &[]);
        return;
    }
    let failed: Vec<&str> =
        [again::ALL, changes::ALL, ends::ALL, escapes::ALL, hostile::ALL, limits::ALL, sees::ALL, shown::ALL]
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

/// A user namespace in which no other may be made, and no right to do without.
const FORBIDDEN: &str = "echo 0 > /proc/sys/user/max_user_namespaces && \
                         exec setpriv --bounding-set -sys_admin --inh-caps -all \"$0\" \"$@\"";

#[test]
fn a_machine_that_forbids_namespaces_is_told_apart() {
    const CHILD: &str = "QUERN_TEST_FORBIDDEN";
    if std::env::var_os(CHILD).is_none() {
        let wrapper =
            ["env", "QUERN_TEST_FORBIDDEN=1", "unshare", "--user", "--map-root-user", "sh", "-c", FORBIDDEN];
        as_nobody("ordinary_user::a_machine_that_forbids_namespaces_is_told_apart", &wrapper);
        return;
    }
    match Lab::new(1).executor.check() {
        Err(ExecError::Refused(refusal @ Refusal::Namespaces { .. })) => {
            let text = refusal.to_string();
            assert!(text.starts_with("this machine does not allow user namespaces"), "{text}");
            assert!(text.contains("`sysctl user.max_user_namespaces="), "{text}");
        }
        other => panic!("{other:?}"),
    }
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
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["--exact", test, "--nocapture"])
        .env("QUERN_TEST_LAUNCHER", copy(&launcher(), "launcher"))
        .env("TMPDIR", dir.path())
        .current_dir(dir.path());
    if as_root() {
        command.uid(ORDINARY).gid(ORDINARY);
    }
    let status = command.status().unwrap();
    assert!(status.success(), "as an ordinary user: {status}; its output is above");
}
