//! Opening SQLite databases the same way everywhere.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quern_core::port::PortError;
use rusqlite::{Connection, ErrorCode, OpenFlags};

/// What a commit that returned has promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It survives a power cut.
    PowerCut,
    /// It survives the end of the process; the content can be made anew from elsewhere.
    Process,
}

/// Pages in the log before it is copied into the database: few large checkpoints cost less than many small ones.
const CHECKPOINT_PAGES: u32 = 20_000;
/// A write waits so long for other processes; their transactions take milliseconds.
const BUSY_LIMIT: Duration = Duration::from_secs(60);
const BUSY_STEP: Duration = Duration::from_millis(1);
/// Idle read connections kept.
const POOL: usize = 8;

/// One database file.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    durability: Durability,
    readers: Mutex<Vec<Connection>>,
}

impl Database {
    pub(crate) fn new(path: PathBuf, durability: Durability) -> Self {
        Self { path, durability, readers: Mutex::new(Vec::new()) }
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Result<Connection, PortError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
        let prepare = || {
            let mut connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_handler(Some(wait_for_others))?;
            let synchronous = match self.durability {
                Durability::PowerCut => "FULL",
                Durability::Process => "NORMAL",
            };
            become_wal(&connection)?;
            connection.execute_batch(&format!(
                "PRAGMA synchronous={synchronous}; PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES};"
            ))?;
            connection.set_prepared_statement_cache_capacity(64);
            Ok(connection)
        };
        prepare().map_err(|error| self.failed("cannot be opened", &error))
    }

    /// Runs `f` with a connection of its own; a connection whose `f` failed or panicked is not used again.
    pub(crate) fn with_reader<T>(
        &self,
        f: impl FnOnce(&Connection) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| self.connect(), Ok)?;
        let result = f(&connection)?;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < POOL {
            readers.push(connection);
        }
        Ok(result)
    }

    /// What SQLite finds wrong with the file, on a connection of its own.
    pub(crate) fn check(&self) -> Result<Vec<String>, PortError> {
        let connection = self.connect()?;
        let check = || {
            let mut statement = connection.prepare("PRAGMA quick_check")?;
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        };
        let mut lines = check().map_err(|error| self.failed("cannot be checked", &error))?;
        lines.retain(|line| line != "ok");
        lines.iter_mut().for_each(|line| *line = format!("{}: {line}", self.path.display()));
        Ok(lines)
    }

    /// An error with the database it came from and what to do.
    pub(crate) fn failed(&self, what: &str, error: &rusqlite::Error) -> PortError {
        let hint = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "; another process has held it for a minute: end that process or wait for it"
            }
            Some(ErrorCode::DiskFull) => "; make room on the disk, `quern prune` may help",
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "; run `quern doctor`",
            _ => "",
        };
        PortError::Other(format!("database {} {what}: {error}{hint}", self.path.display()))
    }
}

/// The change of a new file to write-ahead logging is the one statement that does not wait for others by itself.
fn become_wal(connection: &Connection) -> rusqlite::Result<()> {
    let mut tries = 0;
    loop {
        let mode = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get::<_, String>(0));
        match mode {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && wait_for_others(tries) =>
            {
                tries += 1;
            }
            other => return other.map(drop),
        }
    }
}

fn wait_for_others(tries: i32) -> bool {
    std::thread::sleep(BUSY_STEP);
    BUSY_STEP * tries.unsigned_abs() < BUSY_LIMIT
}
