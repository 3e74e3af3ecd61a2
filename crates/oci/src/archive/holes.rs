//! Files with holes: GNU's old form (type `S`) and GNU's PAX form 1.0. Older PAX forms are refused.

use std::io::Read;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::pax::{Records, decimal};
use super::{Archive, ArchiveError, MemberKind, number, padding, read_block, truncated};

/// A run of data in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

const MALFORMED: ArchiveError = ArchiveError::Malformed("the map of a file with holes is not valid");

impl<R: Read> Archive<R> {
    /// The first four segments stand in the header, further ones in blocks behind it.
    pub(super) fn with_gnu_holes(&mut self, header: &Header) -> Result<MemberKind, ArchiveError> {
        let gnu = header.as_gnu().ok_or(MALFORMED)?;
        let mut segments = Vec::new();
        self.push_segments(&mut segments, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            if !read_block(&mut self.source, block.as_mut_bytes())? {
                return Err(truncated());
            }
            self.push_segments(&mut segments, &block.sparse)?;
            more = block.is_extended();
        }
        self.checked(number(&gnu.realsize)?, segments)
    }

    fn push_segments(
        &self,
        segments: &mut Vec<Segment>,
        found: &[GnuSparseHeader],
    ) -> Result<(), ArchiveError> {
        for segment in found.iter().filter(|segment| !segment.is_empty()) {
            segments.push(Segment { offset: number(&segment.offset)?, length: number(&segment.numbytes)? });
        }
        self.check_count(segments.len() as u64)
    }

    fn check_count(&self, count: u64) -> Result<(), ArchiveError> {
        let limit = self.limits.extension / 24;
        if count > limit { Err(ArchiveError::TooMany { what: "holes in a file", limit }) } else { Ok(()) }
    }

    /// The map is text at the start of the data: the number of segments, then offset and length of each, a line
    /// each, filled up with zeros to a whole block.
    pub(super) fn with_pax_holes(&mut self, pax: &Records) -> Result<MemberKind, ArchiveError> {
        let (Some(1), Some(size), false) = (pax.sparse.major, pax.sparse.real_size, pax.sparse.old) else {
            return Err(ArchiveError::Malformed("a file with holes is in a form that is not supported"));
        };
        let mut read = 0;
        let count = self.map_number(&mut read)?;
        self.check_count(count)?;
        let mut segments = Vec::new();
        for _ in 0..count {
            segments
                .push(Segment { offset: self.map_number(&mut read)?, length: self.map_number(&mut read)? });
        }
        let rest = padding(read);
        if std::io::copy(&mut self.content().take(rest), &mut std::io::sink())? != rest {
            return Err(truncated());
        }
        self.checked(size, segments)
    }

    fn map_number(&mut self, read: &mut u64) -> Result<u64, ArchiveError> {
        let mut digits = Vec::new();
        loop {
            let mut byte = [0];
            self.content().read_exact(&mut byte).map_err(|_| truncated())?;
            *read += 1;
            match byte[0] {
                b'\n' => return decimal(&digits),
                _ if digits.len() == 20 => return Err(MALFORMED),
                digit => digits.push(digit),
            }
        }
    }

    fn checked(&self, size: u64, mut segments: Vec<Segment>) -> Result<MemberKind, ArchiveError> {
        let mut end = 0;
        let mut data = 0u64;
        for segment in &segments {
            if segment.offset < end {
                return Err(MALFORMED);
            }
            end = segment.offset.checked_add(segment.length).ok_or(MALFORMED)?;
            data += segment.length;
        }
        if end > size || data != self.content {
            return Err(MALFORMED);
        }
        if size > self.limits.layer {
            return Err(ArchiveError::TooMany {
                what: "bytes in a file with holes",
                limit: self.limits.layer,
            });
        }
        // An empty run at the end says how long the file is, which the size does, too.
        segments.retain(|segment| segment.length > 0);
        Ok(MemberKind::File { size, segments })
    }
}
