//! The glob, capture, `.pachignore`, datum and compile-error rows of the Pachyderm case file.
//!
//! Rows marked as quirks hold in strict compatibility; all others hold in both modes.

use std::path::PathBuf;

use quern_spec::glob::{Compat, Glob, GlobProblem, InvalidGlob, Walk, clean};
use quern_spec::pachignore::PachIgnore;
use quern_spec::source::SourceText;
use serde_json::Value;

fn cases() -> Value {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cases");
    let folder = std::env::var_os("QUERN_CASES").map_or_else(|| PathBuf::from(default), PathBuf::from);
    let path = folder.join("pachyderm_glob_cases.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("the case file is JSON")
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {row}"))
}

/// The modes a row holds in.
fn modes(row: &Value) -> &'static [Compat] {
    let quirk = row["quirk"].as_bool().unwrap_or(false);
    if quirk { &[Compat::Strict] } else { &[Compat::Strict, Compat::Documented] }
}

/// Runs `check` on every row of a section in every mode the row holds in and fails with all
/// disagreements.
fn each(section: &str, check: impl Fn(&Value, Compat) -> Result<(), String>) {
    let cases = cases();
    let rows = cases[section].as_array().expect("a section is a list");
    assert!(!rows.is_empty());
    let mut wrong = Vec::new();
    for row in rows {
        for mode in modes(row) {
            if let Err(found) = check(row, *mode) {
                wrong.push(format!("{mode:?} {row}\n    {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whether the documented reading refuses as a slip what the original tolerates; it then says nothing
/// about what such a pattern matches.
fn is_refused_slip(error: &InvalidGlob) -> bool {
    use GlobProblem::{DanglingEscape, UnclosedBrace, UnclosedGroup};
    matches!(error.reason, UnclosedBrace | UnclosedGroup | DanglingEscape)
}

#[test]
fn conformance_glob() {
    each("glob", |row, compat| {
        let pattern = text(row, "pattern");
        if clean(pattern) != text(row, "cleaned") {
            return Err(format!("cleaned to `{}`", clean(pattern)));
        }
        let path = clean(text(row, "path"));
        let found = match Glob::compile(pattern, compat) {
            Ok(glob) => glob.is_match(&path),
            Err(error) if is_refused_slip(&error) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        if found == row["match"].as_bool().unwrap() { Ok(()) } else { Err(format!("match is {found}")) }
    });
}

#[test]
fn conformance_replace() {
    each("replace", |row, compat| {
        let glob = Glob::compile(text(row, "pattern"), compat).map_err(|error| error.to_string())?;
        let path = clean(text(row, "path"));
        let found = glob.replace(&path, text(row, "template"));
        let expected = row["match"].as_bool().unwrap_or(true).then(|| text(row, "result").to_owned());
        if found == expected { Ok(()) } else { Err(format!("gave {found:?}")) }
    });
}

#[test]
fn conformance_pachignore_lines() {
    each("pachignore", |row, compat| {
        let glob = Glob::compile_verbatim(text(row, "line"), compat);
        let found = glob.is_ok_and(|glob| glob.is_match(text(row, "path")));
        if found == row["ignored"].as_bool().unwrap() { Ok(()) } else { Err(format!("ignored is {found}")) }
    });
}

#[test]
fn conformance_pachignore_files() {
    each("pachignore_file", |row, compat| {
        let source = SourceText::new(".pachignore", text(row, "content"));
        let (ignore, diagnostics) = PachIgnore::parse(&source, compat);
        let refused = diagnostics.has_errors();
        if !matches!(row["error"], Value::Null | Value::Bool(false)) || row["pushed"].is_null() {
            return if refused { Ok(()) } else { Err("not refused".to_owned()) };
        }
        let files = row["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap());
        let pushed: Vec<&str> = files.filter(|file| !ignore.is_ignored(file)).collect();
        let expected: Vec<&str> =
            row["pushed"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
        if !refused && pushed == expected { Ok(()) } else { Err(format!("{pushed:?} {diagnostics:?}")) }
    });
}

#[test]
fn conformance_compile_errors() {
    each("compile_errors", |row, compat| {
        let pattern = text(row, "pattern");
        let refused = match row["kind"].as_str() {
            Some("pachignore") => Glob::compile_verbatim(pattern, compat).is_err(),
            _ => Glob::compile(pattern, compat).is_err(),
        };
        if refused { Ok(()) } else { Err("compiled".to_owned()) }
    });
}

/// All nodes of the fixture: files, their directories and the root.
fn nodes(files: &[String]) -> Vec<String> {
    let mut nodes = std::collections::BTreeSet::from([String::new()]);
    for file in files {
        nodes.extend(file.match_indices('/').map(|(at, _)| file[..at].to_owned()));
        nodes.insert(file.clone());
    }
    nodes.into_iter().collect()
}

fn select(glob: &Glob, nodes: &[String]) -> Vec<String> {
    let chosen = nodes.iter().filter(|node| match glob.literal() {
        Some(literal) => literal == node.as_str(),
        None => glob.is_match(node),
    });
    chosen.map(|node| if node.is_empty() { "/".to_owned() } else { node.clone() }).collect()
}

/// The same by a walk from the root that goes only where the walk says something may match.
fn select_by_walk(glob: &Glob, nodes: &[String]) -> Vec<String> {
    fn below(walk: &Walk<'_>, dir: &str, nodes: &[String], out: &mut Vec<String>) {
        for node in nodes {
            let Some(name) = node.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/')) else { continue };
            if name.contains('/') {
                continue;
            }
            let visit = walk.visit(name);
            if visit.is_match {
                out.push(node.clone());
            }
            if let Some(walk) = visit.below {
                below(&walk, node, nodes, out);
            }
        }
    }
    let mut out = Vec::new();
    if glob.is_match("") {
        out.push("/".to_owned());
    }
    below(&glob.walk(), "", nodes, &mut out);
    out.sort_unstable();
    out
}

#[test]
fn conformance_datums() {
    let cases = cases();
    let files = cases["datums"]["files"].as_array().unwrap().iter();
    let files: Vec<String> = files.map(|file| file.as_str().unwrap().to_owned()).collect();
    let nodes = nodes(&files);
    for row in cases["datums"]["cases"].as_array().unwrap() {
        let expected: Vec<String> =
            row["datums"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()).collect();
        for compat in modes(row) {
            let glob = Glob::compile(text(row, "pattern"), *compat).unwrap();
            assert_eq!(select(&glob, &nodes), expected, "{compat:?} {row}");
            assert_eq!(select_by_walk(&glob, &nodes), expected, "by walk, {compat:?} {row}");
        }
    }
}
