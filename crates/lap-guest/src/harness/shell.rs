//! A harness without a program: a turn is a line for `sh`, its output is the answer.
//!
//! It exists for tests and smoke checks, where fifty sessions are to cost nothing but their sandboxes. A server offers it
//! only when test harnesses are switched on.

use std::sync::Arc;

use lap_api::event::DeltaKind;
use lap_api::link::{Report, Turn};
use lap_api::message::{Message, MessageInfo, Part};
use lap_api::session::Usage;
use tokio::io::AsyncReadExt;

use super::face::{self, TerminalStart};
use super::{ABORTED, HARNESS_FAILED, Interruption, Next, Orders, Setting, failed, now_ms, time};
use crate::Failure;
use crate::child::{self, Group};
use crate::clip;
use crate::outbox::Outbox;

/// Serves turns; there is nothing to start.
pub(super) async fn serve(setting: Arc<Setting>, mut orders: Orders, out: Outbox) -> Result<(), Failure> {
    for phase in ["waiting_harness", "harness_listening", "harness_ready"] {
        out.phase(phase, None).await;
    }
    out.report(Report::Ready).await;
    while let Some(next) = orders.next().await {
        let turn = match next {
            Next::Turn(turn) => turn,
            Next::Terminal(ask) => {
                ask.grant(terminal(&setting));
                continue;
            }
        };
        out.report(Report::TurnStarted { turn_id: turn.turn_id.clone() }).await;
        let end = run(&setting, &turn, &mut orders, &out).await;
        out.report(end).await;
    }
    Ok(())
}

/// A shell for people.
fn terminal(setting: &Setting) -> Result<TerminalStart, Failure> {
    let (command, more) = face::command(setting, Vec::new(), true, &[])?;
    let mut env = setting.env.clone();
    env.extend(more);
    Ok(TerminalStart { command, env, lent: None })
}

/// Runs one line and returns the report that ends its turn.
async fn run(setting: &Setting, turn: &Turn, orders: &mut Orders, out: &Outbox) -> Report {
    let mut command = child::command("/bin/sh", &setting.layout.repo(), &setting.env);
    // One pipe for both, so that the answer has the order in which things were printed.
    command.args(["-c", "exec 2>&1; eval \"$1\"", "sh", &turn.text]);
    let mut group = match Group::spawn(&mut command) {
        Ok(group) => group,
        Err(error) => return failed(&turn.turn_id, HARNESS_FAILED, format!("sh could not be started: {error}")),
    };
    let mut stdout = group.child.stdout.take().expect("output is piped");
    let mut answer = Answer::new(turn);
    let mut chunk = [0; 8192];
    let mut exit = None;
    loop {
        tokio::select! {
            biased;
            read = stdout.read(&mut chunk) => match read {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    if let Some(delta) = answer.take(&chunk[..length]) {
                        out.report(delta).await;
                    }
                }
            },
            // Kills what it left in the background, so that the pipe ends too.
            status = group.wait(), if exit.is_none() => exit = Some(status),
            order = orders.during(&turn.turn_id) => match order {
                Some(Interruption::Abort) => {
                    group.kill();
                    return failed(&turn.turn_id, ABORTED, "the turn was aborted");
                }
                Some(Interruption::Permission { .. }) => {}
                Some(Interruption::Terminal(ask)) => ask.grant(terminal(setting)),
                None => return failed(&turn.turn_id, ABORTED, "the sandbox ends"),
            },
        }
    }
    let status = match exit {
        Some(status) => status,
        None => group.wait().await,
    };
    if let Ok(status) = status
        && !status.success()
        && let Some(delta) = answer.take(format!("[{}]\n", child::ending(status)).as_bytes())
    {
        out.report(delta).await;
    }
    let message = answer.message(turn, setting);
    let completed = Report::MessageCompleted { turn_id: turn.turn_id.clone(), message: message.clone() };
    out.report(completed).await;
    Report::TurnCompleted { turn_id: turn.turn_id.clone(), message, usage: Usage::default() }
}

/// The output so far.
struct Answer {
    turn_id: String,
    part_id: String,
    text: String,
    /// The beginning of a character whose rest has not come yet.
    partial: Vec<u8>,
    started_ms: i64,
}

impl Answer {
    fn new(turn: &Turn) -> Self {
        Self {
            turn_id: turn.turn_id.clone(),
            part_id: format!("prt_{}", turn.turn_id),
            text: String::new(),
            partial: Vec::new(),
            started_ms: now_ms(),
        }
    }

    /// Takes output; beyond what is kept there are no deltas either.
    fn take(&mut self, bytes: &[u8]) -> Option<Report> {
        self.partial.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.partial) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.partial.len(),
        };
        let delta = String::from_utf8_lossy(&self.partial[..whole]).into_owned();
        self.partial.drain(..whole);
        if delta.is_empty() || self.text.len() > clip::TEXT_BYTES {
            return None;
        }
        self.text.push_str(&delta);
        Some(Report::Delta {
            turn_id: self.turn_id.clone(),
            part_id: self.part_id.clone(),
            kind: DeltaKind::Text,
            delta,
        })
    }

    fn message(&self, turn: &Turn, setting: &Setting) -> Message {
        Message {
            info: MessageInfo {
                id: format!("msg_{}", turn.turn_id),
                turn_id: turn.turn_id.clone(),
                role: "assistant".to_owned(),
                created_at: time(self.started_ms),
                model: Some(setting.boot.model.clone()),
                usage: None,
                error: None,
            },
            parts: vec![Part::Text { id: self.part_id.clone(), text: clip::head(&self.text, clip::TEXT_BYTES) }],
        }
    }
}
