//! What must hold for any text given to the readers of quern-spec.
//!
//! The fuzz targets run these on generated texts, `crates/spec/tests/corpus.rs` on the corpus.

use quern_spec::diagnostic::{Diagnostics, Plain, Severity, render, report};
use quern_spec::dockerfile::{
    BaseConfig, DockerIgnore, Dockerfile, Instruction, Kind as Meaning, Origin, Platform, Request, Scope,
    Word, expand, parse_dockerfile, plan_stages,
};
use quern_spec::glob::{Compat, Glob, clean};
use quern_spec::pachignore::PachIgnore;
use quern_spec::pachyderm::parse_pipelines_with;
use quern_spec::source::{SourceText, Span};
use quern_spec::value::{Budget, Dialect, Kind, Node, read_documents};

const MODES: [Compat; 2] = [Compat::Documented, Compat::Strict];

/// Any text is read or refused; every place lies in the text; JSON means what serde_json says.
pub fn documents(text: &str) {
    let source = SourceText::new("text", text);
    for dialect in [Dialect::GoYaml, Dialect::PyYaml11, Dialect::Core12] {
        let read = read_documents(&source, dialect, Budget::default());
        check_diagnostics(&read.diagnostics, &source);
        for document in &read.documents {
            check_places(&document.root, text);
            serde_json::to_string(&document.root.to_json()).expect("every tree has a JSON form");
        }
    }
    let object = text.trim_start().starts_with('{') && !text.contains('\0');
    if let (true, Ok(expected)) = (object, serde_json::from_str::<serde_json::Value>(text)) {
        let read = read_documents(&source, Dialect::GoYaml, Budget::default());
        let limited = read.diagnostics.iter().any(|problem| problem.code.starts_with("too-"));
        if !limited {
            assert!(read.diagnostics.is_empty(), "{}", render(&read.diagnostics, &source, &Plain));
            assert_eq!(kinds(&read.documents[0].root.to_json()), kinds(&expected));
        }
    }
}

/// A value without its numbers, whose text form two readers may choose differently.
fn kinds(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Number(_) => "number".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(kinds).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let fields = map.iter().map(|(key, value)| format!("{key:?}:{}", kinds(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// The first line is a pattern, the rest a path: matching never panics, and all ways to ask agree.
pub fn glob(text: &str) {
    let (pattern, path) = text.split_once('\n').unwrap_or((text, ""));
    for compat in MODES {
        if let Ok(glob) = Glob::compile_verbatim(pattern, compat) {
            assert_eq!(glob.is_match(path), glob.captures(path).is_some());
        }
        let Ok(glob) = Glob::compile(pattern, compat) else { continue };
        let path = clean(path);
        let found = glob.is_match(&path);
        assert_eq!(found, glob.captures(&path).is_some_and(|groups| groups.len() == glob.groups() + 1));
        assert!(!found || path.starts_with(glob.prefix()));
        assert_eq!(glob.replace(&path, "$0").filter(|key| *key == path).is_some(), found);
        check_walk(&glob, &path, found);
    }
}

fn check_walk(glob: &Glob, path: &str, found: bool) {
    let mut walk = glob.walk();
    let mut dir = String::new();
    for name in path.split('/').skip(1) {
        assert!(!found || glob.may_descend(&dir));
        let visit = walk.visit(name);
        dir = format!("{dir}/{name}");
        assert_eq!(visit.is_match, glob.is_match(&dir));
        match visit.below {
            Some(below) => walk = below,
            None => return assert!(!found || dir == path),
        }
    }
}

/// Any ignore file is read or refused line by line.
pub fn pachignore(text: &str) {
    let source = SourceText::new(".pachignore", text);
    for compat in MODES {
        let (ignore, diagnostics) = PachIgnore::parse(&source, compat);
        check_diagnostics(&diagnostics, &source);
        ignore.is_ignored("src/main.py");
    }
}

/// Any Dockerfile is read or refused; every place lies in the text; what is read can be planned and
/// carried out or is refused with a reason.
pub fn dockerfile(text: &str) {
    let source = SourceText::new("Dockerfile", text);
    let (dockerfile, diagnostics) = parse_dockerfile(&source);
    check_diagnostics(&diagnostics, &source);
    check_words(&dockerfile, text);
    if diagnostics.has_errors() {
        return;
    }
    let mut request = Request::new(Platform::new("linux", "amd64", ""));
    request.all_stages = true;
    request.build_args.insert("A".to_owned(), "b c".to_owned());
    let (plan, mut problems) = plan_stages(&dockerfile, &request);
    assert_eq!(plan.is_none(), problems.has_errors());
    let Some(mut plan) = plan else { return check_diagnostics(&problems, &source) };
    problems.extend(plan.add_triggers(0, &["RUN <<é\n$A\né".to_owned(), text.to_owned()]));
    let mut scopes: Vec<Option<Scope>> = vec![None; plan.stages.len()];
    for index in plan.order.clone() {
        let stage = &plan.stages[index];
        let mut scope = match stage.base {
            Origin::Stage(base) => scopes[base].as_ref().expect("stages come after their bases").child(),
            _ => plan.scope(&BaseConfig::default()),
        };
        for instruction in &stage.instructions {
            let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
            let full = problems.is_full();
            let step = scope.apply(instruction, &mut problems);
            let more = problems.iter().filter(|problem| problem.severity == Severity::Error).count() > errors;
            assert!(step.is_some() || more || full, "{instruction:?} is refused without a reason");
        }
        assert!(scope.working_dir().starts_with('/'));
        scopes[index] = Some(scope);
    }
    check_diagnostics(&problems, &source);
}

/// The words of a file, but those of JSON arrays, stand where they say; continuations may lie inside.
fn check_words(dockerfile: &Dockerfile, text: &str) {
    for stage in &dockerfile.stages {
        check_span(stage.span, text);
        check_word(&stage.base, text);
        for instruction in &stage.instructions {
            check_instruction(instruction, text);
        }
    }
}

fn check_instruction(instruction: &Instruction, text: &str) {
    check_span(instruction.span, text);
    check_word(&instruction.keyword, text);
    match &instruction.kind {
        Meaning::Env(pairs) | Meaning::Label(pairs) => pairs.iter().for_each(|pair| {
            check_word(&pair.key, text);
            check_word(&pair.value, text);
        }),
        Meaning::Workdir(word) | Meaning::User(word) => check_word(word, text),
        Meaning::Copy(transfer) | Meaning::Add(transfer) => {
            transfer.heredocs.iter().for_each(|heredoc| check_span(heredoc.span, text));
            transfer.sources.iter().chain([&transfer.dest]).for_each(|word| check_span(word.span, text));
        }
        Meaning::Onbuild(onbuild) => check_instruction(&onbuild.trigger, text),
        _ => {}
    }
}

fn check_word(word: &Word, text: &str) {
    check_span(word.span, text);
    let there = &text[word.span.start..word.span.end];
    assert!(there == word.value || there.contains('\n'), "{word:?} is {there:?}");
}

/// The first line is a word, the rest values of variables: expansion never panics, and splitting into
/// words loses nothing but white space.
pub fn dockerfile_word(text: &str) {
    let (word, values) = text.split_once('\n').unwrap_or((text, ""));
    let names = ["A", "B", "C"].map(str::to_owned);
    let variables: std::collections::BTreeMap<String, String> =
        names.into_iter().zip(values.split('\n').map(str::to_owned)).collect();
    for escape in ['\\', '`'] {
        if let Ok(found) = expand::expand(word, &variables, escape) {
            let kept = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            assert_eq!(kept(&found.text), kept(&found.words.concat()));
        }
    }
}

/// The last line is a path, the others an ignore file: a walk that prunes finds what a question finds.
pub fn dockerignore(text: &str) {
    let (lines, path) = text.rsplit_once('\n').unwrap_or(("", text));
    let source = SourceText::new(".dockerignore", lines);
    let (ignore, diagnostics) = DockerIgnore::parse(&source);
    check_diagnostics(&diagnostics, &source);
    let found = ignore.is_ignored(path);
    let mut dir = ignore.root();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        assert!(!dir.takes_all() || !found);
        match dir.visit(name).below {
            Some(below) => dir = below,
            None => return assert!(found),
        }
    }
}

/// Any specification is read or refused, and what is written out is read back the same.
pub fn pipelines(text: &str) {
    for compat in MODES {
        let parsed = parse_pipelines_with("spec", text, compat);
        check_diagnostics(&parsed.diagnostics, &parsed.source);
        for pipeline in &parsed.pipelines {
            pipeline.input.as_ref().map(ToString::to_string);
            pipeline.builder();
            if !parsed.is_ok() {
                continue;
            }
            let written = serde_json::to_string(pipeline).expect("every pipeline has a JSON form");
            let again = parse_pipelines_with("spec", &written, compat);
            assert!(again.is_ok(), "{written}\n{}", again.render(&Plain));
            assert_eq!(again.pipelines.first(), Some(pipeline), "{written}");
        }
    }
}

fn check_diagnostics(diagnostics: &Diagnostics, source: &SourceText) {
    for span in diagnostics.iter().filter_map(|problem| problem.span) {
        check_span(span, source.text());
    }
    let shown = render(diagnostics, source, &Plain);
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    serde_json::to_string(&report(diagnostics, source)).expect("every report has a JSON form");
}

fn check_places(node: &Node, text: &str) {
    check_span(node.span, text);
    match &node.kind {
        Kind::List(items) => items.iter().for_each(|item| check_places(item, text)),
        Kind::Map(entries) => entries.iter().for_each(|entry| {
            check_span(entry.key.span, text);
            check_places(&entry.value, text);
        }),
        _ => {}
    }
}

fn check_span(span: Span, text: &str) {
    assert!(text.get(span.start..span.end).is_some(), "{span:?} of {} bytes", text.len());
}
