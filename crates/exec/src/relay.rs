//! Sockets of the machine for a step: whatever it connects to is ours, and hands on what it hears.
//!
//! The socket itself would not do: its owner and mode are not the step's, and an ssh agent asks the kernel who is
//! there. So a relay listens on a socket of its own and makes each connection in the name of this process.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// More connections at a time than any tool makes; further ones are closed.
const MOST_CONNECTIONS: usize = 64;

/// A socket that hands on to another one until it is dropped.
pub(crate) struct Relay {
    /// Where it listens.
    pub path: PathBuf,
    listener: Option<JoinHandle<()>>,
    stop: Option<OwnedFd>,
    open: Arc<Mutex<Vec<Connection>>>,
}

/// Both ends of a connection, and the threads that hand on.
struct Connection {
    ends: [UnixStream; 2],
    threads: [JoinHandle<()>; 2],
}

impl Relay {
    /// Listens at a name in an empty directory and hands on to the socket at `to`.
    pub fn start(dir: &Path, to: &Path) -> io::Result<Self> {
        let path = dir.join("socket");
        // The path of a socket is limited to about a hundred bytes; this name of the directory is short.
        let open = File::open(dir)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/socket", open.as_raw_fd()))?;
        listener.set_nonblocking(true)?;
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let (open, to) = (Arc::default(), to.to_owned());
        let connections = Arc::clone(&open);
        let thread = std::thread::Builder::new().name("relay".into());
        let listener = thread.spawn(move || listen(&listener, &stopped, &to, &connections))?;
        Ok(Self { path, listener: Some(listener), stop: Some(stop), open })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(listener) = self.listener.take() {
            // A thread that panicked has nothing left to be waited for.
            let _ = listener.join();
        }
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.into_iter().for_each(Connection::end);
    }
}

impl Connection {
    fn new(step: UnixStream, to: &Path) -> io::Result<Self> {
        let machine = UnixStream::connect(to)?;
        let hand_on = |from: &UnixStream, to: &UnixStream| -> io::Result<JoinHandle<()>> {
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            std::thread::Builder::new().name("relay".into()).spawn(move || {
                // An end that breaks off is an end.
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            })
        };
        let threads = [hand_on(&step, &machine)?, hand_on(&machine, &step)?];
        Ok(Self { ends: [step, machine], threads })
    }

    fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    fn end(self) {
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn listen(listener: &UnixListener, stopped: &OwnedFd, to: &Path, open: &Mutex<Vec<Connection>>) {
    loop {
        let mut ends = [PollFd::new(stopped, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        match poll(&mut ends, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) if !ends[0].revents().is_empty() => return,
            Ok(_) => {}
        }
        let Ok((step, _)) = listener.accept() else { continue };
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        let (over, going_on) = std::mem::take(&mut *open).into_iter().partition(Connection::is_over);
        *open = going_on;
        Vec::into_iter(over).for_each(Connection::end);
        // The step sees an end where nobody answers, or where it has too many.
        if open.len() < MOST_CONNECTIONS
            && step.set_nonblocking(false).is_ok()
            && let Ok(connection) = Connection::new(step, to)
        {
            open.push(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_CONNECTIONS, Relay};
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    /// A machine's socket that says everything twice.
    fn echo(listener: &UnixListener, connections: usize) {
        for _ in 0..connections {
            let (mut end, _) = listener.accept().unwrap();
            let mut text = String::new();
            end.read_to_string(&mut text).unwrap();
            write!(end, "{text}{text}").unwrap();
        }
    }

    #[test]
    fn what_is_said_is_handed_on_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let machine = UnixListener::bind(dir.path().join("machine")).unwrap();
        let relay = Relay::start(&deep, &dir.path().join("machine")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| echo(&machine, 3));
            for text in ["", "a", &"long ".repeat(100_000)] {
                let open = std::fs::File::open(&deep).unwrap();
                let path = format!("/proc/self/fd/{}/socket", std::os::fd::AsRawFd::as_raw_fd(&open));
                let mut end = UnixStream::connect(path).unwrap();
                end.write_all(text.as_bytes()).unwrap();
                end.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answer = String::new();
                end.read_to_string(&mut answer).unwrap();
                assert!(answer == text.repeat(2));
            }
        });
        assert!(relay.path.exists());
    }

    #[test]
    fn it_ends_whoever_is_connected() {
        let dir = tempfile::tempdir().unwrap();
        let machine = dir.path().join("machine");
        let listener = UnixListener::bind(&machine).unwrap();
        let relay = Relay::start(dir.path(), &machine).unwrap();
        let mut ends: Vec<_> =
            (0..=MOST_CONNECTIONS).map(|_| UnixStream::connect(&relay.path).unwrap()).collect();
        let mut others: Vec<_> = (0..MOST_CONNECTIONS).map(|_| listener.accept().unwrap().0).collect();
        // One too many is closed at once; the others are when the relay is.
        assert_eq!(ends.pop().unwrap().read(&mut [0]).unwrap(), 0);
        drop(relay);
        for end in ends.iter_mut().chain(&mut others) {
            assert_eq!(end.read(&mut [0]).unwrap_or(0), 0);
        }
    }

    #[test]
    fn nobody_there_is_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let relay = Relay::start(dir.path(), &dir.path().join("nobody")).unwrap();
        assert_eq!(UnixStream::connect(&relay.path).unwrap().read(&mut [0]).unwrap(), 0);
    }
}
