//! From an input expression to datums: the units of work of a pipeline.
//!
//! A pfs input has one datum per file or directory its pattern chooses, in the order of paths. A cross has the product of
//! its members, the first one running fastest; a union has one member's datums after the other's. Products are not
//! written out: a datum is made from its index when it is asked for.
//!
//! **Key.** The key of a datum is made from content only: input name, path, kind and digest of each of its files, in the
//! order of input names. So neither commit ids nor history nor the order of a spec play a part. Encoding, fixed
//! for ever (`|` joins bytes):
//! - leaf = H( H("quern.leaf.v1" | input name) | 32 zero bytes | kind: `f` file, `x` executable, `d` directory,
//!   `l` link | digest of the content, for a link of its target | path with leading slash );
//! - key = H( H("quern.datum.v1") | 32 zero bytes | leaf digests ).
//!
//! The first 64 bytes are one block of SHA-256 and computed once. That is why it is not the general encoding of
//! [`quern_core::canon`]: a hundred thousand datums take half the time.

use std::sync::Arc;

use quern_core::port::Blobs;
use quern_core::{ContentRef, Digest, DigestWriter, Entry, TreePath};

use crate::pattern::{PathPattern, choose, choose_changed};
use crate::tree::{TreesError, place};

/// What datums are made of.
pub enum DatumInput<'a> {
    /// Files of a commit.
    Pfs(PfsInput<'a>),
    /// Every combination of the members' datums.
    Cross(Vec<DatumInput<'a>>),
    /// The datums of all members.
    Union(Vec<DatumInput<'a>>),
    /// Combinations that agree in a part of their paths. Not executed yet.
    Join(Vec<DatumInput<'a>>),
    /// All files that agree in a part of their paths. Not executed yet.
    Group(Vec<DatumInput<'a>>),
}

/// Files of a commit, chosen by a pattern.
pub struct PfsInput<'a> {
    /// Name of the input; its files appear below `/pfs/<name>`.
    pub name: String,
    /// The files; none if the branch has no commit, which makes no datums.
    pub tree: Option<ContentRef>,
    /// Which of them are datums.
    pub pattern: &'a dyn PathPattern,
}

/// Why there are no datums.
#[derive(Debug, thiserror::Error)]
pub enum DatumError {
    /// A kind of input that is not executed yet.
    #[error("inputs of kind `{0}` cannot be executed yet; use `pfs`, `cross` and `union`")]
    NotExecutedYet(&'static str),
    /// More datums than can be counted.
    #[error("the input has more than 2^63 datums; narrow a pattern")]
    TooMany,
    /// The files cannot be read.
    #[error(transparent)]
    Trees(#[from] TreesError),
}

/// One file or directory of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Name of the input.
    pub input: Arc<str>,
    /// Path with leading slash; `/` for everything.
    pub path: Box<str>,
    /// What is there.
    pub entry: Entry,
    /// Identity of input name, path and content.
    pub digest: Digest,
}

/// All datums of an input expression.
#[derive(Debug)]
pub struct Datums {
    leaves: Vec<Leaf>,
    root: Node,
}

/// An input expression over ranges of leaves.
#[derive(Debug)]
enum Node {
    Leaves { start: usize, len: u64 },
    Cross { members: Vec<Node>, len: u64 },
    Union { members: Vec<Node>, len: u64 },
}

/// One unit of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datum<'d> {
    /// Its place among all datums.
    pub index: u64,
    /// Its files, by input name.
    pub leaves: Vec<&'d Leaf>,
}

/// A datum to be worked on, without its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedDatum {
    /// Its key.
    pub key: Digest,
    /// Index of the first datum with this key.
    pub index: u64,
    /// How many datums have this key; more than one only by way of a union.
    pub copies: u32,
}

/// Finds all datums of an input.
///
/// # Errors
/// [`DatumError`].
pub fn enumerate(blobs: &dyn Blobs, input: &DatumInput<'_>) -> Result<Datums, DatumError> {
    let mut leaves = Vec::new();
    let root = node(blobs, input, &mut leaves)?;
    Ok(Datums { leaves, root })
}

/// What became of the datums of an input since an earlier tree.
#[derive(Debug)]
pub struct ChangedDatums {
    /// Those that are new or have other content.
    pub datums: Datums,
    /// Keys of those that are no more, or had other content.
    pub gone: Vec<Digest>,
}

/// Finds the datums of an input that are not among those of an earlier tree, at a cost in proportion to what differs.
/// A key holds the path, so no two datums of one pfs input have the same one and both lists are complete.
///
/// # Errors
/// [`DatumError`].
pub fn enumerate_changed(
    blobs: &dyn Blobs,
    input: &PfsInput<'_>,
    before: &ContentRef,
) -> Result<ChangedDatums, DatumError> {
    let (mut leaves, mut gone) = (Vec::new(), Vec::new());
    let after = input.tree.unwrap_or(ContentRef { digest: Digest::of(b""), size: 0 });
    let (maker, start) = (LeafMaker::new(&input.name), first_block(b"quern.datum.v1"));
    choose_changed(blobs, [before, &after], input.pattern, &mut |path,
                                                                 old,
                                                                 new|
     -> Result<(), TreesError> {
        let old = old.and_then(|entry| maker.leaf(path, entry));
        gone.extend(old.map(|leaf| datum_key(start.clone(), &[&leaf])));
        leaves.extend(new.and_then(|entry| maker.leaf(path, entry)));
        Ok(())
    })?;
    let root = Node::Leaves { start: 0, len: leaves.len() as u64 };
    Ok(ChangedDatums { datums: Datums { leaves, root }, gone })
}

fn node(blobs: &dyn Blobs, input: &DatumInput<'_>, leaves: &mut Vec<Leaf>) -> Result<Node, DatumError> {
    let mut nodes = |members: &[DatumInput<'_>]| {
        members.iter().map(|member| node(blobs, member, leaves)).collect::<Result<Vec<_>, _>>()
    };
    match input {
        DatumInput::Pfs(pfs) => {
            let start = leaves.len();
            choose_leaves(blobs, pfs, leaves)?;
            Ok(Node::Leaves { start, len: (leaves.len() - start) as u64 })
        }
        DatumInput::Cross(members) => {
            let members = nodes(members)?;
            let counts = members.iter().map(Node::len);
            let len = if members.iter().any(|member| member.len() == 0) {
                0
            } else {
                counted(counts, u64::checked_mul, 1)?
            };
            Ok(Node::Cross { members, len })
        }
        DatumInput::Union(members) => {
            let members = nodes(members)?;
            let len = counted(members.iter().map(Node::len), u64::checked_add, 0)?;
            Ok(Node::Union { members, len })
        }
        DatumInput::Join(_) => Err(DatumError::NotExecutedYet("join")),
        DatumInput::Group(_) => Err(DatumError::NotExecutedYet("group")),
    }
}

fn counted(
    mut counts: impl Iterator<Item = u64>,
    combine: fn(u64, u64) -> Option<u64>,
    start: u64,
) -> Result<u64, DatumError> {
    let total = counts.try_fold(start, combine).filter(|total| i64::try_from(*total).is_ok());
    total.ok_or(DatumError::TooMany)
}

fn choose_leaves(blobs: &dyn Blobs, pfs: &PfsInput<'_>, leaves: &mut Vec<Leaf>) -> Result<(), DatumError> {
    let Some(tree) = pfs.tree else { return Ok(()) };
    let maker = LeafMaker::new(&pfs.name);
    choose(blobs, &tree, pfs.pattern, &mut |path, entry| -> Result<(), TreesError> {
        leaves.extend(maker.leaf(path, entry));
        Ok(())
    })?;
    Ok(())
}

/// Makes leaves of one input.
struct LeafMaker {
    input: Arc<str>,
    start: DigestWriter,
}

impl LeafMaker {
    fn new(input: &str) -> Self {
        let domain = [b"quern.leaf.v1", input.as_bytes()].concat();
        Self { input: Arc::from(input), start: first_block(&domain) }
    }

    /// The leaf of a path; none for the whole of an empty tree, where there is nothing to work on.
    fn leaf(&self, path: &str, entry: &Entry) -> Option<Leaf> {
        if path.is_empty() && matches!(entry, Entry::Dir(tree) if tree.size == 0) {
            return None;
        }
        let path = if path.is_empty() { "/" } else { path };
        let digest = leaf_digest(self.start.clone(), path, entry);
        Some(Leaf { input: self.input.clone(), path: path.into(), entry: entry.clone(), digest })
    }
}

/// A digest that has taken in exactly one block made from the domain.
fn first_block(domain: &[u8]) -> DigestWriter {
    let mut writer = DigestWriter::new();
    writer.update(Digest::of(domain).as_bytes());
    writer.update(&[0; 32]);
    writer
}

fn leaf_digest(mut writer: DigestWriter, path: &str, entry: &Entry) -> Digest {
    let (kind, content) = match entry {
        Entry::File { content, executable: false } => (b'f', content.digest),
        Entry::File { content, executable: true } => (b'x', content.digest),
        Entry::Dir(dir) => (b'd', dir.digest),
        Entry::Link(target) => (b'l', Digest::of(target.as_bytes())),
    };
    writer.update(&[kind]);
    writer.update(content.as_bytes());
    writer.update(path.as_bytes());
    writer.finish()
}

impl Node {
    const fn len(&self) -> u64 {
        match self {
            Self::Leaves { len, .. } | Self::Cross { len, .. } | Self::Union { len, .. } => *len,
        }
    }

    /// Adds the leaves of the datum of this index, which is smaller than the length.
    fn collect<'d>(&self, leaves: &'d [Leaf], mut index: u64, into: &mut Vec<&'d Leaf>) {
        match self {
            Self::Leaves { start, .. } => into.extend(leaves[*start..].get(index as usize)),
            Self::Cross { members, .. } => {
                for member in members {
                    member.collect(leaves, index % member.len(), into);
                    index /= member.len();
                }
            }
            Self::Union { members, .. } => {
                for member in members {
                    if index < member.len() {
                        return member.collect(leaves, index, into);
                    }
                    index -= member.len();
                }
            }
        }
    }
}

impl Datums {
    /// How many there are, duplicates counted.
    pub const fn len(&self) -> u64 {
        self.root.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The datum of this index, none beyond the last.
    pub fn get(&self, index: u64) -> Option<Datum<'_>> {
        let mut leaves = Vec::new();
        if index < self.len() {
            self.root.collect(&self.leaves, index, &mut leaves);
            leaves.sort_by(|a, b| a.input.cmp(&b.input));
            return Some(Datum { index, leaves });
        }
        None
    }

    /// All datums in order.
    pub fn iter(&self) -> impl Iterator<Item = Datum<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The work there is: every key once, ascending. Two datums with one key, from two arms of a union, are the same
    /// work: it is done once, its output is used once, and both are counted.
    pub fn planned(&self) -> Vec<PlannedDatum> {
        let start = first_block(b"quern.datum.v1");
        let mut planned = Vec::with_capacity(self.len() as usize);
        let mut leaves = Vec::new();
        for index in 0..self.len() {
            leaves.clear();
            self.root.collect(&self.leaves, index, &mut leaves);
            leaves.sort_by(|a, b| a.input.cmp(&b.input));
            planned.push(PlannedDatum { key: datum_key(start.clone(), &leaves), index, copies: 1 });
        }
        // The first bytes of two digests nearly always differ, and numbers are compared faster than bytes.
        planned.sort_unstable_by(|a, b| {
            first_bytes(&a.key)
                .cmp(&first_bytes(&b.key))
                .then_with(|| (a.key, a.index).cmp(&(b.key, b.index)))
        });
        planned.dedup_by(|later, first| {
            let same = later.key == first.key;
            first.copies += u32::from(same);
            same
        });
        planned
    }
}

const fn first_bytes(key: &Digest) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *key.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn datum_key(mut writer: DigestWriter, leaves: &[&Leaf]) -> Digest {
    for leaf in leaves {
        writer.update(leaf.digest.as_bytes());
    }
    writer.finish()
}

impl Datum<'_> {
    /// Its key; see the header of this module.
    pub fn key(&self) -> Digest {
        datum_key(first_block(b"quern.datum.v1"), &self.leaves)
    }

    /// For each input, by name, the tree with nothing but what this datum may see of it: the matched path with the
    /// directories above it. New trees, one small one per directory above, are kept in the blob store.
    ///
    /// # Errors
    /// Those of the store.
    pub fn trees(&self, blobs: &dyn Blobs) -> Result<Vec<(Arc<str>, ContentRef)>, TreesError> {
        self.leaves
            .iter()
            .map(|leaf| Ok((leaf.input.clone(), place(blobs, &TreePath::parse(&leaf.path)?, &leaf.entry)?)))
            .collect()
    }
}
