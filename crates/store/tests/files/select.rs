//! What sources mean.

use std::path::{Path, PathBuf};

use quern_store::files::{Context, PathFilter, SelectError, Selection, Survey, Verdict, content_digest};
use quern_testkit::TempSpace;

use crate::fake::Tree;

fn tree() -> Tree {
    Tree::of(&[
        "a.txt=a",
        "b.txt=b",
        "c.md=c",
        "src/main.go=m",
        "src/lib/x.go=x",
        "src/lib/y.c=y",
        "empty/",
        "todir>src",
        "tofile>src/main.go",
        "up>../../../a.txt",
        "round>round2",
        "round2>round",
        "dangling>nowhere",
        "odd[0].txt=o",
    ])
}

/// What a selection holds: `name` for a file, `path/` for the content of a directory with its items.
fn shown(sources: &[&str], exclude: Option<&dyn PathFilter>, parents: bool) -> Result<String, SelectError> {
    let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
    let selected = Selection { sources: &sources, exclude, parents }.find(&tree())?;
    Ok(selected.to_string())
}

#[track_caller]
fn check(sources: &[&str], expected: &str) {
    assert_eq!(shown(sources, None, false).unwrap(), expected, "{sources:?}");
}

#[test]
fn files_directories_and_links() {
    check(&["a.txt"], "a.txt");
    check(&["/a.txt", "./c.md", "x/../b.txt"], "a.txt c.md b.txt");
    check(&["src"], "src/{lib lib/x.go lib/y.c main.go}");
    check(&["src/"], "src/{lib lib/x.go lib/y.c main.go}");
    check(&["empty"], "empty/{}");
    check(&["todir"], "src/{lib lib/x.go lib/y.c main.go}");
    check(&["todir/lib"], "src/lib/{x.go y.c}");
    check(&["tofile"], "tofile->src/main.go");
    check(&["up"], "up->a.txt");
    check(&["../../etc/../a.txt"], "a.txt");
}

#[test]
fn wildcards() {
    check(&["*.txt"], "a.txt b.txt odd[0].txt");
    check(&["?.txt"], "a.txt b.txt");
    check(&["odd[[]0].txt"], "odd[0].txt");
    check(&["s*"], "src/{lib lib/x.go lib/y.c main.go}");
    check(&["*/lib"], "src/lib/{x.go y.c}");
    check(&["src/*/*.go"], "src/lib/x.go");
    check(&["to*"], "src/{lib lib/x.go lib/y.c main.go} tofile->src/main.go");
    check(&["todir/*.go"], "src/main.go");
    check(&["nothing*"], "");
    check(&["*/*/*/*/*"], "");
}

#[test]
fn parents() {
    let check = |sources: &[&str], expected: &str| {
        assert_eq!(shown(sources, None, true).unwrap(), expected, "{sources:?}");
    };
    check(&["src/lib/x.go"], "/{(src) (src/lib) src/lib/x.go}");
    check(&["src/./lib/x.go"], "src/{(lib) lib/x.go}");
    check(&["src/lib"], "/{(src) src/lib src/lib/x.go src/lib/y.c}");
    check(&["**/*.go"], "/{(src) (src/lib) src/lib/x.go src/main.go}");
    check(&["src/*.go", "a.txt"], "/{(src) src/main.go} /{a.txt}");
    check(&["tofile"], "/{tofile}");
    check(&["no*"], "/{}");
}

#[test]
fn excludes() {
    let exclude = |path: &Path, _: bool| match path.to_str() {
        Some("lib") => Verdict::DropUnlessKept,
        Some("lib/y.c" | "a.txt" | "empty") => Verdict::Drop,
        _ => Verdict::Keep,
    };
    let check = |sources: &[&str], expected: &str| {
        assert_eq!(shown(sources, Some(&exclude), false).unwrap(), expected, "{sources:?}");
    };
    check(&["src"], "src/{(lib) lib/x.go main.go}");
    check(&["*.txt"], "b.txt odd[0].txt");
    let all = |path: &Path, is_dir: bool| match is_dir {
        true => Verdict::DropUnlessKept,
        false if path.ends_with("main.go") => Verdict::Keep,
        false => Verdict::Drop,
    };
    assert_eq!(shown(&["src"], Some(&all), false).unwrap(), "src/{main.go}");
}

#[test]
fn what_is_missing_is_named() {
    let check = |sources: &[&str], parents: bool, expected: &str| {
        let error = shown(sources, None, parents).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&["a.txt", "nope/x"], false, "no such file: `nope/x`");
    check(&["dangling"], false, "no such file: `dangling`");
    check(&["a.txt/x"], false, "no such file: `a.txt/x`");
    check(&["nope/*.c"], false, "no such file: `nope/*.c`");
    check(&["src/nope.go"], true, "no such file: `src/nope.go`");
    check(&["round"], false, "more than 255 symbolic links");
    check(&["a[b"], false, "`a[b` has a `[` without");
    let sources = [PathBuf::from("src/mian.go")];
    let error = Selection { sources: &sources, exclude: None, parents: false }.find(&tree()).unwrap_err();
    let SelectError::Missing { absence, .. } = error else { panic!("{error}") };
    assert_eq!(absence.beside, ["lib", "main.go"]);
}

#[test]
fn only_what_is_wanted_is_surveyed() {
    let space = TempSpace::new();
    for path in ["src/a.c", "src/deep/b.c", "other/c.c", "target/real/d", "top.txt", "x/y/z"] {
        space.write(path, path);
    }
    std::os::unix::fs::symlink("target/real", space.path("link")).unwrap();
    std::os::unix::fs::symlink("../link/d", space.path("src/tod")).unwrap();
    let survey = |wanted: &[&str]| {
        let wanted: Vec<PathBuf> = wanted.iter().map(PathBuf::from).collect();
        let context =
            Context::survey(space.root(), &Survey { wanted: &wanted, ..Survey::default() }).unwrap();
        let selected = Selection { sources: &wanted, exclude: None, parents: false }.find(&context).unwrap();
        content_digest(&context, &selected).unwrap();
        let all = [PathBuf::from("/")];
        let all = Selection { sources: &all, exclude: None, parents: false }.find(&context).unwrap();
        (selected.to_string(), all.to_string())
    };
    let (_, all) = survey(&["src"]);
    assert_eq!(all, "/{src src/a.c src/deep src/deep/b.c src/tod}");
    let (selected, all) = survey(&["link"]);
    assert_eq!(selected, "target/real/{d}");
    assert_eq!(all, "/{link target target/real target/real/d}");
    let (selected, all) = survey(&["src/t*"]);
    assert_eq!(selected, "tod->target/real/d");
    assert_eq!(all, "/{link src src/tod target target/real target/real/d}");
    let (_, all) = survey(&["*.txt", "x/y"]);
    assert_eq!(all, "/{top.txt x x/y x/y/z}");
}
