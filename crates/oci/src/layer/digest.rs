//! The digest of a stream: of a long one it is computed on a thread of its own, beside whoever makes the stream.

use std::mem;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use quern_core::{Digest, DigestWriter};

/// A stream longer than this is worth a thread.
const LONG: u64 = 8 << 20;
/// What is handed over at once.
const BLOCK: usize = 1 << 20;
/// Blocks that may wait; bounds memory.
const WAITING: usize = 4;

/// Takes a stream in piece by piece.
pub(super) struct StreamDigest {
    seen: u64,
    state: State,
}

enum State {
    Here(DigestWriter),
    There { blocks: SyncSender<Vec<u8>>, thread: JoinHandle<DigestWriter>, block: Vec<u8> },
}

impl StreamDigest {
    pub(super) fn new() -> Self {
        Self { seen: 0, state: State::Here(DigestWriter::new()) }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.seen += bytes.len() as u64;
        match &mut self.state {
            State::Here(writer) => {
                writer.update(bytes);
                if self.seen > LONG {
                    let writer = mem::replace(writer, DigestWriter::new());
                    self.state = continued(writer);
                }
            }
            State::There { blocks, block, .. } => {
                block.extend_from_slice(bytes);
                if block.len() >= BLOCK {
                    let whole = mem::replace(block, Vec::with_capacity(BLOCK + BLOCK / 4));
                    // The thread ends only by a panic, which `finish` passes on.
                    let _ = blocks.send(whole);
                }
            }
        }
    }

    pub(super) fn finish(self) -> Digest {
        match self.state {
            State::Here(writer) => writer.finish(),
            State::There { blocks, thread, block } => {
                drop(blocks);
                let mut writer = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                writer.update(&block);
                writer.finish()
            }
        }
    }
}

/// Goes on with a digest on another thread, or here if there is none to be had.
fn continued(mut writer: DigestWriter) -> State {
    let (blocks, waiting) = sync_channel::<Vec<u8>>(WAITING);
    let start = writer.clone();
    let spawned = thread::Builder::new().name("digest".into()).spawn(move || {
        waiting.iter().for_each(|block| writer.update(&block));
        writer
    });
    match spawned {
        Ok(thread) => State::There { blocks, thread, block: Vec::with_capacity(BLOCK + BLOCK / 4) },
        Err(_) => State::Here(start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_stream_has_the_digest_of_its_bytes() {
        for (length, piece) in
            [(0, 1), (100, 7), (LONG as usize + 1, 100_000), (3 * LONG as usize + 5, 777_777)]
        {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut digest = StreamDigest::new();
            bytes.chunks(piece).for_each(|piece| digest.update(piece));
            assert_eq!(digest.finish(), Digest::of(&bytes), "{length} bytes in pieces of {piece}");
        }
    }
}
