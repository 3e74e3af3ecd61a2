//! The rows of the Dockerfile case file: what the original makes of words, ignore files, modes and whole
//! files.

#![expect(clippy::unwrap_used, reason = "a test stops at the first row it cannot read")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use quern_spec::diagnostic::{Diagnostics, Plain, render};
use quern_spec::dockerfile::expand::expand;
use quern_spec::dockerfile::{
    Action, BaseConfig, Chmod, DockerIgnore, MountKind, Origin, Plan, Platform, Request, RunStep, Scope,
    SourcePath, Step, parse_dockerfile, plan_stages,
};
use quern_spec::source::SourceText;
use serde_json::{Value, json};

fn cases() -> Value {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cases");
    let folder = std::env::var_os("QUERN_CASES").map_or_else(|| PathBuf::from(default), PathBuf::from);
    let text = std::fs::read_to_string(folder.join("dockerfile_cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn rows<'a>(cases: &'a Value, table: &str) -> &'a [Value] {
    let rows = cases[table].as_array().unwrap();
    assert!(!rows.is_empty(), "{table}");
    rows
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn is_refused(row: &Value) -> bool {
    row["refused"].as_bool().unwrap_or(false)
}

#[test]
fn conformance_dockerfile_expand() {
    let cases = cases();
    let variables: BTreeMap<String, String> = serde_json::from_value(cases["variables"].clone()).unwrap();
    for row in rows(&cases, "expand") {
        let escape = row["escape"].as_str().map_or('\\', |escape| escape.chars().next().unwrap());
        let found = expand(row["word"].as_str().unwrap(), &variables, escape);
        assert_eq!(found.is_err(), is_refused(row), "{row}\n{found:?}");
        let Ok(found) = found else { continue };
        assert_eq!(found.text, row["text"].as_str().unwrap(), "{row}");
        if row["words"].is_array() {
            assert_eq!(found.words, texts(&row["words"]), "{row}");
        }
        assert_eq!(found.unmatched.into_iter().collect::<Vec<_>>(), texts(&row["unset"]), "{row}");
    }
}

#[test]
fn conformance_dockerfile_ignore() {
    for row in rows(&cases(), "ignore") {
        let source = SourceText::new(".dockerignore", row["lines"].as_str().unwrap());
        let (ignore, problems) = DockerIgnore::parse(&source);
        assert_eq!(problems.has_errors(), is_refused(row), "{row}");
        for (paths, expected) in [(texts(&row["behind"]), true), (texts(&row["along"]), false)] {
            for path in paths {
                assert_eq!(ignore.is_ignored(&path), expected, "{row} {path}");
            }
        }
    }
}

#[test]
fn conformance_dockerfile_modes() {
    for row in rows(&cases(), "modes") {
        let chmod = Chmod::parse(row["mode"].as_str().unwrap());
        assert_eq!(chmod.is_err(), is_refused(row), "{row}");
        let Ok(chmod) = chmod else { continue };
        let octal = |text: &Value| u32::from_str_radix(text.as_str().unwrap(), 8).unwrap();
        let found = chmod.apply(octal(&row["of"]), row["directory"].as_bool().unwrap());
        assert_eq!(format!("{found:o}"), row["gives"].as_str().unwrap(), "{row}");
    }
}

/// What the target's chain of stages does, and every step of every needed stage.
struct Outcome {
    history: Vec<String>,
    env: Vec<String>,
    steps: Vec<Step>,
}

fn build(row: &Value, images: &Value, problems: &mut Diagnostics) -> Option<Outcome> {
    let source = SourceText::new("Dockerfile", row["dockerfile"].as_str().unwrap());
    let (dockerfile, found) = parse_dockerfile(&source);
    problems.extend(found);
    let mut request = Request::new(Platform::new("linux", "amd64", ""));
    request.target = row["target"].as_str().map(str::to_owned);
    request.build_args = serde_json::from_value(row["build_args"].clone()).unwrap_or_default();
    let (plan, found) = plan_stages(&dockerfile, &request);
    problems.extend(found);
    let mut plan = plan.filter(|_| !problems.has_errors())?;
    resolve(&mut plan, images, problems);
    Some(carry_out(&plan, images, problems))
}

fn config<'a>(images: &'a Value, base: &Origin) -> &'a Value {
    let Origin::Image(name) = base else { return &Value::Null };
    let tag = if name.contains(':') { "" } else { ":latest" };
    &images[format!("docker.io/library/{name}{tag}")]
}

/// Adds the triggers of base images until no stage is new.
fn resolve(plan: &mut Plan, images: &Value, problems: &mut Diagnostics) {
    let mut resolved = BTreeSet::new();
    while let Some(stage) = plan.order.iter().copied().find(|stage| !resolved.contains(stage)) {
        resolved.insert(stage);
        let triggers = texts(&config(images, &plan.stages[stage].base)["OnBuild"]);
        problems.extend(plan.add_triggers(stage, &triggers));
    }
}

fn carry_out(plan: &Plan, images: &Value, problems: &mut Diagnostics) -> Outcome {
    let mut scopes: BTreeMap<usize, (Scope, Vec<String>)> = BTreeMap::new();
    let mut steps = Vec::new();
    for index in &plan.order {
        let stage = &plan.stages[*index];
        let (mut scope, mut history) = match &stage.base {
            Origin::Stage(base) => (scopes[base].0.child(), scopes[base].1.clone()),
            base => (plan.scope(&base_config(config(images, base))), Vec::new()),
        };
        for instruction in &stage.instructions {
            let Some(step) = scope.apply(instruction, problems) else { continue };
            // A trigger has no line of its own in the original's history.
            if !matches!(step.action, Action::Onbuild(_)) {
                history.push(format!("{}|{}", step.created_by, step.layer));
            }
            steps.push(step);
        }
        scopes.insert(*index, (scope, history));
    }
    let (scope, history) = scopes.remove(&plan.target).unwrap();
    let env = scope.image_env().iter().map(|(name, value)| format!("{name}={value}")).collect();
    Outcome { history, env, steps }
}

fn base_config(config: &Value) -> BaseConfig {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    };
    BaseConfig {
        env: texts(&config["Env"]).iter().map(pair).collect(),
        working_dir: config["WorkingDir"].as_str().unwrap_or_default().to_owned(),
        user: config["User"].as_str().unwrap_or_default().to_owned(),
        shell: texts(&config["Shell"]),
    }
}

/// A command as the case file writes it.
fn shown_run(run: &RunStep) -> Value {
    let place = |mount: &quern_spec::dockerfile::Mount| match mount.kind {
        MountKind::Secret { .. } | MountKind::Ssh { .. } => None,
        _ => Some(format!("{}{}", mount.target, if mount.read_only { "|ro" } else { "" })),
    };
    let mut mounts: Vec<String> = run.mounts.iter().filter_map(place).collect();
    mounts.extend(run.script.as_ref().map(|_| "/dev/pipes/|ro".to_owned()));
    mounts.sort();
    let env: Vec<String> = run.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    json!({"argv": run.argv, "env": env, "cwd": run.cwd, "user": run.user, "mounts": mounts})
}

fn sorted(mut values: Vec<String>) -> Vec<String> {
    values.sort();
    values
}

fn check_steps(row: &Value, outcome: &Outcome) {
    let mut runs = Vec::new();
    let mut copies = Vec::new();
    let mut documents = Vec::new();
    for step in &outcome.steps {
        match &step.action {
            Action::Run(run) => {
                runs.push(shown_run(run).to_string());
                documents.extend(run.script.iter().map(|script| script.content.clone()));
            }
            Action::Copy(copy) => {
                for source in &copy.sources {
                    if let SourcePath::Local(path) = source {
                        copies.push(format!("{path} {}", copy.dest));
                    }
                }
                documents.extend(copy.files.iter().map(|file| file.content.clone()));
            }
            _ => {}
        }
    }
    let expected: Vec<String> = row["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| {
            let mut run = run.clone();
            run["mounts"] = json!(sorted(texts(&run["mounts"])));
            run.to_string()
        })
        .collect();
    assert_eq!(sorted(runs), sorted(expected), "{row:#}");
    assert_eq!(sorted(documents), sorted(texts(&row["documents"])), "{row:#}");
    // The original writes sources as absolute paths, and those of documents and addresses by other names.
    let dests = |pairs: Vec<String>| -> BTreeSet<String> {
        pairs.iter().map(|pair| pair.rsplit_once(' ').unwrap().1.to_owned()).collect()
    };
    assert!(dests(copies).is_subset(&dests(texts(&row["copies"]))), "{row:#}");
}

#[test]
fn conformance_dockerfile_steps() {
    let cases = cases();
    for row in rows(&cases, "steps") {
        let mut problems = Diagnostics::new();
        let outcome = build(row, &cases["images"], &mut problems);
        let source = SourceText::new("Dockerfile", row["dockerfile"].as_str().unwrap());
        let shown = render(&problems, &source, &Plain);
        assert_eq!(problems.has_errors(), is_refused(row), "{row:#}\n{shown}");
        let Some(outcome) = outcome.filter(|_| !is_refused(row)) else { continue };
        assert_eq!(outcome.history, texts(&row["history"]), "{row:#}\n{shown}");
        assert_eq!(outcome.env, texts(&row["env"]), "{row:#}\n{shown}");
        check_steps(row, &outcome);
        let rules = problems.iter().filter(|problem| problem.code.starts_with(char::is_uppercase));
        let line = |problem: &quern_spec::diagnostic::Diagnostic| {
            format!("{}:{}", problem.code, source.position(problem.span.unwrap().start).line)
        };
        let warnings: BTreeSet<String> = rules.map(line).collect();
        assert_eq!(warnings.into_iter().collect::<Vec<_>>(), texts(&row["warnings"]), "{row:#}\n{shown}");
    }
}
