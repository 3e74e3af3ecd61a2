//! Sandboxes as their launcher sees them, and what makes one fit for a further step.
//!
//! A sandbox is what steps may have in common: process numbers, names, a network that nobody uses, and a root with /proc that
//! nobody can write to. A step gets mount and IPC namespaces of its own besides, with new memory, inputs and outputs (`enter.rs`).
//! Steps of image builds mount a root of their own there, too, and share the rest like others.
//! So all that could pass from one step to the next in a sandbox is:
//!
//! | what | why it does not |
//! |---|---|
//! | processes, and through them open files, locks, sockets, shared memory, terminals | the first process kills them, waits, and sees that it is alone |
//! | the number of the next process | is set back, and a step that gets another one starts in a new sandbox |
//! | limits and priorities of the first process, which a step may change | are compared with what they were |
//! | times and counts of the first process | are not to be seen in /proc |
//! | traces in the network namespace | no packet was sent in it |
//!
//! What cannot be shown to be so ends the sandbox, and the next step gets a new one. A step that was ended from outside, or
//! could not be started, ends it too.

use std::cell::Cell;
use std::ffi::c_int;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};
use rustix::thread::{move_into_link_name_space, move_into_thread_name_spaces};

use crate::enter::{Entry, NOT_STARTED};
use crate::filter::Filter;
use crate::init::{Init, MOST_REPORT};
use crate::network::QuietNetwork;
use crate::refusal::{Doing, Refusal};
use crate::sys::{self, Cloned, Kin, Process, Stack};

/// Namespaces of a sandbox; the network comes apart.
const NAMESPACES: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

/// The number of a sandbox's second process.
const FIRST_STEP: i32 = 2;

/// What a launcher makes sandboxes with.
pub(crate) struct Maker {
    /// The system call filter.
    pub filter: Filter,
    /// What the memory killer is to think of steps, if there is one.
    pub memory_score: Option<String>,
    /// The launcher's own process numbers.
    own_pids: OwnedFd,
    in_user_namespace: bool,
    /// The kernel's switch for the number of the next process; without it no sandbox is used twice.
    last_pid: Option<File>,
}

/// A sandbox; ended when it is dropped. A process that was started in it must have been waited for by then.
pub(crate) struct Sandbox {
    init: Process,
    wire: OwnedFd,
    /// Where its root is prepared; none if each step brings its own.
    root: Option<PathBuf>,
    /// None if it is the machine's.
    network: Option<QuietNetwork>,
    host_network: bool,
    /// Of the first process, before any step.
    traits: Vec<u64>,
    /// Whether a step was started in it.
    used: Cell<bool>,
}

impl Maker {
    /// Looks at what the machine offers.
    pub fn new(in_user_namespace: bool, memory_score: Option<String>) -> Result<Self, Refusal> {
        let last_pid = File::options().write(true).open("/proc/sys/kernel/ns_last_pid").ok();
        let own_pids = File::open("/proc/self/ns/pid").doing("looking at the launcher's namespaces")?.into();
        Ok(Self { filter: Filter::new(), memory_score, own_pids, in_user_namespace, last_pid })
    }

    /// A new sandbox with the root mounted at `root`, if the step does not bring its own, and with this network unless it shares the
    /// machine's.
    pub fn make(
        &self,
        root: Option<&Path>,
        host_network: bool,
        network: Option<QuietNetwork>,
    ) -> Result<Sandbox, Refusal> {
        let network = network.filter(|_| !host_network);
        let (wire, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .doing("connecting a sandbox")?;
        let flags =
            if host_network || network.is_some() { NAMESPACES } else { NAMESPACES | libc::CLONE_NEWNET };
        if !self.in_user_namespace {
            move_into_link_name_space(self.own_pids.as_fd(), Some(LinkNameSpaceType::ProcessID))
                .doing("leaving the sandbox before")?;
        }
        // SAFETY: a launcher never starts a thread.
        #[expect(unsafe_code, reason = "starting a process in new namespaces")]
        let cloned = unsafe { sys::clone_process(flags) }.doing("starting a sandbox")?;
        let init = match cloned {
            Cloned::Parent(init) => init,
            Cloned::Child => {
                drop(wire);
                let init = Init {
                    root,
                    host_network,
                    network: network.as_ref(),
                    filter: &self.filter,
                    memory_score: self.memory_score.as_deref(),
                    last_pid: self.last_pid.as_ref(),
                    wire: theirs,
                };
                init.run()
            }
        };
        drop(theirs);
        let root = root.map(Path::to_owned);
        let mut sandbox =
            Sandbox { init, wire, root, network, host_network, traits: Vec::new(), used: Cell::new(false) };
        sandbox.hear_of_building()?;
        sandbox.traits = sys::traits_of(sandbox.init.pid).doing("looking at the first process")?;
        if !host_network && sandbox.network.is_none() {
            sandbox.network = QuietNetwork::of(sandbox.init.pid);
        }
        // From a user namespace there would be no way back, to make another one.
        if !self.in_user_namespace {
            sandbox.number_children()?;
        }
        Ok(sandbox)
    }
}

impl Sandbox {
    /// Whether a step with this root and network can be run in it.
    pub fn fits(&self, root: Option<&Path>, host_network: bool) -> bool {
        self.root.as_deref() == root && self.host_network == host_network
    }

    /// Children of this process belong to the sandbox from now on.
    fn number_children(&self) -> Result<(), Refusal> {
        move_into_thread_name_spaces(self.init(), ThreadNameSpaceType::PROCESS_ID)
            .doing("starting processes in the sandbox")
    }

    /// Starts the program of a step, in the sandbox that was made last. None if it would have another number than the first step
    /// had: the kernel may hold a number for a while after the process that had it is gone.
    pub fn start(&self, stacks: &mut [Stack; 2], entry: &Entry<'_>) -> Result<Option<Process>, Refusal> {
        let [stack, other] = stacks;
        let used = self.used.replace(true);
        let (mut refusal, mut program, mut misnumbered) = (None, None, false);
        let mut step = || -> c_int {
            misnumbered = used && rustix::process::getpid().as_raw_nonzero().get() != FIRST_STEP;
            if !misnumbered {
                refusal = Some(entry.run(&mut program));
            }
            NOT_STARTED
        };
        let doing = "starting the step";
        let process = if entry.in_user_namespace {
            let mut started = Err(Refusal::System { doing: doing.into(), errno: libc::ECHILD });
            let mut hand = || -> c_int {
                // SAFETY: as below; the caller stands still.
                #[expect(unsafe_code, reason = "starting a process without copying this one")]
                let mut spawn = || unsafe { sys::spawn_sharing(stack, Kin::Sibling, &mut step) }.doing(doing);
                started = self.number_children().and_then(|()| spawn());
                0
            };
            // SAFETY: a launcher never starts a thread.
            #[expect(unsafe_code, reason = "starting a process without copying this one")]
            let hand = unsafe { sys::spawn_sharing(other, Kin::Hand, &mut hand) }.doing(doing)?;
            sys::reap(hand.pid).doing(doing)?;
            started?
        } else {
            // SAFETY: a launcher never starts a thread.
            #[expect(unsafe_code, reason = "starting a process without copying this one")]
            let started = unsafe { sys::spawn_sharing(stack, Kin::Child, &mut step) };
            started.doing(doing)?
        };
        if refusal.is_none() && !misnumbered {
            return Ok(Some(process));
        }
        sys::reap(process.pid).doing("waiting for a step that did not start")?;
        refusal.map_or(Ok(None), |refusal| Err(refusal.in_short()))
    }

    /// Its first process.
    pub fn init(&self) -> BorrowedFd<'_> {
        self.init.fd.as_fd()
    }

    /// Readable when a sweep is over.
    pub fn wire(&self) -> &OwnedFd {
        &self.wire
    }

    /// Ends everything in it; whoever started a process in it has waited for it.
    pub fn sweep(&self) -> Result<(), Refusal> {
        match rustix::io::write(&self.wire, &[0]) {
            // Somebody ended it. Then there is nothing left, and the answer is the end of the connection.
            Ok(_) | Err(Errno::PIPE) => Ok(()),
            Err(errno) => Err(errno).doing("ending what a step left"),
        }
    }

    /// Whether nothing of the steps so far is left in it, after a sweep.
    pub fn is_clean(&self) -> bool {
        let mut alone = [0];
        let answered = rustix::io::read(&self.wire, &mut alone) == Ok(1);
        let quiet = self.network.as_ref().map_or(self.host_network, QuietNetwork::is_quiet);
        answered && alone == [1] && quiet && sys::traits_of(self.init.pid).is_ok_and(|t| t == self.traits)
    }

    /// Whether it is still fit for a step, a moment after one could not have the number of the first.
    pub fn has_settled(&self) -> bool {
        std::thread::sleep(std::time::Duration::from_micros(100));
        self.sweep().is_ok() && self.is_clean()
    }

    /// Ends it; gives its network if nothing was sent in it.
    pub fn end(mut self) -> Option<QuietNetwork> {
        self.network.take().filter(QuietNetwork::is_quiet)
    }

    fn hear_of_building(&self) -> Result<(), Refusal> {
        let doing = "building a sandbox";
        let mut text = [0; MOST_REPORT];
        let length = rustix::io::read(&self.wire, &mut text).doing(doing)?;
        match serde_json::from_slice::<Option<Refusal>>(&text[..length]) {
            Ok(None) => Ok(()),
            Ok(Some(refusal)) => Err(refusal),
            // It died without a word: killed from outside, or for lack of memory.
            Err(_) => Err(Errno::CHILD).doing(doing),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.init.fd, Signal::KILL);
        let _ = sys::reap(self.init.pid);
    }
}
