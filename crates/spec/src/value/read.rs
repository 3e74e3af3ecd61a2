//! From text to documents: which syntax, how many documents, how much at most.

use super::{Dialect, Node, json, yaml};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::source::{SourceText, Span};

/// How much one text may cost. Checked before the memory is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Longest text, in bytes.
    pub bytes: usize,
    /// Deepest nesting of lists and maps, aliases expanded. At most 200 is honoured.
    pub depth: usize,
    /// Most nodes of all documents together, aliases expanded.
    pub nodes: usize,
    /// Most documents.
    pub documents: usize,
}

impl Default for Budget {
    /// 8 MiB, 100 levels, 500,000 nodes, 10,000 documents: far above any spec written or generated for
    /// real.
    fn default() -> Self {
        Self { bytes: 8 << 20, depth: 100, nodes: 500_000, documents: 10_000 }
    }
}

/// One document of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its tree.
    pub root: Node,
    /// The part of the text it was read from, comments included, document markers not.
    pub span: Span,
}

/// What a text holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Documents {
    /// The documents read before the first syntax error, in order.
    pub documents: Vec<Document>,
    /// What is wrong with the text itself.
    pub diagnostics: Diagnostics,
}

/// Reads all documents of a text.
///
/// A text is YAML in the given dialect, its documents separated by `---`. As in Pachyderm's client, a
/// text for [`Dialect::GoYaml`] whose first non-blank character is `{` is JSON, with any number of
/// values one after the other.
pub fn read_documents(source: &SourceText, dialect: Dialect, budget: Budget) -> Documents {
    let mut out = Documents::default();
    if let Some(refusal) = refuse(source.text(), budget) {
        out.diagnostics.push(refusal);
        return out;
    }
    let text = source.text();
    let blank = |c: char| c.is_ascii_whitespace() || c == '\u{feff}';
    let mut meter = Meter { budget, nodes: 0, documents: 0 };
    if dialect == Dialect::GoYaml && text.trim_start_matches(blank).starts_with('{') {
        json::read(text, &mut meter, &mut out);
    } else {
        yaml::read(text, dialect, &mut meter, &mut out);
    }
    out
}

fn refuse(text: &str, budget: Budget) -> Option<Diagnostic> {
    if text.len() > budget.bytes {
        let message = format!("the text has {} bytes; at most {} are read", text.len(), budget.bytes);
        return Some(Diagnostic::global("too-large", message).help("check that this is the right file"));
    }
    let nul = text.bytes().position(|byte| byte == 0)?;
    Some(Diagnostic::error("nul-byte", Span::new(nul, nul + 1), "the text contains a NUL byte"))
}

/// Counts what the documents have cost so far.
pub(super) struct Meter {
    budget: Budget,
    nodes: usize,
    documents: usize,
}

/// The reason a meter stops a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exceeded {
    Depth(usize),
    Nodes(usize),
    Documents(usize),
}

impl Meter {
    /// The nesting limit actually applied: readers recurse, so it has a ceiling of its own.
    pub fn depth(&self) -> usize {
        self.budget.depth.min(200)
    }

    /// Accounts for one more document.
    pub fn document(&mut self) -> Result<(), Exceeded> {
        self.documents += 1;
        let limit = self.budget.documents;
        if self.documents > limit { Err(Exceeded::Documents(limit)) } else { Ok(()) }
    }

    /// Accounts for `count` nodes of which the deepest lies `depth` levels down.
    pub fn spend(&mut self, count: usize, depth: usize) -> Result<(), Exceeded> {
        if depth > self.depth() {
            return Err(Exceeded::Depth(self.depth()));
        }
        self.nodes = self.nodes.saturating_add(count);
        if self.nodes > self.budget.nodes { Err(Exceeded::Nodes(self.budget.nodes)) } else { Ok(()) }
    }
}

impl Exceeded {
    pub fn diagnostic(self, span: Span) -> Diagnostic {
        match self {
            Self::Depth(limit) => Diagnostic::error(
                "too-deep",
                span,
                format!("lists and maps are nested deeper than {limit} levels"),
            ),
            Self::Nodes(limit) => Diagnostic::error(
                "too-many-nodes",
                span,
                format!("the text stands for more than {limit} values"),
            )
            .help("aliases (`*name`) count as often as they are used"),
            Self::Documents(limit) => Diagnostic::error(
                "too-many-documents",
                span,
                format!("the text holds more than {limit} documents"),
            ),
        }
    }
}
