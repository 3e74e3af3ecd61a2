//! Trees as texts that can be compared.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use quern_store::files::{FileKind, FileSource};
use quern_store::layers::{Node, Owners, View};
use quern_testkit::TempSpace;

/// Where overlayfs and owners can be had: as root, or in a user namespace of our own.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The owners of layers that were made here.
pub fn owners() -> Owners {
    Owners::of_current_user()
}

/// Runs a shell script where it may mount, in `dir`.
pub fn run_privileged(space: &TempSpace, script: &str) -> Vec<u8> {
    let how: &[&str] = if is_root() { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let args: Vec<_> = how.iter().copied().chain(["sh", "-eu"]).collect();
    let finished = space.run_with_input("unshare", &args, script.as_bytes());
    finished.ok();
    finished.output().stdout.clone()
}

/// The options of an overlay mount as steps get it.
pub fn overlay_options() -> &'static str {
    if is_root() { "redirect_dir=nofollow,metacopy=off,index=off,xino=off" } else { "userxattr" }
}

/// What `find -printf` must print for [`of_view`] to say the same.
pub const FIND: &str = r"find . -mindepth 1 -printf '%P\0%y %m %U %G %T@ %l\0'";

/// Pairs of path and description as [`FIND`] prints them, times without the digits that it adds.
pub fn of_find(output: &[u8]) -> BTreeMap<Vec<u8>, String> {
    let parts: Vec<_> = output.split(|byte| *byte == 0).collect();
    let pairs =
        parts.chunks_exact(2).map(|pair| (pair[0].to_vec(), String::from_utf8_lossy(pair[1]).into_owned()));
    pairs.collect()
}

/// Everything in a view, in the words of [`FIND`].
pub fn of_view(view: &View) -> BTreeMap<Vec<u8>, String> {
    let root = view.root().unwrap();
    let nodes = view.walk(&root).map(|node| node.unwrap());
    nodes.map(|node| (node.path.as_os_str().as_bytes().to_vec(), describe(&node))).collect()
}

pub fn describe(node: &Node) -> String {
    let stat = &node.stat;
    let kind = match stat.kind {
        FileKind::File => 'f',
        FileKind::Dir => 'd',
        FileKind::Link => 'l',
        FileKind::Char => 'c',
        FileKind::Block => 'b',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    };
    let target = match stat.kind {
        FileKind::Link => node.target().unwrap().to_string_lossy().into_owned(),
        _ => String::new(),
    };
    // The tenth digit is one that `find` makes up.
    format!(
        "{kind} {:o} {} {} {}.{:09}0 {target}",
        stat.mode,
        stat.uid,
        stat.gid,
        stat.modified.div_euclid(1_000_000_000),
        stat.modified.rem_euclid(1_000_000_000),
    )
}

/// The contents of all files of a view.
pub fn contents(view: &View) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let root = view.root().unwrap();
    let files = view.walk(&root).map(|node| node.unwrap()).filter(|node| node.stat.kind == FileKind::File);
    files
        .map(|node| (node.path.as_os_str().as_bytes().to_vec(), std::fs::read(node.real_path()).unwrap()))
        .collect()
}

/// A view of one ordinary directory.
pub fn of_dir(dir: &Path) -> View {
    View::new(&[dir.to_owned()]).with_owners(Owners::of_current_user())
}

/// Asserts that every node is found where the walk found it, as it found it, before its directory is listed and after.
pub fn assert_found(view: &View) {
    assert_found_once(view);
    for node in view.walk(&view.root().unwrap()).map(|node| node.unwrap()).filter(Node::is_dir) {
        let entries = FileSource::list(view, &node.path).unwrap();
        let nodes = view.list(&node).unwrap();
        assert!(
            entries
                .iter()
                .map(|entry| &*entry.name)
                .eq(nodes.iter().map(|node| node.path.file_name().unwrap()))
        );
        assert!(view.find(&node.path.join("absent")).unwrap().is_none());
    }
    assert_found_once(view);
}

fn assert_found_once(view: &View) {
    let root = view.root().unwrap();
    for node in view.walk(&root) {
        let node = node.unwrap();
        let found = view.find(&node.path).unwrap().unwrap();
        assert_eq!(
            (describe(&found), found.real_path()),
            (describe(&node), node.real_path()),
            "{:?}",
            node.path
        );
        if node.is_dir() {
            let listed =
                |node: &Node| view.list(node).unwrap().into_iter().map(|node| node.path).collect::<Vec<_>>();
            assert_eq!(listed(&found), listed(&node));
        }
    }
}
