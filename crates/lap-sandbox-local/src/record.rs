//! Who runs a sandbox, written down in its folder for a server that starts later.
//!
//! The numbers alone would not do, since the kernel uses them again: each comes with the moment its process started.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags};

/// File in a sandbox's folder whose lock says that the sidecar lives.
pub(crate) const LOCK: &str = "lock";
/// File in a sandbox's folder with the lines of this module.
const PROCESSES: &str = "processes";

/// Being written by a sidecar.
#[derive(Debug)]
pub(crate) struct Record(File);

impl Record {
    /// Starts anew.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(folder.join(PROCESSES))?))
    }

    /// Writes down this process.
    pub(crate) fn sidecar(&mut self) -> io::Result<()> {
        self.line("sidecar", std::process::id() as i32)
    }

    /// Writes down pid 1 of the sandbox.
    pub(crate) fn init(&mut self, pid: i32) -> io::Result<()> {
        self.line("init", pid)
    }

    fn line(&mut self, role: &str, pid: i32) -> io::Result<()> {
        let started = started(pid).ok_or_else(|| io::Error::other("the process is gone"))?;
        self.0.write_all(format!("{role} {pid} {started}\n").as_bytes())
    }
}

/// The process in a role, if it is the one that was written down and still lives.
pub(crate) fn find(folder: &Path, role: &str) -> Option<OwnedFd> {
    let text = std::fs::read_to_string(folder.join(PROCESSES)).ok()?;
    let (pid, start) = text.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()? == role).then_some(())?;
        Some((fields.next()?.parse::<i32>().ok()?, fields.next()?.parse::<u64>().ok()?))
    })?;
    // First the handle, then the question whether it is the right one: so no other process can slip in between.
    let handle = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    (started(pid)? == start).then_some(handle)
}

/// When a process started, in clock ticks since boot.
fn started(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, so counting starts behind its closing parenthesis: state is field 3, start is 22.
    text.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}
