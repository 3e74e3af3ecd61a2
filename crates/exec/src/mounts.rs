//! The mounts of a sandbox, made by its first process, and those of one step, made by the step's own.
//!
//! Sources are opened while the machine's root is still there and attached when it is gone, so that no link in
//! an image, an input or a cache can lead a mount out of the sandbox.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_remount, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, pivot_root};

use crate::copy::copy_tree;
use crate::order::{File, Fill, Placed, Point, Upper, What};
use crate::own_root::Room;
use crate::refusal::{Doing, Refusal};
use crate::skeleton;
use crate::sys;
use crate::user::User;

/// A mount that is not attached yet; none for what is made in memory.
pub(crate) type Source = Option<OwnedFd>;

const PLAIN: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const FIXED: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::NODEV).union(MountFlags::RDONLY);
/// Files of /proc that tell about the machine and cannot be made harmless by being read-only.
const MASKED: [&str; 3] = ["/proc/kcore", "/proc/keys", "/proc/timer_list"];
/// Tables of the machine's firmware, which may hold keys.
const FIRMWARE: &str = "/sys/firmware";
/// What finds names on the machine's network.
pub(crate) const NAME_SERVICE: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Opens what is to be shown, in the order of the mounts.
pub(crate) fn open_sources(mounts: &[Placed], mut room: Option<&mut Room>) -> Result<Vec<Source>, Refusal> {
    let shown =
        |source: &str, write: bool| detached(source, PLAIN | if write { 0 } else { libc::MOUNT_ATTR_RDONLY });
    let mut open = |placed: &Placed| match &placed.what {
        What::Bind { source, write } => shown(source, *write).map(Some),
        What::Cache { source, write, fill, .. } => {
            if let Some(fill) = fill {
                let room = room.as_mut().expect("a step with new caches has a room");
                fill_cache(room, source, fill)?;
            }
            shown(source, *write).map(Some)
        }
        What::Socket { source, .. } => detached(source, PLAIN).map(Some),
        What::Snapshot { layers, path, upper } => {
            let room = room.as_mut().expect("a step with snapshots has a room");
            open_snapshot(room, layers, path, upper.as_ref(), &placed.target).map(Some)
        }
        _ => Ok(None),
    };
    mounts.iter().map(&mut open).collect()
}

/// Makes a cache of a directory of a snapshot; whoever is killed here leaves nothing under its name.
fn fill_cache(room: &mut Room, source: &str, fill: &Fill) -> Result<(), Refusal> {
    let doing = format_args!("filling a new cache with {} of a snapshot", fill.path);
    let view = room.mount_view(&fill.layers, None)?;
    let found = skeleton::open_in(&skeleton::open_root(&view)?, &names_of(&fill.path))
        .ok_or(Errno::NOENT)
        .doing(doing)?;
    let (from, new) = (format!("/proc/self/fd/{}", found.as_raw_fd()), format!("{source}.new"));
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).doing(doing)?,
        _ => {}
    }
    copy_tree(Path::new(&from), Path::new(&new)).doing(doing)?;
    if let Some((user, group)) = fill.owner {
        chown(&new, Some(user), Some(group)).doing(doing)?;
    }
    if let Some(mode) = fill.mode {
        fs::set_permissions(&new, fs::Permissions::from_mode(mode & 0o7777)).doing(doing)?;
    }
    fs::rename(&new, source).doing(doing)?;
    drop(found);
    room.unmount_view(&view);
    Ok(())
}

/// A part of a snapshot as a mount that nobody sees yet.
fn open_snapshot(
    room: &mut Room,
    layers: &[String],
    path: &str,
    upper: Option<&Upper>,
    target: &str,
) -> Result<OwnedFd, Refusal> {
    let alone = layers.len() == 1 && upper.is_none();
    let view = if alone { PathBuf::from(&layers[0]) } else { room.mount_view(layers, upper)? };
    let found =
        skeleton::open_in(&skeleton::open_root(&view)?, &names_of(path)).ok_or_else(|| Refusal::Place {
            target: target.to_owned(),
            reason: format!("what should be shown there has no {path}"),
        })?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&found, "", flags).doing(format_args!("opening what is shown at {target}"))?;
    let attributes = PLAIN | if upper.is_some() { 0 } else { libc::MOUNT_ATTR_RDONLY };
    sys::set_mount_attributes(&tree, attributes, false).doing(format_args!("protecting {target}"))?;
    if !alone {
        room.unmount_view(&view);
    }
    Ok(tree)
}

/// The places of snapshots, which are files or directories as what is shown there is.
pub(crate) fn points_of(mounts: &[Placed], sources: &[Source]) -> Result<Vec<Point>, Refusal> {
    let shown = mounts.iter().zip(sources).filter(|(placed, _)| !placed.nested);
    let shown = shown.filter(|(placed, _)| matches!(placed.what, What::Snapshot { .. }));
    let point = |(placed, source): (&Placed, &Source)| {
        Ok(Point { path: placed.target.clone(), file: is_file(source)? })
    };
    shown.map(point).collect()
}

fn is_file(source: &Source) -> Result<bool, Refusal> {
    let Some(tree) = source else { return Ok(false) };
    let mode = rustix::fs::fstat(tree).doing("looking at what is shown")?.st_mode;
    Ok(FileType::from_raw_mode(mode) != FileType::Directory)
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

/// Attaches a mount at a place of the current root, where a link may lead to another place of it.
pub(crate) fn attach(tree: &OwnedFd, target: &str) -> Result<(), Refusal> {
    let doing = format_args!("mounting {target}");
    let place = open_here(target)?.ok_or(Errno::NOENT).doing(doing)?;
    let here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", &place, "", here).doing(doing)
}

/// Opens a place of the current root. Links of `/proc` are not followed: at this time they lead to files of the launcher.
fn open_here(path: &str) -> Result<Option<OwnedFd>, Refusal> {
    Ok(skeleton::open_in(&skeleton::open_root(Path::new("/"))?, &names_of(path)))
}

fn names_of(path: &str) -> Vec<&str> {
    path.split('/').filter(|name| !name.is_empty()).collect()
}

/// Makes a mount the root of this process's namespace. `mount_more` mounts what needs the machine's root still there.
pub(crate) fn enter_root(
    root: &Path,
    mount_more: impl FnOnce() -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    chdir(root).doing("entering the root")?;
    pivot_root(".", ".").doing("changing the root")?;
    // A user namespace gets a new /proc only where it sees a whole one.
    mount_more()?;
    unmount(".", UnmountFlags::DETACH).doing("leaving the machine's root")?;
    chdir("/").doing("entering the root")
}

/// A /proc of this process's sandbox. Read-only as a whole: no switch of the kernel can be turned, whoever a step runs as.
pub(crate) fn mount_proc() -> Result<(), Refusal> {
    mount("proc", "/proc", "proc", FIXED, None).doing("mounting /proc")?;
    for path in MASKED {
        if Path::new(path).exists() {
            rustix::mount::mount_bind("/dev/null", path).doing(format_args!("hiding {path}"))?;
        }
    }
    Ok(())
}

/// Hides the first process of a sandbox: its times and counts come from all steps of it.
pub(crate) fn hide_first_process() -> Result<(), Refusal> {
    mount("tmpfs", "/proc/1", "tmpfs", FIXED, c"mode=0555,size=4k").doing("hiding the first process")
}

/// What each step has for itself: /dev/pts, /dev/shm, and what a step of an image build (`builds`) sees as /sys, any other
/// as /tmp.
pub(crate) fn mount_memory(builds: bool) -> Result<(), Refusal> {
    let pts = c"newinstance,ptmxmode=0666,mode=0620";
    let closed = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", "/dev/pts", "devpts", closed, pts).doing("mounting /dev/pts")?;
    tmpfs("/dev/shm", c"mode=1777")?;
    if builds { mount_sys() } else { tmpfs("/tmp", c"mode=1777") }
}

/// /sys, or nothing in its place where this process may not see it.
fn mount_sys() -> Result<(), Refusal> {
    if mount("sysfs", "/sys", "sysfs", FIXED, None).is_err() {
        return mount("tmpfs", "/sys", "tmpfs", FIXED, c"mode=0555").doing("mounting /sys");
    }
    if !Path::new(FIRMWARE).exists() {
        return Ok(());
    }
    mount("tmpfs", FIRMWARE, "tmpfs", FIXED, c"mode=0555").doing("hiding the firmware")
}

/// Mounts memory that can be written to.
pub(crate) fn tmpfs(target: &str, options: &std::ffi::CStr) -> Result<(), Refusal> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", target, "tmpfs", flags, options).doing(format_args!("mounting memory at {target}"))
}

/// Mounts one thing at its place.
pub(crate) fn mount_one(placed: &Placed, source: Source, payload: &[u8], user: &User) -> Result<(), Refusal> {
    let target = placed.target.as_str();
    if placed.nested {
        let file = matches!(placed.what, What::Text { .. }) || is_file(&source)?;
        make_place(target, file)?;
    }
    match (&placed.what, source) {
        (What::Bind { write: give, .. } | What::Cache { give, .. }, Some(tree)) => {
            attach(&tree, target)?;
            if *give && user.uid != 0 {
                chown(target, Some(user.uid), Some(user.gid))
                    .doing(format_args!("giving {target} to the step's user"))?;
            }
            Ok(())
        }
        (What::Snapshot { .. }, Some(tree)) => attach(&tree, target),
        (What::Socket { mode, owner, .. }, Some(tree)) => {
            attach(&tree, target)?;
            let (uid, gid) = owner.unwrap_or((user.uid, user.gid));
            let doing = format_args!("giving {target} to its user");
            chown(target, Some(uid), Some(gid)).doing(doing)?;
            fs::set_permissions(target, fs::Permissions::from_mode(mode & 0o777)).doing(doing)
        }
        (What::Bind { .. } | What::Cache { .. } | What::Snapshot { .. } | What::Socket { .. }, None) => {
            unreachable!("sources are opened for all of them")
        }
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
        (What::Text { bytes, mode, owner }, _) => {
            show_text(target, bytes.of(payload), *mode, owner.unwrap_or((user.uid, user.gid)))
        }
    }
}

/// Makes a directory, or an empty file, and the directories above it in the current root, unless it is there.
pub(crate) fn make_place(target: &str, file: bool) -> Result<(), Refusal> {
    let doing = format_args!("making room for {target}");
    let names = names_of(target);
    let root = skeleton::open_root(Path::new("/"))?;
    let (depth, mut at) = (0..=names.len())
        .rev()
        .find_map(|depth| Some((depth, skeleton::open_in(&root, &names[..depth])?)))
        .ok_or(Errno::NOENT)
        .doing(doing)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for (name, last) in names.iter().zip(1..).skip(depth).map(|(name, number)| (*name, number == names.len()))
    {
        if last && file {
            let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&at, name, new, Mode::from_raw_mode(0o644)).doing(doing)?;
        } else {
            mkdirat(&at, name, Mode::from_raw_mode(0o755)).doing(doing)?;
            at = openat(&at, name, flags | OFlags::DIRECTORY, Mode::empty()).doing(doing)?;
        }
    }
    Ok(())
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
fn show_text(target: &str, bytes: &[u8], mode: u32, (uid, gid): (u32, u32)) -> Result<(), Refusal> {
    const BESIDE: &str = "/dev/shm/.text";
    fs::write(BESIDE, bytes).doing(format_args!("writing {target}"))?;
    chown(BESIDE, Some(uid), Some(gid)).doing(format_args!("giving {target} to its user"))?;
    fs::set_permissions(BESIDE, fs::Permissions::from_mode(mode & 0o777))
        .doing(format_args!("protecting {target}"))?;
    let tree = detached(BESIDE, PLAIN | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_RDONLY)?;
    attach(&tree, target)?;
    fs::remove_file(BESIDE).doing(format_args!("hiding {target}"))
}
