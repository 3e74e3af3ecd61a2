//! The index of packed blobs: digest to slot, in `db/index.sqlite`.
//!
//! It holds nothing that the packs do not say, so a lost or stale index is mended by reading packs from where it ends.
//! Blobs that a prune wants to remove are *doomed* first; see `prune`.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use quern_core::Digest;
use quern_core::port::PortError;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::pack::{PackId, Slot};
use crate::sqlite::Database;

const SCHEMA: &str = "
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS packs (id INTEGER PRIMARY KEY, indexed INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS blobs (digest BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
                                      length INTEGER NOT NULL, added INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS doomed (digest BLOB PRIMARY KEY, sentence INTEGER NOT NULL,
                                       bytes INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS sentences (id INTEGER PRIMARY KEY, leases TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS epoch (value INTEGER NOT NULL);
    INSERT INTO epoch SELECT abs(random() / 2) WHERE NOT EXISTS (SELECT 1 FROM epoch);
    PRAGMA user_version = 1;
    COMMIT;
";

#[derive(Debug)]
pub(crate) struct Index {
    database: Database,
    writer: Mutex<Option<Connection>>,
}

/// What the index says about a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// None if it is not in a pack.
    pub(super) slot: Option<Slot>,
    /// A prune is about to remove it: it can still be read, but must not be relied on.
    pub(super) doomed: bool,
}

impl Index {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { database: Database::new(path), writer: Mutex::default() }
    }

    /// Makes the tables if this is a new file. Has to come before everything else.
    pub(super) fn prepare(&self) -> Result<(), PortError> {
        let version: i64 =
            self.read(|connection| connection.query_row("PRAGMA user_version", [], |row| row.get(0)))?;
        if version > 0 {
            return Ok(());
        }
        let connection = self.database.connect()?;
        connection.execute_batch(SCHEMA).map_err(|error| self.failed(&error))?;
        *self.lock() = Some(connection);
        Ok(())
    }

    /// What is wrong with the file, in SQLite's words.
    pub(super) fn check(&self) -> Vec<String> {
        self.database.check().unwrap_or_else(|error| vec![error.to_string()])
    }

    /// The only entry for writing: one transaction at a time, over all processes.
    pub(super) fn write<T>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let mut writer = self.lock();
        let connection = match &mut *writer {
            Some(connection) => connection,
            empty => empty.insert(self.database.connect()?),
        };
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| self.failed(&error))?;
        let result = f(&transaction)?;
        transaction.commit().map_err(|error| self.failed(&error))?;
        Ok(result)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that what was committed survives a power cut, before something is removed that it no longer needs.
    pub(super) fn sync(&self) -> Result<(), PortError> {
        self.database.sync()
    }

    /// Reading, at one instant per statement.
    pub(super) fn read<T>(&self, f: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, PortError> {
        self.database.with_reader(|connection| f(connection).map_err(|error| self.failed(&error)))
    }

    pub(super) fn failed(&self, error: &rusqlite::Error) -> PortError {
        self.database.failed("failed", error)
    }

    pub(super) fn find(&self, digest: &Digest) -> Result<Found, PortError> {
        const SQL: &str =
            "SELECT b.pack, b.offset, b.length, d.digest IS NOT NULL FROM (SELECT ?1 AS digest) w
            LEFT JOIN blobs b ON b.digest = w.digest LEFT JOIN doomed d ON d.digest = w.digest";
        self.read(|connection| {
            connection.prepare_cached(SQL)?.query_row([digest.as_bytes()], |row| {
                let pack: Option<PackId> = row.get(0)?;
                let slot = match pack {
                    Some(pack) => Some(Slot { pack, offset: row.get(1)?, length: row.get(2)? }),
                    None => None,
                };
                Ok(Found { slot, doomed: row.get(3)? })
            })
        })
    }

    /// Changes whenever blobs were doomed or dropped; random, so that an index made anew has another one.
    pub(super) fn epoch(&self) -> Result<u64, PortError> {
        self.read(|connection| {
            connection.query_row("SELECT value FROM epoch", [], |row| row.get(0).map(length_of))
        })
    }

    /// How much of each pack is indexed.
    pub(super) fn packs(&self) -> Result<Vec<(PackId, u64)>, PortError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT id, indexed FROM packs ORDER BY id")?;
            statement.query_map([], |row| Ok((row.get(0)?, length_of(row.get(1)?))))?.collect()
        })
    }

    /// How much of a pack is indexed.
    pub(super) fn indexed(&self, pack: PackId) -> Result<u64, PortError> {
        const SQL: &str = "SELECT indexed FROM packs WHERE id = ?1";
        let indexed =
            self.read(|connection| connection.query_row(SQL, [pack], |row| row.get(0)).optional())?;
        Ok(indexed.map_or(0, length_of))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if let Some(connection) = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.database.finish(connection);
        }
    }
}

/// Whole seconds since 1970, as the index keeps times.
pub(super) fn seconds_of(time: SystemTime) -> i64 {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// Lengths are kept as SQLite's signed integers; a negative one is damage and taken for nothing known.
pub(super) fn length_of(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

/// Enters records, in place of older ones of the same blobs; a blob that was doomed is not any more.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    records: &[(Digest, Slot)],
    added: SystemTime,
) -> rusqlite::Result<()> {
    let mut insert =
        transaction.prepare_cached("INSERT OR REPLACE INTO blobs VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (digest, slot) in records {
        insert.execute(params![digest.as_bytes(), slot.pack, slot.offset, slot.length, seconds_of(added)])?;
    }
    pardon(transaction, records.iter().map(|(digest, _)| digest))
}

/// Begins another epoch.
pub(super) fn turn(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute("UPDATE epoch SET value = abs(random() / 2)", []).map(drop)
}

/// Takes blobs off the list of the doomed.
pub(super) fn pardon<'a>(
    transaction: &Transaction<'_>,
    digests: impl Iterator<Item = &'a Digest>,
) -> rusqlite::Result<()> {
    let anyone: bool = transaction.query_row("SELECT EXISTS (SELECT 1 FROM doomed)", [], |row| row.get(0))?;
    if anyone {
        let mut delete = transaction.prepare_cached("DELETE FROM doomed WHERE digest = ?1")?;
        for digest in digests {
            delete.execute([digest.as_bytes()])?;
        }
    }
    Ok(())
}

/// Notes that a pack is indexed up to `length`.
pub(super) fn set_indexed(transaction: &Transaction<'_>, pack: PackId, length: u64) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached("INSERT OR REPLACE INTO packs VALUES (?1, ?2)")?;
    let length = i64::try_from(length).expect("packs are shorter than 4 GiB");
    upsert.execute(params![pack, length]).map(drop)
}
