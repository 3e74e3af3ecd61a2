//! Directories of the user as sources.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use quern_core::Digest;
use quern_store::files::{
    Context, FileKind, FileSource, Selection, SourceError, Survey, Verdict, content_digest,
};
use quern_testkit::TempSpace;

fn survey(space: &TempSpace) -> Context {
    Context::survey(space.root(), &Survey::default()).unwrap()
}

fn digest(context: &Context, source: &str) -> Result<Digest, SourceError> {
    let sources = [PathBuf::from(source)];
    let selected = Selection { sources: &sources, exclude: None, parents: false }.find(context).unwrap();
    content_digest(context, &selected)
}

fn names(context: &Context, dir: &str) -> Vec<String> {
    let entries = context.list(Path::new(dir)).unwrap();
    entries.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect()
}

#[test]
fn owners_do_not_count_and_modes_do() {
    let space = TempSpace::new();
    fs::set_permissions(space.write("a", "12345"), fs::Permissions::from_mode(0o4751)).unwrap();
    let stat = survey(&space).stat(Path::new("a")).unwrap().unwrap();
    assert_eq!((stat.kind, stat.mode, stat.uid, stat.gid, stat.size), (FileKind::File, 0o4751, 0, 0, 5));
}

#[test]
fn sockets_are_left_out_and_pipes_are_not() {
    let space = TempSpace::new();
    space.write("d/file", "");
    let _socket = std::os::unix::net::UnixListener::bind(space.path("d/socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        space.path("d/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    symlink("pipe", space.path("d/link")).unwrap();
    assert_eq!(names(&survey(&space), "d"), ["file", "link", "pipe"]);
}

#[test]
fn names_are_bytes() {
    let space = TempSpace::new();
    let name = OsStr::from_bytes(b"\xff\xfe new\nline");
    fs::write(space.root().join(name), "x").unwrap();
    let context = survey(&space);
    assert_eq!(context.list(Path::new("")).unwrap()[0].name, name);
    assert_eq!(
        context.content(Path::new(name), &context.stat(Path::new(name)).unwrap().unwrap()).unwrap().digest,
        Digest::of(b"x")
    );
}

#[test]
fn links_never_lead_out() {
    let space = TempSpace::new();
    space.write("etc/passwd", "inside");
    symlink("/etc", space.path("abs")).unwrap();
    symlink("../../../../../etc", space.path("rel")).unwrap();
    let context = survey(&space);
    for link in ["abs/passwd", "rel/passwd"] {
        assert_eq!(context.stat(Path::new(link)).unwrap(), None, "a path through a link is absent");
        assert_eq!(digest(&context, link).unwrap(), digest(&survey(&space), link).unwrap());
        let sources = [PathBuf::from(link)];
        let found = Selection { sources: &sources, exclude: None, parents: false }.find(&context).unwrap();
        assert_eq!(found.to_string(), "etc/passwd");
    }
}

#[test]
fn a_directory_swapped_for_a_link_is_noticed() {
    let space = TempSpace::new();
    let outside = TempSpace::new();
    outside.write("f", "same");
    space.write("d/f", "same");
    let context = survey(&space);
    fs::rename(space.path("d"), space.path("old")).unwrap();
    symlink(outside.root(), space.path("d")).unwrap();
    assert!(matches!(context.open(Path::new("d/f")), Err(SourceError::Changed(_))));
    assert!(digest(&context, "d").is_err());
}

#[test]
fn ignored_paths_are_absent_and_known_as_ignored() {
    let space = TempSpace::new();
    for path in ["a.o", "a.c", "build/x", "build/keep", "tmp/only"] {
        space.write(path, "");
    }
    let ignore = |path: &Path, _: bool| match path.to_str() {
        Some("a.o" | "build/x" | "tmp/only") => Verdict::Drop,
        Some("build" | "tmp") => Verdict::DropUnlessKept,
        _ => Verdict::Keep,
    };
    let context =
        Context::survey(space.root(), &Survey { ignore: Some(&ignore), ..Survey::default() }).unwrap();
    assert_eq!(names(&context, ""), ["a.c", "build"]);
    assert_eq!(names(&context, "build"), ["keep"]);
    assert!(context.absence(Path::new("a.o")).ignored);
    assert!(!context.absence(Path::new("a.p")).ignored);
    let error = digest_error(&context, "build/x");
    assert_eq!(error, "no such file: `build/x`, which is there but ignored");
}

fn digest_error(context: &Context, source: &str) -> String {
    let sources = [PathBuf::from(source)];
    Selection { sources: &sources, exclude: None, parents: false }.find(context).unwrap_err().to_string()
}

#[test]
fn a_huge_directory_is_listed_in_order() {
    let space = TempSpace::new();
    for number in 0..5000 {
        space.write(&format!("d/{number:04}"), "");
    }
    let names = names(&survey(&space), "d");
    assert_eq!(names.len(), 5000);
    assert!(names.is_sorted());
}

#[test]
fn a_file_that_changes_after_the_survey_is_an_error() {
    let space = TempSpace::new();
    space.write("a", "one");
    let context = survey(&space);
    space.write("a", "other");
    assert!(matches!(digest(&context, "a"), Err(SourceError::Changed(_))));
    assert_eq!(
        digest(&context, "a").unwrap_err().to_string(),
        "`a` changed while it was read; try again when nobody writes to it"
    );
    fs::remove_file(space.path("a")).unwrap();
    assert!(matches!(digest(&context, "a"), Err(SourceError::Changed(_))));
}

#[test]
fn edits_with_equal_size_and_time_are_noticed() {
    let space = TempSpace::new();
    let memory = TempSpace::new();
    let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(5));
    let mut seen = Vec::new();
    for round in 0..50 {
        let path = space.write("a", format!("{round:04}"));
        fs::File::options().write(true).open(&path).unwrap().set_times(time).unwrap();
        let survey = Survey { memory: Some(memory.root()), ..Survey::default() };
        seen.push(digest(&Context::survey(space.root(), &survey).unwrap(), "a").unwrap());
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 50);
}

/// Makes every change time look long ago: waits until the clock has passed them by the margin.
fn settle() {
    let start = std::time::Instant::now();
    while start.elapsed() < std::time::Duration::from_millis(250) {
        std::thread::yield_now();
    }
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let space = TempSpace::new();
    let memory = TempSpace::new();
    let path = space.write("d/a", "some bytes");
    space.write("d/b", "more bytes");
    settle();
    let survey = Survey { memory: Some(memory.root()), ..Survey::default() };
    let first = digest(&Context::survey(space.root(), &survey).unwrap(), "d").unwrap();
    assert_eq!(memory.files().len(), 1);
    // Another file in its place can be read by nobody: only what is remembered can answer.
    let context = Context::survey(space.root(), &survey).unwrap();
    fs::rename(&path, space.path("d/hidden")).unwrap();
    assert_eq!(digest(&context, "d").unwrap(), first);
    fs::rename(space.path("d/hidden"), &path).unwrap();
    let damaged = memory.path(&memory.files()[0]);
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    assert_eq!(digest(&Context::survey(space.root(), &survey).unwrap(), "d").unwrap(), first);
}
