//! Opening SQLite databases the same way everywhere.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quern_core::port::PortError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Pages in the log before it is copied into the database: few large checkpoints cost less than many small ones.
const CHECKPOINT_PAGES: u32 = 20_000;
/// Bytes of log that a process may leave to the next, which reads them at about 1 GB/s.
const LOG_LEFT: u64 = 512 << 10;
/// A write waits so long for other processes; their transactions take milliseconds.
const BUSY_LIMIT: Duration = Duration::from_secs(60);
const BUSY_STEP: Duration = Duration::from_micros(250);
/// Idle read connections kept.
const POOL: usize = 8;

/// One database file. A commit that returned survives the end of the process; a power cut it survives after [`Database::sync`].
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
}

impl Database {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, readers: Mutex::new(Vec::new()) }
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
            become_wal(&connection)?;
            // Normal: commits do not wait for the disk, and a power cut takes the latest of them, in order.
            connection.execute_batch(&format!(
                "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES};"
            ))?;
            connection.set_prepared_statement_cache_capacity(64);
            // The log stays for the next process: making and deleting it costs more syncs than a small command's work.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
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

    /// Empties the log at the end of a process that wrote, if it has grown: the first process of the next command reads
    /// all of it. Others that use the database go before; then it stays as it is.
    pub(crate) fn finish(&self, writer: &Connection) {
        if std::fs::metadata(self.log()).is_ok_and(|metadata| metadata.len() > LOG_LEFT) {
            // Nothing is lost by a failure: the log is complete without it.
            let _ = writer
                .busy_timeout(Duration::ZERO)
                .and_then(|()| writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        }
    }

    /// Writes back everything committed so far, by other processes, too.
    pub(crate) fn sync(&self) -> Result<(), PortError> {
        // Everything committed is in the log or, once that was copied, in the database.
        for path in [self.log(), self.path.clone()] {
            match File::open(&path).and_then(|file| file.sync_all()) {
                // Nothing was written yet.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => {
                    other.map_err(|error| PortError::io(format!("syncing {}", path.display()), error))?;
                }
            }
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        log.into()
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
