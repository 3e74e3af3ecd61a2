//! Telling archives from other files, whatever they are compressed with.

use std::io::{self, BufReader, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::limits::Limits;

/// Bytes of a tar header.
const BLOCK: usize = 512;

/// A file as a plain tar stream, if it is a tar archive: as it is, or compressed with gzip, bzip2, xz or zstd. None for any
/// other file, also one that is compressed but no archive.
///
/// The stream ends with an error once it is longer than one layer may be ([`Limits::layer`]).
///
/// # Errors
/// Those of reading the start of the file. A file whose start only looks compressed is no archive.
pub fn open_archive<'f>(file: impl Read + 'f, limits: &Limits) -> io::Result<Option<Box<dyn Read + 'f>>> {
    let mut file = file;
    let start = read_start(&mut file, BLOCK)?;
    let whole = BufReader::with_capacity(1 << 17, Cursor::new(start.clone()).chain(file));
    let mut plain: Box<dyn Read + 'f> = match start.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(whole)),
        [b'B', b'Z', b'h', ..] => Box::new(MultiBzDecoder::new(whole)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(XzDecoder::new_multi_decoder(whole)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(ZstdDecoder::with_buffer(whole)?),
        _ => Box::new(whole),
    };
    let Ok(header) = read_start(&mut plain, BLOCK) else { return Ok(None) };
    if !is_header(&header) {
        return Ok(None);
    }
    let limited = Limited { source: plain, left: limits.layer };
    Ok(Some(Box::new(Cursor::new(header).chain(limited))))
}

/// As many bytes as there are, up to `most`.
fn read_start(source: &mut impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(most);
    source.take(most as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// Whether a block is a tar header: its checksum, the sum of its bytes with blanks in the place of the sum, says so.
fn is_header(block: &[u8]) -> bool {
    let Some(field) = block.get(148..156).filter(|_| block.len() == BLOCK) else { return false };
    let text: String = field.iter().map(|byte| char::from(*byte)).collect();
    let Ok(stated) = u64::from_str_radix(text.trim_matches([' ', '\0']), 8) else { return false };
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(&block[..148]) + 8 * u64::from(b' ') + sum(&block[156..]) == stated
}

/// Ends with an error where a bomb would go on.
struct Limited<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the archive unpacks to more than an image layer may hold",
            )
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, "hello", &b"world"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn opened(bytes: &[u8], limits: &Limits) -> Option<io::Result<Vec<u8>>> {
        let mut stream = open_archive(bytes, limits).unwrap()?;
        let mut read = Vec::new();
        Some(stream.read_to_end(&mut read).map(|_| read))
    }

    #[test]
    fn archives_of_every_compression() {
        let plain = archive();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let all = [
            plain.clone(),
            gzip.finish().unwrap(),
            bzip.finish().unwrap(),
            xz.finish().unwrap(),
            zstd::encode_all(&plain[..], 1).unwrap(),
        ];
        for bytes in &all {
            assert_eq!(opened(bytes, &Limits::default()).unwrap().unwrap(), plain);
        }
    }

    #[test]
    fn other_files_are_none() {
        let text = zstd::encode_all(&[b'x'; 2000][..], 1).unwrap();
        for bytes in [&b""[..], b"hello", &[0; 512], &[0x1f, 0x8b, 8, 0], b"BZh9rubbish", &text] {
            assert!(opened(bytes, &Limits::default()).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn a_bomb_is_cut_off() {
        let limits = Limits { layer: 600, ..Limits::default() };
        let error = opened(&archive(), &limits).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
