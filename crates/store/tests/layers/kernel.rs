//! The kernel's overlay says what a stack of layers shows; the layers are made by it as well.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use quern_core::port::Layers as _;
use quern_store::layers::{Files, Owners, Times, View, materialise};
use quern_store::{LayerStore, OpenOptions, Store};
use quern_testkit::TempSpace;

use crate::{archive, show};

/// One thing a step does; whatever cannot be done is passed over.
fn edit() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("ü"), Just(".d"), Just("-e"), Just("f g")];
    let path = prop::collection::vec(name, 1..4).prop_map(|names| format!("'./{}'", names.join("/")));
    let two = (path.clone(), path.clone());
    prop_oneof![
        // A pipe would wait for somebody who reads.
        4 => (path.clone(), 0..9u32).prop_map(|(path, n)| format!("[ -p {path} ] || head -c {n} /dev/zero > {path}")),
        4 => path.clone().prop_map(|path| format!("mkdir -p {path}")),
        3 => path.clone().prop_map(|path| format!("rm -rf {path}")),
        2 => path.clone().prop_map(|path| format!("rm -rf {path}; mkdir {path}")),
        2 => path.clone().prop_map(|path| format!("rm -rf {path}; echo new > {path}")),
        2 => two.clone().prop_map(|(from, to)| format!("mv -T {from} {to}")),
        2 => two.clone().prop_map(|(from, to)| format!("cp -a {from} {to}")),
        1 => two.prop_map(|(from, to)| format!("ln {from} {to}")),
        2 => path.clone().prop_map(|path| format!("ln -sfn b/../.. {path}")),
        1 => path.clone().prop_map(|path| format!("mkfifo {path}")),
        1 => (path.clone(), 0..0o7777u32).prop_map(|(path, mode)| format!("chmod {:o} {path}", mode | 0o700)),
        1 => (path.clone(), 0..2_000_000_000i64).prop_map(|(path, at)| format!("touch -h -d @{at}.123 {path}")),
        1 => path.clone().prop_map(|path| format!("chown -h 12:34 {path}")),
        1 => path.prop_map(|path| format!("setfattr -n user.note -v 1 {path}")),
    ]
}

/// Lets the kernel write the layers, gives what it then shows and the layers, lowest first.
fn write_layers(
    space: &TempSpace,
    store: &LayerStore,
    history: &[Vec<String>],
) -> (Vec<u8>, Vec<quern_core::Digest>) {
    let drafts: Vec<_> = history.iter().map(|_| store.begin().unwrap()).collect();
    let options = show::overlay_options();
    let mut script = String::from("umask 022; mkdir m empty\n");
    let mut lower: Vec<PathBuf> = vec![space.path("empty")];
    let stack = |lower: &[PathBuf]| {
        lower.iter().rev().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":")
    };
    for (draft, edits) in drafts.iter().zip(history) {
        let (upper, work) = (draft.dir.display(), draft.work.display());
        let lowers = stack(&lower);
        writeln!(
            script,
            "mount -t overlay -o {options},volatile,lowerdir={lowers},upperdir={upper},workdir={work} x m; cd m"
        )
        .unwrap();
        for edit in edits {
            writeln!(script, "( {edit} ) 2>/dev/null || :").unwrap();
        }
        writeln!(script, "cd ..; umount m").unwrap();
        lower.push(draft.dir.clone());
    }
    let lowers = stack(&lower);
    writeln!(script, "mount -t overlay -o {options},lowerdir={lowers} x m; cd m; {}", show::FIND).unwrap();
    let shown = show::run_privileged(space, &script);
    (shown, drafts.into_iter().map(|draft| store.commit(draft).unwrap()).collect())
}

/// Gives the paths that are shown.
fn check(history: &[Vec<String>]) -> Vec<String> {
    let space = TempSpace::new();
    let store = Store::open(&space.path("state"), &OpenOptions::default()).unwrap();
    let layers = LayerStore::of(&store);
    let (shown, ids) = write_layers(&space, &layers, history);
    let view = layers.view(&ids).unwrap();
    let seen = show::of_view(&view);
    assert_eq!(seen, show::of_find(&shown));
    show::assert_found(&view);
    // The layers' archives, applied one after the other, give the same.
    let applied = space.path("applied");
    std::fs::create_dir(&applied).unwrap();
    for id in &ids {
        archive::apply(layers.changes(id, Times::Keep), &applied);
    }
    assert_eq!(
        archive::without_times_of_dirs(show::of_view(&show::of_dir(&applied))),
        archive::without_times_of_dirs(seen.clone())
    );
    assert_eq!(show::contents(&show::of_dir(&applied)), show::contents(&view));
    // So does the stack as one directory, whether linked or copied.
    let raw = view.with_owners(Owners::Same);
    for (dir, files) in [("linked", Files::Link), ("copied", Files::Copy)] {
        let dir = space.path(dir);
        std::fs::create_dir(&dir).unwrap();
        materialise(&raw, &dir, files).unwrap();
        assert_eq!(show::of_view(&show::of_dir(&dir)), seen, "{files:?}");
        assert_eq!(show::contents(&show::of_dir(&dir)), show::contents(&raw));
        assert_links_alike(&raw, &View::new(&[dir]));
    }
    seen.into_keys().map(|path| String::from_utf8(path).unwrap()).collect()
}

/// Names that are hard links to each other in one view are so in the other.
fn assert_links_alike(one: &View, other: &View) {
    let groups = |view: &View| {
        let mut groups = std::collections::BTreeMap::<_, Vec<PathBuf>>::new();
        for node in view.walk(&view.root().unwrap()) {
            let node = node.unwrap();
            if !node.is_dir() {
                groups.entry(node.stat.inode).or_default().push(node.path);
            }
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort();
        groups
    };
    assert_eq!(groups(one), groups(other));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_view_shows_what_the_kernel_shows(history in prop::collection::vec(prop::collection::vec(edit(), 0..14), 1..6)) {
        check(&history);
    }
}

#[test]
fn what_was_one_kind_becomes_another_and_comes_back() {
    let layer = |text: &str| text.split("; ").map(str::to_owned).collect::<Vec<_>>();
    let shown = check(&[
        layer("mkdir -p d/x/y; echo 1 > d/x/y/f; echo 2 > f; ln -s d l; mkdir e; echo 3 > e/g"),
        layer("rm -rf d; echo file > d; rm f; mkdir f; echo in > f/f; rm l; mkdir l; rm -rf e"),
        layer("rm d; mkdir d; echo again > d/z; rm -rf f; ln -s d f; rm -rf l; mkdir e"),
        layer("rm -rf d/z; mkdir -p d/x; mv e h; rm f; echo last > f"),
    ]);
    assert_eq!(shown, ["d", "d/x", "f", "h"]);
}

#[test]
fn nothing_at_all_is_an_empty_tree() {
    let space = TempSpace::new();
    let store = Store::open(&space.path("state"), &OpenOptions::default()).unwrap();
    let view = LayerStore::of(&store).view(&[]).unwrap();
    let root = view.root().unwrap();
    assert!(root.is_dir() && view.list(&root).unwrap().is_empty() && root.xattrs().unwrap().is_empty());
    assert!(view.find(Path::new("etc")).unwrap().is_none());
    assert_eq!(check(&[vec![]]), [""; 0]);
}
