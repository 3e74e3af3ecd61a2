//! A stack of layers as one tree, read without mounting anything.
//!
//! What a path means is what the kernel's overlay of the same directories would say. A directory carries the numbers of the layers
//! that have a part of it, so what only one layer has is looked for in no other: deep stacks cost where they overlap. Links are
//! never followed here; [`crate::files::resolve`] follows them inside the view.
//!
//! The directories do not change while they are read (committed layers never do; a draft's owner waits), so a path of which
//! every component was seen to be a directory stays one.

use std::any::Any;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use quern_core::port::OpenLayers;
use rustix::io::Errno;

use super::node::{Node, Owners, stat_of};
use super::{Walk, list, marks, reach};
use crate::files::{FileKind, KnownDigests, Trust};

/// Why a view cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The file system refused.
    #[error("reading {}: {source}", path.display())]
    Io {
        /// Where, on disk.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Overlayfs was allowed to rename directories by reference.
    #[error("{} stands for a directory of another name; layers must be made by overlays that write no redirects", path.display())]
    Redirected {
        /// Where, on disk.
        path: PathBuf,
    },
}

impl ViewError {
    pub(super) fn io(path: &Path, error: Errno) -> Self {
        Self::Io { path: path.to_owned(), source: error.into() }
    }
}

/// A stack of layers as one tree. Clones share what they remember.
#[derive(Clone)]
pub struct View {
    inner: Arc<Inner>,
}

/// Keeps layers from being removed.
type Lease = Box<dyn Any + Send + Sync>;

struct Inner {
    /// Uppermost first.
    layers: Vec<Arc<Path>>,
    owners: Owners,
    /// What is remembered of the content of files, by layer; nothing where the view is not of a store.
    digests: Vec<OnceLock<KnownDigests>>,
    /// Directories looked up before, by path.
    known: Mutex<HashMap<PathBuf, Arc<Node>>>,
    /// Whole directories, for those who list one and then ask for what is in it.
    listed: Mutex<Listed>,
    /// Keeps the layers from being removed.
    _lease: Option<Lease>,
}

/// What was listed lately.
#[derive(Default)]
struct Listed {
    /// In byte order of the names.
    dirs: HashMap<PathBuf, Arc<[Arc<Node>]>>,
    /// Nodes in all of them.
    count: usize,
}

/// So many nodes of listed directories are remembered.
const LISTED: usize = 20_000;
/// So many directories are remembered.
const KNOWN: usize = 10_000;

impl View {
    /// A view of these directories, lowest first. None at all is an empty tree.
    pub fn new(dirs: &[PathBuf]) -> Self {
        Self::build(dirs, None, Owners::default())
    }

    /// A view of open layers that keeps them open.
    pub fn of(layers: OpenLayers) -> Self {
        Self::build(&layers.dirs, Some(layers.lease), Owners::default())
    }

    /// The same view with owners as steps see them.
    #[must_use]
    pub fn with_owners(self, owners: Owners) -> Self {
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => Self {
                inner: Arc::new(Inner { owners, known: Mutex::default(), listed: Mutex::default(), ..inner }),
            },
            Err(inner) => {
                let lease: Lease = Box::new(Arc::clone(&inner));
                let layers = inner.layers.clone();
                Self {
                    inner: Arc::new(Inner {
                        layers,
                        owners,
                        digests: Vec::new(),
                        known: Mutex::default(),
                        listed: Mutex::default(),
                        _lease: Some(lease),
                    }),
                }
            }
        }
    }

    /// The same view, which remembers the content of files: for each layer `digests` in the folder its directory is in.
    #[must_use]
    pub(super) fn remembering(self) -> Self {
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => {
                let digests = inner.layers.iter().map(|_| OnceLock::new()).collect();
                Self { inner: Arc::new(Inner { digests, ..inner }) }
            }
            Err(inner) => Self { inner },
        }
    }

    /// What is remembered of the files of a node's layer.
    pub(super) fn digests_of(&self, node: &Node) -> Option<&KnownDigests> {
        let number = self.inner.layers.iter().position(|layer| Arc::ptr_eq(layer, &node.layer))?;
        let place = node.layer.parent()?.join("digests");
        let known = self.inner.digests.get(number)?;
        Some(known.get_or_init(|| KnownDigests::open(Some(&place), Trust::Immutable)))
    }

    fn build(dirs: &[PathBuf], lease: Option<Lease>, owners: Owners) -> Self {
        let layers = dirs.iter().rev().map(|dir| Arc::from(dir.as_path())).collect();
        let (digests, known, listed) = (Vec::new(), Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { layers, owners, digests, known, listed, _lease: lease }) }
    }

    /// The root directory. That of no layers at all is empty and root's.
    ///
    /// # Errors
    /// [`ViewError`]
    pub fn root(&self) -> Result<Node, ViewError> {
        let Some(top) = self.inner.layers.first() else { return Ok(Node::nothing()) };
        let found = reach::stat(top).map_err(|error| ViewError::io(top, error))?;
        // The kernel merges all roots, whatever marks they have.
        let parts = (0u32..).zip(&self.inner.layers).map(|(number, _)| number).collect();
        let stat = stat_of(&found, self.inner.owners);
        Ok(Node { path: PathBuf::new(), stat, layer: Arc::clone(top), parts })
    }

    /// What is at a path of plain names; none if there is nothing, or a link on the way.
    ///
    /// # Errors
    /// [`ViewError`]
    pub fn find(&self, path: &Path) -> Result<Option<Node>, ViewError> {
        Ok(self.find_shared(path)?.map(Arc::unwrap_or_clone))
    }

    pub(super) fn find_shared(&self, path: &Path) -> Result<Option<Arc<Node>>, ViewError> {
        if let Some(node) = self.known().get(path) {
            return Ok(Some(Arc::clone(node)));
        }
        let Some(name) = path.file_name() else {
            return Ok(if path.as_os_str().is_empty() { Some(Arc::new(self.root()?)) } else { None });
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.find_shared(parent)? {
            Some(dir) if dir.is_dir() => self.child(&dir, name),
            _ => Ok(None),
        }
    }

    /// What is in a directory of this view, in byte order of the names.
    ///
    /// # Errors
    /// [`ViewError`]
    pub fn list(&self, dir: &Node) -> Result<Vec<Node>, ViewError> {
        Ok(list::list(&self.inner.layers, self.inner.owners, dir)?.nodes)
    }

    /// Everything below a directory of this view: parents before their children, siblings in byte order.
    pub fn walk(&self, dir: &Node) -> Walk {
        Walk::new(self.clone(), dir)
    }

    /// One listing with what only layers have.
    pub(super) fn list_raw(&self, dir: &Node) -> Result<list::Listing, ViewError> {
        list::list(&self.inner.layers, self.inner.owners, dir)
    }

    /// One entry of a directory, looked up from the uppermost layer down.
    fn child(&self, dir: &Node, name: &OsStr) -> Result<Option<Arc<Node>>, ViewError> {
        // No file system has longer names, and asking would be an error.
        if name.len() > 255 {
            return Ok(None);
        }
        let path = dir.path.join(name);
        if let Some(nodes) = self.listed().dirs.get(&dir.path).map(Arc::clone) {
            let found = nodes.binary_search_by(|node| node.path.as_os_str().cmp(path.as_os_str()));
            return Ok(found.ok().map(|at| Arc::clone(&nodes[at])));
        }
        let mut found: Option<Node> = None;
        for (at, number) in dir.parts.iter().enumerate() {
            let layer = &self.inner.layers[*number as usize];
            let place = layer.join(&path);
            let here = match reach::stat(&place) {
                Ok(here) => here,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(ViewError::io(&place, error)),
            };
            if marks::is_whiteout(&here) {
                break;
            }
            let stat = stat_of(&here, self.inner.owners);
            let is_dir = stat.kind == FileKind::Dir;
            if found.is_some() && !is_dir {
                break;
            }
            let new = || Node { path: path.clone(), stat, layer: Arc::clone(layer), parts: Vec::new() };
            let node = found.get_or_insert_with(new);
            if !is_dir {
                break;
            }
            node.parts.push(*number);
            if at + 1 < dir.parts.len() && hides_what_is_below(&place)? {
                break;
            }
        }
        let Some(node) = found.map(Arc::new) else { return Ok(None) };
        if node.is_dir() {
            let mut known = self.known();
            if known.len() >= KNOWN {
                known.clear();
            }
            known.insert(path, Arc::clone(&node));
        }
        Ok(Some(node))
    }

    /// The contents of a directory, remembered for a while.
    pub(super) fn list_shared(&self, dir: &Node) -> Result<Arc<[Arc<Node>]>, ViewError> {
        if let Some(nodes) = self.listed().dirs.get(&dir.path) {
            return Ok(Arc::clone(nodes));
        }
        let nodes: Arc<[_]> = self.list(dir)?.into_iter().map(Arc::new).collect();
        let mut listed = self.listed();
        if listed.count + nodes.len() > LISTED {
            *listed = Listed::default();
        }
        if listed.dirs.insert(dir.path.clone(), Arc::clone(&nodes)).is_none() {
            listed.count += nodes.len();
        }
        Ok(nodes)
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.inner.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Node>>> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a directory is opaque.
pub(super) fn hides_what_is_below(place: &Path) -> Result<bool, ViewError> {
    let marks = marks::Marks::of(place).map_err(|error| ViewError::io(place, error))?;
    if marks.redirected {
        return Err(ViewError::Redirected { path: place.to_owned() });
    }
    Ok(marks.opaque)
}
