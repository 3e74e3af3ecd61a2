//! Case files against the command: which datums a pattern gives, and which files of a source are pushed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::space::{Space, pfs, shell, text};

/// The cases of Pachyderm's patterns; `QUERN_CASES` names another folder with files of the same form.
fn cases() -> Value {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cases");
    let folder = PathBuf::from(std::env::var_os("QUERN_CASES").unwrap_or_else(|| own.into()));
    let path = folder.join("pachyderm_glob_cases.json");
    let content =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&content).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is not a list"))
}

/// One pipeline for each case, in the order of the cases.
fn one_for_each(cases: &[Value]) -> Vec<(String, Value)> {
    let spec = |(index, case): (usize, &Value)| {
        let name = format!("case-{index}");
        let seen = ["cd /pfs/files; find . -type f | LC_ALL=C sort"];
        (name.clone(), shell(&name, pfs("files", &text(&case["pattern"])), &seen))
    };
    cases.iter().enumerate().map(spec).collect()
}

/// `files:/path` for each path of a case, sorted.
fn expected(case: &Value) -> Vec<String> {
    let mut paths: Vec<String> =
        list(&case["datums"]).iter().map(|path| format!("files:{}", text(path))).collect();
    paths.sort();
    paths
}

fn with_files(section: &Value) -> Space {
    let space = Space::with_repos(&["files"]);
    for path in list(&section["files"]) {
        space.write(&format!("data{}", text(path)), text(path));
    }
    space.quern("put file files@master:/ -r -f data").ok();
    space
}

#[test]
fn datums_conformance_of_dry_runs() {
    let cases = cases();
    let section = &cases["datums"];
    let space = with_files(section);
    let pipelines = one_for_each(list(&section["cases"]));
    let specs: String = pipelines.iter().map(|(_, spec)| format!("{spec}\n")).collect();
    let planned = space.feed("list datum -f - --output json", specs).json();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for datum in list(&planned) {
        assert_eq!(list(&datum["files"]).len(), 1, "{datum}");
        found.entry(text(&datum["job"])).or_default().push(text(&datum["files"][0]));
    }
    for ((name, _), case) in pipelines.iter().zip(list(&section["cases"])) {
        let mut found = found.remove(&format!("dry run of {name}")).unwrap_or_default();
        found.sort();
        assert_eq!(found, expected(case), "{case}");
    }
}

#[test]
fn datums_conformance_of_jobs() {
    let cases = cases();
    let section = &cases["datums"];
    let space = with_files(section);
    let pipelines = one_for_each(list(&section["cases"]));
    let specs: String = pipelines.iter().map(|(_, spec)| format!("{spec}\n")).collect();
    space.feed("create pipeline", specs).ok();
    let flushed = space.flush("files@master");
    let ran = flushed.ran();
    for ((name, _), case) in pipelines.iter().zip(list(&section["cases"])) {
        let job = text(&space.newest_job(name)["id"]);
        let listed = space.json(&format!("list datum {job}"));
        let mut found: Vec<String> = list(&listed).iter().map(|datum| text(&datum["files"][0])).collect();
        found.sort();
        assert_eq!(found, expected(case), "{case}");
        let count = ran.iter().filter(|step| step.starts_with(&format!("{name} "))).count();
        assert_eq!(count, found.len(), "each of them ran: {case}");
    }
}

#[test]
fn pachignore_conformance_of_pushes() {
    let cases = cases();
    for case in list(&cases["pachignore_file"]) {
        let space = Space::new();
        for path in list(&case["files"]) {
            space.write(&format!("source/{}", text(path)), "x");
        }
        space.write("source/.pachignore", text(&case["content"]));
        let spec = json!({ "pipeline": { "name": "p" }, "input": pfs("files", "/"),
            "transform": { "build": { "language": "python", "path": "source" } } });
        space.quern("create repo files").ok();
        space.feed("create pipeline", spec.to_string()).ok();
        let stored = space.json("glob file p_build@source:/**");
        let files = list(&stored).iter().filter(|file| file["type"] == "file");
        let mut found: Vec<String> =
            files.map(|file| text(&file["path"]).trim_start_matches('/').to_owned()).collect();
        let mut pushed: Vec<String> = list(&case["pushed"]).iter().map(text).collect();
        found.sort();
        pushed.sort();
        assert_eq!(found, pushed, "{case}");
    }
}
