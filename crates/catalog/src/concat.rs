//! Files one after the other, as one file.

use std::collections::VecDeque;
use std::io::Read;

use quern_core::port::{Blobs, PortError};
use quern_core::{ContentRef, Digest, Entry};

/// The file with the bytes of all these files in order, executable if one of them is. Other entries have no bytes.
///
/// # Errors
/// Those of the store.
pub fn concat(blobs: &dyn Blobs, files: &[Entry]) -> Result<Entry, PortError> {
    let mut parts = VecDeque::new();
    let mut executable = false;
    for file in files {
        if let Entry::File { content, executable: x } = file {
            parts.push_back(*content);
            executable |= x;
        }
    }
    let content = concat_bytes(blobs, parts)?;
    Ok(Entry::File { content, executable })
}

fn concat_bytes(blobs: &dyn Blobs, mut parts: VecDeque<ContentRef>) -> Result<ContentRef, PortError> {
    parts.retain(|part| part.size > 0);
    if parts.len() == 1 {
        return Ok(parts[0]);
    }
    let mut reader = Concat::new(blobs, parts.into_iter().map(|part| part.digest));
    let stored = blobs.put_stream(&mut reader);
    reader.failure.map_or(stored, Err)
}

/// A reader over the bytes of several blobs; each is opened when its turn comes.
pub(crate) struct Concat<'a> {
    blobs: &'a dyn Blobs,
    rest: VecDeque<Digest>,
    current: Option<Box<dyn Read + Send>>,
    /// Why a blob could not be opened; the reader then fails with the same words.
    failure: Option<PortError>,
}

impl<'a> Concat<'a> {
    pub(crate) fn new(blobs: &'a dyn Blobs, parts: impl Iterator<Item = Digest>) -> Self {
        Self { blobs, rest: parts.collect(), current: None, failure: None }
    }
}

impl Read for Concat<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if let Some(current) = &mut self.current {
                let read = current.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                self.current = None;
            }
            let Some(next) = self.rest.pop_front() else { return Ok(0) };
            match self.blobs.open(&next) {
                Ok(reader) => self.current = Some(reader),
                Err(error) => {
                    let words = error.to_string();
                    self.failure = Some(error);
                    return Err(std::io::Error::other(words));
                }
            }
        }
    }
}
