//! What this process may do, and becoming able to make sandboxes: as root directly, as anybody else through a user namespace.

use std::fs;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities};

use crate::refusal::{Doing, Refusal};
use crate::subordinate;

/// What a process may do to owners, devices and mounts; its steps can do no more.
///
/// Decides the form of layers: whoever is not root of the machine marks them by `user.overlay` attributes and can make no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Root of the machine.
    Machine,
    /// Root of a user namespace with several users: files can belong to any of them.
    Namespace,
    /// An ordinary user. Its steps run in a user namespace with that one user.
    OneUser,
}

impl Rights {
    /// Those of this process.
    pub fn current() -> Self {
        let able = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
        let users = fs::read_to_string("/proc/self/uid_map");
        match (able, users) {
            (false, _) => Self::OneUser,
            // Without user namespaces in the kernel there is no such file.
            (true, Ok(users)) if !is_everybody(&users) => Self::Namespace,
            (true, _) => Self::Machine,
        }
    }

    /// Whether it is root of the machine.
    pub fn is_machine_root(self) -> bool {
        self == Self::Machine
    }
}

/// Whether a map of users is that of the machine's first user namespace.
fn is_everybody(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Moves this process into a mount namespace of its own whose changes nobody else sees, and tells what it may do there.
pub(crate) fn own_mounts() -> Result<Rights, Refusal> {
    let rights = Rights::current();
    match rights {
        Rights::OneUser => enter_user_namespace()?,
        Rights::Machine => unshare(UnshareFlags::NEWNS, "an own mount namespace")?,
        Rights::Namespace => {
            // Where no other namespace can be made, limits of processes also count those of other launchers.
            let _ = subordinate::nest();
            unshare(UnshareFlags::NEWNS, "an own mount namespace")?;
        }
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).doing("separating the launcher's mounts")?;
    Ok(rights)
}

fn enter_user_namespace() -> Result<(), Refusal> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS, "user namespaces")?;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text)
            .doing(format_args!("writing {file} of the user namespace"))
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))
}

/// New namespaces for this process.
pub(crate) fn unshare(flags: UnshareFlags, what: &str) -> Result<(), Refusal> {
    // SAFETY: no files are unshared and the process has one thread.
    #[expect(unsafe_code, reason = "the wrapper is unsafe for the sake of flags that are not used here")]
    let done = unsafe { rustix::thread::unshare_unsafe(flags) };
    done.map_err(|errno| Refusal::Namespaces {
        what: what.to_owned(),
        errno: errno.raw_os_error(),
        hint: hint(),
    })
}

/// What to change so that namespaces are allowed, as far as the kernel tells.
fn hint() -> String {
    let setting =
        |file: &str| fs::read_to_string(format!("/proc/sys/{file}")).map(|text| text.trim().to_owned());
    let is = |file: &str, value: &str| setting(file).is_ok_and(|found| found == value);
    if is("kernel/unprivileged_userns_clone", "0") {
        return "allow them with `sysctl kernel.unprivileged_userns_clone=1`, or run quern as root".into();
    }
    if is("user/max_user_namespaces", "0") {
        return "allow them with `sysctl user.max_user_namespaces=10000`, or run quern as root".into();
    }
    if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        return "allow them with `sysctl kernel.apparmor_restrict_unprivileged_userns=0` or an AppArmor profile for \
                quern, or run quern as root"
            .into();
    }
    "inside a container, start it with `--security-opt seccomp=unconfined` (docker) or `--cap-add SYS_ADMIN`, or run \
     quern outside of it"
        .into()
}
