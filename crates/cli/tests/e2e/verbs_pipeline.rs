//! Verbs on pipelines, jobs and datums, and the flags and verbs that belong to no noun.

use serde_json::{Value, json};

use crate::space::{Space, copier, counts, pfs, shell, text};

/// A copying pipeline over these files, run once.
fn copied(files: &[&str]) -> Space {
    let space = Space::with_repos(&["texts"]);
    for name in files {
        space.put(&format!("texts@master:/{name}"), name);
    }
    space.create(&copier("copy", "texts"));
    space.flush("texts@master").ran();
    space
}

#[test]
fn pipelines_are_listed_and_inspected() {
    let space = copied(&["a"]);
    let listed = space.json("list pipeline");
    let one = &listed[0];
    assert_eq!(
        (&one["name"], &one["input"], &one["version"]),
        (&json!("copy"), &json!("texts:/*"), &json!(1))
    );
    assert_eq!((&one["state"], &one["last_job_state"]), (&json!("running"), &json!("success")));
    let shown = space.json("inspect pipeline copy");
    assert_eq!((&shown["job_counts"], &shown["image"]), (&json!({ "success": 1 }), &json!("host")));
    let table = space.quern("list pipeline").ok();
    assert!(table.contains("STATE / LAST JOB") && table.contains("running / success"), "{table}");
    space.quern("list pipeline missing").says(3, &["missing"]);
    space.quern("inspect pipeline missing").says(3, &["missing"]);
    space
        .feed("create pipeline", copier("copy", "texts").to_string())
        .says(3, &["already exists", "update pipeline"]);
    let cross = json!({ "cross": [pfs("texts", "/"), pfs("copy", "/*")] });
    space.create(&shell("both", cross, &["true"]));
    assert_eq!(space.names("list pipeline", "name"), ["both", "copy"], "newest first");
    assert_eq!(space.json("inspect pipeline both")["input"], "(copy:/* ⨯ texts:/)");
    assert_eq!(space.names("list pipeline --status paused", "name"), [] as [&str; 0]);
    assert_eq!(space.quern("list pipeline copy --spec").ok().trim(), copier("copy", "texts").to_string());
}

#[test]
fn jobs_have_the_documented_fields_newest_first() {
    let space = copied(&["a", "b"]);
    space.put("texts@master:/b", "other");
    space.flush("texts@master").ran();
    let jobs = space.json("list job");
    assert_eq!(jobs.as_array().map(Vec::len), Some(2));
    for field in ["id", "pipeline", "state", "reason", "started", "finished"] {
        assert!(jobs[0][field].is_string(), "{field}: {}", jobs[0]);
    }
    assert_eq!((counts(&jobs[0]), counts(&jobs[1])), ([1, 1, 0, 0, 2], [2, 0, 0, 0, 2]));
    assert!(text(&jobs[0]["started"]) >= text(&jobs[1]["finished"]), "newest first, RFC 3339: {jobs}");
    let id = text(&jobs[0]["id"]);
    assert_eq!(space.json(&format!("inspect job {id}")), jobs[0]);
    assert_eq!(space.json(&format!("inspect job {id} --block")), jobs[0], "it has ended");
    let table = space.quern("list job").ok();
    assert!(table.contains("1 + 1 / 2") && table.contains("success"), "{table}");
    assert_eq!(space.names("list job -n 1", "id"), [id.as_str()]);
    assert_eq!(space.names("list job -p copy --status failure", "id"), [] as [&str; 0]);
    assert_eq!(space.names("list job -i texts@master", "id"), [id.as_str()]);
    assert_eq!(space.names("list job -i texts@master^", "id"), [text(&jobs[1]["id"])]);
    assert_eq!(space.names("flush job texts@master -p copy", "id"), [id.as_str()], "it waits for nothing");
    assert_eq!(space.names("flush commit texts@master", "repo"), ["copy"]);
    assert_eq!(space.names("flush commit texts@master -r other", "repo"), [] as [&str; 0]);
    space.quern(&format!("delete job {id}")).ok();
    assert_eq!(space.json("list job"), json!([jobs[1]]));
    space.quern(&format!("inspect job {id}")).says(3, &[&id]);
    space.quern("inspect job nonsense").says(2, &["nonsense"]);
}

#[test]
fn logs_follow_a_job_that_another_process_runs() {
    let space = Space::with_repos(&["texts"]);
    for name in ["a\n", "b\n", "c\n"] {
        space.put(&format!("texts@master:/{}", name.trim()), name);
    }
    space.create(&shell("talk", pfs("texts", "/*"), &["sleep 0.3; cat /pfs/texts/*"]));
    let mut flush = space.command(&["flush", "commit", "texts@master", "--progress", "quiet"]);
    let mut flush = flush.stdout(std::process::Stdio::null()).spawn().expect("quern starts");
    let said = space.quern("logs --follow -p talk").ok();
    assert_eq!(said.lines().collect::<std::collections::BTreeSet<_>>(), ["a", "b", "c"].into());
    assert_eq!(space.newest_job("talk")["state"], "success", "it waited for the end");
    assert!(flush.wait().expect("it is a child").success());
}

#[test]
fn datums_logs_and_reasons_are_shown() {
    let space = copied(&["a", "b"]);
    space.put("texts@master:/b", "other");
    space.flush("texts@master").ran();
    let id = text(&space.newest_job("copy")["id"]);
    let datums = space.json(&format!("list datum {id}"));
    let shown: Vec<(String, Value)> = datums
        .as_array()
        .expect("an array")
        .iter()
        .map(|d| (text(&d["state"]), d["files"].clone()))
        .collect();
    assert_eq!(shown.len(), 2);
    assert!(shown.contains(&("success".into(), json!(["texts:/b"]))), "{shown:?}");
    assert!(shown.contains(&("skipped".into(), json!(["texts:/a"]))), "{shown:?}");
    let datum =
        datums.as_array().expect("an array").iter().find(|d| d["state"] == "success").expect("one ran");
    let key = text(&datum["id"]);
    let one = space.json(&format!("inspect datum {id} {}", &key[..12]));
    assert_eq!((&one["id"], &one["tries"], &one["cached"]), (&json!(key), &json!(1), &json!(false)));
    space.quern(&format!("inspect datum {id} ffffffffffff")).says(3, &["ffffffffffff"]);
    assert_eq!(space.quern("logs -p copy").ok(), "ran b\n", "of what this job ran");
    assert_eq!(space.quern(&format!("logs -j {id} --datum {key}")).ok(), "ran b\n");
    space.quern("logs").fails(2);
    let why = space.json("why copy");
    assert_eq!((&why["processed"], &why["skipped"], &why["total"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(why["datums"][0]["datum"], "texts:/b");
    let said = space.quern(&format!("why {id}")).ok();
    assert!(said.contains("texts@master advanced") && said.contains("texts:/b"), "{said}");
    space.quern("why missing").says(3, &["missing"]);
}

#[test]
fn a_dry_run_lists_datums_and_creates_nothing() {
    let space = copied(&["a", "b"]);
    let before = (space.json("list repo"), space.json("list pipeline"), space.json("list job"));
    let spec = shell("later", json!({ "cross": [pfs("texts", "/*"), pfs("copy", "/*")] }), &["true"]);
    space.write("later.json", spec.to_string());
    let datums = space.json("list datum -f later.json");
    let files: Vec<Value> = datums.as_array().expect("an array").iter().map(|d| d["files"].clone()).collect();
    assert_eq!(files.len(), 4);
    assert!(files.contains(&json!(["copy:/a", "texts:/b"])), "{files:?}");
    assert_eq!((space.json("list repo"), space.json("list pipeline"), space.json("list job")), before);
}

#[test]
fn what_is_extracted_can_be_given_back_and_changes_nothing() {
    let space = Space::with_repos(&["texts"]);
    space.example("wordcount");
    let spec = space.read("wordcount/count.json");
    space.quern("create pipeline -f wordcount/count.json").ok();
    let extracted = space.quern("extract pipeline count").ok();
    assert_eq!(extracted.trim(), spec.trim(), "the user's own text");
    space.put("texts@master:/a.txt", "one two");
    space.flush("texts@master").ran();
    let before = (space.json("list pipeline"), space.json("list commit"), space.json("list job"));
    space.write("wordcount/again.json", &extracted);
    space.quern("update pipeline -f wordcount/again.json").ok();
    assert_eq!((space.json("list pipeline"), space.json("list commit"), space.json("list job")), before);
    assert!(space.flush("texts@master").began().is_empty());
    space.quern("extract pipeline count_build").says(3, &["count"]);
}

#[test]
fn a_stopped_pipeline_starts_no_jobs_and_catches_up_once() {
    let space = copied(&["a"]);
    space.quern("stop pipeline copy").ok();
    assert_eq!(space.json("inspect pipeline copy")["state"], "paused");
    space.put("texts@master:/b", "b");
    space.put("texts@master:/c", "c");
    assert!(space.flush("texts@master").began().is_empty());
    assert_eq!(space.names("list file copy@master", "path"), ["/a"]);
    space.quern("start pipeline copy").ok();
    assert_eq!(space.flush("texts@master").ran(), ["copy texts:/b", "copy texts:/c"]);
    assert_eq!(space.json("list job").as_array().map(Vec::len), Some(2), "one job catches up");
    space.quern("stop pipeline missing").says(3, &["missing"]);
}

#[test]
fn a_pipeline_can_be_run_although_nothing_changed() {
    let space = copied(&["a"]);
    let id = space.quern("run pipeline copy").ok().trim().to_owned();
    let job = space.json(&format!("inspect job {id} --block"));
    assert_eq!((text(&job["state"]), counts(&job)), ("success".into(), [0, 1, 0, 0, 1]));
    assert_eq!(job["because"], json!(["a rebuild was asked for"]));
    space.quern("run pipeline missing").says(3, &["missing"]);
}

#[test]
fn every_job_reprocesses_where_the_spec_says_so() {
    let space = Space::with_repos(&["texts"]);
    let mut spec = copier("copy", "texts");
    spec["reprocess_spec"] = json!("every_job");
    space.create(&spec);
    space.put("texts@master:/a", "a");
    space.flush("texts@master").ran();
    space.put("texts@master:/b", "b");
    assert_eq!(space.flush("texts@master").ran(), ["copy texts:/a", "copy texts:/b"]);
}

#[test]
fn deleting_a_pipeline_takes_its_twin_along_unless_told_to_keep() {
    let space = Space::with_repos(&["texts"]);
    space.example("wordcount");
    space.put("texts@master:/a.txt", "one two");
    let create = || space.quern("create pipeline -f wordcount/count.json").ok();
    create();
    space.flush("texts@master").ran();
    space.quern("delete pipeline count_build").says(3, &["count"]);
    space.quern("delete pipeline count --keep-build").ok();
    assert_eq!(space.names("list pipeline", "name"), ["count_build"]);
    create();
    let flushed = space.flush("texts@master");
    assert!(!flushed.steps("ran").contains(&"count_build everything".to_owned()), "the kept build is used");
    assert_eq!(space.get("count@master:/a.txt"), "1 one\n1 two\n");
    space.quern("delete pipeline count --keep-repo").ok();
    assert_eq!(space.json("list pipeline"), json!([]));
    assert_eq!(space.names("list repo", "name"), ["count", "texts"]);
    assert_eq!(space.get("count@master:/a.txt"), "1 one\n1 two\n");
    assert_eq!(space.json("list job"), json!([]));
    space.quern("delete pipeline count").says(3, &["count"]);
}

#[test]
fn a_pipeline_that_others_read_is_not_deleted_without_force() {
    let space = copied(&["a"]);
    space.create(&copier("second", "copy"));
    space.quern("delete pipeline copy").says(3, &["second"]);
    assert_eq!(space.names("list pipeline", "name").len(), 2);
    assert_eq!(space.get("copy@master:/a"), "a");
    space.quern("delete pipeline copy -f").ok();
    assert_eq!(space.names("list pipeline", "name"), ["second"]);
}

#[test]
fn an_edited_pipeline_is_updated() {
    let space = copied(&["a"]);
    let said = space.call(&["edit", "pipeline", "copy", "--editor", "true"]);
    said.ok();
    assert!(said.stderr().contains("unchanged"), "{}", said.stderr());
    space.call(&["edit", "pipeline", "copy", "--editor", "sed -i 's/ran \\$(/RAN $(/'"]).ok();
    assert_eq!(space.json("inspect pipeline copy")["version"], 2);
    let flushed = space.flush("texts@master");
    assert_eq!(
        (flushed.ran(), flushed.lines("copy")),
        (vec!["copy texts:/a".to_owned()], vec!["RAN a".to_owned()])
    );
    space.call(&["edit", "pipeline", "copy", "--editor", "false"]).says(2, &["nothing was changed"]);
}

#[test]
fn put_can_flush_at_once() {
    let space = copied(&["a"]);
    space.feed("put file texts@master:/b --flush", "b").ok();
    assert_eq!(space.get("copy@master:/*"), "ab");
}

#[test]
fn the_state_folder_is_named_before_or_after_the_verb() {
    let space = Space::new();
    space.quern("--state one create repo first").ok();
    space.quern("create repo second --state two").ok();
    space.quern("--state=one create repo third").ok();
    assert_eq!(space.names("list repo --state one", "name").len(), 2);
    assert_eq!(space.names("--state two list repo", "name"), ["second"]);
    assert!(!space.path("state").exists(), "the environment's folder is not touched");
    space.quern("--output json list job --state two").ok();
    assert_eq!(space.json("list job --state two --status failure"), json!([]));
}

#[test]
fn help_version_and_completion() {
    let space = Space::new();
    let help = space.quern("--help").ok();
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    assert!(space.quern("put file --help").ok().contains("Examples:"));
    let version = format!("quern {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((space.quern("--version").ok(), space.quern("version").ok()), (version.clone(), version));
    for shell in ["bash", "zsh", "fish"] {
        assert!(space.quern(&format!("completion {shell}")).ok().contains("quern"), "{shell}");
    }
    space.quern("").fails(2);
    space.quern("lst repo").says(2, &["list"]);
    assert!(!space.path("state").exists(), "none of these needs a state folder");
}

#[test]
fn a_waiting_job_goes_with_the_commit_it_would_read() {
    let space = copied(&["a"]);
    space.put("texts@master:/b", "b");
    assert_eq!(space.json("list job")[0]["state"], "starting");
    space.quern("delete commit texts@master").ok();
    assert!(space.flush("texts@master").ran().is_empty());
    space.put("texts@master:/c", "c");
    assert_eq!(space.flush("texts@master").ran(), ["copy texts:/c"]);
    let states = space.names("list job", "state");
    assert!(!states.iter().any(|state| state == "starting" || state == "running"), "{states:?}");
}

#[test]
fn the_state_can_be_measured_pruned_and_checked() {
    let space = copied(&["a", "b"]);
    assert!(space.json("du").as_array().is_some_and(|kinds| !kinds.is_empty()));
    space.put("texts@other:/big", "x".repeat(100_000));
    space.quern("delete commit texts@other").ok();
    space.quern("prune --dry-run").ok();
    space.quern("prune").ok();
    space.quern("prune --all").ok();
    assert_eq!(space.get("copy@master:/*"), "ab", "what is referred to stays");
    assert_eq!(space.get("texts@master:/*"), "ab");
    let flushed = space.flush("texts@master");
    assert!(flushed.ran().is_empty(), "results of datums stay, too: {:?}", flushed.events);
    space.put("texts@master:/c", "c");
    assert_eq!(space.flush("texts@master").ran(), ["copy texts:/c"]);
    let doctor = space.quern("doctor").ok();
    assert!(doctor.contains("sandboxes") && doctor.contains("python"), "{doctor}");
}

#[test]
fn build_ls_shows_what_would_be_pushed() {
    let space = Space::with_repos(&["numbers"]);
    space.example("leftpad");
    space.write("leftpad/source/x.pyc", "bytes");
    let pushed = space.names("build ls -f leftpad/pipeline.json", "path");
    assert!(pushed.iter().any(|path| path.trim_start_matches('/') == "main.py"), "{pushed:?}");
    assert!(!pushed.iter().any(|path| path.ends_with("notes.txt")), "it is named in .pachignore: {pushed:?}");
    assert_eq!(space.json("list pipeline"), json!([]));
}

#[test]
fn progress_has_faces_for_people_and_programs() {
    let space = copied(&["start"]);
    let flush = |name: &str, kind: &str| {
        space.put(&format!("texts@master:/{name}"), name);
        let ran = space.quern(&format!("flush commit texts@master --progress={kind}"));
        ran.ok();
        ran.stderr()
    };
    let plain = flush("a", "plain");
    for part in ["copy: ", "texts:/a", "ran a", "success", "1 ran, 1 reused of 2"] {
        assert!(plain.contains(part), "`{part}` is not in:\n{plain}");
    }
    assert_eq!(flush("b", "quiet"), "");
    let raw = flush("c", "rawjson");
    let kinds: Vec<String> = raw
        .lines()
        .map(|line| text(&serde_json::from_str::<Value>(line).expect("one object a line")["event"]))
        .collect();
    assert_eq!(kinds, ["job_started", "job_planned", "step_started", "log", "step_finished", "job_finished"]);
    assert!(flush("d", "auto").contains("ran texts:/d"), "lines where there is no terminal");
    assert!(!flush("e", "tty").is_empty());
    space.quern("flush commit texts@master --progress=loud").says(2, &["rawjson"]);
}

#[test]
fn readers_that_go_away_are_no_failure() {
    let space = copied(&["a", "b"]);
    space.put("texts@master:/big", "many words\n".repeat(100_000));
    for line in
        ["get file texts@master:/big", "list job", "list job --output json", "--help", "completion bash"]
    {
        let ran = space
            .script(&format!("\"$0\" {line} | head -c 1 > /dev/null; echo done; \"$0\" {line} >&-; true"));
        assert!(ran.ok().contains("done"));
        assert!(!ran.stderr().contains("panicked"), "{line}: {}", ran.stderr());
    }
}
