//! What a person sees for malformed specifications: everything at once, in place, with a hint.

use quern_spec::diagnostic::{Plain, Role, Style, report};
use quern_spec::glob::Compat;
use quern_spec::pachignore::PachIgnore;
use quern_spec::pachyderm::parse_pipelines;
use quern_spec::source::SourceText;

fn check(name: &str, text: &str, expected: &str) {
    let shown = parse_pipelines(name, text).render(&Plain);
    assert_eq!(shown, expected, "\n--- found\n{shown}\n--- expected\n{expected}");
}

#[test]
fn a_json_spec_with_many_mistakes() {
    check(
        "spec.json",
        r#"{
  "pipeline": "word count",
  "transfrom": {"cmd": ["sh"]},
  "transform": {
    "build": {"languge": "python"},
    "cmd": "python main.py",
    "env": {"N": 3}
  },
  "input": {"cross": [
    {"pfs": {"repo": "a", "glob": "/[z-a]*"}},
    {"pfs": {"repo": "build"}}
  ]},
  "datum_timeout": 300
}"#,
        r#"spec.json:2:15: error[wrong-type]: expected a map, found a string
   2 |   "pipeline": "word count",
     |               ^^^^^^^^^^^^
     = help: write {"name": "word count"}
spec.json:2:15: error[invalid-name]: the pipeline name `word count` has the character ` `
   2 |   "pipeline": "word count",
     |               ^^^^^^^^^^^^
     = help: use letters, digits, `_` and `-` only
spec.json:3:3: error[unknown-field]: unknown field `transfrom` in `pipeline spec`
   3 |   "transfrom": {"cmd": ["sh"]},
     |   ^^^^^^^^^^^
     = help: did you mean `transform`?
spec.json:5:15: error[unknown-field]: unknown field `languge` in `transform.build`
   5 |     "build": {"languge": "python"},
     |               ^^^^^^^^^
     = help: did you mean `language`?
spec.json:6:12: error[wrong-type]: expected a list, found a string
   6 |     "cmd": "python main.py",
     |            ^^^^^^^^^^^^^^^^
     = help: write it as a list: `[…]`
spec.json:7:18: error[wrong-type]: expected a string, found a number
   7 |     "env": {"N": 3}
     |                  ^
     = help: put it in quotes
spec.json:10:35: error[invalid-glob]: `/[z-a]*` is not a glob: character range in reverse order
  10 |     {"pfs": {"repo": "a", "glob": "/[z-a]*"}},
     |                                   ^^^^^^^^^
     = help: at character 3 of `/[z-a]*`
spec.json:11:13: error[missing-field]: the input must specify a glob
  11 |     {"pfs": {"repo": "build"}}
     |             ^
spec.json:11:22: error[reserved-name]: in a build pipeline no input can be named "build"
  11 |     {"pfs": {"repo": "build"}}
     |                      ^^^^^^^
     = help: the name comes from the repo; add another `name`
spec.json:13:20: error[wrong-type]: expected a duration as a string, found a number
  13 |   "datum_timeout": 300
     |                    ^^^
     = help: write the unit, in quotes, like "300s" or "5m"
"#,
    );
}

#[test]
fn a_yaml_spec_with_many_mistakes() {
    check(
        "spec.yaml",
        "\
pipeline:
  name: édges
transform:
  image: edges
  cmd: [python3, /edges.py]
  stdin: yes
input:
  cross:
  - pfs: {repo: images, glob: /*}
  - pfs: {repo: images, glob: /}
parallelism_spec: {constant: 2, coefficient: 1}
merge: concatenate
",
        "\
spec.yaml:2:9: error[invalid-name]: the pipeline name `édges` has the character `é`
   2 |   name: édges
     |         ^^^^^
     = help: use letters, digits, `_` and `-` only
spec.yaml:4:10: warning[moving-image]: the image `edges` has no tag
   4 |   image: edges
     |          ^^^^^
     = help: name a version, so that old results stay what they were
spec.yaml:6:10: error[wrong-type]: expected a list, found a string
   6 |   stdin: yes
     |          ^^^
     = help: write it as a list: `[…]`
spec.yaml:10:17: error[duplicate-name]: the name \"images\" was used more than once
  10 |   - pfs: {repo: images, glob: /}
     |                 ^^^^^^
     = spec.yaml:9:17: first used here
   9 |   - pfs: {repo: images, glob: /*}
     |                 ------
     = help: give one of the inputs another `name`
spec.yaml:11:19: error[contradiction]: contradictory parallelism: give `constant` or `coefficient`, not both
  11 | parallelism_spec: {constant: 2, coefficient: 1}
     |                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
spec.yaml:12:8: error[unknown-value]: `concatenate` is no value of `merge`
  12 | merge: concatenate
     |        ^^^^^^^^^^^
     = help: known values: concat, fail, last
",
    );
}

#[test]
fn broken_syntax_has_one_place() {
    check(
        "<stdin>",
        "{\"pipeline\": {\"name\": \"p\",}}",
        "<stdin>:1:27: error[json-syntax]: expected a key in double quotes, found `}`
   1 | {\"pipeline\": {\"name\": \"p\",}}
     |                           ^
     = help: remove the `,` before it
",
    );
    check(
        "p.yaml",
        "pipeline: {name: p}\npipeline: {name: q}\n",
        "p.yaml:2:1: error[duplicate-key]: the key `pipeline` is already defined
   2 | pipeline: {name: q}
     | ^^^^^^^^
     = p.yaml:1:1: first defined here
   1 | pipeline: {name: p}
     | --------
",
    );
}

#[test]
fn an_unquoted_glob_in_yaml_gets_a_hint() {
    check(
        "p.yaml",
        "input:\n  pfs:\n    glob: *\n",
        "p.yaml:3:11: error[yaml-syntax]: `*` and `&` begin an alias or anchor, and this names none
   3 |     glob: *
     |           ^
     = help: put a text that begins with `*` or `&` in quotes
",
    );
    check(
        "p.yaml",
        "image: @x\n",
        "p.yaml:1:8: error[yaml-syntax]: `@` cannot begin a value
   1 | image: @x
     |        ^
     = help: put the text in quotes
",
    );
    check(
        "p.yaml",
        "input:\n\tpfs: x\n",
        "p.yaml:2:2: error[yaml-syntax]: a tab cannot indent
   2 |  pfs: x
     |  ^
     = help: indent with spaces
",
    );
}

#[test]
fn a_hopeless_spec_does_not_flood() {
    let fields: String = (0..5000).map(|index| format!("\"x{index}\": 1,")).collect();
    let parsed = parse_pipelines("s", &format!("{{{fields} \"y\": 1}}"));
    assert_eq!(parsed.diagnostics.len(), 200);
    let shown = parsed.render(&Plain);
    assert!(shown.ends_with("further problems\n"), "{}", &shown[shown.len() - 100..]);
}

#[test]
fn a_style_decorates_and_nothing_else() {
    struct Brackets;
    impl Style for Brackets {
        fn paint<'a>(&self, role: Role, text: &'a str) -> std::borrow::Cow<'a, str> {
            format!("<{role:?} {text}>").into()
        }
    }
    let parsed = parse_pipelines("s", "{} x");
    let shown = parsed.render(&Brackets);
    assert!(shown.contains("<Place s:1:4>: <Error error[json-syntax]>: expected a value"), "{shown}");
    assert!(shown.contains("| <Caret    ^>"), "{shown}");
}

#[test]
fn programs_get_records() {
    let parsed = parse_pipelines(
        "s",
        "{\"pipeline\": {\"nam\": \"x\"}, \"transform\": {\"cmd\": [\"x\"]}, \"spout\": {}}",
    );
    let records = serde_json::to_value(report(&parsed.diagnostics, &parsed.source)).unwrap();
    assert_eq!(records[0]["code"], "unknown-field");
    assert_eq!(records[0]["help"], "did you mean `name`?");
    assert_eq!(records[0]["start"], serde_json::json!({"line": 1, "column": 15}));
}

/// Codes and lines of the problems of a `.pachignore` file.
fn ignore_problems(text: &str) -> Vec<(usize, &'static str)> {
    let source = SourceText::new(".pachignore", text);
    let (_, diagnostics) = PachIgnore::parse(&source, Compat::Documented);
    diagnostics
        .iter()
        .map(|problem| (source.position(problem.span.unwrap_or_default().start).line, problem.code))
        .collect()
}

#[test]
fn ignore_lines_that_mean_something_else_are_pointed_out() {
    let check = |line: &str, expected: &[&'static str]| {
        let found: Vec<_> = ignore_problems(line).into_iter().map(|(_, code)| code).collect();
        assert_eq!(found, expected, "`{line}`");
    };
    for line in ["", "*.pyc", "a.txt", "node_modules/*", "!(*.py)", "\\#x.txt", "*/x"] {
        check(line, &[]);
    }
    for line in ["   ", "# x", "!keep", "/a.txt", "dir/", "./a", "../a", "a//b", "a/./b"] {
        check(line, &["inert-line"]);
    }
    check("a.txt ", &["blanks"]);
    check("node_modules", &["looks-like-directory"]);
    check("[a", &["invalid-glob"]);
}

#[test]
fn all_ignore_lines_are_checked() {
    let found = ignore_problems("*.pyc\r\n[\r\n/x\nfoo\\\n\n");
    assert_eq!(found, [(2, "invalid-glob"), (3, "inert-line"), (4, "invalid-glob")]);
    let many = "x*\n".repeat(20_000);
    assert_eq!(ignore_problems(&many), [(10_001, "too-large")]);
}
