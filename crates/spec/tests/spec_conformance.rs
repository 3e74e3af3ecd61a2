//! The manifest-reading rows of the Pachyderm case file: what the original's client accepts as a
//! shape, and what it refuses.

use std::path::PathBuf;

use quern_spec::pachyderm::decode_pipelines;
use serde_json::Value;

#[test]
fn conformance_spec_parse() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cases");
    let folder = std::env::var_os("QUERN_CASES").map_or_else(|| PathBuf::from(default), PathBuf::from);
    let text = std::fs::read_to_string(folder.join("pachyderm_glob_cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let rows = cases["spec_parse"].as_array().unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let parsed = decode_pipelines("spec", row["spec"].as_str().unwrap());
        let shown = parsed.render(&quern_spec::diagnostic::Plain);
        assert_eq!(parsed.is_ok(), row["ok"].as_bool().unwrap(), "{row}\n{shown}");
    }
}
