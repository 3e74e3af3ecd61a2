//! System calls for which there is no safe wrapper. The unsafe code of the project is here and in the two calls
//! of the functions that this file marks unsafe.
#![expect(unsafe_code, reason = "clone3, clone, execve, mount_setattr and wait4 have no safe wrapper")]

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

/// Memory for the stacks of children that [`spawn_sharing`] starts, one after the other.
pub(crate) struct Stack(Vec<u128>);

impl Stack {
    /// Room for everything a child calls; only what it touches takes memory.
    const BYTES: usize = 512 * 1024;

    /// Untouched memory.
    pub fn new() -> Self {
        Self(Vec::with_capacity(Self::BYTES / size_of::<u128>()))
    }
}

/// What a process that [`spawn_sharing`] starts is to the one that starts it.
#[derive(Clone, Copy)]
pub(crate) enum Kin {
    /// An ordinary child.
    Child,
    /// A child that also shares the open files, to do something in this one's place.
    Hand,
    /// A child of this one's parent.
    Sibling,
}

/// Runs `child` in a process that shares this one's memory, while this one stands still until the child has
/// executed a program or ended. Cheaper than a copy of the process. What `child` allocates and still has when it
/// executes a program stays allocated here.
///
/// # Safety
/// The calling process must have one thread only: then the child is as alone with the memory as its caller was.
pub(crate) unsafe fn spawn_sharing(
    stack: &mut Stack,
    kin: Kin,
    child: &mut dyn FnMut() -> c_int,
) -> io::Result<Process> {
    extern "C" fn enter(argument: *mut c_void) -> c_int {
        // SAFETY: the argument is the pointer given to clone below, which outlives the child's use of this memory.
        let child = unsafe { &mut *argument.cast::<&mut dyn FnMut() -> c_int>() };
        child()
    }
    let mut child = child;
    let mut fd: RawFd = -1;
    let kinship = match kin {
        Kin::Child => 0,
        Kin::Hand => libc::CLONE_FILES,
        Kin::Sibling => libc::CLONE_PARENT,
    };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | kinship;
    // SAFETY: the stack grows downwards from its aligned end and is used by nobody else; CLONE_VFORK keeps
    // this frame, and with it stack and closure, alive until the child no longer uses this memory. The last argument
    // is where the kernel stores the descriptor.
    let pid = unsafe {
        let top = stack.0.as_mut_ptr().add(stack.0.capacity());
        libc::clone(enter, top.cast(), flags, (&raw mut child).cast(), &raw mut fd)
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = Pid::from_raw(pid).expect("the kernel numbers processes from one");
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor that nobody else owns.
    Ok(Process { pid, fd: unsafe { OwnedFd::from_raw_fd(fd) } })
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

/// How a child ended.
pub(crate) struct Ended {
    /// Exit code, or the negative number of the signal.
    pub code: i32,
    /// Processor time of it and the children it waited for, microseconds.
    pub cpu_micros: u64,
    /// Largest resident set of one of them, bytes.
    pub peak_memory: u64,
}

/// Waits for a child's end.
pub(crate) fn reap(pid: Pid) -> io::Result<Ended> {
    let mut status = 0;
    // SAFETY: all fields are numbers, for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both are valid for writing.
        let done = unsafe { libc::wait4(pid.as_raw_nonzero().get(), &raw mut status, 0, &raw mut usage) };
        match done {
            -1 if last_errno() == libc::EINTR => {}
            -1 => return Err(io::Error::last_os_error()),
            // It stopped, being traced by this process without its knowing. It will end, or be ended.
            _ if libc::WIFSTOPPED(status) => {}
            _ => break,
        }
    }
    let code = if libc::WIFSIGNALED(status) { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    let cpu_micros = micros(usage.ru_utime) + micros(usage.ru_stime);
    Ok(Ended { code, cpu_micros, peak_memory: usage.ru_maxrss as u64 * 1024 })
}

/// What other processes of the same user can change of a process and see of it, or its children inherit: resource
/// limits, the processors it may use, scheduling, priorities. To be compared only.
pub(crate) fn traits_of(pid: Pid) -> io::Result<Vec<u64>> {
    const LIMITS: u32 = 16;
    const BY_PROCESS: c_int = 1;
    let pid = pid.as_raw_nonzero().get();
    let succeeded = |done: i64| if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as u64) };
    let mut traits = Vec::with_capacity(80);
    for resource in 0..LIMITS {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: nothing is set, and `limit` is valid for writing.
        succeeded(i64::from(unsafe { libc::prlimit(pid, resource, ptr::null(), &raw mut limit) }))?;
        traits.extend([limit.rlim_cur, limit.rlim_max]);
    }
    let (mut processors, mut scheduling) = ([0_u64; 32], [0_u64; 16]);
    let scheduling_size = size_of_val(&scheduling);
    // SAFETY: the kernel writes at most as many bytes as it is told there are.
    unsafe {
        let call = libc::SYS_sched_getaffinity;
        succeeded(libc::syscall(call, pid, size_of_val(&processors), processors.as_mut_ptr()))?;
        let call = libc::SYS_sched_getattr;
        succeeded(libc::syscall(call, pid, scheduling.as_mut_ptr(), scheduling_size, 0))?;
        traits.push(succeeded(libc::syscall(libc::SYS_ioprio_get, BY_PROCESS, pid))?);
    }
    traits.extend(processors.into_iter().chain(scheduling));
    Ok(traits)
}

/// Gives every signal its default action, as a program expects at its start.
pub(crate) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: setting the default action runs no code of ours; numbers that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Children of this process leave nothing to wait for.
pub(crate) fn forget_children() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
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
