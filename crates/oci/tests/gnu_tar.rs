//! A tree of awkward files, archived by GNU tar in each of its formats, unpacked by it and by us: the same.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use quern_oci::archive::Archive;
use quern_oci::layer::{Codec, Compression, LayerWriter};
use quern_oci::unpack::Unpacker;
use quern_oci::{Limits, UnpackError, UnpackOptions};

fn awkward_tree(root: &Path) {
    let long = "long/".repeat(30) + &"n".repeat(200);
    for directory in ["d/sub", "empty", &long, "shut"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for name in
        ["plain", "d/ü\u{1F600}", "d/with\nnewline", "d/sub/ x", &format!("{long}/file"), "suid", "shut/in"]
    {
        fs::write(root.join(name), name.repeat(100)).unwrap();
    }
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"d/not\xffutf8")), "").unwrap();
    fs::hard_link(root.join("plain"), root.join("d/sub/same")).unwrap();
    symlink("../nowhere", root.join("d/broken")).unwrap();
    symlink("t/".repeat(100), root.join("far")).unwrap();
    fs::set_permissions(root.join("suid"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    // An ordinary user keeps the right to write into all directories that are unpacked.
    let shut = if UnpackOptions::for_current_user().owners { 0o555 } else { 0o755 };
    fs::set_permissions(root.join("shut"), fs::Permissions::from_mode(shut)).unwrap();
    let sparse = File::create(root.join("holes")).unwrap();
    for block in 0..30 {
        sparse.write_all_at(b"island", block * 100_000).unwrap();
    }
    sparse.set_len(4 << 20).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_789);
    File::open(root.join("plain")).unwrap().set_modified(old).unwrap();
    File::open(root.join("d")).unwrap().set_modified(old).unwrap();
}

/// Everything that must be the same, by path.
fn list(root: &Path, with_fractions: bool) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(path) = ahead.pop() {
        let meta = path.symlink_metadata().unwrap();
        let content = match () {
            () if meta.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            () if meta.is_file() => fs::read(&path).unwrap(),
            () => Vec::new(),
        };
        let links = if meta.is_file() { meta.nlink() } else { 0 };
        let nanoseconds = if with_fractions { meta.mtime_nsec() } else { 0 };
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let content = quern_core::Digest::of(&content);
        let line = format!(
            "{:o} {}:{} {}.{nanoseconds} {size} {links} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
        );
        lines
            .insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string(), line);
        if meta.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    lines
}

fn assert_same(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>, format: &[&str]) {
    let only = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
        a.iter().filter(|(path, line)| b.get(*path) != Some(line)).map(|(p, l)| format!("{p} {l}")).collect()
    };
    let difference: (Vec<String>, Vec<String>) = (only(one, other), only(other, one));
    assert_eq!(difference, (Vec::new(), Vec::new()), "{format:?}");
}

fn tar(arguments: &[&str], directory: &Path) -> Vec<u8> {
    let run = Command::new("tar").args(arguments).arg("-C").arg(directory).arg(".").output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}

fn unpack(archive: &[u8], root: &Path) -> Result<(), UnpackError> {
    fs::create_dir(root).unwrap();
    Unpacker::new(root, &UnpackOptions::for_current_user())?.layer(archive).map(drop)
}

#[test]
fn the_same_as_gnu_tar_in_every_format() {
    let space = tempfile::tempdir().unwrap();
    let tree = space.path().join("tree");
    fs::create_dir(&tree).unwrap();
    awkward_tree(&tree);
    let formats: [&[&str]; 4] = [
        &["--format=gnu", "--sparse", "-cf", "-"],
        &["--format=pax", "--sparse", "-cf", "-"],
        &["--format=posix", "--sparse-version=1.0", "--sparse", "-cf", "-"],
        &["--format=gnu", "-cf", "-"],
    ];
    for (number, format) in formats.iter().enumerate() {
        let archive = tar(format, &tree);
        let (ours, theirs) =
            (space.path().join(format!("ours{number}")), space.path().join(format!("theirs{number}")));
        unpack(&archive, &ours).unwrap_or_else(|error| panic!("{format:?}: {error}"));
        fs::create_dir(&theirs).unwrap();
        fs::write(space.path().join("a.tar"), &archive).unwrap();
        let file = space.path().join("a.tar").display().to_string();
        tar(&["--same-permissions", "-xf", &file], &theirs);
        let fractions = format[0] != "--format=gnu";
        assert_same(&list(&ours, true), &list(&theirs, true), format);
        assert_same(&list(&ours, fractions), &list(&tree, fractions), format);
    }
}

/// Written again by us, in each compression, and unpacked by GNU tar and by us: still the same.
#[test]
fn layers_written_by_us_are_read_by_gnu_tar() {
    let space = tempfile::tempdir().unwrap();
    let tree = space.path().join("tree");
    fs::create_dir(&tree).unwrap();
    awkward_tree(&tree);
    let archive = tar(&["--format=pax", "--sparse", "--sparse-version=1.0", "-cf", "-"], &tree);
    let mut diff_ids = Vec::new();
    for codec in [Codec::None, Codec::Gzip, Codec::Zstd] {
        let packing = Compression::new(codec, None, std::num::NonZero::new(2).unwrap()).unwrap();
        let mut writer = LayerWriter::new(Vec::new(), packing).unwrap();
        let mut reader = Archive::new(archive.as_slice(), &Limits::default());
        while let Some(member) = reader.next_member().unwrap() {
            writer.append(&member, reader.content()).unwrap();
        }
        let (layer, blob) = writer.finish().unwrap();
        assert_eq!(layer.descriptor.digest, quern_core::Digest::of(&blob));
        assert_eq!(layer.descriptor.size, blob.len() as u64);
        diff_ids.push(layer.diff_id);

        let plain = match codec {
            Codec::None => blob,
            Codec::Gzip => filter(&["gzip", "-dc"], &blob, space.path()),
            Codec::Zstd => zstd::decode_all(blob.as_slice()).unwrap(),
        };
        assert_eq!(layer.diff_id, quern_core::Digest::of(&plain));
        let (ours, theirs) = (space.path().join("ours"), space.path().join("theirs"));
        unpack(&plain, &ours).unwrap();
        fs::create_dir(&theirs).unwrap();
        let theirs_name = theirs.display().to_string();
        filter(&["tar", "--same-permissions", "-x", "-C", &theirs_name], &plain, space.path());
        assert_same(&list(&ours, true), &list(&tree, true), &[&codec.to_string()]);
        assert_same(&list(&theirs, true), &list(&tree, true), &[&codec.to_string()]);
        fs::remove_dir_all(ours).unwrap();
        fs::remove_dir_all(theirs).unwrap();
    }
    diff_ids.dedup();
    assert_eq!(diff_ids.len(), 1, "the compression has no influence on the diff id");
}

fn filter(command: &[&str], input: &[u8], space: &Path) -> Vec<u8> {
    fs::write(space.join("input"), input).unwrap();
    let stdin = File::open(space.join("input")).unwrap();
    let run = Command::new(command[0]).args(&command[1..]).stdin(stdin).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}

/// Forms of holes that are not read are refused, not read wrongly.
#[test]
fn older_forms_of_holes_are_refused() {
    let space = tempfile::tempdir().unwrap();
    let tree = space.path().join("tree");
    fs::create_dir(&tree).unwrap();
    awkward_tree(&tree);
    for (number, version) in ["0.0", "0.1"].iter().enumerate() {
        let version = format!("--sparse-version={version}");
        let archive = tar(&["--format=pax", &version, "--sparse", "-cf", "-"], &tree);
        let error = unpack(&archive, &space.path().join(format!("o{number}"))).unwrap_err().to_string();
        assert!(error.contains("a form that is not supported"), "{error}");
    }
}
