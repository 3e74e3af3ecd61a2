//! The entries of layers as archives.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use quern_store::layers::{Change, ChangeKind, Changes, Times};
use quern_testkit::TempSpace;
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

/// Removes whatever is there.
pub fn remove(path: &Path) {
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

/// Writes entries as a tar archive.
fn to_tar(changes: Changes) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for change in changes {
        let change = change.unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_mode(change.mode);
        header.set_uid(change.uid.into());
        header.set_gid(change.gid.into());
        header.set_mtime(u64::try_from(change.modified / 1_000_000_000).unwrap());
        header.set_size(0);
        let pax: Vec<_> = change
            .xattrs
            .iter()
            .map(|(name, value)| {
                (format!("SCHILY.xattr.{}", String::from_utf8_lossy(name)), value.as_slice())
            })
            .collect();
        tar.append_pax_extensions(pax.iter().map(|(name, value)| (name.as_str(), *value))).unwrap();
        let (kind, path) = match &change.kind {
            ChangeKind::File { size } => {
                header.set_size(*size);
                header.set_entry_type(tar::EntryType::Regular);
                tar.append_data(&mut header, &change.path, change.contents().unwrap()).unwrap();
                continue;
            }
            ChangeKind::HardLink { target } | ChangeKind::Symlink { target } => {
                let hard = matches!(change.kind, ChangeKind::HardLink { .. });
                header.set_entry_type(if hard { tar::EntryType::Link } else { tar::EntryType::Symlink });
                tar.append_link(&mut header, &change.path, target).unwrap();
                continue;
            }
            ChangeKind::Dir => (tar::EntryType::Directory, change.path.clone()),
            ChangeKind::Fifo => (tar::EntryType::Fifo, change.path.clone()),
            ChangeKind::CharDevice { device } | ChangeKind::BlockDevice { device } => {
                header.set_device_major(device.0).unwrap();
                header.set_device_minor(device.1).unwrap();
                let char = matches!(change.kind, ChangeKind::CharDevice { .. });
                (if char { tar::EntryType::Char } else { tar::EntryType::Block }, change.path.clone())
            }
            ChangeKind::Whiteout => {
                let mut name = std::ffi::OsString::from(".wh.");
                name.push(change.path.file_name().unwrap());
                (tar::EntryType::Regular, change.path.with_file_name(name))
            }
            ChangeKind::Opaque => (tar::EntryType::Regular, change.path.join(".wh..wh..opq")),
        };
        header.set_entry_type(kind);
        tar.append_data(&mut header, path, std::io::empty()).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn gnu_tar_reads_a_layer() {
    let space = TempSpace::new();
    let at = |path: &str| space.path("layer").join(path);
    fs::create_dir_all(at("dir/sub")).unwrap();
    fs::write(at("dir/file"), "text").unwrap();
    fs::hard_link(at("dir/file"), at("dir/sub/again")).unwrap();
    fs::hard_link(at("dir/file"), at("a-first")).unwrap();
    std::os::unix::fs::symlink("../nowhere", at("dir/link")).unwrap();
    fs::hard_link(at("dir/link"), at("link")).unwrap();
    fs::write(at("new\nline"), "").unwrap();
    fs::write(at("n".repeat(255).as_str()), "long").unwrap();
    fs::write(at("set"), "").unwrap();
    rustix::fs::chmod(at("set"), rustix::fs::Mode::from_raw_mode(0o6755)).unwrap();
    rustix::fs::chmod(at("dir"), rustix::fs::Mode::from_raw_mode(0o1777)).unwrap();
    rustix::fs::lsetxattr(at("set"), "user.note", b"\0 bytes\xff", XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(at("dir"), "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    node(&at("pipe"), rustix::fs::FileType::Fifo, (0, 0));
    node(&at("dir/gone"), rustix::fs::FileType::CharacterDevice, (0, 0));
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    if show::is_root() {
        node(&at("null"), rustix::fs::FileType::CharacterDevice, (1, 3));
        node(&at("disk"), rustix::fs::FileType::BlockDevice, (259, 70_000));
    }
    // Nearly all of it a hole.
    let sparse = fs::File::create(at("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 20_000_000).unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for entry in fs::read_dir(at("")).unwrap().chain(fs::read_dir(at("dir")).unwrap()) {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::File::open(path).unwrap().set_modified(time).unwrap();
        }
    }

    let changes = || Changes::of_layer(&at(""), show::owners(), Times::AtMost(1_000_000_000_000_000_000));
    fs::write(space.path("layer.tar"), to_tar(changes())).unwrap();
    let listed = space.run("tar", &["--quoting-style=escape", "-tf", "layer.tar"]).ok();
    let devices = if show::is_root() { "disk\n" } else { "" };
    let null = if show::is_root() { "null\n" } else { "" };
    let long = "n".repeat(255);
    let expected = format!(
        "a-first\ndir/\ndir/.wh..wh..opq\ndir/.wh.gone\ndir/file\ndir/link\ndir/sub/\ndir/sub/again\n{devices}link\nnew\\nline\n{long}\n{null}pipe\nset\nsparse\n"
    );
    assert_eq!(listed.replace("dir\n", "dir/\n").replace("dir/sub\n", "dir/sub/\n"), expected);

    fs::create_dir(space.path("out")).unwrap();
    let args = ["-x", "-p", "--xattrs", "--xattrs-include=*", "-S", "-C", "out", "-f", "layer.tar"];
    space.run("tar", &args).ok();
    let note = |path: &str| {
        let mut value = [0; 16];
        let len = rustix::fs::lgetxattr(space.path("out").join(path), "user.note", &mut value);
        len.map(|len| value[..len].to_vec())
    };
    assert_eq!(note("set").unwrap(), b"\0 bytes\xff");
    let opaque = rustix::fs::lgetxattr(space.path("out/dir"), "user.overlay.opaque", &mut [0u8; 4][..]);
    assert_eq!(opaque, Err(rustix::io::Errno::NODATA), "marks are not attributes of the image");
    for mark in ["dir/.wh..wh..opq", "dir/.wh.gone"] {
        fs::remove_file(space.path("out").join(mark)).unwrap();
    }
    fs::remove_file(at("socket")).unwrap();
    let extracted = show::of_dir(&space.path("out"));
    let whole = |tree| {
        without_times_of_dirs(tree).into_iter().filter(|(_, text)| !text.starts_with(['l', 'p', 'c', 'b']))
    };
    assert!(whole(show::of_view(&extracted)).eq(whole(show::of_view(&show::of_dir(&at(""))))));
    assert_eq!(show::contents(&extracted), show::contents(&show::of_dir(&at(""))));
    let inode = |path: &str| {
        std::os::unix::fs::MetadataExt::ino(&fs::symlink_metadata(space.path("out").join(path)).unwrap())
    };
    assert_eq!((inode("a-first"), inode("link")), (inode("dir/sub/again"), inode("dir/link")));
    // No time is later than was allowed, and the same layer gives the same bytes.
    assert!(changes().all(|change| change.unwrap().modified <= 1_000_000_000_000_000_000));
    assert!(to_tar(changes()) == to_tar(changes()));
    let all = Changes::of_layer(&at(""), show::owners(), Times::All(7));
    assert!(all.map(|change| change.unwrap()).all(|change| change.modified == 7));
}

#[test]
fn what_cannot_be_read_is_said_once() {
    let space = TempSpace::new();
    let changes: Vec<_> = Changes::of_layer(&space.path("absent"), show::owners(), Times::Keep).collect();
    assert!(matches!(changes.as_slice(), [Err(_)]));
}
