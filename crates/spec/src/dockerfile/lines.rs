//! Logical lines: physical ones joined at continuations, without comments, and the places of their parts.

use std::ops::Range;

use super::ast::{Heredoc, Word};
use super::go::is_space;
use crate::source::{SourceText, Span};

/// A logical line.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// The text, continuations joined.
    pub text: String,
    /// Where each piece of the text comes from: (offset in the text, offset in the source), ascending.
    pieces: Vec<(usize, usize)>,
    /// From the first character to the last, in the source.
    pub span: Span,
    /// Every part stands here: for a text that is no part of a file.
    pub fixed: Option<Span>,
    /// The comments before the line, without `#` and blanks.
    pub comments: Vec<String>,
    /// The first empty line inside the continuation.
    pub empty_line: Option<Span>,
}

impl Line {
    /// Where a part of the text stands in the source.
    pub fn span(&self, range: Range<usize>) -> Span {
        if let Some(span) = self.fixed {
            return span;
        }
        let start = self.source_offset(range.start);
        if range.is_empty() {
            return Span::at(start);
        }
        Span::new(start, self.source_offset(range.end - 1) + 1)
    }

    /// A part of the text as a word.
    pub fn word(&self, range: Range<usize>) -> Word {
        Word::new(self.text[range.clone()].to_owned(), self.span(range))
    }

    /// The range without blanks at its ends.
    pub fn trim(&self, range: Range<usize>) -> Range<usize> {
        let text = &self.text[range.clone()];
        let start = range.start + (text.len() - text.trim_start_matches(is_space).len());
        let end = range.end - (text.len() - text.trim_end_matches(is_space).len());
        start.min(end)..end
    }

    fn source_offset(&self, offset: usize) -> usize {
        let next = self.pieces.partition_point(|(text, _)| *text <= offset);
        match next.checked_sub(1).and_then(|index| self.pieces.get(index)) {
            Some((text, source)) => source + (offset - text),
            None => self.span.start,
        }
    }
}

/// Reads logical lines and here-documents from the top to the end.
pub(super) struct Lines<'a> {
    source: &'a SourceText,
    at: usize,
    escape: char,
    /// See [`Line::fixed`].
    fixed: Option<Span>,
}

impl<'a> Lines<'a> {
    /// From `start`, an offset at the beginning of a line.
    pub fn new(source: &'a SourceText, start: usize, escape: char) -> Self {
        Self { source, at: start, escape, fixed: None }
    }

    /// Lines of a text that is no part of a file: all of it stands at `span`.
    pub fn fixed(source: &'a SourceText, escape: char, span: Span) -> Self {
        Self { source, at: 0, escape, fixed: Some(span) }
    }

    /// The next physical line with its end, and its offset.
    fn physical(&mut self) -> Option<(usize, &'a str)> {
        let rest = &self.source.text()[self.at..];
        let line = rest.split_inclusive('\n').next()?;
        let start = self.at;
        self.at += line.len();
        Some((start, line))
    }

    /// The next logical line that is neither empty nor a comment.
    pub fn next_line(&mut self) -> Option<Line> {
        let mut comments = Vec::new();
        loop {
            let (offset, physical) = self.physical()?;
            let text = physical.trim_end_matches(['\r', '\n']);
            let trimmed = text.trim_start_matches(is_space);
            if let Some(comment) = trimmed.strip_prefix('#') {
                match comment.trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
            } else if !trimmed.is_empty() {
                return Some(self.join(offset + (text.len() - trimmed.len()), trimmed, comments));
            }
        }
    }

    /// Joins the lines that continue the first one.
    fn join(&mut self, start: usize, first: &str, comments: Vec<String>) -> Line {
        let mut line = Line {
            text: String::new(),
            pieces: Vec::new(),
            span: Span::new(start, start + first.len()),
            fixed: self.fixed,
            comments,
            empty_line: None,
        };
        let (mut offset, mut text) = (start, first);
        loop {
            let kept = continued(text, self.escape);
            line.pieces.push((line.text.len(), offset));
            line.text.push_str(kept.unwrap_or(text));
            line.span = self.fixed.unwrap_or(Span::new(start, offset + text.len()));
            if kept.is_none() {
                return line;
            }
            let Some(next) = self.next_part(&mut line) else { return line };
            (offset, text) = next;
        }
    }

    /// The next physical line of a continuation that is neither empty nor a comment.
    fn next_part(&mut self, line: &mut Line) -> Option<(usize, &'a str)> {
        loop {
            let (offset, physical) = self.physical()?;
            let text = physical.trim_end_matches(['\r', '\n']);
            let trimmed = text.trim_start_matches(is_space);
            if trimmed.is_empty() {
                line.empty_line.get_or_insert(self.fixed.unwrap_or(Span::at(offset)));
            } else if !trimmed.starts_with('#') {
                return Some((offset, text));
            }
        }
    }

    /// Reads the lines of a here-document; `false` if its last line never comes.
    pub fn read_heredoc(&mut self, heredoc: &mut Heredoc) -> bool {
        let start = self.at;
        while let Some((offset, physical)) = self.physical() {
            let text = physical.trim_end_matches(['\r', '\n']);
            let text = if heredoc.chomp { text.trim_start_matches('\t') } else { text };
            if text == heredoc.name {
                heredoc.content = self.source.text()[start..offset].to_owned();
                heredoc.span = self.fixed.unwrap_or(Span::new(start, self.at));
                return true;
            }
        }
        heredoc.span = self.fixed.unwrap_or(Span::new(start, self.at));
        false
    }
}

/// The text before a continuation character; `None` if the line ends here.
///
/// An escape character before it makes it an ordinary one, without looking further back.
fn continued(text: &str, escape: char) -> Option<&str> {
    let kept = text.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!kept.ends_with(escape)).then_some(kept)
}
