//! Source text and places in it: byte offsets for the machine, lines and columns for people.

use std::sync::Arc;

/// A half-open range of byte offsets in one [`SourceText`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset after the last byte; never before `start`.
    pub end: usize,
}

impl Span {
    /// The span from `start` to `end`; an `end` before `start` is moved to `start`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// The empty span at `offset`.
    pub const fn at(offset: usize) -> Self {
        Self { start: offset, end: offset }
    }

    /// Number of bytes.
    pub const fn len(self) -> usize {
        self.end - self.start
    }

    /// Whether the span holds no byte.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// A place as people count: both numbers start at 1, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Position {
    /// Line number, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A named text with an index of its lines. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct SourceText {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    text: String,
    line_starts: Vec<usize>,
}

impl SourceText {
    /// A text under the name that diagnostics show (a path, a URL, `<stdin>`).
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Self { inner: Arc::new(Inner { name: name.into(), text, line_starts }) }
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.inner.text
    }

    /// The text of `span`; empty when the span does not lie on character boundaries of this text.
    pub fn slice(&self, span: Span) -> &str {
        self.inner.text.get(span.start..span.end).unwrap_or("")
    }

    /// Line and column of a byte offset; offsets past the end count as the end.
    pub fn position(&self, offset: usize) -> Position {
        let line = self.line_index(offset);
        let start = self.inner.line_starts[line];
        let offset = floor_boundary(self.text(), offset);
        let column = self.inner.text[start..offset.max(start)].chars().count() + 1;
        Position { line: line + 1, column }
    }

    /// The text of a line (counted from 1) without its line end; empty when there is none.
    pub fn line(&self, number: usize) -> &str {
        self.slice(self.line_span(number))
    }

    /// Where a line (counted from 1) stands, without its line end; empty when there is none.
    pub fn line_span(&self, number: usize) -> Span {
        let starts = &self.inner.line_starts;
        let Some(&start) = number.checked_sub(1).and_then(|index| starts.get(index)) else {
            return Span::at(self.inner.text.len());
        };
        let end = starts.get(number).map_or(self.inner.text.len(), |next| next - 1);
        Span::new(start, start + self.inner.text[start..end].trim_end_matches('\r').len())
    }

    fn line_index(&self, offset: usize) -> usize {
        // The first line starts at 0, so at least one start is not after the offset.
        self.inner.line_starts.partition_point(|start| *start <= offset) - 1
    }
}

fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// A value and the place it was read from.
///
/// Equality compares values only: two specs that say the same are equal wherever it stands.
#[derive(Debug, Clone, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// `value` read from `span`.
    pub const fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T: serde::Serialize> serde::Serialize for Spanned<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source = SourceText::new("a", "één\r\ntwo\n");
        let check = |offset, line, column| {
            assert_eq!(source.position(offset), Position { line, column }, "offset {offset}");
        };
        check(0, 1, 1);
        check(1, 1, 1); // inside the first character
        check(2, 1, 2);
        check(7, 2, 1);
        check(9, 2, 3);
        check(11, 3, 1);
        check(1000, 3, 1);
        assert_eq!(source.line(1), "één");
        assert_eq!(source.line(2), "two");
        assert_eq!((source.line(3), source.line(4), source.line(0)), ("", "", ""));
    }
}
