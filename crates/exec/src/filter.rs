//! The system call filter every step runs under.
//!
//! A list of what is refused rather than of what is allowed: builders and compilers use most of the kernel's
//! ordinary interface, and namespaces, capabilities and the read-only root already bound what a call can
//! reach. Refused is what has no meaning in a sandbox and has been the way out of one: making namespaces and
//! mounts, loading code into the kernel, clocks, keys, and interfaces with a history of flaws (io_uring,
//! userfaultfd, bpf, perf). Calls newer than this list are refused as unknown to the kernel.
//! `ptrace` stays allowed, as in other runtimes: sanitizers need it, and it reaches only the step's own processes.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

use crate::refusal::Refusal;

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

#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[i64] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_uselib, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[i64] = &[];

/// Refused with "function not implemented", so that programs fall back: their arguments lie in memory, where a
/// filter cannot look (clone3), or they open a second way around it (io_uring).
const UNKNOWN: &[i64] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The newest call this list was checked against (`listns`); later ones count as unknown.
const NEWEST: u32 = 470;

const NEW_NAMESPACES: [i32; 8] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWTIME,
];

/// The compiled filter.
pub(crate) struct Filter {
    programs: [BpfProgram; 2],
}

impl Filter {
    /// Compiles the filter for this machine.
    pub fn compile() -> Result<Self, Refusal> {
        let failed = |error: &dyn std::fmt::Display| Refusal::System {
            doing: format!("compiling the system call filter: {error}"),
            errno: libc::ENOSYS,
        };
        let forbidden = forbidden().map_err(|e| failed(&e))?;
        let unknown = UNKNOWN.iter().map(|call| (*call, Vec::new())).collect();
        let mut unknown = compile(unknown, libc::ENOSYS).map_err(|e| failed(&e))?;
        refuse_newer(&mut unknown);
        Ok(Self { programs: [compile(forbidden, libc::EPERM).map_err(|e| failed(&e))?, unknown] })
    }

    /// Puts this process and all its descendants under the filter, with no new privileges from now on.
    pub fn apply(&self) -> Result<(), Refusal> {
        for program in &self.programs {
            seccompiler::apply_filter(program).map_err(|error| {
                let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
                Refusal::System { doing: format!("setting the system call filter: {error}"), errno }
            })?;
        }
        Ok(())
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(rules: Rules, errno: i32) -> Result<BpfProgram, seccompiler::Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)?;
    Ok(filter.try_into()?)
}

fn forbidden() -> Result<Rules, seccompiler::Error> {
    let mut rules: Rules = FORBIDDEN.iter().chain(FORBIDDEN_HERE).map(|call| (*call, Vec::new())).collect();
    let mut namespaces = Vec::new();
    for flag in NEW_NAMESPACES {
        let bit = u64::from(flag as u32);
        namespaces.push(when(0, SeccompCmpOp::MaskedEq(bit), bit)?);
    }
    // The low byte of clone's flags is the exit signal, and CLONE_NEWTIME lies in it.
    let without_time = namespaces[..7].to_vec();
    rules.insert(libc::SYS_clone, without_time);
    rules.insert(libc::SYS_unshare, namespaces);
    // Typing into the caller's terminal.
    let ioctls = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| when(1, SeccompCmpOp::Eq, request));
    rules.insert(libc::SYS_ioctl, ioctls.into_iter().collect::<Result<_, _>>()?);
    // Sockets that reach the hypervisor, and kernel cryptography and other rarely walked protocol code.
    let families = [libc::AF_VSOCK, libc::AF_ALG, libc::AF_PACKET, libc::AF_KEY, libc::AF_RDS, libc::AF_TIPC];
    let families = families.map(|family| when(0, SeccompCmpOp::Eq, family as u64));
    rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

fn when(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::Error> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// Puts before a program: a call with a number above [`NEWEST`] does not exist.
///
/// The x32 calls of x86-64, numbered from 2^30, are among them.
fn refuse_newer(program: &mut BpfProgram) {
    let load_number = sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let skip_unless_greater = sock_filter { code: 0x25, jt: 0, jf: 1, k: NEWEST };
    let no_such_call = sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | libc::ENOSYS as u32 };
    program.splice(0..0, [load_number, skip_unless_greater, no_such_call]);
}
