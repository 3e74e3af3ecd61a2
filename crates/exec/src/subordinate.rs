//! Subordinate ids: the further users and groups that a machine grants an ordinary user (`subuid(5)`, `user_namespaces(7)`).
//!
//! Only setuid programs of the machine may map them, and only for a process whose user namespace exists already. A process that
//! made its own could not go back if they refuse. So a child makes the namespace, and this process enters it once it is whole.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, getegid, geteuid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::privilege::Rights;
use crate::sys::{self, Cloned};

/// Why an ordinary user has no users besides itself.
#[derive(Debug, thiserror::Error)]
pub enum NoSubordinates {
    /// The machine grants none.
    #[error(
        "{file} grants this user nothing; add a line to it with `usermod --add-sub{kind}s 100000-165535 USER`"
    )]
    NotGranted {
        /// Where grants are written.
        file: &'static str,
        /// `uid` or `gid`.
        kind: &'static str,
    },
    /// What maps them is missing.
    #[error("the program {0} is missing; install the package `uidmap`")]
    NoHelper(&'static str),
    /// What maps them refused.
    #[error("{program} refused: {message}")]
    Refused {
        /// Which program.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// The kernel refused.
    #[error("no user namespace with subordinate ids can be used: {0}")]
    Kernel(#[from] io::Error),
}

/// One of the two kinds of ids.
struct Kind {
    name: &'static str,
    grants: &'static str,
    helper: &'static str,
}

const USERS: Kind = Kind { name: "uid", grants: "/etc/subuid", helper: "newuidmap" };
const GROUPS: Kind = Kind { name: "gid", grants: "/etc/subgid", helper: "newgidmap" };

/// Makes an ordinary user root of a user namespace with all its subordinate ids: 0 is the user, 1 and up are those. Whoever is root
/// already stays what it is.
///
/// The program must call this before it starts a thread. It stays the same process with the same open files; files of other users than
/// these look like nobody's from then on.
///
/// # Errors
/// [`NoSubordinates`]; this process then is what it was.
pub fn use_subordinates() -> Result<(), NoSubordinates> {
    if geteuid().is_root() || Rights::current() != Rights::OneUser {
        return Ok(());
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let name = name_of(uid);
    // Both before anything is started: most users without subordinate ids have neither.
    let users = USERS.map(uid, uid, name.as_deref())?;
    let groups = GROUPS.map(gid, uid, name.as_deref())?;
    enter_new(|process| {
        USERS.set(process, &users)?;
        GROUPS.set(process, &groups)
    })
}

/// Moves this process, root of a user namespace, into one below with the same users, so that what it starts is counted and limited apart
/// from what others start there.
pub(crate) fn nest() -> io::Result<()> {
    let map = |kind: &str, process: Pid| {
        let outer = fs::read_to_string(format!("/proc/self/{kind}_map"))?;
        fs::write(format!("/proc/{process}/{kind}_map"), same(&outer))
    };
    enter_new(|process| {
        map("uid", process)?;
        map("gid", process)
    })
}

/// The map of a namespace below one with this map in which everybody keeps the number.
fn same(outer: &str) -> String {
    let range = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (inside, _, count) = (fields.next()?, fields.next()?, fields.next()?);
        Some(format!("{inside} {inside} {count}\n"))
    };
    outer.lines().filter_map(range).collect()
}

/// Enters a new user namespace, once somebody has mapped the ids of the process in it.
fn enter_new<E: From<io::Error>>(map: impl FnOnce(Pid) -> Result<(), E>) -> Result<(), E> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    // SAFETY: both callers come before the first thread. (Were there others, the child below would take no lock, and the kernel would
    // let nobody in.)
    #[expect(unsafe_code, reason = "starting a process in a new user namespace")]
    let cloned = unsafe { sys::clone_process(libc::CLONE_NEWUSER) }?;
    let child = match cloned {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(ours);
            // Until the other end is closed, however that comes about.
            let _ = rustix::io::read(&theirs, &mut [0]);
            sys::exit_now(0)
        }
    };
    let entered = map(child.pid).and_then(|()| {
        let entered = move_into_thread_name_spaces(child.fd.as_fd(), ThreadNameSpaceType::USER);
        entered.map_err(|errno| io::Error::from(errno).into())
    });
    drop(ours);
    sys::reap(child.pid)?;
    entered
}

impl Kind {
    /// The arguments of the helper after the process: inside, outside and number of ids, as often as there are ranges.
    fn map(&self, own: u32, user: u32, name: Option<&str>) -> Result<Vec<String>, NoSubordinates> {
        let grants = fs::read_to_string(self.grants).unwrap_or_default();
        let ranges = ranges(&grants, user, name);
        if ranges.is_empty() {
            return Err(NoSubordinates::NotGranted { file: self.grants, kind: self.name });
        }
        Ok(arguments(own, &ranges))
    }

    fn set(&self, process: Pid, map: &[String]) -> Result<(), NoSubordinates> {
        let mut command = Command::new(self.helper);
        command.arg(process.to_string()).args(map).stdin(Stdio::null());
        let output = command.output().map_err(|error| match error.kind() {
            ErrorKind::NotFound => NoSubordinates::NoHelper(self.helper),
            _ => NoSubordinates::Kernel(error),
        })?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(NoSubordinates::Refused { program: self.helper, message })
    }
}

/// The user's name on this machine.
fn name_of(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let number = uid.to_string();
    let mut entries = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|fields| fields.get(2) == Some(&number.as_str()))?;
    entry.first().map(|&name| name.to_owned())
}

/// First id and number of ids of what a file grants to a user, by name or number.
fn ranges(grants: &str, user: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let number = user.to_string();
    let of_line = |line: &str| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let fits = u32::checked_add(first, count).is_some();
        (count > 0 && fits && (who == number || Some(who) == name)).then_some((first, count))
    };
    let mut found: Vec<_> = grants.lines().filter_map(of_line).collect();
    found.dedup();
    found
}

fn arguments(own: u32, ranges: &[(u32, u32)]) -> Vec<String> {
    let mut map = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut inside = 1_u32;
    for (first, count) in ranges {
        // More than the kernel has numbers for is of no use.
        let Some(next) = inside.checked_add(*count) else { break };
        map.extend([inside, *first, *count].map(|number| number.to_string()));
        inside = next;
    }
    map
}

#[cfg(test)]
mod tests {
    use super::{arguments, ranges, same};
    use proptest::prelude::{any, proptest};

    const GRANTS: &str = "root:1:2\nann:100000:65536\n\n# ann:1:1\nbob:165536:65536\nann:300000:10\n1000:7:1\nann:x:1\nann:1\n\
                          ann:4294967295:2\nann:5:0\n";

    #[test]
    fn grants_by_name_and_number() {
        let (ann, bob) = (ranges(GRANTS, 1000, Some("ann")), ranges(GRANTS, 1001, Some("bob")));
        assert_eq!(ann, [(100_000, 65536), (300_000, 10), (7, 1)]);
        assert_eq!(bob, [(165_536, 65536)]);
        assert_eq!(ranges(GRANTS, 1000, None), [(7, 1)]);
        assert_eq!(ranges(GRANTS, 1002, Some("carl")), []);
        let words = "0 1000 1 1 100000 65536 65537 300000 10 65547 7 1";
        assert_eq!(arguments(1000, &ann).join(" "), words);
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(same(map), "0 0 1\n1 1 65536\n");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(grants in "[a-c0-9:\n#-]{0,80}", user in any::<u32>()) {
            let found = ranges(&grants, user, Some("a"));
            assert!(arguments(user, &found).len().is_multiple_of(3));
        }
    }
}
