//! Replays the fuzz corpus: what once was interesting stays tested on every run.

use std::path::Path;

#[path = "../../../fuzz/checks/oci.rs"]
mod checks;

/// Each case, and `neighbours` of it: cut and changed at evenly spaced places.
fn replay(target: &str, neighbours: usize, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files: Vec<_> = std::fs::read_dir(&folder).expect("the corpus is there").collect();
    assert!(!files.is_empty(), "{target}");
    for file in files {
        let bytes = std::fs::read(file.expect("a file").path()).expect("a file");
        check(&bytes);
        for at in (0..bytes.len()).step_by((bytes.len() / neighbours).max(1)) {
            check(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            check(&changed);
        }
    }
}

fn text(check: impl Fn(&str)) -> impl Fn(&[u8]) {
    move |bytes| check(&String::from_utf8_lossy(bytes))
}

#[test]
fn documents() {
    replay("oci_documents", 200, checks::documents);
}

#[test]
fn reference() {
    replay("oci_reference", 200, text(checks::reference));
}

#[test]
fn challenge() {
    replay("oci_challenge", 200, text(checks::challenge));
}

#[test]
fn archive() {
    replay("oci_archive", 200, checks::archive);
}

#[test]
fn unpack() {
    replay("oci_unpack", 30, checks::unpack);
}

#[test]
fn layout() {
    replay("oci_layout", 30, checks::layout);
}

#[test]
fn docker_config() {
    replay("oci_docker_config", 30, checks::docker_config);
}
