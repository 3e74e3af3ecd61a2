//! The first process of a sandbox: builds it from inside, then ends and clears away what a step leaves, whenever
//! the launcher asks.
//!
//! It stays because a program that is itself process 1 behaves differently: the kernel drops signals it sends to itself, and
//! orphans it never heard of wait for it to reap them. It is no step's parent and runs nothing of a step.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, kill_process_group, set_dumpable_behavior,
    set_parent_process_death_signal, test_kill_process_group, wait,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

use crate::enter::KEPT;
use crate::filter::{Filter, Strictness};
use crate::mounts;
use crate::network::{QuietNetwork, start_loopback};
use crate::refusal::{Doing, Refusal};
use crate::sys;

/// What the kernel's memory killer goes by, from -1000 (never) to 1000 (first).
pub(crate) const MEMORY_SCORE: &str = "/proc/self/oom_score_adj";
const HOST_NAME: &[u8] = b"quern";
/// Longest message to the launcher; it is one write to an empty socket and one read.
pub(crate) const MOST_REPORT: usize = 16 * 1024;

/// Everything the first process needs.
pub(crate) struct Init<'a> {
    /// Where the root is mounted in the launcher's namespace; none if the step brings its own.
    pub root: Option<&'a Path>,
    /// Whether the machine's network is used.
    pub host_network: bool,
    /// The network namespace to enter, none for the one it was started in.
    pub network: Option<&'a QuietNetwork>,
    /// The system call filter.
    pub filter: &'a Filter,
    /// What the memory killer is to think of the sandbox, if there is one.
    pub memory_score: Option<&'a str>,
    /// The kernel's switch for the number of the next process, where there is one.
    pub last_pid: Option<&'a File>,
    /// To and from the launcher: first a [`Refusal`] or null as JSON, then a byte back for each byte.
    pub wire: OwnedFd,
}

impl Init<'_> {
    /// Lives the life of the first process.
    pub fn run(self) -> ! {
        let refusal = self.build().map_err(Refusal::in_short).err();
        // A message that cannot be made is told apart from one that says that all is well.
        let told = rustix::io::write(&self.wire, &serde_json::to_vec(&refusal).unwrap_or_default());
        if refusal.is_none() && told.is_ok() {
            // The launcher's end is the end of the sandbox.
            while matches!(rustix::io::read(&self.wire, &mut [0; 1]), Ok(1)) {
                let clean = u8::from(self.sweep());
                if rustix::io::write(&self.wire, &[clean]).is_err() {
                    break;
                }
            }
        }
        sys::exit_now(0)
    }

    fn build(&self) -> Result<(), Refusal> {
        set_parent_process_death_signal(Some(Signal::KILL)).doing("binding the sandbox to its launcher")?;
        if let Some(score) = self.memory_score {
            fs::write(MEMORY_SCORE, score)
                .doing("offering the sandbox to the memory killer before its launcher")?;
        }
        match self.network {
            Some(network) => network.enter()?,
            None if !self.host_network => start_loopback()?,
            None => {}
        }
        if let Some(root) = self.root {
            mounts::enter_root(root, || {
                mounts::mount_proc()?;
                mounts::hide_first_process()
            })?;
        }
        rustix::system::sethostname(HOST_NAME).doing("naming the sandbox")?;
        sys::forget_children();
        self.drop_privileges()
    }

    /// Nothing is left but to end processes and to set the number of the next.
    fn drop_privileges(&self) -> Result<(), Refusal> {
        // In no other process's reach: not to be traced, nor read through /proc.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).doing("hiding the first process")?;
        let mut kept = vec![self.wire.as_raw_fd()];
        kept.extend(self.last_pid.map(AsRawFd::as_raw_fd));
        sys::close_all_but(&mut kept).doing("closing the launcher's files")?;
        let wanted = KEPT | CapabilitySet::CHECKPOINT_RESTORE;
        let kept = wanted & capabilities(None).doing("reading capabilities")?.permitted;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).doing("dropping capabilities")?;
        set_no_new_privs(true).doing("renouncing new privileges")?;
        self.filter.apply(Strictness::Full)
    }

    /// Ends every other process of the sandbox; true if none is left, of whatever parent, and the next one gets
    /// the number that the first one got.
    fn sweep(&self) -> bool {
        // To -1: all processes but this one. The kernel lets no fork slip through.
        let _ = kill_process_group(Pid::INIT, Signal::KILL);
        // Children are not kept for this process to wait for, so this returns when the last one is gone.
        while !matches!(wait(WaitOptions::empty()), Err(error) if error != Errno::INTR) {}
        is_alone() && self.last_pid.is_some_and(|file| file.write_at(b"1", 0).is_ok())
    }
}

/// Whether there is no other process here. Those that are dead already are cleared away by whoever was their parent, which on
/// a busy machine can take a moment.
fn is_alone() -> bool {
    const LOOKS: u32 = 20_000;
    const BETWEEN: Duration = Duration::from_micros(100);
    (0..LOOKS).any(|look| {
        if look > 0 {
            std::thread::sleep(BETWEEN);
        }
        test_kill_process_group(Pid::INIT) == Err(Errno::SRCH)
    })
}
