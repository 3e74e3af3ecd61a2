//! Diagnostics as text for people and as records for programs.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::{Diagnostic, Diagnostics, Severity};
use crate::source::{Position, SourceText, Span};

/// Most characters shown of a line.
const MAX_LINE: usize = 160;
/// Most of them before the offending place.
const MAX_LEAD: usize = 80;

/// What a piece of rendered text is, for a [`Style`] to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `error` with its code.
    Error,
    /// `warning` with its code.
    Warning,
    /// `file:line:column`.
    Place,
    /// The caret line under the source line.
    Caret,
    /// The word `help`.
    Help,
}

/// Decorates pieces of rendered text. The library itself knows no colours.
pub trait Style {
    /// The text to write for `text` in `role`.
    fn paint<'a>(&self, role: Role, text: &'a str) -> Cow<'a, str>;
}

/// The style that changes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Style for Plain {
    fn paint<'a>(&self, _role: Role, text: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(text)
    }
}

/// All problems as text, one block each:
///
/// ```text
/// spec.json:3:5: error[unknown-field]: unknown field `comand` in `transform`
///    3 |     "comand": ["sh"],
///      |     ^^^^^^^^
///      = help: did you mean `cmd`?
/// ```
pub fn render(diagnostics: &Diagnostics, source: &SourceText, style: &dyn Style) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        Renderer { source, style, out: &mut out }.diagnostic(diagnostic);
    }
    if diagnostics.omitted() > 0 {
        let _ = writeln!(out, "{}: and {} further problems", source.name(), diagnostics.omitted());
    }
    out
}

struct Renderer<'a> {
    source: &'a SourceText,
    style: &'a dyn Style,
    out: &'a mut String,
}

impl Renderer<'_> {
    fn diagnostic(&mut self, diagnostic: &Diagnostic) {
        let (word, role) = match diagnostic.severity {
            Severity::Error => ("error", Role::Error),
            Severity::Warning => ("warning", Role::Warning),
        };
        let place = match diagnostic.span {
            None => self.source.name().to_owned(),
            Some(span) => self.place(span),
        };
        self.paint(Role::Place, &printable(&place));
        self.out.push_str(": ");
        self.paint(role, &format!("{word}[{}]", diagnostic.code));
        let _ = writeln!(self.out, ": {}", printable(&diagnostic.message));
        if let Some(span) = diagnostic.span {
            self.excerpt(span, '^');
        }
        for label in &diagnostic.labels {
            let _ = writeln!(self.out, "     = {}: {}", self.place(label.span), printable(&label.message));
            self.excerpt(label.span, '-');
        }
        if let Some(help) = &diagnostic.help {
            self.out.push_str("     = ");
            self.paint(Role::Help, "help");
            let _ = writeln!(self.out, ": {}", printable(help));
        }
    }

    fn place(&self, span: Span) -> String {
        let Position { line, column } = self.source.position(span.start);
        format!("{}:{line}:{column}", self.source.name())
    }

    fn paint(&mut self, role: Role, text: &str) {
        self.out.push_str(&self.style.paint(role, text));
    }

    /// The line of `span` and a line of marks under the part of it that lies on that line.
    ///
    /// Works outwards from the span, so that a line of megabytes costs no more than what is shown.
    fn excerpt(&mut self, span: Span, mark: char) {
        let number = self.source.position(span.start).line;
        let line = self.source.line_span(number);
        let text = self.source.line(number);
        let (before, after) =
            text.split_at_checked(span.start.saturating_sub(line.start)).unwrap_or((text, ""));
        let offending = self.source.slice(span).lines().next().unwrap_or("");

        let mut lead: Vec<char> = before.chars().rev().take(MAX_LEAD + 1).collect();
        if lead.len() > MAX_LEAD {
            lead.truncate(MAX_LEAD - 1);
            lead.push('…');
        }
        let marks = offending.chars().take(MAX_LINE - lead.len()).count().max(1);
        let shown = lead.iter().rev().copied().chain(after.chars()).take(MAX_LINE).map(visible);
        let _ = writeln!(self.out, "{number:>4} | {}", shown.collect::<String>());
        let caret = format!("{:width$}{}", "", mark.to_string().repeat(marks), width = lead.len());
        self.out.push_str("     | ");
        self.paint(Role::Caret, &caret);
        self.out.push('\n');
    }
}

/// Control characters never reach a terminal: each becomes one visible character.
fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// Text without control characters.
fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().map(visible).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// A problem as a record for programs; places are resolved.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// How bad it is.
    pub severity: Severity,
    /// The stable name of the kind of problem.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The name of the source.
    pub file: String,
    /// Where it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Position>,
    /// Where it ends (exclusive).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Position>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Other places that matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<ReportLabel>,
}

/// A second place of a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ReportLabel {
    /// Where it begins.
    pub start: Position,
    /// What stands there.
    pub message: String,
}

/// All problems as records, in order.
pub fn report(diagnostics: &Diagnostics, source: &SourceText) -> Vec<Report> {
    let record = |item: &Diagnostic| Report {
        severity: item.severity,
        code: item.code,
        message: item.message.clone(),
        file: source.name().to_owned(),
        start: item.span.map(|span| source.position(span.start)),
        end: item.span.map(|span| source.position(span.end)),
        help: item.help.clone(),
        labels: item
            .labels
            .iter()
            .map(|label| ReportLabel {
                start: source.position(label.span.start),
                message: label.message.clone(),
            })
            .collect(),
    };
    diagnostics.iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, span: Span, expected: &str) {
        let mut all = Diagnostics::new();
        all.push(Diagnostic::error("odd", span, "this is odd").help("make it even"));
        assert_eq!(render(&all, &SourceText::new("f", text), &Plain), expected);
    }

    #[test]
    fn the_caret_stands_under_the_offending_text() {
        check(
            "one\n\ttwo é x\n",
            Span::new(9, 11),
            "f:2:6: error[odd]: this is odd\n   2 |  two é x\n     |      ^\n     = help: make it even\n",
        );
    }

    #[test]
    fn a_span_over_lines_or_past_the_end_is_clipped() {
        let expected = "f:1:2: error[odd]: this is odd\n   1 | ab\n     |  ^\n     = help: make it even\n";
        check("ab\ncd", Span::new(1, 5), expected);
        let expected = "f:1:3: error[odd]: this is odd\n   1 | ab\n     |   ^\n     = help: make it even\n";
        check("ab", Span::new(9, 12), expected);
    }

    #[test]
    fn long_lines_and_control_characters_are_tamed() {
        let text = format!("{}\u{1b}[31mX{}", "a".repeat(5000), "b".repeat(5000));
        let mut all = Diagnostics::new();
        all.push(Diagnostic::error("odd", Span::new(5000, 6000), "bad \u{1b} byte"));
        let shown = render(&all, &SourceText::new("f", text), &Plain);
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() < 180), "{shown}");
    }

    #[test]
    fn records_carry_resolved_places() {
        let mut all = Diagnostics::new();
        all.push(Diagnostic::error("odd", Span::new(3, 4), "m").label(Span::at(0), "here"));
        let records = report(&all, &SourceText::new("f", "ab\nc"));
        let json = serde_json::to_value(records).unwrap();
        let expected = serde_json::json!([{
            "severity": "error", "code": "odd", "message": "m", "file": "f",
            "start": {"line": 2, "column": 1}, "end": {"line": 2, "column": 2},
            "labels": [{"start": {"line": 1, "column": 1}, "message": "here"}],
        }]);
        assert_eq!(json, expected);
    }
}
