//! The root file system of a sandbox: the image read-only, the node's `/usr` read-only, and the few places that are its own.
//!
//! Pieces of the node are taken as detached mounts (`gather`) by whoever may see them: a root sidecar before the clone, since
//! the sandbox's user cannot enter the server's folders; an ordinary user's sandbox itself, since only inside its
//! namespaces may it mount. They are put together inside (`assemble`), from where the old root is then unreachable.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::image;
use crate::spec::{Attempt, LaunchError, LaunchSpec};
use crate::sys;

/// Something of the node that belongs into a sandbox.
#[derive(Debug)]
pub(crate) struct Wanted {
    source: PathBuf,
    /// Relative to the new root.
    target: String,
    flags: sys::MountFlags,
}

const READ_ONLY: sys::MountFlags = sys::MountFlags { read_only: true, no_suid: true, no_devices: true, no_exec: false };
const WRITABLE: sys::MountFlags = sys::MountFlags { read_only: false, no_suid: true, no_devices: true, no_exec: false };
const DEVICE: sys::MountFlags = sys::MountFlags { read_only: false, no_suid: true, no_devices: false, no_exec: true };
const SEALED: sys::MountFlags = sys::MountFlags { read_only: true, no_suid: true, no_devices: true, no_exec: true };

/// Everything that belongs into a sandbox, the root first. `volume` is where its disk space will be mounted.
pub(crate) fn wanted(spec: &LaunchSpec, volume: &Path) -> Vec<Wanted> {
    let mut all = Vec::new();
    let mut want = |source: PathBuf, target: String, flags| all.push(Wanted { source, target, flags });
    want(spec.host_image_dir.clone(), String::new(), READ_ONLY);
    for name in image::system_folders() {
        want(Path::new("/").join(&name), name, READ_ONLY);
    }
    for hidden in image::HIDDEN {
        // Configuration of the machine that happens to live below /usr is as private as /etc.
        if Path::new("/").join(hidden).is_dir() {
            want(spec.host_image_dir.join(image::EMPTY), (*hidden).to_owned(), READ_ONLY);
        }
    }
    for name in image::DEVICES {
        want(Path::new("/dev").join(name), format!("dev/{name}"), DEVICE);
    }
    want(spec.lap_binary.clone(), image::LAP_BINARY.to_owned(), READ_ONLY);
    for tool in &spec.tools {
        want(tool.source.clone(), format!("{}/{}", image::TOOLS, tool.name), READ_ONLY);
    }
    want(volume.join("work"), "work".to_owned(), WRITABLE);
    want(volume.join("home"), image::HOME.to_owned(), WRITABLE);
    all
}

/// Takes them as detached mounts, in the same order.
pub(crate) fn gather(wanted: &[Wanted]) -> Result<Vec<OwnedFd>, LaunchError> {
    wanted
        .iter()
        .map(|piece| {
            take(&piece.source, piece.flags).attempt(format!("take {} for the sandbox", piece.source.display()))
        })
        .collect()
}

fn take(source: &Path, flags: sys::MountFlags) -> io::Result<OwnedFd> {
    let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, source, how)?;
    sys::mount_set(&tree, flags)?;
    Ok(tree)
}

/// Puts the root together and moves into it. Runs inside, as the user of the sandbox with every capability there.
pub(crate) fn assemble(wanted: &[Wanted], pieces: &[OwnedFd], tmp_bytes: u64) -> Result<(), LaunchError> {
    // Any folder does as the place to build on; nothing of it is kept.
    const BUILD: &str = "/tmp";
    for (number, (Wanted { target, .. }, tree)) in wanted.iter().zip(pieces).enumerate() {
        if number == 0 {
            put(tree, BUILD).attempt("put the image in place")?;
            rustix::process::chdir(BUILD).attempt("enter the image")?;
        } else {
            put(tree, target).attempt(format!("put /{target} in place"))?;
        }
    }
    file_system("proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    file_system(
        "devpts",
        "dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "newinstance,ptmxmode=0666,mode=620,max=256",
    )?;
    file_system(
        "tmpfs",
        "dev/shm",
        quiet | MountFlags::NOEXEC,
        &format!("mode=1777,size={tmp_bytes},nr_inodes=65536"),
    )?;
    file_system("tmpfs", "tmp", quiet, &format!("mode=1777,size={tmp_bytes},nr_inodes=262144"))?;
    file_system("tmpfs", "run", quiet, "mode=755,size=16m,nr_inodes=4096")?;
    for folder in ["run/lap", "run/lap/tls", "run/lock"] {
        rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755)).attempt("make /run/lap")?;
    }
    hide_kernel_files()?;
    rustix::process::pivot_root(".", ".").attempt("make the image the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).attempt("let go of the machine's root")?;
    rustix::process::chdir("/").attempt("enter the new root")
}

/// Cuts the copied mount tree loose from the machine's.
pub(crate) fn make_private() -> io::Result<()> {
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

fn put(tree: &OwnedFd, target: &str) -> io::Result<()> {
    Ok(rustix::mount::move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn file_system(kind: &str, target: &str, flags: MountFlags, options: &str) -> Result<(), LaunchError> {
    let options = std::ffi::CString::new(options).expect("options hold no zero byte");
    rustix::mount::mount(kind, target, kind, flags, options.as_c_str()).attempt(format!("mount /{target}"))
}

/// Makes the kernel's own files read-only or empty, as far as this kernel has them.
fn hide_kernel_files() -> Result<(), LaunchError> {
    for name in ["sys", "bus", "fs", "irq"] {
        cover(&format!("proc/{name}"), &format!("proc/{name}"))?;
    }
    for name in
        ["kcore", "keys", "key-users", "timer_list", "sysrq-trigger", "sched_debug", "latency_stats", "kallsyms"]
    {
        cover("dev/null", &format!("proc/{name}"))?;
    }
    for name in ["acpi", "scsi", "driver"] {
        cover(image::EMPTY, &format!("proc/{name}"))?;
    }
    Ok(())
}

fn cover(with: &str, target: &str) -> Result<(), LaunchError> {
    if matches!(rustix::fs::access(target, rustix::fs::Access::EXISTS), Err(Errno::NOENT)) {
        return Ok(());
    }
    // /dev/null stays a device when it covers a file: a regular file would have to be somewhere.
    let flags = if with == "dev/null" { DEVICE } else { SEALED };
    take(Path::new(with), flags).and_then(|tree| put(&tree, target)).attempt(format!("cover /{target}"))
}
