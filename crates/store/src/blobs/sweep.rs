//! Removing blobs that nothing refers to, without taking them from under a living process.
//!
//! 1. *Condemn*: the blobs are listed as doomed under a sentence. From then on no process relies on them: `contains` says
//!    no, a put writes them anew and strikes them off the list. They can still be read.
//! 2. The sentence notes which processes were alive after that: only these may still rely on a doomed blob.
//! 3. *Execute*, once all of them have ended (often at once): roots are looked at again, because a process may have
//!    recorded a reference before it ended; what is alive now is struck off the list, the rest is removed.
//!
//! Each step is one transaction or repeatable, so a death in between leaves a list that the next prune goes on with.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use quern_core::Digest;
use quern_core::port::PortError;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::index::{self, length_of};
use super::{DiskBlobs, RECORD_HEADER, loose};

/// So many blobs are removed in one transaction, so that other processes get their turn.
const CHUNK: usize = 10_000;

/// A public blob that nothing refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
    /// When it came, seconds since 1970.
    pub(crate) added: i64,
}

/// The number of a list of doomed blobs.
pub(crate) type Sentence = i64;

impl DiskBlobs {
    /// The public blobs that are neither in `live` nor doomed already, oldest first.
    pub(crate) fn unreferenced(&self, live: &HashSet<Digest>) -> Result<Vec<Candidate>, PortError> {
        let mut candidates = self.index()?.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT digest, length, added FROM blobs WHERE digest NOT IN (SELECT digest FROM doomed)",
            )?;
            let rows = statement.query_map([], |row| {
                let digest = Digest::from_bytes(row.get(0)?);
                Ok(Candidate { digest, bytes: row.get::<_, u32>(1)?.into(), added: row.get(2)? })
            })?;
            rows.filter(|row| row.as_ref().map_or(true, |c| !live.contains(&c.digest)))
                .collect::<Result<Vec<_>, _>>()
        })?;
        let doomed = self.doomed()?;
        let failed = |error| PortError::io(format!("listing {}", self.layout.blobs().display()), error);
        for (digest, path) in loose::list(&self.layout).map_err(failed)? {
            if live.contains(&digest) || doomed.contains(&digest) {
                continue;
            }
            let metadata = fs::metadata(&path).map_err(failed)?;
            candidates.push(Candidate { digest, bytes: metadata.len(), added: metadata.mtime() });
        }
        candidates.sort_unstable_by_key(|candidate| (candidate.added, candidate.digest));
        Ok(candidates)
    }

    fn doomed(&self) -> Result<HashSet<Digest>, PortError> {
        self.index()?.read(|connection| {
            let mut statement = connection.prepare("SELECT digest FROM doomed")?;
            statement.query_map([], |row| row.get(0).map(Digest::from_bytes))?.collect()
        })
    }

    /// Lists blobs as doomed. The sentence cannot be executed before [`DiskBlobs::wait_for`] says whom it waits for.
    pub(crate) fn condemn(&self, candidates: &[Candidate]) -> Result<Sentence, PortError> {
        self.sweep(|transaction| {
            index::turn(transaction)?;
            transaction.execute("INSERT INTO sentences (leases) VALUES ('unknown')", [])?;
            let sentence = transaction.last_insert_rowid();
            let mut insert =
                transaction.prepare_cached("INSERT OR IGNORE INTO doomed VALUES (?1, ?2, ?3)")?;
            for candidate in candidates {
                let bytes = i64::try_from(candidate.bytes).unwrap_or(i64::MAX);
                insert.execute(params![candidate.digest.as_bytes(), sentence, bytes])?;
            }
            Ok(sentence)
        })
    }

    /// Notes the processes that may still rely on the doomed.
    pub(crate) fn wait_for(&self, sentence: Sentence, leases: &[String]) -> Result<(), PortError> {
        self.sweep(|transaction| {
            let leases = leases.join(" ");
            transaction
                .execute("UPDATE sentences SET leases = ?2 WHERE id = ?1", params![sentence, leases])
                .map(drop)
        })
    }

    /// The sentences that wait for none of the living. A sentence whose prune died before it knew whom to wait for
    /// waits for everybody alive now.
    pub(crate) fn due(&self, alive: &[String]) -> Result<Vec<Sentence>, PortError> {
        self.sweep(|transaction| {
            transaction
                .execute("UPDATE sentences SET leases = ?1 WHERE leases = 'unknown'", [alive.join(" ")])?;
            let mut statement = transaction.prepare("SELECT id, leases FROM sentences ORDER BY id")?;
            let sentences: Vec<(Sentence, String)> =
                statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            let is_due = |leases: &str| leases.split(' ').all(|lease| !alive.iter().any(|id| id == lease));
            Ok(sentences.into_iter().filter(|(_, leases)| is_due(leases)).map(|(id, _)| id).collect())
        })
    }

    /// How many blobs, with how many bytes, wait for the end of a process.
    pub(crate) fn waiting(&self) -> Result<(u64, u64), PortError> {
        const SQL: &str = "SELECT count(*), coalesce(sum(bytes), 0) FROM doomed";
        self.index()?.read(|connection| {
            connection.query_row(SQL, [], |row| Ok((length_of(row.get(0)?), length_of(row.get(1)?))))
        })
    }

    /// How many blobs are in packs.
    pub(crate) fn packed_count(&self) -> Result<u64, PortError> {
        self.index()?.read(|connection| {
            connection.query_row("SELECT count(*) FROM blobs", [], |row| row.get(0).map(length_of))
        })
    }

    /// Removes the doomed of a sentence except those in `live`; gives how many and how many bytes.
    pub(crate) fn execute(
        &self,
        sentence: Sentence,
        live: &HashSet<Digest>,
    ) -> Result<(u64, u64), PortError> {
        // Or a power cut might forget the sentence, but not that files were removed.
        self.index()?.sync()?;
        let (mut count, mut bytes) = (0, 0);
        loop {
            let (doomed, removed) = self.index()?.write(|transaction| {
                let doomed = doomed_of(transaction, sentence).map_err(|error| self.index.failed(&error))?;
                let mut removed = Vec::new();
                for digest in doomed.iter().filter(|digest| !live.contains(digest)) {
                    removed.extend(self.remove(transaction, digest)?);
                }
                strike_off(transaction, sentence, &doomed).map_err(|error| self.index.failed(&error))?;
                Ok((doomed.len(), removed))
            })?;
            count += removed.len() as u64;
            bytes += removed.iter().sum::<u64>();
            if doomed < CHUNK {
                break;
            }
        }
        // What this process knew may be gone.
        self.known().clear();
        Ok((count, bytes))
    }

    /// Removes one blob and gives its length, none if it was gone. The bytes of a packed blob go when its pack is
    /// compacted.
    fn remove(&self, transaction: &Transaction<'_>, digest: &Digest) -> Result<Option<u64>, PortError> {
        let packed = transaction
            .prepare_cached("DELETE FROM blobs WHERE digest = ?1 RETURNING length")
            .and_then(|mut delete| {
                delete.query_row([digest.as_bytes()], |row| row.get::<_, u32>(0)).optional()
            })
            .map_err(|error| self.index.failed(&error))?;
        if let Some(length) = packed {
            return Ok(Some(u64::from(length) + RECORD_HEADER));
        }
        let path = loose::path(&self.layout, digest);
        let result = fs::metadata(&path).and_then(|metadata| fs::remove_file(&path).map(|()| metadata.len()));
        match result {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PortError::io(format!("removing {}", path.display()), error)),
        }
    }

    fn sweep<T>(&self, f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, PortError> {
        self.index()?.write(|transaction| f(transaction).map_err(|error| self.index.failed(&error)))
    }
}

fn doomed_of(transaction: &Transaction<'_>, sentence: Sentence) -> rusqlite::Result<Vec<Digest>> {
    let mut statement =
        transaction.prepare_cached("SELECT digest FROM doomed WHERE sentence = ?1 LIMIT ?2")?;
    statement.query_map(params![sentence, CHUNK as i64], |row| row.get(0).map(Digest::from_bytes))?.collect()
}

fn strike_off(transaction: &Transaction<'_>, sentence: Sentence, done: &[Digest]) -> rusqlite::Result<()> {
    let mut delete = transaction.prepare_cached("DELETE FROM doomed WHERE digest = ?1")?;
    for digest in done {
        delete.execute([digest.as_bytes()])?;
    }
    if done.len() < CHUNK {
        transaction.execute("DELETE FROM sentences WHERE id = ?1", [sentence])?;
    }
    Ok(())
}
