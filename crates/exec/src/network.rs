//! The network of steps that have none: a namespace with nothing but a loopback interface.
//!
//! Making and unmaking a network namespace costs more than all the rest of a sandbox. So a launcher keeps the
//! last one and gives it to the next step if no packet ever passed its loopback: then nothing distinguishes
//! it from a new one, because sockets end with their processes and every trace of traffic begins with a packet.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::refusal::{Doing, Refusal};
use crate::sys;

/// A network namespace that can be given to the next step.
pub(crate) struct QuietNetwork {
    namespace: OwnedFd,
    /// Its `/proc/net/dev`, which stays readable without any process in it.
    counters: File,
}

impl QuietNetwork {
    /// Keeps the namespace a process was started in; none if the process is gone already.
    pub fn of(pid: Pid) -> Option<Self> {
        let proc = format!("/proc/{}", pid.as_raw_nonzero());
        let namespace = File::open(format!("{proc}/ns/net")).ok()?.into();
        Some(Self { namespace, counters: File::open(format!("{proc}/net/dev")).ok()? })
    }

    /// Whether nothing was ever sent in it.
    pub fn is_quiet(&self) -> bool {
        let mut text = [0; 1024];
        let length = self.counters.read_at(&mut text, 0).unwrap_or(0);
        std::str::from_utf8(&text[..length]).is_ok_and(silent)
    }

    /// Moves this process into it.
    pub fn enter(&self) -> Result<(), Refusal> {
        use std::os::fd::AsFd;
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .doing("entering the network namespace")
    }
}

/// Switches the loopback interface of a new namespace on.
pub(crate) fn start_loopback() -> Result<(), Refusal> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let socket = socket.doing("opening a socket for the loopback interface")?;
    sys::interface_up(&socket, "lo").doing("starting the loopback interface")
}

/// Whether a `/proc/net/dev` has one interface and it counted nothing.
fn silent(table: &str) -> bool {
    let mut interfaces = table.lines().skip(2);
    let only = interfaces.next().and_then(|line| line.trim().strip_prefix("lo:"));
    let untouched = only.is_some_and(|counters| counters.split_whitespace().all(|count| count == "0"));
    untouched && interfaces.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::silent;

    #[test]
    fn only_an_untouched_loopback_is_silent() {
        let head = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes\n";
        assert!(silent(&format!("{head}    lo:       0       0 0\n")));
        assert!(!silent(&format!("{head}    lo:      84       1 0\n")));
        assert!(!silent(&format!("{head}    lo: 0 0 0\n  eth0: 0 0 0\n")));
        assert!(!silent(head));
        assert!(!silent(""));
    }
}
