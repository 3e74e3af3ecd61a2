//! The engines against a naive matcher, and the promises a tree walk relies on.

use proptest::prelude::*;

use super::parse::{Item, Repeat, Sequence, parse};
use super::program::{Set, bounded};
use super::{Compat, Glob, GlobProblem, Syntax, Walk, clean};

/// Tries every way to match; what the engines have to agree with.
struct Naive<'t> {
    text: &'t [char],
    syntax: Syntax,
    bounded: bool,
}

type Then<'k> = &'k dyn Fn(usize) -> bool;

impl Naive<'_> {
    fn is_match(pattern: &Sequence, syntax: Syntax, path: &str) -> bool {
        let text: Vec<char> = path.chars().collect();
        let naive = Naive { text: &text, syntax, bounded: bounded(pattern) };
        naive.items(pattern, 0, 0, &|end| end == text.len())
    }

    fn takes(&self, at: usize, set: &Set) -> bool {
        self.text.get(at).is_some_and(|c| self.syntax.takes(set, *c))
    }

    fn items(&self, items: &[Item], at: usize, nesting: usize, then: Then) -> bool {
        let [item, rest @ ..] = items else { return then(at) };
        let next: Then = &|at| self.items(rest, at, nesting, then);
        match item {
            Item::Text(text) => {
                let end = at + text.chars().count();
                self.text.get(at..end).is_some_and(|here| here.iter().copied().eq(text.chars())) && next(end)
            }
            Item::Single => self.takes(at, &Set::NotSeparator) && next(at + 1),
            Item::Class(class) => self.takes(at, &Set::Class(class.clone())) && next(at + 1),
            Item::Star => self.run(at, &Set::NotSeparator, next),
            Item::Super => self.run(at, &Set::Any, next),
            Item::Braces(inner) | Item::Group(Repeat::Once, inner) => self.any(inner, at, nesting, next),
            Item::Group(Repeat::AtMostOnce, inner) => self.any(inner, at, nesting, next) || next(at),
            Item::Group(Repeat::Any, inner) => next(at) || self.repeated(inner, at, nesting, next),
            Item::Group(Repeat::AtLeastOnce, inner) => {
                self.any(inner, at, nesting + 1, next) || self.repeated(inner, at, nesting, next)
            }
            Item::Not(inner) => {
                !self.refused(inner, at, nesting, next) && self.run(at, &Set::NotSeparator, next)
            }
        }
    }

    fn run(&self, at: usize, set: &Set, next: Then) -> bool {
        next(at) || self.takes(at, set) && self.run(at + 1, set, next)
    }

    fn any(&self, alternatives: &[Sequence], at: usize, nesting: usize, next: Then) -> bool {
        alternatives.iter().any(|alternative| self.items(alternative, at, nesting, next))
    }

    /// One or more iterations of which the first takes something.
    fn repeated(&self, inner: &[Sequence], at: usize, nesting: usize, next: Then) -> bool {
        self.any(inner, at, nesting + 1, &|end| {
            end > at && (next(end) || self.repeated(inner, end, nesting, next))
        })
    }

    fn refused(&self, inner: &[Sequence], at: usize, nesting: usize, next: Then) -> bool {
        let length = self.text.len();
        if nesting == 0 && !self.syntax.strict() {
            return self.any(inner, at, 1, next);
        }
        self.any(inner, at, nesting + 1, &|end| {
            let line_end = self.syntax.strict() && self.text[end..] == ['\n'];
            self.bounded || end == length || line_end
        })
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "a",
        "b",
        "ab",
        "/",
        "*",
        "**",
        "?",
        "[ab]",
        "[!a]",
        "[^/]",
        "{a,b}",
        "{a,*b}",
        "{",
        "}",
        ",",
        "(a|b)",
        "!(a)",
        "!(a|b)",
        "!(",
        "*(a)",
        "+(b)",
        "?(ab)",
        "*(",
        "+(",
        "(",
        "|",
        ")",
        "!",
        "@",
        "\\*",
        "é",
        "[[:alpha:]]",
    ]);
    prop::collection::vec(pieces, 0..7).prop_map(|pieces| pieces.concat())
}

fn path() -> impl Strategy<Value = String> {
    "[ab/é*!@\n]{0,7}"
}

fn compat() -> impl Strategy<Value = Compat> {
    prop::sample::select(vec![Compat::Documented, Compat::Strict])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_engines_agree_with_trying_everything(pattern in pattern(), path in path(), compat in compat()) {
        let verbatim = Syntax { separator: None, compat };
        if let (Ok(glob), Ok(tree)) = (Glob::compile_verbatim(&pattern, compat), parse(&pattern, compat)) {
            let expected = Naive::is_match(&tree, verbatim, &path);
            prop_assert_eq!(glob.is_match(&path), expected);
            prop_assert_eq!(glob.captures(&path).is_some(), expected);
        }
        let (pattern, path) = (clean(&pattern), clean(&path));
        let syntax = Syntax { separator: Some('/'), compat };
        if let (Ok(glob), Ok(tree)) = (Glob::compile(&pattern, compat), parse(&pattern, compat)) {
            let expected = Naive::is_match(&tree, syntax, &path);
            prop_assert_eq!(glob.is_match(&path), expected);
            prop_assert_eq!(glob.captures(&path).is_some(), expected);
        }
    }

    #[test]
    fn a_walk_finds_what_a_match_finds(pattern in pattern(), path in path(), compat in compat()) {
        let path = clean(&path);
        let Ok(glob) = Glob::compile(&pattern, compat) else { return Ok(()) };
        let found = glob.is_match(&path);
        prop_assert!(!found || path.starts_with(glob.prefix()));
        let mut walk: Option<Walk<'_>> = Some(glob.walk());
        let mut last = glob.is_match("");
        let mut dir = String::new();
        for name in path.split('/').skip(1) {
            prop_assert!(!found || glob.may_descend(&dir), "below `{}`", dir);
            let Some(here) = walk else {
                prop_assert!(!found, "the walk stopped above `{}`", dir);
                return Ok(());
            };
            let visit = here.visit(name);
            dir = format!("{dir}/{name}");
            prop_assert_eq!(visit.is_match, glob.is_match(&dir), "at `{}`", &dir);
            (walk, last) = (visit.below, visit.is_match);
        }
        prop_assert_eq!(last, found);
    }

    #[test]
    fn any_text_compiles_or_is_refused(pattern in any::<String>(), path in any::<String>()) {
        for compat in [Compat::Documented, Compat::Strict] {
            for glob in [Glob::compile(&pattern, compat), Glob::compile_verbatim(&pattern, compat)] {
                match glob {
                    Ok(glob) => {
                        let groups = glob.captures(&path).map(|groups| groups.len());
                        prop_assert!(groups.is_none_or(|groups| groups == glob.groups() + 1));
                    }
                    Err(error) => prop_assert!(error.offset <= clean(&pattern).len().max(pattern.len())),
                }
            }
        }
    }

    #[test]
    fn an_escaped_path_matches_itself(path in "[a-c/*?\\[\\]{}!()@+^|,.\\\\]{0,12}") {
        let path = clean(&path);
        let escaped: String = path.chars().flat_map(|c| if c == '/' { vec![c] } else { vec!['\\', c] }).collect();
        let glob = Glob::compile(&escaped, Compat::Documented).unwrap();
        prop_assert!(glob.is_match(&path));
        prop_assert_eq!(glob.literal(), Some(path.as_str()));
    }
}

#[test]
fn patterns_that_make_backtrackers_explode_are_harmless() {
    let path = format!("/{}", "a".repeat(500));
    let nested = format!("/{}a{}", "*(".repeat(30), ")".repeat(30));
    let wide = format!("/{}b", "*(a|aa)".repeat(50));
    let stars = format!("/{}b", "*a".repeat(400));
    let braces = format!("/{}", "{a,aa,aaa}".repeat(80));
    for (pattern, expected) in [
        ("/*(*(*(*(a))))b", false),
        ("/+(a|aa|aaa)+(a|aa)!(b)", true),
        ("/*(!(a)|!(b)|!(c))*(a)", true),
        (&nested, true),
        (&wide, false),
        (&stars, false),
        (&braces, false),
    ] {
        for compat in [Compat::Documented, Compat::Strict] {
            let glob = Glob::compile(pattern, compat).unwrap();
            assert_eq!(glob.is_match(&path), expected, "{compat:?} {}", &pattern[..15]);
            assert_eq!(glob.captures(&path).is_some(), expected, "{compat:?} {}", &pattern[..15]);
        }
    }
}

#[test]
fn mistakes_are_refused_with_their_place() {
    use Compat::{Documented, Strict};
    let check = |pattern: &str, compat, reason, column| {
        let error = Glob::compile(pattern, compat).unwrap_err();
        assert_eq!((error.reason, error.column), (reason, column), "{pattern}");
    };
    for compat in [Documented, Strict] {
        check("/é[]", compat, GlobProblem::EmptyClass, 3);
        check("/[!]", compat, GlobProblem::EmptyClass, 2);
        check("/[ab", compat, GlobProblem::UnclosedClass, 2);
        check("/x[z-a]", compat, GlobProblem::ReverseRange, 4);
        check("/^(a)", compat, GlobProblem::CaretGroup, 2);
        check("/a\0", compat, GlobProblem::Nul, 3);
        check(&"(".repeat(40), compat, GlobProblem::TooDeep, 34);
        check(&"a".repeat(5000), compat, GlobProblem::TooLong, 4097);
    }
    check("/a{b,c", Documented, GlobProblem::UnclosedBrace, 3);
    check("/a(b|c", Documented, GlobProblem::UnclosedGroup, 3);
    check("/a\\", Documented, GlobProblem::DanglingEscape, 3);
    let error = Glob::compile("/é[]", Documented).unwrap_err();
    assert_eq!(error.to_string(), "empty character class at character 3 of the glob `/é[]`");
}

#[test]
fn the_documented_reading_repeats_no_accidents() {
    let check = |pattern: &str, path: &str, documented: bool, strict: bool| {
        for (compat, expected) in [(Compat::Documented, documented), (Compat::Strict, strict)] {
            let found = Glob::compile(pattern, compat).unwrap().is_match(path);
            assert_eq!(found, expected, "{compat:?} {pattern} {path}");
        }
    };
    check("/a[!b]c", "/a/c", false, true);
    check("/[a!]", "/a", true, false);
    check("/[[:digit:]]x", "/]x", false, true);
    check("/[[:^digit:]]", "/x", true, true);
    check("/[[:^digit:]]", "/1", false, false);
    check("/{@(a|b),c}", "/a", true, false);
    check("/{a@b,c}", "/c", true, false);
    check("/@(a@2x|b)", "/b", true, false);
    check("/!(a)/x", "/ab/x", true, false);
    check("/!(a)/x", "/a/x", false, false);
    check("/!(x)-(*)", "/x-1", false, false);
    check("/!(x)-(*)", "/xy-1", true, false);
    check("/**", "/a\nb", true, false);
}

#[test]
fn literals_are_looked_up() {
    let literal =
        |pattern: &str, compat| Glob::compile(pattern, compat).unwrap().literal().map(str::to_owned);
    for compat in [Compat::Documented, Compat::Strict] {
        assert_eq!(literal("a/b/", compat).as_deref(), Some("/a/b"));
        assert_eq!(literal("/", compat).as_deref(), Some(""));
        assert_eq!(literal("/a*", compat), None);
    }
    assert_eq!(literal("/a\\*", Compat::Documented).as_deref(), Some("/a*"));
    assert_eq!(literal("/a\\*", Compat::Strict), None);
}

#[test]
fn what_can_be_pruned_is_pruned() {
    let check = |pattern: &str, dir: &str, expected: bool| {
        let glob = Glob::compile(pattern, Compat::Documented).unwrap();
        assert_eq!(glob.may_descend(dir), expected, "{pattern} {dir}");
    };
    check("/*", "", true);
    check("/*", "/a", false);
    check("/data/*.csv", "/dat", false);
    check("/data/*.csv", "/data", true);
    check("/{jan,feb}/*", "/mar", false);
    check("/{jan,feb}/*", "/feb", true);
    check("/**", "/a/b/c", true);
    check("/x/!(a)", "/y", false);
    check("/x/!(a)", "/x", true);
    check("/x/!(a)", "/x/b", false);
    check("/", "", false);
}
