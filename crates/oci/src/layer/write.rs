//! Making a layer: members in the caller's order become a tar stream, its diff id and a compressed blob, in one pass.
//!
//! The bytes depend on nothing but the members, their contents and the [`Compression`]: header fields without meaning
//! are fixed, attributes are sorted, a PAX header is written only for what ustar cannot hold, and holes are written
//! as zeros, because where a file has holes differs from file system to file system.

use std::io::{self, Read, Write};

use super::compress::{Compression, Compressor};
use super::header;
use crate::archive::{Member, MemberKind, Segment};
use crate::image::Layer;
use crate::path::{LayerPath, PathProblem};

/// Why a layer could not be written. What was written so far is of no use.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A name that no layer can hold.
    #[error("`{path}` cannot be put into a layer: its name {problem}")]
    Path {
        /// The name.
        path: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// A name that readers take for a whiteout.
    #[error("`{0}` cannot be put into a layer: names that start with `.wh.` mean deleted files there")]
    LooksLikeWhiteout(LayerPath),
    /// Something else that tar cannot say.
    #[error("`{path}` cannot be put into a layer: {reason}")]
    Unsupported {
        /// Of which member.
        path: LayerPath,
        /// What.
        reason: &'static str,
    },
    /// The content is not as long as announced.
    #[error("`{path}` has {} than {expected} bytes; it changed while it was read", if *longer { "more" } else { "fewer" })]
    Length {
        /// Of which member.
        path: LayerPath,
        /// Announced, without holes.
        expected: u64,
        /// Whether there is more.
        longer: bool,
    },
    /// The content could not be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// Of which member.
        path: LayerPath,
        /// Why.
        source: io::Error,
    },
    /// The blob could not be written.
    #[error("cannot write the layer: {0}")]
    Write(#[from] io::Error),
}

/// Writes a layer, member by member.
pub struct LayerWriter<W: Write>(TarWriter<Compressor<W>>);

impl<W: Write> LayerWriter<W> {
    /// Starts a layer whose blob goes to `out`.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn new(out: W, compression: Compression) -> Result<Self, WriteError> {
        Ok(Self(TarWriter::new(Compressor::new(out, compression)?)))
    }

    /// [`TarWriter::append`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn append(&mut self, member: &Member, content: impl Read) -> Result<(), WriteError> {
        self.0.append(member, content)
    }

    /// [`TarWriter::whiteout`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn whiteout(&mut self, path: &LayerPath) -> Result<(), WriteError> {
        self.0.whiteout(path)
    }

    /// [`TarWriter::opaque`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn opaque(&mut self, directory: &LayerPath) -> Result<(), WriteError> {
        self.0.opaque(directory)
    }

    /// Writes the end of the layer. Gives it with OCI's media type, and the place it was written to.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn finish(self) -> Result<(Layer, W), WriteError> {
        Ok(self.0.finish()?.finish()?)
    }
}

/// Writes a plain archive, member by member.
///
/// The order is the caller's: a directory stands before what is in it, the target of a hard link before the link, and
/// no name comes twice.
pub struct TarWriter<W: Write> {
    out: W,
    buffer: Vec<u8>,
}

/// How much is read from a content at once.
const BUFFER: usize = 128 << 10;

impl<W: Write> TarWriter<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out, buffer: Vec::new() }
    }

    /// Appends a member. For a file, `content` gives the data of its segments, one after the other and nothing else.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn append(&mut self, member: &Member, content: impl Read) -> Result<(), WriteError> {
        let path = layer_path(&member.path)?;
        if path.names().any(|name| name.starts_with(b".wh.")) {
            return Err(WriteError::LooksLikeWhiteout(path));
        }
        if path.is_root() && member.kind != MemberKind::Directory {
            return Err(bad_path(&member.path, PathProblem::Root));
        }
        self.out.write_all(&header::encode(member, &path)?)?;
        match &member.kind {
            MemberKind::File { size, segments } => self.content(&path, *size, segments, content),
            _ => Ok(()),
        }
    }

    /// Says that a lower layer's file or directory is gone.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn whiteout(&mut self, path: &LayerPath) -> Result<(), WriteError> {
        let (parent, name) = path.split_last().ok_or_else(|| bad_path(path.as_bytes(), PathProblem::Root))?;
        if name.starts_with(b".wh.") {
            return Err(WriteError::LooksLikeWhiteout(path.clone()));
        }
        self.mark(parent, &[b".wh.", name].concat())
    }

    /// Says that nothing in a directory comes from lower layers. Stands between the directory and what is in it.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn opaque(&mut self, directory: &LayerPath) -> Result<(), WriteError> {
        self.mark(directory.clone(), b".wh..wh..opq")
    }

    /// Writes the end of the archive and gives the place it was written to.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.out.write_all(&[0; 1024])?;
        Ok(self.out)
    }

    fn mark(&mut self, directory: LayerPath, name: &[u8]) -> Result<(), WriteError> {
        let path = directory.child(name).map_err(|problem| bad_path(name, problem))?;
        let kind = MemberKind::File { size: 0, segments: Vec::new() };
        let (path_bytes, xattrs) = (path.as_bytes().to_vec(), Vec::new());
        let member = Member { path: path_bytes, kind, mode: 0, uid: 0, gid: 0, mtime: (0, 0), xattrs };
        self.out.write_all(&header::encode(&member, &path)?)?;
        Ok(())
    }

    fn content(
        &mut self,
        path: &LayerPath,
        size: u64,
        segments: &[Segment],
        mut content: impl Read,
    ) -> Result<(), WriteError> {
        let bad_map =
            || WriteError::Unsupported { path: path.clone(), reason: "its map of holes is not in order" };
        let announced = segments.iter().map(|segment| segment.length).sum();
        let length = |longer| WriteError::Length { path: path.clone(), expected: announced, longer };
        self.buffer.resize(BUFFER, 0);
        let mut at = 0;
        for segment in segments {
            let hole = segment.offset.checked_sub(at).ok_or_else(bad_map)?;
            at = segment.offset.checked_add(segment.length).filter(|end| *end <= size).ok_or_else(bad_map)?;
            self.zeros(hole)?;
            let mut left = segment.length;
            while left > 0 {
                let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
                match content.read(&mut self.buffer[..most]) {
                    Ok(0) => return Err(length(false)),
                    Ok(count) => {
                        self.out.write_all(&self.buffer[..count])?;
                        left -= count as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(WriteError::Read { path: path.clone(), source }),
                }
            }
        }
        if has_more(&mut content).map_err(|source| WriteError::Read { path: path.clone(), source })? {
            return Err(length(true));
        }
        self.zeros(size - at)?;
        self.zeros((512 - size % 512) % 512)
    }

    fn zeros(&mut self, count: u64) -> Result<(), WriteError> {
        io::copy(&mut io::repeat(0).take(count), &mut self.out)?;
        Ok(())
    }
}

fn has_more(content: &mut impl Read) -> io::Result<bool> {
    loop {
        match content.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|count| count > 0),
        }
    }
}

fn layer_path(raw: &[u8]) -> Result<LayerPath, WriteError> {
    LayerPath::parse(raw).map_err(|problem| bad_path(raw, problem))
}

fn bad_path(path: &[u8], problem: PathProblem) -> WriteError {
    WriteError::Path { path: path[..path.len().min(300)].escape_ascii().to_string(), problem }
}

#[cfg(test)]
mod tests;
