//! Listing a directory that several layers may have parts of.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags, RawDir, statat};
use rustix::io::Errno;

use super::node::{Node, Owners, modified, stat_of};
use super::view::{View, ViewError, hides_what_is_below};
use super::{marks, reach};
use crate::files::FileKind;

/// What is in a directory.
pub(super) struct Listing {
    /// In byte order of their names.
    pub(super) nodes: Vec<Node>,
    /// Names that the layers say are not there any more, and when they said it (nanoseconds since 1970); in byte order.
    pub(super) whiteouts: Vec<(OsString, i64)>,
}

/// Names in the layers so far.
struct Merge<'a> {
    layers: &'a [Arc<Path>],
    owners: Owners,
    dir: &'a Node,
    nodes: Vec<Node>,
    whiteouts: Vec<(OsString, i64)>,
    /// What layers below may add to; only kept if there are some.
    seen: HashMap<OsString, Seen>,
}

#[derive(Clone, Copy)]
enum Seen {
    /// A directory to which lower layers may have more parts, by its place in `nodes`.
    Open(usize),
    /// Lower layers do not count.
    Closed,
}

pub(super) fn list(layers: &[Arc<Path>], owners: Owners, dir: &Node) -> Result<Listing, ViewError> {
    let (nodes, whiteouts, seen) = Default::default();
    let mut merge = Merge { layers, owners, dir, nodes, whiteouts, seen };
    for (at, number) in dir.parts.iter().enumerate() {
        merge.add(*number, at + 1 == dir.parts.len())?;
    }
    let Merge { mut nodes, mut whiteouts, .. } = merge;
    // All have the same parent, so this is the order of their names.
    nodes.sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    whiteouts.sort_unstable();
    Ok(Listing { nodes, whiteouts })
}

impl Merge<'_> {
    /// Adds one layer's part of the directory; `lowest` if it is the last one.
    fn add(&mut self, number: u32, lowest: bool) -> Result<(), ViewError> {
        let place = self.layers[number as usize].join(&self.dir.path);
        let failed = |error| ViewError::io(&place, error);
        let fd = reach::open(&place, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
        let mut entries = RawDir::new(fd.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            match self.seen.get(name).copied() {
                Some(Seen::Closed) => {}
                Some(Seen::Open(index)) => {
                    let is_dir = match entry.file_type() {
                        FileType::Unknown => {
                            let stat = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                            FileType::from_raw_mode(stat.st_mode).is_dir()
                        }
                        known => known.is_dir(),
                    };
                    if is_dir {
                        self.nodes[index].parts.push(number);
                    }
                    if !is_dir || (!lowest && hides_what_is_below(&place.join(name))?) {
                        self.seen.insert(name.to_owned(), Seen::Closed);
                    }
                }
                None => {
                    let stat = match statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => stat,
                        Err(Errno::NOENT) => continue,
                        Err(error) => return Err(failed(error)),
                    };
                    let seen = self.add_new(number, name, &stat, lowest)?;
                    if !lowest {
                        self.seen.insert(name.to_owned(), seen);
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds a name that no layer above has.
    fn add_new(
        &mut self,
        number: u32,
        name: &OsStr,
        found: &rustix::fs::Stat,
        lowest: bool,
    ) -> Result<Seen, ViewError> {
        if marks::is_whiteout(found) {
            self.whiteouts.push((name.to_owned(), modified(found)));
            return Ok(Seen::Closed);
        }
        let (path, layer) = (self.dir.path.join(name), Arc::clone(&self.layers[number as usize]));
        let stat = stat_of(found, self.owners);
        let is_dir = stat.kind == FileKind::Dir;
        let node = Node { path, stat, layer, parts: if is_dir { vec![number] } else { Vec::new() } };
        let open = is_dir && !lowest && !hides_what_is_below(&node.real_path())?;
        self.nodes.push(node);
        Ok(if open { Seen::Open(self.nodes.len() - 1) } else { Seen::Closed })
    }
}

/// See [`View::walk`]. After an error it goes on with what follows.
pub struct Walk {
    view: View,
    /// What comes next is last.
    todo: Vec<Node>,
    /// The directory given last, not yet opened.
    dir: Option<Node>,
    failed: Option<ViewError>,
}

impl Walk {
    pub(super) fn new(view: View, dir: &Node) -> Self {
        let mut walk = Self { view, todo: Vec::new(), dir: Some(dir.clone()), failed: None };
        walk.enter();
        walk
    }

    /// Passes over what is in the directory that was given last.
    pub fn skip_contents(&mut self) {
        self.dir = None;
    }

    fn enter(&mut self) {
        let Some(dir) = self.dir.take().filter(Node::is_dir) else { return };
        match self.view.list(&dir) {
            Ok(nodes) => self.todo.extend(nodes.into_iter().rev()),
            Err(error) => self.failed = Some(error),
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Node, ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.enter();
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        let node = self.todo.pop()?;
        self.dir = Some(node.clone());
        Some(Ok(node))
    }
}
