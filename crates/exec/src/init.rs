//! The first process of a sandbox: builds it from inside, starts the program, waits, ends what is left.
//!
//! It stays between the launcher and the program because a program that is itself process 1 behaves differently:
//! the kernel drops signals it sends to itself, and orphans it never heard of wait for it to reap them.

use std::ffi::{CString, c_int};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, chdir, getrlimit, kill_process_group,
    pivot_root, set_dumpable_behavior, set_parent_process_death_signal, setrlimit, setsid, umask, wait,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::devices::Devices;
use crate::filter::{Filter, Strictness};
use crate::groups::{Covered, OWN_PROCESSES};
use crate::mounts::{self, Source};
use crate::network::{QuietNetwork, start_loopback};
use crate::order::{Cost, Limits, Order, Root};
use crate::own_root::Room;
use crate::refusal::{Doing, Refusal};
use crate::sys::{self, ExecList};
use crate::user::{self, User};

/// What root keeps: enough to install packages and to give files away, nothing that reaches beyond files and
/// processes of the sandbox.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);
/// What root keeps besides in an image build, where packages set up users, services and file capabilities. What it can do with
/// them stays in the sandbox: no device made in it can be opened, and raw sockets reach the network it was given.
const KEPT_IN_BUILDS: CapabilitySet = KEPT
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_CHROOT);
/// Capabilities are numbered up to here at most.
const MOST_CAPABILITIES: u32 = 63;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What the kernel's memory killer goes by, from -1000 (never) to 1000 (first).
pub(crate) const MEMORY_SCORE: &str = "/proc/self/oom_score_adj";
const HOST_NAME: &[u8] = b"quern";
const OPEN_FILES: u64 = 65_536;
/// Exit code of a child that could not execute the program; never seen outside.
const NOT_STARTED: c_int = 127;

/// Everything the first process needs.
pub(crate) struct Sandbox<'a> {
    /// What to run.
    pub order: &'a Order,
    /// Bytes beside the order.
    pub payload: &'a [u8],
    /// Standard output, standard error and, unless it is empty, standard input.
    pub streams: &'a [OwnedFd],
    /// Where the root is mounted in the launcher's namespace, or what it is made with.
    pub root: &'a std::path::Path,
    /// The system call filter.
    pub filter: &'a Filter,
    /// The network namespace to enter, none for the one it was started in.
    pub network: Option<&'a QuietNetwork>,
    /// Which limits control groups take care of; the others are resource limits, per process.
    pub covered: Covered,
    /// Whether all this happens in a user namespace with one user.
    pub in_user_namespace: bool,
    /// What the memory killer is to think of the step, if there is one.
    pub memory_score: Option<&'a str>,
    /// Takes one [`Report`] as JSON; its other end closes when the launcher dies.
    pub report: OwnedFd,
}

/// What the first process tells the launcher, once.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) enum Report {
    /// The program ended; code or negative signal.
    Ended(i32, Cost),
    /// It was not started.
    Refused(Refusal),
}

/// Longest report; it is one write to an empty pipe and one read.
pub(crate) const MOST_REPORT: usize = 16 * 1024;

impl Report {
    fn in_one_piece(&self) -> Vec<u8> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        match self {
            Self::Refused(refusal) if text.len() > MOST_REPORT => {
                let doing = refusal.to_string().chars().take(MOST_REPORT / 16).collect();
                let short = Self::Refused(Refusal::System { doing, errno: libc::ENAMETOOLONG });
                serde_json::to_vec(&short).unwrap_or_default()
            }
            _ => text,
        }
    }
}

impl Sandbox<'_> {
    /// Lives the life of the first process.
    pub fn run(self) -> ! {
        let report = match self.build().and_then(|user| self.start(&user)) {
            Ok(pid) => wait_for(pid),
            Err(refusal) => Report::Refused(refusal),
        };
        // Without the report the launcher sees the end of the pipe and says so.
        let _ = rustix::io::write(&self.report, &report.in_one_piece());
        sys::exit_now(0)
    }

    fn build(&self) -> Result<User, Refusal> {
        self.die_with_launcher()?;
        umask(rustix::fs::Mode::from_raw_mode(0o022));
        match self.network {
            Some(network) => network.enter()?,
            None if !self.order.host_network => start_loopback()?,
            None => {}
        }
        let mut room = match self.order.root {
            Root::Own { .. } => Some(Room::new(self.root, self.in_user_namespace)?),
            _ => None,
        };
        let sources = mounts::open_sources(&self.order.mounts, room.as_mut())?;
        let shows_names = self.order.host_network && !self.order.changes_root();
        let host_files = if shows_names { mounts::open_name_service()? } else { Vec::new() };
        self.enter_root(room.as_ref(), &sources)?;
        let user = User::find(self.order.user.as_deref())?;
        if self.in_user_namespace && (user.uid, user.gid) != (0, 0) {
            let reason = "an ordinary user can run steps only as root of the sandbox, which is that user outside; \
                          leave the step's user out, or run quern as root";
            return Err(Refusal::User {
                user: self.order.user.clone().unwrap_or_default(),
                reason: reason.into(),
            });
        }
        self.mount_all(sources, host_files, &user)?;
        rustix::system::sethostname(HOST_NAME).doing("naming the sandbox")?;
        self.set_limits(&self.order.limits)?;
        self.drop_privileges()?;
        Ok(user)
    }

    /// The parent-death signal, and a look whether the parent died before it was set.
    fn die_with_launcher(&self) -> Result<(), Refusal> {
        if let Some(score) = self.memory_score {
            fs::write(MEMORY_SCORE, score)
                .doing("offering the step to the memory killer before its launcher")?;
        }
        set_parent_process_death_signal(Some(Signal::KILL)).doing("binding the sandbox to its launcher")?;
        let mut ends = [PollFd::new(&self.report, PollFlags::empty())];
        poll(&mut ends, Some(&rustix::time::Timespec::default())).doing("looking for the launcher")?;
        if ends[0].revents().contains(PollFlags::ERR) {
            sys::exit_now(1);
        }
        Ok(())
    }

    fn enter_root(&self, room: Option<&Room>, sources: &[Source]) -> Result<(), Refusal> {
        let (root, devices) = match (&self.order.root, room) {
            (Root::Own { layers, upper }, Some(room)) => {
                let mut points = self.order.points.clone();
                points.extend(mounts::points_of(&self.order.mounts, sources)?);
                let own = upper.is_some();
                let devices = if own { Devices::open_own } else { Devices::open_shared };
                (room.mount_root(layers, upper.as_ref(), &points)?, devices(self.root)?)
            }
            _ => (self.root.to_owned(), Devices::Prepared),
        };
        chdir(&root).doing("entering the root")?;
        pivot_root(".", ".").doing("changing the root")?;
        // With the machine's root still below: a user namespace gets a new /proc only where it sees a whole one.
        mounts::mount_standard(devices, self.order.changes_root())?;
        unmount(".", UnmountFlags::DETACH).doing("leaving the machine's root")?;
        chdir("/").doing("entering the root")
    }

    fn mount_all(
        &self,
        sources: Vec<Source>,
        host_files: Vec<mounts::HostFile>,
        user: &User,
    ) -> Result<(), Refusal> {
        for (placed, source) in self.order.mounts.iter().zip(sources) {
            mounts::mount_one(placed, source, self.payload, user)?;
        }
        for file in host_files {
            file.show()?;
        }
        if self.order.make_cwd {
            mounts::make_place(&self.order.cwd, false)?;
        }
        if user.uid != 0 {
            // So that a program that is not root can open /dev/stdout.
            let owner = Some(rustix::fs::Uid::from_raw(user.uid));
            for stream in self.streams {
                rustix::fs::fchown(stream, owner, None)
                    .doing("giving the standard streams to the step's user")?;
            }
        }
        Ok(())
    }

    fn set_limits(&self, limits: &Limits) -> Result<(), Refusal> {
        let set = |resource, wanted: u64, what| {
            let highest = getrlimit(resource).maximum.unwrap_or(u64::MAX).min(wanted);
            setrlimit(resource, Rlimit { current: Some(highest), maximum: Some(highest) }).doing(what)
        };
        set(Resource::Core, 0, "forbidding core dumps")?;
        set(Resource::Nofile, OPEN_FILES, "limiting open files")?;
        if !self.covered.pids {
            set(Resource::Nproc, limits.pids.saturating_add(OWN_PROCESSES), "limiting processes")?;
        }
        match limits.memory {
            Some(memory) if !self.covered.memory => set(Resource::Data, memory, "limiting memory")?,
            _ => {}
        }
        Ok(())
    }

    fn drop_privileges(&self) -> Result<(), Refusal> {
        // In no other process's reach: not to be traced, nor read through /proc.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).doing("hiding the first process")?;
        let mut kept: Vec<_> = self.streams.iter().chain([&self.report]).map(AsRawFd::as_raw_fd).collect();
        sys::close_all_but(&mut kept).doing("closing the launcher's files")?;
        let builds = self.order.changes_root();
        let kept = if builds { KEPT_IN_BUILDS } else { KEPT };
        for number in 0..=MOST_CAPABILITIES {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            match if kept.contains(capability) {
                Ok(())
            } else {
                remove_capability_from_bounding_set(capability)
            } {
                Err(Errno::INVAL) => break,
                other => other.doing("dropping capabilities")?,
            }
        }
        clear_ambient_capability_set().doing("dropping capabilities")?;
        // A launcher that lacks some itself, as root of a container may, hands on what it has.
        let kept = kept & capabilities(None).doing("reading capabilities")?.permitted;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        if builds {
            // Setuid programs work there, up to the capabilities kept; so the filter is set while that is allowed.
            self.filter.apply(Strictness::Builds)?;
            return set_capabilities(None, sets).doing("dropping capabilities");
        }
        set_capabilities(None, sets).doing("dropping capabilities")?;
        set_no_new_privs(true).doing("renouncing new privileges")?;
        self.filter.apply(Strictness::Full)
    }

    fn start(&self, user: &User) -> Result<Pid, Refusal> {
        let program = Program::new(self.order, user)?;
        // The sandbox's own null device: it is read-only mounted, so that root cannot change its owner or mode.
        let nothing = File::open("/dev/null").doing("opening an empty standard input")?;
        let [out, err, rest @ ..] = self.streams else {
            return Err(Refusal::System {
                doing: "receiving the standard streams".into(),
                errno: libc::EMFILE,
            });
        };
        let input = rest.first().map_or(nothing.as_raw_fd(), AsRawFd::as_raw_fd);
        let streams = [input, out.as_raw_fd(), err.as_raw_fd()];
        let (uid, gid) = (rustix::thread::Uid::from_raw(user.uid), rustix::thread::Gid::from_raw(user.gid));
        let groups: Vec<_> = user.groups.iter().map(|gid| rustix::thread::Gid::from_raw(*gid)).collect();
        let change_groups = !self.in_user_namespace;
        let change_user = user.uid != 0 || user.gid != 0;
        let mut failure = Failure::None;
        let mut child = || {
            failure = (|| {
                setsid().map_err(Failure::Session)?;
                sys::set_standard_streams(streams).map_err(|_| Failure::Session(Errno::BADF))?;
                if change_groups {
                    set_thread_groups(&groups).map_err(Failure::User)?;
                }
                if change_user {
                    set_thread_res_gid(gid, gid, gid).map_err(Failure::User)?;
                    set_thread_res_uid(uid, uid, uid).map_err(Failure::User)?;
                }
                chdir(program.cwd.as_c_str()).map_err(Failure::Directory)?;
                Err(program.execute())
            })()
            .unwrap_or_else(|failure| failure);
            NOT_STARTED
        };
        // SAFETY: the closure makes system calls on what was prepared above and stores one value; the process
        // has one thread, as the launcher it was cloned from.
        #[expect(unsafe_code, reason = "starting a process without copying this one")]
        let pid = unsafe { sys::spawn_sharing(&mut child) }.doing("starting the program")?;
        match failure {
            Failure::None => Ok(pid),
            failure => Err(self.explain(failure)),
        }
    }

    fn explain(&self, failure: Failure) -> Refusal {
        let program = self.order.argv[0].clone();
        match failure {
            Failure::None | Failure::NotFound => Refusal::ProgramNotFound { program },
            Failure::Interpreter => Refusal::InterpreterNotFound { program },
            Failure::Execute(errno) => Refusal::NotExecutable { program, errno },
            Failure::Session(errno) => {
                Refusal::System { doing: "starting a session".into(), errno: errno.raw_os_error() }
            }
            Failure::Directory(errno) => Refusal::System {
                doing: format!("entering the working directory {}", self.order.cwd),
                errno: errno.raw_os_error(),
            },
            Failure::User(errno) => Refusal::User {
                user: self.order.user.clone().unwrap_or_default(),
                reason: std::io::Error::from(errno).to_string(),
            },
        }
    }
}

/// Why the child did not become the program.
#[derive(Clone, Copy)]
enum Failure {
    None,
    Session(Errno),
    User(Errno),
    Directory(Errno),
    NotFound,
    Interpreter,
    Execute(c_int),
}

/// The program, with everything allocated beforehand.
struct Program {
    /// Where it may be, in order.
    places: Vec<CString>,
    argv: ExecList,
    env: ExecList,
    cwd: CString,
}

impl Program {
    fn new(order: &Order, user: &User) -> Result<Self, Refusal> {
        let text = |text: &str| CString::new(text).doing("passing a text with a NUL byte to the program");
        let name = &order.argv[0];
        let mut env = order.env.clone();
        let path = match env.iter().find_map(|entry| entry.strip_prefix("PATH=")) {
            Some(path) => path.to_owned(),
            None => {
                env.push(format!("PATH={DEFAULT_PATH}"));
                DEFAULT_PATH.to_owned()
            }
        };
        if order.changes_root() && !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={}", user::home_of(user.uid)));
        }
        let places = if name.contains('/') {
            vec![text(name)?]
        } else {
            let dirs = path.split(':').map(|dir| if dir.is_empty() { "." } else { dir });
            dirs.map(|dir| text(&format!("{dir}/{name}"))).collect::<Result<_, _>>()?
        };
        let list = |texts: &[String]| {
            texts.iter().map(|t| text(t)).collect::<Result<Vec<_>, _>>().map(ExecList::new)
        };
        Ok(Self { places, argv: list(&order.argv)?, env: list(&env)?, cwd: text(&order.cwd)? })
    }

    /// Tries every place; returns only to say why none would do. Allocates nothing.
    fn execute(&self) -> Failure {
        let mut best = Failure::NotFound;
        for place in &self.places {
            match sys::execute(place, &self.argv, &self.env) {
                libc::ENOENT | libc::ENOTDIR
                    if rustix::fs::access(place, rustix::fs::Access::EXISTS).is_ok() =>
                {
                    return Failure::Interpreter;
                }
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => best = Failure::Execute(libc::EACCES),
                errno => return Failure::Execute(errno),
            }
        }
        best
    }
}

/// Waits for the program, then ends and reaps whatever it left behind: after the report nothing of the step
/// runs any more, and its outputs can be read.
fn wait_for(program: Pid) -> Report {
    let mut code = None;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == program => {
                code = Some(match status.terminating_signal() {
                    Some(signal) => -signal,
                    None => status.exit_status().unwrap_or(NOT_STARTED),
                });
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break,
        }
        if code.is_some() {
            // To -1: all processes but this one. None left is an error that ends the loop at the next wait.
            let _ = kill_process_group(Pid::INIT, Signal::KILL);
        }
    }
    let (cpu_micros, peak_memory) = sys::children_cost();
    Report::Ended(code.unwrap_or(NOT_STARTED), Cost { cpu_micros, peak_memory })
}
