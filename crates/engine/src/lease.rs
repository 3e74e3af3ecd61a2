//! Who works on what: several processes share one state folder, and any of them may be killed.
//!
//! A lease is a record in the metadata database, never a lock on a file, so that a database on another machine can
//! hold it as well. It names its owner and is renewed while the owner lives. Another process takes it over
//! when it has run out, or at once when it can see that the owner, on this very machine, is dead.

use quern_core::Timestamp;
use quern_core::port::{self, Meta, MetaRead, MetaWrite, PortError, Table};
use serde::{Deserialize, Serialize};

const LEASES: Table = Table("leases");

/// How long a lease lasts without being renewed, milliseconds.
pub const LEASE_MILLIS: u64 = 15_000;

/// A process that holds leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id on its machine.
    pub pid: u32,
    /// Start time of the process in clock ticks since boot, so that a reused pid is not taken for it.
    pub started: u64,
    /// Id of the boot of the machine, so that a pid is only looked up where it means something.
    pub boot: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    owner: Owner,
    expires: Timestamp,
}

impl Owner {
    /// This process.
    ///
    /// # Errors
    /// If `/proc` is not readable.
    pub fn current() -> Result<Self, PortError> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|e| PortError::io("reading /proc/sys/kernel/random/boot_id", e))?;
        let pid = std::process::id();
        let started = start_time(pid)
            .ok_or_else(|| PortError::Other("cannot read /proc/self/stat; is /proc mounted?".into()))?;
        Ok(Self { pid, started, boot: boot.trim().to_owned() })
    }

    /// Whether `me` can tell that this owner no longer exists.
    fn is_dead_for(&self, me: &Self) -> bool {
        self.boot == me.boot && start_time(self.pid) != Some(self.started)
    }
}

/// Field 22 of `/proc/PID/stat`; none if there is no such process or it is a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if *fields.first()? == "Z" { None } else { fields.get(19)?.parse().ok() }
}

/// Takes the lease on `key` inside a transaction if it is free, ours, run out or held by a dead process.
///
/// # Errors
/// Those of the port.
pub fn claim(w: &mut dyn MetaWrite, key: &str, me: &Owner, now: Timestamp) -> Result<bool, PortError> {
    if holder(w.as_read(), key, me, now)?.is_some_and(|owner| owner != *me) {
        return Ok(false);
    }
    put(w, key, me, now)?;
    Ok(true)
}

/// Who holds the lease on `key` as far as `me` can tell.
///
/// # Errors
/// Those of the port.
pub fn holder(r: &dyn MetaRead, key: &str, me: &Owner, now: Timestamp) -> Result<Option<Owner>, PortError> {
    let Some(text) = r.get(LEASES, key)? else { return Ok(None) };
    let lease: Lease = serde_json::from_str(&text)
        .map_err(|e| PortError::Other(format!("the lease of `{key}` is not readable: {e}")))?;
    let gone = lease.expires < now || lease.owner.is_dead_for(me);
    Ok((!gone).then_some(lease.owner))
}

/// Renews the lease on `key` if it is still ours; false means somebody took it over and our work is void.
///
/// # Errors
/// Those of the port.
pub fn renew(meta: &dyn Meta, key: &str, me: &Owner, now: Timestamp) -> Result<bool, PortError> {
    port::write(meta, |w| {
        let ours = holder(w.as_read(), key, me, Timestamp(0))?.is_some_and(|owner| owner == *me);
        if ours {
            put(w, key, me, now)?;
        }
        Ok(ours)
    })
}

/// Gives the lease on `key` back.
///
/// # Errors
/// Those of the port.
pub fn release(w: &mut dyn MetaWrite, key: &str) -> Result<(), PortError> {
    w.delete(LEASES, key)
}

fn put(w: &mut dyn MetaWrite, key: &str, me: &Owner, now: Timestamp) -> Result<(), PortError> {
    let lease = Lease { owner: me.clone(), expires: Timestamp(now.0 + LEASE_MILLIS) };
    let text = serde_json::to_string(&lease).expect("a lease holds only text and numbers");
    w.put(LEASES, key, &text)
}
