//! Root file systems, prepared in the launcher's mount namespace.
//!
//! A prepared root is a read-only mount with everything in it that does not differ from step to step: the
//! image's layers, `/dev`, and an empty place for every later mount. A new mount namespace is a copy of the
//! launcher's, so each step has its own copy of the prepared root for nothing. Layers are never written to:
//! places they lack come from a directory in memory overlaid on top.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, makedev, mknodat, openat2};
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount,
};

use crate::order::{Point, Root};
use crate::refusal::{Doing, Refusal};
use crate::sys;

/// Kept prepared at once: steps of a few pipelines that take turns.
const MOST_PREPARED: usize = 4;
/// Device nodes: name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

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
        roots.make_devices()?;
        Ok(roots)
    }

    /// The directory at which a root with these places is mounted, prepared now or before.
    pub fn prepare(&mut self, root: &Root, points: &[Point]) -> Result<&Path, Refusal> {
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
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let devices = open_tree(CWD, self.base.join("dev"), flags).doing("opening /dev")?;
        let here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&devices, "", &place, "", here).doing("mounting /dev")
    }

    /// Layers under a skeleton that has the places they lack.
    fn overlay(&self, layers: &[String], points: &[Point], dir: &Path) -> Result<(), Refusal> {
        let skeleton = skeleton_of(dir);
        fs::create_dir(&skeleton).doing("making a skeleton")?;
        // Short names through links: the option text of mount is limited and gives `:` and `,` a meaning.
        let links = layers_of(dir);
        fs::create_dir(&links).doing("making a directory for layers")?;
        let mut lower = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let link = links.join(number.to_string());
            symlink(layer, &link).doing("linking a layer")?;
            lower.insert(0, link.display().to_string());
        }
        match lower.as_slice() {
            [] => {
                return Err(Refusal::Place { target: "/".into(), reason: "the image has no layers".into() });
            }
            [only] => copy_attributes(Path::new(only), &skeleton)
                .and_then(|()| complete(only, &skeleton, points))?,
            _ => {
                self.mount_overlay(&lower, dir)?;
                copy_attributes(dir, &skeleton)?;
                complete(dir, &skeleton, points)?;
                unmount(dir, UnmountFlags::DETACH).doing("unmounting the view of the layers")?;
            }
        }
        lower.insert(0, skeleton.display().to_string());
        self.mount_overlay(&lower, dir)
    }

    fn mount_overlay(&self, lower: &[String], dir: &Path) -> Result<(), Refusal> {
        let user = if self.in_user_namespace { ",userxattr" } else { "" };
        let options =
            CString::new(format!("lowerdir={}{user}", lower.join(":"))).expect("no NUL in our own names");
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount("overlay", dir, "overlay", flags, options.as_c_str())
            .doing("overlaying the layers of the image (are all of them still there?)")
    }

    /// A `/dev` that all steps share: it is read-only, and devices do not mind.
    fn make_devices(&self) -> Result<(), Refusal> {
        let dev = self.base.join("dev");
        fs::create_dir(&dev).doing("making /dev")?;
        mount("tmpfs", &dev, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=0755")
            .doing("mounting /dev")?;
        for dir in ["pts", "shm"] {
            fs::create_dir(dev.join(dir)).doing("making /dev")?;
        }
        for (name, target) in DEVICE_LINKS {
            symlink(target, dev.join(name)).doing("making /dev")?;
        }
        let mode = Mode::from_raw_mode(0o666);
        for (name, major, minor) in DEVICES {
            let path = dev.join(name);
            let made = !self.in_user_namespace
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
}

fn stamps(root: &Root) -> Result<Vec<Stamp>, Refusal> {
    let dirs = match root {
        Root::Layers(layers) => layers.as_slice(),
        Root::Host { etc, .. } => std::slice::from_ref(etc),
    };
    let stamp = |dir: &String| {
        let found = fs::metadata(dir).doing(format_args!("looking at {dir}, a part of the image"))?;
        Ok((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
    };
    dirs.iter().map(stamp).collect()
}

/// Removes the directories a root was made of.
fn clear(dir: &Path) -> io::Result<()> {
    for leftover in [dir.to_owned(), skeleton_of(dir), layers_of(dir)] {
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

fn layers_of(dir: &Path) -> PathBuf {
    dir.with_extension("layers")
}

/// Shows a file or directory of the machine at another place of the launcher's namespace.
fn show_read_only(source: &Path, target: &Path, attributes: u64) -> Result<(), Refusal> {
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

/// Makes the places that the root seen at `view` lacks, in `skeleton`.
fn complete(view: impl AsRef<Path>, skeleton: &Path, points: &[Point]) -> Result<(), Refusal> {
    let view = open_root(view.as_ref())?;
    for point in points {
        complete_one(&view, skeleton, point)?;
    }
    Ok(())
}

fn complete_one(view: &OwnedFd, skeleton: &Path, point: &Point) -> Result<(), Refusal> {
    let no = |reason: &str| Refusal::Place { target: point.path.clone(), reason: reason.into() };
    let names: Vec<_> = names_of(&point.path).collect();
    let (depth, found) = (0..=names.len())
        .rev()
        .find_map(|depth| Some((depth, open_in(view, &names[..depth])?)))
        .ok_or_else(|| no("the image cannot be read"))?;
    let is_dir =
        rustix::fs::fstat(&found).doing("looking at the image")?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if depth == names.len() {
        return match (is_dir, point.file) {
            (true, true) => Err(no("the image has a directory there, a file is needed")),
            (false, false) => Err(no("the image has something there that is not a directory")),
            _ => Ok(()),
        };
    }
    if !is_dir {
        return Err(no("a directory above it is a file in the image"));
    }
    let top = real_path(view)?;
    let above = real_path(&found)?;
    let mut at = skeleton.to_owned();
    let mut seen = top.clone();
    for name in above.strip_prefix(&top).map_err(|_| no("it leads out of the image"))?.components() {
        at.push(name);
        seen.push(name);
        if make_dir(&at).doing(format_args!("making room for {}", point.path))? {
            copy_attributes(&seen, &at)?;
        }
    }
    let (last, between) = names[depth..].split_last().expect("the whole path was not found");
    for name in between {
        at.push(name);
        make_dir(&at).doing(format_args!("making room for {}", point.path))?;
    }
    at.push(last);
    if point.file { fs::write(&at, b"") } else { make_dir(&at).map(drop) }
        .doing(format_args!("making room for {}", point.path))
}

fn open_root(dir: &Path) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).doing("opening the image")
}

/// Opens a path of the image without ever leaving it.
fn open_in(view: &OwnedFd, names: &[&str]) -> Option<OwnedFd> {
    let path = if names.is_empty() { ".".to_owned() } else { names.join("/") };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(view, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).ok()
}

fn real_path(fd: &OwnedFd) -> Result<PathBuf, Refusal> {
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).doing("finding a place in the image")
}

fn make_dir(path: &Path) -> io::Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn copy_attributes(from: &Path, to: &Path) -> Result<(), Refusal> {
    let found = fs::metadata(from).doing(format_args!("looking at {}", from.display()))?;
    // In a user namespace most owners have no name; the directory then stays the step's own.
    let _ = chown(to, Some(found.uid()), Some(found.gid()));
    let mode = fs::Permissions::from_mode(found.mode() & 0o7777);
    fs::set_permissions(to, mode).doing(format_args!("setting the mode of {}", to.display()))
}

fn names_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// An absolute path of the machine, below `dir`.
fn below(dir: &Path, path: &Path) -> PathBuf {
    dir.join(path.components().filter(|c| matches!(c, Component::Normal(_))).collect::<PathBuf>())
}
