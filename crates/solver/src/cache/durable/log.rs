//! The log: frames of changes.
//!
//! A frame is `length: u32, checksum: u64, changes`, all numbers little-endian; a change is a tag
//! byte and its fields. A frame holds everything written at once and counts as a whole.
//!
//! The usual change, a new key with its result and a link from every input, is one record: what its
//! links have in common stands there once.

use quern_core::Digest;

use crate::cache::Timestamp;
use crate::cache::storage::{CacheInfoLink, CacheResult};
use crate::key::KeyId;

const FRAME_HEAD: usize = 12;
const ADD_RESULT: u8 = 1;
const ADD_LINK: u8 = 2;
const RELEASE: u8 = 3;
const ADD_KEY: u8 = 4;

/// One change of the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change<'a> {
    AddResult { id: KeyId, created_at: Timestamp, result: &'a str },
    AddLink { id: KeyId, link: CacheInfoLink, target: KeyId },
    Release { result: &'a str },
}

impl Change<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::AddResult { id, created_at, result } => {
                out.push(ADD_RESULT);
                out.extend_from_slice(id.0.as_bytes());
                out.extend_from_slice(&created_at.0.to_le_bytes());
                put_text(out, result);
            }
            Self::AddLink { id, link, target } => {
                out.push(ADD_LINK);
                out.extend_from_slice(id.0.as_bytes());
                out.extend_from_slice(target.0.as_bytes());
                out.extend_from_slice(link.digest.as_bytes());
                out.extend_from_slice(&link.input.to_le_bytes());
                out.extend_from_slice(&link.output.to_le_bytes());
                out.push(u8::from(link.selector.is_some()));
                if let Some(selector) = &link.selector {
                    out.extend_from_slice(selector.as_bytes());
                }
            }
            Self::Release { result } => {
                out.push(RELEASE);
                put_text(out, result);
            }
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u32::try_from(text.len()).expect("ids of results are short");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Changes gathered for one frame, behind the room for its head.
pub(super) struct Frame(Vec<u8>);

impl Default for Frame {
    fn default() -> Self {
        Self(vec![0; FRAME_HEAD])
    }
}

impl Frame {
    pub(super) fn add(&mut self, change: &Change<'_>) {
        change.encode(&mut self.0);
    }

    /// Adds a result of a key, and links to it.
    pub(super) fn add_key(&mut self, id: &KeyId, result: &CacheResult, links: &[(KeyId, CacheInfoLink)]) {
        let CacheResult { id: text, created_at } = result;
        let alike = |a: &CacheInfoLink, b: &CacheInfoLink| (a.digest, a.output) == (b.digest, b.output);
        let first = links.first().map(|(_, link)| *link);
        let Some(first) =
            first.filter(|first| links.iter().all(|(_, link)| alike(link, first) && link.selector.is_none()))
        else {
            self.add(&Change::AddResult { id: *id, created_at: *created_at, result: text });
            for (source, link) in links {
                self.add(&Change::AddLink { id: *source, link: *link, target: *id });
            }
            return;
        };
        let out = &mut self.0;
        out.push(ADD_KEY);
        out.extend_from_slice(id.0.as_bytes());
        out.extend_from_slice(&created_at.0.to_le_bytes());
        put_text(out, text);
        out.extend_from_slice(first.digest.as_bytes());
        out.extend_from_slice(&first.output.to_le_bytes());
        let count = u32::try_from(links.len()).expect("few inputs");
        out.extend_from_slice(&count.to_le_bytes());
        for (source, link) in links {
            out.extend_from_slice(source.0.as_bytes());
            out.extend_from_slice(&link.input.to_le_bytes());
        }
    }

    /// The changes, encoded.
    pub(super) fn changes(&self) -> &[u8] {
        &self.0[FRAME_HEAD..]
    }

    /// The whole frame.
    pub(super) fn sealed(&mut self) -> &[u8] {
        let (head, changes) = self.0.split_at_mut(FRAME_HEAD);
        let length = u32::try_from(changes.len()).expect("a frame is written long before it is 4 GiB");
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&checksum(changes).to_le_bytes());
        &self.0
    }

    /// Takes all changes out; what was made room for stays.
    pub(super) fn clear(&mut self) {
        self.0.truncate(FRAME_HEAD);
    }
}

/// Visits the changes of all whole frames; returns how many bytes these are.
pub(super) fn read(bytes: &[u8], mut visit: impl FnMut(Change<'_>)) -> usize {
    let mut at = 0;
    while let Some(changes) = whole_frame(&bytes[at..]) {
        replay(changes, &mut visit);
        at += FRAME_HEAD + changes.len();
    }
    at
}

fn whole_frame(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(bytes);
    let length = reader.u32()? as usize;
    let sum = reader.u64()?;
    let changes = reader.0.get(..length)?;
    // A run of zeros, as some file systems leave after a crash, is no frame.
    (length > 0 && checksum(changes) == sum).then_some(changes)
}

/// Visits encoded changes.
pub(super) fn replay(changes: &[u8], mut visit: impl FnMut(Change<'_>)) {
    let mut reader = Reader(changes);
    while reader.record(&mut visit).is_some() {}
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn digest(&mut self) -> Option<Digest> {
        self.take().map(Digest::from_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    /// Visits the changes of the next record.
    fn record(&mut self, visit: &mut impl FnMut(Change<'a>)) -> Option<()> {
        match self.u8()? {
            ADD_KEY => self.key(visit)?,
            tag => visit(self.change(tag)?),
        }
        Some(())
    }

    fn key(&mut self, visit: &mut impl FnMut(Change<'a>)) -> Option<()> {
        let (target, created_at) = (KeyId(self.digest()?), Timestamp(self.u64()?));
        visit(Change::AddResult { id: target, created_at, result: self.text()? });
        let (digest, output) = (self.digest()?, self.u64()?.cast_signed());
        for _ in 0..self.u32()? {
            let (id, input) = (KeyId(self.digest()?), self.u32()?);
            let link = CacheInfoLink { input, output, digest, selector: None };
            visit(Change::AddLink { id, link, target });
        }
        Some(())
    }

    fn change(&mut self, tag: u8) -> Option<Change<'a>> {
        match tag {
            ADD_RESULT => {
                let (id, created_at) = (KeyId(self.digest()?), Timestamp(self.u64()?));
                Some(Change::AddResult { id, created_at, result: self.text()? })
            }
            ADD_LINK => {
                let (id, target) = (KeyId(self.digest()?), KeyId(self.digest()?));
                let (digest, input) = (self.digest()?, self.u32()?);
                let output = self.u64()?.cast_signed();
                let selector = if self.u8()? == 1 { Some(self.digest()?) } else { None };
                Some(Change::AddLink { id, link: CacheInfoLink { input, output, digest, selector }, target })
            }
            RELEASE => Some(Change::Release { result: self.text()? }),
            _ => None,
        }
    }
}

/// Tells damage from data; four lanes, because it runs over whole files at every start. Not
/// meant to withstand anybody who wants to be mistaken for data.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = Checksum::default();
    let rest = sum.take(bytes);
    sum.finish(rest)
}

/// A checksum of bytes that come piece by piece.
pub(super) struct Checksum {
    lanes: [u64; 4],
    length: usize,
}

const ODD: [u64; 4] =
    [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];

impl Default for Checksum {
    fn default() -> Self {
        Self { lanes: ODD, length: 0 }
    }
}

impl Checksum {
    /// Takes in whole blocks, and returns the bytes that are left.
    pub(super) fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (lane, (word, odd)) in self.lanes.iter_mut().zip(words.iter().zip(ODD)) {
                *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(odd).rotate_left(29);
            }
        }
        self.length += bytes.len() - rest.len();
        rest
    }

    /// The checksum, once the bytes that are left after the last block have come.
    pub(super) fn finish(&self, rest: &[u8]) -> u64 {
        let mut tail = [0; 32];
        tail[..rest.len()].copy_from_slice(rest);
        let (words, _) = tail.as_chunks::<8>();
        let mut sum = (self.length + rest.len()) as u64;
        for (lane, word) in self.lanes.iter().zip(words) {
            sum = (sum ^ lane ^ u64::from_le_bytes(*word)).wrapping_mul(ODD[0]);
            sum ^= sum >> 31;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn examples() -> Vec<Change<'static>> {
        let id = KeyId(digest("id"));
        let link = CacheInfoLink { input: 3, output: -1, digest: digest("op"), selector: None };
        let selected = CacheInfoLink { selector: Some(digest("part")), ..link };
        vec![
            Change::AddResult { id, created_at: Timestamp(7), result: "r é" },
            Change::AddLink { id, link, target: KeyId(digest("t")) },
            Change::AddLink { id, link: selected, target: KeyId(digest("t")) },
            Change::Release { result: "" },
        ]
    }

    fn frame() -> Vec<u8> {
        let mut frame = Frame::default();
        examples().iter().for_each(|change| frame.add(change));
        frame.sealed().to_vec()
    }

    #[test]
    fn changes_come_back_as_they_were() {
        let frames = [frame(), frame()].concat();
        let mut count = 0;
        let read = read(&frames, |change| {
            assert_eq!(change, examples()[count % 4]);
            count += 1;
        });
        assert_eq!((read, count), (frames.len(), 8));
    }

    /// Whatever its links have in common, a key comes back as a result and links.
    #[test]
    fn keys_come_back_as_they_were() {
        let (id, result) = (KeyId(digest("t")), CacheResult { id: "r".into(), created_at: Timestamp(3) });
        let link = |input| CacheInfoLink { input, output: -1, digest: digest("op"), selector: None };
        let plain = [(KeyId(digest("a")), link(0)), (KeyId(digest("b")), link(1))];
        let selected = [plain[0], (plain[1].0, CacheInfoLink { selector: Some(digest("part")), ..link(1) })];
        let others = [plain[0], (plain[1].0, CacheInfoLink { output: 2, ..link(1) })];
        for links in [&plain[..], &selected, &others, &plain[..1], &[]] {
            let mut frame = Frame::default();
            frame.add_key(&id, &result, links);
            frame.add(&examples()[0]);
            let mut found = Vec::new();
            read(frame.sealed(), |change| found.push(format!("{change:?}")));
            let result = Change::AddResult { id, created_at: Timestamp(3), result: "r" };
            let link = |(source, link): &(KeyId, CacheInfoLink)| Change::AddLink {
                id: *source,
                link: *link,
                target: id,
            };
            let all = [vec![result], links.iter().map(link).collect(), vec![examples()[0]]].concat();
            assert_eq!(found, all.iter().map(|change| format!("{change:?}")).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_torn_or_damaged_tail_does_not_count() {
        let whole = frame();
        for cut in 0..whole.len() {
            let bytes = [&whole[..], &whole[..cut]].concat();
            assert_eq!(read(&bytes, |_| ()), whole.len(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bytes = [&whole[..], &whole[..]].concat();
            bytes[whole.len() + at] ^= 1;
            assert_eq!(read(&bytes, |_| ()), whole.len(), "damaged at {at}");
        }
        assert_eq!(read(&[0; 64], |_| ()), 0);
    }
}
