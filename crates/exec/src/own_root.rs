//! The root file system of one step, built by the first process of its sandbox.
//!
//! Steps of image builds change their root, so each has another one below it and nothing can be prepared. All of it
//! is mounted in the sandbox's own namespace and is gone with it, however the step ends.
//!
//! Places that the image lacks lie in memory *below* its layers, so that they never show up in what the step changed, and
//! directories of the image keep their own attributes. Where a layer hides such a place again (it removed a directory, or has
//! a link there), a second directory above the layers has it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::order::{Point, Upper};
use crate::overlay::mount_overlay;
use crate::refusal::{Doing, Refusal};
use crate::skeleton::{complete, copy_attributes};

/// Where sandboxes put what they need beside their roots; a directory of the launcher's memory.
const ROOM: &str = "step";

/// Memory of one sandbox, for places and views.
pub(crate) struct Room {
    dir: PathBuf,
    in_user_namespace: bool,
    views: usize,
}

/// Makes the place at which every sandbox mounts its own room.
pub(crate) fn make_place(base: &Path) -> Result<(), Refusal> {
    fs::create_dir(base.join(ROOM)).doing("making a place for roots")
}

impl Room {
    /// Mounts empty memory in this process's namespace.
    pub fn new(base: &Path, in_user_namespace: bool) -> Result<Self, Refusal> {
        let dir = base.join(ROOM);
        mount("tmpfs", &dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
            .doing("mounting memory for a root")?;
        Ok(Self { dir, in_user_namespace, views: 0 })
    }

    fn new_dir(&self, name: &str) -> Result<PathBuf, Refusal> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).doing("making a place for a root")?;
        Ok(dir)
    }

    /// Mounts a root of these layers (lowest first) with these places and says where.
    pub fn mount_root(
        &self,
        layers: &[String],
        upper: Option<&Upper>,
        points: &[Point],
    ) -> Result<PathBuf, Refusal> {
        let (below, root) = (self.new_dir("below")?, self.new_dir("root")?);
        complete(&below, &below, points)?;
        if let Some(upper) = upper {
            // The root directory itself is the upper one.
            let top = layers.last().map_or(below.as_path(), Path::new);
            copy_attributes(top, Path::new(&upper.dir))?;
        }
        let mut lowers: Vec<&Path> = layers.iter().rev().map(Path::new).collect();
        lowers.push(&below);
        if lowers.len() == 1 && upper.is_none() {
            lowers.push(&root);
        }
        mount_overlay(&lowers, upper, &root, self.in_user_namespace)?;
        let above = self.new_dir("above")?;
        if complete(&root, &above, points)? {
            copy_attributes(&root, &above)?;
            unmount(&root, UnmountFlags::empty()).doing("unmounting a root that lacks places")?;
            if let Some(upper) = upper {
                forget_first_mount(upper)?;
            }
            lowers.insert(0, &above);
            mount_overlay(&lowers, upper, &root, self.in_user_namespace)?;
        }
        Ok(root)
    }

    /// Mounts the layers of a snapshot (lowest first) for a look inside, until [`Room::unmount_view`].
    pub fn mount_view(&mut self, layers: &[String], upper: Option<&Upper>) -> Result<PathBuf, Refusal> {
        self.views += 1;
        let view = self.new_dir(&format!("view-{}", self.views))?;
        let empty = self.new_dir(&format!("empty-{}", self.views))?;
        let mut lowers: Vec<&Path> = layers.iter().rev().map(Path::new).collect();
        lowers.push(&empty);
        if lowers.len() > 1 || upper.is_some() {
            if let (Some(upper), Some(top)) = (upper, layers.last()) {
                copy_attributes(Path::new(top), Path::new(&upper.dir))?;
            }
            mount_overlay(&lowers, upper, &view, self.in_user_namespace)?;
        }
        Ok(view)
    }

    /// Unmounts a view; what was opened of it keeps it.
    pub fn unmount_view(&self, view: &Path) {
        // A view of nothing is no mount.
        let _ = unmount(view, UnmountFlags::DETACH);
    }
}

/// An upper directory that is not synced is refused a second time, unless the kernel's mark is gone.
fn forget_first_mount(upper: &Upper) -> Result<(), Refusal> {
    fs::remove_dir_all(Path::new(&upper.work).join("work")).doing("mounting a root again")
}
