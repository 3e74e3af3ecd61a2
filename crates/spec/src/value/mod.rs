//! The tree a JSON or YAML text stands for, with the place of every node.
//!
//! Maps keep the order and the duplicates of the text: whether a duplicate is an error is the
//! reader's decision, and a diagnostic needs both places. Everything is bounded by a [`Budget`],
//! checked before memory is spent, so a text of a gigabyte or a "billion laughs" alias bomb costs
//! next to nothing.

mod json;
mod read;
mod scalar;
mod yaml;

pub use read::{Budget, Document, Documents, read_documents};
pub use scalar::Dialect;

use crate::source::{Span, Spanned};

/// One node of the tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it stands; for what an alias repeats, the place of the anchored original.
    pub span: Span,
    /// What it is.
    pub kind: Kind,
}

/// The six kinds of node.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `null`, `~` or nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number written without fraction and exponent.
    Int(i128),
    /// Any other number; YAML also writes infinities and not-a-number.
    Float(f64),
    /// Text.
    String(String),
    /// An ordered list.
    List(Vec<Node>),
    /// Keys and values in the order of the text, duplicates included.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key as text; YAML keys that are no strings keep their spelling.
    pub key: Spanned<String>,
    /// The value.
    pub value: Node,
}

impl Node {
    /// Whether the node is null.
    pub fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    /// What the node is, for messages: `a string`, `a map`.
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "a boolean",
            Kind::Int(_) | Kind::Float(_) => "a number",
            Kind::String(_) => "a string",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    /// The value of the last entry with this key, if the node is a map that has one.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().rev().find(|entry| entry.key.value == key).map(|entry| &entry.value)
    }

    /// The tree as JSON without places: the last of duplicate keys wins, numbers JSON cannot write
    /// become null.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Int(value) => i64::try_from(*value)
                .map(Value::from)
                .or_else(|_| u64::try_from(*value).map(Value::from))
                .unwrap_or_else(|_| Value::from(*value as f64)),
            Kind::Float(value) => Value::from(*value),
            Kind::String(value) => Value::String(value.clone()),
            Kind::List(items) => items.iter().map(Self::to_json).collect(),
            Kind::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.value.clone(), entry.value.to_json())).collect(),
            ),
        }
    }
}
