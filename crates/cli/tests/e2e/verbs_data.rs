//! Verbs on repos, branches, commits and files, with their main flags.

use serde_json::json;

use crate::space::{Space, copier, text};

#[test]
fn repos_are_created_updated_listed_and_deleted() {
    let space = Space::new();
    assert_eq!(space.quern("create repo texts -d words").ok(), "", "success is silent");
    space.quern("create repo texts").says(3, &["texts", "exists"]);
    space.quern("create repo numbers").ok();
    let texts = space.json("inspect repo texts");
    assert_eq!((text(&texts["name"]), text(&texts["description"])), ("texts".into(), "words".into()));
    space.call(&["update", "repo", "texts", "-d", "other words"]).ok();
    assert_eq!(space.json("inspect repo texts")["description"], "other words");
    space.quern("update repo missing -d x").says(3, &["missing"]);
    space.put("texts@master:/a", "12345");
    assert_eq!(space.json("inspect repo texts")["size_bytes"], 5);
    let table = space.quern("list repo").ok();
    assert!(table.starts_with("NAME") && table.contains("SIZE (MASTER)"), "{table}");
    assert_eq!(space.names("list repo", "name"), ["numbers", "texts"], "newest first");
    space.quern("delete repo numbers").ok();
    assert_eq!(space.names("list repo", "name"), ["texts"]);
    space.quern("delete repo numbers").says(3, &["numbers"]);
    space.create(&copier("copy", "texts"));
    space.quern("delete repo texts").says(3, &["copy"]);
    assert_eq!(space.names("list repo", "name").len(), 2, "a refused deletion deletes nothing");
    space.quern("delete pipeline --all").ok();
    space.quern("delete repo --all").ok();
    assert_eq!(space.json("list repo"), json!([]));
}

#[test]
fn branches_point_to_commits_and_move() {
    let space = Space::with_repos(&["texts"]);
    space.put("texts@master:/a", "one");
    space.put("texts@master:/a", "two");
    let commits = space.names("list commit texts@master", "id");
    space.quern(&format!("create branch texts@old --head {}", commits[1])).ok();
    assert_eq!(space.get("texts@old:/a"), "one");
    space.quern("create branch texts@old --head master").ok();
    assert_eq!(space.get("texts@old:/a"), "two");
    space.quern("create branch texts@empty").ok();
    assert_eq!(space.json("inspect branch texts@empty")["head"], json!(null));
    assert_eq!(space.json("inspect branch texts@old")["head"], json!(commits[0]));
    let mut names = space.names("list branch texts", "branch");
    names.sort();
    assert_eq!(names, ["empty", "master", "old"]);
    space.quern("delete branch texts@old").ok();
    space.quern("inspect branch texts@old").says(3, &["old"]);
    assert_eq!(space.names("list commit texts", "id"), commits, "commits stay");
    space.quern("create branch texts").says(2, &["REPO@BRANCH"]);
    assert_eq!(space.get("texts@master^:/a"), "one", "the parent by its sign");
    assert_eq!(space.get(&format!("texts@{}:/a", commits[1])), "one", "a commit by its id");
}

#[test]
fn moving_a_branch_runs_what_reads_it() {
    let space = Space::with_repos(&["texts"]);
    let mut spec = copier("copy", "texts");
    spec["input"]["pfs"]["branch"] = json!("ready");
    space.create(&spec);
    space.put("texts@master:/a", "one");
    space.put("texts@master:/b", "two");
    assert!(space.flush("texts@master").ran().is_empty(), "nothing reads master");
    space.quern("create branch texts@ready --head master").ok();
    assert_eq!(space.flush("texts@ready").ran(), ["copy texts:/a", "copy texts:/b"]);
    space.quern("create branch texts@ready --head master^").ok();
    assert!(space.flush("texts@ready").ran().is_empty(), "the result is known");
    assert_eq!(space.names("list file copy@master", "path"), ["/a"]);
}

#[test]
fn commits_are_started_finished_and_deleted_with_what_follows() {
    let space = Space::with_repos(&["texts"]);
    space.create(&copier("copy", "texts"));
    let id = space.quern("start commit texts@master -m draft").ok().trim().to_owned();
    space.put("texts@master:/a", "one");
    space.put("texts@master:/b", "two");
    let open = space.json(&format!("inspect commit texts@{id}"));
    assert_eq!((&open["finished"], &open["description"]), (&json!(null), &json!("draft")));
    space.quern("start commit texts@master").says(3, &["texts@master"]);
    assert_eq!(space.json("list job"), json!([]), "an open commit starts nothing");
    space.quern("finish commit texts@master -m done").ok();
    let first = space.json(&format!("inspect commit texts@{id}"));
    assert_eq!(
        (&first["description"], &first["size_bytes"], &first["origin"]),
        (&json!("done"), &json!(6), &json!("user"))
    );
    space.quern("finish commit texts@master").says(3, &["finished"]);
    space.flush("texts@master").ran();
    space.put("texts@master:/a", "three");
    space.flush("texts@master").ran();
    assert_eq!(space.names("list commit texts@master -n 1", "id").len(), 1);
    let newest = space.json("list commit copy@master")[0].clone();
    let head = space.names("list commit texts@master", "id")[0].clone();
    assert!(newest["provenance"].as_array().expect("an array").contains(&json!(head)), "{newest}");
    assert_eq!(space.json("list commit").as_array().map(Vec::len), Some(4));

    space.quern("delete commit copy@master").says(3, &["made by a job"]);
    space.quern("delete commit texts@master").ok();
    assert_eq!(space.names("list commit texts", "id"), [id]);
    assert_eq!(space.get("texts@master:/a"), "one", "the branch shows what was before");
    assert_eq!(space.names("list commit copy", "id").len(), 1, "what was made from it is gone, too");
    assert_eq!(space.get("copy@master:/a"), "one");
}

#[test]
fn put_appends_unless_told_to_overwrite() {
    let space = Space::with_repos(&["texts"]);
    space.feed("put file texts@master:/a", "one\n").ok();
    space.feed("put file texts@master:/a", "two\n").ok();
    assert_eq!(space.get("texts@master:/a"), "one\ntwo\n");
    space.feed("put file texts@master:/a -o -f -", "three\n").ok();
    assert_eq!(space.get("texts@master:/a"), "three\n");
    space.write("b.txt", "b");
    space.quern("put file texts@master -f b.txt").ok();
    space.quern("put file texts@master:/c/d -f b.txt").ok();
    space.quern("put file texts@master:/ -f ./b.txt").ok();
    assert_eq!(
        space.get("texts@master:/b.txt"),
        "bb",
        "appended at the path as typed, then at the root by its name"
    );
    assert_eq!(space.get("texts@master:/c/d"), "b");
    let before = space.names("list commit texts", "id");
    space.put("texts@master:/a", "three\n");
    assert_eq!(space.names("list commit texts", "id"), before, "the same bytes make no commit");
    space.feed("put file texts@master:/a/b", "x").says(3, &["/a"]);
    space.feed("put file texts@master:/c", "x").says(3, &["/c"]);
    space.feed("put file texts@master:/empty", "").ok();
    assert_eq!(space.json("inspect file texts@master:/empty")["size_bytes"], 0);
}

#[test]
fn directories_and_lists_of_files_land_in_one_commit() {
    let space = Space::with_repos(&["texts"]);
    space.write("data/a", "a");
    space.write("data/sub/b", "b");
    space.write("more/c", "c");
    space.quern("put file texts@master -f data").says(2, &["-r"]);
    space.quern("put file texts@master -r -f data").ok();
    assert_eq!(
        space.names("glob file texts@master:/**", "path"),
        ["/data", "/data/a", "/data/sub", "/data/sub/b"]
    );
    space.quern("put file texts@root:/ -r -f data").ok();
    assert_eq!(space.names("glob file texts@root:/**", "path"), ["/a", "/sub", "/sub/b"]);
    space.quern("put file texts@several:/into -r -f data/a -f more").ok();
    let several = ["/into", "/into/data", "/into/data/a", "/into/more", "/into/more/c"];
    assert_eq!(space.names("glob file texts@several:/**", "path"), several);
    space.write("list", "data/a\n\nmore/c\n");
    space.quern("put file texts@listed -i list").ok();
    assert_eq!(space.names("glob file texts@listed:/**", "path"), ["/data", "/data/a", "/more", "/more/c"]);
    for branch in ["master", "root", "several", "listed"] {
        assert_eq!(space.names(&format!("list commit texts@{branch}"), "id").len(), 1, "{branch}");
    }
    space.quern("put file texts@master -f data/a -f missing").says(3, &["missing"]);
    assert_eq!(space.names("list commit texts@master", "id").len(), 1, "all files or none");
}

#[test]
fn files_are_read_as_matches_and_as_directories() {
    let space = Space::with_repos(&["texts"]);
    for (path, content) in [("a.txt", "1"), ("b.md", "2"), ("dir/c.txt", "3"), ("dir/d e.txt", "4")] {
        space
            .call(&[
                "put",
                "file",
                &format!("texts@master:/{path}"),
                "-f",
                &space.write("one", content).to_string_lossy(),
            ])
            .ok();
    }
    assert_eq!(space.get("texts@master:/**.txt"), "134", "in the order of their paths");
    assert_eq!(space.get("texts@master:/*.{md,txt}"), "12");
    space.quern("get file texts@master:/a.txt -o got").ok();
    assert_eq!(space.read("got"), "1");
    space.quern("get file texts@master:/dir -r -o tree").ok();
    assert_eq!((space.read("tree/c.txt"), space.read("tree/d e.txt")), ("3".into(), "4".into()));
    space.quern("get file texts@master:/ -r -o whole").ok();
    assert_eq!(space.read("whole/dir/c.txt"), "3");
    space.quern("get file texts@master:/a.txt -r -o x").says(2, &["-r"]);
    space.quern("get file texts@master:/missing").says(3, &["/missing"]);
    space.quern("get file texts@missing:/a.txt").says(3, &["missing"]);
    space.quern("get file missing@master:/a.txt").says(3, &["missing"]);
    let table = space.quern("list file texts@master").ok();
    assert!(table.starts_with("NAME") && table.contains("/dir"), "{table}");
    let listed = space.json("list file texts@master:/");
    let kinds: Vec<String> =
        listed.as_array().expect("an array").iter().map(|file| text(&file["type"])).collect();
    assert_eq!(kinds, ["file", "file", "dir"]);
    let dir = space.json("inspect file texts@master:/dir");
    assert_eq!((&dir["type"], &dir["size_bytes"]), (&json!("dir"), &json!(2)));
    assert_eq!(space.names("glob file texts@master:/!(dir)", "path"), ["/a.txt", "/b.md"]);
    assert_eq!(space.json("glob file texts@master:/none*"), json!([]));
}

#[test]
fn files_are_copied_compared_and_deleted() {
    let space = Space::with_repos(&["texts", "other"]);
    space.put("texts@master:/dir/a", "1");
    space.put("texts@master:/dir/b", "2");
    space.quern("copy file texts@master:/dir other@master:/copied").ok();
    assert_eq!(space.get("other@master:/copied/*"), "12");
    space.quern("copy file texts@master:/dir/a other@master:/copied/b").ok();
    assert_eq!(space.get("other@master:/copied/b"), "21", "appended");
    space.quern("copy file texts@master:/dir/a other@master:/copied/b -o").ok();
    assert_eq!(space.get("other@master:/copied/b"), "1");
    space.quern("copy file texts@master:/none other@master:/x").says(3, &["/none"]);

    space.put("texts@master:/dir/a", "111");
    space.quern("delete file texts@master:/dir/b").ok();
    space.put("texts@master:/new", "x");
    let diff = space.json("diff file texts@master texts@master^^^");
    let ops: Vec<(String, String)> =
        diff.as_array().expect("an array").iter().map(|d| (text(&d["op"]), text(&d["path"]))).collect();
    assert_eq!(
        ops,
        [("~", "/dir/a"), ("-", "/dir/b"), ("+", "/new")].map(|(op, path)| (op.to_owned(), path.to_owned()))
    );
    assert_eq!(
        space.quern("diff file texts@master").ok().lines().count(),
        2,
        "the parent if nothing is named"
    );
    assert_eq!(
        space.quern("diff file texts@master texts@master^^^ --name-only").ok(),
        "/dir/a\n/dir/b\n/new\n"
    );
    assert_eq!(
        space.quern("diff file texts@master:/dir texts@master^^^ --name-only").ok(),
        "/dir/a\n/dir/b\n"
    );

    let before = space.names("list commit texts", "id").len();
    space.quern("delete file texts@master:/none").ok();
    assert_eq!(space.names("list commit texts", "id").len(), before, "deleting nothing changes nothing");
    space.quern("delete file texts@master:/d*/*").ok();
    assert_eq!(space.names("glob file texts@master:/**.*{,}", "path"), [] as [&str; 0]);
    space.quern("delete file texts@master:/").ok();
    assert_eq!(space.json("list file texts@master"), json!([]));
    space.quern("delete file texts@master").says(2, &["REPO@BRANCH:PATH"]);
}

#[test]
fn outputs_belong_to_their_pipelines() {
    let space = Space::with_repos(&["texts"]);
    space.create(&copier("copy", "texts"));
    space.put("texts@master:/a", "1");
    space.flush("texts@master").ran();
    space.feed("put file copy@master:/a", "x").says(3, &["copy@master"]);
    space.quern("delete file copy@master:/a").says(3, &["copy@master"]);
    space.quern("start commit copy@master").says(3, &["copy@master"]);
    space.quern("copy file texts@master:/a copy@master:/b").says(3, &["copy@master"]);
    assert_eq!(space.names("list file copy@master", "path"), ["/a"]);
}
