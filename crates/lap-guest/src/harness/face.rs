//! The terminal face of a harness: how its own program for people is started on the conversation that messages go to.
//!
//! A program that joins (it speaks with the one that takes messages) may run beside it. Another one gets the conversation
//! lent: the program that takes messages ends first, and starts again when the other has ended. Somebody who looks at the
//! terminal is not interrupted by a message; a terminal that nobody looks at and that is quiet is.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use lap_api::link::TuiLaunch;
use tokio::sync::oneshot;

use super::{Setting, now_ms};
use crate::Failure;
use crate::environment::Environment;

/// A program that printed nothing for this long does nothing: at work they all show that they are.
const QUIET: Duration = Duration::from_secs(3);

/// Code of a refusal because the conversation is used in another way.
pub(crate) const IN_USE: &str = "conversation_in_use";

/// Somebody wants the terminal.
pub(crate) struct TerminalAsk {
    reply: oneshot::Sender<Result<TerminalStart, Failure>>,
}

/// How the terminal's program is started.
pub(crate) struct TerminalStart {
    pub(crate) command: Vec<String>,
    pub(crate) env: Environment,
    /// The conversation is lent until this is dropped.
    pub(crate) lent: Option<Lent>,
}

/// The borrower's side.
pub(crate) struct Lent {
    /// Goes with this when the program has ended.
    pub(crate) _held: oneshot::Sender<()>,
    /// The conversation is wanted back; heard once.
    pub(crate) recalled: Option<oneshot::Receiver<()>>,
    pub(crate) looks: Arc<Looks>,
}

/// Whether anybody looks, and whether there is anything to see.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    viewers: AtomicUsize,
    printed_at_ms: AtomicI64,
}

/// The lender's side.
pub(super) struct Loan {
    over: oneshot::Receiver<()>,
    recall: Option<oneshot::Sender<()>>,
    looks: Arc<Looks>,
}

impl TerminalAsk {
    /// A question, and where its answer comes.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Result<TerminalStart, Failure>>) {
        let (reply, answer) = oneshot::channel();
        (Self { reply }, answer)
    }

    pub(super) fn grant(self, start: Result<TerminalStart, Failure>) {
        // Whoever asked may be gone; then what was lent is back at once.
        let _ = self.reply.send(start);
    }

    pub(super) fn refuse(self, code: &'static str, reason: impl Into<String>) {
        self.grant(Err(Failure::new(code, reason)));
    }
}

impl Looks {
    pub(crate) fn viewers(&self, count: usize) {
        self.viewers.store(count, Ordering::Release);
    }

    pub(crate) fn printed(&self) {
        self.printed_at_ms.store(now_ms(), Ordering::Release);
    }

    fn in_use(&self) -> bool {
        let quiet_ms = now_ms() - self.printed_at_ms.load(Ordering::Acquire);
        self.viewers.load(Ordering::Acquire) > 0 || quiet_ms < i64::try_from(QUIET.as_millis()).unwrap_or(i64::MAX)
    }
}

impl Loan {
    /// Lends the conversation.
    pub(super) fn new() -> (Self, Lent) {
        let (held, over) = oneshot::channel();
        let (recall, recalled) = oneshot::channel();
        let looks = Arc::new(Looks::default());
        (
            Self { over, recall: Some(recall), looks: looks.clone() },
            Lent { _held: held, recalled: Some(recalled), looks },
        )
    }

    /// Waits until the borrower's program has ended. Safe to drop between polls.
    pub(super) async fn over(&mut self) {
        let _ = (&mut self.over).await;
    }

    /// Whether somebody looks, or the program is at work.
    pub(super) fn in_use(&self) -> bool {
        self.looks.in_use()
    }

    /// Wants the conversation back.
    pub(super) fn recall(&mut self) {
        if let Some(recall) = self.recall.take() {
            let _ = recall.send(());
        }
    }
}

/// The command of the terminal's program: the harness's own (a shell for one that has none), what both faces share, and what
/// the launch says, filled in.
pub(super) fn command(
    setting: &Setting,
    shared: Vec<String>,
    begun: bool,
    fill: &[(&str, &str)],
) -> Result<(Vec<String>, Environment), Failure> {
    let launch = &setting.boot.harness;
    let none = || Failure::new("no_terminal", format!("{} has no terminal of its own", launch.id));
    let TuiLaunch { args, resume_args, env, joins: _ } = launch.tui.as_ref().ok_or_else(none)?;
    let shell = || setting.env.get("SHELL").cloned().unwrap_or_else(|| "/bin/sh".to_owned());
    let filled = |text: &String| {
        fill.iter().fold(text.clone(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    };
    let own = launch.command.first().cloned().unwrap_or_else(shell);
    let args = if begun { resume_args } else { args };
    let command = std::iter::once(own).chain(shared).chain(args.iter().map(filled)).collect();
    Ok((command, env.iter().map(|(name, value)| (name.clone(), filled(value))).collect()))
}

/// Whether the harness keeps this conversation.
pub(super) fn has_conversation(folder: &Path, id: &str) -> bool {
    conversations(folder).iter().any(|(_, kept)| kept == id)
}

/// The conversation that was last gone on with.
pub(super) fn newest_conversation(folder: &Path) -> Option<String> {
    conversations(folder).into_iter().max_by_key(|(at, _)| *at).map(|(_, id)| id)
}

/// Harnesses keep conversations as files whose names end with an id.
fn conversations(folder: &Path) -> Vec<(SystemTime, String)> {
    /// Of a UUID.
    const LENGTH: usize = 36;
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.strip_suffix(".jsonl").and_then(|stem| stem.get(stem.len().checked_sub(LENGTH)?..));
            if let (Some(id), Ok(at)) = (id, metadata.modified()) {
                found.push((at, id.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
