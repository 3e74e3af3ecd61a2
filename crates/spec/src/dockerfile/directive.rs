//! Parser directives: `# syntax=`, `# escape=` and `# check=` at the very top.

use super::ast::Word;
use super::go::is_space;
use super::lint::{Check, rule};
use crate::decode::closest;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::source::{SourceText, Span};

/// What the head of a file says.
pub(super) struct Directives {
    pub syntax: Option<Word>,
    pub escape: char,
    pub check: Check,
    /// Offset of the first line that is no directive.
    pub end: usize,
}

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

/// Reads directives until the first line that is none: an unknown name, another comment, an empty
/// line, an instruction. A byte-order mark is passed over. After a `#!` line `escape` does not count,
/// as in the original, where only the other two are looked for behind it.
pub(super) fn read(source: &SourceText, diagnostics: &mut Diagnostics) -> Directives {
    let text = source.text();
    let start = text.len() - text.strip_prefix('\u{feff}').unwrap_or(text).len();
    let mut found = Directives { syntax: None, escape: '\\', check: Check::default(), end: start };
    let shebang = text[start..].starts_with("#!");
    let mut at = start;
    let mut seen: Vec<(String, Span)> = Vec::new();
    for (index, physical) in text[start..].split_inclusive('\n').enumerate() {
        let offset = at;
        at += physical.len();
        if shebang && index == 0 {
            continue;
        }
        let Some((name, value)) = directive(source, offset, physical) else { break };
        found.end = at;
        if let Some((_, first)) = seen.iter().find(|(known, _)| *known == name) {
            let message = format!("the directive `{name}` stands here twice");
            let problem = Diagnostic::error("duplicate-directive", value.span, message);
            diagnostics.push(problem.label(*first, "first given here").help("keep one of them"));
            continue;
        }
        seen.push((name.clone(), value.span));
        match name.as_str() {
            "syntax" => found.syntax = Some(value),
            "escape" if shebang => {}
            "escape" => read_escape(&value, &mut found, diagnostics),
            _ => read_check(&value, &mut found, diagnostics),
        }
    }
    found
}

/// `# name = value` with a known name, in any case.
fn directive(source: &SourceText, offset: usize, physical: &str) -> Option<(String, Word)> {
    let line = physical.trim_matches(is_space).strip_prefix('#')?.trim_start_matches(is_space);
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end_matches(is_space).to_lowercase();
    let value = value.trim_start_matches(is_space);
    if value.is_empty() || !KNOWN.contains(&name.as_str()) {
        return None;
    }
    let end = offset + physical.trim_end_matches(is_space).len();
    let span = Span::new(end - value.len(), end);
    Some((name, Word::new(source.slice(span).to_owned(), span)))
}

fn read_escape(value: &Word, found: &mut Directives, diagnostics: &mut Diagnostics) {
    match value.as_str() {
        "\\" => found.escape = '\\',
        "`" => found.escape = '`',
        other => {
            let message = format!("the escape character cannot be `{other}`");
            let problem = Diagnostic::error("invalid-escape", value.span, message);
            diagnostics.push(problem.help("it is either \\ or `"));
        }
    }
}

fn read_check(value: &Word, found: &mut Directives, diagnostics: &mut Diagnostics) {
    // What follows a blank is not read; the original looks at the first word alone.
    let options = value.split(' ').next().unwrap_or("");
    match Check::read(options) {
        Ok(check) => {
            for name in check.unknown_rules() {
                let message = format!("there is no rule `{name}`");
                let problem = Diagnostic::warning("unknown-rule", value.span, message);
                let known = rule::ALL.map(|rule| rule.name);
                diagnostics.push(match closest(name, &known) {
                    Some(close) => problem.help(format!("did you mean `{close}`?")),
                    None => problem,
                });
            }
            found.check = check;
        }
        Err(reason) => {
            let help = "write skip=RULE,RULE;error=true;experimental=RULE";
            diagnostics.push(Diagnostic::error("invalid-check", value.span, reason).help(help));
        }
    }
}

/// The options of a `check=` comment directly before an instruction; what cannot be read counts as
/// nothing.
pub(super) fn check_of(comments: &[String]) -> Check {
    let options = |comment: &String| {
        let (name, value) = comment.split_once('=')?;
        let known = name.trim_end().eq_ignore_ascii_case("check");
        let options = value.trim_start().split(' ').next().unwrap_or("");
        known.then(|| Check::read(options).unwrap_or_default())
    };
    comments.iter().find_map(options).unwrap_or_default()
}
