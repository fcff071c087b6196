//! A command beside the harness, with pipes: nothing of what it prints is lost, so a slow reader makes it wait.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use lap_api::channel::{CHUNK_BYTES, FromChannel, ToChannel};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;

use super::outlet::{Inlet, Outlet};
use super::terminal::{ToTerminal, how};
use super::{Port, failed};
use crate::child;
use crate::harness::Setting;

/// How long silence after the command's end means that its output is complete: what it left in the background may hold the
/// pipes for ever.
const AFTER_EXIT: Duration = Duration::from_millis(200);

/// After the caller went away the command has this long to end in order.
const TERM_GRACE: Duration = Duration::from_secs(3);

/// Runs a command until it has ended, or its caller has gone.
pub(super) async fn run(
    channel: u64,
    command: Vec<String>,
    setting: Arc<Setting>,
    orders: mpsc::Receiver<ToTerminal>,
    port: Port,
) {
    let end = match Command::spawn(&command, &setting) {
        Ok(started) => {
            port.say(FromChannel::Opened { channel, position: 0, input: 0 }).await;
            match started.serve(channel, orders, &port).await {
                Some(status) => how(status),
                // Nobody is left to be told.
                None => return,
            }
        }
        Err(problem) => {
            let name = command.first().map_or("", String::as_str);
            failed("not_started", format!("`{name}` could not be started: {problem}"))
        }
    };
    port.say(FromChannel::Ended { channel, end }).await;
}

struct Command {
    child: Child,
    group: Option<Pid>,
    stdin: Option<ChildStdin>,
}

impl Command {
    fn spawn(command: &[String], setting: &Setting) -> std::io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or_else(|| std::io::Error::other("there is no command"))?;
        let mut command = child::command(program, &setting.layout.repo(), &setting.env);
        let mut child = command.args(arguments).stdin(Stdio::piped()).spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let stdin = child.stdin.take();
        Ok(Self { child, group, stdin })
    }

    /// How the command ended; none when nobody wants to know any more.
    async fn serve(mut self, channel: u64, mut orders: mpsc::Receiver<ToTerminal>, port: &Port) -> Option<ExitStatus> {
        let mut stdout = self.child.stdout.take().expect("output is piped");
        let mut stderr = self.child.stderr.take().expect("output is piped");
        let (mut outlet, mut inlet) = (Outlet::new(channel), Inlet::new(channel));
        let mut pending = VecDeque::<u8>::new();
        let (mut eof, mut open) = (false, (true, true));
        let mut exit = None;
        let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
        loop {
            let room = outlet.room();
            if eof && pending.is_empty() {
                self.stdin = None;
            }
            if open == (false, false) && exit.is_some() {
                return exit;
            }
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(ToTerminal::Data(data)) if inlet.take(data.position, data.bytes.len()) => {
                        pending.extend(&data.bytes);
                    }
                    Some(ToTerminal::Message(ToChannel::Ack { position, .. })) => outlet.acknowledge(position),
                    Some(ToTerminal::Message(ToChannel::Eof { .. })) => eof = true,
                    Some(ToTerminal::Message(_) | ToTerminal::View(_)) => {
                        self.end().await;
                        return None;
                    }
                    Some(ToTerminal::Data(_)) | None => {
                        self.end().await;
                        return None;
                    }
                },
                written = write(&mut self.stdin, &pending), if !pending.is_empty() => {
                    // A command that reads no more still runs: its input goes nowhere.
                    let length = written.unwrap_or(pending.len());
                    pending.drain(..length);
                    inlet.pass_on(length as u64);
                    if inlet.due().1 || pending.is_empty() {
                        port.send(inlet.acknowledge()).await;
                    }
                }
                n = read(&mut stdout, &mut out, room), if open.0 && room > 0 => match n {
                    0 => open.0 = false,
                    _ => port.send(outlet.frame(1, out.split().freeze())).await,
                },
                n = read(&mut stderr, &mut err, room), if open.1 && room > 0 => match n {
                    0 => open.1 = false,
                    _ => port.send(outlet.frame(2, err.split().freeze())).await,
                },
                status = self.child.wait(), if exit.is_none() => exit = Some(status.unwrap_or_default()),
                () = tokio::time::sleep(AFTER_EXIT), if exit.is_some() && room > 0 => return exit,
            }
        }
    }

    /// Asks the command to end, and then makes it.
    async fn end(&mut self) {
        let Some(group) = self.group else { return };
        // These fail only when all of them are gone already.
        let _ = kill_process_group(group, Signal::TERM);
        let _ = tokio::time::timeout(TERM_GRACE, self.child.wait()).await;
        let _ = kill_process_group(group, Signal::KILL);
    }
}

async fn read(from: &mut (impl AsyncRead + Unpin), into: &mut BytesMut, room: usize) -> usize {
    into.reserve(CHUNK_BYTES.min(room));
    // A pipe that cannot be read has ended.
    from.take(room as u64).read_buf(into).await.unwrap_or(0)
}

async fn write(to: &mut Option<ChildStdin>, pending: &VecDeque<u8>) -> std::io::Result<usize> {
    match to {
        Some(to) => to.write(pending.as_slices().0).await,
        None => Ok(pending.len()),
    }
}
