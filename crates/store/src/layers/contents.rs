//! The bytes of a file that may have holes.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::Errno;

use super::reach;

/// Reads exactly as many bytes as the file had when it was looked at. Holes are not read from disk.
#[derive(Debug)]
pub struct Contents {
    file: File,
    at: u64,
    len: u64,
    /// The stretch at or after `at` that is no hole; empty at the end if there is none.
    data: Range<u64>,
}

impl Contents {
    pub(super) fn open(path: &Path, len: u64) -> io::Result<Self> {
        let file = File::from(reach::open(path, OFlags::RDONLY)?);
        if file.metadata()?.len() < len {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        Ok(Self { file, at: 0, len, data: 0..0 })
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The stretches that are no holes, in order.
    ///
    /// # Errors
    /// Those of asking the file system.
    pub fn data(&self) -> io::Result<Vec<Range<u64>>> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.len {
            let data = self.data_from(at)?;
            at = data.end;
            if !data.is_empty() {
                found.push(data);
            }
        }
        Ok(found)
    }

    /// The next stretch of data at or after `at`; an empty one at the end if only a hole follows.
    fn data_from(&self, at: u64) -> io::Result<Range<u64>> {
        let start = match seek(&self.file, SeekFrom::Data(at)) {
            Ok(start) => start.min(self.len),
            Err(Errno::NXIO) => return Ok(self.len..self.len),
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(at..self.len),
            Err(error) => return Err(error.into()),
        };
        let end = match seek(&self.file, SeekFrom::Hole(start)) {
            Err(Errno::NXIO) => self.len,
            end => end?.min(self.len),
        };
        Ok(start..end)
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.len || buffer.is_empty() {
            return Ok(0);
        }
        if self.at >= self.data.end {
            self.data = self.data_from(self.at)?;
        }
        let room = |end: u64| usize::try_from(end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let len = if self.at < self.data.start {
            let len = room(self.data.start);
            buffer[..len].fill(0);
            len
        } else {
            let len = room(self.data.end);
            self.file.read_at(&mut buffer[..len], self.at)?
        };
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use quern_testkit::TempSpace;

    use super::*;

    #[test]
    fn holes_are_zeros_that_are_not_read() {
        let space = TempSpace::new();
        let check = |pieces: &[(u64, &[u8])], len: u64, stretches: usize| {
            let path = space.write("file", "");
            let file = File::options().write(true).open(&path).unwrap();
            let mut expected = vec![0; usize::try_from(len).unwrap()];
            for (at, bytes) in pieces {
                file.write_all_at(bytes, *at).unwrap();
                let at = usize::try_from(*at).unwrap();
                expected[at..at + bytes.len()].copy_from_slice(bytes);
            }
            file.set_len(len).unwrap();
            let mut contents = Contents::open(&path, len).unwrap();
            let mut read = Vec::new();
            contents.read_to_end(&mut read).unwrap();
            assert!(read == expected, "{pieces:?} {len}");
            assert_eq!(contents.data().unwrap().len(), stretches);
        };
        check(&[], 0, 0);
        check(&[(0, b"abc")], 3, 1);
        check(&[], 3_000_000, 0);
        check(&[(1_000_000, b"abc")], 3_000_000, 1);
        check(&[(0, b"a"), (1 << 20, b"b"), (2 << 20, b"c")], (2 << 20) + 1, 3);
    }

    #[test]
    fn a_file_that_shrinks_or_grows_is_no_other_length() {
        let space = TempSpace::new();
        let path = space.write("file", "12345");
        let mut read = Vec::new();
        Contents::open(&path, 3).unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, b"123");
        let error = Contents::open(&path, 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
