//! Wrong and hostile input: named with its place, refused before anything is stored or run.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::space::{Ran, Space, copier, pfs, shell, text};

/// Everything a refused command must leave as it was.
fn everything(space: &Space) -> [Value; 4] {
    ["list repo", "list pipeline", "list job", "list commit"].map(|line| space.json(line))
}

fn with_text() -> Space {
    let space = Space::with_repos(&["texts"]);
    space.put("texts@master:/a", "one");
    space
}

/// Gives a spec to `create` and `update`, which must refuse it alike and change nothing.
#[track_caller]
fn refused(space: &Space, spec: &str, code: i32, parts: &[&str]) {
    let before = everything(space);
    for verb in ["create", "update"] {
        space.feed(&format!("{verb} pipeline"), spec).says(code, parts);
    }
    assert_eq!(everything(space), before, "nothing is stored");
}

#[test]
fn every_problem_of_a_spec_is_named_with_its_place() {
    let space = with_text();
    let spec = "pipeline:\n  name: count\ntransform:\n  image: host\n  cmdd: [sh]\n  cmd: sh\ndatum_tries: many\n\
        input:\n  pfs:\n    repo: texts\n    glb: /*\n";
    space.write("bad.yaml", spec);
    let before = everything(&space);
    for verb in ["create", "update"] {
        let ran = space.quern(&format!("{verb} pipeline -f bad.yaml"));
        ran.says(
            2,
            &[
                "bad.yaml:5:3",
                "did you mean `cmd`",
                "bad.yaml:6:8",
                "bad.yaml:7:14",
                "bad.yaml:11:5",
                "did you mean `glob`",
            ],
        );
    }
    space.quern("list datum -f bad.yaml").says(2, &["bad.yaml:5:3", "bad.yaml:7:14"]);
    assert_eq!(everything(&space), before, "nothing is stored");
}

#[test]
fn one_bad_spec_of_several_keeps_all_out() {
    let space = with_text();
    let good = copier("good", "texts");
    let mut bad = copier("bad", "texts");
    bad["transform"]["cmdd"] = json!(["sh"]);
    refused(&space, &format!("{good}\n{bad}"), 2, &["<stdin>:2:", "cmdd"]);
    let nowhere = copier("bad", "nowhere");
    refused(&space, &format!("{good}\n{nowhere}"), 3, &["nowhere"]);
}

#[test]
fn texts_that_are_no_specs_are_refused() {
    let space = with_text();
    refused(&space, "", 2, &["<stdin>"]);
    refused(&space, "[1, 2]", 2, &["<stdin>:1:1"]);
    refused(&space, "{\"pipeline\": ", 2, &["<stdin>:1:"]);
    refused(&space, "pipeline: [unclosed", 2, &["<stdin>:1:"]);
    refused(&space, "just words", 2, &["<stdin>:1:1"]);
    space.write("latin.json", b"{\"description\": \"\xe9\"}");
    space.quern("create pipeline -f latin.json").says(2, &["latin.json", "UTF-8"]);
    refused(&space, &"[".repeat(200_000), 2, &["<stdin>"]);
    refused(&space, &format!("a: {}", "&x [*x, ".repeat(50)), 2, &["<stdin>"]);
    space.quern("create pipeline -f missing.json").says(3, &["missing.json"]);
    space.quern("create pipeline -f http://example.org/spec.json").says(2, &["URL"]);
}

#[test]
fn missing_things_are_named_before_anything_runs() {
    let space = with_text();
    refused(
        &space,
        &copier("p", "nowhere").to_string(),
        3,
        &["repo `nowhere` does not exist", "create repo nowhere"],
    );
    let mut spec = copier("p", "texts");
    spec["transform"]["image"] = json!("dir:/no/such/image");
    refused(&space, &spec.to_string(), 3, &["dir:/no/such/image"]);
    spec["transform"] = json!({ "build": { "language": "cobol" } });
    refused(&space, &spec.to_string(), 3, &["cobol", "go, python"]);
    spec["transform"] = json!({ "build": { "language": "python", "path": "./nowhere" } });
    refused(&space, &spec.to_string(), 3, &["nowhere"]);
    space.feed("put file nowhere@master:/a", "x").says(3, &["nowhere"]);
    space.quern("flush commit nowhere@master").says(3, &["nowhere"]);
    space.quern("flush commit texts@nowhere").says(3, &["nowhere"]);
    space.quern("list job -i texts@nowhere").says(3, &["nowhere"]);
    space.quern("list job --status nowhere").says(2, &["nowhere", "failure"]);
    space.quern("list pipeline --status nowhere").says(2, &["nowhere", "paused"]);
}

#[test]
fn names_that_are_taken_by_quern_or_malformed_are_refused() {
    let space = with_text();
    for name in ["", "-x", "a b", "a/b", "../a", "ä", "a\nb"] {
        if name != "-x" {
            let ran = space.call(&["create", "repo", "--", name]);
            assert_eq!(ran.code(), Some(2), "{name:?}: {}", ran.stderr());
        }
        refused(&space, &copier(name, "texts").to_string(), 2, &["<stdin>:1:"]);
    }
    refused(&space, &copier(&"x".repeat(64), "texts").to_string(), 2, &["<stdin>:1:"]);
    let named = |name: &str| json!({ "pfs": { "repo": "texts", "glob": "/*", "name": name } });
    refused(&space, &shell("p", named("out"), &["true"]).to_string(), 2, &["out"]);
    let twice = json!({ "cross": [pfs("texts", "/*"), pfs("texts", "/")] });
    refused(&space, &shell("p", twice, &["true"]).to_string(), 2, &["texts"]);
    space.write("source/main.py", "pass\n");
    for name in ["build", "source"] {
        let mut spec = shell("p", named(name), &[]);
        spec["transform"] = json!({ "build": { "language": "python", "path": "source" } });
        refused(&space, &spec.to_string(), 2, &[name]);
    }
    space.quern("create repo other").ok();
    refused(&space, &copier("texts", "other").to_string(), 3, &["<stdin>:1:", "repo `texts` already exists"]);
}

#[test]
fn pipelines_that_go_in_circles_are_refused() {
    let space = with_text();
    refused(&space, &copier("one", "one").to_string(), 2, &["<stdin>:1:", "one"]);
    refused(&space, &format!("{}{}", copier("one", "two"), copier("two", "one")), 2, &["one", "two"]);
    space.create(&copier("one", "texts"));
    space.create(&copier("two", "one"));
    let before = everything(&space);
    space.feed("update pipeline", copier("one", "two").to_string()).says(2, &["one", "two"]);
    assert_eq!(everything(&space), before);
}

#[test]
fn paths_that_lead_out_are_refused() {
    let space = with_text();
    let before = everything(&space);
    for path in ["/../x", "/a/../../x", "..", "/a/b/.."] {
        space.feed(&format!("put file texts@master:{path}"), "x").says(2, &[".."]);
        let read = space.quern(&format!("get file texts@master:{path}"));
        assert!(matches!(read.code(), Some(2 | 3)), "{path}: {}", read.stderr());
    }
    space.write("outside", "secret");
    fs::create_dir_all(space.path("tree/deep")).expect("writable");
    for target in ["../../outside", "/etc/passwd"] {
        let link = space.path("tree/deep/link");
        symlink(target, &link).expect("links can be made");
        space.quern("put file texts@master -r -f tree").says(2, &["link", target]);
        let spec = json!({ "pipeline": { "name": "p" }, "input": pfs("texts", "/"),
            "transform": { "build": { "language": "python", "path": "tree" } } });
        refused(&space, &spec.to_string(), 2, &["link", target]);
        fs::remove_file(link).expect("it was made");
    }
    assert_eq!(everything(&space), before);
    space.write("tree/real", "inside");
    symlink("../real", space.path("tree/deep/link")).expect("links can be made");
    space.quern("put file texts@master:/tree -r -f tree").ok();
    assert_eq!(space.get("texts@master:/tree/deep/link"), "inside", "a link inside is read through");
}

#[test]
fn files_that_cannot_be_stored_are_named() {
    let space = with_text();
    let before = everything(&space);
    fs::create_dir(space.path("tree")).expect("writable");
    let made =
        std::process::Command::new("mkfifo").arg(space.path("tree/pipe")).status().expect("mkfifo runs");
    assert!(made.success());
    space.quern("put file texts@master -r -f tree").says(2, &["pipe"]);
    space.quern("put file texts@master:/x -f tree/pipe").says(2, &["pipe"]);
    fs::remove_file(space.path("tree/pipe")).expect("it was made");
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"bad\xff");
    fs::write(space.path("tree").join(name), "x").expect("any bytes are a name");
    space.quern("put file texts@master -r -f tree").says(2, &["bad", "UTF-8"]);
    let long = format!("put file texts@master:/{}", "n".repeat(300));
    space.feed(&long, "x").says(2, &["255"]);
    assert_eq!(everything(&space), before);
}

#[test]
fn a_newline_in_a_name_survives_everything() {
    let space = with_text();
    let (name, target) = ("we\nird \"$x\"", "texts@master:/we\nird \"$x\"");
    space.write(name, "strange");
    space.call(&["put", "file", "texts@master", "-o", "-f", name]).ok();
    assert_eq!(space.call(&["get", "file", target]).ok(), "strange");
    assert_eq!(space.names("list file texts@master", "path"), ["/a".to_owned(), format!("/{name}")]);
    let table = space.quern("list file texts@master").ok();
    assert_eq!(table.lines().count(), 3, "one line a file: {table}");
    assert_eq!(space.quern("diff file texts@master --name-only").ok().lines().count(), 1);
    space.create(&shell("copy", pfs("texts", "/*"), &["cp /pfs/texts/* /pfs/out/"]));
    let ran = space.flush("texts@master").ran();
    assert_eq!(ran, ["copy texts:/a".to_owned(), format!("copy texts:/{name}")]);
    assert_eq!(space.call(&["get", "file", "copy@master:/we*"]).ok(), "strange");
    space.call(&["get", "file", "copy@master:/", "-r", "-o", "tree"]).ok();
    assert_eq!(space.read(&format!("tree/{name}")), "strange");
    let id = text(&space.newest_job("copy")["id"]);
    let plain = space.quern(&format!("list datum {id}")).ok();
    assert_eq!(plain.lines().count(), 3, "one line a datum: {plain}");
    space.call(&["delete", "file", target]).ok();
    assert_eq!(space.names("list file texts@master", "path"), ["/a"]);
}

/// A run that may have this much address space.
fn limited(space: &Space, megabytes: u64, line: &str) -> Ran {
    let script = format!("ulimit -v {}; exec \"$0\" {line}", megabytes * 1024);
    space.script(&script)
}

#[test]
fn a_gigantic_spec_is_refused_with_little_memory() {
    let space = with_text();
    let file = fs::File::create(space.path("big.json")).expect("writable");
    file.set_len(1 << 30).expect("a sparse file costs nothing");
    limited(&space, 512, "create pipeline -f big.json").says(2, &["big.json", "MiB"]);
    limited(&space, 512, "list datum -f big.json").says(2, &["MiB"]);
    space.script("head -c 1000000000 /dev/zero | \"$0\" create pipeline").says(2, &["<stdin>", "MiB"]);
    assert_eq!(space.json("list pipeline"), json!([]));
    let words = format!("{{\"description\": \"{}\"", "x".repeat(8 << 20));
    space.feed("create pipeline", words).fails(2);
}

#[test]
fn patterns_that_explode_do_not() {
    let space = with_text();
    let long = "a".repeat(120);
    space.put(&format!("texts@master:/{long}"), "x");
    let nested = format!("/{}a{}b", "*(".repeat(20), ")".repeat(20));
    let stars = format!("/{}b", "*a".repeat(40));
    let braces = format!("/{}", "{a,aa,aaa}".repeat(40));
    let deep = format!("/{}b", "**a".repeat(60));
    for pattern in [&nested, &stars, &braces, &deep] {
        let found = space.call(&["glob", "file", &format!("texts@master:{pattern}"), "--output", "json"]);
        assert!(matches!(found.code(), Some(0 | 2)), "{pattern}: {}", found.stderr());
        let spec = shell("p", pfs("texts", pattern), &["true"]);
        let planned = space.feed("list datum -f - --output json", spec.to_string());
        assert!(matches!(planned.code(), Some(0 | 2)), "{pattern}: {}", planned.stderr());
    }
    for pattern in ["/[", "/[]", "/a^(b)", "/{a"] {
        space.quern(&format!("glob file texts@master:{pattern}")).says(2, &["character"]);
        refused(&space, &shell("p", pfs("texts", pattern), &["true"]).to_string(), 2, &["<stdin>:1:"]);
    }
    let huge = format!("/{}", "{a,b}".repeat(100_000));
    refused(&space, &shell("p", pfs("texts", &huge), &["true"]).to_string(), 2, &["<stdin>:1:"]);
}

#[test]
fn what_is_not_executed_yet_is_refused_by_name() {
    let space = with_text();
    let join = json!({ "join": [
        { "pfs": { "repo": "texts", "glob": "/(*)", "join_on": "$1" } },
        { "pfs": { "repo": "texts", "name": "other", "glob": "/(*)", "join_on": "$1" } },
    ] });
    refused(&space, &shell("p", join, &["true"]).to_string(), 2, &["join", "not executed"]);
    let cron = json!({ "cron": { "name": "tick", "spec": "@daily" } });
    refused(&space, &shell("p", cron, &["true"]).to_string(), 2, &["cron", "not executed"]);
}

#[test]
fn a_state_of_another_kind_is_left_alone() {
    let space = Space::new();
    space.write("file", "not a folder");
    let said = space.quern("list repo --state file");
    assert!(matches!(said.code(), Some(2..=4)), "{}", said.stderr());
    assert_eq!(space.read("file"), "not a folder");
    space.write("quern.toml", "[builders.python]\nimage = 5\n");
    space.quern("list repo").says(2, &["quern.toml", "image"]);
    space.write("quern.toml", "[unknown]\n");
    space.quern("list repo").says(2, &["quern.toml", "unknown"]);
}
