//! Digests of files that were read before, kept in one file: an unchanged file is not read again, whatever it is called now.
//!
//! ```text
//! header of `sealed`: records u32 at 12
//! records, ascending by inode: inode u64 | device u64 | size u64 | modified i64 | changed i64 | digest 32
//!                              flags u8 (1: has extended attributes) | age u8 | 0 u8 x6
//! ```
//! Only a digest whose stamp had [settled](Stamp::settled) when the file was read is written, so an equal stamp means equal bytes. A
//! record that no reader asked for is older by one each time the file is written, and goes when it is [`OLD`]: builds that look at
//! different parts of a directory share one file.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quern_core::Digest;

use super::look;
use super::source::{Content, FileKind, Inode, SourceError, Stat, Witness, digest_of, keeps_xattr};
use crate::import::stamp::{Stamp, now};
use crate::sealed::{self, HEADER, OWN};

const MAGIC: &[u8; 8] = b"qndigst1";
const RECORD: usize = 80;
const OLD: u8 = 16;

/// What tells that a file was not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Anybody may write to the files: the change time decides.
    ChangeTime,
    /// Nobody writes to the files: identity, size and modification time are enough. Hard links made of a file change its change time.
    Immutable,
}

/// Remembers digests of files. Several threads may use it; it is written when it is dropped.
pub struct KnownDigests {
    file: Option<PathBuf>,
    trust: Trust,
    bytes: Vec<u8>,
    asked: Vec<AtomicBool>,
    /// Where the next question is expected: files that were made one after the other have inodes one after the other.
    next: AtomicUsize,
    fresh: Mutex<HashMap<Inode, Fresh>>,
    /// Something was read that is to be written down.
    news: AtomicBool,
}

/// What was read in this life.
#[derive(Clone, Copy)]
struct Fresh {
    stamp: Stamp,
    content: Content,
    /// An equal stamp means equal bytes.
    settled: bool,
}

impl KnownDigests {
    /// What is remembered in a file; nothing if it is absent or damaged. Without a file nothing outlives this value.
    pub fn open(file: Option<&Path>, trust: Trust) -> Self {
        let bytes = file.and_then(|file| sealed::read(file, MAGIC)).unwrap_or_default();
        let whole = bytes.get(HEADER..).is_some_and(|records| records.len() % RECORD == 0);
        let bytes = if whole { bytes } else { vec![0; HEADER] };
        let asked = (0..(bytes.len() - HEADER) / RECORD).map(|_| AtomicBool::new(false)).collect();
        Self {
            file: file.map(Path::to_owned),
            trust,
            bytes,
            asked,
            next: AtomicUsize::new(0),
            fresh: Mutex::default(),
            news: AtomicBool::new(false),
        }
    }

    /// What is known of a file that was seen as `stat`.
    pub(super) fn get(&self, stat: &Stat) -> Option<Content> {
        self.remembered(&self.stamp(stat))
    }

    /// Takes in what somebody else found out of a file.
    pub(super) fn note(&self, stat: &Stat, content: Content) {
        let stamp = self.stamp(stat);
        self.fresh().insert(stat.inode, Fresh { stamp, content, settled: true });
    }

    /// Writes everything into another file. Nothing is lost but time if it fails.
    pub(super) fn save_as(&self, file: &Path) {
        let fresh = self.fresh();
        if !fresh.is_empty() {
            let _ = sealed::write(file, &self.encode(&fresh));
        }
    }

    /// Reads the file again, in case another process has written to it.
    pub(super) fn take_in(&mut self) {
        let mut again = Self::open(self.file.as_deref(), self.trust);
        std::mem::swap(&mut self.bytes, &mut again.bytes);
        std::mem::swap(&mut self.asked, &mut again.asked);
    }

    /// What [`super::FileSource::content`] is to say of a file or directory that was seen as `stat`: remembered, or found by
    /// reading what `open` opens.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if what is opened is not what was seen, or what reading gives.
    pub fn content(
        &self,
        path: &Path,
        stat: &Stat,
        open: impl FnOnce() -> Result<File, SourceError>,
    ) -> Result<Content, SourceError> {
        let stamp = self.stamp(stat);
        if let Some(content) = self.remembered(&stamp) {
            return Ok(content);
        }
        let failed = |error| SourceError::io(path, error);
        let mut file = open()?;
        let started = now();
        let before = self.stamp(&look::look_at(&file).map_err(|e| failed(e.into()))?);
        let digest = match stat.kind {
            FileKind::Dir => Digest::of(b""),
            _ => digest_of(&mut file).map_err(failed)?,
        };
        let xattrs = has_xattrs(&file).map_err(failed)?;
        let after = self.stamp(&look::look_at(&file).map_err(|e| failed(e.into()))?);
        if before != stamp || after != stamp {
            return Err(SourceError::Changed(path.to_owned()));
        }
        let content = Content { digest, xattrs };
        let settled = self.trust == Trust::Immutable || stamp.settled(started);
        self.fresh().insert(stat.inode, Fresh { stamp, content, settled });
        self.news.fetch_or(settled, Ordering::Relaxed);
        Ok(content)
    }

    /// What can be said of bytes just read from `file`, which was seen as `stat` and whose [`Self::content`] is `content`.
    pub(super) fn witness(
        &self,
        path: &Path,
        stat: &Stat,
        content: &Content,
        file: &File,
    ) -> Result<Witness, SourceError> {
        let stamp = self.stamp(stat);
        let now = self.stamp(&look::look_at(file).map_err(|e| SourceError::io(path, e))?);
        let settled = self.fresh().get(&stat.inode).is_none_or(|fresh| fresh.settled);
        Ok(match (now == stamp, settled) {
            (false, _) => Witness::Changed,
            (true, true) => Witness::Same,
            (true, false) => Witness::IfDigest(content.digest),
        })
    }

    /// Writes down what is new. Nothing is lost but time if it fails.
    pub fn save(&self) {
        let Some(file) = &self.file else { return };
        if !self.news.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut fresh = self.fresh().clone();
        fresh.retain(|_, fresh| fresh.settled);
        let _ = sealed::write(file, &self.encode(&fresh));
    }

    fn encode(&self, fresh: &HashMap<Inode, Fresh>) -> Vec<u8> {
        let mut records: Vec<[u8; RECORD]> = Vec::with_capacity(self.asked.len() + fresh.len());
        for (position, asked) in self.asked.iter().enumerate() {
            let mut record = *self.record(position);
            record[73] = if asked.load(Ordering::Relaxed) { 0 } else { record[73].saturating_add(1) };
            if record[73] < OLD && !fresh.contains_key(&stamp_of(&record).1) {
                records.push(record);
            }
        }
        records.extend(fresh.values().map(record_of));
        records.sort_unstable_by_key(|record| stamp_of(record).1.ino);
        let mut bytes = vec![0; HEADER];
        bytes[OWN..OWN + 4].copy_from_slice(&(records.len() as u32).to_le_bytes());
        bytes.extend(records.iter().flatten());
        sealed::seal(&mut bytes, MAGIC);
        bytes
    }

    fn remembered(&self, stamp: &Stamp) -> Option<Content> {
        let mut at = self.first(stamp.inode);
        while let Some(record) = self.asked.get(at).map(|_| self.record(at)) {
            let (known, _) = stamp_of(record);
            if known.inode != stamp.inode {
                break;
            }
            if known == *stamp {
                self.asked[at].store(true, Ordering::Relaxed);
                return Some(content_of(record));
            }
            at += 1;
        }
        self.fresh()
            .get(&Inode { dev: stamp.dev, ino: stamp.inode })
            .filter(|f| f.stamp == *stamp)
            .map(|f| f.content)
    }

    /// Position of the first record with this inode or a higher one.
    fn first(&self, ino: u64) -> usize {
        let inode = |at: usize| self.asked.get(at).map(|_| word(self.record(at), 0));
        let expected = self.next.load(Ordering::Relaxed);
        if inode(expected) == Some(ino) && (expected == 0 || inode(expected - 1) != Some(ino)) {
            self.next.store(expected + 1, Ordering::Relaxed);
            return expected;
        }
        let (mut low, mut high) = (0, self.asked.len());
        while low < high {
            let middle = low.midpoint(high);
            if word(self.record(middle), 0) < ino { low = middle + 1 } else { high = middle }
        }
        self.next.store(low + 1, Ordering::Relaxed);
        low
    }

    fn record(&self, position: usize) -> &[u8; RECORD] {
        let start = HEADER + position * RECORD;
        self.bytes[start..].first_chunk().expect("the file holds whole records")
    }

    fn stamp(&self, stat: &Stat) -> Stamp {
        let stamp = stat.stamp();
        match self.trust {
            Trust::ChangeTime => stamp,
            Trust::Immutable => Stamp { changed: 0, ..stamp },
        }
    }

    fn fresh(&self) -> MutexGuard<'_, HashMap<Inode, Fresh>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KnownDigests {
    fn drop(&mut self) {
        self.save();
    }
}

/// Whether a file has extended attributes that count.
fn has_xattrs(file: &File) -> std::io::Result<bool> {
    let mut names = [0u8; 1024];
    match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(len) => {
            Ok(names[..len].split(|byte| *byte == 0).any(|name| !name.is_empty() && keeps_xattr(name)))
        }
        // So many that they do not fit here: whoever reads them will see.
        Err(rustix::io::Errno::RANGE) => Ok(true),
        Err(rustix::io::Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn record_of(fresh: &Fresh) -> [u8; RECORD] {
    let Fresh { stamp, content, .. } = fresh;
    let mut record = [0; RECORD];
    let words =
        [stamp.inode, stamp.dev, stamp.size, stamp.modified.cast_unsigned(), stamp.changed.cast_unsigned()];
    for (place, word) in record.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    record[40..72].copy_from_slice(content.digest.as_bytes());
    record[72] = u8::from(content.xattrs);
    record
}

fn stamp_of(record: &[u8; RECORD]) -> (Stamp, Inode) {
    let stamp = Stamp {
        inode: word(record, 0),
        dev: word(record, 8),
        size: word(record, 16),
        modified: word(record, 24).cast_signed(),
        changed: word(record, 32).cast_signed(),
    };
    (stamp, Inode { dev: stamp.dev, ino: stamp.inode })
}

fn content_of(record: &[u8; RECORD]) -> Content {
    let mut digest = [0; 32];
    digest.copy_from_slice(&record[40..72]);
    Content { digest: Digest::from_bytes(digest), xattrs: record[72] & 1 != 0 }
}

fn word(record: &[u8; RECORD], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&record[at..at + 8]);
    u64::from_le_bytes(word)
}
