//! Standard output: text for people or JSON for programs, chosen once.

use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::Value;

use crate::args::Output;
use crate::failure::Failure;

/// Prints a list: rows as text, or all of it as one JSON array.
///
/// # Errors
/// If standard output cannot be written.
pub fn list<T: Serialize>(
    form: Output,
    items: &[T],
    text: impl FnOnce(&[T]) -> String,
) -> Result<(), Failure> {
    match form {
        Output::Text => raw(text(items).as_bytes()),
        Output::Json => json(&items),
    }
}

/// Prints one thing: a block of `Name: value` lines, or a JSON object.
///
/// # Errors
/// If standard output cannot be written.
pub fn one<T: Serialize>(form: Output, item: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    match form {
        Output::Text => raw(text(item).as_bytes()),
        Output::Json => json(item),
    }
}

/// Prints indented JSON and a line end.
///
/// # Errors
/// If standard output cannot be written.
pub fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let value: Value =
        serde_json::to_value(value).map_err(|e| Failure::new(crate::failure::Kind::Internal, e))?;
    raw(format!("{value:#}\n").as_bytes())
}

/// Prints bytes as they are. A reader that went away is no failure.
///
/// # Errors
/// If standard output cannot be written.
pub fn raw(bytes: &[u8]) -> Result<(), Failure> {
    match io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().lock().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        done => Ok(done?),
    }
}
