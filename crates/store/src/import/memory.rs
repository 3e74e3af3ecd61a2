//! What an import remembers of a source directory: stamps and digests, in one file.
//!
//! ```text
//! magic "qnimprt1" | crc32 u32 | directories u32 | started i64 | epoch u64 | length u64
//! offset of each directory, u64
//! directories: stamp 40 | tree digest 32 | tree size u64 | entries u32 | unwanted u32
//!              entries, ascending by name: code u8, 0 u8 x3 | end of name u32 | stamp 40 | digest 32
//!              names, one after the other
//! ```
//! Numbers are little-endian; entry 0 is the source directory itself. [`sealed`] tells when the file is believed.

use std::path::Path;

use quern_core::{ContentRef, Digest};

use super::Kind;
use super::list::{Folder, Names};
use super::stamp::Stamp;
use super::survey::Found;
use crate::sealed::{self, HEADER};

const MAGIC: &[u8; 8] = b"qnimprt1";
const STAMP: usize = 40;
const FOLDER: usize = STAMP + 32 + 8 + 8;
const ENTRY: usize = 8 + STAMP + 32;

/// The content of a memory file; the default remembers nothing.
#[derive(Default)]
pub(super) struct Memory {
    bytes: Vec<u8>,
    folders: usize,
    /// When the import that wrote it began.
    pub started: i64,
    /// See [`super::Importer::new`].
    pub epoch: u64,
}

/// A remembered directory.
#[derive(Clone, Copy)]
pub(super) struct Remembered<'m> {
    head: &'m [u8],
    entries: &'m [u8],
    names: &'m [u8],
    whole: &'m [u8],
}

/// What is remembered behind one name.
pub(super) struct Entry<'m> {
    pub name: &'m str,
    pub code: Code,
    /// For a file the stamp of what was read; for a directory size and inode mean something else.
    pub stamp: Stamp,
    /// Of a file its bytes, of a directory its tree, of a link its target.
    pub digest: Digest,
}

/// What a remembered name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    File { executable: bool, linked: bool },
    Dir,
    Link,
    Unwanted(Kind),
}

impl Code {
    pub fn kind(self) -> Kind {
        match self {
            Self::File { linked: false, .. } => Kind::File,
            Self::File { linked: true, .. } | Self::Link => Kind::Link,
            Self::Dir => Kind::Dir,
            Self::Unwanted(kind) => kind,
        }
    }

    pub fn wanted(self) -> bool {
        !matches!(self, Self::Unwanted(_))
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::File { executable, linked } => u8::from(executable) | u8::from(linked) << 1,
            Self::Dir => 4,
            Self::Link => 5,
            Self::Unwanted(Kind::File) => 8,
            Self::Unwanted(Kind::Dir) => 9,
            Self::Unwanted(Kind::Link) => 10,
            Self::Unwanted(Kind::Other) => 11,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            0..=3 => Self::File { executable: byte & 1 != 0, linked: byte & 2 != 0 },
            4 => Self::Dir,
            5 => Self::Link,
            8 => Self::Unwanted(Kind::File),
            9 => Self::Unwanted(Kind::Dir),
            10 => Self::Unwanted(Kind::Link),
            _ => Self::Unwanted(Kind::Other),
        }
    }
}

impl Memory {
    /// Reads a memory file; none if there is none that can be believed.
    pub fn read(path: &Path) -> Option<Self> {
        let bytes = sealed::read(path, MAGIC)?;
        let folders = u32_at(&bytes, 12) as usize;
        let (started, epoch) = (u64_at(&bytes, 16) as i64, u64_at(&bytes, 24));
        Some(Self { bytes, folders, started, epoch })
    }

    /// The directory of this number; 0 is the source directory.
    pub fn folder(&self, number: usize) -> Option<Remembered<'_>> {
        if number >= self.folders {
            return None;
        }
        let start = usize::try_from(u64_at(&self.bytes, HEADER + number * 8)).ok()?;
        let end = match number + 1 {
            next if next < self.folders => usize::try_from(u64_at(&self.bytes, HEADER + next * 8)).ok()?,
            _ => self.bytes.len(),
        };
        let whole = self.bytes.get(start..end)?;
        let (head, rest) = whole.split_at_checked(FOLDER)?;
        let (entries, names) = rest.split_at_checked(u32_at(head, STAMP + 40) as usize * ENTRY)?;
        Some(Remembered { head, entries, names, whole })
    }
}

impl<'m> Remembered<'m> {
    pub fn stamp(&self) -> Stamp {
        stamp_at(self.head, 0)
    }

    pub fn tree(&self) -> ContentRef {
        ContentRef { digest: digest_at(self.head, STAMP), size: u64_at(self.head, STAMP + 32) }
    }

    pub fn len(&self) -> usize {
        self.entries.len() / ENTRY
    }

    pub fn has_unwanted(&self) -> bool {
        u32_at(self.head, STAMP + 44) != 0
    }

    /// The entry at a position below [`Remembered::len`].
    pub fn entry(&self, position: usize) -> Entry<'m> {
        let bytes = &self.entries[position * ENTRY..][..ENTRY];
        let start = match position {
            0 => 0,
            _ => u32_at(self.entries, (position - 1) * ENTRY + 4) as usize,
        };
        let name = self.names.get(start..u32_at(bytes, 4) as usize).unwrap_or_default();
        Entry {
            name: std::str::from_utf8(name).unwrap_or_default(),
            code: Code::from_byte(bytes[0]),
            stamp: stamp_at(bytes, 8),
            digest: digest_at(bytes, 8 + STAMP),
        }
    }
}

impl Entry<'_> {
    /// Number of the directory this entry stands for.
    pub fn child(&self) -> Option<usize> {
        if self.code == Code::Dir { usize::try_from(self.stamp.inode).ok() } else { None }
    }

    /// Digest and length of the file or tree this entry stands for.
    pub fn content(&self) -> ContentRef {
        ContentRef { digest: self.digest, size: self.stamp.size }
    }
}

/// The memory of one import: all directories with the trees they became.
pub(super) fn encode(folders: &[Folder<'_>], trees: &[ContentRef], started: i64, epoch: u64) -> Vec<u8> {
    let entries: usize = folders.iter().map(Folder::len).sum();
    let mut out = Vec::with_capacity(HEADER + folders.len() * (FOLDER + 8) + entries * (ENTRY + 16));
    out.extend_from_slice(&[0; sealed::OWN]);
    out.extend_from_slice(&(folders.len() as u32).to_le_bytes());
    out.extend_from_slice(&started.to_le_bytes());
    out.extend_from_slice(&epoch.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.resize(HEADER + folders.len() * 8, 0);
    for (number, (folder, tree)) in folders.iter().zip(trees).enumerate() {
        let start = out.len() as u64;
        out[HEADER + number * 8..][..8].copy_from_slice(&start.to_le_bytes());
        encode_folder(&mut out, folder, tree, trees);
    }
    sealed::seal(&mut out, MAGIC);
    out
}

fn encode_folder(out: &mut Vec<u8>, folder: &Folder<'_>, tree: &ContentRef, trees: &[ContentRef]) {
    let start = out.len();
    match (&folder.names, folder.before) {
        (Names::AsBefore { .. }, Some(before)) => out.extend_from_slice(before.whole),
        _ => encode_names(out, folder),
    }
    put_stamp(out, start, &folder.stamp);
    out[start + STAMP..][..32].copy_from_slice(tree.digest.as_bytes());
    out[start + STAMP + 32..][..8].copy_from_slice(&tree.size.to_le_bytes());
    for (position, child) in &folder.children {
        let stamp = Stamp { inode: *child as u64, size: trees[*child].size, ..Stamp::default() };
        put_entry(out, start, *position, Code::Dir, &stamp, &trees[*child].digest);
    }
    for (position, found) in &folder.found {
        match found {
            Found::File { stamp, executable, linked, content } => {
                let code = Code::File { executable: *executable, linked: *linked };
                // A file without a digest would have failed the import.
                let digest = content.map_or(Digest::from_bytes([0; 32]), |content| content.digest);
                put_entry(out, start, *position, code, stamp, &digest);
            }
            Found::Link { target, .. } => {
                let digest = Digest::of(target.as_bytes());
                put_entry(out, start, *position, Code::Link, &Stamp::default(), &digest);
            }
        }
    }
}

/// The skeleton of a directory: names, and codes of unwanted names; the rest is filled in afterwards.
fn encode_names(out: &mut Vec<u8>, folder: &Folder<'_>) {
    let start = out.len();
    let unwanted = (0..folder.len()).filter(|at| !folder.name(*at).wanted).count();
    out.resize(start + FOLDER + folder.len() * ENTRY, 0);
    out[start + STAMP + 40..][..4].copy_from_slice(&(folder.len() as u32).to_le_bytes());
    out[start + STAMP + 44..][..4].copy_from_slice(&(unwanted as u32).to_le_bytes());
    let mut end = 0u32;
    for position in 0..folder.len() {
        let name = folder.name(position);
        end += name.text.len() as u32;
        let at = start + FOLDER + position * ENTRY;
        out[at] = Code::Unwanted(name.kind).to_byte();
        out[at + 4..at + 8].copy_from_slice(&end.to_le_bytes());
        out.extend_from_slice(name.text.as_bytes());
    }
}

fn put_entry(out: &mut [u8], folder: usize, position: usize, code: Code, stamp: &Stamp, digest: &Digest) {
    let at = folder + FOLDER + position * ENTRY;
    out[at] = code.to_byte();
    put_stamp(out, at + 8, stamp);
    out[at + 8 + STAMP..][..32].copy_from_slice(digest.as_bytes());
}

fn put_stamp(out: &mut [u8], at: usize, stamp: &Stamp) {
    let words =
        [stamp.dev, stamp.inode, stamp.size, stamp.modified.cast_unsigned(), stamp.changed.cast_unsigned()];
    for (place, word) in out[at..at + STAMP].chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

fn stamp_at(bytes: &[u8], at: usize) -> Stamp {
    Stamp {
        dev: u64_at(bytes, at),
        inode: u64_at(bytes, at + 8),
        size: u64_at(bytes, at + 16),
        modified: u64_at(bytes, at + 24).cast_signed(),
        changed: u64_at(bytes, at + 32).cast_signed(),
    }
}

fn digest_at(bytes: &[u8], at: usize) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(&bytes[at..at + 32]);
    Digest::from_bytes(digest)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
