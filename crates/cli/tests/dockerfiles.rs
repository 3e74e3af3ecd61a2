//! The images that quern builds from the Dockerfiles of `tests/dockerfiles`, entry by entry against what BuildKit made
//! of them; `scripts/conformance` does the work and says how to record.
//!
//! `QUERN_DOCKERFILES` names another folder, laid out the same way. The cases want root: they own files to others.

use std::path::{Path, PathBuf};
use std::process::Command;

use quern_testkit::TempSpace;

#[test]
fn conformance_of_images() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: what the cases own to others needs root");
        return;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let own = || repository.join("tests/dockerfiles");
    let cases = std::env::var_os("QUERN_DOCKERFILES").map_or_else(own, PathBuf::from);
    let work = TempSpace::new();
    let run = Command::new("python3")
        .arg(repository.join("scripts/conformance"))
        .arg(work.path("work"))
        .arg("--cases")
        .arg(&cases)
        .args(["--small", "--quern", env!("CARGO_BIN_EXE_quern")])
        .output()
        .expect("python3 is there");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    let last = said.lines().last().unwrap_or_default();
    let built: usize = last.split(' ').next().and_then(|count| count.parse().ok()).expect("a count of cases");
    assert!(built > 0 && last.ends_with(" 0 not"), "{last}");
}
