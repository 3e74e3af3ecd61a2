//! Files that remember: read whole, believed only if whole, replaced by renaming.
//!
//! ```text
//! magic 8 | crc32 u32 | 20 bytes of the owner | length u64 | anything
//! ```
//! Numbers are little-endian; the checksum covers everything after it. Such a file is not synced: one that is torn or
//! of another version is as good as none.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Bytes before the owner's content.
pub(crate) const HEADER: usize = 40;
/// Where the owner's part of the header begins; it ends at 32.
pub(crate) const OWN: usize = 12;

/// The whole file if it can be believed.
pub(crate) fn read(path: &Path, magic: &[u8; 8]) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    if bytes.len() < HEADER || bytes[..8] != magic[..] || bytes[32..40] != (bytes.len() as u64).to_le_bytes()
    {
        return None;
    }
    let believed = bytes[8..12] == crc32fast::hash(&bytes[12..]).to_le_bytes();
    believed.then_some(bytes)
}

/// Completes the header of what is to be written.
pub(crate) fn seal(bytes: &mut [u8], magic: &[u8; 8]) {
    let len = bytes.len() as u64;
    bytes[..8].copy_from_slice(magic);
    bytes[32..40].copy_from_slice(&len.to_le_bytes());
    let crc = crc32fast::hash(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
}

/// Replaces a file, making its directory if need be.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    let file: File = file.persist(path)?;
    drop(file);
    Ok(())
}
