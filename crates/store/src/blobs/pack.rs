//! Pack files: many small blobs one after the other.
//!
//! ```text
//! pack   = "quernpk1" record*
//! record = "blob" length:u32 digest:[u8; 32] bytes:[u8; length]        (numbers little-endian)
//! ```
//! A record is good if its bytes have its digest; no other checksum is needed. A process appends to a pack only while
//! it holds the pack's `flock`. What a dead writer left half-written is cut off by the next one.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quern_core::Digest;

const MAGIC: &[u8; 8] = b"quernpk1";
const RECORD: &[u8; 4] = b"blob";
/// Bytes before the content of a record.
pub(super) const RECORD_HEADER: u64 = 40;
/// A pack is closed once it is this long, so that compacting one is quick.
pub(super) const PACK_LIMIT: u64 = 256 << 20;
/// Appended bytes are written to the file in pieces of about this size.
const BUFFER: usize = 1 << 20;

/// The number of a pack: random, so that it is never used again.
pub(super) type PackId = u32;

/// Where the content of a packed blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) pack: PackId,
    /// Of the content, not of the record.
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// `<dir>/<8 hexadecimal digits>.pack`.
pub(super) fn path(dir: &Path, id: PackId) -> PathBuf {
    dir.join(format!("{id:08x}.pack"))
}

/// The packs in a directory with their lengths.
pub(super) fn list(dir: &Path) -> io::Result<Vec<(PackId, u64)>> {
    let mut packs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".pack"));
        let Some(id) = id.and_then(|id| PackId::from_str_radix(id, 16).ok()) else { continue };
        match entry.metadata() {
            Ok(metadata) => packs.push((id, metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    packs.sort_unstable();
    Ok(packs)
}

/// A pack this process may append to.
#[derive(Debug)]
pub(super) struct PackWriter {
    id: PackId,
    /// Locked.
    file: Arc<File>,
    /// What the file does not have yet.
    buffer: Vec<u8>,
    /// The length of what the file has.
    written: u64,
}

impl PackWriter {
    /// A new pack.
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        loop {
            let mut id = [0; 4];
            rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
            let id = PackId::from_le_bytes(id);
            match File::options().read(true).write(true).create_new(true).open(path(dir, id)) {
                // Somebody who found the empty file may hold it for a moment and is then its owner.
                Ok(file) if file.try_lock().is_err() => {}
                Ok(file) => {
                    crate::layout::sync_dir(dir)?;
                    return Self::start(id, file);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The pack `id` if nobody else writes to it. Its records have to be looked at from where the index ends.
    pub(super) fn adopt(dir: &Path, id: PackId) -> io::Result<Option<Self>> {
        let file = match File::options().read(true).write(true).open(path(dir, id)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        Self::start(id, file).map(Some)
    }

    fn start(id: PackId, file: File) -> io::Result<Self> {
        let mut written = file.metadata()?.len();
        if written < MAGIC.len() as u64 {
            file.write_all_at(MAGIC, 0)?;
            written = MAGIC.len() as u64;
        }
        Ok(Self { id, file: Arc::new(file), buffer: Vec::new(), written })
    }

    pub(super) fn id(&self) -> PackId {
        self.id
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The length with everything appended.
    pub(super) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= PACK_LIMIT
    }

    /// Appends a blob. The file may get it later, at the latest by [`PackWriter::flush`]. After an error it is not there.
    pub(super) fn append(&mut self, digest: &Digest, bytes: &[u8]) -> io::Result<Slot> {
        let too_long = |_| io::Error::new(io::ErrorKind::FileTooLarge, "a pack has outgrown its limit");
        let offset = u32::try_from(self.len() + RECORD_HEADER).map_err(too_long)?;
        let length = u32::try_from(bytes.len()).map_err(too_long)?;
        let before = self.buffer.len();
        self.buffer.extend_from_slice(RECORD);
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(digest.as_bytes());
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER
            && let Err(error) = self.flush()
        {
            self.buffer.truncate(before);
            return Err(error);
        }
        Ok(Slot { pack: self.id, offset, length })
    }

    /// Hands everything to the file. After an error nothing is lost and it can be tried again.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The bytes of a slot that the file does not have yet.
    pub(super) fn buffered(&self, slot: &Slot) -> Option<&[u8]> {
        let start = u64::from(slot.offset).checked_sub(self.written)?;
        let start = usize::try_from(start).expect("the buffer is in memory");
        self.buffer.get(start..start + slot.length as usize)
    }

    /// Cuts off everything behind the last good record.
    pub(super) fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.written = length;
        Ok(())
    }
}

/// What a scan has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) records: Vec<(Digest, Slot)>,
    /// Behind the last good record.
    pub(super) end: u64,
}

/// Finds the good records of a pack from `from`, a place between two records, on. Bytes that form none are skipped.
pub(super) fn scan(file: &File, pack: PackId, from: u64) -> io::Result<Scanned> {
    let length = file.metadata()?.len();
    let from = from.max(MAGIC.len() as u64);
    let mut found = Scanned { records: Vec::new(), end: from.min(length) };
    let mut at = from;
    let mut reader = BufReader::with_capacity(BUFFER, file);
    let mut bytes = Vec::new();
    reader.seek(SeekFrom::Start(at))?;
    while at + RECORD_HEADER <= length {
        match read_record(&mut reader, length - at, &mut bytes)? {
            Some(digest) => {
                let (offset, size) = (at + RECORD_HEADER, bytes.len() as u64);
                let too_long = |_| io::Error::new(io::ErrorKind::InvalidData, "a pack is longer than 4 GiB");
                let slot = Slot {
                    pack,
                    offset: u32::try_from(offset).map_err(too_long)?,
                    length: u32::try_from(size).map_err(too_long)?,
                };
                found.records.push((digest, slot));
                found.end = offset + size;
                at = found.end;
            }
            None => {
                at = next_candidate(file, at + 1, length)?;
                reader.seek(SeekFrom::Start(at))?;
            }
        }
    }
    Ok(found)
}

/// Whether these are the bytes before the content of such a record.
pub(super) fn is_header_of(header: &[u8], digest: &Digest, length: u32) -> bool {
    header.len() == RECORD_HEADER as usize
        && header[..4] == *RECORD
        && header[4..8] == length.to_le_bytes()
        && header[8..] == *digest.as_bytes()
}

/// The record at the reader's place if it is good; its content is in `bytes` then.
fn read_record(reader: &mut impl Read, room: u64, bytes: &mut Vec<u8>) -> io::Result<Option<Digest>> {
    let mut header = [0; RECORD_HEADER as usize];
    reader.read_exact(&mut header)?;
    let (magic, rest) = header.split_at(RECORD.len());
    let (length, digest) = rest.split_at(4);
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes"));
    let digest = Digest::from_bytes(digest.try_into().expect("32 bytes"));
    if magic != RECORD || u64::from(length) > room - RECORD_HEADER {
        return Ok(None);
    }
    bytes.resize(length as usize, 0);
    reader.read_exact(bytes)?;
    Ok((Digest::of(bytes) == digest).then_some(digest))
}

/// The next place that looks like the start of a record, or the end.
fn next_candidate(file: &File, mut at: u64, length: u64) -> io::Result<u64> {
    let mut piece = vec![0; BUFFER];
    while at < length {
        let read = file.read_at(&mut piece, at)?;
        if let Some(found) = piece[..read].windows(RECORD.len()).position(|window| window == RECORD) {
            return Ok(at + found as u64);
        }
        if read < RECORD.len() {
            break;
        }
        at += (read - RECORD.len() + 1) as u64;
    }
    Ok(length)
}
