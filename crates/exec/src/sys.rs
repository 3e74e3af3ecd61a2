//! System calls for which there is no safe wrapper. The unsafe code of the project is here and in the two calls
//! of the functions that this file marks unsafe.
#![expect(unsafe_code, reason = "clone3, clone, execve, mount_setattr and getrusage have no safe wrapper")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;

/// Both sides of a [`clone_process`].
pub(crate) enum Cloned {
    /// This is the new process.
    Child,
    /// This is the old process.
    Parent(Process),
}

/// A child of this process.
pub(crate) struct Process {
    /// Its number, valid until it has been waited for.
    pub pid: Pid,
    /// Readable when it has ended; for signals that cannot hit another process.
    pub fd: OwnedFd,
}

/// A copy of this process in the new namespaces that `flags` ask for.
///
/// # Safety
/// The calling process must have one thread only: the copy has no other, and a lock one of them held
/// would stay locked for ever.
pub(crate) unsafe fn clone_process(flags: c_int) -> io::Result<Cloned> {
    let mut fd: RawFd = -1;
    // SAFETY: all fields are numbers, for which zero is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from((flags | libc::CLONE_PIDFD) as u32);
    args.pidfd = &raw mut fd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: `args` lives during the call and its size is given; without CLONE_VM and with no stack given
    // this behaves like fork, whose condition is the caller's.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            let pid = Pid::from_raw(pid as i32).expect("the kernel numbers processes from one");
            // SAFETY: CLONE_PIDFD made the kernel store a new descriptor that nobody else owns.
            Ok(Cloned::Parent(Process { pid, fd: unsafe { OwnedFd::from_raw_fd(fd) } }))
        }
    }
}

/// Runs `child` in a process that shares this one's memory, while this one stands still until the child has
/// executed a program or ended. Cheaper than a copy of the process.
///
/// # Safety
/// `child` must do nothing but system calls and stores through what it captured: no allocation, no locks.
/// The calling process must have one thread only.
pub(crate) unsafe fn spawn_sharing(child: &mut dyn FnMut() -> c_int) -> io::Result<Pid> {
    extern "C" fn enter(argument: *mut c_void) -> c_int {
        // SAFETY: the argument is the pointer given to clone below, which outlives the child's use of this memory.
        let child = unsafe { &mut *argument.cast::<&mut dyn FnMut() -> c_int>() };
        child()
    }
    const STACK: usize = 64 * 1024;
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
    let mut child = child;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack grows downwards from its aligned end and is used by nobody else; CLONE_VFORK keeps
    // this frame, and with it stack and closure, alive until the child no longer uses this memory.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        libc::clone(enter, top.cast(), flags, (&raw mut child).cast())
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(pid).expect("the kernel numbers processes from one"))
}

/// Texts as the kernel takes them for `execve`.
pub(crate) struct ExecList {
    pointers: Vec<*const c_char>,
    _texts: Vec<CString>,
}

impl ExecList {
    /// Keeps the texts and a terminated list of pointers to them.
    pub fn new(texts: Vec<CString>) -> Self {
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, _texts: texts }
    }
}

/// Replaces this process by a program; returns only to say why it could not.
pub(crate) fn execute(program: &CStr, argv: &ExecList, env: &ExecList) -> c_int {
    // SAFETY: the lists end with a null pointer and point to texts they own.
    unsafe { libc::execve(program.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    last_errno()
}

/// Replaces this process by the program in an open file; returns only to say why it could not.
pub(crate) fn execute_file(program: impl AsFd, argv: &ExecList, env: &ExecList) -> c_int {
    // SAFETY: as in `execute`; the path is an empty C string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_fd().as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

fn last_errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Sets attributes of the mount `fd` refers to, of all mounts below it too if `recursive`.
pub(crate) fn set_mount_attributes(fd: impl AsFd, attributes: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the attributes live during the call and their size is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Processor time in microseconds and largest resident set in bytes of the children waited for.
pub(crate) fn children_cost() -> (u64, u64) {
    // SAFETY: all fields are numbers, for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for writing.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    (micros(usage.ru_utime) + micros(usage.ru_stime), usage.ru_maxrss as u64 * 1024)
}

/// Gives every signal its default action, as a program expects at its start.
pub(crate) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: setting the default action runs no code of ours; numbers that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Ends this process at once, without running destructors or handlers.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: `_exit` has no conditions.
    unsafe { libc::_exit(code) }
}

/// Closes all descriptors but the standard streams and `kept`.
pub(crate) fn close_all_but(kept: &mut [RawFd]) -> io::Result<()> {
    kept.sort_unstable();
    let mut first = 3;
    for number in kept.iter().map(|fd| *fd as u32).filter(|number| *number >= 3) {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = number + 1;
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the callers' processes use none of these descriptors any more.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets a filter of system calls for this thread and everything it starts.
pub(crate) fn set_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program lives during the call, its length is given, and the kernel only reads it.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Switches an interface of the current network namespace on.
pub(crate) fn interface_up(socket: impl AsFd, name: &str) -> io::Result<()> {
    // SAFETY: all fields are numbers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is valid and lives during the call.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The standard streams of this process become these descriptors.
pub(crate) fn set_standard_streams(streams: [RawFd; 3]) -> io::Result<()> {
    for (number, fd) in (0..).zip(streams) {
        // SAFETY: both are numbers; the descriptor replaced belongs to nobody in this process's future.
        if unsafe { libc::dup2(fd, number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
