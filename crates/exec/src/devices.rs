//! `/dev`: one that is read-only and shared by all steps, and one of its own for each step of an image build.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, OpenTreeFlags, mount, open_tree};

use crate::mounts;
use crate::refusal::{Doing, Refusal};
use crate::root::show_read_only;
use crate::sys;

/// Device nodes: name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// What a step's `/dev` is made of, opened while the machine's root is still there.
pub(crate) enum Devices {
    /// The shared one.
    Shared(OwnedFd),
    /// The nodes of the shared one, in the order of [`DEVICES`].
    Own(Vec<OwnedFd>),
}

/// Makes the shared `/dev` below the launcher's memory: it is read-only, and devices do not mind.
pub(crate) fn make(base: &Path, in_user_namespace: bool) -> Result<(), Refusal> {
    let dev = base.join("dev");
    fs::create_dir(&dev).doing("making /dev")?;
    mount("tmpfs", &dev, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=0755")
        .doing("mounting /dev")?;
    make_frame(&dev)?;
    let mode = Mode::from_raw_mode(0o666);
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        let made = !in_user_namespace
            && mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor)).is_ok();
        if made {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).doing("making /dev")?;
        } else {
            fs::write(&path, b"").doing("making /dev")?;
            show_read_only(&Path::new("/dev").join(name), &path, libc::MOUNT_ATTR_RDONLY)?;
        }
    }
    let tree = open_tree(CWD, &dev, OpenTreeFlags::OPEN_TREE_CLOEXEC).doing("opening /dev")?;
    sys::set_mount_attributes(tree, libc::MOUNT_ATTR_RDONLY, false).doing("making /dev read-only")
}

fn make_frame(dev: &Path) -> Result<(), Refusal> {
    for dir in ["pts", "shm"] {
        fs::create_dir(dev.join(dir)).doing("making /dev")?;
    }
    LINKS.iter().try_for_each(|(name, target)| symlink(target, dev.join(name))).doing("making /dev")
}

/// The shared `/dev` as a mount that is not attached yet.
pub(crate) fn open_shared(base: &Path) -> Result<OwnedFd, Refusal> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, base.join("dev"), flags).doing("opening /dev")
}

impl Devices {
    /// The shared one.
    pub fn open_shared(base: &Path) -> Result<Self, Refusal> {
        open_shared(base).map(Self::Shared)
    }

    /// The nodes for a `/dev` of its own.
    pub fn open_own(base: &Path) -> Result<Self, Refusal> {
        let dev = base.join("dev");
        let open = |(name, _, _): &(&str, u32, u32)| {
            mounts::detached(dev.join(name), libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)
        };
        DEVICES.iter().map(open).collect::<Result<_, _>>().map(Self::Own)
    }

    /// Shows them as `/dev` of the current root.
    ///
    /// In a directory of its own the step may make what it likes, but no device it makes there can be opened: the nodes that can
    /// be are mounts of their own.
    pub fn show(self) -> Result<(), Refusal> {
        match self {
            Self::Shared(tree) => mounts::attach(&tree, "/dev"),
            Self::Own(nodes) => {
                mounts::tmpfs("/dev", c"mode=0755,size=65536k")?;
                make_frame(Path::new("/dev"))?;
                for ((name, _, _), node) in DEVICES.iter().zip(nodes) {
                    let path = format!("/dev/{name}");
                    fs::write(&path, b"").doing("making /dev")?;
                    mounts::attach(&node, &path)?;
                }
                Ok(())
            }
        }
    }
}
