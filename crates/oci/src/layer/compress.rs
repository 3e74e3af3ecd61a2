//! A plain stream as a blob: measured, hashed and compressed on the way.

use std::fmt;
use std::io::{self, Write};
use std::num::NonZero;
use std::str::FromStr;

use quern_core::{Digest, DigestWriter};
use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder as ZstdWriter;

use super::digest::StreamDigest;
use super::gzip::GzipWriter;
use crate::document::{Descriptor, media};
use crate::image::Layer;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// Gzip, which every engine reads.
    Gzip,
    /// Zstandard: smaller and several times faster, read by engines since about 2020.
    Zstd,
}

/// A codec with its level, and how many threads may work on one layer. The threads have no influence on the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    codec: Codec,
    level: i32,
    threads: NonZero<usize>,
}

/// Text or a number that says no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCompression {
    /// No such codec.
    #[error("`{0}` is no compression; use `gzip`, `zstd` or `uncompressed`")]
    Codec(String),
    /// No such level.
    #[error("{codec} has no level {level}; its levels are {} to {}", range.0, range.1)]
    Level {
        /// Of which codec.
        codec: Codec,
        /// Asked for.
        level: i32,
        /// Lowest and highest.
        range: (i32, i32),
    },
}

impl Codec {
    /// OCI's media type of a layer so compressed.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => media::LAYER,
            Self::Gzip => media::LAYER_GZIP,
            Self::Zstd => media::LAYER_ZSTD,
        }
    }

    /// Lowest, highest and usual level.
    fn levels(self) -> (i32, i32, i32) {
        match self {
            Self::None => (0, 0, 0),
            Self::Gzip => (0, 9, 6),
            Self::Zstd => (1, 22, 3),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for Codec {
    type Err = InvalidCompression;

    fn from_str(text: &str) -> Result<Self, InvalidCompression> {
        [Self::None, Self::Gzip, Self::Zstd]
            .into_iter()
            .find(|codec| codec.to_string() == text)
            .ok_or_else(|| InvalidCompression::Codec(text.to_owned()))
    }
}

impl Compression {
    /// A codec at a level, its usual one if none is given.
    ///
    /// # Errors
    /// [`InvalidCompression::Level`].
    pub fn new(
        codec: Codec,
        level: Option<i32>,
        threads: NonZero<usize>,
    ) -> Result<Self, InvalidCompression> {
        let (lowest, highest, usual) = codec.levels();
        let level = level.unwrap_or(usual);
        if (lowest..=highest).contains(&level) {
            Ok(Self { codec, level, threads })
        } else {
            Err(InvalidCompression::Level { codec, level, range: (lowest, highest) })
        }
    }
}

/// Takes a plain stream in and gives the layer that it is.
pub struct Compressor<W: Write> {
    codec: Codec,
    plain: StreamDigest,
    encoder: Encoder<W>,
}

enum Encoder<W: Write> {
    /// The blob is the plain stream, so one digest serves for both.
    Plain(W, u64),
    Gzip(GzipWriter<Measured<W>>),
    Zstd(ZstdWriter<'static, Measured<W>>),
}

/// Bytes of input that make one job of a zstd thread. It has influence on the bytes, so it is fixed.
const ZSTD_JOB: u32 = 2 << 20;

impl<W: Write> Compressor<W> {
    /// Starts a blob that goes to `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(out: W, compression: Compression) -> io::Result<Self> {
        let Compression { codec, level, threads } = compression;
        let measured = |out| Measured { out, digest: DigestWriter::new(), size: 0 };
        let encoder = match codec {
            Codec::None => Encoder::Plain(out, 0),
            Codec::Gzip => {
                Encoder::Gzip(GzipWriter::new(measured(out), level.unsigned_abs(), threads.get())?)
            }
            Codec::Zstd => {
                let mut encoder = ZstdWriter::new(measured(out), level)?;
                // Without threads zstd makes other bytes than with any number of them.
                encoder.multithread(u32::try_from(threads.get()).unwrap_or(1))?;
                encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
                Encoder::Zstd(encoder)
            }
        };
        Ok(Self { codec, plain: StreamDigest::new(), encoder })
    }

    /// Completes the blob.
    ///
    /// # Errors
    /// Those of the place it was written to.
    pub fn finish(self) -> io::Result<(Layer, W)> {
        let diff_id = self.plain.finish();
        let (digest, size, mut out) = match self.encoder {
            Encoder::Plain(out, size) => (diff_id, size, out),
            Encoder::Gzip(encoder) => encoder.finish()?.finish(),
            Encoder::Zstd(encoder) => encoder.finish()?.finish(),
        };
        out.flush()?;
        let descriptor = Descriptor::new(self.codec.media_type(), digest, size);
        Ok((Layer { descriptor, diff_id }, out))
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match &mut self.encoder {
            Encoder::Plain(out, size) => {
                let count = out.write(bytes)?;
                *size += count as u64;
                count
            }
            Encoder::Gzip(encoder) => encoder.write(bytes)?,
            Encoder::Zstd(encoder) => encoder.write(bytes)?,
        };
        self.plain.update(&bytes[..count]);
        Ok(count)
    }

    /// Does nothing: a flush in the middle would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts and hashes what passes.
struct Measured<W> {
    out: W,
    digest: DigestWriter,
    size: u64,
}

impl<W> Measured<W> {
    fn finish(self) -> (Digest, u64, W) {
        (self.digest.finish(), self.size, self.out)
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::gzip::sample;

    fn pack(codec: Codec, level: i32, threads: usize, plain: &[u8]) -> (Layer, Vec<u8>) {
        let threads = NonZero::new(threads).unwrap();
        let compression = Compression::new(codec, Some(level), threads).unwrap();
        let mut compressor = Compressor::new(Vec::new(), compression).unwrap();
        plain.chunks(70_001).for_each(|piece| compressor.write_all(piece).unwrap());
        compressor.finish().unwrap()
    }

    #[test]
    fn both_digests_and_no_influence_of_threads() {
        let plain = sample(5 << 20);
        for (codec, level) in
            [(Codec::None, 0), (Codec::Gzip, 1), (Codec::Gzip, 6), (Codec::Zstd, 1), (Codec::Zstd, 5)]
        {
            let (layer, blob) = pack(codec, level, 1, &plain);
            assert_eq!(layer.diff_id, Digest::of(&plain));
            assert_eq!(layer.descriptor.digest, Digest::of(&blob));
            assert_eq!(layer.descriptor.size, blob.len() as u64);
            assert_eq!(layer.descriptor.media_type, codec.media_type());
            for threads in [2, 5] {
                assert!(pack(codec, level, threads, &plain).1 == blob, "{codec} {level} {threads}");
            }
        }
    }

    #[test]
    fn codecs_and_levels_have_names() {
        let one = NonZero::<usize>::MIN;
        assert_eq!("gzip".parse(), Ok(Codec::Gzip));
        assert_eq!("uncompressed".parse(), Ok(Codec::None));
        assert!("estargz".parse::<Codec>().unwrap_err().to_string().contains("use `gzip`"));
        let error = Compression::new(Codec::Gzip, Some(10), one).unwrap_err();
        assert_eq!(error.to_string(), "gzip has no level 10; its levels are 0 to 9");
        assert!(Compression::new(Codec::Zstd, Some(0), one).is_err());
    }
}
