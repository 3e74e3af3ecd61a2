//! What a step says, cut into lines.

use quern_core::event::Stream;
use quern_core::port::Observer;

/// A longer line is delivered in pieces of this length.
const LONGEST_LINE: usize = 64 * 1024;
/// Of what a step says, so much is delivered; the rest is read and forgotten.
const MOST_BYTES: usize = 2 * 1024 * 1024;

/// The two streams of a step on their way to an observer.
pub(crate) struct Log<'a> {
    observer: &'a dyn Observer,
    out: Vec<u8>,
    err: Vec<u8>,
    left: usize,
}

impl<'a> Log<'a> {
    /// Nothing said yet.
    pub fn new(observer: &'a dyn Observer) -> Self {
        Self { observer, out: Vec::new(), err: Vec::new(), left: MOST_BYTES }
    }

    /// Takes bytes as they come and delivers the lines they complete.
    pub fn feed(&mut self, stream: Stream, bytes: &[u8]) {
        let taken = bytes.len().min(self.left);
        if taken == 0 {
            return;
        }
        self.left -= taken;
        let observer = self.observer;
        let tail = self.tail(stream);
        tail.extend_from_slice(&bytes[..taken]);
        let mut start = 0;
        loop {
            let rest = &tail[start..];
            let window = &rest[..rest.len().min(LONGEST_LINE + 1)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    observer.line(stream, &rest[..end]);
                    start += end + 1;
                }
                None if window.len() > LONGEST_LINE => {
                    observer.line(stream, &rest[..LONGEST_LINE]);
                    start += LONGEST_LINE;
                }
                None => break,
            }
        }
        tail.drain(..start);
        if self.left == 0 {
            self.flush();
            observer.line(
                Stream::Stderr,
                b"quern: the step said more than 2 MiB; the rest of its log is left out",
            );
        }
    }

    /// Delivers last lines that have no end.
    pub fn flush(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(self.tail(stream));
            if !rest.is_empty() {
                self.observer.line(stream, &rest);
            }
        }
    }

    fn tail(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.out,
            Stream::Stderr => &mut self.err,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_LINE, Log, MOST_BYTES};
    use proptest::prelude::{any, prop, proptest};
    use quern_core::event::Stream;
    use quern_core::port::Observer;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(Stream, Vec<u8>)>>);

    impl Observer for Heard {
        fn line(&self, stream: Stream, line: &[u8]) {
            self.0.lock().unwrap().push((stream, line.to_vec()));
        }
    }

    fn said(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let heard = Heard::default();
        let mut log = Log::new(&heard);
        for piece in pieces {
            log.feed(Stream::Stdout, piece);
        }
        log.flush();
        heard.0.into_inner().unwrap().into_iter().map(|(_, line)| line).collect()
    }

    #[test]
    fn lines_come_whole() {
        assert_eq!(said(&[b"a", b"b\nc", b"\n\nd"]), [&b"ab"[..], b"c", b"", b"d"]);
        assert_eq!(said(&[b"\xff\n"]), [b"\xff"]);
        assert!(said(&[b"", b""]).is_empty());
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let long = vec![b'x'; LONGEST_LINE * 2 + 1];
        let lengths: Vec<_> = said(&[&long, b"\n"]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, 1]);
        let exact = vec![b'x'; LONGEST_LINE];
        assert_eq!(said(&[&exact, b"\n"]).len(), 1);
    }

    #[test]
    fn a_flood_is_clipped_with_a_note() {
        let line = [b'y'; 1023].into_iter().chain([b'\n']).collect::<Vec<_>>();
        let flood: Vec<&[u8]> = (0..5000).map(|_| line.as_slice()).collect();
        let heard = said(&flood);
        assert_eq!(heard.len(), MOST_BYTES / 1024 + 1);
        assert!(heard.last().unwrap().starts_with(b"quern: the step said more"));
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(text in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let cut = cut.min(text.len());
            let whole = said(&[&text]);
            assert_eq!(said(&[&text[..cut], &text[cut..]]), whole);
            let joined = whole.join(&b'\n');
            assert_eq!(joined, text.strip_suffix(b"\n").unwrap_or(&text));
        }
    }
}
