//! Which words of a line announce a here-document.

use super::ast::Heredoc;
use super::expand::{Lexer, NoVariables};
use super::go::is_space;

/// The here-documents that a line announces, in order; their lines are not read yet.
pub(super) fn announced(line: &str) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let lexer = Lexer { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Lexer::new('\\') };
    // A line with an open quote announces none; the shell will complain about it.
    let words = lexer.words(line, &NoVariables).map(|found| found.words).unwrap_or_default();
    words.iter().filter_map(|word| announced_by(word)).collect()
}

/// The here-document that a word announces: digits, `<<`, perhaps `-`, and a name without `<`. A part
/// of the name in quotes turns expansion off.
pub(super) fn announced_by(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches(is_space);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let plain = Lexer { keep_unset: true, ..Lexer::new('\\') };
    let raw = Lexer { raw_quotes: true, ..plain };
    let name = single(plain.words(rest, &NoVariables).ok()?.words)?;
    let written = single(raw.words(rest, &NoVariables).ok()?.words)?;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = quotes(&name) == quotes(&written);
    Some(Heredoc::announced(name, expand, chomp))
}

fn single(words: Vec<String>) -> Option<String> {
    let mut words = words.into_iter();
    words.next().filter(|_| words.next().is_none())
}
