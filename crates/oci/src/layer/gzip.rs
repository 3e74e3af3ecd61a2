//! Gzip on several threads: one member of independently compressed blocks, each ended by a sync flush.
//!
//! Blocks are cut at fixed places and know nothing of each other, so the bytes do not depend on the number of threads.
//! Any reader of gzip reads the result, as one member.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender};
use flate2::{Compress, Compression, Crc, FlushCompress};

/// Plain bytes of one block. Larger ones compress better, by less than 1 % beyond this; memory is four of them a thread.
const BLOCK: usize = 1 << 20;

/// Compresses what is written to it.
pub(super) struct GzipWriter<W> {
    out: W,
    level: u32,
    /// Threads that may be started; they are when there is a block for them.
    threads: usize,
    workers: Vec<JoinHandle<()>>,
    jobs: (Sender<Job>, Receiver<Job>),
    /// Results of blocks under way, in the order of the stream.
    pending: VecDeque<Receiver<Vec<u8>>>,
    /// The block that is being filled.
    block: Vec<u8>,
    sum: Crc,
}

struct Job {
    block: Vec<u8>,
    result: Sender<Vec<u8>>,
}

impl<W: Write> GzipWriter<W> {
    pub(super) fn new(mut out: W, level: u32, threads: usize) -> io::Result<Self> {
        // Deflate, no flags, no time, no hint, unknown system.
        out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
        Ok(Self {
            out,
            level,
            threads,
            workers: Vec::new(),
            jobs: crossbeam_channel::unbounded(),
            pending: VecDeque::new(),
            block: Vec::new(),
            sum: Crc::new(),
        })
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        while let Some(result) = self.pending.pop_front() {
            self.write_result(&result)?;
        }
        if !self.block.is_empty() {
            let last = deflate(&mut Compress::new(Compression::new(self.level), false), &self.block);
            self.out.write_all(&last)?;
        }
        // An empty last block, checksum and length of the plain bytes.
        self.out.write_all(&[3, 0])?;
        self.out.write_all(&self.sum.sum().to_le_bytes())?;
        self.out.write_all(&self.sum.amount().to_le_bytes())?;
        let Self { out, workers, jobs, .. } = self;
        drop(jobs);
        for worker in workers {
            worker.join().map_err(|_| died())?;
        }
        Ok(out)
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.pending.len() >= 2 * self.threads {
            let first = self.pending.pop_front().expect("there are some");
            self.write_result(&first)?;
        }
        if self.workers.len() < self.threads {
            let (jobs, level) = (self.jobs.1.clone(), self.level);
            self.workers.push(thread::Builder::new().name("gzip".into()).spawn(move || work(&jobs, level))?);
        }
        let block = mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        let (sender, receiver) = crossbeam_channel::bounded(1);
        self.jobs.0.send(Job { block, result: sender }).map_err(|_| died())?;
        self.pending.push_back(receiver);
        Ok(())
    }

    fn write_result(&mut self, result: &Receiver<Vec<u8>>) -> io::Result<()> {
        let bytes = result.recv().map_err(|_| died())?;
        self.out.write_all(&bytes)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.submit()?;
        }
        let count = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        self.sum.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work(jobs: &Receiver<Job>, level: u32) {
    let mut compress = Compress::new(Compression::new(level), false);
    for Job { block, result } in jobs {
        // Nobody listens if the writer was dropped.
        let _ = result.send(deflate(&mut compress, &block));
    }
}

/// One block as deflate data that end at a byte, with nothing that refers to what was before.
fn deflate(compress: &mut Compress, block: &[u8]) -> Vec<u8> {
    compress.reset();
    let mut out = Vec::new();
    // The flush is complete once room is left over.
    while out.len() == out.capacity() {
        out.reserve(block.len() / 2 + 1024);
        let done = usize::try_from(compress.total_in()).expect("no more than the block");
        compress
            .compress_vec(&block[done..], &mut out, FlushCompress::Sync)
            .expect("deflate takes any bytes and has room");
    }
    out
}

fn died() -> io::Error {
    io::Error::other("a compression thread ended early")
}

/// Text that compresses about as well as programs do, without a period.
#[cfg(test)]
pub(super) fn sample(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes()[..if state.is_multiple_of(3) { 8 } else { 1 }]);
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn pack(plain: &[u8], level: u32, threads: usize, piece: usize) -> Vec<u8> {
        let mut writer = GzipWriter::new(Vec::new(), level, threads).unwrap();
        plain.chunks(piece).for_each(|piece| writer.write_all(piece).unwrap());
        writer.finish().unwrap()
    }

    #[test]
    fn one_member_that_does_not_depend_on_threads() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77] {
            let plain = sample(length);
            let packed = pack(&plain, 6, 1, 4096);
            for (threads, piece) in [(2, 100_000), (7, 3 << 20)] {
                assert!(pack(&plain, 6, threads, piece) == packed, "{length} {threads}");
            }
            // The decoder for a single member must reach the end of the bytes.
            let mut decoder = flate2::bufread::GzDecoder::new(packed.as_slice());
            let mut found = Vec::new();
            decoder.read_to_end(&mut found).unwrap();
            assert!(found == plain && decoder.into_inner().is_empty(), "{length}");
        }
    }

    #[test]
    fn every_level_and_bytes_that_do_not_compress() {
        let mut noise = sample(3 << 19);
        let mut state = 7u64;
        for byte in &mut noise[..1 << 20] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        for level in 0..=9 {
            let mut found = Vec::new();
            let packed = pack(&noise, level, 2, 65_536);
            flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut found).unwrap();
            assert!(found == noise, "{level}");
        }
    }

    #[test]
    fn an_error_of_the_place_ends_the_writer() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or_else(|| io::Error::other("full"))?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = GzipWriter::new(Full(100), 1, 3).unwrap();
        let error = writer.write_all(&sample(40 << 20)).unwrap_err();
        assert_eq!(error.to_string(), "full");
    }
}
