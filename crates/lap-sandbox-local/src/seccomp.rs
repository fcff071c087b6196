//! Which system calls a sandbox and a sidecar may not make.
//!
//! What is refused widens the kernel's attack surface or reaches across the sandbox's border; ordinary programs do without.
//! Refusals are errors, not kills, so that programs fall back.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// Programs to install, in order.
#[derive(Debug)]
pub(crate) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// What a sandbox may not do.
    pub(crate) fn sandbox() -> io::Result<Self> {
        let mut rules = BTreeMap::new();
        for call in NEVER {
            rules.insert(*call, Vec::new());
        }
        for call in [libc::SYS_clone, libc::SYS_unshare] {
            rules.insert(call, namespace_flags()?);
        }
        rules.insert(libc::SYS_socket, socket_families()?);
        rules.insert(libc::SYS_ioctl, vec![argument(1, Op::Eq, TIOCSTI)?, argument(1, Op::Eq, TIOCLINUX)?]);
        Ok(Self(vec![refuse(rules)?, pretend_absent()]))
    }

    /// What a sidecar may not do once its sandbox runs.
    pub(crate) fn sidecar() -> io::Result<Self> {
        let mut rules = BTreeMap::new();
        for call in NEVER.iter().chain(NEVER_IN_SIDECAR) {
            rules.insert(*call, Vec::new());
        }
        // Threads, no processes.
        rules.insert(libc::SYS_clone, vec![argument(0, Op::MaskedEq(libc::CLONE_THREAD as u64), 0)?]);
        rules.insert(libc::SYS_socket, socket_families()?);
        // No memory that was written becomes program: libraries are mapped from files, and as they are.
        let executable = || condition(2, Op::MaskedEq(libc::PROT_EXEC as u64), libc::PROT_EXEC as u64);
        let anonymous = condition(3, Op::MaskedEq(libc::MAP_ANONYMOUS as u64), libc::MAP_ANONYMOUS as u64)?;
        let writable = condition(2, Op::MaskedEq(libc::PROT_WRITE as u64), libc::PROT_WRITE as u64)?;
        rules.insert(libc::SYS_mmap, vec![rule(vec![executable()?, anonymous])?, rule(vec![executable()?, writable])?]);
        rules.insert(libc::SYS_mprotect, vec![rule(vec![executable()?])?]);
        rules.insert(libc::SYS_pkey_mprotect, vec![rule(vec![executable()?])?]);
        Ok(Self(vec![refuse(rules)?, pretend_absent()]))
    }

    /// Binds this thread and everything it starts from now on. Needs no-new-privileges.
    pub(crate) fn install(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(io::Error::other))
    }
}

const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541C;

/// Refused whatever the arguments.
const NEVER: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_setns,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_fanotify_init,
    // Kernel interfaces with a history.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // The machine.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// What else a sidecar never needs: other programs and processes, ports of its own, users, devices.
const NEVER_IN_SIDECAR: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_unshare,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_listen,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_mknodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_personality,
];

/// Linux 6.15; the same number on every architecture.
const SYS_OPEN_TREE_ATTR: i64 = 467;

fn namespace_flags() -> io::Result<Vec<SeccompRule>> {
    [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
        // CLONE_NEWTIME is left out: in clone() its bit belongs to the exit signal, and by itself, without a user namespace,
        // unshare() refuses it to a process without capabilities.
    ]
    .into_iter()
    .map(|flag| argument(0, Op::MaskedEq(flag as u32 as u64), flag as u32 as u64))
    .collect()
}

/// Transports that programs use: none named, ICMP for ping, TCP, UDP, ICMPv6, multipath TCP. Of the others some are modules
/// that a first socket would load, and nothing redirects them.
const TRANSPORTS: [u64; 6] = [0, 1, 6, 17, 58, 262];

/// Unix, IPv4, IPv6 and route netlink are what programs use.
fn socket_families() -> io::Result<Vec<SeccompRule>> {
    let not = |family: i32| condition(0, Op::Ne, family as u64);
    let others = rule(vec![not(libc::AF_UNIX)?, not(libc::AF_INET)?, not(libc::AF_INET6)?, not(libc::AF_NETLINK)?])?;
    let other_netlink =
        rule(vec![condition(0, Op::Eq, libc::AF_NETLINK as u64)?, condition(2, Op::Ne, libc::NETLINK_ROUTE as u64)?])?;
    let mut rules = vec![others, other_netlink];
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut odd = vec![condition(0, Op::Eq, family as u64)?];
        for transport in TRANSPORTS {
            odd.push(condition(2, Op::Ne, transport)?);
        }
        rules.push(rule(odd)?);
    }
    Ok(rules)
}

fn argument(index: u8, op: Op, value: u64) -> io::Result<SeccompRule> {
    rule(vec![condition(index, op, value)?])
}

fn condition(index: u8, op: Op, value: u64) -> io::Result<SeccompCondition> {
    // The kernel itself looks at 32 bits of these arguments: so does the filter.
    SeccompCondition::new(index, Len::Dword, op, value).map_err(io::Error::other)
}

fn rule(conditions: Vec<SeccompCondition>) -> io::Result<SeccompRule> {
    SeccompRule::new(conditions).map_err(io::Error::other)
}

fn refuse(rules: BTreeMap<i64, Vec<SeccompRule>>) -> io::Result<BpfProgram> {
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32), ARCH)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

/// Answers "no such call" to clone3, whose flags a filter cannot see (the C library then uses clone), and to the x32 calls of
/// x86-64, which are a second way to everything above.
fn pretend_absent() -> BpfProgram {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const X32_BIT: u32 = 0x4000_0000;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(LOAD, 0, 0, 0),
        step(IF_EQUAL, 1, 0, libc::SYS_clone3 as u32),
        step(IF_AT_LEAST, 0, 1, X32_BIT),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}
