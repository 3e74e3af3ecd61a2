//! Pipeline specifications: what is read from them, and the rules they have to keep.

use quern_spec::diagnostic::{Plain, Severity};
use quern_spec::glob::Compat;
use quern_spec::pachyderm::{
    Builder, InputKind, MergePolicy, Parsed, Pipeline, ReprocessPolicy, parse_pipelines, parse_pipelines_with,
};
use serde_json::json;

fn parse(text: &str) -> Parsed {
    parse_pipelines("spec", text)
}

/// The only pipeline of a text without errors.
fn pipeline(text: &str) -> Pipeline {
    let parsed = parse(text);
    assert!(parsed.is_ok(), "{}", parsed.render(&Plain));
    let [pipeline] =
        parsed.pipelines.try_into().unwrap_or_else(|all: Vec<_>| panic!("{} pipelines", all.len()));
    pipeline
}

/// Codes and messages of all problems, as `code: message` with a `?` before warnings.
fn problems(parsed: &Parsed) -> Vec<String> {
    let mark = |severity| if severity == Severity::Warning { "?" } else { "" };
    let show = |problem: &quern_spec::diagnostic::Diagnostic| {
        format!("{}{}: {}", mark(problem.severity), problem.code, problem.message)
    };
    parsed.diagnostics.iter().map(show).collect()
}

/// A plain pipeline with further fields and its transform's further fields.
fn plain(fields: &str) -> String {
    let head = r#""pipeline": {"name": "p"}, "transform": {"image": "i:1", "cmd": ["x"]}"#;
    format!("{{{head}, {fields}}}")
}

const PFS: &str = r#""input": {"pfs": {"repo": "r", "glob": "/*"}}"#;

#[test]
fn the_example_of_the_documentation_is_a_build_pipeline() {
    let pipeline = pipeline(
        r#"{
          "pipeline": {"name": "map"},
          "description": "A pipeline that tokenizes scraped pages.",
          "transform": {"build": {"language": "python", "path": "./source"}},
          "input": {"pfs": {"repo": "scraper", "glob": "/*"}}
        }"#,
    );
    assert_eq!(pipeline.name(), "map");
    assert_eq!(pipeline.build().map(|build| build.path().to_owned()).as_deref(), Some("./source"));
    assert!(matches!(pipeline.builder(), Some(Builder::Language(name)) if name.value == "python"));
    assert_eq!((pipeline.output_branch(), pipeline.datum_tries()), ("master", 3));
    let leaves = pipeline.input.as_ref().unwrap().leaves("map");
    let names: Vec<_> = leaves.iter().map(|leaf| (leaf.name.as_str(), leaf.branch.as_str())).collect();
    assert_eq!(names, [("scraper", "master")]);
}

#[test]
fn yaml_says_the_same_as_json() {
    let yaml = "
pipeline: {name: p}
transform:
  image: i:1
  cmd: [sh]
  stdin:
  - echo
  - 'true'
  env: {A: \"1\"}
  acceptReturnCode: [1, \"2\"]
input:
  cross:
  - pfs: {repo: a, glob: /}
  - union:
    - pfs: {repo: b, glob: /*, name: x}
    - pfs: {repo: c, glob: /*, name: x}
parallelism_spec: {constant: \"1\"}
datum_timeout: 5m
datumTries: 2.0
merge: last
reprocess_spec: every_job
";
    let json = r#"{"pipeline": {"name": "p"}, "transform": {"image": "i:1", "cmd": ["sh"],
        "stdin": ["echo", "true"], "env": {"A": "1"}, "accept_return_code": [1, 2]},
        "input": {"cross": [{"pfs": {"repo": "a", "glob": "/"}}, {"union": [
            {"pfs": {"repo": "b", "glob": "/*", "name": "x"}}, {"pfs": {"repo": "c", "glob": "/*", "name": "x"}}]}]},
        "parallelism_spec": {"constant": 1}, "datum_timeout": "5m", "datum_tries": 2, "merge": "last",
        "reprocess_spec": "every_job"}"#;
    let (from_yaml, from_json) = (pipeline(yaml), pipeline(json));
    assert_eq!(from_yaml, from_json);
    assert_eq!(from_yaml.input.as_ref().unwrap().to_string(), "(a:/ ⨯ (b:/* ∪ c:/*))");
    assert_eq!(from_yaml.transform.as_ref().unwrap().stdin_text(), "echo\ntrue\n");
    assert_eq!(from_yaml.merge_policy(), MergePolicy::Last);
    assert_eq!(from_yaml.reprocess_policy(), ReprocessPolicy::EveryJob);
    assert_eq!(from_yaml.datum_tries(), 2);
    assert_eq!(from_yaml.original.text, yaml.trim_start_matches('\n'));
    assert_eq!(from_json.original.value["datum_timeout"], "5m");
}

#[test]
fn what_is_written_out_is_read_back() {
    let text = r#"{"pipeline": {"name": "p"}, "description": "d", "metadata": {"labels": {"a": "b"}},
        "transform": {"cmd": ["sh"], "secrets": [{"name": "s", "mount_path": "/s"}], "user": "1:2", "debug": false,
          "build": {"image": "b:1", "env": {"K": "V"}, "runtime": ["*.py", "/data/**"]}},
        "egress": {"URL": "s3://b/d"}, "resource_limits": {"cpu": 0.5, "memory": "1Gi", "gpu": {"type": "t", "number": 1}},
        "service": {"internal_port": 80, "type": "ClusterIP"}, "hashtree_spec": {"constant": 2},
        "input": {"join": [{"pfs": {"repo": "a", "glob": "/(*)", "join_on": "$1", "outer_join": true, "lazy": true}},
          {"group": [{"cron": {"name": "c", "spec": "@daily", "start": "2021-01-02T03:04:05Z"}},
            {"git": {"url": "https://h/x/y.git"}}]}]},
        "chunk_spec": {"number": 3}, "job_timeout": "1h", "scheduling_spec": {"node_selector": {"a": "b"}},
        "pod_patch": "[]", "s3_out": false, "max_queue_size": 4}"#;
    let first = pipeline(text);
    let written = serde_json::to_value(&first).unwrap();
    assert_eq!(written["transform"]["build"]["runtime"], json!(["*.py", "/data/**"]));
    assert_eq!(written["egress"], json!({"URL": "s3://b/d"}));
    assert_eq!(written["job_timeout"], "1h0m0s");
    assert_eq!(pipeline(&written.to_string()), first);
    assert_eq!(
        first.input.as_ref().unwrap().to_string(),
        "(a:/(*) ⋈ (Group: c:@daily, y:https://h/x/y.git))"
    );
}

#[test]
fn leaves_know_their_defaults() {
    let pipeline = pipeline(&plain(
        r#""input": {"cross": [
            {"pfs": {"repo": "a", "glob": "/", "trigger": {"size": "1M"}}},
            {"pfs": {"name": "n", "repo": "b", "branch": "dev", "glob": "/"}},
            {"pfs": {"repo": "c", "glob": "/", "trigger": {"commits": 2}}},
            {"cron": {"name": "tick", "spec": "* * * * *"}},
            {"git": {"url": "https://host/org/code.git"}}]}"#,
    ));
    let leaves = pipeline.input.as_ref().unwrap().leaves("p");
    let found: Vec<_> =
        leaves.iter().map(|leaf| format!("{} {}@{}", leaf.name, leaf.repo, leaf.branch)).collect();
    let expected =
        ["a a@p-trigger-1", "n b@dev", "c c@p-trigger-2", "tick p_tick@master", "code code@master"];
    assert_eq!(found, expected);
}

#[test]
fn several_documents_are_several_pipelines() {
    let names = |text: &str| -> Vec<String> {
        parse(text).pipelines.iter().map(|pipeline| pipeline.name().to_owned()).collect()
    };
    let one = plain(PFS);
    assert_eq!(names(&format!("{one}\n{}", one.replace("\"p\"", "\"q\""))), ["p", "q"]);
    assert_eq!(names("pipeline: {name: a}\n---\npipeline: {name: b}\n"), ["a", "b"]);
    let twice = parse(&format!("{one}{one}"));
    assert_eq!(problems(&twice), ["duplicate-pipeline: the pipeline `p` is specified twice"]);
    assert_eq!(problems(&parse("  \n")), ["no-pipeline: the text holds no pipeline specification"]);
    assert_eq!(names("pipeline: {name: a}\n---\n---\n# nothing\n"), ["a"]);
    assert_eq!(problems(&parse("---\n---\n")), ["no-pipeline: the text holds no pipeline specification"]);
    assert_eq!(problems(&parse("- a\n")), ["wrong-type: expected a map, found a list"]);
}

/// Every row: fields of an otherwise good pipeline, and the problems they make.
fn check_fields(rows: &[(&str, &[&str])]) {
    for (fields, expected) in rows {
        let fields = if fields.contains("\"input\"") || fields.contains("\"spout\"") {
            (*fields).to_owned()
        } else {
            format!("{PFS}, {fields}")
        };
        assert_eq!(problems(&parse(&plain(&fields))), *expected, "{fields}");
    }
}

#[test]
fn fields_keep_the_conventions_of_protobuf_json() {
    check_fields(&[
        (r#""datum_tries": "5""#, &[]),
        (r#""datum_tries": 1.0"#, &[]),
        (r#""datum_tries": null"#, &[]),
        (r#""datum_tries": 1e2"#, &[]),
        (r#""datum_tries": 1.5"#, &["wrong-type: expected an integer, found the fraction 1.5"]),
        (r#""datum_tries": "x""#, &["wrong-type: expected an integer, found the text `x`"]),
        (
            r#""datum_tries": 9223372036854775808"#,
            &["out-of-range: 9223372036854775808 is out of range; expected an integer"],
        ),
        (r#""standby": "true""#, &["wrong-type: expected `true` or `false`, found a string"]),
        (r#""salt": 5"#, &["wrong-type: expected a string, found a number"]),
        (r#""datum_timeout": 300"#, &["wrong-type: expected a duration as a string, found a number"]),
        (r#""datum_timeout": "300""#, &["invalid-duration: the duration `300` has no unit"]),
        (r#""job_timeout": "1h30m5.5s""#, &[]),
        (
            r#""salt": "a", "salt": "b""#,
            &["?duplicate-key: `salt` is given more than once; the last one counts"],
        ),
        (
            r#""datumTries": 1, "datum_tries": 2"#,
            &["?duplicate-key: `datumTries` is given more than once; the last one counts"],
        ),
        (r#""DatumTries": 1"#, &["unknown-field: unknown field `DatumTries` in `pipeline spec`"]),
        (r#""egress": {"url": "s3://b"}"#, &["unknown-field: unknown field `url` in `egress`"]),
        (r#""metadata": {"labels": {"a": 1}}"#, &["wrong-type: expected a string, found a number"]),
        (
            r#""hashtree_spec": {"constant": -1}"#,
            &["out-of-range: -1 is out of range; expected an integer that is not negative"],
        ),
    ]);
}

#[test]
fn workers_outputs_and_limits_keep_their_rules() {
    check_fields(&[
        (r#""tf_job": {}"#, &["unsupported: `tf_job` is not supported"]),
        (
            r#""parallelism_spec": {"constant": 2, "coefficient": 0.5}"#,
            &["contradiction: contradictory parallelism: give `constant` or `coefficient`, not both"],
        ),
        (
            r#""parallelism_spec": {"coefficient": -1}"#,
            &["out-of-range: the parallelism coefficient must not be negative"],
        ),
        (r#""hashtree_spec": {"constant": 0}"#, &["out-of-range: `hashtree_spec.constant` must not be 0"]),
        (
            r#""cache_size": "64Mb""#,
            &[
                "invalid-quantity: bad `cache_size`: `64Mb` is not a quantity; write a number with a unit like `64M`, `1.5Gi` or `500m`",
            ],
        ),
        (
            r#""service": {"internal_port": 70000, "type": "nodeport"}, "parallelism_spec": {"constant": 2}"#,
            &[
                "out-of-range: `internal_port` must be a port, 1 to 65535",
                "unknown-value: `nodeport` is no value of `service.type`",
                "contradiction: a service runs with a constant parallelism of 1 only",
            ],
        ),
        (r#""spout": {}, "service": {}"#, &["contradiction: `service` and `spout` exclude each other"]),
        (
            r#""spout": {}, "input": {"pfs": {"repo": "r", "glob": "/"}}, "enable_stats": true"#,
            &["contradiction: a spout has no input", "contradiction: a spout has no statistics"],
        ),
        (r#""spout": {"service": {}}, "input": {"pfs": {"repo": "r", "glob": "/"}}"#, &[]),
        (
            r#""s3_out": true, "enable_stats": true"#,
            &["contradiction: `s3_out` and `enable_stats` exclude each other"],
        ),
        (r#""output_branch": "a/b""#, &["invalid-name: the output branch `a/b` has the character `/`"]),
        (r#""egress": {"URL": "ftp://x"}"#, &["invalid-url: `ftp://x` is no target for output"]),
        (
            r#""pod_spec": "{""#,
            &["invalid-json: malformed `pod_spec`: EOF while parsing an object at line 1 column 1"],
        ),
        (
            r#""reprocess_spec": "every_jobs""#,
            &["unknown-value: `every_jobs` is no value of `reprocess_spec`"],
        ),
        (r#""merge": "first""#, &["unknown-value: `first` is no value of `merge`"]),
        (r#""job_timeout": "-1s""#, &["out-of-range: `job_timeout` must not be negative"]),
    ]);
}

#[test]
fn inputs_keep_their_rules() {
    let pfs = |name: &str| format!(r#"{{"pfs": {{"repo": "{name}", "glob": "/"}}}}"#);
    let (a, b) = (pfs("a"), pfs("b"));
    let with = |input: &str| problems(&parse(&plain(&format!(r#""input": {input}"#))));
    let check = |input: &str, expected: &[&str]| assert_eq!(with(input), expected, "{input}");
    check("{}", &["missing-field: no input set"]);
    check(r#"{"cross": []}"#, &["missing-field: no input set"]);
    check(
        r#"{"pfs": {"repo": "r", "glob": "/"}, "git": {"url": "https://x/y.git"}}"#,
        &["contradiction: multiple input types set"],
    );
    check(
        r#"{"pfs": {"branch": ""}}"#,
        &[
            "missing-field: the input must specify a repo",
            "missing-field: the input must specify a glob",
            "missing-field: the input must specify a branch",
        ],
    );
    check(r#"{"pfs": {"repo": "out", "glob": "/"}}"#, &["reserved-name: an input cannot be named \"out\""]);
    check(
        r#"{"pfs": {"repo": "r", "name": "../x", "glob": "/"}}"#,
        &["invalid-name: `../x` cannot be a directory under /pfs"],
    );
    check(
        r#"{"pfs": {"repo": "r.x", "glob": "/["}}"#,
        &[
            "invalid-name: the repo name `r.x` has the character `.`",
            "invalid-glob: `/[` is not a glob: `[` is never closed",
        ],
    );
    check(
        &format!(r#"{{"cross": [{a}, {b}, {a}]}}"#),
        &["duplicate-name: the name \"a\" was used more than once"],
    );
    check(&format!(r#"{{"union": [{a}, {a}]}}"#), &[]);
    check(
        &format!(r#"{{"cross": [{{"union": [{a}, {b}]}}, {b}]}}"#),
        &["duplicate-name: the name \"b\" was used more than once"],
    );
    check(
        &format!(r#"{{"union": [{{"cross": [{a}, {b}]}}, {{"cross": [{a}, {a}]}}]}}"#),
        &["duplicate-name: the name \"a\" was used more than once"],
    );
    check(
        r#"{"cron": {"spec": "* * *"}}"#,
        &[
            "missing-field: the input must specify a name",
            "invalid-cron: a cron spec has 5 fields (minute, hour, day, month, weekday), this has 3",
        ],
    );
    check(
        r#"{"cron": {"name": "c", "spec": "@daily", "start": "2021-01-02"}}"#,
        &["invalid-time: `2021-01-02` is not an RFC 3339 time"],
    );
    check(r#"{"git": {"url": "git@host:x.git"}}"#, &["invalid-url: `git@host:x.git` is no clone URL"]);
    check(
        r#"{"join": [{"pfs": {"repo": "r", "glob": "/*", "s3": true, "lazy": true}}]}"#,
        &[
            "contradiction: an s3 input must have the glob `/`",
            "contradiction: an s3 input cannot be lazy",
            "contradiction: an s3 input cannot be part of a join",
        ],
    );
    check(
        r#"{"pfs": {"repo": "r", "glob": "/*", "join_on": "$1"}}"#,
        &["?no-effect: `join_on` has no effect outside `join`"],
    );
    check(
        r#"{"pfs": {"repo": "r", "glob": "/", "trigger": {"cron_spec": "x", "size": "1Q", "commits": -1}}}"#,
        &[
            "invalid-cron: a cron spec has 5 fields (minute, hour, day, month, weekday), this has 1",
            "invalid-quantity: bad `trigger.size`: `1Q` is not a quantity; write a number with a unit like `64M`, `1.5Gi` or `500m`",
            "out-of-range: `trigger.commits` must not be negative",
        ],
    );
}

#[test]
fn names_keep_their_rules() {
    let named = |name: &str, transform: &str| {
        let text = format!(r#"{{"pipeline": {{"name": "{name}"}}, "transform": {transform}, {PFS}}}"#);
        problems(&parse(&text))
    };
    let run = r#"{"image": "i:1", "cmd": ["x"]}"#;
    let build = r#"{"build": {"language": "go"}}"#;
    assert_eq!(named(&"a".repeat(63), run), [""; 0]);
    let too_long = ["name-too-long: a pipeline name must have at most 63 characters"];
    assert_eq!(named(&"a".repeat(64), run), too_long);
    assert_eq!(named(&"a".repeat(57), build), [""; 0]);
    assert_eq!(named(&"a".repeat(58), build), too_long);
    assert_eq!(named("a.b", run), ["invalid-name: the pipeline name `a.b` has the character `.`"]);
    let must_start = "invalid-name: the pipeline name `_a` must start with an alphanumeric character";
    assert_eq!(named("_a", run), [must_start]);
    assert_eq!(named("", run), ["missing-field: the pipeline has no name"]);
    let nothing = problems(&parse("{}"));
    assert_eq!(
        nothing,
        [
            "missing-field: the pipeline has no name",
            "missing-field: the pipeline must specify a transform",
            "?no-input: the pipeline has no input, so it never runs",
        ]
    );
}

#[test]
fn transforms_keep_their_rules() {
    let with = |transform: &str| {
        problems(&parse(&format!(r#"{{"pipeline": {{"name": "p"}}, "transform": {transform}, {PFS}}}"#)))
    };
    assert_eq!(with(r#"{"image": "i:1"}"#), ["?no-cmd: there is no `cmd`, so every datum fails"]);
    assert_eq!(
        with(r#"{"image": "h:5000/i", "cmd": ["x"]}"#),
        ["?moving-image: the image `h:5000/i` has no tag"]
    );
    let latest = "?moving-image: the image `i:latest` is a moving target";
    assert_eq!(with(r#"{"image": "i:latest", "cmd": ["x"]}"#), [latest]);
    assert_eq!(with(r#"{"image": "i:latest", "build": {"language": "go"}}"#).len(), 1);
    assert_eq!(with(r#"{"image": "i@sha256:00", "cmd": ["x"]}"#), [""; 0]);
    assert_eq!(with(r#"{"image": "host", "cmd": ["x"]}"#), [""; 0]);
    assert_eq!(with(r#"{"image": "i:1", "cmd": "sh"}"#)[0], "wrong-type: expected a list, found a string");
    assert_eq!(
        with(
            r#"{"image": "i:1", "cmd": ["x"], "env": {"A=B": ""}, "secrets": [{"env_var": "X"}, {"name": "s"}]}"#
        ),
        [
            "invalid-name: `A=B` cannot be the name of an environment variable",
            "missing-field: the secret has no name",
            "missing-field: `env_var` needs a `key`",
            "missing-field: the secret is used nowhere",
        ]
    );
    assert_eq!(
        with(r#"{"image": "i:1", "cmd": ["a\u0000b"], "env": {"A": "\u0000"}}"#),
        [
            "nul-byte: the environment variable `A` contains a NUL character",
            "nul-byte: `cmd` contains a NUL character"
        ]
    );
    let runtime = r#"{"build": {"language": "go", "runtime": ["*.py", "[a"]}}"#;
    let expected = "invalid-glob: `[` is never closed at character 2 of the glob `/[a`";
    assert_eq!(with(runtime), [expected]);
}

#[test]
fn the_builder_is_chosen_in_the_documented_order() {
    let chosen = |transform: &str, compat| {
        let text = format!(r#"{{"pipeline": {{"name": "p"}}, "transform": {transform}, {PFS}}}"#);
        let parsed = parse_pipelines_with("spec", &text, compat);
        let builder = parsed.pipelines[0].builder();
        let named = builder.map(|builder| format!("{}={}", builder.field(), builder.name().value));
        (named.unwrap_or_default(), problems(&parsed))
    };
    let check = |transform: &str, builder: &str, documented: &[&str], strict: &[&str]| {
        for (compat, expected) in [(Compat::Documented, documented), (Compat::Strict, strict)] {
            let (found, problems) = chosen(transform, compat);
            assert_eq!((found.as_str(), problems), (builder, strings(expected)), "{compat:?} {transform}");
        }
    };
    let neither = ["no-builder: must specify either a build language or image"];
    let both = ["contradiction: cannot specify both a build language and image"];
    check(r#"{"build": {"language": "go"}}"#, "build.language=go", &[], &[]);
    check(r#"{"build": {"image": "b:1"}}"#, "build.image=b:1", &[], &[]);
    check(
        r#"{"build": {"language": "go", "image": "b:1"}}"#,
        "build.language=go",
        &["?overruled: `build.image` is overruled by `build.language`"],
        &both,
    );
    check(r#"{"image": "i:1", "build": {}}"#, "transform.image=i:1", &[], &neither);
    check(
        r#"{"image": "i:1", "build": {"image": "b:1"}}"#,
        "build.image=b:1",
        &["?overruled: `transform.image` is overruled by `build.image`"],
        &[],
    );
    check(r#"{"build": {"language": ""}}"#, "", &["no-builder: nothing names a builder"], &neither);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn build_pipelines_keep_further_rules() {
    let with = |fields: &str| {
        let build = r#""transform": {"build": {"language": "go"}}"#;
        problems(&parse(&format!(r#"{{"pipeline": {{"name": "p"}}, {build}{fields}}}"#)))
    };
    assert_eq!(with(""), ["missing-field: a build pipeline must have an input"]);
    assert_eq!(with(r#", "spout": {}"#), ["contradiction: a build pipeline cannot be a spout"]);
    for input in [
        r#"{"pfs": {"name": "build", "repo": "r", "glob": "/"}}"#,
        r#"{"pfs": {"repo": "build", "glob": "/"}}"#,
        r#"{"cross": [{"cron": {"name": "build", "spec": "@daily"}}, {"pfs": {"repo": "x", "glob": "/"}}]}"#,
        r#"{"git": {"url": "https://host/build.git"}}"#,
    ] {
        let expected = "reserved-name: in a build pipeline no input can be named \"build\"";
        assert_eq!(with(&format!(r#", "input": {input}"#)), [expected], "{input}");
    }
    assert_eq!(with(r#", "input": {"pfs": {"name": "x", "repo": "source", "glob": "/"}}"#), [""; 0]);
}

#[test]
fn kinds_of_input_keep_their_order() {
    let parsed = parse(&plain(
        r#""input": {"union": [{"pfs": {"repo": "b", "glob": "/"}}, {"pfs": {"repo": "a", "glob": "/"}}]}"#,
    ));
    let InputKind::Union(members) = &parsed.pipelines[0].input.as_ref().unwrap().kind else { panic!() };
    let repos: Vec<_> = members.iter().map(ToString::to_string).collect();
    assert_eq!(repos, ["b:/", "a:/"]);
}
