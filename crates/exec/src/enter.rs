//! The process of a step, from its start in the launcher to its program: enters a sandbox, mounts what is the step's own,
//! gives up its rights, executes.
//!
//! Until then it shares the launcher's memory, which stands still meanwhile. So an error is simply handed back, and nothing may be
//! held when the program is executed, because nobody would free it.

use std::ffi::{CString, c_int};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, chdir, getrlimit, setrlimit, setsid, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, ThreadNameSpaceType, UnshareFlags, capabilities,
    clear_ambient_capability_set, move_into_thread_name_spaces, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::devices::Devices;
use crate::filter::{Filter, Strictness};
use crate::groups::{Covered, own_processes};
use crate::init::MEMORY_SCORE;
use crate::mounts::{self, HostFile, Source};
use crate::order::{Limits, Order, Root, Upper};
use crate::own_root::Room;
use crate::privilege;
use crate::refusal::{Doing, Refusal};
use crate::sys::{self, ExecList};
use crate::user::{self, User};

/// What root keeps: enough to install packages and to give files away, nothing that reaches beyond files and
/// processes of the sandbox.
pub(crate) const KEPT: CapabilitySet = CapabilitySet::CHOWN
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
const OPEN_FILES: u64 = 65_536;
/// Exit code of a process that could not execute the program; never seen outside.
pub(crate) const NOT_STARTED: c_int = 127;

/// Everything the process of a step needs.
pub(crate) struct Entry<'a> {
    /// What to run.
    pub order: &'a Order,
    /// Bytes beside the order.
    pub payload: &'a [u8],
    /// Standard output, standard error and, unless it is empty, standard input.
    pub streams: &'a [OwnedFd],
    /// Where the launcher keeps what roots are made with.
    pub base: &'a Path,
    /// The first process of the sandbox.
    pub sandbox: BorrowedFd<'a>,
    /// The system call filter.
    pub filter: &'a Filter,
    /// Which limits control groups take care of; the others are resource limits, per process.
    pub covered: Covered,
    /// Whether all this happens in a user namespace.
    pub in_user_namespace: bool,
    /// Whether that has one user, who is root in it.
    pub one_user: bool,
    /// What the memory killer is to think of the step, if there is one.
    pub memory_score: Option<&'a str>,
}

impl Entry<'_> {
    /// Becomes the program; returns only to say why not. Leaves what it needs until then in `program`.
    pub fn run(&self, program: &mut Option<Program>) -> Refusal {
        match self.prepare() {
            Ok(prepared) => program.insert(prepared).execute(self.order),
            Err(refusal) => refusal,
        }
    }

    fn prepare(&self) -> Result<Program, Refusal> {
        umask(rustix::fs::Mode::from_raw_mode(0o022));
        if let Some(score) = self.memory_score {
            fs::write(MEMORY_SCORE, score)
                .doing("offering the step to the memory killer before its launcher")?;
        }
        let (sources, host_files) = match &self.order.root {
            Root::Own { layers, upper } => self.enter_own(layers, upper.as_ref())?,
            Root::Layers(_) | Root::Host { .. } => self.enter_prepared()?,
        };
        let user = User::find(self.order.user.as_deref())?;
        if self.one_user && (user.uid, user.gid) != (0, 0) {
            let reason = "an ordinary user without subordinate ids can run steps only as root of the sandbox, which is \
                          that user outside; leave the step's user out, give yourself subordinate ids (package `uidmap`, \
                          /etc/subuid, /etc/subgid), or run quern as root";
            return Err(self.no_user(reason.into()));
        }
        self.mount_all(sources, host_files, &user)?;
        let program = Program::new(self.order, &user)?;
        self.set_limits(&self.order.limits)?;
        let mut kept: Vec<_> = self.streams.iter().map(AsRawFd::as_raw_fd).collect();
        sys::close_all_but(&mut kept).doing("closing the launcher's files")?;
        self.drop_privileges()?;
        self.set_streams()?;
        setsid().doing("starting a session")?;
        self.become_user(&user)?;
        chdir(program.cwd.as_c_str())
            .doing(format_args!("entering the working directory {}", self.order.cwd))?;
        Ok(program)
    }

    /// Enters the root of the sandbox, with memory of its own.
    fn enter_prepared(&self) -> Result<(Vec<Source>, Vec<HostFile>), Refusal> {
        let opened = (mounts::open_sources(&self.order.mounts, None)?, self.open_name_service()?);
        self.join(ThreadNameSpaceType::MOUNT)?;
        mounts::mount_memory(false)?;
        Ok(opened)
    }

    /// Mounts a root of its own where the launcher's mounts are, and enters that.
    fn enter_own(
        &self,
        layers: &[String],
        upper: Option<&Upper>,
    ) -> Result<(Vec<Source>, Vec<HostFile>), Refusal> {
        self.join(ThreadNameSpaceType::empty())?;
        let mut room = Room::new(self.base, self.in_user_namespace)?;
        let sources = mounts::open_sources(&self.order.mounts, Some(&mut room))?;
        let host_files = self.open_name_service()?;
        let mut points = self.order.points.clone();
        points.extend(mounts::points_of(&self.order.mounts, &sources)?);
        let open_devices = if upper.is_some() { Devices::open_own } else { Devices::open_shared };
        let root = room.mount_root(layers, upper, &points)?;
        let devices = open_devices(self.base)?;
        mounts::enter_root(&root, || {
            devices.show()?;
            mounts::mount_proc()?;
            mounts::mount_memory(self.order.changes_root())
        })?;
        Ok((sources, host_files))
    }

    /// Joins the sandbox, and gets apart from it what a step could leave something in.
    fn join(&self, besides: ThreadNameSpaceType) -> Result<(), Refusal> {
        let mut spaces =
            besides | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME | ThreadNameSpaceType::CONTROL_GROUP;
        if !self.order.host_network {
            spaces |= ThreadNameSpaceType::NETWORK;
        }
        move_into_thread_name_spaces(self.sandbox, spaces).doing("entering the sandbox")?;
        privilege::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWIPC, "mount and IPC namespaces")
    }

    fn open_name_service(&self) -> Result<Vec<HostFile>, Refusal> {
        let shows_names = self.order.host_network && !self.order.changes_root();
        if shows_names { mounts::open_name_service() } else { Ok(Vec::new()) }
    }

    fn mount_all(&self, sources: Vec<Source>, host_files: Vec<HostFile>, user: &User) -> Result<(), Refusal> {
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
            set(
                Resource::Nproc,
                limits.pids.saturating_add(own_processes(self.in_user_namespace)),
                "limiting processes",
            )?;
        }
        match limits.memory {
            Some(memory) if !self.covered.memory => set(Resource::Data, memory, "limiting memory")?,
            _ => {}
        }
        Ok(())
    }

    fn drop_privileges(&self) -> Result<(), Refusal> {
        let builds = self.order.changes_root();
        let kept = if builds { KEPT_IN_BUILDS } else { KEPT };
        remove_from_bounding_set(KEPT_IN_BUILDS.difference(kept))?;
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

    fn set_streams(&self) -> Result<(), Refusal> {
        // The sandbox's own null device: it is read-only mounted, so that root cannot change its owner or mode.
        let nothing = File::open("/dev/null").doing("opening an empty standard input")?;
        let [out, err, rest @ ..] = self.streams else {
            let doing = "receiving the standard streams".into();
            return Err(Refusal::System { doing, errno: libc::EMFILE });
        };
        let input = rest.first().map_or(nothing.as_raw_fd(), AsRawFd::as_raw_fd);
        sys::set_standard_streams([input, out.as_raw_fd(), err.as_raw_fd()])
            .doing("setting the standard streams")
    }

    fn become_user(&self, user: &User) -> Result<(), Refusal> {
        let (uid, gid) = (rustix::thread::Uid::from_raw(user.uid), rustix::thread::Gid::from_raw(user.gid));
        let groups: Vec<_> = user.groups.iter().map(|gid| rustix::thread::Gid::from_raw(*gid)).collect();
        let become_it = || -> Result<(), Errno> {
            if !self.one_user {
                set_thread_groups(&groups)?;
            }
            if user.uid != 0 || user.gid != 0 {
                set_thread_res_gid(gid, gid, gid)?;
                set_thread_res_uid(uid, uid, uid)?;
            }
            Ok(())
        };
        become_it().map_err(|errno| self.no_user(std::io::Error::from(errno).to_string()))
    }

    fn no_user(&self, reason: String) -> Refusal {
        Refusal::User { user: self.order.user.clone().unwrap_or_default(), reason }
    }
}

/// Sees to it that no program this process and its children execute gets capabilities that no step keeps.
pub(crate) fn bound_capabilities() -> Result<(), Refusal> {
    remove_from_bounding_set(CapabilitySet::from_bits_retain(u64::MAX).difference(KEPT_IN_BUILDS))
}

fn remove_from_bounding_set(unwanted: CapabilitySet) -> Result<(), Refusal> {
    let all = (0..=MOST_CAPABILITIES).map(|number| CapabilitySet::from_bits_retain(1 << number));
    for capability in all.filter(|capability| unwanted.contains(*capability)) {
        match remove_capability_from_bounding_set(capability) {
            Err(Errno::INVAL) => break,
            other => other.doing("dropping capabilities")?,
        }
    }
    Ok(())
}

/// The program, with everything allocated beforehand.
pub(crate) struct Program {
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

    /// Tries every place; returns only to say why none would do.
    fn execute(&self, order: &Order) -> Refusal {
        let program = || order.argv[0].clone();
        let mut forbidden = None;
        for place in &self.places {
            match sys::execute(place, &self.argv, &self.env) {
                libc::ENOENT | libc::ENOTDIR
                    if rustix::fs::access(place, rustix::fs::Access::EXISTS).is_ok() =>
                {
                    return Refusal::InterpreterNotFound { program: program() };
                }
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => forbidden = Some(libc::EACCES),
                libc::ENOEXEC if order.foreign.is_some() => {
                    let platform = order.foreign.clone().unwrap_or_default();
                    return Refusal::Foreign { program: program(), platform };
                }
                errno => return Refusal::NotExecutable { program: program(), errno },
            }
        }
        match forbidden {
            Some(errno) => Refusal::NotExecutable { program: program(), errno },
            None => Refusal::ProgramNotFound { program: program() },
        }
    }
}
