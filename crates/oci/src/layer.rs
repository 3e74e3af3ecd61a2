//! A layer as a plain tar stream: decompressed, measured, hashed; and the way back.

mod compress;
mod digest;
mod gzip;
mod header;
mod write;

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use quern_core::{Digest, DigestWriter};
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::blob::{Blob, BlobError};
use crate::limits::Limits;

pub use compress::{Codec, Compression, Compressor, InvalidCompression};
pub use write::{LayerWriter, TarWriter, WriteError};

/// The plain tar stream of a layer. Ends with an error if it outgrows the limits.
pub struct LayerReader {
    decoder: Decoder,
    digest: DigestWriter,
    unpacked: u64,
    limits: Limits,
}

/// The compression is told by the first bytes, as every engine does: registries hold gzip under
/// the media type of plain tar and the reverse, and the digests decide about the content anyway.
enum Decoder {
    Plain(BufReader<Blob>),
    Gzip(Box<MultiGzDecoder<BufReader<Blob>>>),
    Zstd(ZstdDecoder<'static, BufReader<Blob>>),
}

impl LayerReader {
    /// Starts to read a layer.
    ///
    /// # Errors
    /// Those of the blob.
    pub fn new(blob: Blob, limits: &Limits) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(1 << 17, blob);
        let start = source.fill_buf()?;
        let decoder = if start.starts_with(&[0x1f, 0x8b]) {
            Decoder::Gzip(Box::new(MultiGzDecoder::new(source)))
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Decoder::Zstd(ZstdDecoder::with_buffer(source)?)
        } else {
            Decoder::Plain(source)
        };
        Ok(Self { decoder, digest: DigestWriter::new(), unpacked: 0, limits: limits.clone() })
    }

    /// How many bytes of the plain stream have been read.
    pub fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Reads what is left, compares the blob with its descriptor and gives the digest of the plain stream.
    ///
    /// # Errors
    /// A [`BlobError`] inside an I/O error, or one of the source.
    pub fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        match self.decoder {
            Decoder::Plain(source) => source,
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.finish(),
        }
        .into_inner()
        .finish()?;
        Ok(self.digest.finish())
    }

    fn compressed(&self) -> u64 {
        match &self.decoder {
            Decoder::Plain(source) => source,
            Decoder::Gzip(decoder) => decoder.get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref(),
        }
        .get_ref()
        .position()
    }

    fn check_limits(&self) -> Result<(), BlobError> {
        let Limits { layer: limit, ratio, ratio_from, .. } = self.limits;
        if self.unpacked > limit {
            return Err(BlobError::TooLarge { what: "the unpacked layer", limit });
        }
        let read = self.compressed();
        if self.unpacked > ratio_from && self.unpacked / ratio > read {
            return Err(BlobError::Bomb { ratio, read, unpacked: self.unpacked });
        }
        Ok(())
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::Plain(source) => source.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }?;
        self.digest.update(&buffer[..count]);
        self.unpacked += count as u64;
        self.check_limits().map_err(BlobError::into_io)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Descriptor;
    use std::io::Write;

    fn open(bytes: Vec<u8>, limits: &Limits) -> LayerReader {
        let descriptor = Descriptor {
            media_type: "x".into(),
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            annotations: Default::default(),
            platform: None,
        };
        LayerReader::new(Blob::new(Box::new(io::Cursor::new(bytes)), &descriptor), limits).unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_compression_gives_the_same_stream() {
        let plain = b"layer".repeat(10_000);
        let twice = [gzip(&plain[..100]), gzip(&plain[100..])].concat();
        let zstd = zstd::encode_all(plain.as_slice(), 3).unwrap();
        for bytes in [plain.clone(), gzip(&plain), twice, zstd, Vec::new()] {
            let expected = Digest::of(if bytes.is_empty() { b"" } else { &plain });
            assert_eq!(open(bytes, &Limits::default()).finish().unwrap(), expected);
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let limits = Limits { ratio_from: 1 << 20, ..Limits::default() };
        let zeros = vec![0; 64 << 20];
        for bytes in [gzip(&zeros), zstd::encode_all(zeros.as_slice(), 3).unwrap()] {
            let mut reader = open(bytes, &limits);
            let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
            assert!(matches!(BlobError::from_io(&error), Some(BlobError::Bomb { .. })), "{error}");
            assert!(reader.unpacked < 30 << 20, "{}", reader.unpacked);
        }
        let limits = Limits { layer: 100, ..Limits::default() };
        let error = open(vec![1; 101], &limits).finish().unwrap_err();
        assert!(matches!(BlobError::from_io(&error), Some(BlobError::TooLarge { limit: 100, .. })));
    }

    #[test]
    fn truncated_and_followed_by_garbage() {
        let whole = gzip(&b"layer".repeat(1000));
        assert!(open(whole[..whole.len() - 4].to_vec(), &Limits::default()).finish().is_err());
        assert!(open([whole.as_slice(), b"garbage"].concat(), &Limits::default()).finish().is_err());
    }
}
