//! Large blobs: one file each.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use quern_core::{ContentRef, Digest, DigestWriter};

use crate::layout::{Layout, sync_dir};

const PIECE: usize = 256 * 1024;
/// Far longer than it takes to sync a directory.
const JUST_NOW: Duration = Duration::from_secs(60);

/// `blobs/<first two digits>/<the other 62>`.
pub(super) fn path(layout: &Layout, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let (dir, name) = hex.split_at(2);
    let mut path = layout.blobs();
    path.push(dir);
    path.push(name);
    path
}

/// Whether the blob has a file whose name survives a power cut. Who names files syncs their directory at once, so only
/// for a name given just now that has to be made sure of.
pub(super) fn lasting(layout: &Layout, digest: &Digest) -> io::Result<bool> {
    let path = path(layout, digest);
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let named = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
    if named.elapsed().is_ok_and(|age| age > JUST_NOW) {
        return Ok(true);
    }
    let dir = path.parent().expect("a loose blob has a directory");
    sync_dir(dir).and_then(|()| sync_dir(&layout.blobs())).map(|()| true)
}

/// All loose blobs with their files.
pub(super) fn list(layout: &Layout) -> io::Result<Vec<(Digest, PathBuf)>> {
    let mut found = Vec::new();
    for dir in fs::read_dir(layout.blobs())? {
        let dir = dir?;
        for file in fs::read_dir(dir.path())? {
            let file = file?;
            let hex = format!("{}{}", dir.file_name().to_string_lossy(), file.file_name().to_string_lossy());
            found.extend(Digest::from_hex(&hex).ok().map(|digest| (digest, file.path())));
        }
    }
    Ok(found)
}

/// Writes `start` and then everything from `reader` into a new file.
pub(super) fn copy(start: &[u8], reader: &mut dyn Read, to: &Path) -> io::Result<ContentRef> {
    let mut file = File::create_new(to)?;
    let mut writer = DigestWriter::new();
    writer.update(start);
    file.write_all(start)?;
    let mut size = start.len() as u64;
    let mut piece = vec![0; PIECE];
    loop {
        let read = match reader.read(&mut piece) {
            Ok(0) => return Ok(ContentRef { digest: writer.finish(), size }),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        writer.update(&piece[..read]);
        file.write_all(&piece[..read])?;
        size += read as u64;
    }
}

/// Digest and length of everything from `reader`.
pub(super) fn digest_of(reader: &mut dyn Read) -> io::Result<ContentRef> {
    let mut writer = DigestWriter::new();
    let size = io::copy(reader, &mut io::BufWriter::with_capacity(PIECE, &mut writer))?;
    Ok(ContentRef { digest: writer.finish(), size })
}

/// A stream that fails at its end if its bytes did not have the digest expected.
pub(super) struct Verified {
    file: File,
    /// None once the end has been judged good.
    seen: Option<DigestWriter>,
    expected: Digest,
}

impl Verified {
    pub(super) fn new(file: File, expected: Digest) -> Self {
        Self { file, seen: Some(DigestWriter::new()), expected }
    }
}

impl Read for Verified {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(out)?;
        let Some(seen) = &mut self.seen else { return Ok(read) };
        seen.update(&out[..read]);
        if read == 0 && !out.is_empty() {
            if seen.clone().finish() != self.expected {
                let message = format!("content {} is damaged", self.expected);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            self.seen = None;
        }
        Ok(read)
    }
}
