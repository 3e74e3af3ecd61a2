//! YAML with places: the parser's events under our own scalars, aliases and merge keys.

use std::collections::{BTreeMap, BTreeSet};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag};

use super::read::{Document, Documents, Exceeded, Meter};
use super::scalar::{Dialect, resolve};
use super::{Entry, Kind, Node};
use crate::diagnostic::Diagnostic;
use crate::source::{Span, Spanned};

/// Reads all documents of `text` into `out`, up to the first syntax error.
pub(super) fn read(text: &str, dialect: Dialect, meter: &mut Meter, out: &mut Documents) {
    let limit = meter.depth() + 1;
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: limit,
        block_nesting_limit: limit,
    };
    let events = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { text, events, dialect, meter, depth: 0, anchors: BTreeMap::new() };
    if let Err(problem) = reader.stream(out) {
        out.diagnostics.push(*problem);
    }
}

type Read<T> = Result<T, Box<Diagnostic>>;

/// What an alias repeats.
struct Anchored {
    node: Node,
    nodes: usize,
    height: usize,
}

struct Reader<'t, 'm> {
    text: &'t str,
    events: Parser<'t, granit_parser::StrInput<'t>>,
    dialect: Dialect,
    meter: &'m mut Meter,
    depth: usize,
    anchors: BTreeMap<usize, Anchored>,
}

impl<'t> Reader<'t, '_> {
    fn stream(&mut self, out: &mut Documents) -> Read<()> {
        let mut from = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::DocumentStart(explicit, _) => {
                    let start = if explicit { span.end } else { from };
                    self.meter.document().map_err(|limit| Box::new(limit.diagnostic(span)))?;
                    let (event, place) = self.next()?;
                    let root = self.node(event, place)?;
                    self.anchors.clear();
                    let (_, end) = self.next()?;
                    from = end.end;
                    out.documents.push(Document { root, span: Span::new(start, end.start) });
                }
                Event::StreamEnd => return Ok(()),
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Read<(Event<'t>, Span)> {
        let end = Span::at(self.text.len());
        match self.events.next() {
            Some(Ok((event, span))) => {
                let range = span.byte_range().unwrap_or_default();
                Ok((event, Span::new(range.start, range.end)))
            }
            Some(Err(error)) => {
                let at = error.marker().byte_offset().map_or(end, Span::at);
                Err(Box::new(self.syntax(&error, at)))
            }
            None => Err(Box::new(Diagnostic::error("yaml-syntax", end, "the text ends too early"))),
        }
    }

    /// The parser's problem, with a hint for the usual slips.
    fn syntax(&self, error: &ScanError, at: Span) -> Diagnostic {
        let problem = |message: &str| Diagnostic::error("yaml-syntax", at, message);
        match error.kind() {
            ErrorKind::RecursionLimitExceeded => Exceeded::Depth(self.meter.depth()).diagnostic(at),
            ErrorKind::UnknownAnchor | ErrorKind::MissingAnchorOrAliasName => {
                let named = problem("`*` and `&` begin an alias or anchor, and this names none");
                named.help("put a text that begins with `*` or `&` in quotes")
            }
            ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
                problem("a tab cannot indent").help("indent with spaces")
            }
            ErrorKind::UnexpectedCharacter { character } => {
                let character = format!("`{character}` cannot begin a value");
                problem(&character).help("put the text in quotes")
            }
            _ => problem(&error.info()),
        }
    }

    fn spend(&mut self, nodes: usize, height: usize, span: Span) -> Read<()> {
        let depth = self.depth + height;
        self.meter.spend(nodes, depth).map_err(|limit| Box::new(limit.diagnostic(span)))
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Read<Node> {
        let (anchor, node) = match event {
            Event::Alias(id) => return self.alias(id, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(1, 0, span)?;
                (anchor, Node { span, kind: self.scalar(&text, style, tag.as_deref(), span)? })
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.spend(1, 0, span)?;
                self.check_tag(tag.as_deref(), "seq", span)?;
                (anchor, self.list(span)?)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.spend(1, 0, span)?;
                self.check_tag(tag.as_deref(), "map", span)?;
                (anchor, self.map(span)?)
            }
            _ => return Err(Box::new(Diagnostic::error("yaml-syntax", span, "expected a value"))),
        };
        if anchor != 0 {
            let (nodes, height) = measure(&node);
            // The copy kept for aliases is paid for: anchors nested in anchors would add up.
            self.spend(nodes, 0, span)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, height });
        }
        Ok(node)
    }

    fn alias(&mut self, id: usize, span: Span) -> Read<Node> {
        let Some((nodes, height)) = self.anchors.get(&id).map(|found| (found.nodes, found.height)) else {
            let message = "an alias may not stand inside the value it names";
            return Err(Box::new(Diagnostic::error("yaml-alias", span, message)));
        };
        self.spend(nodes, height, span)?;
        Ok(self.anchors[&id].node.clone())
    }

    fn list(&mut self, start: Span) -> Read<Node> {
        self.depth += 1;
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                self.depth -= 1;
                return Ok(Node { span: self.trimmed(start.start, span.end), kind: Kind::List(items) });
            }
            items.push(self.node(event, span)?);
        }
    }

    fn map(&mut self, start: Span) -> Read<Node> {
        self.depth += 1;
        let mut fields = Fields::default();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                self.depth -= 1;
                let kind = Kind::Map(fields.finish());
                return Ok(Node { span: self.trimmed(start.start, span.end), kind });
            }
            let is_merge = self.is_merge(&event);
            let key = self.key(event, span)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            if is_merge {
                fields.merge(value)?;
            } else {
                fields.add(key, value, self.dialect)?;
            }
        }
    }

    fn is_merge(&self, event: &Event<'_>) -> bool {
        let plain = matches!(event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
        plain && self.dialect != Dialect::Core12
    }

    fn key(&mut self, event: Event<'t>, span: Span) -> Read<Spanned<String>> {
        let spelling = match &event {
            Event::Scalar(text, ..) => Some(text.to_string()),
            _ => None,
        };
        let node = self.node(event, span)?;
        let text = match (spelling, node.kind) {
            (Some(text), _) | (None, Kind::String(text)) => text,
            (None, Kind::Int(value)) => value.to_string(),
            (None, Kind::Bool(value)) => value.to_string(),
            _ => return Err(Box::new(Diagnostic::error("yaml-key", span, "a key must be a scalar"))),
        };
        Ok(Spanned::new(text, span))
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Read<Kind> {
        let resolved = resolve(text, self.dialect);
        let Some(tag) = tag.filter(|tag| tag.to_string() != "!") else {
            return Ok(if style == ScalarStyle::Plain { resolved } else { Kind::String(text.to_owned()) });
        };
        let fits = match (tag.core_suffix(), &resolved) {
            (Some("str"), _) => return Ok(Kind::String(text.to_owned())),
            (Some("int"), Kind::Int(_)) | (Some("bool"), Kind::Bool(_)) | (Some("null"), Kind::Null) => true,
            (Some("float"), Kind::Float(_)) => true,
            (Some("float"), Kind::Int(value)) => return Ok(Kind::Float(*value as f64)),
            (Some(_), _) => false,
            (None, _) => {
                self.check_tag(Some(tag), "", span)?;
                return Ok(Kind::String(text.to_owned()));
            }
        };
        if fits { Ok(resolved) } else { Err(unfit(tag, span)) }
    }

    /// PyYAML refuses tags it has no constructor for; Go and the core schema pass over them.
    fn check_tag(&self, tag: Option<&Tag>, expected: &str, span: Span) -> Read<()> {
        let Some(tag) = tag.filter(|tag| tag.to_string() != "!") else { return Ok(()) };
        match tag.core_suffix() {
            Some(suffix) if suffix == expected => Ok(()),
            Some(_) => Err(unfit(tag, span)),
            None if self.dialect == Dialect::PyYaml11 => Err(unfit(tag, span)),
            None => Ok(()),
        }
    }

    /// A block collection "ends" where the next token stands: give back the blanks between.
    fn trimmed(&self, start: usize, end: usize) -> Span {
        let text = self.text.get(start..end).unwrap_or("");
        Span::new(start, start + text.trim_end().len())
    }
}

fn unfit(tag: &Tag, span: Span) -> Box<Diagnostic> {
    Box::new(Diagnostic::error("yaml-tag", span, format!("the tag `{tag}` does not fit this value")))
}

/// The entries of one map while it is read.
#[derive(Default)]
struct Fields {
    own: Vec<Entry>,
    places: BTreeMap<String, Span>,
    merged: Vec<Entry>,
    merged_keys: BTreeSet<String>,
}

impl Fields {
    fn add(&mut self, key: Spanned<String>, value: Node, dialect: Dialect) -> Read<()> {
        let first = self.places.insert(key.value.clone(), key.span);
        if let (Some(first), Dialect::GoYaml) = (first, dialect) {
            let message = format!("the key `{}` is already defined", key.value);
            let problem = Diagnostic::error("duplicate-key", key.span, message);
            return Err(Box::new(problem.label(first, "first defined here")));
        }
        self.own.push(Entry { key, value });
        Ok(())
    }

    /// Adds what `<<: *base` or `<<: [*a, *b]` brings in; earlier maps of a list win over later ones.
    fn merge(&mut self, value: Node) -> Read<()> {
        let maps = match value.kind {
            Kind::List(items) => items,
            _ => vec![value],
        };
        for map in maps {
            let Kind::Map(entries) = map.kind else {
                let message = "`<<` merges a map or a list of maps";
                return Err(Box::new(Diagnostic::error("yaml-merge", map.span, message)));
            };
            let fresh =
                entries.into_iter().rev().filter(|entry| self.merged_keys.insert(entry.key.value.clone()));
            self.merged.extend(fresh);
        }
        Ok(())
    }

    /// Merged entries first, without those the map defines itself.
    fn finish(self) -> Vec<Entry> {
        let Self { own, places, mut merged, .. } = self;
        merged.retain(|entry| !places.contains_key(&entry.key.value));
        merged.extend(own);
        merged
    }
}

/// Number of nodes and levels of nesting below a node, itself included in the count.
fn measure(node: &Node) -> (usize, usize) {
    let add = |(nodes, height): (usize, usize), child: &Node| {
        let (inner_nodes, inner_height) = measure(child);
        (nodes + inner_nodes, height.max(inner_height + 1))
    };
    match &node.kind {
        Kind::List(items) => items.iter().fold((1, 0), add),
        Kind::Map(entries) => entries.iter().fold((1, 0), |sum, entry| add(sum, &entry.value)),
        _ => (1, 0),
    }
}
