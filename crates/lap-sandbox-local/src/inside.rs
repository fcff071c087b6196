//! The new process between clone and exec: turns itself into a sandbox.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::Signal;

use crate::cgroup::SandboxGroups;
use crate::identity::{self, INSIDE_ID};
use crate::launch::{self, sentence};
use crate::root::{self, Wanted};
use crate::seccomp::Filters;
use crate::spec::{Attempt, LaunchError, LaunchSpec};
use crate::{confine, image, net, sys};

/// To the child: its user exists.
pub(crate) const MAPPED: &[u8] = b"mapped";
/// From the child, with descriptors: the sockets; then why TCP is not redirected, if it is not.
pub(crate) const SOCKETS: &[u8] = b"sockets ";
/// From the child: it has put up what fences it can; then why Landlock is missing, if it is.
pub(crate) const FENCE: &[u8] = b"fence ";
/// To the child, with descriptors: the pieces of its root; without any, it takes them itself.
pub(crate) const PIECES: &[u8] = b"pieces";

/// What the child takes along.
pub(crate) struct Part<'a> {
    pub(crate) spec: &'a LaunchSpec,
    pub(crate) wanted: &'a [Wanted],
    pub(crate) groups: &'a mut SandboxGroups,
    pub(crate) filters: &'a Filters,
    pub(crate) gate: OwnedFd,
    pub(crate) link: OwnedFd,
    pub(crate) output: OwnedFd,
}

/// Never returns: ends as `lap init`, or tells the parent why not and exits.
pub(crate) fn become_sandbox(part: Part<'_>) -> ! {
    let gate = part.gate.try_clone();
    let Err(error) = transform(part);
    if let Ok(gate) = gate {
        // The parent may be gone, and then there is nobody to tell.
        let _ = rustix::net::send(&gate, sentence(&error).as_bytes(), SendFlags::NOSIGNAL);
    }
    sys::exit_now(1)
}

fn transform(part: Part<'_>) -> Result<Infallible, LaunchError> {
    let Part { spec, wanted, groups, filters, gate, link, output } = part;
    wait_for(&gate, MAPPED)?;
    let (uid, gid) = (identity::uid(INSIDE_ID), identity::gid(INSIDE_ID));
    rustix::thread::set_thread_res_gid(gid, gid, gid).attempt("become the user")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).attempt("become the user")?;
    // Changing users disarms the signal, so it is armed after. A parent that died before that has closed its end of the gate;
    // one that dies from now on takes this process along.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).attempt("bind to the sidecar")?;
    match rustix::net::recv(&gate, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((0, _)) => return Err(io::Error::other("the sidecar is gone")).attempt("go on"),
        Ok(_) | Err(Errno::AGAIN) => {}
        Err(error) => return Err(error).attempt("hear from the sidecar"),
    }
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    groups.enter().attempt("enter the control groups")?;
    rustix::system::sethostname(b"sandbox").attempt("name the sandbox")?;
    root::make_private().attempt("make the mounts private")?;
    // The sidecar prepares the volume meanwhile.
    hand_out_sockets(&gate)?;
    let pieces = match launch::hear(&gate)? {
        (message, pieces) if message == PIECES && pieces.len() == wanted.len() => pieces,
        (message, pieces) if message == PIECES && pieces.is_empty() => root::gather(wanted)?,
        _ => return Err(io::Error::other("the sidecar is gone")).attempt("go on"),
    };
    root::assemble(wanted, &pieces, spec.limits.tmp_bytes)?;
    drop(pieces);
    rustix::process::chdir("/work").attempt("enter /work")?;
    rustix::stdio::dup2_stdin(&link).attempt("set up descriptor 0")?;
    rustix::stdio::dup2_stdout(&output).attempt("set up descriptor 1")?;
    rustix::stdio::dup2_stderr(&output).attempt("set up descriptor 2")?;
    sys::close_on_exec_from(3).attempt("close what belongs to the sidecar")?;
    let processes = (!spec.cgroups.limits_pids()).then_some(spec.limits.pids);
    let without_fence = confine::sandbox(filters, processes).attempt("drop rights")?.unwrap_or_default();
    let message = [FENCE, without_fence.as_bytes()].concat();
    rustix::net::send(&gate, &message, SendFlags::NOSIGNAL).attempt("answer the sidecar")?;
    let failed = Command::new(format!("/{}", image::LAP_BINARY))
        .arg0("lap")
        .arg("init")
        .env_clear()
        .envs(image::ENVIRONMENT)
        .exec();
    Err(failed).attempt("start the program inside")
}

fn hand_out_sockets(gate: &OwnedFd) -> Result<(), LaunchError> {
    let sockets = net::set_up().attempt("set up the network")?;
    let mut descriptors: Vec<BorrowedFd<'_>> = sockets.tcp.iter().map(AsFd::as_fd).collect();
    descriptors.push(sockets.dns.as_fd());
    let message = [SOCKETS, sockets.without_redirect.unwrap_or_default().as_bytes()].concat();
    launch::send_descriptors(gate, &message, &descriptors).attempt("hand out the sockets")
}

fn wait_for(gate: &OwnedFd, wanted: &[u8]) -> Result<(), LaunchError> {
    let mut bytes = [0; 64];
    let (count, _) = rustix::net::recv(gate, &mut bytes[..], RecvFlags::empty()).attempt("hear from the sidecar")?;
    if bytes.get(..count) == Some(wanted) {
        Ok(())
    } else {
        Err(io::Error::other("the sidecar is gone")).attempt("go on")
    }
}
