//! The entries of layers as archives.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use quern_store::layers::{Change, ChangeKind, Changes};
use rustix::fs::XattrFlags;

use crate::show;

/// Applies the entries of a layer to a directory, by the words of the image specification.
pub fn apply(changes: Changes, dir: &Path) {
    let mut seen = std::collections::BTreeSet::new();
    for change in changes {
        let change = change.unwrap();
        // An opaque directory comes first as a directory.
        let is_new = seen.insert(change.path.clone());
        assert_eq!(is_new, change.kind != ChangeKind::Opaque, "{:?}", change.path);
        let parent = change.path.parent().unwrap();
        assert!(
            parent.as_os_str().is_empty() || seen.contains(parent),
            "{:?} before its parent",
            change.path
        );
        let place = dir.join(&change.path);
        match &change.kind {
            ChangeKind::Whiteout => remove(&place),
            ChangeKind::Opaque => {
                for entry in fs::read_dir(&place).unwrap() {
                    remove(&entry.unwrap().path());
                }
            }
            ChangeKind::Dir if place.symlink_metadata().is_ok_and(|found| found.is_dir()) => {
                dress(&change, &place);
            }
            _ => {
                remove(&place);
                make(&change, &place, dir);
            }
        }
    }
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

fn make(change: &Change, place: &Path, dir: &Path) {
    match &change.kind {
        ChangeKind::HardLink { target } => return fs::hard_link(dir.join(target), place).unwrap(),
        ChangeKind::File { size } => {
            let mut bytes = Vec::new();
            change.contents().unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, *size);
            fs::write(place, bytes).unwrap();
        }
        ChangeKind::Dir => fs::create_dir(place).unwrap(),
        ChangeKind::Symlink { target } => std::os::unix::fs::symlink(target, place).unwrap(),
        ChangeKind::Fifo => node(place, rustix::fs::FileType::Fifo, (0, 0)),
        ChangeKind::CharDevice { device } => node(place, rustix::fs::FileType::CharacterDevice, *device),
        ChangeKind::BlockDevice { device } => node(place, rustix::fs::FileType::BlockDevice, *device),
        ChangeKind::Whiteout | ChangeKind::Opaque => unreachable!("these remove"),
    }
    dress(change, place);
}

fn node(place: &Path, kind: rustix::fs::FileType, (major, minor): (u32, u32)) {
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(rustix::fs::CWD, place, kind, rustix::fs::Mode::RUSR, device).unwrap();
}

fn dress(change: &Change, place: &Path) {
    if show::is_root() {
        std::os::unix::fs::lchown(place, Some(change.uid), Some(change.gid)).unwrap();
    }
    for (name, value) in &change.xattrs {
        rustix::fs::lsetxattr(place, name.as_slice(), value, XattrFlags::empty()).unwrap();
    }
    if !matches!(change.kind, ChangeKind::Symlink { .. }) {
        rustix::fs::chmod(place, rustix::fs::Mode::from_raw_mode(change.mode)).unwrap();
    }
    let time = rustix::fs::Timespec {
        tv_sec: change.modified.div_euclid(1_000_000_000),
        tv_nsec: change.modified.rem_euclid(1_000_000_000),
    };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, place, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Applying archives changes the times of directories.
pub fn without_times_of_dirs(tree: BTreeMap<Vec<u8>, String>) -> BTreeMap<Vec<u8>, String> {
    let without = |text: String| match text.strip_prefix("d ") {
        Some(rest) => rest.split(' ').take(3).collect::<Vec<_>>().join(" "),
        None => text,
    };
    tree.into_iter().map(|(path, text)| (path, without(text))).collect()
}
