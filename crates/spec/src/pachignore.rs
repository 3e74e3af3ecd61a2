//! `.pachignore`: which files of a source tree stay behind.
//!
//! The rule is exact and unlike `.gitignore`: every line is one glob, verbatim (no comments, no
//! trimming, no re-inclusion, no directory meaning), matched against the whole path relative to the
//! source directory, without separator, so that `*` crosses `/`. Lines that look as if they meant
//! something else are reported as warnings.

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::glob::{Compat, Glob, InvalidGlob};
use crate::source::{SourceText, Span};

/// Most lines a file may have; real ones have a dozen.
const MAX_LINES: usize = 10_000;

/// The patterns of a `.pachignore` file.
#[derive(Debug, Clone, Default)]
pub struct PachIgnore {
    globs: Vec<Glob>,
}

impl PachIgnore {
    /// Reads a file. A line that does not compile is an error, and the whole file is then useless.
    pub fn parse(source: &SourceText, compat: Compat) -> (Self, Diagnostics) {
        let mut globs = Vec::new();
        let mut diagnostics = Diagnostics::new();
        for (index, (start, line)) in lines(source.text()).enumerate() {
            let span = Span::new(start, start + line.len());
            if index == MAX_LINES {
                let message = format!("more than {MAX_LINES} lines");
                diagnostics.push(Diagnostic::error("too-large", span, message));
                break;
            }
            match Glob::compile_verbatim(line, compat) {
                Ok(glob) => {
                    lint(line, span, &glob, &mut diagnostics);
                    globs.push(glob);
                }
                Err(error) => diagnostics.push(invalid(&error, start)),
            }
        }
        (Self { globs }, diagnostics)
    }

    /// Whether the file at this path, relative to the source directory and with `/` between its
    /// components, stays behind.
    pub fn is_ignored(&self, path: &str) -> bool {
        self.globs.iter().any(|glob| glob.is_match(path))
    }
}

/// The lines of a text with their offsets: a line ends at a newline, one carriage return before it is
/// dropped, and a last line without newline counts unless it is empty.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = at;
        at += line.len();
        let line = line.strip_suffix('\n').unwrap_or(line);
        (start, line.strip_suffix('\r').unwrap_or(line))
    })
}

fn invalid(error: &InvalidGlob, line_start: usize) -> Diagnostic {
    let at = line_start + error.offset;
    Diagnostic::error("invalid-glob", Span::at(at), error.reason.to_string())
        .help("escape a character that stands for itself with `\\`")
}

/// Warns about a line that can match no relative path, and about look-alikes of `.gitignore`.
fn lint(line: &str, span: Span, glob: &Glob, diagnostics: &mut Diagnostics) {
    let inert =
        |what: &str| Diagnostic::warning("inert-line", span, format!("{what}, so this line ignores nothing"));
    let problem = if line.is_empty() {
        return; // An empty line matches only the empty path and surprises nobody.
    } else if line.trim().is_empty() {
        inert("blanks are part of the pattern").help("remove the blanks")
    } else if line.starts_with('#') {
        let message = "there are no comments here; this line ignores a file of that name";
        Diagnostic::warning("inert-line", span, message)
    } else if line.starts_with('!') && !line.starts_with("!(") {
        let message = "`!` does not bring files back; this line ignores a file of that name";
        let help = "`!(…)` ignores everything but what it names";
        Diagnostic::warning("inert-line", span, message).help(help)
    } else if line.starts_with('/') {
        inert("paths are relative and have no leading `/`")
            .help(format!("write `{}`", line.trim_start_matches('/')))
    } else if line.ends_with('/') && !line.ends_with("\\/") {
        inert("no file path ends in `/`").help(format!("write `{line}*` for all files below it"))
    } else if line.starts_with("./") || line.starts_with("../") || line.contains("//") || line.contains("/./")
    {
        inert("paths are not cleaned").help("write the path as it is below the source directory")
    } else if line != line.trim() {
        let message = "blanks at the ends are part of the pattern";
        Diagnostic::warning("blanks", span, message).help(format!("write `{}`", line.trim()))
    } else if glob.is_literal() && !line.contains(['/', '.']) {
        let message = format!("this ignores the file `{line}` and no directory of that name");
        let help = format!("for a directory write `{line}/*`, at any depth `*{line}/*`");
        Diagnostic::warning("looks-like-directory", span, message).help(help)
    } else {
        return;
    };
    diagnostics.push(problem);
}
