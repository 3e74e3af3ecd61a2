//! JSON with places: RFC 8259, any number of values one after the other.

use super::read::{Document, Documents, Meter};
use super::{Entry, Kind, Node};
use crate::diagnostic::Diagnostic;
use crate::source::{Span, Spanned};

/// Reads all values of `text` into `out`, up to the first syntax error.
pub(super) fn read(text: &str, meter: &mut Meter, out: &mut Documents) {
    let mut reader = Reader { text, at: 0, depth: 0, meter };
    if text.starts_with('\u{feff}') {
        reader.at = '\u{feff}'.len_utf8();
    }
    loop {
        reader.skip_blanks();
        if reader.at == text.len() {
            return;
        }
        let start = Span::at(reader.at);
        if let Err(limit) = reader.meter.document() {
            return out.diagnostics.push(limit.diagnostic(start));
        }
        match reader.value() {
            Ok(root) => out.documents.push(Document { span: root.span, root }),
            Err(problem) => return out.diagnostics.push(*problem),
        }
    }
}

// Boxed: a diagnostic is large and rare, a value is small and common.
type Read<T> = Result<T, Box<Diagnostic>>;

struct Reader<'t, 'm> {
    text: &'t str,
    at: usize,
    depth: usize,
    meter: &'m mut Meter,
}

impl Reader<'_, '_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Read<Node> {
        let start = self.at;
        self.meter.spend(1, self.depth).map_err(|limit| Box::new(limit.diagnostic(Span::at(start))))?;
        let kind = match self.peek() {
            Some(b'{') => self.nested(Self::map)?,
            Some(b'[') => self.nested(Self::list)?,
            Some(b'"') => Kind::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'a'..=b'z') => self.word()?,
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Node { span: Span::new(start, self.at), kind })
    }

    /// Runs `read` one level deeper, past the opening bracket.
    fn nested(&mut self, read: fn(&mut Self) -> Read<Kind>) -> Read<Kind> {
        self.at += 1;
        self.depth += 1;
        let kind = read(self)?;
        self.depth -= 1;
        Ok(kind)
    }

    fn map(&mut self) -> Read<Kind> {
        let mut entries = Vec::new();
        self.skip_blanks();
        if self.take(b'}') {
            return Ok(Kind::Map(entries));
        }
        loop {
            self.skip_blanks();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let start = self.at;
            let key = Spanned::new(self.string()?, Span::new(start, self.at));
            self.skip_blanks();
            if !self.take(b':') {
                return Err(self.unexpected("`:` after the key"));
            }
            self.skip_blanks();
            entries.push(Entry { key, value: self.value()? });
            self.skip_blanks();
            if self.take(b'}') {
                return Ok(Kind::Map(entries));
            }
            if !self.take(b',') {
                return Err(self.unexpected("`,` or `}`"));
            }
        }
    }

    fn list(&mut self) -> Read<Kind> {
        let mut items = Vec::new();
        self.skip_blanks();
        if self.take(b']') {
            return Ok(Kind::List(items));
        }
        loop {
            self.skip_blanks();
            items.push(self.value()?);
            self.skip_blanks();
            if self.take(b']') {
                return Ok(Kind::List(items));
            }
            if !self.take(b',') {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self) -> Read<Kind> {
        let rest = &self.text[self.at..];
        let words = [("true", Kind::Bool(true)), ("false", Kind::Bool(false)), ("null", Kind::Null)];
        let length = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
        for (word, kind) in words {
            if &rest[..length] == word {
                self.at += length;
                return Ok(kind);
            }
        }
        Err(self.unexpected("a value"))
    }

    fn number(&mut self) -> Read<Kind> {
        let start = self.at;
        self.take(b'-');
        let leading_zero = self.peek() == Some(b'0');
        let digits = self.digits()?;
        if leading_zero && digits > 1 {
            self.at = start;
            return Err(self.syntax(Span::new(start, start + digits), "a number may not begin with `0`"));
        }
        let mut whole = true;
        if self.take(b'.') {
            whole = false;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if !self.take(b'-') {
                self.take(b'+');
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        let integer = if whole { text.parse().ok() } else { None };
        Ok(match (integer, text.parse::<f64>()) {
            (Some(value), _) => Kind::Int(value),
            (None, Ok(value)) if value.is_finite() => Kind::Float(value),
            _ => return Err(self.syntax(Span::new(start, self.at), "the number is too large")),
        })
    }

    fn digits(&mut self) -> Read<usize> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("a digit")) } else { Ok(self.at - start) }
    }

    fn string(&mut self) -> Read<String> {
        let open = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.bytes().take_while(|byte| !matches!(byte, b'"' | b'\\' | ..b' ')).count();
            out.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(b'\n' | b'\r') | None => {
                    let span = Span::new(open, self.at);
                    return Err(self.syntax(span, "the string is not closed on its line"));
                }
                Some(_) => {
                    let span = Span::new(self.at, self.at + 1);
                    return Err(self.syntax(span, "control characters must be escaped in a string"));
                }
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        let start = self.at;
        self.at += 2;
        Ok(match self.text.as_bytes().get(start + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => self.unicode_escape(start)?,
            _ => {
                self.at = start;
                let end = (start + 2).min(self.text.len());
                return Err(self.syntax(Span::new(start, end), "unknown escape in a string"));
            }
        })
    }

    /// `\uXXXX`, with its second half when it is a surrogate. Half a pair becomes U+FFFD, as in Go.
    fn unicode_escape(&mut self, start: usize) -> Read<char> {
        let high = self.hex4(start)?;
        let next = self.at;
        if (0xd800..0xdc00).contains(&high) && self.text[next..].starts_with("\\u") {
            self.at += 2;
            let low = self.hex4(next)?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
            }
            self.at = next;
        }
        Ok(char::from_u32(high).unwrap_or('\u{fffd}'))
    }

    fn hex4(&mut self, start: usize) -> Read<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or(b"");
        if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
            let span = Span::new(start, start + 2);
            return Err(self.syntax(span, "`\\u` needs four hexadecimal digits"));
        }
        let value = digits.iter().fold(0, |value, digit| value * 16 + hex_value(*digit));
        self.at += 4;
        Ok(value)
    }

    fn unexpected(&self, expected: &str) -> Box<Diagnostic> {
        let found = self.text[self.at..].chars().next();
        let span = Span::new(self.at, self.at + found.map_or(0, char::len_utf8));
        let Some(found) = found else {
            return self.syntax(span, &format!("the text ends where {expected} should stand"));
        };
        let problem = self.syntax(span, &format!("expected {expected}, found `{found}`"));
        let before = self.text[..self.at].trim_end();
        let trailing_comma = matches!(found, '}' | ']') && before.ends_with(',');
        Box::new(match found {
            _ if trailing_comma => problem.help("remove the `,` before it"),
            '\'' => problem.help("JSON strings stand in double quotes"),
            '/' | '#' => problem.help("JSON has no comments"),
            '"' if expected.starts_with("`,`") => problem.help("is a `,` missing before it?"),
            _ => return problem,
        })
    }

    fn syntax(&self, span: Span, message: &str) -> Box<Diagnostic> {
        Box::new(Diagnostic::error("json-syntax", span, message))
    }
}

fn hex_value(digit: u8) -> u32 {
    char::from(digit).to_digit(16).expect("the caller checked for hexadecimal digits")
}
