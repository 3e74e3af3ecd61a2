//! One digest of what was selected: equal exactly if copying it would give the same files.
//!
//! It covers, in order, each pick with the name it was asked for by, and everything below it with relative path, kind, mode,
//! owner and group, size, link target, device number, extended attributes and bytes. It does not cover modification times, inodes, names of
//! owners, the path of a directory that is picked, nor the metadata of such a directory, which do not land anywhere. These are the
//! equivalences of BuildKit's content digests, except that there a directory's own mode counts although nobody
//! sees it, and that two files are told from two hard links of one file by neither.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use quern_core::{Digest, DigestWriter};

use super::select::{Item, Pick, Selected};
use super::source::{FileKind, FileSource, SourceError, Stat};
use crate::workspace::spread::{SERIAL, spread};

const VERSION: &[u8] = b"quern.files.1\n";
/// Files one thread looks at in one go.
const GRAIN: usize = 32;
/// Files of which the encodings are in memory at the same time.
const BATCH: usize = 1 << 16;

/// The digest of what was selected from a source. Files are read on several threads unless the source remembers their digests.
///
/// # Errors
/// If a file changed since the source looked at it, or cannot be read.
pub fn content_digest(source: &dyn FileSource, selected: &Selected) -> Result<Digest, SourceError> {
    let mut writer = DigestWriter::new();
    writer.update(VERSION);
    for pick in &selected.picks {
        digest_pick(source, pick, &mut writer)?;
    }
    Ok(writer.finish())
}

/// What is yet to be hashed.
#[derive(Default)]
struct Out {
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
}

fn digest_pick(source: &dyn FileSource, pick: &Pick, writer: &mut DigestWriter) -> Result<(), SourceError> {
    let mut out = Out::default();
    if pick.stat.kind == FileKind::Dir && !pick.whole {
        out.buffer.push(b'c');
    } else {
        out.buffer.push(b'n');
        out.bytes(pick.name.as_bytes());
        encode(source, &pick.path, &pick.stat, &mut out)?;
    }
    out.number(pick.items.len() as u64);
    writer.update(&out.buffer);
    for batch in pick.items.chunks(BATCH) {
        let grains: Vec<&[Item]> = batch.chunks(GRAIN).collect();
        let grain = if grains.len() < 3 { SERIAL } else { 1 };
        for encoded in spread(&grains, grain, |items| encode_items(source, &pick.path, items)) {
            writer.update(&encoded?);
        }
    }
    Ok(())
}

fn encode_items(source: &dyn FileSource, base: &Path, items: &[Item]) -> Result<Vec<u8>, SourceError> {
    let mut out = Out::default();
    // One path for all: most are never opened, but whoever opens one needs it whole.
    let mut path = base.as_os_str().to_owned();
    if !path.is_empty() {
        path.push("/");
    }
    let start = path.len();
    for item in items {
        out.bytes(item.path.as_os_str().as_bytes());
        out.buffer.push(u8::from(item.on_the_way));
        let mut bytes = path.into_vec();
        bytes.truncate(start);
        bytes.extend_from_slice(item.path.as_os_str().as_bytes());
        path = OsString::from_vec(bytes);
        encode(source, Path::new(&path), &item.stat, &mut out)?;
    }
    Ok(out.buffer)
}

fn encode(source: &dyn FileSource, path: &Path, stat: &Stat, out: &mut Out) -> Result<(), SourceError> {
    let content = match stat.kind {
        FileKind::File | FileKind::Dir => Some(source.content(path, stat)?),
        _ => None,
    };
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
