//! Limits through control groups, version 2 or 1, whichever the machine lets this process use.
//!
//! A launcher lives in groups of its own, so that its steps are born there: moving a process into a group can
//! cost more than ten milliseconds, being born there costs nothing. Limits are written only when they
//! differ from those of the step before. What is not usable is left to resource limits; see [`crate::init`].

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, mkdirat, openat};

use crate::order::Limits;
use crate::refusal::{Doing, Refusal};

const PREFIX: &str = "quern-";
/// Processes that share a step's group or user: the launcher, the first process of the sandbox and, in a user namespace, the one
/// that starts the step, which may last a moment longer than that.
pub(crate) const fn own_processes(in_user_namespace: bool) -> u64 {
    if in_user_namespace { 3 } else { 2 }
}
/// Of a step's memory limit, what launcher and namespaces may use beside it.
const OWN_MEMORY: u64 = 4 << 20;
const CPU_PERIOD_MICROS: u64 = 100_000;

/// The groups of one launcher.
pub(crate) struct Groups {
    pids: Option<Group>,
    memory: Option<Group>,
    cpu: Option<Group>,
    set: Limits,
    own_processes: u64,
    /// Where they are, for whoever removes them.
    pub dirs: Vec<String>,
}

/// One controller's group.
struct Group {
    parent: OwnedFd,
    name: String,
    /// Open once this process is in it.
    joined: Option<OwnedFd>,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Which limits groups take care of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Covered {
    /// Number of processes.
    pub pids: bool,
    /// Bytes of memory.
    pub memory: bool,
}

impl Groups {
    /// Finds what can be used and moves this process into a group with a limit of processes.
    pub fn open(in_user_namespace: bool) -> Self {
        let own = own_groups(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        let name = format!("{PREFIX}{}", std::process::id());
        let mut dirs = Vec::new();
        let mut find = |controller: &str| {
            let (dir, version) = own.iter().find(|(c, _, _)| c == controller).map(|(_, dir, v)| (dir, *v))?;
            sweep(dir);
            let parent = rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
            let path = dir.join(&name).to_str()?.to_owned();
            if !dirs.contains(&path) {
                dirs.push(path);
            }
            Some(Group { parent, name: name.clone(), joined: None, version })
        };
        let (mut pids, memory, cpu) = (find("pids"), find("memory"), find("cpu"));
        if pids.as_mut().is_some_and(|group| group.join().is_err()) {
            pids = None;
        }
        let own_processes = own_processes(in_user_namespace);
        Self { pids, memory, cpu, set: Limits::default(), own_processes, dirs }
    }

    /// Sets the limits of the next step.
    pub fn set(&mut self, limits: Limits) -> Result<Covered, Refusal> {
        if limits.pids != self.set.pids
            && let Some(group) = &self.pids
        {
            let most = limits.pids.saturating_add(self.own_processes);
            group.write("pids.max", &most.to_string()).doing("limiting processes")?;
        }
        if limits.memory != self.set.memory {
            set_or_drop(&mut self.memory, limits.memory, limit_memory).doing("limiting memory")?;
        }
        if limits.cpu_milli != self.set.cpu_milli {
            set_or_drop(&mut self.cpu, limits.cpu_milli, limit_cpu).doing("limiting processor time")?;
        }
        self.set = limits;
        Ok(Covered { pids: self.pids.is_some(), memory: self.memory.is_some() })
    }

    /// How many processes of these groups the kernel has ended for lack of memory; zero if it does not tell.
    pub fn memory_kills(&self) -> u64 {
        let Some(group) = &self.memory else { return 0 };
        let file = match group.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let Some(joined) = &group.joined else { return 0 };
        let mut text = [0; 512];
        let read = openat(joined, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::read(file, &mut text));
        let text = read.ok().and_then(|length| std::str::from_utf8(&text[..length]).ok()).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }
}

/// Sets a limit; a controller that cannot be joined counts as absent from then on.
fn set_or_drop(
    group: &mut Option<Group>,
    limit: Option<u64>,
    set: fn(&Group, Option<u64>) -> io::Result<()>,
) -> io::Result<()> {
    if group.as_mut().is_some_and(|group| group.join().is_err()) {
        *group = None;
    }
    group.as_ref().map_or(Ok(()), |group| set(group, limit))
}

fn limit_memory(group: &Group, limit: Option<u64>) -> io::Result<()> {
    let limit = limit.map(|bytes| bytes.saturating_add(OWN_MEMORY).min(i64::MAX as u64));
    match group.version {
        Version::One => {
            let text = limit.map_or("-1".into(), |bytes| bytes.to_string());
            // Memory and swap together may never be less than memory; absent where swap is not counted.
            group.write_if_there("memory.memsw.limit_in_bytes", "-1")?;
            group.write("memory.limit_in_bytes", &text)?;
            group.write_if_there("memory.memsw.limit_in_bytes", &text)
        }
        Version::Two => {
            group.write("memory.max", &limit.map_or("max".into(), |bytes| bytes.to_string()))?;
            group.write_if_there("memory.swap.max", if limit.is_some() { "0" } else { "max" })
        }
    }
}

fn limit_cpu(group: &Group, limit: Option<u64>) -> io::Result<()> {
    // The kernel takes no less than a millisecond in each period.
    let quota = limit
        .map(|milli| (milli.saturating_mul(CPU_PERIOD_MICROS) / 1000).clamp(1000, i64::MAX as u64 / 2000));
    match group.version {
        Version::One => {
            group.write("cpu.cfs_quota_us", &quota.map_or("-1".into(), |micros| micros.to_string()))
        }
        Version::Two => {
            let quota = quota.map_or("max".into(), |micros| micros.to_string());
            group.write("cpu.max", &format!("{quota} {CPU_PERIOD_MICROS}"))
        }
    }
}

impl Group {
    fn join(&mut self) -> io::Result<()> {
        if self.joined.is_some() {
            return Ok(());
        }
        match mkdirat(&self.parent, &self.name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.joined = Some(openat(&self.parent, &self.name, flags, Mode::empty())?);
        self.write("cgroup.procs", &std::process::id().to_string())
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let dir = self.joined.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let file = openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(file, text.as_bytes())?;
        Ok(())
    }

    fn write_if_there(&self, file: &str, text: &str) -> io::Result<()> {
        match self.write(file, text) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Removes groups of launchers that are gone; the kernel refuses it for groups in use.
fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The directories of the groups this process is in, by controller, from `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn own_groups(cgroup: &str, mountinfo: &str) -> Vec<(String, PathBuf, Version)> {
    let mut found = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let version = if controllers.is_empty() { Version::Two } else { Version::One };
        let usable = match version {
            Version::One => {
                mounted_at(mountinfo, controllers, path).map(|dir| (dir, controllers.replace(',', " ")))
            }
            // The topmost group may hand controllers on though it has processes, if we are allowed to ask.
            Version::Two => [path, "/"].iter().find_map(|path| {
                let dir = mounted_at(mountinfo, "", path)?;
                let names = delegate(&dir);
                (!names.is_empty()).then_some((dir, names))
            }),
        };
        if let Some((dir, names)) = usable {
            found.extend(names.split_whitespace().map(|name| (name.to_owned(), dir.clone(), version)));
        }
    }
    found
}

/// Where a group of a hierarchy is visible.
fn mounted_at(mountinfo: &str, controllers: &str, path: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, point) = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let (kind, options) = (back.next()?, back.nth(1)?);
        let wanted = if controllers.is_empty() {
            kind == "cgroup2"
        } else {
            kind == "cgroup"
                && controllers.split(',').all(|name| options.split(',').any(|option| option == name))
        };
        let below = if root == "/" { path } else { path.strip_prefix(root)? };
        wanted.then(|| Path::new(point).join(below.trim_start_matches('/')))
    })
}

/// The controllers that groups below a version 2 group can use, having asked for those we need. A group with
/// processes in it cannot hand any on, save the topmost; then there are none.
fn delegate(dir: &Path) -> String {
    let control = dir.join("cgroup.subtree_control");
    let _ = fs::write(&control, "+pids +memory +cpu");
    fs::read_to_string(control).unwrap_or_default()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Version, mounted_at, own_groups};
    use std::path::{Path, PathBuf};

    const MOUNTS: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        36 31 0:33 /docker/x /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory\n\
        42 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn groups_are_found_through_their_mounts() {
        let check = |controllers: &str, path: &str, expected: Option<&str>| {
            assert_eq!(
                mounted_at(MOUNTS, controllers, path),
                expected.map(PathBuf::from),
                "{controllers} {path}"
            );
        };
        check("cpu,cpuacct", "/a/b", Some("/sys/fs/cgroup/cpu,cpuacct/a/b"));
        check("cpu", "/", Some("/sys/fs/cgroup/cpu,cpuacct/"));
        check("memory", "/docker/x/y", Some("/sys/fs/cgroup/memory/y"));
        check("memory", "/elsewhere", None);
        check("pids", "/", None);
        check("", "/user", Some("/sys/fs/cgroup/unified/user"));
    }

    #[test]
    fn broken_tables_give_nothing() {
        for table in ["", "x", "::", "1:pids", "1:pids:/\n", "\0:\0:\0"] {
            assert!(own_groups(table, "1 2 - cgroup").is_empty(), "{table:?}");
        }
        let found = own_groups("4:memory:/docker/x\n0::/nowhere-at-all\n", MOUNTS);
        assert_eq!(found.len(), 1);
        assert!(found[0].2 == Version::One && found[0].1 == Path::new("/sys/fs/cgroup/memory/"));
    }
}
