//! Canonical encoding: one walk over a value computes its digest, and the same walk with another
//! visitor explains it, so that key and explanation cannot drift apart.
//!
//! Rules of the encoding, fixed for ever for a given domain:
//! 1. it starts with the domain, a short text such as `quern.step.v1`;
//! 2. every field is its name, a kind byte (`b` bytes, `n` number, `[` list, `]` end) and its payload;
//! 3. names and byte strings carry their length in front (8 bytes, little-endian), so no two
//!    sequences of fields have the same encoding;
//! 4. numbers are 8 bytes, little-endian; maps are walked in the order of their keys;
//! 5. an absent optional value is left out, which differs from every present one.

use crate::digest::{Digest, DigestWriter};

/// A value with one canonical walk.
pub trait Canon {
    /// Domain and version of the encoding; a change of meaning needs a new one.
    const DOMAIN: &'static str;

    /// Shows every field that counts to `visitor`, in an order that depends on the value only.
    fn walk(&self, visitor: &mut dyn Visitor);

    /// The digest of the canonical encoding.
    fn digest(&self) -> Digest {
        let mut visitor = DigestVisitor::new(Self::DOMAIN);
        self.walk(&mut visitor);
        visitor.finish()
    }

    /// The same walk as text lines `path = value`, for people.
    fn explain(&self) -> Vec<(String, String)> {
        let mut visitor = ExplainVisitor::default();
        self.walk(&mut visitor);
        visitor.lines
    }
}

/// Receives the fields of a value in order.
pub trait Visitor {
    /// A byte string.
    fn bytes(&mut self, name: &str, value: &[u8]);
    /// A number.
    fn number(&mut self, name: &str, value: u64);
    /// The start of a list or of a nested value.
    fn enter(&mut self, name: &str);
    /// The end of what [`Visitor::enter`] started.
    fn leave(&mut self);
    /// A digest, shown as bytes.
    fn digest(&mut self, name: &str, value: &Digest) {
        self.bytes(name, value.as_bytes());
    }
    /// A text, shown as bytes.
    fn text(&mut self, name: &str, value: &str) {
        self.bytes(name, value.as_bytes());
    }
}

/// The visitor that computes a digest.
pub struct DigestVisitor(DigestWriter);

impl DigestVisitor {
    /// Starts an encoding of the given domain.
    pub fn new(domain: &str) -> Self {
        let mut visitor = Self(DigestWriter::new());
        visitor.prefixed(domain.as_bytes());
        visitor
    }

    /// The digest of everything visited.
    pub fn finish(self) -> Digest {
        self.0.finish()
    }

    fn prefixed(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

impl Visitor for DigestVisitor {
    fn bytes(&mut self, name: &str, value: &[u8]) {
        self.prefixed(name.as_bytes());
        self.0.update(b"b");
        self.prefixed(value);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.prefixed(name.as_bytes());
        self.0.update(b"n");
        self.0.update(&value.to_le_bytes());
    }

    fn enter(&mut self, name: &str) {
        self.prefixed(name.as_bytes());
        self.0.update(b"[");
    }

    fn leave(&mut self) {
        self.0.update(b"]");
    }
}

#[derive(Default)]
struct ExplainVisitor {
    path: Vec<String>,
    lines: Vec<(String, String)>,
}

impl ExplainVisitor {
    fn line(&mut self, name: &str, value: String) {
        let path = self.path.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".");
        self.lines.push((path, value));
    }
}

impl Visitor for ExplainVisitor {
    fn bytes(&mut self, name: &str, value: &[u8]) {
        self.line(name, String::from_utf8_lossy(value).into_owned());
    }

    fn number(&mut self, name: &str, value: u64) {
        self.line(name, value.to_string());
    }

    fn enter(&mut self, name: &str) {
        self.path.push(name.to_owned());
    }

    fn leave(&mut self) {
        self.path.pop();
    }

    fn digest(&mut self, name: &str, value: &Digest) {
        self.line(name, value.to_string());
    }
}

/// The names of the fields in which two explanations differ, in order of first appearance.
pub fn differing(old: &[(String, String)], new: &[(String, String)]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let only_in = |a: &[(String, String)], b: &[(String, String)], names: &mut Vec<String>| {
        for line in a.iter().filter(|line| !b.contains(line)) {
            if !names.contains(&line.0) {
                names.push(line.0.clone());
            }
        }
    };
    only_in(new, old, &mut names);
    only_in(old, new, &mut names);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair<'a>(&'a [&'a str]);

    impl Canon for Pair<'_> {
        const DOMAIN: &'static str = "quern.test.v1";
        fn walk(&self, v: &mut dyn Visitor) {
            v.enter("words");
            for word in self.0 {
                v.text("word", word);
            }
            v.leave();
            v.number("count", self.0.len() as u64);
        }
    }

    #[test]
    fn the_encoding_is_fixed() {
        // Computed from the rules in the header by another program.
        let golden = "sha256:38ac737feb6d325f06e5df754aba2095fa3aa67be3b3ad03880b7b8657147d07";
        assert_eq!(Pair(&["a", "bc"]).digest().to_string(), golden);
    }

    #[test]
    fn near_collisions_differ() {
        let values: &[&[&str]] = &[&[], &[""], &["", ""], &["ab"], &["a", "b"], &["ab", ""], &["", "ab"]];
        for (i, a) in values.iter().enumerate() {
            for b in &values[..i] {
                assert_ne!(Pair(a).digest(), Pair(b).digest(), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_same_walk_explains() {
        let (old, new) = (Pair(&["a"]).explain(), Pair(&["a", "b"]).explain());
        assert_eq!(old, [("words.word".into(), "a".into()), ("count".into(), "1".into())]);
        assert_eq!(differing(&old, &new), ["words.word", "count"]);
    }
}
