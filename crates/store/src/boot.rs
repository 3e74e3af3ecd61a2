//! Which run of the machine this is, and how long it has lasted. What was not synced is good in the run that wrote it.

use std::fs;
use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

/// Identifies this run of the machine.
pub(crate) fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    })
}

/// Nanoseconds since the machine was started, those in which it slept included.
pub(crate) fn since_boot() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
