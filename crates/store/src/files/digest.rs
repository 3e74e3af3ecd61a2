//! One digest of what was selected: equal exactly if copying it would give the same files.
//!
//! It covers, in order, each pick with the name it was asked for by, and everything below it with relative path, kind, mode,
//! owner and group, size, link target, device number, extended attributes and bytes. It does not cover modification times, inodes, names of
//! owners, the path of a directory that is picked, nor the metadata of such a directory, which do not land anywhere. These are the
//! equivalences of BuildKit's content digests, except that there a directory's own mode counts although nobody
//! sees it, and that two files are told from two hard links of one file by neither.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use quern_core::{Digest, DigestWriter};

use super::select::{Pick, Selected};
use super::source::{Content, FileKind, FileSource, SourceError, Stat};
use crate::workspace::spread::{SERIAL, spread};

const VERSION: &[u8] = b"quern.files.1\n";
/// Files one thread reads in one go.
const GRAIN: usize = 32;

/// The digest of what was selected from a source. Files are read on several threads unless the source remembers their digests.
///
/// # Errors
/// If a file changed since the source looked at it, or cannot be read.
pub fn content_digest(source: &dyn FileSource, selected: &Selected) -> Result<Digest, SourceError> {
    let mut out = Out { writer: DigestWriter::new(), buffer: VERSION.to_vec() };
    for pick in &selected.picks {
        digest_pick(source, pick, &mut out)?;
    }
    out.flush(0);
    Ok(out.writer.finish())
}

/// What is yet to be hashed, so that the hasher sees large pieces.
struct Out {
    writer: DigestWriter,
    buffer: Vec<u8>,
}

impl Out {
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u64) {
        self.buffer.extend_from_slice(&number.to_le_bytes());
    }

    fn flush(&mut self, at_least: usize) {
        if self.buffer.len() >= at_least {
            self.writer.update(&self.buffer);
            self.buffer.clear();
        }
    }
}

fn digest_pick(source: &dyn FileSource, pick: &Pick, out: &mut Out) -> Result<(), SourceError> {
    if pick.stat.kind == FileKind::Dir && !pick.whole {
        out.buffer.push(b'c');
    } else {
        out.buffer.push(b'n');
        out.bytes(pick.name.as_bytes());
        let content = content(source, &pick.path, &pick.stat)?;
        digest_one(source, &pick.path, &pick.stat, content, out)?;
    }
    out.number(pick.items.len() as u64);
    let grain = if pick.items.len() < 2 * GRAIN { SERIAL } else { GRAIN };
    let contents =
        spread(&pick.items, grain, |item| content(source, &pick.path.join(&item.path), &item.stat));
    for (item, content) in pick.items.iter().zip(contents) {
        out.bytes(item.path.as_os_str().as_bytes());
        out.buffer.push(u8::from(item.on_the_way));
        digest_one(source, &pick.path.join(&item.path), &item.stat, content?, out)?;
        out.flush(1 << 16);
    }
    Ok(())
}

fn content(source: &dyn FileSource, path: &Path, stat: &Stat) -> Result<Option<Content>, SourceError> {
    match stat.kind {
        FileKind::File | FileKind::Dir => source.content(path, stat).map(Some),
        _ => Ok(None),
    }
}

fn digest_one(
    source: &dyn FileSource,
    path: &Path,
    stat: &Stat,
    content: Option<Content>,
    out: &mut Out,
) -> Result<(), SourceError> {
    out.buffer.push(match stat.kind {
        FileKind::File => b'f',
        FileKind::Dir => b'd',
        FileKind::Link => b'l',
        FileKind::Fifo => b'p',
        FileKind::Char => b'c',
        FileKind::Block => b'b',
        FileKind::Socket => b's',
    });
    let numbers = [stat.mode, stat.uid, stat.gid, stat.device.0, stat.device.1];
    out.buffer.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    if stat.kind == FileKind::Link {
        out.bytes(source.target(path)?.as_os_str().as_bytes());
    }
    let Some(content) = content else { return Ok(()) };
    if stat.kind == FileKind::File {
        out.number(stat.size);
        out.buffer.extend_from_slice(content.digest.as_bytes());
    }
    let xattrs = if content.xattrs { source.xattrs(path)? } else { Vec::new() };
    out.number(xattrs.len() as u64);
    for (name, value) in xattrs {
        out.bytes(&name);
        out.bytes(&value);
    }
    Ok(())
}
