//! Overlay mounts, in the one form whose layers can be moved, packed and put under other layers.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};
use rustix::process::chdir;

use crate::order::Upper;
use crate::refusal::{Doing, Refusal};

/// Every entry of a layer means something by itself, whatever the kernel was built with: renames by reference and files of
/// attributes only are neither made nor, should a layer bring them along, believed.
const PLAIN: &str = ",redirect_dir=nofollow,metacopy=off,index=off,xino=off";
/// What a program syncs is not synced: its layer is kept or thrown away as a whole, and made durable by whoever keeps it.
const UPPER: &str = ",volatile";
const OPEN_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Overlays directories, highest first, at a place. What is written goes to `upper`; without one, it is read-only.
///
/// The option text of a mount is limited to a page and gives `:` and `,` a meaning. So the directories are opened and
/// named by their numbers in `/proc/self/fd`, which leaves room for more of them than the kernel takes (500).
pub(crate) fn mount_overlay(
    lowers: &[impl AsRef<Path>],
    upper: Option<&Upper>,
    at: &Path,
    in_user_namespace: bool,
) -> Result<(), Refusal> {
    let mut open = Vec::with_capacity(lowers.len() + 2);
    let mut options = String::from("lowerdir=");
    let mut seen = BTreeSet::new();
    for dir in lowers.iter().map(AsRef::as_ref) {
        // A layer adds nothing below itself, and the kernel refuses one that comes twice.
        if seen.insert(dir) {
            let between = if seen.len() == 1 { "" } else { ":" };
            let _ = write!(options, "{between}{}", name(open_dir(dir)?, &mut open));
        }
    }
    let mut flags = MountFlags::NODEV;
    match upper {
        Some(upper) => {
            let (dir, work) = (open_dir(upper.dir.as_ref())?, open_dir(upper.work.as_ref())?);
            let (dir, work) = (name(dir, &mut open), name(work, &mut open));
            let _ = write!(options, ",upperdir={dir},workdir={work}{UPPER}");
        }
        None => flags |= MountFlags::RDONLY | MountFlags::NOSUID,
    }
    options.push_str(PLAIN);
    if in_user_namespace {
        options.push_str(",userxattr");
    }
    let at = rustix::fs::open(at, OPEN_DIR, Mode::empty()).doing("opening a place for the layers")?;
    let at = name(at, &mut open).to_string();
    let options = CString::new(options).expect("numbers have no NUL");
    chdir("/proc/self/fd").doing("entering the directory of open files")?;
    let done = mount("overlay", at, "overlay", flags, options.as_c_str())
        .doing("overlaying the layers of the image");
    chdir("/").doing("leaving the directory of open files")?;
    done
}

fn open_dir(dir: &Path) -> Result<OwnedFd, Refusal> {
    rustix::fs::open(dir, OPEN_DIR, Mode::empty())
        .doing(format_args!("opening {}, a layer of the image (was it removed?)", dir.display()))
}

/// Keeps a directory open and gives its name among the open files.
fn name(dir: OwnedFd, open: &mut Vec<OwnedFd>) -> i32 {
    let number = dir.as_raw_fd();
    open.push(dir);
    number
}
