//! The launcher: a small process with one thread that starts the sandboxes of one worker.
//!
//! A program with many threads cannot safely copy itself, and a large one copies slowly; this one does nothing
//! else. It lives until its executor closes the connection or dies, and no step outlives it. (The kernel's own signal
//! for the death of a parent would not do: it is sent when the *thread* that started the launcher ends.)

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitOptions, pidfd_send_signal, setsid, wait, waitpid};

use crate::LAUNCHER_ARGUMENT;
use crate::filter::Filter;
use crate::groups::Groups;
use crate::init::{MEMORY_SCORE, MOST_REPORT, Report, Sandbox};
use crate::mounts;
use crate::network::QuietNetwork;
use crate::order::{Cost, Ending, Order, Reply, Request, Root};
use crate::privilege;
use crate::refusal::{Doing, Refusal};
use crate::root::Roots;
use crate::sys::{self, Cloned, ExecList, Process};
use crate::wire::{Received, Wire};

/// Namespaces every step gets; the network comes apart.
const NAMESPACES: i32 =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

/// What a launcher's second life is told about its first.
const AS_ROOT: &str = "as-root";
const IN_USER_NAMESPACE: &str = "in-user-namespace";

/// The life of a launcher, connected to its executor by standard input. Never returns.
///
/// The program must call this before it starts a thread, when its first argument is [`LAUNCHER_ARGUMENT`].
pub fn launcher_main() -> ! {
    let code = match (connect(), std::env::args().nth(2).as_deref()) {
        (Ok(wire), None) => begin(&wire),
        (Ok(wire), Some(AS_ROOT)) => serve(&wire, false),
        (Ok(wire), Some(IN_USER_NAMESPACE)) => serve(&wire, true),
        _ => 1,
    };
    sys::exit_now(code)
}

/// The first life: gets the rights it needs, then executes this program again from a read-only mount.
///
/// A hostile image can make the kernel execute the launcher's file inside a sandbox (a script whose first line is
/// `#!/proc/self/exe`) and so get hold of that file. From such a mount nobody can write to it, root included.
fn begin(wire: &Wire) -> i32 {
    let again = || -> Result<(), Refusal> {
        let rights = if privilege::own_mounts()? { IN_USER_NAMESPACE } else { AS_ROOT };
        let program = fs::read_link("/proc/self/exe").doing("finding the launcher's program")?;
        let program = mounts::detached(&program, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)?;
        let name = std::env::args().next().unwrap_or_default();
        let words =
            [name.as_str(), LAUNCHER_ARGUMENT, rights].map(|word| CString::new(word).unwrap_or_default());
        let streams = [wire.socket().as_raw_fd(), libc::STDOUT_FILENO, libc::STDERR_FILENO];
        sys::set_standard_streams(streams).doing("handing the connection on")?;
        let errno = sys::execute_file(&program, &ExecList::new(words.into()), &ExecList::new(Vec::new()));
        Err(io::Error::from_raw_os_error(errno))
            .doing("executing the launcher's program from a read-only mount")
    };
    refuse(wire, again().err())
}

/// Tells why there will be no launcher; gives the exit code.
fn refuse(wire: &Wire, refusal: Option<Refusal>) -> i32 {
    if let Some(refusal) = refusal {
        // If nobody hears it, nobody needs it.
        let _ = wire.send(&Reply::Refused(refusal), &[], &[]);
    }
    1
}

fn connect() -> io::Result<Wire> {
    // Apart from the terminal's process group: an interrupt is for the executor to handle.
    let _ = setsid();
    // What is ignored here would be ignored in every step.
    sys::default_signals();
    sys::close_all_but(&mut [])?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    sys::set_standard_streams([null.as_raw_fd(), libc::STDOUT_FILENO, libc::STDERR_FILENO])?;
    std::env::set_current_dir("/")?;
    Ok(Wire::new(socket))
}

/// Carries out orders until the executor is gone; gives the exit code.
fn serve(wire: &Wire, in_user_namespace: bool) -> i32 {
    let mut launcher = match Launcher::set_up(in_user_namespace) {
        Ok(launcher) => launcher,
        Err(refusal) => return refuse(wire, Some(refusal)),
    };
    if wire.send(&Reply::Ready { groups: launcher.groups.dirs.clone() }, &[], &[]).is_err() {
        return 1;
    }
    loop {
        let reply = match wire.receive::<Request>() {
            Ok(None) => return 0,
            Err(_) => return 1,
            // The step it was meant for has ended meanwhile.
            Ok(Some(Received { message: Request::Kill, .. })) => continue,
            Ok(Some(Received { message: Request::Run(order), payload, fds })) => {
                launcher.run(wire, &order, &payload, fds)
            }
        };
        let reply = reply.unwrap_or_else(Reply::Refused);
        if wire.send(&reply, &[], &[]).is_err() {
            return 1;
        }
    }
}

struct Launcher {
    groups: Groups,
    roots: Roots,
    filter: Filter,
    network: Option<QuietNetwork>,
    in_user_namespace: bool,
    memory_score: Option<String>,
}

/// Keeps the memory killer away from this process, which shares its group with steps that have limits; gives the
/// score for steps. Where it may not lower its own score, steps get a higher one. None if there is no such killer.
fn protect_from_memory_killer() -> Option<String> {
    const NEVER: &str = "-1000";
    const RATHER: i32 = 500;
    let before: i32 = fs::read_to_string(MEMORY_SCORE).ok()?.trim().parse().ok()?;
    let protected = fs::write(MEMORY_SCORE, NEVER).is_ok();
    let score = if protected { before } else { before.saturating_add(RATHER).min(1000) };
    Some(score.to_string())
}

impl Launcher {
    fn set_up(in_user_namespace: bool) -> Result<Self, Refusal> {
        // Before the directory they are mounted below is covered.
        let groups = Groups::open();
        Ok(Self {
            groups,
            roots: Roots::new(in_user_namespace)?,
            filter: Filter::new(),
            network: None,
            in_user_namespace,
            memory_score: protect_from_memory_killer(),
        })
    }

    fn run(
        &mut self,
        wire: &Wire,
        order: &Order,
        payload: &[u8],
        streams: Vec<OwnedFd>,
    ) -> Result<Reply, Refusal> {
        // Sandboxes that were still being dismantled when their result was reported; one that is counts as a process.
        let patience = if order.exact_pids { WaitOptions::empty() } else { WaitOptions::NOHANG };
        while matches!(wait(patience), Ok(Some(_))) {}
        let covered = self.groups.set(order.limits)?;
        let kills = self.groups.memory_kills();
        let root = self.roots.prepare(&order.root, &order.points)?;
        let (reports, report) = pipe_with(PipeFlags::CLOEXEC).doing("making a pipe")?;
        let network = self.network.take().filter(|_| !order.host_network);
        let flags = if order.host_network || network.is_some() {
            NAMESPACES
        } else {
            NAMESPACES | libc::CLONE_NEWNET
        };
        // SAFETY: a launcher never starts a thread.
        #[expect(unsafe_code, reason = "starting a process in new namespaces")]
        let cloned = unsafe { sys::clone_process(flags) }.doing("starting a sandbox")?;
        let process = match cloned {
            Cloned::Parent(process) => process,
            Cloned::Child => {
                drop(reports);
                let sandbox = Sandbox {
                    order,
                    payload,
                    streams: &streams,
                    root,
                    filter: &self.filter,
                    network: network.as_ref(),
                    covered,
                    in_user_namespace: self.in_user_namespace,
                    memory_score: self.memory_score.as_deref(),
                    report,
                };
                sandbox.run()
            }
        };
        drop((streams, report));
        let network = network.or_else(|| QuietNetwork::of(process.pid).filter(|_| !order.host_network));
        let mut reply = watch(wire, &process, &reports);
        if matches!(order.root, Root::Own { .. }) {
            // Its mounts go with its last process; what they wrote to is about to be read or removed.
            let _ = waitpid(Some(process.pid), WaitOptions::empty());
        }
        if let Ok(Reply::Ended(ending)) = &mut reply
            && ending.code != 0
        {
            ending.out_of_memory = self.groups.memory_kills() > kills;
        }
        self.network = network.and_then(QuietNetwork::still_quiet);
        reply
    }
}

/// Waits for the end of a sandbox, ending it if asked to or left alone.
fn watch(wire: &Wire, process: &Process, reports: &OwnedFd) -> Result<Reply, Refusal> {
    loop {
        let mut ends = [PollFd::new(reports, PollFlags::IN), PollFd::new(wire.socket(), PollFlags::IN)];
        match poll(&mut ends, None) {
            Err(Errno::INTR) => continue,
            other => other.doing("waiting for a step")?,
        };
        let (reported, called) = (!ends[0].revents().is_empty(), !ends[1].revents().is_empty());
        if reported {
            return read_report(process, reports);
        }
        if called {
            // Whether asked to by a message or by the end of the connection.
            let asked = matches!(wire.receive::<Request>(), Ok(Some(_)));
            let _ = pidfd_send_signal(&process.fd, Signal::KILL);
            let _ = waitpid(Some(process.pid), WaitOptions::empty());
            if !asked {
                sys::exit_now(0);
            }
            let (cpu_micros, peak_memory) = (0, 0);
            return Ok(Reply::Killed(Cost { cpu_micros, peak_memory }));
        }
    }
}

fn read_report(process: &Process, reports: &OwnedFd) -> Result<Reply, Refusal> {
    let mut text = [0; MOST_REPORT];
    let length = rustix::io::read(reports, &mut text).doing("reading a sandbox's report")?;
    match serde_json::from_slice(&text[..length]) {
        Ok(Report::Ended(code, cost)) => Ok(Reply::Ended(Ending { code, out_of_memory: false, cost })),
        Ok(Report::Refused(refusal)) => Err(refusal),
        Err(_) => {
            // It died without a word: killed from outside, or for lack of memory.
            let _ = waitpid(Some(process.pid), WaitOptions::empty());
            Ok(Reply::Ended(Ending { code: -libc::SIGKILL, out_of_memory: false, cost: Cost::default() }))
        }
    }
}
