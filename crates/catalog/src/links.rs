//! Links a program left in its output. A commit's tree must mean the same wherever it is mounted, so no link leaves this
//! place: each becomes what it points to, by digest, without copying bytes.
//!
//! - Into `/pfs/<input>`: the input's file or directory, asked from the caller.
//! - Into `/pfs/out`, absolute or relative: that file or directory of the output itself.
//! - Anywhere else, to nothing, or in a circle: an error that names link and target.
//!
//! `..` is resolved by text, as the links of a tree that is not on disk must be.

use std::collections::HashMap;

use quern_core::port::{Blobs, PortError};
use quern_core::{ContentRef, Entry, Tree, TreePath};

use crate::tree::{MOST_DEPTH, TreesError, below, open, save, too_deep};

/// Links followed one after the other, as in Linux.
const MOST_HOPS: u32 = 40;
/// Links in one output, once all are replaced; a few directories linking to each other could otherwise fill the world.
const MOST_FOLLOWED: u64 = 1_000_000;

/// What a link into an input points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkTarget<'a> {
    /// Name of the input.
    pub input: &'a str,
    /// Path in it.
    pub path: &'a TreePath,
}

/// Why a link cannot be replaced by what it points to.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It points to nothing.
    #[error("link `{link}` in the output points to `{target}`, where nothing is")]
    Dangling {
        /// The link.
        link: TreePath,
        /// Its target as written.
        target: String,
    },
    /// It points out of the data of the datum.
    #[error(
        "link `{link}` in the output points to `{target}`; only links into /pfs can be kept, so copy the file instead"
    )]
    Outside {
        /// The link.
        link: TreePath,
        /// Its target as written.
        target: String,
    },
    /// It leads to itself, or to too much.
    #[error(
        "link `{link}` in the output points to `{target}`, which leads round in a circle or to too many files"
    )]
    Circle {
        /// The link.
        link: TreePath,
        /// Its target as written.
        target: String,
    },
    /// The trees cannot be read or written.
    #[error(transparent)]
    Trees(#[from] TreesError),
}

impl From<PortError> for LinkError {
    fn from(error: PortError) -> Self {
        Self::Trees(error.into())
    }
}

/// The output with every link replaced by what it points to; the same reference if it has none.
///
/// # Errors
/// [`LinkError`]; those of `input`, which gives what is at a path of an input, if anything is.
pub fn resolve_links(
    blobs: &dyn Blobs,
    output: &ContentRef,
    input: &dyn Fn(LinkTarget<'_>) -> Result<Option<Entry>, LinkError>,
) -> Result<ContentRef, LinkError> {
    let mut resolver = Resolver { blobs, output, input, followed: 0, nested: 0, known: HashMap::new() };
    resolver.directory(output, &TreePath::root(), 0)
}

struct Resolver<'a> {
    blobs: &'a dyn Blobs,
    output: &'a ContentRef,
    input: &'a dyn Fn(LinkTarget<'_>) -> Result<Option<Entry>, LinkError>,
    followed: u64,
    /// Directories being looked at, each in the one before or where a link in it leads.
    nested: usize,
    /// Paths of the output that a link led to: what they are without links, and how many links that took.
    known: HashMap<TreePath, (Entry, u64)>,
}

/// A link being followed.
struct Hop<'a> {
    link: &'a TreePath,
    target: &'a str,
    hops: u32,
}

impl Hop<'_> {
    fn dangling(&self) -> LinkError {
        LinkError::Dangling { link: self.link.clone(), target: self.target.to_owned() }
    }
}

impl Resolver<'_> {
    fn directory(&mut self, dir: &ContentRef, path: &TreePath, hops: u32) -> Result<ContentRef, LinkError> {
        self.nested += 1;
        if self.nested > MOST_DEPTH {
            return Err(too_deep(path.as_str()).into());
        }
        let mut entries = open(self.blobs, dir)?.into_entries();
        let mut changed = false;
        for (name, entry) in &mut entries {
            let resolved = match &*entry {
                Entry::File { .. } => continue,
                Entry::Dir(dir) => {
                    let path = below(path, name)?;
                    Entry::Dir(self.directory(dir, &path, hops)?)
                }
                Entry::Link(target) => {
                    let link = below(path, name)?;
                    self.follow(&Hop { link: &link, target, hops: hops + 1 })?
                }
            };
            changed |= resolved != *entry;
            *entry = resolved;
        }
        self.nested -= 1;
        if !changed {
            return Ok(*dir);
        }
        Ok(save(self.blobs, &Tree::new(entries).map_err(TreesError::from)?)?)
    }

    fn follow(&mut self, hop: &Hop<'_>) -> Result<Entry, LinkError> {
        self.followed += 1;
        if hop.hops > MOST_HOPS || self.followed > MOST_FOLLOWED {
            return Err(LinkError::Circle { link: hop.link.clone(), target: hop.target.to_owned() });
        }
        let outside = || LinkError::Outside { link: hop.link.clone(), target: hop.target.to_owned() };
        let names = absolute(hop.link, hop.target);
        let [first, place, rest @ ..] = names.as_slice() else { return Err(outside()) };
        if *first != "pfs" {
            return Err(outside());
        }
        let path = TreePath::parse(&rest.join("/")).map_err(TreesError::from)?;
        if *place == "out" {
            if let Some((entry, followed)) = self.known.get(&path) {
                self.followed += followed;
                return Ok(entry.clone());
            }
            let before = self.followed;
            let entry = self.in_output(&path, hop)?;
            self.known.insert(path, (entry.clone(), self.followed - before));
            return Ok(entry);
        }
        (self.input)(LinkTarget { input: place, path: &path })?.ok_or_else(|| hop.dangling())
    }

    /// What is at a path of the output, through further links if need be.
    fn in_output(&mut self, path: &TreePath, hop: &Hop<'_>) -> Result<Entry, LinkError> {
        let mut entry = Entry::Dir(*self.output);
        let mut here = TreePath::root();
        let mut names = path.names();
        loop {
            if let Entry::Link(target) = &entry {
                let rest: Vec<&str> = names.collect();
                let target = [[target.as_str()].as_slice(), &rest].concat().join("/");
                return self.follow(&Hop { link: &here, target: &target, hops: hop.hops + 1 });
            }
            let Some(name) = names.next() else { break };
            let Entry::Dir(dir) = &entry else { return Err(hop.dangling()) };
            let found = open(self.blobs, dir)?.get(name).cloned();
            entry = found.ok_or_else(|| hop.dangling())?;
            here = here.child(name).map_err(TreesError::from)?;
        }
        match entry {
            Entry::Dir(dir) => Ok(Entry::Dir(self.directory(&dir, &here, hop.hops)?)),
            other => Ok(other),
        }
    }
}

/// Where a link leads as names from the root of the file system, the output being mounted at `/pfs/out`.
fn absolute<'a>(link: &'a TreePath, target: &'a str) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    if !target.starts_with('/') {
        names.extend(["pfs", "out"]);
        names.extend(link.names());
        names.pop();
    }
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names
}
