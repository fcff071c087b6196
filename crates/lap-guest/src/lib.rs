//! The untrusted half of a sandbox: files, clone, requirements, and the adapters that drive a harness.
//!
//! Knows no secret and no address: its world is one Unix socket to the sidecar, and every value it is given is plain or a
//! stub. It is not the sandbox's first process; a reaper is. When the socket ends, everything it started ends.

mod boot;
mod channels;
mod child;
mod clip;
mod environment;
mod files;
mod git;
mod harness;
mod layout;
mod outbox;
mod session;
mod trust;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

pub use layout::Layout;
pub use session::run;

/// Why a step of bring-up failed: a code for programs and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Failure {
    pub(crate) code: &'static str,
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// The guest's whole life, in the process that `lap init` made for it: the link is standard input.
pub fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error of this role is the sandbox's log, and nothing else was set up to write it.
            let _ = writeln!(std::io::stderr(), "the guest ended: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes the link, makes sure no child can inherit it, and works until it ends.
fn start() -> std::io::Result<()> {
    // Tools of the agent run as the same user; none of them may look into this process.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let link = take_link()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let link = tokio::net::UnixStream::from_std(link)?;
        run(link, Layout::sandbox()).await.map_err(std::io::Error::other)
    });
    // A thread that still writes a file is not waited for: the sandbox is about to end.
    runtime.shutdown_background();
    ended
}

/// A close-on-exec copy of standard input; standard input itself becomes `/dev/null`.
fn take_link() -> std::io::Result<std::os::unix::net::UnixStream> {
    let link: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    let link = std::os::unix::net::UnixStream::from(link);
    link.set_nonblocking(true)?;
    Ok(link)
}

/// The role `lap git-credential <operation>`: what git calls to learn a user name and a password. Values are stubs; the
/// vault decides where they mean anything.
pub fn git_credential_main() -> ExitCode {
    let operation = std::env::args().next_back().unwrap_or_default();
    let mut question = String::new();
    if std::io::Read::read_to_string(&mut std::io::stdin(), &mut question).is_err() {
        return ExitCode::FAILURE;
    }
    let answer = git::credential(&operation, &question, |name| std::env::var(name).ok());
    match std::io::stdout().write_all(answer.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
