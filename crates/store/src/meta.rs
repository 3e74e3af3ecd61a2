//! Records in SQLite: [`Meta`] over `db/meta.sqlite`.
//!
//! A table of the port is a table of the database, `(key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID`, made at its
//! first write. Writers of one process take turns on one connection, each in a savepoint; one who sees others
//! waiting leaves the transaction open for them, and the last commits for all. So a commit, which waits for the disk,
//! is shared by everybody who arrived during the commit before. A writer thread fed by a queue would do the same, but
//! closures of the port borrow from their callers and cannot be sent to it.

mod rows;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use quern_core::port::{Meta, MetaRead, MetaWrite, PortError};
use rusqlite::Connection;

use crate::layout::Layout;
use crate::sqlite::Database;
use rows::Rows;

/// A group is committed after so long even if more writers wait.
const GROUP_TIME: Duration = Duration::from_millis(10);
/// A process that has written for so long without a pause makes one. SQLite lets those who wait look again and again for
/// a moment in which nobody writes; without a pause another process would find one once in seconds.
const TURN: Duration = Duration::from_millis(20);
/// Enough for another process to look a few times.
const PAUSE: Duration = Duration::from_millis(1);

/// Records under text keys, shared by all processes of a state folder.
#[derive(Debug)]
pub struct SqliteMeta {
    database: Database,
    writer: Mutex<Writer>,
    /// Writers on their way to `writer`.
    waiting: AtomicUsize,
    /// Whose closure is running: a write inside it would wait for itself.
    running: Mutex<Option<ThreadId>>,
    /// Something was committed since the last sync.
    unsynced: AtomicBool,
}

#[derive(Debug, Default)]
struct Writer {
    connection: Option<Connection>,
    group: Option<Arc<Group>>,
    turn: Option<Turn>,
}

/// A time in which this process wrote without a pause.
#[derive(Debug, Clone, Copy)]
struct Turn {
    began: Instant,
    /// The last commit.
    ended: Instant,
}

/// The writers that share one commit.
#[derive(Debug)]
struct Group {
    began: Instant,
    outcome: Mutex<Option<Result<(), String>>>,
    settled: Condvar,
}

impl Writer {
    /// Lets other processes write if this one has for long.
    fn give_way(&mut self) {
        if self.turn.is_some_and(|turn| turn.ended.elapsed() < PAUSE && turn.began.elapsed() > TURN) {
            thread::sleep(PAUSE);
            self.turn = None;
        }
    }

    fn note_commit(&mut self, group_began: Instant) {
        let ended = Instant::now();
        let began = match self.turn {
            Some(turn) if group_began.duration_since(turn.ended) < PAUSE => turn.began,
            _ => group_began,
        };
        self.turn = Some(Turn { began, ended });
    }
}

impl SqliteMeta {
    /// Nothing is opened before the first use.
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            database: Database::new(layout.meta_db()),
            writer: Mutex::default(),
            waiting: AtomicUsize::new(0),
            running: Mutex::default(),
            unsynced: AtomicBool::new(false),
        }
    }

    /// [`Meta::sync`] for what other processes wrote and have not synced yet, too.
    pub(crate) fn sync_all(&self) -> Result<(), PortError> {
        self.database.sync()
    }

    /// What is wrong with the database, in SQLite's words.
    pub(crate) fn check(&self) -> Result<Vec<String>, PortError> {
        self.database.check()
    }

    /// Opens the transaction of a group unless one is open.
    fn join_group(&self, writer: &mut Writer) -> Result<Arc<Group>, PortError> {
        if let Some(group) = &writer.group {
            return Ok(Arc::clone(group));
        }
        writer.give_way();
        let connection = match &writer.connection {
            Some(connection) => connection,
            None => writer.connection.insert(self.database.connect()?),
        };
        execute(connection, "BEGIN IMMEDIATE").map_err(|error| self.database.failed("is busy", &error))?;
        let group = Group { began: Instant::now(), outcome: Mutex::default(), settled: Condvar::new() };
        Ok(Arc::clone(writer.group.insert(Arc::new(group))))
    }

    /// Runs one writer's closure; if it fails or panics nothing of it stays.
    fn run_member(&self, connection: &Connection, f: WriteFn<'_>) -> Result<(), Unfinished> {
        let failed = |error| Unfinished::Failed(self.database.failed("cannot be written", &error));
        execute(connection, "SAVEPOINT member").map_err(failed)?;
        let mut rows = Rows::new(&self.database, connection);
        *self.running() = Some(thread::current().id());
        let result = catch_unwind(AssertUnwindSafe(|| f(&mut rows)));
        *self.running() = None;
        let result = match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Unfinished::Failed(error)),
            Err(panic) => Err(Unfinished::Panicked(panic)),
        };
        if result.is_err() {
            execute(connection, "ROLLBACK TO member").map_err(failed)?;
            forget_statements(connection);
        }
        execute(connection, "RELEASE member").map_err(failed)?;
        result
    }

    fn running(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits for all members, or tells all of them why not.
    fn settle(&self, writer: &mut Writer) {
        let Some(group) = writer.group.take() else { return };
        let connection = writer.connection.take().expect("a group has a connection");
        let outcome = execute(&connection, "COMMIT");
        // A connection that cannot be rolled back either is closed, which gives its lock back.
        if outcome.is_ok() || execute(&connection, "ROLLBACK").is_ok() {
            if outcome.is_err() {
                forget_statements(&connection);
            }
            writer.connection = Some(connection);
        }
        self.unsynced.store(true, Ordering::SeqCst);
        let outcome =
            outcome.map_err(|error| self.database.failed("cannot be committed", &error).to_string());
        writer.note_commit(group.began);
        *group.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        group.settled.notify_all();
    }
}

impl Drop for SqliteMeta {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = &writer.connection {
            self.database.finish(connection);
        }
    }
}

type WriteFn<'a> = &'a mut dyn FnMut(&mut dyn MetaWrite) -> Result<(), PortError>;

enum Unfinished {
    Failed(PortError),
    Panicked(Box<dyn std::any::Any + Send>),
}

impl Group {
    fn wait(&self) -> Result<(), PortError> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome =
            self.settled.wait_while(outcome, |o| o.is_none()).unwrap_or_else(PoisonError::into_inner);
        match &*outcome {
            Some(Err(message)) => Err(PortError::Other(message.clone())),
            _ => Ok(()),
        }
    }
}

impl Meta for SqliteMeta {
    fn read(&self, f: &mut dyn FnMut(&dyn MetaRead) -> Result<(), PortError>) -> Result<(), PortError> {
        self.database.with_reader(|connection| {
            let failed = |error| self.database.failed("cannot be read", &error);
            // The instant is that of the first statement in the transaction.
            execute(connection, "BEGIN").map_err(failed)?;
            connection
                .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM sqlite_schema LIMIT 1)")
                .and_then(|mut first| first.query_row([], |_| Ok(())))
                .map_err(failed)?;
            let result = f(&Rows::new(&self.database, connection));
            execute(connection, "COMMIT").map_err(failed)?;
            result
        })
    }

    fn write(&self, f: WriteFn<'_>) -> Result<(), PortError> {
        if *self.running() == Some(thread::current().id()) {
            return Err(PortError::Other(
                "a write inside a write; give the inner one the outer's handle".into(),
            ));
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        let group = self.join_group(&mut writer)?;
        let connection = writer.connection.as_ref().expect("a group has a connection");
        let result = self.run_member(connection, f);
        let handed_over = self.waiting.load(Ordering::SeqCst) > 0 && group.began.elapsed() < GROUP_TIME;
        if !handed_over {
            self.settle(&mut writer);
        }
        drop(writer);
        match result {
            Ok(()) => group.wait(),
            Err(Unfinished::Failed(error)) => Err(error),
            Err(Unfinished::Panicked(panic)) => resume_unwind(panic),
        }
    }

    fn sync(&self) -> Result<(), PortError> {
        if self.unsynced.swap(false, Ordering::SeqCst) {
            self.database.sync().inspect_err(|_| self.unsynced.store(true, Ordering::SeqCst))
        } else {
            Ok(())
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// A table made in what was rolled back is gone, but statements about it would stay in the cache.
fn forget_statements(connection: &Connection) {
    connection.flush_prepared_statement_cache();
}
