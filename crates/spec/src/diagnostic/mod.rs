//! Problems found in a text: all at once, in a stable order, each at its place.

mod render;

pub use render::{Plain, Report, ReportLabel, Role, Style, render, report};

use crate::source::Span;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document cannot be used.
    Error,
    /// The document can be used, but probably says something else than was meant.
    Warning,
}

/// A second place that explains a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What stands there, as a lower-case fragment.
    pub message: String,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name programs can match, like `unknown-field`.
    pub code: &'static str,
    /// What is wrong, in lower case, with the offending text in backquotes.
    pub message: String,
    /// Where; `None` when it concerns the text as a whole.
    pub span: Option<Span>,
    /// What to do about it.
    pub help: Option<String>,
    /// Other places that matter.
    pub labels: Vec<Label>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, Some(span), message.into())
    }

    /// A warning at `span`.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, Some(span), message.into())
    }

    /// An error that concerns the text as a whole.
    pub fn global(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, None, message.into())
    }

    fn new(severity: Severity, code: &'static str, span: Option<Span>, message: String) -> Self {
        Self { severity, code, message, span, help: None, labels: Vec::new() }
    }

    /// The same problem with a line of help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same problem with a further place.
    #[must_use]
    pub fn label(mut self, span: Span, message: impl Into<String>) -> Self {
        self.labels.push(Label { span, message: message.into() });
        self
    }
}

/// Problems kept of one text; further ones are only counted.
const MOST: usize = 200;

/// All problems of one text, ordered by place; those without a place come first.
///
/// Problems at the same place keep the order they were found in, so one text always gives one list.
/// Of a hopeless text the first 200 found are kept and the rest is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
    omitted: usize,
}

impl Diagnostics {
    /// No problems.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a problem at its place in the order.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if self.is_full() {
            self.omitted += 1;
            return;
        }
        let place = |item: &Diagnostic| item.span.map(|span| span.start);
        let at = self.items.partition_point(|item| place(item) <= place(&diagnostic));
        self.items.insert(at, diagnostic);
    }

    /// Adds all problems of `other`.
    pub fn extend(&mut self, other: Self) {
        for diagnostic in other.items {
            self.push(diagnostic);
        }
        self.omitted += other.omitted;
    }

    /// Adds those problems of `other` that are not among these yet, as when one text is looked at several times.
    pub fn join(&mut self, other: Self) {
        for diagnostic in other.items {
            if !self.items.contains(&diagnostic) {
                self.push(diagnostic);
            }
        }
        self.omitted = self.omitted.max(other.omitted);
    }

    /// Whether further problems will only be counted.
    pub fn is_full(&self) -> bool {
        self.items.len() >= MOST
    }

    /// Number of problems that were found but not kept.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// Whether any problem is an error.
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    /// Whether there is no problem at all.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Number of problems.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The problems in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.items.iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_by_place_then_by_arrival() {
        let mut all = Diagnostics::new();
        for (at, message) in [(5, "b"), (1, "a"), (5, "c")] {
            all.push(Diagnostic::warning("x", Span::at(at), message));
        }
        assert!(!all.has_errors());
        all.push(Diagnostic::global("x", "first"));
        let messages: Vec<_> = all.iter().map(|item| item.message.as_str()).collect();
        assert_eq!(messages, ["first", "a", "b", "c"]);
        assert!(all.has_errors());
    }
}
