//! Typed reading of a tree by the rules of protobuf JSON, all problems at once.
//!
//! A reader is a function from a node to `Option<T>` that reports to [`Diagnostics`] instead of
//! stopping: `None` means "a problem was reported". [`Object`] reads the fields of one map; the
//! names asked for are the names known, so unknown keys are found, and spelled right, without a
//! second list. The conventions: `snake_case` keys, each also accepted in `lowerCamelCase`; null is
//! absent; the last of duplicate keys wins; numbers may be quoted; `1.0` is an integer; booleans are
//! never quoted; a list is never abbreviated to its only member; values of string maps are strings.

mod scalar;
mod suggest;

pub use scalar::{boolean, duration, float, int32, int64, string, text, timestamp, uint64};
pub use suggest::closest;

use std::collections::BTreeMap;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::source::{Span, Spanned};
use crate::value::{Entry, Kind, Node};

/// Reads a node or reports why it cannot.
pub type Reader<T> = fn(&Node, &mut Diagnostics) -> Option<T>;

/// The fields of one map.
pub struct Object<'n, 'd> {
    /// Where the map stands.
    pub span: Span,
    what: &'static str,
    entries: &'n [Entry],
    asked: Vec<&'static str>,
    diagnostics: &'d mut Diagnostics,
}

impl<'n, 'd> Object<'n, 'd> {
    /// Starts reading a map that messages call `what` (like `transform.build`); reports a node of
    /// another kind.
    pub fn open(what: &'static str, node: &'n Node, diagnostics: &'d mut Diagnostics) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else {
            diagnostics.push(wrong_kind(node, "a map").help(format!("`{what}` is a map of fields")));
            return None;
        };
        Some(Self { span: node.span, what, entries, asked: Vec::new(), diagnostics })
    }

    /// The diagnostics problems go to.
    pub fn diagnostics(&mut self) -> &mut Diagnostics {
        self.diagnostics
    }

    /// The node of a field, under its own name or in lowerCamelCase; null counts as absent.
    pub fn node(&mut self, name: &'static str) -> Option<&'n Node> {
        self.entry(name).map(|entry| &entry.value)
    }

    /// Where the key of a field stands, if the field is present.
    pub fn key_span(&self, name: &str) -> Option<Span> {
        self.spellings(name).next().map(|entry| entry.key.span)
    }

    /// The entries that spell a field, the last one first.
    fn spellings<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'n Entry> + 'e {
        self.entries.iter().rev().filter(move |entry| is_name(&entry.key, name))
    }

    fn entry(&mut self, name: &'static str) -> Option<&'n Entry> {
        let last = self.spellings(name).next();
        if !self.asked.contains(&name) {
            self.asked.push(name);
            self.report_overruled(name);
        }
        last.filter(|entry| !entry.value.is_null())
    }

    /// Warns about all spellings of a field but the last.
    fn report_overruled(&mut self, name: &str) {
        let mut spellings = self.spellings(name);
        let Some(last) = spellings.next() else { return };
        let earlier: Vec<&Entry> = spellings.collect();
        for entry in earlier {
            let message = format!("`{}` is given more than once; the last one counts", entry.key.value);
            let problem = Diagnostic::warning("duplicate-key", entry.key.span, message);
            self.diagnostics.push(problem.label(last.key.span, "the one that counts"));
        }
    }

    /// An optional field.
    pub fn optional<T>(&mut self, name: &'static str, read: Reader<T>) -> Option<T> {
        let node = self.node(name)?;
        read(node, self.diagnostics)
    }

    /// An optional field with its place.
    pub fn spanned<T>(&mut self, name: &'static str, read: Reader<T>) -> Option<Spanned<T>> {
        let node = self.node(name)?;
        read(node, self.diagnostics).map(|value| Spanned::new(value, node.span))
    }

    /// A field that stands for its type's default when absent.
    pub fn or_default<T: Default>(&mut self, name: &'static str, read: Reader<T>) -> T {
        self.optional(name, read).unwrap_or_default()
    }

    /// A list field; absent means empty. Members that cannot be read are reported and left out.
    pub fn list<T>(&mut self, name: &'static str, read: Reader<T>) -> Vec<T> {
        let items = self.items(name);
        items.iter().filter_map(|item| read(item, self.diagnostics)).collect()
    }

    /// A list field whose members keep their places.
    pub fn spanned_list<T>(&mut self, name: &'static str, read: Reader<T>) -> Vec<Spanned<T>> {
        let items = self.items(name);
        let mut one = |item: &Node| Some(Spanned::new(read(item, self.diagnostics)?, item.span));
        items.iter().filter_map(&mut one).collect()
    }

    /// The members of a list field; a single value is reported, never taken for a list of one.
    fn items(&mut self, name: &'static str) -> &'n [Node] {
        let Some(node) = self.node(name) else { return &[] };
        let Kind::List(items) = &node.kind else {
            self.diagnostics.push(wrong_kind(node, "a list").help("write it as a list: `[…]`"));
            return &[];
        };
        items
    }

    /// A map from strings to strings; absent means empty, the last of duplicate keys wins.
    pub fn string_map(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let Some(node) = self.node(name) else { return BTreeMap::new() };
        let Kind::Map(entries) = &node.kind else {
            self.diagnostics.push(wrong_kind(node, "a map of strings"));
            return BTreeMap::new();
        };
        let one = |entry: &Entry| Some((entry.key.value.clone(), string(&entry.value, self.diagnostics)?));
        entries.iter().filter_map(one).collect()
    }

    /// Reports every key that was not asked for.
    pub fn finish(self) {
        let unknown = |entry: &&Entry| !self.asked.iter().any(|name| is_name(&entry.key, name));
        for entry in self.entries.iter().filter(unknown) {
            if self.diagnostics.is_full() {
                return;
            }
            let message = format!("unknown field `{}` in `{}`", entry.key.value, self.what);
            let problem = Diagnostic::error("unknown-field", entry.key.span, message);
            self.diagnostics.push(match closest(&entry.key, &self.asked) {
                Some(name) => problem.help(format!("did you mean `{name}`?")),
                None => problem.help(format!("known fields: {}", self.asked.join(", "))),
            });
        }
    }
}

/// Whether `key` spells the field `name`, in snake_case or in lowerCamelCase.
fn is_name(key: &str, name: &str) -> bool {
    if key == name {
        return true;
    }
    let mut key = key.chars();
    let mut name = name.chars();
    while let Some(expected) = name.next() {
        let same = match expected {
            '_' => name.next().is_some_and(|c| key.next() == Some(c.to_ascii_uppercase())),
            c => key.next() == Some(c),
        };
        if !same {
            return false;
        }
    }
    key.next().is_none()
}

/// The problem of a node that is not what the field holds.
pub fn wrong_kind(node: &Node, expected: &str) -> Diagnostic {
    let message = format!("expected {expected}, found {}", node.kind_name());
    Diagnostic::error("wrong-type", node.span, message)
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn a_field_may_be_spelled_in_lower_camel_case() {
        let check = |key: &str, name: &str, expected: bool| assert_eq!(is_name(key, name), expected, "{key}");
        check("accept_return_code", "accept_return_code", true);
        check("acceptReturnCode", "accept_return_code", true);
        check("acceptReturn_code", "accept_return_code", false);
        check("AcceptReturnCode", "accept_return_code", false);
        check("acceptreturncode", "accept_return_code", false);
        check("s3Out", "s3_out", true);
        check("cm", "cmd", false);
        check("cmds", "cmd", false);
        check("URL", "URL", true);
        check("url", "URL", false);
        check("", "cmd", false);
    }
}
