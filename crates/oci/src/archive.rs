//! The members of a tar stream: ustar, GNU and PAX, with holes, exact or refused.
//!
//! The `tar` crate knows the layout of a header; the loop over headers is our own, because extension headers must
//! have a limit, attribute values may contain newlines, and a stream that two readers could read in two ways (two
//! long names for one member, say) must be refused rather than read in one of them.

mod holes;
mod open;
mod pax;

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::blob::BlobError;
use crate::limits::Limits;
use pax::Records;

pub use holes::Segment;
pub use open::open_archive;

const BLOCK: u64 = 512;

/// Why a stream is no archive, or not one that is read here.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes below it are not what was announced.
    #[error(transparent)]
    Blob(BlobError),
    /// Reading or decompressing failed.
    #[error("the layer cannot be read: {0}")]
    Io(io::Error),
    /// No tar, or damaged.
    #[error("the layer is not a valid tar archive: {0}")]
    Malformed(&'static str),
    /// A valid member of a kind that is not unpacked.
    #[error("member `{path}` of the layer is of type `{kind}`, which is not supported")]
    Unsupported {
        /// Its name.
        path: String,
        /// Its type as tar has it.
        kind: String,
    },
    /// A limit was reached.
    #[error("the layer has more {what} than the limit of {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        match BlobError::from_io(&error) {
            Some(error) => Self::Blob(error),
            None => Self::Io(error),
        }
    }
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name as it is written, not checked yet.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of change: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes, name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A file. Its data come from [`Archive::content`], one segment after the other; what lies between is zero.
    File {
        /// Length, holes included.
        size: u64,
        /// Where the data belong, ascending, not overlapping.
        segments: Vec<Segment>,
    },
    /// A directory.
    Directory,
    /// A symbolic link and where it points.
    Symlink(Vec<u8>),
    /// Another name for an earlier file.
    Hardlink(Vec<u8>),
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// Reads members one after the other.
pub struct Archive<R> {
    source: R,
    limits: Limits,
    /// Data of the current member not read yet.
    content: u64,
    /// Zeros after the data up to the next block.
    padding: u64,
    members: u64,
}

/// What extension headers say about the member after them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Records>,
    bytes: u64,
}

impl<R: Read> Archive<R> {
    /// Reads from the start of an archive.
    pub fn new(source: R, limits: &Limits) -> Self {
        Self { source, limits: limits.clone(), content: 0, padding: 0, members: 0 }
    }

    /// The source, at the end of the archive or wherever reading stopped.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The data of the current member.
    pub fn content(&mut self) -> impl Read + '_ {
        Content(self)
    }

    /// The next member, none at the end. Data of the last one that were not read are skipped.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn next_member(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.next_header()? else {
                let dangling =
                    extensions.path.is_some() || extensions.link.is_some() || extensions.pax.is_some();
                return if dangling {
                    Err(ArchiveError::Malformed("it ends after an extension header"))
                } else {
                    Ok(None)
                };
            };
            self.content = number(&header.as_old().size)?;
            self.padding = padding(self.content);
            match header.entry_type() {
                EntryType::GNULongName => {
                    set_once(&mut extensions.path, self.long_name(&mut extensions.bytes)?)?;
                }
                EntryType::GNULongLink => {
                    set_once(&mut extensions.link, self.long_name(&mut extensions.bytes)?)?;
                }
                EntryType::XHeader => {
                    let records = Records::parse(&self.extension(&mut extensions.bytes)?)?;
                    set_once(&mut extensions.pax, records)?;
                }
                // Comments of whoever made the archive; no engine gives them a meaning.
                EntryType::XGlobalHeader => drop(self.extension(&mut extensions.bytes)?),
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    fn next_header(&mut self) -> Result<Option<Header>, ArchiveError> {
        skip(&mut self.source, self.content)?;
        skip(&mut self.source, self.padding)?;
        (self.content, self.padding) = (0, 0);
        let mut header = Header::new_old();
        if !read_block(&mut self.source, header.as_mut_bytes())? || header.as_bytes() == &[0; 512] {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let blank = |i: usize| if (148..156).contains(&i) { b' ' } else { bytes[i] };
        let sum: u64 = (0..512).map(|i| u64::from(blank(i))).sum();
        if number(&header.as_old().cksum)? != sum {
            return Err(ArchiveError::Malformed("a header has a wrong checksum"));
        }
        self.members += 1;
        if self.members > self.limits.members {
            return Err(ArchiveError::TooMany { what: "members", limit: self.limits.members });
        }
        Ok(Some(header))
    }

    fn extension(&mut self, bytes: &mut u64) -> Result<Vec<u8>, ArchiveError> {
        *bytes = bytes.saturating_add(self.content);
        if *bytes > self.limits.extension {
            return Err(ArchiveError::TooMany {
                what: "bytes of long names or attributes",
                limit: self.limits.extension,
            });
        }
        let (mut data, expected) = (Vec::new(), self.content);
        self.content().read_to_end(&mut data)?;
        if data.len() as u64 == expected { Ok(data) } else { Err(truncated()) }
    }

    fn long_name(&mut self, bytes: &mut u64) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.extension(bytes)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member, ArchiveError> {
        let old = header.as_old();
        let mut pax = extensions.pax.unwrap_or_default();
        if let Some(size) = pax.size {
            self.content = size;
            self.padding = padding(size);
        }
        let path = one_of(pax.path.take(), extensions.path)?;
        let link = one_of(pax.link.take(), extensions.link)?;
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => (number(&old.mtime)?.cast_signed(), 0),
        };
        Ok(Member {
            kind: self.kind(header, &path, link, &pax)?,
            path: pax.sparse.name.take().unwrap_or(path),
            mode: (number(&old.mode)? & 0o7777) as u32,
            uid: id(pax.uid.map_or_else(|| number(&old.uid), Ok)?)?,
            gid: id(pax.gid.map_or_else(|| number(&old.gid), Ok)?)?,
            mtime,
            xattrs: pax.xattrs,
        })
    }

    fn kind(
        &mut self,
        header: &Header,
        path: &[u8],
        link: Option<Vec<u8>>,
        pax: &Records,
    ) -> Result<MemberKind, ArchiveError> {
        if self.content != 0 && !has_data(header.entry_type()) {
            // Some readers skip such data, others take them for the next header.
            return Err(ArchiveError::Malformed("a directory, link or device announces data"));
        }
        let target = || link.ok_or(ArchiveError::Malformed("a link has no target"));
        let device = || -> Result<(u32, u32), ArchiveError> {
            let ustar = header.as_bytes();
            Ok((id(number(&ustar[329..337])?)?, id(number(&ustar[337..345])?)?))
        };
        Ok(match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if pax.sparse.is_any() => self.with_pax_holes(pax)?,
            // The oldest archives have no type for directories but a slash at the end of the name.
            EntryType::Regular if header.as_old().linkflag[0] == 0 && path.ends_with(b"/") => {
                MemberKind::Directory
            }
            EntryType::Regular | EntryType::Continuous => MemberKind::File {
                size: self.content,
                segments: vec![Segment { offset: 0, length: self.content }],
            },
            EntryType::GNUSparse => self.with_gnu_holes(header)?,
            EntryType::Directory => MemberKind::Directory,
            EntryType::Symlink => MemberKind::Symlink(target()?),
            EntryType::Link => MemberKind::Hardlink(target()?),
            EntryType::Char => device().map(|(major, minor)| MemberKind::Char(major, minor))?,
            EntryType::Block => device().map(|(major, minor)| MemberKind::Block(major, minor))?,
            EntryType::Fifo => MemberKind::Fifo,
            other => {
                return Err(ArchiveError::Unsupported {
                    path: path.escape_ascii().to_string(),
                    kind: other.as_byte().escape_ascii().to_string(),
                });
            }
        })
    }
}

struct Content<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&mut self.0.source).take(self.0.content).read(buffer)?;
        self.0.content -= count as u64;
        Ok(count)
    }
}

fn has_data(kind: EntryType) -> bool {
    !matches!(
        kind,
        EntryType::Directory
            | EntryType::Symlink
            | EntryType::Link
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo
    )
}

fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

fn truncated() -> ArchiveError {
    ArchiveError::Malformed("it is truncated")
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), ArchiveError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ArchiveError::Malformed("two extension headers of one kind describe one member")),
    }
}

fn one_of<T>(pax: Option<T>, gnu: Option<T>) -> Result<Option<T>, ArchiveError> {
    match (pax, gnu) {
        (Some(_), Some(_)) => Err(ArchiveError::Malformed("a member has a long name in two formats")),
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}

fn id(number: u64) -> Result<u32, ArchiveError> {
    // -1 means "leave it" to the kernel.
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or(ArchiveError::Malformed("an owner, group or device number is out of range"))
}

/// A numeric field: octal digits, or a binary number marked by the highest bit. Blank means zero.
fn number(field: &[u8]) -> Result<u64, ArchiveError> {
    let malformed = || ArchiveError::Malformed("a number in a header is not valid");
    if field[0] & 0x80 != 0 {
        // Two's complement of the whole field; negative times and nothing else are written so.
        let (bytes, head) = (field, if field[0] == 0xff { u64::MAX } else { u64::from(field[0] & 0x7f) });
        let mut value = head;
        for byte in &bytes[1..] {
            let lost = value >> 56;
            if lost != 0 && lost != 0xff {
                return Err(malformed());
            }
            value = value << 8 | u64::from(*byte);
        }
        return Ok(value);
    }
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    text.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => {
            value.checked_mul(8).map(|value| value + u64::from(digit - b'0')).ok_or_else(malformed)
        }
        _ => Err(malformed()),
    })
}

/// Reads one block; false at the end of the stream.
fn read_block(source: &mut impl Read, block: &mut [u8]) -> Result<bool, ArchiveError> {
    let mut filled = 0;
    while filled < block.len() {
        match source.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(truncated()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn skip(source: &mut impl Read, bytes: u64) -> Result<(), ArchiveError> {
    if io::copy(&mut source.take(bytes), &mut io::sink())? == bytes { Ok(()) } else { Err(truncated()) }
}

#[cfg(test)]
mod tests;
