//! What became of each datum that a job processed, kept as it happens, so that a killed job carries on
//! where it was and a finished one can be asked about.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use quern_core::port::{self, Blobs, Meta, MetaRead, MetaWrite, PortError, Scan, Table};
use quern_core::{ContentRef, Digest, Id};
use serde::{Deserialize, Serialize};

const DATUMS: Table = Table("datums");
/// Most records of one transaction.
const BATCH: usize = 512;
/// How long a record waits for the next before the batch is stored.
const PAUSE: Duration = Duration::from_millis(20);
/// After so many records others are expected, and looked for from time to time: to be woken for each costs both sides more
/// than the record itself.
const STREAM: usize = 16;
/// How often they are looked for.
const NAP: Duration = Duration::from_millis(4);

/// What became of one datum of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatumRecord {
    /// How it ended.
    pub state: DatumState,
    /// Tree of what it wrote, digest and size, if it succeeded.
    pub output: Option<(Digest, u64)>,
    /// The result was found in the cache; the step did not run.
    pub cached: bool,
    /// How long it ran, milliseconds.
    pub millis: u64,
    /// How often it was tried.
    pub tries: u32,
    /// What it printed.
    pub log: Option<Digest>,
    /// Why it failed; empty otherwise.
    pub reason: String,
}

/// How a datum ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatumState {
    /// Given up after the last try.
    Failed,
    /// Failed, but its error handler succeeded.
    Recovered,
    /// Done.
    Success,
    /// Known from an earlier job.
    Skipped,
    /// Not decided yet.
    Starting,
}

impl DatumState {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Recovered => "recovered",
            Self::Success => "success",
            Self::Skipped => "skipped",
            Self::Starting => "starting",
        }
    }
}

impl DatumRecord {
    /// The output as a reference.
    pub fn output(&self) -> Option<ContentRef> {
        self.output.map(|(digest, size)| ContentRef { digest, size })
    }
}

/// Stores records as they come until the sender is gone. Whatever has arrived together goes into one transaction:
/// many small steps cost one write to disk. Gives back the last records, which are not stored: they belong into the
/// transaction that ends the job ([`put_all`]), so that a short job writes once.
///
/// # Errors
/// Those of the ports; records not stored by then are lost, and so is the job's claim to have processed them.
pub fn keep(
    meta: &dyn Meta,
    blobs: &dyn Blobs,
    job: Id,
    records: &Receiver<(Digest, DatumRecord)>,
) -> Result<Vec<(Digest, DatumRecord)>, PortError> {
    while let Ok(first) = records.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            if batch.len() >= STREAM {
                thread::sleep(NAP);
                batch.extend(records.try_iter().take(BATCH - batch.len()));
            }
            match records.recv_timeout(PAUSE) {
                Ok(record) => batch.push(record),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Ok(batch),
            }
        }
        blobs.sync()?;
        port::write(meta, |w| put_all(w, job, &batch))?;
    }
    Ok(Vec::new())
}

/// Stores records of a job, whose blobs must be durable.
///
/// # Errors
/// Those of the port.
pub fn put_all(w: &mut dyn MetaWrite, job: Id, records: &[(Digest, DatumRecord)]) -> Result<(), PortError> {
    for (datum, record) in records {
        let text = serde_json::to_string(record).expect("a datum's record holds only text and numbers");
        w.put(DATUMS, &key(job, datum), &text)?;
    }
    Ok(())
}

/// All records of a job, ascending by datum.
///
/// # Errors
/// Those of the port.
pub fn of_job(r: &dyn MetaRead, job: Id) -> Result<Vec<(Digest, DatumRecord)>, PortError> {
    let prefix = format!("{job}/");
    let rows = r.scan(DATUMS, &Scan::prefix(prefix.as_str()))?;
    rows.iter()
        .map(|(key, text)| {
            let datum =
                Digest::from_hex(&key[prefix.len()..]).map_err(|e| PortError::Other(e.to_string()))?;
            Ok((datum, parse(text)?))
        })
        .collect()
}

/// How many records a job has.
///
/// # Errors
/// Those of the port.
pub fn count(r: &dyn MetaRead, job: Id) -> Result<u64, PortError> {
    Ok(r.scan(DATUMS, &Scan::prefix(format!("{job}/")))?.len() as u64)
}

/// The record of one datum of a job.
///
/// # Errors
/// Those of the port.
pub fn of_datum(r: &dyn MetaRead, job: Id, datum: &Digest) -> Result<Option<DatumRecord>, PortError> {
    r.get(DATUMS, &key(job, datum))?.map(|text| parse(&text)).transpose()
}

/// Forgets all records of a job.
///
/// # Errors
/// Those of the port.
pub fn delete(w: &mut dyn MetaWrite, job: Id) -> Result<(), PortError> {
    for (key, _) in w.scan(DATUMS, &Scan::prefix(format!("{job}/")))? {
        w.delete(DATUMS, &key)?;
    }
    Ok(())
}

fn key(job: Id, datum: &Digest) -> String {
    format!("{job}/{}", datum.hex())
}

fn parse(text: &str) -> Result<DatumRecord, PortError> {
    serde_json::from_str(text)
        .map_err(|e| PortError::Other(format!("the record of a datum is not readable: {e}")))
}
