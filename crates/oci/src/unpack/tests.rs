use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;

/// Members in a short notation: `dir/`, `file=content`, `link->target`, `name=>target` (hard link), `!name` (pipe), `%name` (device).
fn layer(members: &[&str]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for member in members {
        let (name, kind, target, content) = if let Some((name, target)) = member.split_once("->") {
            (name, EntryType::Symlink, target, "")
        } else if let Some((name, target)) = member.split_once("=>") {
            (name, EntryType::Link, target, "")
        } else if let Some((name, content)) = member.split_once('=') {
            (name, EntryType::Regular, "", content)
        } else if let Some(name) = member.strip_prefix('!') {
            (name, EntryType::Fifo, "", "")
        } else if let Some(name) = member.strip_prefix('%') {
            (name, EntryType::Char, "", "")
        } else {
            (*member, EntryType::Directory, "", "")
        };
        builder.append(&header(name, kind, target, content.len()), content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A header with exactly these names: the `tar` crate refuses to write hostile ones.
fn header(name: &str, kind: EntryType, target: &str, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o640 });
    header.set_size(size as u64);
    header.set_mtime(1_000_000_000);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    header
}

struct Space {
    _folder: TempDir,
    root: PathBuf,
    outside: PathBuf,
}

fn space() -> Space {
    let folder = tempfile::tempdir().unwrap();
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    Space { _folder: folder, root, outside }
}

impl Space {
    fn unpack(&self, layers: &[Vec<u8>]) -> Result<Report, UnpackError> {
        let mut unpacker = Unpacker::new(&self.root, &UnpackOptions::for_current_user())?;
        for layer in layers {
            unpacker.layer(layer.as_slice())?;
        }
        Ok(unpacker.report().clone())
    }

    /// Every path below the root with what it is, sorted.
    fn list(&self) -> Vec<String> {
        let mut lines = Vec::new();
        walk(&self.root, &mut |path| {
            let name = path.strip_prefix(&self.root).unwrap().display().to_string();
            let kind = path.symlink_metadata().unwrap().file_type();
            lines.push(match () {
                () if kind.is_dir() => format!("{name}/"),
                () if kind.is_symlink() => format!("{name}->{}", fs::read_link(path).unwrap().display()),
                () if kind.is_file() => format!("{name}={}", fs::read_to_string(path).unwrap()),
                () => name,
            });
        });
        lines.sort();
        lines
    }

    fn assert_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(&self.outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(self.outside.join("secret")).unwrap(), "secret");
        assert_eq!(fs::read_dir(self.root.parent().unwrap()).unwrap().count(), 2);
    }
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        visit(&path);
        if path.symlink_metadata().unwrap().is_dir() {
            walk(&path, visit);
        }
    }
}

fn check(layers: &[&[&str]], expected: &[&str]) {
    let space = space();
    let layers: Vec<_> = layers.iter().map(|members| layer(members)).collect();
    space.unpack(&layers).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(space.list(), expected);
}

#[test]
fn members_become_files() {
    check(
        &[&["./", "./a/", "a/f=text", "/b/c/d=x", "l->/etc/passwd", "h=>a/f"]],
        &["a/", "a/f=text", "b/", "b/c/", "b/c/d=x", "h=text", "l->/etc/passwd"],
    );
    check(&[&["f=1", "d/", "d/x=1"], &["f=2", "d=file"]], &["d=file", "f=2"]);
    check(&[&["d/", "d/x=1", "l->d"], &["l/", "l/y=2"]], &["d/", "d/x=1", "l/", "l/y=2"]);
    check(&[&["d/", "d/x=1", "d/", "d/y=2"]], &["d/", "d/x=1", "d/y=2"]);
}

#[test]
fn paths_lead_through_the_links_of_lower_layers_inside_the_root() {
    check(
        &[&["usr/bin/", "bin->usr/bin"], &["bin/tool=x"]],
        &["bin->usr/bin", "usr/", "usr/bin/", "usr/bin/tool=x"],
    );
    check(&[&["a->/../../b/"], &["a/f=x"]], &["a->/../../b/", "b/", "b/f=x"]);
    check(&[&["d/", "d/l->../../../e"], &["d/l/f=x"]], &["d/", "d/l->../../../e", "e/", "e/f=x"]);
    check(&[&["f=1", "d->."], &["g=>d/d/f"]], &["d->.", "f=1", "g=1"]);
}

#[test]
fn whiteouts_hide_what_lies_below_and_nothing_else() {
    check(&[&["a=1", "d/x=1", "d/y=1"], &[".wh.a", "d/.wh.x"]], &["d/", "d/y=1"]);
    check(&[&["d/x=1", "d/e/z=1"], &["d/", "d/.wh..wh..opq", "d/n=2"]], &["d/", "d/n=2"]);
    check(
        &[&["d/x=1", "d/e/z=1"], &["d/n=2", "d/e/m=2", "d/.wh..wh..opq"]],
        &["d/", "d/e/", "d/e/m=2", "d/n=2"],
    );
    check(&[&["a=1"], &["a=2", ".wh.a"]], &["a=2"]);
    check(&[&["a=1"], &[".wh.a", "a=2"]], &["a=2"]);
    check(&[&["d/x=1"], &["d/y=2", ".wh.d"]], &["d/", "d/y=2"]);
    check(
        &[&["a=1"], &[".wh.b", "c/.wh.x", "n/.wh..wh..opq", ".wh..wh.plnk/", ".wh..wh.plnk/1.2=x"]],
        &["a=1"],
    );
    check(&[&["d/x=1", "l->d"], &[".wh.l"]], &["d/", "d/x=1"]);
    check(&[&["d/x=1", "l->d"], &["l/.wh.x"]], &["d/", "l->d"]);
}

#[test]
fn modes_times_and_kinds() {
    let space = space();
    let report = space.unpack(&[layer(&["d/", "d/f=x", "!p", "%null", "l->x"])]).unwrap();
    let meta = |name: &str| space.root.join(name).symlink_metadata().unwrap();
    assert_eq!(meta("d/f").permissions().mode() & 0o7777, 0o640);
    assert_eq!(
        (meta("d/f").mtime(), meta("d").mtime(), meta("l").mtime()),
        (1_000_000_000, 1_000_000_000, 1_000_000_000)
    );
    assert!(meta("p").file_type().is_fifo());
    assert!(!space.root.join("null").exists());
    assert_eq!(report.notes, [Note { path: "/null".into(), left_out: LeftOut::Device }]);
    assert_eq!((report.members, report.bytes), (5, 1));
}

/// Unpacking an image twice gives the same times, too.
#[test]
fn directories_that_a_layer_does_not_name_keep_their_times() {
    let space = space();
    space
        .unpack(&[layer(&["d/", "d/e/", "d/e/x=1"]), layer(&["d/e/y=2", "n/m/z=2"]), layer(&["d/e/.wh.x"])])
        .unwrap();
    let time = |name: &str| space.root.join(name).metadata().unwrap().mtime();
    assert_eq!((time("d"), time("d/e")), (1_000_000_000, 1_000_000_000));
    assert_eq!((time("n"), time("n/m")), (0, 0));
}

#[test]
fn owners_bits_and_attributes_as_root() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let space = space();
    let mut builder = Builder::new(Vec::new());
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    builder
        .append_pax_extensions([
            ("SCHILY.xattr.security.capability", capability.as_slice()),
            ("SCHILY.xattr.user.note", b"a\nb"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ])
        .unwrap();
    let mut header = header("su", EntryType::Regular, "", 0);
    header.set_mode(0o4755);
    header.set_uid(123);
    header.set_gid(456);
    header.set_cksum();
    builder.append(&header, io::empty()).unwrap();
    let report = space.unpack(&[builder.into_inner().unwrap()]).unwrap();
    let file = space.root.join("su");
    let meta = file.metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777), (123, 456, 0o4755));
    let attribute = |name: &str| {
        let mut value = vec![0; 100];
        let length = rustix::fs::getxattr(&file, name, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    };
    assert_eq!(attribute("security.capability").as_deref(), Some(capability.as_slice()));
    assert_eq!(attribute("user.note").as_deref(), Some(b"a\nb".as_slice()));
    assert_eq!((attribute("trusted.overlay.redirect"), attribute("user.overlay.opaque")), (None, None));
    assert_eq!(report.note_count, 2);
}

#[test]
fn device_nodes_on_request() {
    let space = space();
    let options = UnpackOptions { devices: true, ..UnpackOptions::for_current_user() };
    let mut unpacker = Unpacker::new(&space.root, &options).unwrap();
    let mut header = header("null", EntryType::Char, "", 0);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_cksum();
    match unpacker.layer(header.as_bytes().as_slice()) {
        Ok(_) => {
            let meta = space.root.join("null").metadata().unwrap();
            assert_eq!((meta.file_type().is_char_device(), meta.rdev()), (true, rustix::fs::makedev(1, 3)));
        }
        Err(error) => assert!(error.to_string().contains("cannot make the node `/null`"), "{error}"),
    }
}

fn refused(layers: &[&[&str]], expected: &str) {
    let space = space();
    let layers: Vec<_> = layers.iter().map(|members| layer(members)).collect();
    let error = space.unpack(&layers).expect_err(expected);
    assert!(error.to_string().contains(expected), "{error}\nexpected: {expected}");
    space.assert_untouched();
}

#[test]
fn hostile_members_are_refused() {
    refused(&[&["../outside/secret=x"]], "contains `..`");
    refused(&[&["a/", "a/../../outside/secret=x"]], "contains `..`");
    refused(&[&["..=x"]], "contains `..`");
    refused(&[&["/=x"]], "is the root, but it is not a directory");
    refused(&[&["l->../outside", "l/secret=x"]], "makes the link `/l` and then writes through it");
    refused(&[&["l->/etc", "l/d/f=x"]], "makes the link `/l`");
    refused(&[&["d/"], &["d->/etc", "d/f=x"]], "makes the link `/d`");
    refused(&[&["h=>../outside/secret"]], "does not stay inside the root");
    refused(&[&["h=>/outside/secret"]], "does not exist");
    refused(&[&["l->../outside"], &["h=>l/secret"]], "does not exist");
    refused(&[&["d/", "h=>d"]], "is not a file");
    refused(&[&["a=1", "a=2"]], "has `/a` twice");
    refused(&[&["a=1", "./a->b"]], "has `/a` twice");
    refused(&[&["a=1", "a/"]], "has `/a` twice");
    refused(&[&["d/f=1", "d=2"]], "has `/d` twice");
    refused(&[&["d/"], &["d/f=1", "d=2"]], "has `/d` twice");
    refused(&[&["d/", "l->d"], &["d/f=1", "l/f=2"]], "has `/d/f` twice");
    refused(&[&[".wh..."]], "names no file");
    refused(&[&["d/.wh.."]], "names no file");
    refused(&[&[".wh."]], "names no file");
    refused(&[&[".wh.d/f=1"]], "names no file");
    refused(&[&["f=1"], &["f/x=1"]], "`/f` is not a directory");
    refused(&[&["a->b", "b->a"], &["a/f=1"]], "leads in a circle");
}

#[test]
fn deep_trees_are_refused_even_through_links() {
    let space = space();
    let options = UnpackOptions {
        limits: Limits { depth: 5, ..Limits::default() },
        ..UnpackOptions::for_current_user()
    };
    let mut unpacker = Unpacker::new(&space.root, &options).unwrap();
    unpacker.layer(layer(&["a/b/c/d/f=1", "l->a/b/c"]).as_slice()).unwrap();
    let error = unpacker.layer(layer(&["l/x/y/f=1"]).as_slice()).err().unwrap();
    assert!(matches!(error, UnpackError::TooDeep { limit: 5, .. }), "{error}");
    assert_eq!(space.list().iter().filter(|line| line.contains("/x")).count(), 1);
}

#[test]
fn a_truncated_file_is_an_error() {
    let space = space();
    let bytes = layer(&["f=content"]);
    assert!(space.unpack(&[bytes[..515].to_vec()]).is_err());
}

/// Names that meet each other often, so that random layers are full of conflicts.
fn member() -> impl Strategy<Value = String> {
    let name = prop::collection::vec(
        prop::sample::select(vec![
            "a",
            "b",
            "..",
            ".wh.a",
            ".wh..",
            ".wh...",
            "l",
            ".wh..wh..opq",
            "outside",
            "secret",
        ]),
        1..4,
    )
    .prop_map(|names| names.join("/"));
    let target = prop::sample::select(vec![
        "a",
        "/",
        "..",
        "../outside",
        "/../outside",
        "a/b",
        "l",
        "outside/secret",
        "../outside/secret",
    ]);
    (name, target, 0..5).prop_map(|(name, target, kind)| match kind {
        0 => format!("{name}/"),
        1 => format!("{name}=x"),
        2 => format!("{name}=>{target}"),
        _ => format!("{name}->{target}"),
    })
}

proptest! {
    #[test]
    fn nothing_outside_is_ever_touched(members in prop::collection::vec(member(), 0..30), size in 1usize..8) {
        let space = space();
        let names: Vec<&str> = members.iter().map(String::as_str).collect();
        // Layers of several members, then of one each; a refused one does not keep the others from being tried.
        for layers in [names.chunks(size), names.chunks(1)] {
            let mut unpacker = Unpacker::new(&space.root, &UnpackOptions::for_current_user()).unwrap();
            for members in layers {
                let _any_result = unpacker.layer(layer(members).as_slice());
            }
        }
        space.assert_untouched();
        let secret = space.outside.join("secret").metadata().unwrap().ino();
        let mut found = false;
        walk(&space.root, &mut |path| found |= path.symlink_metadata().unwrap().ino() == secret);
        prop_assert!(!found, "a hard link leads outside");
    }


    /// Any bytes of two layers changed, with the checksums of the headers made right again.
    #[test]
    fn damaged_layers_end_in_an_error_or_inside(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let space = space();
        let first = layer(&["d/", "d/f=1", "l->../outside", "x/", "m->d"]);
        let mut second = layer(&["m/g=2", "d/.wh.f", "h=>d/f", "n/", "n/o=3"]);
        for (index, byte) in changes {
            let at = index.index(second.len());
            second[at] = byte;
            let start = at / 512 * 512;
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&second[start..start + 512]);
            header.set_cksum();
            second[start..start + 512].copy_from_slice(header.as_bytes());
        }
        let _any_result = space.unpack(&[first, second]);
        space.assert_untouched();
    }

    #[test]
    fn the_members_of_one_honest_layer_are_what_is_unpacked(
        files in prop::collection::btree_map("[a-c]/[a-e]", "[x-z]{0,9}", 0..12),
        split in 0usize..12,
    ) {
        let members: Vec<String> = files.iter().map(|(name, content)| format!("{name}={content}")).collect();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let split = split.min(members.len());
        let (one, two) = (space(), space());
        one.unpack(&[layer(&members)]).unwrap();
        two.unpack(&[layer(&members[..split]), layer(&members[split..])]).unwrap();
        prop_assert_eq!(one.list(), two.list());
        let found: Vec<String> = one.list().into_iter().filter(|line| !line.ends_with('/')).collect();
        prop_assert_eq!(found, members);
    }
}
