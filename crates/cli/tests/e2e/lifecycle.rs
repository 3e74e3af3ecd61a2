//! The life of pipelines that are built from source: first run, changed data, changed code, changed command.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::space::{Space, copier, counts, pfs, shell, text};

/// The word count example, run once; both pipelines exist.
fn word_count() -> Space {
    let space = Space::with_repos(&["texts"]);
    space.example("wordcount");
    space.quern("put file texts@master:/ -r -f wordcount/texts").ok();
    space.quern("create pipeline -f wordcount/count.json").ok();
    space.quern("create pipeline -f wordcount/total.json").ok();
    space
}

/// What the two pipelines of the example must give, counted here.
fn counted(folder: &Path) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("the example has texts") {
        let content = std::fs::read_to_string(entry.expect("readable").path()).expect("texts are UTF-8");
        let lower = content.to_lowercase();
        for word in lower.split(|c: char| !(c.is_ascii_lowercase() || c == '\'')).filter(|w| !w.is_empty()) {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts
}

fn totals(space: &Space) -> Vec<(String, u64)> {
    let lines = space.get("total@master:/total.txt");
    let pairs = lines.lines().map(|line| line.split_once(' ').expect("`count word`"));
    pairs.map(|(count, word)| (word.to_owned(), count.parse().expect("a number"))).collect()
}

#[test]
fn word_count_runs_everything_once_and_then_only_what_changed() {
    let space = word_count();
    let first = space.flush("texts@master").ran();
    assert_eq!(first.len(), 1 + 8 + 1, "the build, eight texts, one total: {first:?}");
    assert_eq!(first[0], "count texts:/bread.txt");
    assert!(first.contains(&"count_build everything".to_owned()), "{first:?}");
    assert_eq!(totals(&space), counted(&space.path("wordcount/texts")));
    assert_eq!(counts(&space.newest_job("count")), [8, 0, 0, 0, 8]);

    let bread = space.read("wordcount/texts/bread.txt") + "stone upon stone upon stone\n";
    space.write("wordcount/texts/bread.txt", bread);
    space.quern("put file texts@master:/ -r -o -f wordcount/texts").ok();
    let second = space.flush("texts@master");
    assert_eq!(second.ran(), ["count texts:/bread.txt", "total everything"]);
    assert_eq!(second.began(), ["count", "total"], "the source did not change, so nothing is built");
    assert_eq!(second.lines("count").len(), 1, "one program ran: {:?}", second.lines("count"));
    assert_eq!(counts(&space.newest_job("count")), [1, 7, 0, 0, 8]);
    assert_eq!(totals(&space), counted(&space.path("wordcount/texts")));

    space.quern("put file texts@master:/ -r -o -f wordcount/texts").ok();
    let third = space.flush("texts@master");
    assert!(third.ran().is_empty() && third.began().is_empty(), "nothing changed: {:?}", third.events);
}

#[test]
fn a_changed_comment_is_built_and_runs_nothing() {
    let space = word_count();
    space.flush("texts@master").ran();
    let output = space.json("inspect commit count@master");

    let source = space.read("wordcount/source/main.py");
    space.write("wordcount/source/main.py", format!("# A comment.\n{source}"));
    space.quern("update pipeline -f wordcount/count.json").ok();
    let flushed = space.flush("count_build@source");
    assert_eq!(flushed.ran(), ["count_build everything"]);
    assert_eq!(flushed.began(), ["count_build", "count"], "what reads the unchanged output does not begin");
    assert_eq!(counts(&space.newest_job("count")), [0, 8, 0, 0, 8]);
    let total = space.newest_job("total");
    assert_eq!((counts(&total), &total["unchanged"]), ([0, 1, 0, 0, 1], &json!(true)), "{total}");
    assert_eq!(space.json("inspect commit count@master"), output, "no new commit");
    let why = space.quern("why count_build").ok();
    assert!(why.contains("what it was before"), "{why}");

    space.write("wordcount/source/main.py", source.replace("text.lower()", "text.upper().lower()"));
    space.quern("update pipeline -f wordcount/count.json").ok();
    let ran = space.flush("count_build@source").ran();
    assert_eq!(ran.len(), 1 + 8, "other code, same results: all texts and no total: {ran:?}");
    assert_eq!(space.json("inspect commit count@master"), output);
}

fn leftpad(space: &Space) -> [String; 3] {
    ["1.txt", "11.txt", "111.txt"].map(|name| space.get(&format!("leftpad@master:/{name}")).trim().to_owned())
}

#[test]
fn leftpad_lives_as_upstream_describes_it() {
    let space = Space::with_repos(&["numbers"]);
    for name in ["1", "11", "111"] {
        space.write(&format!("data/{name}.txt"), name);
    }
    let program = "import os, sys\nfill = (sys.argv + ['0'])[1]\nfor name in os.listdir('/pfs/numbers'):\n    \
        number = open('/pfs/numbers/' + name).read().strip()\n    open('/pfs/out/' + name, 'w').write(number.rjust(4, fill))\n";
    space.write("source/main.py", program);
    space.write("source/foo.txt", "not for the repo\n");
    space.write("source/lib/a.pyc", "bytes\n");
    space.write("source/lib/foo.txt", "pushed: a pattern without wildcards names one path\n");
    space.write("source/.pachignore", "*.pyc\nfoo.txt\n");
    let mut spec = json!({
        "pipeline": { "name": "leftpad" },
        "transform": { "build": { "language": "python", "path": "source" } },
        "input": pfs("numbers", "/*"),
    });
    space.write("leftpad.json", spec.to_string());
    space.quern("put file numbers@master:/ -r -f data").ok();
    space.quern("create pipeline -f leftpad.json").ok();
    space.flush("numbers@master").ran();
    assert_eq!(leftpad(&space), ["0001", "0011", "0111"]);
    assert_eq!(space.get("leftpad_build@source:/.pachignore"), "*.pyc\nfoo.txt\n");
    space.quern("get file leftpad_build@source:/foo.txt").says(3, &["foo.txt"]);
    space.quern("get file leftpad_build@source:/lib/a.pyc").says(3, &["a.pyc"]);
    assert_eq!(space.names("list file leftpad_build@source:/lib", "path"), ["/lib/foo.txt"]);

    spec["transform"]["cmd"] = json!(["sh", "/pfs/build/run.sh", "_"]);
    space.write("leftpad.json", spec.to_string());
    space.quern("update pipeline -f leftpad.json --reprocess").ok();
    let ran = space.flush("numbers@master").ran();
    assert_eq!(leftpad(&space), ["___1", "__11", "_111"]);
    assert_eq!(ran.len(), 3, "the source is what it was, so it is not built again: {ran:?}");

    space.quern("delete pipeline leftpad").ok();
    assert_eq!(space.names("list repo", "name"), ["numbers"], "nothing of it is left");
}

#[test]
fn reprocess_and_rebuild_run_again_what_they_name() {
    let space = word_count();
    space.flush("texts@master").ran();
    space.quern("update pipeline -f wordcount/count.json --reprocess").ok();
    let ran = space.flush("texts@master").ran();
    assert_eq!(ran.iter().filter(|step| step.starts_with("count texts:")).count(), 8, "{ran:?}");
    assert!(!ran.contains(&"count_build everything".to_owned()), "only the datums: {ran:?}");
    space.quern("update pipeline -f wordcount/count.json --rebuild").ok();
    assert_eq!(space.flush("count_build@source").ran(), ["count_build everything"]);
}

#[test]
fn one_spec_with_several_pipelines_and_inputs_crossed_and_united() {
    let space = Space::with_repos(&["left", "right"]);
    for name in ["a", "b"] {
        space.put(&format!("left@master:/{name}"), name);
        space.put(&format!("right@master:/{name}{name}"), name);
    }
    let cross = json!({ "cross": [pfs("left", "/*"), pfs("right", "/*")] });
    let pairs = ["cat /pfs/left/* /pfs/right/* > \"/pfs/out/$(ls /pfs/left)-$(ls /pfs/right)\""];
    let union = json!({ "union": [
        { "pfs": { "repo": "left", "glob": "/*", "name": "in" } },
        { "pfs": { "repo": "right", "glob": "/*", "name": "in" } },
    ] });
    let each = ["cp /pfs/in/* /pfs/out/"];
    let specs = format!("{}\n{}", shell("pairs", cross, &pairs), shell("each", union, &each));
    space.feed("create pipeline -f -", specs).ok();
    assert_eq!(space.flush("left@master").ran().len(), 4 + 4);
    assert_eq!(space.names("list file pairs@master", "path"), ["/a-aa", "/a-bb", "/b-aa", "/b-bb"]);
    assert_eq!(space.get("pairs@master:/b-aa"), "ba");
    assert_eq!(space.names("list file each@master", "path"), ["/a", "/aa", "/b", "/bb"]);

    space.put("right@master:/aa", "A");
    let ran = space.flush("right@master").ran();
    assert_eq!(ran, ["each in:/aa", "pairs left:/a right:/aa", "pairs left:/b right:/aa"]);
}

#[test]
fn a_chain_stops_where_nothing_changes() {
    let space = Space::with_repos(&["numbers"]);
    let sign = ["f=$(ls /pfs/numbers)", "head -c1 /pfs/numbers/$f > /pfs/out/$f"];
    space.create(&shell("sign", pfs("numbers", "/*"), &sign));
    space.create(&copier("copy", "sign"));
    space.put("numbers@master:/x", "+1");
    space.put("numbers@master:/y", "-1");
    assert_eq!(
        space.flush("numbers@master").ran(),
        ["copy sign:/x", "copy sign:/y", "sign numbers:/x", "sign numbers:/y"]
    );
    space.put("numbers@master:/x", "+2");
    let flushed = space.flush("numbers@master");
    assert_eq!(flushed.ran(), ["sign numbers:/x"]);
    assert_eq!(flushed.began(), ["sign"]);
    space.put("numbers@master:/x", "-2");
    assert_eq!(space.flush("numbers@master").ran(), ["copy sign:/x", "sign numbers:/x"]);
    assert_eq!(space.get("copy@master:/*"), "--");
    // A result that is known, although it was gone in between, runs nothing.
    space.put("numbers@master:/x", "+1");
    assert!(space.flush("numbers@master").ran().is_empty());
    assert_eq!(space.get("copy@master:/*"), "+-");
}

/// Whether image `host` has Go.
fn has_go() -> bool {
    ["/usr/local/go/bin/go", "/usr/bin/go", "/usr/local/bin/go"].iter().any(|go| Path::new(go).exists())
}

#[test]
fn the_go_builder_builds_and_cuts_off_early() {
    if !has_go() {
        eprintln!("SKIPPED: the machine has no Go, so its builder is not tested");
        return;
    }
    let space = Space::with_repos(&["notes"]);
    space.example("go-upper");
    space.quern("put file notes@master:/ -r -f go-upper/notes").ok();
    space.quern("create pipeline -f go-upper/pipeline.yaml").ok();
    let ran = space.flush("notes@master").ran();
    let names = space.names("list file notes@master", "path");
    assert_eq!(ran.len(), 1 + names.len(), "{ran:?}");
    for name in &names {
        let upper = space.get(&format!("notes@master:{name}")).to_uppercase();
        assert_eq!(space.get(&format!("upper@master:{name}")), upper, "{name}");
    }
    let source = space.read("go-upper/source/main.go");
    space.write("go-upper/source/main.go", format!("{source}\n// A comment.\n"));
    space.quern("update pipeline -f go-upper/pipeline.yaml").ok();
    assert_eq!(space.flush("upper_build@source").ran(), ["upper_build everything"]);
}

/// Makes a builder's image of one static program; none without busybox.
fn awk_image(space: &Space) -> Option<String> {
    space.example("custom-builder");
    let made = Command::new("sh").arg(space.path("custom-builder/make-image.sh")).output().expect("sh runs");
    made.status.success().then(|| format!("dir:{}", space.path("custom-builder/image").display()))
}

#[test]
fn a_builder_of_ones_own_in_a_directory() {
    let space = Space::with_repos(&["harvests"]);
    let Some(image) = awk_image(&space) else {
        eprintln!("SKIPPED: the machine has no busybox, so a builder of one's own is not tested");
        return;
    };
    space.quern("put file harvests@master:/ -r -f custom-builder/harvests").ok();
    let mut spec: Value =
        serde_json::from_str(&space.read("custom-builder/pipeline.json")).expect("valid JSON");
    spec["transform"]["build"]["image"] = json!(image);
    space.write("custom-builder/mine.json", spec.to_string());
    space.quern("create pipeline -f custom-builder/mine.json").ok();
    space.flush("harvests@master").ran();
    assert_eq!(space.get("harvest@master:/monday.txt"), "apple 17\npear 3\n");
    let source = space.read("custom-builder/source/sum.awk");
    space.write("custom-builder/source/sum.awk", format!("# Another comment.\n{source}"));
    space.quern("update pipeline -f custom-builder/mine.json").ok();
    assert_eq!(space.flush("harvest_build@source").ran(), ["harvest_build everything"]);
    assert_eq!(text(&space.json("inspect pipeline harvest")["image"]), image);
}
