//! The launcher: a small process with one thread that starts the sandboxes of one worker.
//!
//! A program with many threads cannot safely copy itself, and a large one copies slowly; this one does nothing
//! else. It lives until its executor closes the connection or dies, and no step outlives it. (The kernel's own signal
//! for the death of a parent would not do: it is sent when the *thread* that started the launcher ends.)

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal, setsid};

use crate::LAUNCHER_ARGUMENT;
use crate::enter::{self, Entry};
use crate::groups::Groups;
use crate::init::MEMORY_SCORE;
use crate::mounts;
use crate::network::QuietNetwork;
use crate::order::{Cost, Ending, Order, Reply, Request, Root};
use crate::privilege::{self, Rights};
use crate::refusal::{Doing, Refusal};
use crate::root::Roots;
use crate::sandbox::{Maker, Sandbox};
use crate::sys::{self, ExecList, Process, Stack};
use crate::wire::{Received, Wire};

/// What a launcher's second life is told about its first.
const AS_ROOT: &str = "as-root";
const IN_USER_NAMESPACE: &str = "in-user-namespace";
const AS_ONE_USER: &str = "as-one-user";

/// The life of a launcher, connected to its executor by standard input. Never returns.
///
/// The program must call this before it starts a thread, when its first argument is [`LAUNCHER_ARGUMENT`].
pub fn launcher_main() -> ! {
    let code = match (connect(), std::env::args().nth(2).as_deref()) {
        (Ok(wire), None) => begin(&wire),
        (Ok(wire), Some(AS_ROOT)) => serve(&wire, Rights::Machine),
        (Ok(wire), Some(IN_USER_NAMESPACE)) => serve(&wire, Rights::Namespace),
        (Ok(wire), Some(AS_ONE_USER)) => serve(&wire, Rights::OneUser),
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
        let rights = match privilege::own_mounts()? {
            Rights::Machine => AS_ROOT,
            Rights::Namespace => IN_USER_NAMESPACE,
            Rights::OneUser => AS_ONE_USER,
        };
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
fn serve(wire: &Wire, rights: Rights) -> i32 {
    let mut launcher = match Launcher::set_up(rights) {
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
        launcher.mounts = None;
    }
}

struct Launcher {
    groups: Groups,
    roots: Roots,
    maker: Maker,
    stacks: [Stack; 2],
    /// The sandbox of the step before, if nothing of it was left.
    sandbox: Option<Sandbox>,
    /// The mounts of the step before. Dismantling them takes the kernel as long as all else of a step's end, so it is done
    /// while the executor looks at what the step wrote.
    mounts: Option<File>,
    /// A network in which nothing was sent, of a sandbox that is gone.
    network: Option<QuietNetwork>,
    rights: Rights,
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
    fn set_up(rights: Rights) -> Result<Self, Refusal> {
        let in_user_namespace = !rights.is_machine_root();
        // Before the directory they are mounted below is covered.
        let groups = Groups::open(in_user_namespace);
        enter::bound_capabilities()?;
        Ok(Self {
            groups,
            roots: Roots::new(in_user_namespace)?,
            maker: Maker::new(in_user_namespace, protect_from_memory_killer())?,
            stacks: [Stack::new(), Stack::new()],
            sandbox: None,
            mounts: None,
            network: None,
            rights,
        })
    }

    fn run(
        &mut self,
        wire: &Wire,
        order: &Order,
        payload: &[u8],
        streams: Vec<OwnedFd>,
    ) -> Result<Reply, Refusal> {
        let covered = self.groups.set(order.limits)?;
        let kills = self.groups.memory_kills();
        let root = self.roots.prepare(&order.root, &order.points)?.to_owned();
        let mut sandbox = self.sandbox_for(order, &root)?;
        let mut patience = 0..MOST_WAITS;
        let process = loop {
            let entry = Entry {
                order,
                payload,
                streams: &streams,
                base: &root,
                sandbox: sandbox.init(),
                filter: &self.maker.filter,
                covered,
                in_user_namespace: !self.rights.is_machine_root(),
                one_user: self.rights == Rights::OneUser,
                memory_score: self.maker.memory_score.as_deref(),
            };
            match sandbox.start(&mut self.stacks, &entry).transpose() {
                Some(started) => break started,
                None if patience.next().is_some() && sandbox.has_settled() => {}
                None => {
                    self.network = sandbox.end();
                    sandbox = self.sandbox_for(order, &root)?;
                }
            }
        };
        let followed = process.and_then(|process| {
            drop(streams);
            // Those of an image build are gone with its last process: what they wrote to is about to be read or removed.
            if !matches!(order.root, Root::Own { .. }) {
                self.mounts = File::open(format!("/proc/{}/ns/mnt", process.pid.as_raw_nonzero())).ok();
            }
            follow(wire, &process, &sandbox)
        });
        match &followed {
            Ok(Followed { clean: true, .. }) => self.sandbox = Some(sandbox),
            _ => self.network = sandbox.end(),
        }
        let mut reply = followed?.reply;
        if let Reply::Ended(ending) = &mut reply
            && ending.code != 0
        {
            ending.out_of_memory = self.groups.memory_kills() > kills;
        }
        Ok(reply)
    }

    /// The sandbox of the step before, or a new one if that has another root or network.
    fn sandbox_for(&mut self, order: &Order, root: &Path) -> Result<Sandbox, Refusal> {
        let root = (!matches!(order.root, Root::Own { .. })).then_some(root);
        match self.sandbox.take() {
            Some(sandbox) if sandbox.fits(root, order.host_network) => return Ok(sandbox),
            Some(other) => self.network = other.end().or(self.network.take()),
            None => {}
        }
        let network = if order.host_network { None } else { self.network.take() };
        self.maker.make(root, order.host_network, network)
    }
}

/// How often a step waits until the numbers of the processes before it are free.
const MOST_WAITS: u32 = 200;

/// How a step ended, and whether something of it is left in its sandbox.
struct Followed {
    reply: Reply,
    clean: bool,
}

/// Follows a step to its end and sweeps after it: when this returns, nothing of it runs any more and its outputs can
/// be read, unless it was told to stop, then that is so when its sandbox is gone.
fn follow(wire: &Wire, process: &Process, sandbox: &Sandbox) -> Result<Followed, Refusal> {
    let killed = || Reply::Killed(Cost::default());
    if told_to_stop(wire, &process.fd)? {
        let _ = pidfd_send_signal(sandbox.init(), Signal::KILL);
        sys::reap(process.pid).doing("waiting for a step")?;
        return Ok(Followed { reply: killed(), clean: false });
    }
    let ended = sys::reap(process.pid).doing("waiting for a step")?;
    sandbox.sweep()?;
    if told_to_stop(wire, sandbox.wire())? {
        return Ok(Followed { reply: killed(), clean: false });
    }
    let cost = Cost { cpu_micros: ended.cpu_micros, peak_memory: ended.peak_memory };
    let reply = Reply::Ended(Ending { code: ended.code, out_of_memory: false, cost });
    Ok(Followed { reply, clean: sandbox.is_clean() })
}

/// Waits until something can be read; true if the executor wants the step to stop meanwhile. Does not return when the
/// executor is gone: the kernel ends the sandbox with the launcher.
fn told_to_stop(wire: &Wire, other: &OwnedFd) -> Result<bool, Refusal> {
    loop {
        let mut ends = [PollFd::new(other, PollFlags::IN), PollFd::new(wire.socket(), PollFlags::IN)];
        match poll(&mut ends, None) {
            Err(Errno::INTR) => continue,
            other => other.doing("waiting for a step")?,
        };
        if !ends[0].revents().is_empty() {
            return Ok(false);
        }
        if !ends[1].revents().is_empty() {
            return match wire.receive::<Request>() {
                Ok(Some(_)) => Ok(true),
                _ => sys::exit_now(0),
            };
        }
    }
}
