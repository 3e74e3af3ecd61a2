//! Becoming able to make sandboxes: as root directly, as anybody else through a user namespace.

use std::fs;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities};

use crate::refusal::{Doing, Refusal};

/// Moves this process into a mount namespace of its own whose changes nobody else sees, and tells whether that
/// needed a user namespace.
pub(crate) fn own_mounts() -> Result<bool, Refusal> {
    let able = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    let in_user_namespace = !able;
    if in_user_namespace {
        enter_user_namespace()?;
    } else {
        unshare(UnshareFlags::NEWNS, "an own mount namespace")?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).doing("separating the launcher's mounts")?;
    Ok(in_user_namespace)
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
