//! `.dockerignore`: which files of the context stay behind. The patterns of `--exclude` are the same.
//!
//! Each line is a pattern; one that begins with `#` is a comment. Blanks at the ends, a leading `/` and a
//! trailing one, `.` and `..` are taken away. A line after `!` brings files back. The last line that matches a
//! path or a directory above it decides.

use super::path;
use super::pattern::{InvalidPattern, Pattern, State};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::source::{SourceText, Span};

/// Most lines a file may have.
const MAX_LINES: usize = 20_000;

/// The patterns of a `.dockerignore` file; none by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DockerIgnore {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    pattern: Pattern,
    /// As it stands after cleaning, without `!`.
    text: String,
    /// Whether it brings files back.
    back: bool,
}

/// Where the file is that belongs to a Dockerfile: `NAME.dockerignore` beside it, else `.dockerignore` at the
/// root of the context. The first that exists counts.
pub fn ignore_files(dockerfile: &str) -> [String; 2] {
    [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()]
}

impl DockerIgnore {
    /// Reads a file. A line that is no pattern is an error, and the whole file is then useless.
    pub fn parse(source: &SourceText) -> (Self, Diagnostics) {
        let mut ignore = Self::default();
        let mut diagnostics = Diagnostics::new();
        let text = source.text();
        let mut at = text.len() - text.strip_prefix('\u{feff}').unwrap_or(text).len();
        for physical in text[at..].split_inclusive('\n') {
            let span = Span::new(at, at + physical.trim_end().len());
            at += physical.len();
            if physical.starts_with('#') || physical.trim().is_empty() {
                continue;
            }
            if ignore.lines.len() == MAX_LINES {
                let message = format!("more than {MAX_LINES} lines");
                diagnostics.push(Diagnostic::error("too-large", span, message));
                break;
            }
            match Line::read(physical) {
                Ok(line) => ignore.lines.extend(line),
                Err(error) => {
                    diagnostics.push(Diagnostic::error("invalid-pattern", span, error.to_string()));
                }
            }
        }
        (ignore, diagnostics)
    }

    /// The patterns of `--exclude`.
    ///
    /// # Errors
    /// [`InvalidPattern`] of the first that is none.
    pub fn of_patterns<T: AsRef<str>>(patterns: &[T]) -> Result<Self, InvalidPattern> {
        let patterns = patterns.iter().map(|pattern| pattern.as_ref().trim());
        let lines = patterns.filter(|pattern| !pattern.is_empty()).map(Line::read);
        let lines: Vec<Option<Line>> = lines.collect::<Result<_, _>>()?;
        Ok(Self { lines: lines.into_iter().flatten().collect() })
    }

    /// Whether nothing is ignored.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether some line brings files back.
    pub fn brings_back(&self) -> bool {
        self.lines.iter().any(|line| line.back)
    }

    /// Whether the file at this path, relative to the context and with `/` between its components, stays
    /// behind.
    pub fn is_ignored(&self, path: &str) -> bool {
        let mut dir = self.root();
        let mut ignored = false;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let visit = dir.visit(name);
            ignored = visit.ignored;
            match visit.below {
                Some(below) => dir = below,
                None => return ignored,
            }
        }
        ignored
    }

    /// The root of the context, for a walk that goes down one component at a time.
    pub fn root(&self) -> IgnoreDir<'_> {
        let live =
            |(index, line): (usize, &Line)| Live { index, state: line.pattern.start(), matched: false };
        IgnoreDir {
            lines: &self.lines,
            live: self.lines.iter().enumerate().map(live).collect(),
            ignored: false,
        }
    }

    /// Whether a pattern takes every entry of the root.
    pub(super) fn takes_all(&self) -> bool {
        self.lines.iter().any(|line| !line.back && matches!(line.text.as_str(), "*" | "**" | "**/*"))
    }
}

impl Line {
    /// A pattern; `None` if cleaning leaves nothing of it.
    fn read(text: &str) -> Result<Option<Self>, InvalidPattern> {
        let text = text.trim();
        let (back, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, text),
        };
        let cleaned = path::clean(text);
        let relative = cleaned.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&cleaned);
        if text.is_empty() || back && relative == "/" {
            return Err(InvalidPattern::Nothing);
        }
        if relative.trim().is_empty() {
            return Ok(None);
        }
        // Blanks before a trailing slash go too.
        let text = path::clean(relative.trim());
        Ok(Some(Self { pattern: Pattern::ignore(&text)?, text, back }))
    }
}

/// A directory on a walk through the context.
#[derive(Debug, Clone)]
pub struct IgnoreDir<'a> {
    lines: &'a [Line],
    /// The lines that matched this directory or may match below it, in order.
    live: Vec<Live>,
    ignored: bool,
}

#[derive(Debug, Clone)]
struct Live {
    index: usize,
    /// After the path of the directory and a slash.
    state: State,
    /// Whether the line matched the directory or one above it.
    matched: bool,
}

/// What [`IgnoreDir::visit`] finds out about an entry.
#[derive(Debug, Clone)]
pub struct IgnoreVisit<'a> {
    /// Whether the entry stays behind. A directory that does comes along nevertheless if something below it
    /// does.
    pub ignored: bool,
    /// Where to go on if the entry is a directory; `None` if everything below it stays behind.
    pub below: Option<IgnoreDir<'a>>,
}

impl<'a> IgnoreDir<'a> {
    /// Whether everything below comes along, so that nothing need be asked.
    pub fn takes_all(&self) -> bool {
        !self.ignored && self.live.iter().all(|live| self.lines[live.index].back)
    }

    /// Looks at the entry of this name.
    pub fn visit(&self, name: &str) -> IgnoreVisit<'a> {
        let mut ignored = false;
        let mut below = Vec::new();
        let mut brings_back = false;
        for live in &self.live {
            let line = &self.lines[live.index];
            let here = line.pattern.advance(&live.state, name);
            // A line is looked at only if it would change the verdict, as in the original. What is not looked
            // at does not count as matched below either.
            let relevant = line.back == ignored;
            let matched = live.matched || relevant && line.pattern.accepts(&here);
            if matched {
                ignored = !line.back;
            }
            let state = line.pattern.advance(&here, "/");
            if matched || !state.is_dead() {
                brings_back |= line.back && !state.is_dead();
                below.push(Live { index: live.index, state, matched });
            }
        }
        let below =
            (!ignored || brings_back).then_some(IgnoreDir { lines: self.lines, live: below, ignored });
        IgnoreVisit { ignored, below }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> DockerIgnore {
        let (ignore, diagnostics) = DockerIgnore::parse(&SourceText::new(".dockerignore", text));
        assert!(!diagnostics.has_errors(), "{diagnostics:?}");
        ignore
    }

    /// Paths that stay behind and paths that come along.
    fn check(text: &str, behind: &[&str], along: &[&str]) {
        let ignore = read(text);
        for path in behind {
            assert!(ignore.is_ignored(path), "{text:?} takes {path}");
        }
        for path in along {
            assert!(!ignore.is_ignored(path), "{text:?} leaves {path}");
        }
    }

    #[test]
    fn lines_are_cleaned() {
        check(
            "\u{feff}# a\n  a  \r\n\n/b/\n./c/../d\n #e\n",
            &["a", "b", "d", "#e"],
            &["c", "# a", "e", "x/a"],
        );
        check("..\n../a\n.\n/\n", &[], &["a", "b/a"]);
    }

    #[test]
    fn stars_stay_in_a_component_and_two_cross() {
        check("*.o", &["a.o", ".o"], &["d/a.o", "a.oo"]);
        check("*/*.o", &["d/a.o"], &["a.o", "d/e/a.o"]);
        check("**/*.o", &["a.o", "d/e/a.o"], &["a.c"]);
        check("d/**", &["d/a", "d/e/a"], &["d", "x/d/a"]);
        check("d/**/a", &["d/a", "d/e/f/a"], &["d/e", "dx/a"]);
        check("**/d", &["d", "x/d", "x/d/a"], &["xd", "dx"]);
        check("**.log", &["a.log", "x/b.log"], &["a.logs"]);
        check("**", &["a", "a/b"], &[]);
        check("a?c", &["abc", "aéc"], &["a/c", "ac"]);
        check("[a-c][^a-c]\\*", &["ax*", "b-*"], &["aa*", "dx*", "axy"]);
    }

    #[test]
    fn the_last_line_that_matches_decides() {
        check("*.md\n!README.md", &["a.md"], &["README.md"]);
        check("!README.md\n*.md", &["README.md"], &[]);
        check("d\n!d/keep\nd/keep/x", &["d", "d/a", "d/keep/x"], &["d/keep", "d/keep/y"]);
        check("*\n!src/**/*.rs", &["a", "src", "src/a.c"], &["src/a.rs", "src/b/c.rs"]);
    }

    #[test]
    fn only_directories_that_may_bring_something_back_are_walked() {
        let ignore = read("node_modules\n*.tmp\n**/cache\n!node_modules/keep\n");
        let visit = ignore.root().visit("node_modules");
        assert!(visit.ignored);
        let below = visit.below.expect("something may come back");
        assert!(below.visit("other").below.is_none());
        assert!(!below.visit("keep").ignored);
        assert!(ignore.root().visit("a.tmp").below.is_none());
        let src = ignore.root().visit("src").below.unwrap();
        assert!(!src.takes_all(), "a cache may lie below");
        let plain = read("node_modules\n");
        assert!(plain.root().visit("src").below.unwrap().takes_all());
        assert!(!plain.root().takes_all());
    }

    #[test]
    fn mistakes_are_reported_at_their_lines() {
        let source = SourceText::new("i", "ok\n!\n[a\n\\\n[]\n[a-]\n");
        let (_, diagnostics) = DockerIgnore::parse(&source);
        let lines: Vec<usize> =
            diagnostics.iter().map(|problem| source.position(problem.span.unwrap().start).line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6]);
        assert_eq!(DockerIgnore::of_patterns(&["a", "["]), Err(InvalidPattern::Class));
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let stars = "*a".repeat(4000);
        assert!(!read(&format!("{stars}b")).is_ignored(&"a".repeat(4000)));
        let deep = "**/a/".repeat(1000);
        assert!(!read(&deep).is_ignored(&"a/".repeat(900)));
    }

    proptest! {
        #[test]
        fn a_walk_prunes_nothing_that_comes_along(
            lines in proptest::collection::vec("!?[ab*?/]{1,6}", 1..5),
            path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
        ) {
            let (ignore, diagnostics) = DockerIgnore::parse(&SourceText::new("i", lines.join("\n")));
            prop_assume!(!diagnostics.has_errors());
            let mut dir = ignore.root();
            for name in path.split('/') {
                if dir.takes_all() {
                    prop_assert!(!ignore.is_ignored(&path));
                }
                match dir.visit(name).below {
                    Some(below) => dir = below,
                    None => {
                        prop_assert!(ignore.is_ignored(&path));
                        break;
                    }
                }
            }
        }
    }
}
