//! A launcher as its executor sees it, and how a step is followed to its end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quern_core::event::Stream;
use quern_core::port::Cancel;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::Timespec;

use crate::LAUNCHER_ARGUMENT;
use crate::log::Log;
use crate::order::{Order, Reply, Request};
use crate::plan::Plan;
use crate::refusal::ExecError;
use crate::wire::Wire;

/// How often somebody looks whether a step was cancelled.
const TICK: Duration = Duration::from_millis(50);
/// After this long, a launcher that does not obey is ended itself.
const PATIENCE: Duration = Duration::from_millis(600);
const BUFFER: usize = 64 * 1024;

/// A running launcher.
pub(crate) struct Worker {
    wire: Wire,
    launcher: Child,
    groups: Vec<String>,
}

/// Why a step was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It ran for too long.
    TimedOut,
    /// Nobody wants it any more.
    Cancelled,
}

/// How a step ended, seen from here.
pub(crate) enum End {
    /// With this answer of the launcher.
    Replied(Reply),
    /// Because it was stopped.
    Stopped(Stop),
}

impl Worker {
    /// Starts a launcher and waits until it is ready.
    pub fn start(program: &Path) -> Result<Self, ExecError> {
        let failed = |source| ExecError::LauncherStart { program: program.display().to_string(), source };
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| failed(errno.into()))?;
        let launcher = Command::new(program)
            .arg(LAUNCHER_ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        let mut worker = Self { wire: Wire::new(ours), launcher, groups: Vec::new() };
        match worker.wire.receive::<Reply>().map_err(failed)?.map(|received| received.message) {
            Some(Reply::Ready { groups }) => worker.groups = groups,
            Some(Reply::Refused(refusal)) => return Err(refusal.into()),
            Some(_) | None => {
                let source = io::Error::other("it ended at once; is it a program that calls launcher_main?");
                return Err(failed(source));
            }
        }
        Ok(worker)
    }

    /// Whether the launcher still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.launcher.try_wait(), Ok(None))
    }

    /// Runs a step to its end. After an error the worker must not be used again.
    pub fn run(
        &mut self,
        plan: &Plan<'_>,
        stdin: Option<&File>,
        log: &mut Log<'_>,
        cancel: &Cancel,
        timeout: Option<Duration>,
    ) -> Result<End, ExecError> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| ExecError::Talk(errno.into()));
        let ((out, their_out), (err, their_err)) = (pipe()?, pipe()?);
        let mut streams = vec![their_out.as_fd(), their_err.as_fd()];
        streams.extend(stdin.map(AsFd::as_fd));
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let request = Request::Run(&plan.order);
        if let Err(error) = self.wire.send(&request, &plan.payload, &streams) {
            return Err(if error.kind() == io::ErrorKind::BrokenPipe {
                ExecError::LauncherLost
            } else {
                ExecError::Talk(error)
            });
        }
        drop((their_out, their_err));
        let mut follower = Follower { worker: self, pipes: [Some(out.into()), Some(err.into())], log };
        let end = follower.follow(cancel, deadline);
        let ended = end.is_ok() && follower.worker.is_alive();
        // If everything of the step has ended, what it said is in the pipes. If it is dying with its launcher, its
        // last process holds the pipes.
        follower.read_rest(if ended { Duration::ZERO } else { PATIENCE })?;
        log.flush();
        end
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A launcher has nothing to put in order: namespaces and mounts vanish with it. That it may be dead
        // already is the usual reason for an error here.
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
        self.remove_groups();
    }
}

impl Worker {
    /// A step that is just being killed keeps its groups for a moment; what stays is removed by the next launcher.
    fn remove_groups(&self) {
        let left = || self.groups.iter().filter(|group| Path::new(group).exists());
        for _ in 0..20 {
            if left().filter(|group| std::fs::remove_dir(group).is_err()).count() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

struct Follower<'a, 'o> {
    worker: &'a mut Worker,
    pipes: [Option<File>; 2],
    log: &'a mut Log<'o>,
}

impl Follower<'_, '_> {
    fn follow(&mut self, cancel: &Cancel, deadline: Option<Instant>) -> Result<End, ExecError> {
        let mut stop = None;
        let mut killed = None;
        loop {
            if stop.is_none() {
                stop = self.reason_to_stop(cancel, deadline);
                if stop.is_some() {
                    killed = Some(Instant::now() + PATIENCE);
                    self.worker
                        .wire
                        .send(&Request::<Box<Order>>::Kill, &[], &[])
                        .map_err(|_| ExecError::LauncherLost)?;
                }
            }
            if killed.is_some_and(|limit| Instant::now() > limit) {
                self.worker.launcher.kill().map_err(ExecError::Talk)?;
                // So that nobody takes one that is dying for one that is idle.
                self.worker.launcher.wait().map_err(ExecError::Talk)?;
                killed = None;
            }
            let until = deadline.map_or(TICK, |at| TICK.min(at.saturating_duration_since(Instant::now())));
            if !self.wait(until)? {
                continue;
            }
            let reply = self.worker.wire.receive::<Reply>().map_err(ExecError::Talk)?;
            return match (reply.map(|received| received.message), stop) {
                (_, Some(stop)) => Ok(End::Stopped(stop)),
                (None, None) => Err(ExecError::LauncherLost),
                (Some(Reply::Refused(refusal)), None) => Err(refusal.into()),
                (Some(reply), None) => Ok(End::Replied(reply)),
            };
        }
    }

    fn reason_to_stop(&self, cancel: &Cancel, deadline: Option<Instant>) -> Option<Stop> {
        if cancel.is_set() {
            return Some(Stop::Cancelled);
        }
        deadline.is_some_and(|at| Instant::now() >= at).then_some(Stop::TimedOut)
    }

    /// Reads what is there within a time; tells whether the launcher says something.
    fn wait(&mut self, longest: Duration) -> Result<bool, ExecError> {
        let timeout =
            Timespec::try_from(longest).map_err(|_| ExecError::Talk(io::ErrorKind::InvalidInput.into()))?;
        let socket = self.worker.wire.socket();
        let mut ends = vec![PollFd::new(socket, PollFlags::IN)];
        ends.extend(self.pipes.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut ends, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(ExecError::Talk(errno.into())),
        }
        let mut ready = ends.iter().map(|end| !end.revents().is_empty());
        let called = ready.next().unwrap_or(false);
        let mut spoke = [false; 2];
        for (open, spoke) in self.pipes.iter().zip(&mut spoke) {
            *spoke = open.is_some() && ready.next().unwrap_or(false);
        }
        for (number, spoke) in spoke.into_iter().enumerate() {
            if spoke {
                self.read(number)?;
            }
        }
        Ok(called)
    }

    fn read(&mut self, number: usize) -> Result<(), ExecError> {
        let Some(pipe) = &mut self.pipes[number] else { return Ok(()) };
        let mut buffer = [0; BUFFER];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipes[number] = None,
            Ok(length) => {
                let stream = if number == 0 { Stream::Stdout } else { Stream::Stderr };
                self.log.feed(stream, &buffer[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ExecError::Talk(error)),
        }
        Ok(())
    }

    /// Reads until nothing is left, or both pipes end, waiting at most so long for more.
    fn read_rest(&mut self, longest: Duration) -> Result<(), ExecError> {
        let limit = Instant::now() + longest;
        while self.pipes.iter().any(Option::is_some) {
            let left = limit.saturating_duration_since(Instant::now());
            let timeout =
                Timespec::try_from(left).map_err(|_| ExecError::Talk(io::ErrorKind::InvalidInput.into()))?;
            let open: Vec<usize> = (0..2).filter(|number| self.pipes[*number].is_some()).collect();
            let mut ends: Vec<_> =
                self.pipes.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
            match poll(&mut ends, Some(&timeout)) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(ExecError::Talk(errno.into())),
            }
            let ready: Vec<bool> = ends.iter().map(|end| !end.revents().is_empty()).collect();
            for (number, ready) in open.into_iter().zip(ready) {
                if ready {
                    self.read(number)?;
                }
            }
        }
        Ok(())
    }
}
