//! Root file systems, prepared in the launcher's mount namespace.
//!
//! A prepared root is a read-only mount with everything in it that does not differ from step to step: the
//! image's layers, `/dev`, and an empty place for every later mount. A new mount namespace is a copy of the
//! launcher's, so each step has its own copy of the prepared root for nothing. Layers are never written to:
//! places they lack come from a directory in memory overlaid on top.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount,
};

use crate::devices;
use crate::order::{Point, Root};
use crate::overlay::mount_overlay;
use crate::own_root;
use crate::refusal::{Doing, Refusal};
use crate::skeleton::{complete, copy_attributes, open_in, open_root};
use crate::sys;

/// Kept prepared at once: steps of a few pipelines that take turns.
const MOST_PREPARED: usize = 4;
const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
/// The prepared roots of one launcher.
pub(crate) struct Roots {
    base: PathBuf,
    /// Whether the launcher is root only in a user namespace of its own.
    in_user_namespace: bool,
    /// Least recently used first.
    prepared: Vec<Prepared>,
    made: u64,
}

struct Prepared {
    root: Root,
    points: Vec<Point>,
    /// What its directories were when it was prepared.
    stamps: Vec<Stamp>,
    dir: PathBuf,
}

/// Tells a directory from another that was later made at its place: device, number, time of the last change.
type Stamp = (u64, u64, i64, i64);

impl Roots {
    /// Makes room for roots, in memory, over a directory that no step needs from the machine.
    pub fn new(in_user_namespace: bool) -> Result<Self, Refusal> {
        let base = ["/sys", "/mnt", "/media", "/srv"].iter().map(Path::new).find(|dir| dir.is_dir());
        let base = base.ok_or_else(|| Refusal::Place {
            target: "/sys".into(),
            reason: "the machine has none of the directories /sys, /mnt, /media and /srv".into(),
        })?;
        mount("tmpfs", base, "tmpfs", MountFlags::NOSUID, c"mode=0755")
            .doing("mounting the launcher's memory")?;
        let roots = Self { base: base.to_owned(), in_user_namespace, prepared: Vec::new(), made: 0 };
        devices::make(&roots.base, in_user_namespace)?;
        own_root::make_place(&roots.base)?;
        Ok(roots)
    }

    /// The directory at which a root with these places is mounted, prepared now or before; for a root of its own
    /// the directory that holds what [`crate::own_root`] needs.
    pub fn prepare(&mut self, root: &Root, points: &[Point]) -> Result<&Path, Refusal> {
        if matches!(root, Root::Own { .. }) {
            return Ok(&self.base);
        }
        let stamps = stamps(root)?;
        let same = |p: &Prepared| p.root == *root && p.points == points && p.stamps == stamps;
        let known = self.prepared.iter().position(same);
        let prepared = match known {
            Some(index) => self.prepared.remove(index),
            None => {
                if self.prepared.len() == MOST_PREPARED {
                    self.dispose(0)?;
                }
                Prepared {
                    root: root.clone(),
                    points: points.to_vec(),
                    stamps,
                    dir: self.build(root, points)?,
                }
            }
        };
        self.prepared.push(prepared);
        Ok(&self.prepared.last().expect("just pushed").dir)
    }

    fn dispose(&mut self, index: usize) -> Result<(), Refusal> {
        let old = self.prepared.remove(index);
        unmount(&old.dir, UnmountFlags::DETACH).doing("unmounting an old root")?;
        clear(&old.dir).doing("removing an old root")
    }

    fn build(&mut self, root: &Root, points: &[Point]) -> Result<PathBuf, Refusal> {
        self.made += 1;
        let dir = self.base.join(self.made.to_string());
        fs::create_dir(&dir).doing("making a directory for a root")?;
        let built = match root {
            Root::Layers(layers) => self.overlay(layers, points, &dir),
            Root::Host { places, etc } => host_root(places, etc, points, &dir),
            Root::Own { .. } => unreachable!("such roots are not prepared"),
        };
        let built = built.and_then(|()| self.show_devices(&dir));
        if built.is_err() {
            while unmount(&dir, UnmountFlags::DETACH).is_ok() {}
            clear(&dir).doing("removing a root that could not be prepared")?;
        }
        built.map(|()| dir)
    }

    /// Mounts the shared `/dev` in a root, wherever inside of it a link may lead.
    fn show_devices(&self, dir: &Path) -> Result<(), Refusal> {
        let root = open_root(dir)?;
        let place =
            open_in(&root, &["dev"]).ok_or(rustix::io::Errno::NOENT).doing("opening /dev of a root")?;
        let devices = devices::open_shared(&self.base)?;
        let here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&devices, "", &place, "", here).doing("mounting /dev")
    }

    /// Layers under a skeleton that has the places they lack.
    fn overlay(&self, layers: &[String], points: &[Point], dir: &Path) -> Result<(), Refusal> {
        let skeleton = skeleton_of(dir);
        fs::create_dir(&skeleton).doing("making a skeleton")?;
        let mut lowers: Vec<&Path> = layers.iter().rev().map(Path::new).collect();
        match lowers.as_slice() {
            [] => {
                return Err(Refusal::Place { target: "/".into(), reason: "the image has no layers".into() });
            }
            [only] => {
                copy_attributes(only, &skeleton)?;
                complete(only, &skeleton, points)?;
            }
            _ => {
                mount_overlay(&lowers, None, dir, self.in_user_namespace)?;
                copy_attributes(dir, &skeleton)?;
                complete(dir, &skeleton, points)?;
                unmount(dir, UnmountFlags::DETACH).doing("unmounting the view of the layers")?;
            }
        }
        lowers.insert(0, &skeleton);
        mount_overlay(&lowers, None, dir, self.in_user_namespace)
    }
}

fn stamps(root: &Root) -> Result<Vec<Stamp>, Refusal> {
    let dirs = match root {
        Root::Layers(layers) => layers.as_slice(),
        Root::Host { etc, .. } => std::slice::from_ref(etc),
        Root::Own { .. } => &[],
    };
    let stamp = |dir: &String| {
        let found = fs::metadata(dir).doing(format_args!("looking at {dir}, a part of the image"))?;
        Ok((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
    };
    dirs.iter().map(stamp).collect()
}

/// Removes the directories a root was made of.
fn clear(dir: &Path) -> io::Result<()> {
    for leftover in [dir.to_owned(), skeleton_of(dir)] {
        match fs::remove_dir_all(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn skeleton_of(dir: &Path) -> PathBuf {
    dir.with_extension("skeleton")
}

/// Shows a file or directory of the machine at another place of the launcher's namespace.
pub(crate) fn show_read_only(source: &Path, target: &Path, attributes: u64) -> Result<(), Refusal> {
    let doing = format_args!("showing {}", source.display());
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, source, flags).doing(doing)?;
    sys::set_mount_attributes(&tree, attributes, true).doing(doing)?;
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).doing(doing)
}

/// A root of directories of the machine, read-only, in an otherwise empty file system.
fn host_root(places: &[String], etc: &str, points: &[Point], dir: &Path) -> Result<(), Refusal> {
    mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
        .doing("mounting a root")?;
    let at = dir.join("etc");
    fs::create_dir(&at).doing("making /etc")?;
    show_read_only(Path::new(etc), &at, READ_ONLY)?;
    let mut places: Vec<&Path> = places.iter().map(Path::new).collect();
    places.sort();
    let mut shown = vec![Path::new("/etc")];
    for place in places {
        // What lies below is visible with it, also through a link.
        if !shown.iter().any(|above| place.starts_with(above)) {
            show_place(place, dir)?;
            shown.push(place);
        }
    }
    complete(dir, dir, points)?;
    let tree = open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLOEXEC).doing("opening a root")?;
    sys::set_mount_attributes(tree, libc::MOUNT_ATTR_RDONLY, false).doing("making a root read-only")
}

/// Shows one place of the machine in a root.
fn show_place(place: &Path, dir: &Path) -> Result<(), Refusal> {
    let doing = format_args!("showing {}", place.display());
    let found = fs::symlink_metadata(place).doing(doing)?;
    let at = below(dir, place);
    fs::create_dir_all(at.parent().unwrap_or(dir)).doing(doing)?;
    if found.is_symlink() {
        let target = fs::read_link(place).doing(doing)?;
        return symlink(target, &at).doing(doing);
    }
    if found.is_dir() { fs::create_dir(&at) } else { fs::write(&at, b"") }.doing(doing)?;
    show_read_only(place, &at, READ_ONLY)
}

/// An absolute path of the machine, below `dir`.
fn below(dir: &Path, path: &Path) -> PathBuf {
    dir.join(path.components().filter(|c| matches!(c, Component::Normal(_))).collect::<PathBuf>())
}
