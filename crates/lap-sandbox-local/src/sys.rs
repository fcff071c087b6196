//! The system calls that rustix does not offer safely. The only unsafe code of LAP; knows nothing of sandboxes' rules.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Which side of a clone this is.
pub enum Cloned {
    /// The new process, pid 1 of its own namespace.
    Child,
    /// The caller.
    Parent {
        /// As seen by the caller.
        pid: i32,
        /// The same process, safe against reuse of the number.
        pidfd: OwnedFd,
    },
}

/// Makes a process in new user, mount, pid, net, ipc, uts and cgroup namespaces, straight inside `cgroup` when given.
///
/// Refuses when the caller has more than one thread: the child of a threaded process may not allocate.
pub fn clone_sandbox(cgroup: Option<&OwnedFd>) -> io::Result<Cloned> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a sandbox must be started before any thread"));
    }
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_PIDFD;
    let mut pidfd: RawFd = -1;
    let mut arguments = libc::clone_args {
        flags: 0,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    arguments.flags = u64::from(namespaces as u32);
    if let Some(cgroup) = cgroup {
        // Above 32 bits, so libc's constant does not fit its own type.
        arguments.flags |= 0x2_0000_0000;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `arguments` and `pidfd` live across the call; without CLONE_VM the child has its own copy of memory, and being
    // single-threaded (checked above) it may go on like after fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
    }
}

/// Copies this process; the copy's number, or nothing in the copy itself.
///
/// Refuses when the caller has more than one thread: the child of a threaded process may not allocate.
pub fn fork() -> io::Result<Option<i32>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process must be copied before any thread"));
    }
    // SAFETY: being single-threaded (checked above), the child has a whole copy of everything and may go on.
    let pid = unsafe { libc::fork() };
    check(pid)?;
    Ok((pid != 0).then_some(pid))
}

/// Leaves at once, without destructors: what a child that could not become a sandbox does.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(code) }
}

/// Gives this process its own mount namespace.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: concerns mounts alone, and the working folder, which stays valid.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })
}

/// Properties of a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountFlags {
    pub read_only: bool,
    pub no_suid: bool,
    pub no_devices: bool,
    pub no_exec: bool,
}

/// Sets properties on the mount behind `tree` and everything below it.
pub fn mount_set(tree: impl AsFd, flags: MountFlags) -> io::Result<()> {
    let mut set = 0;
    for (wanted, bit) in [
        (flags.read_only, libc::MOUNT_ATTR_RDONLY),
        (flags.no_suid, libc::MOUNT_ATTR_NOSUID),
        (flags.no_devices, libc::MOUNT_ATTR_NODEV),
        (flags.no_exec, libc::MOUNT_ATTR_NOEXEC),
    ] {
        if wanted {
            set |= bit;
        }
    }
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the empty path and the structure live across the call; its size is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result as i32)
}

/// Makes every descriptor from `first` on vanish at the next exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: only sets a flag on descriptors; none is closed under its owner.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(result as i32)
}

/// Locks one byte of a file for as long as this open file lives; false when somebody else has it.
pub fn lock_byte(file: impl AsFd, at: i64) -> io::Result<bool> {
    // SAFETY: an all-zero flock is valid; the fields that matter are set below.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    lock.l_whence = libc::SEEK_SET as _;
    lock.l_start = at as _;
    lock.l_len = 1;
    // SAFETY: the descriptor is borrowed and the structure lives across the call.
    match check(unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// The number of a loop device that is free at this moment.
pub fn loop_free(control: impl AsFd) -> io::Result<u32> {
    // SAFETY: takes no argument and returns a number.
    let number = unsafe { libc::ioctl(control.as_fd().as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    check(number)?;
    Ok(number as u32)
}

/// Puts `backing` behind `device`; the kernel takes it away again when the last user is gone.
pub fn loop_configure(device: impl AsFd, backing: impl AsFd) -> io::Result<()> {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = backing.as_fd().as_raw_fd() as u32;
    config.block_size = 4096;
    config.info.flags = LO_FLAGS_AUTOCLEAR;
    // SAFETY: both descriptors are borrowed and the structure has the layout the kernel expects.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) })
}

/// Keeps this process's memory out of swap, now and later, where the limit on locked memory can be lifted.
pub fn lock_memory() -> io::Result<()> {
    let no_limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure lives across the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const no_limit) })?;
    // SAFETY: takes flags only; concerns whether pages may be swapped out.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) })
}

/// Gives back the pages of the program and its libraries that are mapped: a start needs many that nobody needs again. What is
/// needed after all comes back by itself, from the page cache.
pub fn give_back_program() -> io::Result<()> {
    /// Linux 5.18; works on locked memory too.
    const DONTNEED_LOCKED: libc::c_int = 24;
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights), Some(offset), _, Some(inode)) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        // Of a file, and never written: program text, and the constants at a file's beginning. What relocation has written
        // lies further behind.
        let constants = rights == "r--p" && offset.bytes().all(|digit| digit == b'0');
        if inode == "0" || !(rights == "r-xp" || constants) {
            continue;
        }
        let Some((Ok(start), Ok(end))) = range
            .split_once('-')
            .map(|(start, end)| (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)))
        else {
            continue;
        };
        for advice in [DONTNEED_LOCKED, libc::MADV_DONTNEED] {
            let at = std::ptr::without_provenance_mut(start);
            // SAFETY: the range is a private mapping of a file that this process has no right to write to, so that what is
            // read there again is what was there.
            if unsafe { libc::madvise(at, end - start, advice) } == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Gives memory that was freed back to the kernel, where the allocator keeps it otherwise.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only looks through what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets the kernel bury this process's children.
pub fn ignore_children() -> io::Result<()> {
    // SAFETY: sets a disposition, not a handler.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the runtime wait until a descriptor is readable.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, an OwnedFd gives the same number every time, and nobody else can close it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
