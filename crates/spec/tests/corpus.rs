//! Replays the fuzz corpus: what once was interesting stays tested on every run.

use std::path::Path;

#[path = "../../../fuzz/checks/spec.rs"]
mod checks;

fn replay(target: &str, check: fn(&str)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut texts = 0;
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let bytes = std::fs::read(entry.expect("a readable folder").path()).expect("a readable file");
        if let Ok(text) = std::str::from_utf8(&bytes) {
            check(text);
            texts += 1;
        }
    }
    assert!(texts > 0, "no texts in {}", folder.display());
}

#[test]
fn dockerfile() {
    replay("spec_dockerfile", checks::dockerfile);
}

#[test]
fn dockerfile_word() {
    replay("spec_dockerfile_word", checks::dockerfile_word);
}

#[test]
fn dockerignore() {
    replay("spec_dockerignore", checks::dockerignore);
}

#[test]
fn documents() {
    replay("spec_documents", checks::documents);
}

#[test]
fn glob() {
    replay("spec_glob", checks::glob);
}

#[test]
fn pachignore() {
    replay("spec_pachignore", checks::pachignore);
}

#[test]
fn pipelines() {
    replay("spec_pipelines", checks::pipelines);
}
