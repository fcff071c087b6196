//! The adapters: each drives one kind of harness program. What goes in is [`Order`], what comes out are reports, and the
//! rest of the guest knows nothing else of a harness.
//!
//! An adapter runs one turn at a time, at most once each; it answers every turn with exactly one `turn_completed` or
//! `turn_failed`, and it never sends a turn again that may have reached the model.

mod answer;
mod claude;
mod codex;
pub(crate) mod face;
mod opencode;
mod program;
mod shell;
mod talk;

use std::collections::VecDeque;
use std::sync::Arc;

use lap_api::link::{GuestBoot, Report, Turn};
use tokio::sync::mpsc;

use self::face::TerminalAsk;
use crate::Failure;
use crate::environment::Environment;
use crate::layout::Layout;
use crate::outbox::Outbox;

/// What an adapter knows of its sandbox.
pub(crate) struct Setting {
    pub(crate) layout: Layout,
    pub(crate) env: Environment,
    pub(crate) boot: GuestBoot,
}

/// What an adapter is asked for.
pub(crate) enum Order {
    /// Run this after the ones before it.
    Turn(Turn),
    /// Stop this turn, running or waiting.
    Abort { turn_id: String },
    /// `allow`, `allow_always` or `deny`.
    Permission { request_id: String, decision: String },
    /// Open the terminal face, if the conversation can be had.
    Terminal(TerminalAsk),
}

/// What an adapter does when nothing runs.
pub(crate) enum Next {
    Turn(Turn),
    Terminal(TerminalAsk),
}

/// A harness on its way up.
pub(crate) enum Harness {
    Opencode(Box<opencode::Starting>),
    /// Those that look at the working tree when they start; so they start when there is one.
    Claude,
    Codex,
    Shell,
}

/// Starts the harness's program, if it has one. It may take its time over that while the repository is cloned: no
/// adapter talks to it, and none of them looks at the working tree, before [`Harness::serve`].
pub(crate) fn start(setting: &Setting, out: &Outbox) -> Result<Harness, Failure> {
    match setting.boot.harness.adapter.as_str() {
        "opencode-serve" => {
            opencode::Starting::spawn(setting, out).map(|starting| Harness::Opencode(Box::new(starting)))
        }
        "claude-stream-json" => Ok(Harness::Claude),
        "codex-app-server" => Ok(Harness::Codex),
        "shell" => Ok(Harness::Shell),
        other => Err(Failure::new("harness_unknown", format!("this guest has no adapter `{other}`"))),
    }
}

impl Harness {
    /// Serves until the orders end. An error means that the harness never came up.
    pub(crate) async fn serve(
        self,
        setting: Arc<Setting>,
        orders: mpsc::Receiver<Order>,
        out: Outbox,
    ) -> Result<(), Failure> {
        let orders = Orders { from: orders, waiting: VecDeque::new(), unsaid: VecDeque::new(), out: out.clone() };
        match self {
            Self::Opencode(starting) => opencode::serve(*starting, setting, orders, out).await,
            Self::Claude => talk::serve::<claude::Claude>(setting, orders, out).await,
            Self::Codex => talk::serve::<codex::Codex>(setting, orders, out).await,
            Self::Shell => shell::serve(setting, orders, out).await,
        }
    }
}

/// Orders for an adapter, with the turns that wait.
pub(crate) struct Orders {
    from: mpsc::Receiver<Order>,
    waiting: VecDeque<Turn>,
    /// Ends of turns that were aborted while they waited, until they are said.
    unsaid: VecDeque<Report>,
    out: Outbox,
}

/// What concerns the turn that runs.
pub(crate) enum Interruption {
    Abort,
    Permission { request_id: String, decision: String },
    Terminal(TerminalAsk),
}

impl Orders {
    /// The next turn or wish; `None` when there will be none. Safe to drop between polls.
    pub(crate) async fn next(&mut self) -> Option<Next> {
        loop {
            self.say().await;
            if let Some(turn) = self.waiting.pop_front() {
                return Some(Next::Turn(turn));
            }
            match self.from.recv().await? {
                Order::Turn(turn) => return Some(Next::Turn(turn)),
                Order::Terminal(ask) => return Some(Next::Terminal(ask)),
                // Nothing runs: the turn is over already, or the request died with its turn.
                Order::Abort { .. } | Order::Permission { .. } => {}
            }
        }
    }

    /// What comes in for the running turn; other turns queue up, or leave the queue again. Safe to drop between polls.
    pub(crate) async fn during(&mut self, running: &str) -> Option<Interruption> {
        loop {
            self.say().await;
            match self.from.recv().await? {
                Order::Turn(turn) => self.waiting.push_back(turn),
                Order::Abort { turn_id } if turn_id == running => return Some(Interruption::Abort),
                Order::Abort { turn_id } => self.forget(&turn_id),
                Order::Permission { request_id, decision } => {
                    return Some(Interruption::Permission { request_id, decision });
                }
                Order::Terminal(ask) => return Some(Interruption::Terminal(ask)),
            }
        }
    }

    /// Says what is left to say; what could not be said is still there when this is dropped half-way.
    async fn say(&mut self) {
        while let Some(report) = self.unsaid.front() {
            self.out.report(report.clone()).await;
            self.unsaid.pop_front();
        }
    }

    fn forget(&mut self, turn_id: &str) {
        let before = self.waiting.len();
        self.waiting.retain(|turn| turn.turn_id != turn_id);
        if self.waiting.len() < before {
            self.unsaid.push_back(failed(turn_id, ABORTED, "the turn was aborted before it began"));
        }
    }
}

/// Code of a turn that somebody stopped.
pub(crate) const ABORTED: &str = "aborted";

/// Code of a turn that the harness or its model did not finish.
pub(crate) const HARNESS_FAILED: &str = "harness_failed";

/// The end of a turn without an answer.
pub(crate) fn failed(turn_id: &str, code: &str, error: impl Into<String>) -> Report {
    Report::TurnFailed { turn_id: turn_id.to_owned(), code: code.to_owned(), error: error.into() }
}

/// A point in time as the API writes it.
pub(crate) fn time(ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The present, in Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A random UUID.
fn uuid() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Fills the bytes with randomness of the kernel.
fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    let filled = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
    if filled == bytes.len() { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}
