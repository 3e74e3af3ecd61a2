//! The house rules that a machine can check: the arrows between crates as ARCHITECTURE.md draws them, and the
//! size of files.

#![expect(clippy::unwrap_used, reason = "a test stops at the first thing it cannot read")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The table of allowed arrows: rows `| crate | may name | ... |` below the heading `## Rooms and arrows`.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = page.split("## Rooms and arrows").nth(1).expect("the section of arrows");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let names = cells[2].split(',').map(|name| name.trim().trim_matches('`').to_owned());
        (cells[1].trim_matches('`').to_owned(), names.filter(|name| name != "-").collect())
    })
    .collect()
}

/// Names of the crates that a manifest's table depends on, without the prefix.
fn named(manifest: &toml::Table, table: &str) -> BTreeSet<String> {
    let names = manifest.get(table).and_then(toml::Value::as_table).into_iter().flat_map(|t| t.keys());
    names.filter_map(|name| name.strip_prefix("quern-")).map(str::to_owned).collect()
}

#[test]
fn crates_name_only_what_the_architecture_allows() {
    let allowed = allowed();
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse::<toml::Table>().unwrap();
        let may =
            allowed.get(&name).unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for crate `{name}`"));
        let does = named(&manifest, "dependencies");
        assert!(does.is_subset(may), "{name} names {:?}", does.difference(may).collect::<Vec<_>>());
        let tests: BTreeSet<String> = may.iter().cloned().chain(["testkit".into(), name.clone()]).collect();
        let dev = named(&manifest, "dev-dependencies");
        assert!(
            dev.is_subset(&tests),
            "tests of {name} name {:?}",
            dev.difference(&tests).collect::<Vec<_>>()
        );
        seen.insert(name);
    }
    assert_eq!(seen, allowed.keys().cloned().collect(), "rows of ARCHITECTURE.md and crates");
}

#[test]
fn files_stay_small() {
    let mut long = Vec::new();
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                if lines > MAX_LINES {
                    long.push(format!("{} has {lines} lines", path.display()));
                }
            }
        }
    }
    assert!(long.is_empty(), "files over {MAX_LINES} lines: {long:#?}");
}

#[test]
fn the_way_of_the_data_names_files_that_exist() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let files = page.split('`').filter(|text| text.starts_with("crates/") || text.starts_with("builders/"));
    let missing: Vec<&str> = files.filter(|file| !root().join(file).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names {missing:?}");
}
