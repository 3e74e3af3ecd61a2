//! Messages over a stream socket: JSON, a payload of plain bytes, and file descriptors.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Most file descriptors in one message.
const MOST_FDS: usize = 3;
/// Lengths of the JSON and of the payload, little-endian.
const HEAD: usize = 16;
/// A longer message means that the other end is not who we think it is.
const MOST_BYTES: u64 = 1 << 30;

/// One end of a connection.
pub(crate) struct Wire(File);

/// A message as it arrived.
pub(crate) struct Received<T> {
    /// The JSON part.
    pub message: T,
    /// The plain bytes.
    pub payload: Vec<u8>,
    /// The file descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Wire {
    /// Takes over a connected stream socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self(File::from(socket))
    }

    /// To poll for a message or the end.
    pub fn socket(&self) -> &File {
        &self.0
    }

    /// Sends a message; waits while the other end is behind.
    pub fn send(&self, message: &impl Serialize, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = vec![0; HEAD];
        serde_json::to_writer(&mut bytes, message)?;
        let json = (bytes.len() - HEAD) as u64;
        bytes[..8].copy_from_slice(&json.to_le_bytes());
        bytes[8..HEAD].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(payload);

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("too many file descriptors in one message"));
        }
        let sent = sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        (&self.0).write_all(&bytes[sent..])
    }

    /// Waits for a message; none when the other end is gone.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<Received<T>>> {
        let mut head = [0; HEAD];
        let mut fds = Vec::new();
        let mut have = 0;
        while have < HEAD {
            match self.receive_part(&mut head[have..], &mut fds)? {
                0 if have == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => have += n,
            }
        }
        let (json, payload) = head.split_at(8);
        let json = u64::from_le_bytes(json.try_into().expect("half of sixteen bytes"));
        let payload = u64::from_le_bytes(payload.try_into().expect("half of sixteen bytes"));
        if json.saturating_add(payload) > MOST_BYTES {
            return Err(io::Error::other("a message is longer than 1 GiB"));
        }
        let message = serde_json::from_slice(&self.read_exactly(json)?)?;
        Ok(Some(Received { message, payload: self.read_exactly(payload)?, fds }))
    }

    fn read_exactly(&self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        (&self.0).read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn receive_part(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(0),
                other => break other?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        Ok(received.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::Wire;
    use proptest::prelude::{any, proptest};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    fn pair() -> (Wire, Wire) {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        (Wire::new(a), Wire::new(b))
    }

    #[test]
    fn files_travel_with_their_message() {
        let (a, b) = pair();
        let null = File::open("/dev/null").unwrap();
        let zero = File::open("/dev/zero").unwrap();
        a.send(&"first", b"", &[null.as_fd(), zero.as_fd()]).unwrap();
        a.send(&"second", b"x", &[]).unwrap();
        let first = b.receive::<String>().unwrap().unwrap();
        assert_eq!((first.message.as_str(), first.fds.len()), ("first", 2));
        let mut byte = [1];
        let mut fds = first.fds.into_iter().map(File::from);
        assert_eq!(fds.next().unwrap().read(&mut byte).unwrap(), 0);
        assert_eq!((fds.next().unwrap().read(&mut byte).unwrap(), byte), (1, [0]));
        let second = b.receive::<String>().unwrap().unwrap();
        assert_eq!(
            (second.message.as_str(), second.payload.as_slice(), second.fds.len()),
            ("second", &b"x"[..], 0)
        );
    }

    #[test]
    fn the_end_and_nonsense_are_told_apart() {
        let (a, b) = pair();
        drop(a);
        assert!(b.receive::<String>().unwrap().is_none());
        let (a, b) = pair();
        (&a.0).write_all(&[0xff; 40]).unwrap();
        assert!(b.receive::<String>().err().unwrap().to_string().contains("1 GiB"));
        let (a, b) = pair();
        (&a.0).write_all(&[1; 5]).unwrap();
        drop(a);
        assert!(b.receive::<String>().is_err());
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives(text in any::<String>(), byte in any::<u8>(), length in 0usize..300_000) {
            let payload = vec![byte; length];
            let (a, b) = pair();
            std::thread::scope(|scope| {
                // More than a socket holds: the two ends have to take turns.
                scope.spawn(|| a.send(&text, &payload, &[]).unwrap());
                let received = b.receive::<String>().unwrap().unwrap();
                assert!(received.message == text && received.payload == payload);
            });
        }
    }
}
