//! JSON and YAML texts as trees: values, places, and what is refused.

use quern_spec::source::{SourceText, Span};
use quern_spec::value::{Budget, Dialect, Documents, Kind, Node, read_documents};
use serde_json::{Value, json};

fn read(text: &str, dialect: Dialect) -> Documents {
    read_documents(&SourceText::new("t", text), dialect, Budget::default())
}

fn values(text: &str, dialect: Dialect) -> Vec<Value> {
    let read = read(text, dialect);
    assert!(read.diagnostics.is_empty(), "{text:?}: {:?}", read.diagnostics);
    read.documents.iter().map(|document| document.root.to_json()).collect()
}

/// The code and place of the one problem of a text.
fn problem(text: &str) -> (&'static str, Option<Span>) {
    let read = read(text, Dialect::GoYaml);
    let found: Vec<_> = read.diagnostics.iter().map(|problem| (problem.code, problem.span)).collect();
    let [only] = found[..] else { panic!("{text:?}: {:?}", read.diagnostics) };
    only
}

#[test]
fn json_values_may_follow_each_other() {
    let text =
        "\u{feff} {\"a\": [1, -2.5e1, \"x\\n\\u00e9\\ud83d\\ude00\\ud800\", true, null]}{}\n{\"b\":{}} ";
    let expected = [json!({"a": [1, -25.0, "x\né😀\u{fffd}", true, null]}), json!({}), json!({"b": {}})];
    assert_eq!(values(text, Dialect::GoYaml), expected);
}

#[test]
fn json_mistakes_are_found_where_they_are() {
    let check = |text: &str, start, end| {
        assert_eq!(problem(text), ("json-syntax", Some(Span::new(start, end))), "{text}");
    };
    check("{\"a\": 1,}", 8, 9);
    check("{\"a\" 1}", 5, 6);
    check("{a: 1}", 1, 2);
    check("{\"a\": 'x'}", 6, 7);
    check("{\"a\": 01}", 6, 8);
    check("{\"a\": 1.}", 8, 9);
    check("{\"a\": tru}", 6, 7);
    check("{\"a\": \"x\ny\"}", 6, 8);
    check("{\"a\": \"\\q\"}", 7, 9);
    check("{\"a\": \"\\u12\"}", 7, 9);
    check("{\"a\": \"\t\"}", 7, 8);
    check("{\"a\": 1e999}", 6, 11);
    check("{\"a\": [1 2]}", 9, 10);
    check("{\"a\": ", 6, 6);
    check("{} x", 3, 4);
    check("{} // c", 3, 4);
}

#[test]
fn documents_before_a_mistake_are_kept() {
    let read = read("{\"a\": 1} {\"b\": }", Dialect::GoYaml);
    assert_eq!((read.documents.len(), read.diagnostics.len()), (1, 1));
}

#[test]
fn yaml_documents_are_separated_by_markers() {
    let text = "# head\na: 1\n---\nb: [x, {c: y}]\n...\n---\n- d\n";
    let expected = [json!({"a": 1}), json!({"b": ["x", {"c": "y"}]}), json!(["d"])];
    assert_eq!(values(text, Dialect::GoYaml), expected);
    let read = read(text, Dialect::GoYaml);
    let source = SourceText::new("t", text);
    let texts: Vec<&str> =
        read.documents.iter().map(|document| source.slice(document.span).trim_start()).collect();
    assert_eq!(texts, ["# head\na: 1\n", "b: [x, {c: y}]\n", "- d\n"]);
}

#[test]
fn yaml_shapes_mean_what_the_imitated_readers_make_of_them() {
    use Dialect::{Core12, GoYaml, PyYaml11};
    let same = |text: &str, expected: Value| {
        for dialect in [GoYaml, PyYaml11] {
            assert_eq!(values(text, dialect), std::slice::from_ref(&expected), "{dialect:?} {text}");
        }
    };
    same("a: |\n  x\n  y\nb: >-\n  p\n  q\n", json!({"a": "x\ny\n", "b": "p q"}));
    same("a: 'it''s'\nb: \"\\x41\\t\"\nc:\n", json!({"a": "it's", "b": "A\t", "c": null}));
    same("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n", json!({"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}));
    same(
        "x: &x {b: 1}\ny: &y {b: 2, c: 3}\nz: {<<: [*x, *y]}\n",
        json!({"x": {"b": 1}, "y": {"b": 2, "c": 3}, "z": {"b": 1, "c": 3}}),
    );
    same("a: !!str 1\nb: !!float 1\nc: ! 5\n", json!({"a": "1", "b": 1.0, "c": 5}));
    same("? a\n: b\n1: c\n", json!({"a": "b", "1": "c"}));
    assert_eq!(values("a: {<<: {b: 1}}", Core12), [json!({"a": {"<<": {"b": 1}}})]);
    assert_eq!(values("a: 1\na: 2", PyYaml11), [json!({"a": 2})]);
    assert_eq!(values("{a: 1, b: yes}", PyYaml11), [json!({"a": 1, "b": true})]);
    assert_eq!(values("", GoYaml), [] as [Value; 0]);
}

#[test]
fn yaml_mistakes_have_their_place() {
    let check = |text: &str, code, start, end| {
        assert_eq!(problem(text), (code, Some(Span::new(start, end))), "{text}");
    };
    check("a: 1\na: 2\n", "duplicate-key", 5, 6);
    check("a: *b\n", "yaml-syntax", 3, 3);
    check("a: &a [*a]\n", "yaml-alias", 7, 9);
    check("a: !!int x\n", "yaml-tag", 9, 10);
    check("a: {<<: 1}\n", "yaml-merge", 8, 9);
    check("[a]: b\n", "yaml-key", 0, 1);
    check("a: [1,\n", "yaml-syntax", 3, 3);
    check("a\0b", "nul-byte", 1, 2);
}

#[test]
fn every_node_knows_its_place() {
    fn places(node: &Node, text: &str, out: &mut Vec<String>) {
        out.push(text[node.span.start..node.span.end].to_owned());
        match &node.kind {
            Kind::List(items) => items.iter().for_each(|item| places(item, text, out)),
            Kind::Map(entries) => entries.iter().for_each(|entry| {
                out.push(text[entry.key.span.start..entry.key.span.end].to_owned());
                places(&entry.value, text, out);
            }),
            _ => {}
        }
    }
    let check = |text: &str, expected: &[&str]| {
        let mut found = Vec::new();
        places(&read(text, Dialect::GoYaml).documents[0].root, text, &mut found);
        assert_eq!(found, expected);
    };
    check("{\"a\": [1, \"é\"]}", &["{\"a\": [1, \"é\"]}", "\"a\"", "[1, \"é\"]", "1", "\"é\""]);
    check(
        "é:\n  - 'x'\n  - y: z\n\n",
        &["é:\n  - 'x'\n  - y: z", "é", "- 'x'\n  - y: z", "'x'", "y: z", "y", "z"],
    );
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let deep_json = format!("{{\"a\": {}", "[".repeat(1_000_000));
    let deep_yaml = "[".repeat(1_000_000);
    let deep_block: String = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        laughs.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let nested_anchors =
        format!("a: {}x{}", (0..90).map(|i| format!("&a{i} [")).collect::<String>(), "]".repeat(90));
    let wide = format!("{{\"a\": [{}1]}}", "1,".repeat(600_000));
    assert_eq!(problem(&deep_json).0, "too-deep");
    assert_eq!(problem(&deep_yaml).0, "too-deep");
    assert_eq!(problem(&deep_block).0, "too-deep");
    assert_eq!(problem(&"{}".repeat(20_000)).0, "too-many-documents");
    assert_eq!(problem(&"a\n---\n".repeat(20_000)).0, "too-many-documents");
    assert_eq!(problem(&laughs).0, "too-many-nodes");
    assert_eq!(problem(&wide).0, "too-many-nodes");
    assert_eq!(problem(&" ".repeat((8 << 20) + 1)).0, "too-large");
    assert!(read(&nested_anchors, Dialect::GoYaml).diagnostics.is_empty());
    let many_keys: String = (0..100_000).map(|index| format!("k{index}: v\n")).collect();
    assert!(read(&many_keys, Dialect::GoYaml).diagnostics.is_empty());
}

#[test]
fn aliases_cannot_get_past_the_depth() {
    let mut text = "a0: &a0 [x]\n".to_owned();
    for level in 1..150 {
        text.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert_eq!(problem(&text).0, "too-deep");
}

mod properties {
    use super::{Budget, Dialect, SourceText, read_documents};
    use proptest::prelude::*;
    use serde_json::Value;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e15..1e15f64).prop_map(Value::from),
            any::<String>().prop_filter("no NUL", |text| !text.contains('\0')).prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a-z ]{0,6}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_writes_is_read_back(value in json_value(), pretty in any::<bool>()) {
            let value = serde_json::json!({ "v": value });
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let source = SourceText::new("t", text.unwrap());
            let read = read_documents(&source, Dialect::GoYaml, Budget::default());
            prop_assert!(read.diagnostics.is_empty(), "{:?}", read.diagnostics);
            // Numbers are compared as their text: a float without fraction may come back as one.
            prop_assert_eq!(read.documents[0].root.to_json().to_string(), value.to_string());
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), prefix in "[{\\[&*!|>a:\" \n-]{0,8}") {
            let source = SourceText::new("t", format!("{prefix}{text}"));
            for dialect in [Dialect::GoYaml, Dialect::PyYaml11, Dialect::Core12] {
                let read = read_documents(&source, dialect, Budget::default());
                for problem in &read.diagnostics {
                    let span = problem.span.unwrap_or_default();
                    prop_assert!(span.end <= source.text().len());
                }
            }
        }
    }
}
