//! Programs the guest starts: each in a process group of its own, none with the link, none outliving its owner.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use lap_api::link::Report;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::environment::Environment;
use crate::outbox::Outbox;

/// A command with nothing inherited but what is said here. Output is piped.
pub(crate) fn command(program: impl AsRef<OsStr>, folder: &Path, env: &Environment) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env_clear()
        .envs(env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// A running program with everything it started that stayed in its group. Dropping it kills them all.
pub(crate) struct Group {
    pub(crate) child: Child,
    leader: Option<Pid>,
}

impl Group {
    /// Starts the command.
    pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let child = command.spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, leader })
    }

    /// Waits for the program itself; what it left behind in its group is killed.
    pub(crate) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.kill();
        self.leader = None;
        status
    }

    /// Kills the whole group at once.
    pub(crate) fn kill(&self) {
        if let Some(leader) = self.leader {
            // Fails only when all of them are gone already.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a program ended, for a person.
pub(crate) fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(9)) => "was killed (signal 9; out of memory is the usual reason)".to_owned(),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last lines of a program's output, for saying why it failed.
#[derive(Debug, Default, Clone)]
pub(crate) struct LastLines(VecDeque<String>);

/// Enough for git's and pip's explanations.
const LAST_LINES: usize = 40;

impl LastLines {
    pub(crate) fn push(&mut self, line: &str) {
        if self.0.len() == LAST_LINES {
            self.0.pop_front();
        }
        self.0.push_back(crate::clip::head(line, 1000));
    }

    /// All of them as one text.
    pub(crate) fn text(&self) -> String {
        self.0.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The last one that says something.
    pub(crate) fn last(&self) -> Option<&str> {
        self.0.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty())
    }
}

/// Longest line that is put together; a longer one is cut into several.
const LINE_BYTES: usize = 8 * 1024;

/// Reads output line by line, a carriage return being an end too, until it ends.
pub(crate) struct Lines<R> {
    from: R,
    pending: Vec<u8>,
    ready: VecDeque<String>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, pending: Vec::new(), ready: VecDeque::new(), ended: false }
    }

    /// The next line. Safe to drop between polls.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            let mut chunk = [0; 4096];
            match self.from.read(&mut chunk).await {
                Ok(0) | Err(_) => {
                    self.ended = true;
                    self.cut();
                }
                Ok(length) => self.take(&chunk[..length]),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => self.cut(),
                byte => {
                    self.pending.push(*byte);
                    if self.pending.len() >= LINE_BYTES {
                        self.cut();
                    }
                }
            }
        }
    }

    fn cut(&mut self) {
        if !self.pending.is_empty() {
            self.ready.push_back(String::from_utf8_lossy(&self.pending).into_owned());
            self.pending.clear();
        }
    }
}

/// Runs a program to its end; each line of output goes to the log and to `watch`, which may have something to report.
/// Returns how it ended and its last lines.
pub(crate) async fn run(
    command: &mut Command,
    source: &str,
    out: &Outbox,
    mut watch: impl FnMut(&str) -> Option<Report>,
) -> std::io::Result<(ExitStatus, LastLines)> {
    let mut group = Group::spawn(command)?;
    let stdout = group.child.stdout.take().expect("output is piped");
    let stderr = group.child.stderr.take().expect("output is piped");
    let (mut stdout, mut stderr) = (Lines::new(stdout), Lines::new(stderr));
    let mut last = LastLines::default();
    let mut open = (true, true);
    let mut exit = None;
    // A process that left the group may hold the pipes for ever: after the exit, only what is there already is read.
    while exit.is_none() || open.0 || open.1 {
        let line = tokio::select! {
            biased;
            line = stdout.next(), if open.0 => { open.0 = line.is_some(); line }
            line = stderr.next(), if open.1 => { open.1 = line.is_some(); line }
            status = group.wait(), if exit.is_none() => { exit = Some(status?); None }
            () = tokio::time::sleep(AFTER_EXIT), if exit.is_some() => break,
        };
        if let Some(line) = line {
            out.line(source, &line);
            last.push(&line);
            if let Some(report) = watch(&line) {
                out.report(report).await;
            }
        }
    }
    let status = match exit {
        Some(status) => status,
        None => group.wait().await?,
    };
    Ok((status, last))
}

/// How long silence after a program's end means that its output is complete.
const AFTER_EXIT: std::time::Duration = std::time::Duration::from_millis(200);
