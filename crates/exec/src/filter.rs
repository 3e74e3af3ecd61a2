//! The system call filter every step runs under.
//!
//! A list of what is refused rather than of what is allowed: builders and compilers use most of the kernel's
//! ordinary interface, and namespaces, capabilities and the read-only root already bound what a call can
//! reach. Refused is what has no meaning in a sandbox and has been the way out of one: making namespaces and
//! mounts, loading code into the kernel, clocks, keys, and interfaces with a history of flaws (io_uring,
//! userfaultfd, bpf, perf). Calls newer than this list are refused as unknown to the kernel.
//! `ptrace` stays allowed, as in other runtimes: sanitizers need it, and it reaches only the step's own processes.
//!
//! The kernel runs a new filter once for every system call there is, to remember which are always allowed. So the
//! length of the way through it is paid with every step, and it is put together here, as a search by halves, rather
//! than by a general compiler: that took 0.2 ms a step.

use libc::sock_filter;

use crate::refusal::{Doing, Refusal};
use crate::sys;

/// Refused with "operation not permitted".
const FORBIDDEN: &[i64] = &[
    // mounts and roots
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_nfsservctl,
    // namespaces
    libc::SYS_setns,
    // files by handle, which know no root
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_lookup_dcookie,
    libc::SYS_fanotify_init,
    // the kernel itself
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    // clocks
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    // keys: they are shared across namespaces
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // names of the machine
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // memory of other places
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_set_mempolicy,
    libc::SYS_kcmp,
    libc::SYS_process_madvise,
];

/// Of these, what image builds may do.
const ALLOWED_IN_BUILDS: &[i64] = &[libc::SYS_chroot];

#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[i64] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_uselib, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[i64] = &[];

/// Refused with "function not implemented", so that programs fall back: their arguments lie in memory, where a
/// filter cannot look (clone3), or they open a second way around it (io_uring).
const UNKNOWN: &[i64] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The newest call this list was checked against (`listns`); later ones count as unknown, and with them the
/// calls of the x32 interface, numbered from 2^30.
const NEWEST: u32 = 470;

/// The kernel forgets namespaces of time in `clone`: there, the bit belongs to the signal.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWCGROUP) as u32;

/// Calls that are forbidden with some arguments only.
const SOMETIMES: [Sometimes; 4] = [
    // A sibling instead of a child would be a child of the launcher, which is no part of the sandbox.
    Sometimes {
        call: libc::SYS_clone,
        argument: 0,
        when: When::AnyBit(NEW_NAMESPACES | libc::CLONE_PARENT as u32),
    },
    Sometimes {
        call: libc::SYS_unshare,
        argument: 0,
        when: When::AnyBit(NEW_NAMESPACES | libc::CLONE_NEWTIME as u32),
    },
    // Typing into the caller's terminal.
    Sometimes {
        call: libc::SYS_ioctl,
        argument: 1,
        when: When::OneOf(&[libc::TIOCSTI as u32, libc::TIOCLINUX as u32]),
    },
    // The hypervisor, kernel cryptography, raw packets, and protocols that hardly anybody walks through.
    Sometimes {
        call: libc::SYS_socket,
        argument: 0,
        when: When::OneOf(&[
            libc::AF_VSOCK as u32,
            libc::AF_ALG as u32,
            libc::AF_PACKET as u32,
            libc::AF_KEY as u32,
            libc::AF_RDS as u32,
            libc::AF_TIPC as u32,
        ]),
    },
];

struct Sometimes {
    call: i64,
    argument: u32,
    when: When,
}

enum When {
    AnyBit(u32),
    OneOf(&'static [u32]),
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;

/// The filters, ready for the kernel.
pub(crate) struct Filter {
    full: Vec<sock_filter>,
    builds: Vec<sock_filter>,
}

/// Which filter a step gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// All that is listed is refused.
    Full,
    /// For image builds, where tools set up another root inside of theirs: `chroot` is allowed.
    Builds,
}

impl Filter {
    /// Puts the filters together.
    pub fn new() -> Self {
        let filter = |strictness| assemble(&instructions(strictness));
        Self { full: filter(Strictness::Full), builds: filter(Strictness::Builds) }
    }

    /// Puts this process and all its descendants under a filter. It must have renounced new privileges or have
    /// `CAP_SYS_ADMIN`.
    pub fn apply(&self, strictness: Strictness) -> Result<(), Refusal> {
        let filter = match strictness {
            Strictness::Full => &self.full,
            Strictness::Builds => &self.builds,
        };
        sys::set_filter(filter).doing("setting the system call filter")
    }
}

/// Where an instruction goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// The tests of one of [`SOMETIMES`].
    Arguments(usize),
    /// The tests of the calls from this number on.
    From(u32),
    Allow,
    Forbid,
    Unknown,
    Kill,
}

/// One instruction of the kernel's filter machine, with names for places.
enum Instruction {
    /// Loads 32 bits of the description of the call.
    Load(u32),
    /// Goes to the place if the comparison with what was loaded holds, else on.
    If(Compare, u32, To),
    /// Goes to the place.
    Go(To),
    /// The place itself.
    Here(To),
}

#[derive(Clone, Copy)]
enum Compare {
    Equal,
    Unequal,
    Greater,
    AtLeast,
    AnyBit,
}

/// Offsets in the kernel's description of a call (`struct seccomp_data`).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

fn instructions(strictness: Strictness) -> Vec<Instruction> {
    use Instruction::{Go, Here, If, Load};
    let mut program = vec![
        Load(ARCH),
        If(Compare::Unequal, ARCHITECTURE, To::Kill),
        Load(NUMBER),
        If(Compare::Greater, NEWEST, To::Unknown),
    ];
    let allowed = if strictness == Strictness::Builds { ALLOWED_IN_BUILDS } else { &[] };
    let forbidden = FORBIDDEN.iter().chain(FORBIDDEN_HERE).filter(|call| !allowed.contains(call));
    let tests = SOMETIMES.iter().enumerate().map(|(place, sometimes)| (sometimes.call, To::Arguments(place)));
    let tests = tests
        .chain(forbidden.map(|call| (*call, To::Forbid)))
        .chain(UNKNOWN.iter().map(|call| (*call, To::Unknown)));
    let mut tests: Vec<_> = tests.map(|(call, to)| (call as u32, to)).collect();
    tests.sort_unstable_by_key(|(call, _)| *call);
    search(&tests, &mut program);
    for (place, sometimes) in SOMETIMES.iter().enumerate() {
        // The lower half of a 64-bit argument, which comes first on the machines we run on.
        program.extend([Here(To::Arguments(place)), Load(ARGUMENTS + 8 * sometimes.argument)]);
        match sometimes.when {
            When::AnyBit(bits) => program.push(If(Compare::AnyBit, bits, To::Forbid)),
            When::OneOf(values) => {
                program.extend(values.iter().map(|value| If(Compare::Equal, *value, To::Forbid)));
            }
        }
        program.push(Go(To::Allow));
    }
    program.extend([To::Allow, To::Forbid, To::Unknown, To::Kill].map(Here));
    program
}

/// Finds a call among sorted ones by halves; one that is not among them is allowed.
fn search(tests: &[(u32, To)], program: &mut Vec<Instruction>) {
    const FEW: usize = 3;
    if tests.len() <= FEW {
        program.extend(tests.iter().map(|(call, to)| Instruction::If(Compare::Equal, *call, *to)));
        program.push(Instruction::Go(To::Allow));
        return;
    }
    let (lower, upper) = tests.split_at(tests.len() / 2);
    let middle = upper[0].0;
    program.push(Instruction::If(Compare::AtLeast, middle, To::From(middle)));
    search(lower, program);
    program.push(Instruction::Here(To::From(middle)));
    search(upper, program);
}

/// Turns names of places into distances; a place that is an end becomes its verdict.
fn assemble(program: &[Instruction]) -> Vec<sock_filter> {
    let verdict = |to: To| match to {
        To::Allow => Some(libc::SECCOMP_RET_ALLOW),
        To::Forbid => Some(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        To::Unknown => Some(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        To::Kill => Some(libc::SECCOMP_RET_KILL_PROCESS),
        To::Arguments(_) | To::From(_) => None,
    };
    let takes_room = |instruction: &Instruction| match instruction {
        Instruction::Here(to) => verdict(*to).is_some(),
        _ => true,
    };
    let distance = |from: usize, to: To| {
        let after = &program[from + 1..];
        let place = after.iter().position(|other| matches!(other, Instruction::Here(there) if *there == to));
        let between = &after[..place.expect("every place named is in the program, after its uses")];
        between.iter().filter(|other| takes_room(other)).count() as u32
    };
    let short = |far: u32| u8::try_from(far).expect("the program is shorter than a jump can be");
    let line = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let mut lines = Vec::new();
    for (at, instruction) in program.iter().enumerate() {
        match *instruction {
            Instruction::Load(offset) => {
                lines.push(line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset));
            }
            Instruction::If(compare, value, to) => {
                let far = short(distance(at, to));
                let (kind, jt, jf) = match compare {
                    Compare::Equal => (libc::BPF_JEQ, far, 0),
                    Compare::Unequal => (libc::BPF_JEQ, 0, far),
                    Compare::Greater => (libc::BPF_JGT, far, 0),
                    Compare::AtLeast => (libc::BPF_JGE, far, 0),
                    Compare::AnyBit => (libc::BPF_JSET, far, 0),
                };
                lines.push(line(libc::BPF_JMP | kind | libc::BPF_K, jt, jf, value));
            }
            Instruction::Go(to) => lines.push(line(libc::BPF_JMP | libc::BPF_JA, 0, 0, distance(at, to))),
            Instruction::Here(to) => {
                lines.extend(verdict(to).map(|k| line(libc::BPF_RET | libc::BPF_K, 0, 0, k)));
            }
        }
    }
    lines
}

#[cfg(test)]
#[expect(unsafe_code, reason = "system calls that no library offers")]
mod tests {
    use super::{ARCHITECTURE, FORBIDDEN, FORBIDDEN_HERE, Filter, NEWEST, Strictness, UNKNOWN};
    use libc::{c_long, syscall};
    use std::io::Error;

    type Call = fn() -> c_long;

    /// What a call fails with under the filter, 0 if it succeeds.
    fn answers(calls: &'static [(&str, Call)]) -> Vec<(&'static str, i32)> {
        // A filter is a thread's own, so that the test program as a whole stays free.
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            Filter::new().apply(Strictness::Full).unwrap();
            let failure = |call: &Call| match call() {
                -1 => Error::last_os_error().raw_os_error().unwrap(),
                _ => 0,
            };
            calls.iter().map(|(name, call)| (*name, failure(call))).collect()
        });
        thread.join().unwrap()
    }

    #[test]
    fn calls_are_refused_by_the_kernel() {
        use libc::{EBADF, EINVAL, ENOSYS, EPERM};
        // SAFETY of all: the arguments are numbers or null, and the calls are refused or harmless.
        let expected: [(&str, Call, i32); 18] = [
            ("getpid", || unsafe { syscall(libc::SYS_getpid) }, 0),
            ("unshare files", || unsafe { syscall(libc::SYS_unshare, libc::CLONE_FS) }, 0),
            ("unshare user", || unsafe { syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) }, EPERM),
            ("unshare time", || unsafe { syscall(libc::SYS_unshare, libc::CLONE_NEWTIME) }, EPERM),
            (
                "clone user",
                || unsafe { syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0) },
                EPERM,
            ),
            ("clone3", || unsafe { syscall(libc::SYS_clone3, 0, 0) }, ENOSYS),
            ("setns", || unsafe { syscall(libc::SYS_setns, -1, 0) }, EPERM),
            ("mount", || unsafe { syscall(libc::SYS_mount, 0, 0, 0, 0, 0) }, EPERM),
            ("keyctl", || unsafe { syscall(libc::SYS_keyctl, 0, 0) }, EPERM),
            ("bpf", || unsafe { syscall(libc::SYS_bpf, 0, 0, 0) }, EPERM),
            ("io_uring", || unsafe { syscall(libc::SYS_io_uring_setup, 1, 0) }, ENOSYS),
            ("vsock", || unsafe { syscall(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0) }, EPERM),
            ("odd socket", || unsafe { syscall(libc::SYS_socket, libc::AF_INET, 99, 0) }, EINVAL),
            ("type into a terminal", || unsafe { syscall(libc::SYS_ioctl, -1, libc::TIOCSTI, 0) }, EPERM),
            (
                "the same, high bits set",
                || unsafe { syscall(libc::SYS_ioctl, -1, libc::TIOCSTI | 1 << 40, 0) },
                EPERM,
            ),
            ("ask a terminal", || unsafe { syscall(libc::SYS_ioctl, -1, libc::TIOCGWINSZ, 0) }, EBADF),
            ("beyond the newest", || unsafe { syscall(c_long::from(NEWEST) + 1) }, ENOSYS),
            ("x32 getpid", || unsafe { syscall(1 << 30 | 39) }, ENOSYS),
        ];
        let calls: Vec<_> = expected.iter().map(|(name, call, _)| (*name, *call)).collect();
        let got = answers(Vec::leak(calls));
        let expected: Vec<_> = expected.iter().map(|(name, _, errno)| (*name, *errno)).collect();
        assert_eq!(got, expected);
    }

    /// Runs the program as the kernel would.
    fn verdict(program: &[libc::sock_filter], arch: u32, call: u32, steps: &mut usize) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let line = &program[at];
            at += 1;
            *steps += 1;
            let jump = |holds: bool| usize::from(if holds { line.jt } else { line.jf });
            match u32::from(line.code) {
                0x20 => {
                    loaded = match line.k {
                        0 => call,
                        4 => arch,
                        _ => 0,
                    }
                }
                0x15 => at += jump(loaded == line.k),
                0x35 => at += jump(loaded >= line.k),
                0x25 => at += jump(loaded > line.k),
                0x45 => at += jump(loaded & line.k != 0),
                0x05 => at += line.k as usize,
                0x06 => return line.k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn every_listed_call_meets_its_verdict_and_no_other_does() {
        let Filter { full, builds } = Filter::new();
        let mut steps = 0;
        for (call, builds_may) in (0..=NEWEST).flat_map(|call| [(call, false), (call, true)]) {
            let number = i64::from(call);
            let program = if builds_may { &builds } else { &full };
            let expected = match () {
                () if builds_may && call == libc::SYS_chroot as u32 => 0x7fff_0000,
                () if FORBIDDEN.contains(&number) || FORBIDDEN_HERE.contains(&number) => 0x0005_0001,
                () if UNKNOWN.contains(&number) => 0x0005_0026,
                () => 0x7fff_0000,
            };
            assert_eq!(verdict(program, ARCHITECTURE, call, &mut steps), expected, "call {call}");
            assert_eq!(verdict(program, ARCHITECTURE ^ 1, call, &mut 0), 0x8000_0000, "call {call}");
        }
        assert!(steps < 2 * 16 * NEWEST as usize, "{steps} steps are paid with every sandbox");
    }
}
