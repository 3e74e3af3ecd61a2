//! What the Dockerfiles of `tests/dockerfiles` say, against what BuildKit recorded in its images: the history,
//! the variables and the working directory of the image, or the line that is wrong.
//!
//! `QUERN_DOCKERFILES` names another folder, laid out the same way.

use std::path::{Path, PathBuf};

use quern_spec::diagnostic::{Diagnostics, Severity};
use quern_spec::dockerfile::{
    BaseConfig, DEFAULT_PATH, Origin, Plan, Platform, Request, Scope, Step, parse_dockerfile, plan_stages,
};
use quern_spec::source::SourceText;
use serde_json::{Value, json};

/// Wrong files of which another line is blamed than BuildKit does, and why.
const OTHER_LINE: [(&str, &str); 3] = [
    ("fail-directive-twice", "the second of the two directives is what is wrong"),
    ("fail-empty", "no line is wrong in a file without instructions"),
    ("fail-stage-cycle", "a stage may only take from earlier ones, and the first to break that is named"),
];

fn corpus() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/dockerfiles");
    std::env::var_os("QUERN_DOCKERFILES").map_or_else(|| PathBuf::from(own), PathBuf::from)
}

fn document(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}

/// A case: its Dockerfile, what the builder is told, what came out.
struct Case {
    source: SourceText,
    about: Value,
    expected: Value,
}

impl Case {
    fn read(folder: &Path, name: &str) -> Self {
        let beside = folder.join(format!("{name}.json"));
        let about = if beside.exists() { document(&beside) } else { json!({}) };
        let file = about["file"].as_str().unwrap_or("Dockerfile");
        let bytes = std::fs::read(folder.join(name).join(file)).expect("a case has its Dockerfile");
        let source = SourceText::new(file, String::from_utf8(bytes).expect("the file is UTF-8"));
        Self { source, about, expected: document(&folder.join("expected").join(format!("{name}.json"))) }
    }

    fn request(&self) -> Request {
        let mut request = Request::new(Platform::new("linux", "amd64", ""));
        let args: Vec<&str> = list(&self.about["args"]).iter().map(text).collect();
        for pair in args.windows(2) {
            match pair[0] {
                "--target" => request.target = Some(pair[1].to_owned()),
                "--platform" => {
                    request.target_platform =
                        Platform::parse(pair[1], &request.build_platform).expect("a platform");
                }
                "--build-context" => {
                    let (name, _) = pair[1].split_once('=').expect("NAME=PLACE");
                    request.contexts.insert(name.to_owned());
                }
                "--build-arg" => {
                    let value = match pair[1].split_once('=') {
                        Some((name, value)) => Some((name, value.to_owned())),
                        None => self.about["env"][pair[1]].as_str().map(|value| (pair[1], value.to_owned())),
                    };
                    request.build_args.extend(value.map(|(name, value)| (name.to_owned(), value)));
                }
                _ => {}
            }
        }
        let mut server = |key: &str, name: &str, address: &str| {
            if !self.about[key].is_null() {
                request.build_args.insert(name.to_owned(), address.to_owned());
            }
        };
        server("http", "HTTP", "http://127.0.0.1:PORT");
        server("git", "GIT", "git://127.0.0.1:PORT/repo.git");
        request
    }

    /// History, variables and working directory of the image, or nothing if the text has errors.
    fn build(&self, folder: &Path, problems: &mut Diagnostics) -> Option<Value> {
        let (dockerfile, found) = parse_dockerfile(&self.source);
        problems.extend(found);
        if problems.has_errors() {
            return None;
        }
        let (plan, found) = plan_stages(&dockerfile, &self.request());
        problems.extend(found);
        let mut plan = plan?;
        for stage in plan.order.clone() {
            let triggers = base_of(folder, &plan.stages[stage].base)["OnBuild"].clone();
            let triggers: Vec<String> = list(&triggers).iter().map(|line| text(line).to_owned()).collect();
            problems.extend(plan.add_triggers(stage, &triggers));
        }
        let target = plan.target;
        let (scope, steps) = carry_out(folder, &plan, target, problems);
        let history: Vec<Value> = steps.iter().map(entry).collect();
        let env: Vec<String> =
            scope.image_env().iter().map(|(name, value)| format!("{name}={value}")).collect();
        Some(json!({ "history": history, "env": env, "cwd": scope.working_dir() }))
    }

    fn line(&self, problems: &Diagnostics) -> usize {
        let first = problems.iter().find(|problem| problem.severity == Severity::Error).expect("an error");
        first.span.map_or(0, |span| self.source.position(span.start).line)
    }
}

/// The `config` of a base image as far as it counts here.
fn base_of(folder: &Path, origin: &Origin) -> Value {
    match origin {
        Origin::Image(name) if name == "parent" => {
            document(&folder.join("bases/parent/config.json"))["config"].clone()
        }
        Origin::Scratch => json!({}),
        _ => json!({ "Env": [format!("PATH={DEFAULT_PATH}")] }),
    }
}

fn carry_out(folder: &Path, plan: &Plan, stage: usize, problems: &mut Diagnostics) -> (Scope, Vec<Step>) {
    let stage = &plan.stages[stage];
    let (mut scope, mut steps) = if let Origin::Stage(base) = stage.base {
        let (scope, steps) = carry_out(folder, plan, base, problems);
        (scope.child(), steps)
    } else {
        let config = base_of(folder, &stage.base);
        let env = list(&config["Env"]).iter().map(|pair| {
            let (name, value) = text(pair).split_once('=').expect("NAME=VALUE");
            (name.to_owned(), value.to_owned())
        });
        let own = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
        let base = BaseConfig {
            env: env.collect(),
            working_dir: own("WorkingDir"),
            user: own("User"),
            shell: Vec::new(),
        };
        (plan.scope(&base), Vec::new())
    };
    for instruction in &stage.instructions {
        steps.extend(scope.apply(instruction, problems));
    }
    (scope, steps)
}

fn entry(step: &Step) -> Value {
    let mut entry = json!({ "created_by": step.created_by });
    if !step.layer {
        entry["empty"] = json!(true);
    }
    entry
}

/// Every line in which a case and the recorded truth disagree.
fn disagreements(folder: &Path, name: &str) -> Vec<String> {
    let case = Case::read(folder, name);
    let mut problems = Diagnostics::new();
    let found = case.build(folder, &mut problems);
    let expected = &case.expected;
    if problems.has_errors() {
        let (line, message) =
            (case.line(&problems), problems.iter().find(|problem| problem.severity == Severity::Error));
        let message = message.map(|problem| problem.message.clone()).unwrap_or_default();
        return match &expected["fails"]["line"] {
            _ if expected["fails"].is_null() => vec![format!("line {line} is refused: {message}")],
            Value::Number(wanted) if wanted.as_u64() != u64::try_from(line).ok() => {
                vec![format!("line {line} is blamed, expected {wanted}: {message}")]
            }
            _ => Vec::new(),
        };
    }
    let Some(found) = found.filter(|_| expected["fails"].is_null()) else { return Vec::new() };
    let config = &expected["config"];
    let cwd = json!(config["WorkingDir"].as_str().unwrap_or("/"));
    let mut wrong = Vec::new();
    let mut compare = |what: &str, expected: &Value, found: &Value| {
        if expected != found {
            wrong.push(format!("{what}: expected {expected}, found {found}"));
        }
    };
    compare("variables", &config["Env"], &found["env"]);
    compare("working directory", &cwd, &found["cwd"]);
    if !expected["history"].is_null() {
        let (expected, found) = (shown(&expected["history"]), shown(&found["history"]));
        compare("history", &json!(expected), &json!(found));
    }
    wrong
}

/// The entries of a history in the form that is compared. BuildKit names no `ONBUILD`, and its words for
/// `HEALTHCHECK` are how Go prints a structure, which changed between its releases.
fn shown(history: &Value) -> Vec<String> {
    let line = |entry: &Value| {
        let text = text(&entry["created_by"]);
        let text = if text.starts_with("HEALTHCHECK ") { "HEALTHCHECK" } else { text };
        let layer = if entry["empty"].is_null() { "layer" } else { "no layer" };
        format!("{text} ({layer})")
    };
    list(history).iter().map(line).filter(|line| !line.starts_with("ONBUILD ")).collect()
}

#[test]
fn conformance_of_histories_and_environments() {
    let folder = corpus();
    let entries = std::fs::read_dir(folder.join("expected")).expect("the recorded images");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().replace(".json", ""))
        .filter(|name| OTHER_LINE.iter().all(|(other, _)| name != other))
        .collect();
    names.sort();
    assert!(!names.is_empty());
    let mut wrong = Vec::new();
    for name in &names {
        wrong.extend(disagreements(&folder, name).into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}
