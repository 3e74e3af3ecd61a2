//! Incremental equals clean: whatever happened before, the outputs are those of a fresh state that is given only the
//! last data and the last pipelines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::space::{Space, pfs, shell, text};

const STEPS: u32 = 20;
const NAMES: [&str; 7] = ["a.txt", "b.txt", "c.md", "p/a.txt", "p/q/b.txt", "r/c.md", "r/d"];
const GLOBS: [&str; 6] = ["/*", "/**.txt", "/*/*", "/", "/{p,r}", "/!(p)"];
const MERGES: [&str; 3] = ["concat", "last", "fail"];

/// A small generator of numbers that depend on the seed only (the `SplitMix64` rule).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % sides as u64).expect("less than a usize")
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }
}

/// A state that lives through all edits, and what a fresh one would be given.
struct History {
    space: Space,
    files: BTreeMap<(&'static str, &'static str), String>,
    pipelines: BTreeMap<&'static str, Value>,
    told: String,
}

/// Names and contents of all files of a datum, spread over few paths, so that datums meet in them.
fn gather(input: Value, glob_of: &str, merge: &str) -> Value {
    let each = "cd /pfs; find . -path ./out -prune -o -type f -print | LC_ALL=C sort | while read -r f; do \
        n=$(basename \"$f\" | cut -c1); cat \"$f\" >> \"/pfs/out/$n\"; mkdir -p /pfs/out/names; \
        echo \"$f\" >> \"/pfs/out/names/$(basename \"$f\")\"; done";
    let mut spec = shell(glob_of, input, &[each]);
    spec["merge"] = json!(merge);
    spec["datum_tries"] = json!(1);
    spec
}

impl History {
    fn new() -> Self {
        let space = Space::with_repos(&["left", "right"]);
        Self { space, files: BTreeMap::new(), pipelines: BTreeMap::new(), told: String::new() }
    }

    fn step(&mut self, dice: &mut Dice) {
        let (repo, name) = (dice.pick(&["left", "right"]), dice.pick(&NAMES));
        match dice.roll(12) {
            0..4 => {
                let content = format!("{}\n", dice.roll(5));
                let known = self.files.entry((repo, name)).or_default();
                let (flag, next) = if dice.roll(2) == 0 {
                    ("", format!("{known}{content}"))
                } else {
                    ("-o", content.clone())
                };
                *known = next;
                self.tell(&format!("put file {repo}@master:/{name} {flag}"), &content);
            }
            4..6 => {
                self.files.remove(&(repo, name));
                self.tell(&format!("delete file {repo}@master:/{name}"), "");
            }
            6 => {
                self.files.retain(|(of, path), _| *of != repo || !path.starts_with("p/"));
                self.tell(&format!("delete file {repo}@master:/p/**"), "");
            }
            7 | 8 => {
                let spec = gather(pfs("left", dice.pick(&GLOBS)), "map", dice.pick(&MERGES));
                self.submit("map", spec, dice);
            }
            9 => {
                let both = json!([pfs("left", dice.pick(&GLOBS)), pfs("right", dice.pick(&GLOBS))]);
                let input =
                    if dice.roll(2) == 0 { json!({ "cross": both }) } else { json!({ "union": both }) };
                let spec = gather(input, "both", dice.pick(&MERGES[..2]));
                self.submit("both", spec, dice);
            }
            10 if self.pipelines.contains_key("map") => {
                let spec = gather(pfs("map", dice.pick(&["/", "/*", "/**"])), "sum", dice.pick(&MERGES[..2]));
                self.submit("sum", spec, dice);
            }
            10 | 11 => {
                if self.pipelines.remove("both").is_some() {
                    self.tell("delete pipeline both", "");
                }
            }
            _ => unreachable!("there are twelve sides"),
        }
        if dice.roll(3) == 0 {
            self.flush(&self.space);
        }
    }

    fn submit(&mut self, name: &'static str, spec: Value, dice: &mut Dice) {
        let reprocess = if dice.roll(4) == 0 { " --reprocess" } else { "" };
        self.tell(&format!("update pipeline -f -{reprocess}"), &spec.to_string());
        self.pipelines.insert(name, spec);
    }

    fn tell(&mut self, line: &str, input: &str) {
        writeln!(self.told, "quern {line} <<< {input:?}").expect("a text takes everything");
        let ran = self.space.feed(line, input);
        assert_eq!(ran.code(), Some(0), "{}\n{}", self.told, ran.stderr());
    }

    fn flush(&self, space: &Space) {
        for repo in ["left", "right"] {
            if !space.json(&format!("list commit {repo} -n 1")).as_array().is_some_and(Vec::is_empty) {
                let code = space.quern(&format!("flush commit {repo}@master")).code();
                assert!(matches!(code, Some(0 | 1)), "{code:?}\n{}", self.told);
            }
        }
    }

    /// A state that is given what there is now and has no past.
    fn clean(&self) -> Space {
        let space = Space::with_repos(&["left", "right"]);
        for repo in ["left", "right"] {
            // Directories stay when their last file goes; and there is a commit even if no file is left.
            let listed = self.space.json(&format!("glob file {repo}@master:/**"));
            let dirs = listed.as_array().expect("an array").iter().filter(|file| file["type"] == "dir");
            for dir in dirs.map(|dir| text(&dir["path"])).chain([String::new()]) {
                space.put(&format!("{repo}@master:{dir}/none"), "");
                space.quern(&format!("delete file {repo}@master:{dir}/none")).ok();
            }
        }
        for ((repo, path), content) in &self.files {
            space.put(&format!("{repo}@master:/{path}"), content);
        }
        let specs: String = self.pipelines.values().map(|spec| format!("{spec}\n")).collect();
        space.feed("create pipeline", specs).ok();
        space
    }

    fn check(&self) {
        self.flush(&self.space);
        let clean = self.clean();
        self.flush(&clean);
        for repo in ["left", "right"] {
            let listed =
                |space: &Space| space.quern(&format!("glob file {repo}@master:/** --output json")).json();
            assert_eq!(listed(&self.space), listed(&clean), "{repo}\n{}", self.told);
        }
        for name in self.pipelines.keys() {
            let state = |space: &Space| space.newest_job(name)["state"].clone();
            assert_eq!(state(&self.space), state(&clean), "{name}\n{}", self.told);
            if state(&clean) == "success" {
                let tree = |space: &Space| space.tree(&format!("{name}@master"));
                assert_eq!(tree(&self.space), tree(&clean), "{name}\n{}", self.told);
            }
        }
    }
}

fn live(seed: u64) {
    let mut dice = Dice(seed);
    let mut history = History::new();
    for name in NAMES {
        history.files.insert(("left", name), format!("{name}\n"));
        history.tell(&format!("put file left@master:/{name}"), &format!("{name}\n"));
    }
    history.files.insert(("right", "a.txt"), "right\n".into());
    history.tell("put file right@master:/a.txt", "right\n");
    let first = gather(pfs("left", "/*"), "map", "concat");
    history.submit("map", first, &mut dice);
    for step in 1..=STEPS {
        history.step(&mut dice);
        if step % 10 == 0 {
            history.check();
        }
    }
}

#[test]
fn incremental_is_clean_after_history_one() {
    live(1);
}

#[test]
fn incremental_is_clean_after_history_two() {
    live(2);
}

#[test]
fn incremental_is_clean_after_history_three() {
    live(3);
}

#[test]
fn incremental_is_clean_after_history_four() {
    live(4);
}
