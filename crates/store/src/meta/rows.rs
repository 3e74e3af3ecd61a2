//! Rows of one transaction.

use quern_core::port::{MetaRead, MetaWrite, PortError, Scan, Table};
use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, params};

use crate::sqlite::Database;

/// The tables as one transaction sees them.
pub(super) struct Rows<'a> {
    database: &'a Database,
    connection: &'a Connection,
}

impl<'a> Rows<'a> {
    pub(super) fn new(database: &'a Database, connection: &'a Connection) -> Self {
        Self { database, connection }
    }

    /// A statement about `table`, whose name replaces `{}`; none if nobody has written to the table yet.
    fn about(&self, table: Table, sql: &str) -> Result<Option<CachedStatement<'a>>, PortError> {
        let valid = !table.0.is_empty() && table.0.bytes().all(|c| matches!(c, b'a'..=b'z' | b'_'));
        if !valid {
            return Err(PortError::Other(format!("`{}` is not a table name; use a-z and _", table.0)));
        }
        match self.connection.prepare_cached(&sql.replace("{}", table.0)) {
            Ok(statement) => Ok(Some(statement)),
            Err(_) if !self.exists(table)? => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn exists(&self, table: Table) -> Result<bool, PortError> {
        self.connection
            .query_row(
                "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1",
                [table.0],
                |_| Ok(()),
            )
            .optional()
            .map(|found| found.is_some())
            .map_err(|error| self.failed(&error))
    }

    fn create(&self, table: Table) -> Result<(), PortError> {
        let sql =
            format!("CREATE TABLE \"{}\" (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID", table.0);
        self.connection.execute_batch(&sql).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &rusqlite::Error) -> PortError {
        self.database.failed("failed", error)
    }
}

impl MetaRead for Rows<'_> {
    fn get(&self, table: Table, key: &str) -> Result<Option<String>, PortError> {
        let Some(mut statement) = self.about(table, "SELECT value FROM \"{}\" WHERE key = ?1")? else {
            return Ok(None);
        };
        statement.query_row([key], |row| row.get(0)).optional().map_err(|error| self.failed(&error))
    }

    fn scan(&self, table: Table, scan: &Scan) -> Result<Vec<(String, String)>, PortError> {
        const UP: &str = "SELECT key, value FROM \"{}\" WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3";
        const DOWN: &str =
            "SELECT key, value FROM \"{}\" WHERE key >= ?1 AND key < ?2 ORDER BY key DESC LIMIT ?3";
        let Some(mut statement) = self.about(table, if scan.reverse { DOWN } else { UP })? else {
            return Ok(Vec::new());
        };
        let (from, to) = bounds(scan);
        // Every blob is above every text in SQLite's order.
        let to = to.map_or(Value::Blob(Vec::new()), Value::Text);
        let limit = scan.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = statement.query_map(params![from, to, limit], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.and_then(Iterator::collect).map_err(|error| self.failed(&error))
    }
}

impl MetaWrite for Rows<'_> {
    fn put(&mut self, table: Table, key: &str, value: &str) -> Result<(), PortError> {
        const SQL: &str =
            "INSERT INTO \"{}\" VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
        loop {
            if let Some(mut statement) = self.about(table, SQL)? {
                return statement.execute([key, value]).map(drop).map_err(|error| self.failed(&error));
            }
            self.create(table)?;
        }
    }

    fn delete(&mut self, table: Table, key: &str) -> Result<(), PortError> {
        let Some(mut statement) = self.about(table, "DELETE FROM \"{}\" WHERE key = ?1")? else {
            return Ok(());
        };
        statement.execute([key]).map(drop).map_err(|error| self.failed(&error))
    }

    fn as_read(&self) -> &dyn MetaRead {
        self
    }
}

/// The keys of a scan as from (inclusive) and to (exclusive, none for no end).
fn bounds(scan: &Scan) -> (String, Option<String>) {
    let (from, to) = (scan.prefix.clone(), after_prefix(&scan.prefix));
    match &scan.after {
        None => (from, to),
        Some(after) if scan.reverse => (from, Some(to.map_or(after.clone(), |to| to.min(after.clone())))),
        // No text lies between a text and the same with NUL appended.
        Some(after) => (from.max(format!("{after}\0")), to),
    }
}

/// The first text that is after all texts with this prefix; none if there is no such text.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        let check = |prefix: &str, expected: Option<&str>| {
            assert_eq!(after_prefix(prefix).as_deref(), expected, "{prefix:?}");
        };
        check("", None);
        check("a", Some("b"));
        check("a/", Some("a0"));
        check("a\u{10FFFF}", Some("b"));
        check("\u{10FFFF}", None);
        check("\u{D7FF}", Some("\u{E000}"));
        check("x\u{7f}", Some("x\u{80}"));
    }
}
