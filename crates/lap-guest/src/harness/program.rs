//! A harness program that speaks JSON, a value a line, on its standard input and output: started, listened to, ended.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Setting;
use crate::Failure;
use crate::child::{self, Group, LastLines, Lines, ending};
use crate::environment::Environment;
use crate::outbox::Outbox;

/// Messages from the program. When it is full the program waits.
const INBOX: usize = 256;

/// Messages to the program. It reads them at once; when so many wait, it does not read any more and counts as gone.
const OUTBOX: usize = 64;

/// Longest message: one with images may be repeated by the program.
const MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// How long a program may outlive its output before it counts as broken, and its last words may take.
const LINGER: Duration = Duration::from_secs(2);

/// A running program. Dropping it kills it and everything in its group.
pub(super) struct Program {
    group: Group,
    inbox: mpsc::Receiver<Value>,
    outbox: mpsc::Sender<Value>,
    last: Arc<Mutex<LastLines>>,
    tasks: JoinSet<()>,
}

/// What comes from a program.
pub(super) enum News {
    Message(Value),
    /// It is gone, and how it went.
    Ended(String),
}

impl Program {
    /// Starts the harness's command with more arguments and variables; `name` is what people call it.
    pub(super) fn start(
        name: &str,
        setting: &Setting,
        arguments: &[String],
        env: &Environment,
        out: &Outbox,
    ) -> Result<Self, Failure> {
        let failed = |why: String| Failure::new("harness_failed", format!("{name} could not be started: {why}"));
        let (program, given) =
            setting.boot.harness.command.split_first().ok_or_else(|| failed("its command is empty".to_owned()))?;
        let mut command = child::command(program, &setting.layout.repo(), env);
        command.args(given).args(arguments).stdin(Stdio::piped());
        let mut group = Group::spawn(&mut command).map_err(|error| failed(format!("{program}: {error}")))?;
        let stdin = group.child.stdin.take().expect("input is piped");
        let stdout = group.child.stdout.take().expect("output is piped");
        let stderr = group.child.stderr.take().expect("output is piped");
        let last = Arc::new(Mutex::new(LastLines::default()));
        let (to_inbox, inbox) = mpsc::channel(INBOX);
        let (outbox, from_outbox) = mpsc::channel(OUTBOX);
        let mut tasks = JoinSet::new();
        tasks.spawn(write(from_outbox, stdin));
        tasks.spawn(read(stdout, to_inbox, out.clone()));
        tasks.spawn(listen(stderr, out.clone(), Arc::clone(&last)));
        Ok(Self { group, inbox, outbox, last, tasks })
    }

    /// Sends a message. What a dead program does not get, its end tells.
    pub(super) fn send(&mut self, message: Value) {
        if self.outbox.try_send(message).is_err() {
            self.group.kill();
        }
    }

    /// The next message, or the end. Safe to drop between polls.
    pub(super) async fn news(&mut self) -> News {
        tokio::select! {
            biased;
            message = self.inbox.recv() => {
                if let Some(message) = message {
                    return News::Message(message);
                }
            }
            status = self.group.wait() => return News::Ended(self.detail(status).await),
        }
        match tokio::time::timeout(LINGER, self.group.wait()).await {
            Ok(status) => News::Ended(self.detail(status).await),
            Err(_) => News::Ended("stopped telling what it does".to_owned()),
        }
    }

    async fn detail(&mut self, status: std::io::Result<std::process::ExitStatus>) -> String {
        let how = status.map_or_else(|error| error.to_string(), ending);
        // The last words may still be on their way. Nothing is written or read any more, so that all three tasks end.
        self.inbox.close();
        self.outbox = mpsc::channel(1).0;
        let _ = tokio::time::timeout(LINGER, async { while self.tasks.join_next().await.is_some() {} }).await;
        let last = self.last.lock().expect("nothing panics while it holds the lines");
        match last.last() {
            Some(line) => format!("{how}; its last words: {line}"),
            None => how,
        }
    }
}

async fn write(mut from: mpsc::Receiver<Value>, mut to: ChildStdin) {
    while let Some(message) = from.recv().await {
        let mut line = message.to_string();
        line.push('\n');
        // The program ended, and its end is noticed elsewhere.
        if to.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads messages to the end of the output; a line that is none is a log line.
async fn read(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Value>, out: Outbox) {
    let mut pending = Vec::new();
    let mut searched = 0;
    loop {
        while let Some(length) = pending[searched..].iter().position(|byte| *byte == b'\n') {
            let rest = pending.split_off(searched + length + 1);
            let line = std::mem::replace(&mut pending, rest);
            searched = 0;
            match serde_json::from_slice(&line) {
                Ok(message) => {
                    if to.send(message).await.is_err() {
                        return;
                    }
                }
                Err(_) => out.line("harness", String::from_utf8_lossy(&line).trim_end()),
            }
        }
        searched = pending.len();
        if pending.len() > MESSAGE_BYTES {
            out.line("guest", "the harness wrote a message that is too long to be true");
            return;
        }
        match from.read_buf(&mut pending).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Passes what it says on its error output on as log lines.
async fn listen(from: impl AsyncRead + Unpin, out: Outbox, last: Arc<Mutex<LastLines>>) {
    let mut lines = Lines::new(from);
    while let Some(line) = lines.next().await {
        out.line("harness", &line);
        last.lock().expect("nothing panics while it holds the lines").push(&line);
    }
}
