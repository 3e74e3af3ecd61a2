//! The mounts of one step, made by the first process of its sandbox.
//!
//! Sources are opened while the machine's root is still there and attached when it is gone, so that no link in
//! an image, an input or a cache can lead a mount out of the sandbox.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_remount, move_mount, open_tree};

use crate::order::{File, Placed, Span, What};
use crate::refusal::{Doing, Refusal};
use crate::sys;
use crate::user::User;

/// A mount that is not attached yet; none for what is made in memory.
pub(crate) type Source = Option<OwnedFd>;

const PLAIN: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
/// Files of /proc that tell about the machine and cannot be made harmless by being read-only.
const MASKED: [&str; 3] = ["/proc/kcore", "/proc/keys", "/proc/timer_list"];
/// What finds names on the machine's network.
pub(crate) const NAME_SERVICE: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Opens the directories to be shown, in the order of the mounts.
pub(crate) fn open_sources(mounts: &[Placed]) -> Result<Vec<Source>, Refusal> {
    mounts
        .iter()
        .map(|placed| match &placed.what {
            What::Bind { source, write } => {
                detached(source, PLAIN | if *write { 0 } else { libc::MOUNT_ATTR_RDONLY }).map(Some)
            }
            _ => Ok(None),
        })
        .collect()
}

/// A mount of a file or directory of the machine that nobody sees yet.
pub(crate) fn detached(source: impl AsRef<Path>, attributes: u64) -> Result<OwnedFd, Refusal> {
    let source = source.as_ref();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags).doing(format_args!("opening {}", source.display()))?;
    let doing = format_args!("protecting {}", source.display());
    sys::set_mount_attributes(&tree, attributes, false).doing(doing)?;
    Ok(tree)
}

/// A file of the machine that a step with its network needs.
pub(crate) struct HostFile {
    path: &'static str,
    tree: OwnedFd,
}

/// Opens the files that find names; absent ones are left out.
pub(crate) fn open_name_service() -> Result<Vec<HostFile>, Refusal> {
    let there = NAME_SERVICE.into_iter().filter(|path| Path::new(path).is_file());
    there.map(|path| Ok(HostFile { path, tree: detached(path, PLAIN | libc::MOUNT_ATTR_RDONLY)? })).collect()
}

impl HostFile {
    /// Shows it, if the root has a file in its place.
    pub fn show(self) -> Result<(), Refusal> {
        let plain = fs::symlink_metadata(self.path).is_ok_and(|found| found.is_file());
        if plain { attach(&self.tree, self.path) } else { Ok(()) }
    }
}

fn attach(tree: &OwnedFd, target: &str) -> Result<(), Refusal> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing(format_args!("mounting {target}"))
}

/// /proc, /dev/pts, /dev/shm and /tmp.
pub(crate) fn mount_standard() -> Result<(), Refusal> {
    let closed = MountFlags::NOSUID | MountFlags::NOEXEC;
    // Read-only as a whole: no switch of the kernel can be turned, whoever the step runs as.
    let proc = closed | MountFlags::NODEV | MountFlags::RDONLY;
    mount("proc", "/proc", "proc", proc, None).doing("mounting /proc")?;
    for path in MASKED {
        if Path::new(path).exists() {
            rustix::mount::mount_bind("/dev/null", path).doing(format_args!("hiding {path}"))?;
        }
    }
    let pts = c"newinstance,ptmxmode=0666,mode=0620";
    mount("devpts", "/dev/pts", "devpts", closed, pts).doing("mounting /dev/pts")?;
    tmpfs("/dev/shm", c"mode=1777")?;
    tmpfs("/tmp", c"mode=1777")
}

fn tmpfs(target: &str, options: &std::ffi::CStr) -> Result<(), Refusal> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", target, "tmpfs", flags, options).doing(format_args!("mounting memory at {target}"))
}

/// Mounts one thing at its place.
pub(crate) fn mount_one(placed: &Placed, source: Source, payload: &[u8], user: &User) -> Result<(), Refusal> {
    let target = placed.target.as_str();
    if placed.nested {
        make_place(target, matches!(placed.what, What::Secret(_)))?;
    }
    match (&placed.what, source) {
        (What::Bind { write, .. }, Some(tree)) => {
            attach(&tree, target)?;
            if *write && user.uid != 0 {
                chown(target, Some(user.uid), Some(user.gid))
                    .doing(format_args!("giving {target} to the step's user"))?;
            }
            Ok(())
        }
        (What::Bind { .. }, None) => unreachable!("sources are opened for all binds"),
        (What::Files(files), _) => {
            tmpfs(target, c"mode=0755")?;
            for file in files {
                write_file(target, file, payload).doing(format_args!("writing the files of {target}"))?;
            }
            let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
            mount_remount(target, flags, c"").doing(format_args!("making {target} read-only"))
        }
        (What::Tmpfs { size }, _) => {
            let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
            let options = CString::new(format!("mode=1777{size}")).expect("a number has no NUL");
            tmpfs(target, &options)
        }
        (What::Secret(value), _) => show_secret(target, *value, payload, user),
    }
}

fn make_place(target: &str, file: bool) -> Result<(), Refusal> {
    let made = if file {
        let above = Path::new(target).parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(above)
            .and_then(|()| fs::OpenOptions::new().append(true).create(true).open(target))
            .map(drop)
    } else {
        fs::create_dir_all(target)
    };
    made.doing(format_args!("making room for {target}"))
}

fn write_file(target: &str, file: &File, payload: &[u8]) -> std::io::Result<()> {
    let at = |path: &str| Path::new(target).join(path);
    match file {
        File::Dir(path) => fs::create_dir(at(path)),
        File::Plain(path, bytes, executable) => {
            let mode = if *executable { 0o755 } else { 0o644 };
            let mut new = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(at(path))?;
            std::io::Write::write_all(&mut new, bytes.of(payload))
        }
        File::Link(path, target) => symlink(target, at(path)),
    }
}

/// A file in memory that has no name but its place.
fn show_secret(target: &str, value: Span, payload: &[u8], user: &User) -> Result<(), Refusal> {
    const BESIDE: &str = "/tmp/.secret";
    fs::write(BESIDE, value.of(payload)).doing("writing a secret")?;
    chown(BESIDE, Some(user.uid), Some(user.gid)).doing("giving a secret to the step's user")?;
    fs::set_permissions(BESIDE, fs::Permissions::from_mode(0o400)).doing("protecting a secret")?;
    let tree = detached(BESIDE, PLAIN | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_RDONLY)?;
    attach(&tree, target)?;
    fs::remove_file(BESIDE).doing("hiding a secret")
}
