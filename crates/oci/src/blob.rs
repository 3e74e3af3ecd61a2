//! The bytes of a blob, compared with its descriptor while they are read.

use std::io::{self, Read};

use quern_core::{Digest, DigestWriter};

use crate::document::Descriptor;

/// Bytes that are not what was announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// Another digest.
    #[error("{what} should have digest {expected} but has {found}; the image is damaged or has been changed")]
    Digest {
        /// Which bytes: a blob or an unpacked layer.
        what: &'static str,
        /// Announced.
        expected: Digest,
        /// Computed.
        found: Digest,
    },
    /// Another number of bytes.
    #[error("blob {digest} should have {expected} bytes but has {}", if *longer { "more" } else { "fewer" })]
    Size {
        /// Of which blob.
        digest: Digest,
        /// Announced.
        expected: u64,
        /// Whether there are more bytes than announced, or fewer.
        longer: bool,
    },
    /// More than the limits allow.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Which bytes.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Small compressed, enormous unpacked.
    #[error(
        "the layer unpacks to more than {ratio} times its size ({read} bytes gave {unpacked}); it is refused as a decompression bomb"
    )]
    Bomb {
        /// The limit.
        ratio: u64,
        /// Compressed bytes read so far.
        read: u64,
        /// Unpacked bytes so far.
        unpacked: u64,
    },
}

impl BlobError {
    /// As an I/O error, to travel through readers that know no other; [`BlobError::from_io`] takes it out again.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }

    /// The blob error inside an I/O error, if that is what it is.
    pub fn from_io(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().cloned()
    }
}

/// A stream that ends well only if it had the digest and size of its descriptor.
pub struct Blob {
    source: Box<dyn Read + Send>,
    digest: Digest,
    size: u64,
    read: u64,
    seen: DigestWriter,
    verified: bool,
}

impl Blob {
    /// Compares what `source` gives with `descriptor`.
    pub fn new(source: Box<dyn Read + Send>, descriptor: &Descriptor) -> Self {
        Self {
            source,
            digest: descriptor.digest,
            size: descriptor.size,
            read: 0,
            seen: DigestWriter::new(),
            verified: false,
        }
    }

    /// How many bytes have been read.
    pub fn position(&self) -> u64 {
        self.read
    }

    /// Reads what is left and compares.
    ///
    /// # Errors
    /// A [`BlobError`] inside an I/O error, or one of the source.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop)
    }

    fn verify(&mut self) -> io::Result<()> {
        if self.read < self.size {
            return Err(self.wrong_size(false));
        }
        let found = self.seen.clone().finish();
        if found != self.digest {
            return Err(BlobError::Digest { what: "blob", expected: self.digest, found }.into_io());
        }
        self.verified = true;
        Ok(())
    }

    fn wrong_size(&self, longer: bool) -> io::Error {
        BlobError::Size { digest: self.digest, expected: self.size, longer }.into_io()
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.verified || buffer.is_empty() {
            return Ok(0);
        }
        let count = self.source.read(buffer)?;
        if count == 0 {
            return self.verify().map(|()| 0);
        }
        self.read += count as u64;
        if self.read > self.size {
            return Err(self.wrong_size(true));
        }
        self.seen.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &'static [u8], announced: &[u8], size: u64) -> Option<BlobError> {
        let descriptor = Descriptor {
            media_type: "x".into(),
            digest: Digest::of(announced),
            size,
            annotations: Default::default(),
            platform: None,
        };
        let result = Blob::new(Box::new(content), &descriptor).finish();
        result.err().map(|error| BlobError::from_io(&error).unwrap())
    }

    #[test]
    fn only_the_announced_bytes_pass() {
        assert_eq!(check(b"abc", b"abc", 3), None);
        assert_eq!(check(b"", b"", 0), None);
        assert!(matches!(check(b"abc", b"abd", 3), Some(BlobError::Digest { .. })));
        assert!(matches!(check(b"abc", b"abc", 2), Some(BlobError::Size { longer: true, .. })));
        assert!(matches!(check(b"abc", b"abc", 4), Some(BlobError::Size { longer: false, .. })));
        assert!(matches!(check(b"", b"abc", 0), Some(BlobError::Digest { .. })));
    }
}
