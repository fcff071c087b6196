//! Makes one sandbox, from the sidecar's side.
//!
//! What needs the machine's rights (users, groups, volume, pieces of the root) happens here; the new process does the rest at
//! the same time. They meet at gates, so that at no instant a killed sidecar leaves the new process behind.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use lap_sandbox::{BootToken, Check, Limits, Outcome, SandboxId};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use rustix::thread::CapabilitySets;

use crate::cgroup::LimitWatch;
use crate::identity::{self, INSIDE_ID, Identity};
use crate::record::Record;
use crate::seccomp::Filters;
use crate::spec::{Attempt, LaunchError, LaunchReply, LaunchSpec, SidecarLaunch};
use crate::volume::Volume;
use crate::{confine, inside, root, sys};

/// A running sandbox, as its sidecar holds it.
#[derive(Debug)]
pub struct Launched {
    /// The link to the guest, which has the other end as descriptor 0. Nonblocking.
    pub guest: UnixStream,
    /// Made inside; every TCP connection of the sandbox arrives here. Nonblocking.
    pub tcp: Vec<TcpListener>,
    /// Made inside, port 53. Nonblocking.
    pub dns: UdpSocket,
    /// Pid 1 of the sandbox: readable when the sandbox is over.
    pub init: OwnedFd,
    /// What the guest writes to descriptors 1 and 2. Nonblocking; to be read always, so that the guest never blocks on it.
    pub output: OwnedFd,
    /// Tells when a limit is hit.
    pub limits: LimitWatch,
    /// The sandbox's disk space.
    pub volume: Volume,
    /// How each limit is enforced.
    pub confinement: Vec<Check>,
    identity: Identity,
}

/// What a sidecar starts its real work with.
#[derive(Debug)]
pub struct Started {
    pub id: SandboxId,
    pub boot_token: BootToken,
    /// The server's socket, relative to the working folder.
    pub link: PathBuf,
    pub limits: Limits,
    pub launched: Launched,
    _lock: OwnedFd,
}

/// The sidecar's whole beginning: waits on descriptor 0 for what to launch, launches it, drops its rights, answers.
///
/// To be called first thing in the process, before any thread. Afterwards descriptor 0 leads to /dev/null, 2 to the log.
pub fn start_sidecar() -> Result<Started, LaunchError> {
    let mut server = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned().attempt("hold the server's socket")?);
    let result = start(&mut server);
    let reply = match &result {
        Ok((started, _)) => LaunchReply::Started { confinement: started.launched.confinement.clone() },
        Err(error) => LaunchReply::Failed { what: sentence(error) },
    };
    let line = serde_json::to_vec(&reply).map_err(LaunchError::Malformed)?;
    // The server may have gone meanwhile; the next one finds the sandbox by its lock.
    let _ = server.write_all(&line);
    drop(server);
    match result? {
        (started, Purpose::Work) => Ok(started),
        (_, Purpose::Trial) => std::process::exit(0),
    }
}

enum Purpose {
    Work,
    Trial,
}

fn start(server: &mut UnixStream) -> Result<(Started, Purpose), LaunchError> {
    // Whatever terminal or group the server belongs to, the sandbox outlives it.
    let _ = rustix::process::setsid();
    let (mut text, handed) = receive(&*server).attempt("read what to launch")?;
    server.read_to_end(&mut text).attempt("read what to launch")?;
    let mut handed = handed.into_iter();
    let (Some(log), Some(lock)) = (handed.next(), handed.next()) else {
        return Err(io::Error::other("the server is gone")).attempt("read what to launch");
    };
    rustix::stdio::dup2_stderr(&log).attempt("take the log")?;
    drop(log);
    let SidecarLaunch { launch: spec, boot_token, link, trial } =
        serde_json::from_slice(&text).map_err(LaunchError::Malformed)?;
    drop(text);
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").attempt("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).attempt("let go of the server's socket")?;
    let mut launched = launch(&spec, handed.next())?;
    let folder = link.parent().unwrap_or(Path::new("/"));
    let link = link.file_name().map(PathBuf::from).unwrap_or_default();
    confine_sidecar(&mut launched, folder, &spec.sandbox_dir)?;
    let started = Started { id: spec.id, boot_token, link, limits: spec.limits, launched, _lock: lock };
    Ok((started, if trial { Purpose::Trial } else { Purpose::Work }))
}

/// An error and its causes as one sentence.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Makes the sandbox. Only for a process without threads; what fails half-way disappears with the process.
///
/// `volume` is the mounted file system that [`VolumePlan::Mounted`](crate::VolumePlan::Mounted) announces.
pub fn launch(spec: &LaunchSpec, volume: Option<OwnedFd>) -> Result<Launched, LaunchError> {
    let mut record = Record::open(&spec.sandbox_dir).attempt("write down the sidecar")?;
    record.sidecar().attempt("write down the sidecar")?;
    let identity = Identity::take().attempt("find a user for the sandbox")?;
    let separate = matches!(identity, Identity::Separate { .. });
    if separate {
        sys::unshare_mounts().and_then(|()| root::make_private()).attempt("make a mount namespace")?;
        rustix::thread::set_thread_groups(&[]).attempt("leave the groups of the server")?;
    }
    let mut groups = spec.cgroups.create(&spec.id, &spec.limits)?;
    let wanted = root::wanted(spec, &Volume::path(&spec.sandbox_dir));
    let filters = Filters::sandbox().attempt("compile the system call filter")?;
    let (ours, theirs) = pair(SocketType::SEQPACKET).attempt("make a socket pair")?;
    let (link, link_inside) = pair(SocketType::STREAM).attempt("make a socket pair")?;
    let (output, output_inside) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).attempt("make a pipe")?;
    let cloned = {
        let _owner = OwnedBySidecar::enter(&identity).attempt("act as the sidecar's user")?;
        // The child leaves `_owner` alone: it never runs this block's end.
        match sys::clone_sandbox(groups.into.as_ref()).attempt("make namespaces")? {
            sys::Cloned::Child => {
                drop(ours);
                inside::become_sandbox(inside::Part {
                    spec,
                    wanted: &wanted,
                    groups: &mut groups,
                    filters: &filters,
                    gate: theirs,
                    link: link_inside,
                    output: output_inside,
                })
            }
            sys::Cloned::Parent { pid, pidfd } => (pid, pidfd),
        }
    };
    let (pid, init) = cloned;
    drop((theirs, link_inside, output_inside));
    map_users(pid, &identity).attempt("map the sandbox's user")?;
    record.init(pid).attempt("write down the sandbox")?;
    // From now on the kernel's choice, when the machine runs out of memory, is the sandbox; not every host allows it.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "500");
    pass(&ours, inside::MAPPED)?;
    // While the child enters its groups and sets up its network.
    let volume = Volume::attach(spec.volume, volume, &spec.sandbox_dir, spec.limits, &identity)?;
    let pieces = if separate { root::gather(&wanted)? } else { Vec::new() };
    let (without_redirect, tcp, dns) = sockets(&ours)?;
    let borrowed: Vec<BorrowedFd<'_>> = pieces.iter().map(AsFd::as_fd).collect();
    send_descriptors(&ours, inside::PIECES, &borrowed).attempt("hand over the root")?;
    drop(pieces);
    let (message, _) = hear(&ours)?;
    let Some(fence) = message.strip_prefix(inside::FENCE) else { return Err(complaint(&message)) };
    let without_fence = String::from_utf8_lossy(fence).into_owned();
    // The gate closes by itself when the program inside starts.
    match hear(&ours)? {
        (message, _) if message.is_empty() => {}
        (message, _) => return Err(complaint(&message)),
    }
    let guest = UnixStream::from(link);
    guest.set_nonblocking(true).attempt("prepare the guest's link")?;
    rustix::io::ioctl_fionbio(&output, true).attempt("prepare the guest's log")?;
    let confinement = confinement(spec, &identity, without_redirect, &without_fence);
    Ok(Launched { guest, tcp, dns, init, output, limits: groups.watch, volume, confinement, identity })
}

/// Gives up everything the sidecar does not need once its sandbox runs, and notes how. `folder` becomes the working folder,
/// `own` the only one it may write to.
fn confine_sidecar(launched: &mut Launched, folder: &Path, own: &Path) -> Result<(), LaunchError> {
    let filters = Filters::sidecar().attempt("compile the system call filter")?;
    launched.confinement.push(confine::lock_memory());
    // Entered with the server's rights: as an ordinary user the sidecar might not find its way.
    rustix::process::chdir(folder).attempt("enter the folder of the server's socket")?;
    let become_user = || {
        if let Identity::Separate { sidecar, .. } = launched.identity {
            let (uid, gid) = (identity::uid(sidecar), identity::gid(sidecar));
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        Ok(())
    };
    let without_fence = confine::sidecar(&filters, own, become_user).attempt("drop the sidecar's rights")?;
    launched.confinement.push(crate::doctor::sidecar_fence(without_fence.as_deref()));
    Ok(())
}

/// Ends a sandbox at once, with everything in it.
pub fn kill(init: impl AsFd) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(init, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

/// While it lives, new user namespaces belong to the sidecar's later user.
///
/// The kernel lets the owner of a user namespace signal what is inside: without this, a sidecar that has dropped its rights
/// could not kill its sandbox, and the kernel itself would not deliver the parent-death signal on its behalf.
struct OwnedBySidecar {
    before: Option<CapabilitySets>,
}

impl OwnedBySidecar {
    fn enter(identity: &Identity) -> io::Result<Self> {
        let Identity::Separate { sidecar, .. } = identity else { return Ok(Self { before: None }) };
        let before = rustix::thread::capabilities(None)?;
        rustix::thread::set_thread_res_uid(None, identity::uid(*sidecar), None)?;
        // Leaving user 0 has taken the effective capabilities; the permitted ones stay, as the saved user is still 0.
        rustix::thread::set_capabilities(None, before)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for OwnedBySidecar {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            let back = rustix::thread::set_thread_res_uid(None, identity::uid(0), None)
                .and_then(|()| rustix::thread::set_capabilities(None, before));
            // Going on half-way between two users would be worse than not going on.
            back.expect("the saved user is 0");
        }
    }
}

fn map_users(pid: i32, identity: &Identity) -> io::Result<()> {
    let (uid, gid) = identity.sandbox();
    let write = |file: &str, text: String| {
        std::fs::File::options().write(true).open(format!("/proc/{pid}/{file}"))?.write_all(text.as_bytes())
    };
    write("setgroups", "deny".to_owned())?;
    write("gid_map", format!("{INSIDE_ID} {gid} 1\n"))?;
    write("uid_map", format!("{INSIDE_ID} {uid} 1\n"))
}

fn pass(gate: &OwnedFd, message: &[u8]) -> Result<(), LaunchError> {
    rustix::net::send(gate, message, SendFlags::NOSIGNAL).map(drop).attempt("talk to the new process")
}

fn complaint(message: &[u8]) -> LaunchError {
    if message.is_empty() {
        return LaunchError::Inside("the new process ended without a word".to_owned());
    }
    LaunchError::Inside(String::from_utf8_lossy(message).into_owned())
}

/// Most descriptors that come at once: the pieces of a root with many tools.
const MOST_DESCRIPTORS: usize = 128;

/// The next message of a gate, with its descriptors; empty at the end.
pub(crate) fn hear(gate: &OwnedFd) -> Result<(Vec<u8>, Vec<OwnedFd>), LaunchError> {
    receive(gate).attempt("hear from the new process")
}

fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(list) => Some(list.collect::<Vec<_>>()),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((bytes[..received.bytes].to_vec(), descriptors))
}

/// The sockets made inside, and why there is no redirection, where there is none.
fn sockets(gate: &OwnedFd) -> Result<(Option<String>, Vec<TcpListener>, UdpSocket), LaunchError> {
    let (message, mut descriptors) = hear(gate)?;
    let Some(without) = message.strip_prefix(inside::SOCKETS) else { return Err(complaint(&message)) };
    let Some(dns) = descriptors.pop() else { return Err(LaunchError::Inside("no sockets came out".to_owned())) };
    let without = (!without.is_empty()).then(|| String::from_utf8_lossy(without).into_owned());
    Ok((without, descriptors.into_iter().map(TcpListener::from).collect(), UdpSocket::from(dns)))
}

/// Sends `message` with descriptors.
pub(crate) fn send_descriptors(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    if sent < message.len() { Err(io::Error::other("the message does not fit into the socket")) } else { Ok(()) }
}

fn confinement(
    spec: &LaunchSpec,
    identity: &Identity,
    without_redirect: Option<String>,
    without_fence: &str,
) -> Vec<Check> {
    let mut checks = crate::doctor::limits(&spec.cgroups, spec.volume);
    checks.push(match identity {
        Identity::Separate { sandbox, sidecar, .. } => Check {
            name: "users".to_owned(),
            outcome: Outcome::Ok,
            detail: format!("the sandbox is user {sandbox} of this machine, its sidecar user {sidecar}"),
        },
        Identity::Own { uid, .. } => Check {
            name: "users".to_owned(),
            outcome: Outcome::Degraded,
            detail: format!(
                "the sandbox and its sidecar both are user {uid} of this machine; start LAP as root to separate them"
            ),
        },
    });
    checks.push(crate::doctor::redirect(without_redirect.as_deref()));
    checks.push(crate::doctor::fence(without_fence));
    checks
}
