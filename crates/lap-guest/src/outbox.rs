//! What the guest says, in order: reports wait for room and are never dropped, log lines are. What it sends over channels
//! goes beside it, in an order of its own.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use lap_api::link::{FromGuest, Report};
use lap_link::{Frame, LinkError, Writer};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use crate::clip;

/// Messages under way to the link. When it is full, reports wait (and with them the harness's event stream) and lines are
/// left out.
const QUEUE: usize = 256;

/// Longest log line.
const LINE_BYTES: usize = 4 * 1024;

/// Lines a second; a build that prints more loses the rest, and the log says how many.
const LINES_PER_WINDOW: u32 = 200;

const LINE_WINDOW: Duration = Duration::from_secs(1);

/// Longest piece that consecutive deltas are joined to.
const DELTA_BYTES: usize = 64 * 1024;

/// The sending side; cheap to clone.
#[derive(Clone)]
pub(crate) struct Outbox {
    to: mpsc::Sender<FromGuest>,
    lines: std::sync::Arc<Mutex<LineBudget>>,
}

/// How many lines the current window still takes.
struct LineBudget {
    since: Instant,
    used: u32,
    left_out: u32,
}

/// A queue to the link.
pub(crate) fn channel() -> (Outbox, mpsc::Receiver<FromGuest>) {
    let (to, queue) = mpsc::channel(QUEUE);
    let lines = LineBudget { since: Instant::now(), used: 0, left_out: 0 };
    (Outbox { to, lines: std::sync::Arc::new(Mutex::new(lines)) }, queue)
}

impl Outbox {
    /// Says something; waits while the link is busy. After the link's end it says it to nobody.
    pub(crate) async fn send(&self, message: FromGuest) {
        // The only error is a closed queue, and then the guest is ending anyway.
        let _ = self.to.send(message).await;
    }

    /// Says something that is kept.
    pub(crate) async fn report(&self, report: Report) {
        self.send(FromGuest::Report(report)).await;
    }

    /// Reports a phase of bring-up.
    pub(crate) async fn phase(&self, phase: &str, detail: Option<String>) {
        self.report(Report::Phase { phase: phase.to_owned(), detail }).await;
    }

    /// Says a line for the sandbox's log, if there is room for it.
    pub(crate) fn line(&self, source: &str, text: &str) {
        let Some(left_out) = self.admit(Instant::now()) else { return };
        if left_out > 0 {
            self.offer(source, format!("[{left_out} lines left out]"));
        }
        self.offer(source, clip::head(text, LINE_BYTES));
    }

    fn offer(&self, source: &str, text: String) {
        let line = FromGuest::Line { source: source.to_owned(), text };
        if self.to.try_send(line).is_err() {
            self.budget().left_out += 1;
        }
    }

    /// Whether one more line may go, and how many before it could not.
    fn admit(&self, now: Instant) -> Option<u32> {
        let mut budget = self.budget();
        if now.duration_since(budget.since) >= LINE_WINDOW {
            budget.since = now;
            budget.used = 0;
        }
        if budget.used >= LINES_PER_WINDOW {
            budget.left_out += 1;
            return None;
        }
        budget.used += 1;
        Some(std::mem::take(&mut budget.left_out))
    }

    fn budget(&self) -> std::sync::MutexGuard<'_, LineBudget> {
        self.lines.lock().expect("nothing panics while it holds the budget")
    }
}

/// Writes the queue to the link until all its senders are gone, and what channels send in between. Deltas that piled up while
/// the link was busy travel as one.
pub(crate) async fn deliver<W: AsyncWrite + Unpin>(
    mut queue: mpsc::Receiver<FromGuest>,
    mut channels: mpsc::Receiver<Frame<FromGuest>>,
    to: W,
) -> Result<(), LinkError> {
    let mut writer = Writer::new(to);
    let mut batch = Vec::with_capacity(QUEUE);
    loop {
        tokio::select! {
            length = queue.recv_many(&mut batch, QUEUE) => {
                if length == 0 {
                    return Ok(());
                }
                for message in joined(batch.drain(..)) {
                    writer.send(&message).await?;
                }
            }
            Some(frame) = channels.recv() => writer.frame(&frame).await?,
        }
    }
}

/// Joins deltas of the same part that follow each other.
fn joined(messages: impl Iterator<Item = FromGuest>) -> Vec<FromGuest> {
    let mut all = Vec::<FromGuest>::new();
    for message in messages {
        match (all.last_mut(), message) {
            (
                Some(FromGuest::Report(Report::Delta { turn_id: turn, part_id: part, kind: of, delta: before })),
                FromGuest::Report(Report::Delta { turn_id, part_id, kind, delta }),
            ) if *turn == turn_id && *part == part_id && *of == kind && before.len() + delta.len() <= DELTA_BYTES => {
                before.push_str(&delta);
            }
            (_, message) => all.push(message),
        }
    }
    all
}

#[cfg(test)]
mod tests;
