//! A program on a pseudo-terminal: a session of its own, the terminal its controlling one.

use std::path::Path;
use std::pin::Pin;
use std::process::ExitStatus;
use std::task::{Context, Poll, Waker};

use lap_api::channel::Size;
use pty_process::{OwnedReadPty, OwnedWritePty};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::process::Child;

use crate::environment::Environment;

/// Our end of a terminal. Dropping it hangs up, as closing a terminal's window does.
pub(super) struct Pty {
    from: OwnedReadPty,
    to: OwnedWritePty,
}

/// The program at the other end. Dropping it ends the program.
pub(super) struct Running {
    child: Child,
    leader: Option<Pid>,
}

/// Starts a command on a fresh terminal.
pub(super) fn spawn(
    command: &[String],
    folder: &Path,
    env: &Environment,
    size: Size,
) -> std::io::Result<(Pty, Running)> {
    let (program, arguments) = command.split_first().ok_or_else(|| std::io::Error::other("there is no command"))?;
    let (master, terminal) = pty_process::open().map_err(plain)?;
    master.resize(winsize(size)).map_err(plain)?;
    let (from, to) = master.into_split();
    let child = pty_process::Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(env)
        .env("TERM", "xterm-256color")
        .env("COLORTERM", "truecolor")
        // Somebody sits at this one.
        .env_remove("GIT_TERMINAL_PROMPT")
        .kill_on_drop(true)
        .spawn(terminal)
        .map_err(plain)?;
    let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    Ok((Pty { from, to }, Running { child, leader }))
}

fn plain(problem: pty_process::Error) -> std::io::Error {
    match problem {
        pty_process::Error::Io(problem) => problem,
        other => std::io::Error::other(other),
    }
}

fn winsize(size: Size) -> pty_process::Size {
    pty_process::Size::new(size.rows, size.cols)
}

impl Pty {
    /// Tells the program its window's size; the kernel sends it SIGWINCH.
    pub(super) fn resize(&self, size: Size) -> std::io::Result<()> {
        self.to.resize(winsize(size)).map_err(plain)
    }

    /// The two directions, to be waited for at the same time.
    pub(super) fn halves(&mut self) -> (Output<'_>, Input<'_>) {
        (Output(&mut self.from), Input(&mut self.to))
    }
}

/// What the program prints.
pub(super) struct Output<'a>(&'a mut OwnedReadPty);

impl Output<'_> {
    /// Waits for output, then appends all that is there up to `most`. `false`: there will be none any more.
    pub(super) async fn read(mut self, into: &mut Vec<u8>, most: usize) -> bool {
        std::future::poll_fn(|cx| self.poll(cx, into, most)).await
    }

    /// Appends what is there already. `false`: there is nothing.
    pub(super) fn read_now(mut self, into: &mut Vec<u8>, most: usize) -> bool {
        self.poll(&mut Context::from_waker(Waker::noop()), into, most) == Poll::Ready(true)
    }

    /// The kernel hands out a page at a time; waking up for each of them would cost more than reading it.
    fn poll(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>, most: usize) -> Poll<bool> {
        let before = into.len();
        loop {
            let start = into.len();
            if start - before >= most {
                return Poll::Ready(true);
            }
            into.resize(start + PAGE, 0);
            let mut page = ReadBuf::new(&mut into[start..]);
            let read = Pin::new(&mut *self.0).poll_read(cx, &mut page);
            let length = page.filled().len();
            into.truncate(start + length);
            match read {
                Poll::Ready(Ok(())) if length > 0 => {}
                _ if start > before => return Poll::Ready(true),
                // EIO: nobody has the terminal open any more.
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// What the program reads.
pub(super) struct Input<'a>(&'a mut OwnedWritePty);

impl Input<'_> {
    /// Waits until the program takes input, then gives it some; how much it took.
    pub(super) async fn write(self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).await
    }
}

impl Running {
    /// Waits for the program's end.
    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.leader = None;
        status
    }
}

impl Running {
    /// Asks the program to end.
    pub(super) fn end(&self) {
        if let Some(leader) = self.leader {
            // Fails only when all of them are gone already.
            let _ = kill_process_group(leader, Signal::TERM);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            // Fails only when all of them are gone already. A shell has a moment to write its history.
            let _ = kill_process_group(leader, Signal::HUP);
        }
    }
}

const PAGE: usize = 4096;
