//! The log of a session as it grows, over connections that may break.
//!
//! One task per stream owns the connection: it asks for what follows the last event it passed on, skips what it has seen,
//! and comes back with growing pauses. Whoever reads sees each event once, in order, and may stop at any await.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use futures_util::StreamExt;
use http::Method;
use http_body_util::BodyStream;
use hyper::body::Incoming;
use lap_api::event::{Event, EventKind};
use lap_api::message::SendMessage;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::{Error, root_cause};
use crate::sse::{SseEvent, SseParser};
use crate::transport::{Call, Client};

/// Servers send something at least every half minute; silence for three times as long is a dead connection.
const SILENCE_DEADLINE: Duration = Duration::from_secs(90);

/// Pause after the first failure, doubled by each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause: a server that comes back is noticed within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Entries read ahead of the reader. Full: the task stops reading and the server's own flow control holds.
const READ_AHEAD: usize = 256;

/// One entry of the log, known or not.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    /// Position in the log.
    pub id: u64,
    /// `type` of the event.
    pub name: String,
    /// The event; `None` when its type is newer than this client.
    pub event: Option<Event>,
    /// Its JSON as the server sent it, on one line.
    pub raw: String,
}

impl LogEntry {
    /// Reads an entry from its JSON.
    pub fn read(json: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Head {
            id: u64,
            #[serde(rename = "type")]
            name: String,
        }
        let Head { id, name } = serde_json::from_str(json)?;
        Ok(Self { id, name, event: serde_json::from_str(json).ok(), raw: json.replace(['\n', '\r'], " ") })
    }

    fn turn_id(&self) -> Option<&str> {
        match &self.event.as_ref()?.kind {
            EventKind::TurnQueued { turn_id, .. }
            | EventKind::TurnStarted { turn_id }
            | EventKind::MessageDelta { turn_id, .. }
            | EventKind::Tool { turn_id, .. }
            | EventKind::PermissionRequested { turn_id, .. }
            | EventKind::MessageCompleted { turn_id, .. }
            | EventKind::TurnCompleted { turn_id, .. }
            | EventKind::TurnFailed { turn_id, .. } => Some(turn_id),
            _ => None,
        }
    }

    fn ends_turn(&self) -> bool {
        matches!(self.name.as_str(), "turn.completed" | "turn.failed")
    }
}

/// What an event stream yields.
#[derive(Debug)]
pub enum Feed {
    /// The next entry of the log.
    Entry(Box<LogEntry>),
    /// The connection is gone; the stream tries again by itself.
    Lost {
        /// Why, in words.
        cause: String,
        /// Pause before the next try.
        retry_in: Duration,
    },
    /// The connection is back after a [`Feed::Lost`].
    Back,
}

/// The log as it grows. Ends with an error that no retry can mend, such as `not_found` once the session is deleted.
pub struct EventStream {
    entries: mpsc::Receiver<Result<Feed, Error>>,
    _task: AbortOnDrop,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl EventStream {
    pub(crate) fn open(client: Client, session_id: String, after: u64) -> Self {
        let (sender, entries) = mpsc::channel(READ_AHEAD);
        let task = tokio::spawn(follow(client, session_id, after, sender));
        Self { entries, _task: AbortOnDrop(task) }
    }

    /// What comes next; `None` after an error was returned. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Option<Result<Feed, Error>> {
        self.entries.recv().await
    }

    /// The next entry, with losses and returns of the connection passed over.
    pub async fn next_entry(&mut self) -> Option<Result<LogEntry, Error>> {
        loop {
            match self.next().await? {
                Ok(Feed::Entry(entry)) => return Some(Ok(*entry)),
                Ok(Feed::Lost { .. } | Feed::Back) => {}
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

async fn follow(client: Client, session_id: String, mut after: u64, sender: mpsc::Sender<Result<Feed, Error>>) {
    let mut n_failures = 0;
    let mut told = false;
    loop {
        let before = after;
        let ended = read_connection(&client, &session_id, &mut after, &sender, &mut told).await;
        if after > before {
            n_failures = 0;
        }
        let pause = pause(n_failures);
        match ended {
            Ended::Reader => return,
            Ended::Fatal(error) => {
                // The reader may be gone already; then nobody needs the reason.
                let _ = sender.send(Err(error)).await;
                return;
            }
            // A server that ends the stream in good order (it restarts, or the session is gone) is asked again first.
            Ended::Orderly if n_failures == 0 => {}
            Ended::Orderly => {
                told = true;
                let cause = "the server ended the stream".to_owned();
                if sender.send(Ok(Feed::Lost { cause, retry_in: pause })).await.is_err() {
                    return;
                }
            }
            Ended::Broken(cause) => {
                told = true;
                if sender.send(Ok(Feed::Lost { cause, retry_in: pause })).await.is_err() {
                    return;
                }
            }
        }
        n_failures += 1;
        tokio::time::sleep(pause).await;
    }
}

enum Ended {
    Orderly,
    Broken(String),
    Fatal(Error),
    Reader,
}

async fn read_connection(
    client: &Client,
    session_id: &str,
    after: &mut u64,
    sender: &mpsc::Sender<Result<Feed, Error>>,
    told: &mut bool,
) -> Ended {
    let call = Call::managed(Method::GET, &["sessions", session_id, "events"])
        .accept("text/event-stream")
        .header("last-event-id", *after);
    let answer = match client.open(call).await {
        Ok(answer) => answer,
        Err(error) if error.is_temporary() => return Ended::Broken(error.to_string()),
        Err(error) => return Ended::Fatal(error),
    };
    if std::mem::take(told) && sender.send(Ok(Feed::Back)).await.is_err() {
        return Ended::Reader;
    }
    let mut body = SseBody::new(answer.into_body());
    loop {
        match body.next().await {
            Ok(Some(event)) => match LogEntry::read(&event.data) {
                // The server's promise is "after": what is not is a repetition.
                Ok(entry) if entry.id <= *after => {}
                Ok(entry) => {
                    let id = entry.id;
                    if sender.send(Ok(Feed::Entry(Box::new(entry)))).await.is_err() {
                        return Ended::Reader;
                    }
                    *after = id;
                }
                Err(error) => return Ended::Fatal(client.unintelligible(&error)),
            },
            Ok(None) => return Ended::Orderly,
            Err(cause) => return Ended::Broken(cause),
        }
    }
}

/// Doubling pauses, each cut short by up to a half at random, so that many clients do not come back in step.
fn pause(n_failures: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << n_failures.min(10)).min(LONGEST_PAUSE);
    let random = std::hash::RandomState::new().build_hasher().finish();
    full.mul_f64(0.5 + (random % 1000) as f64 / 2000.0)
}

/// An answer's body as events.
struct SseBody {
    body: BodyStream<Incoming>,
    parser: SseParser,
    ready: std::collections::VecDeque<SseEvent>,
}

impl SseBody {
    fn new(body: Incoming) -> Self {
        Self { body: BodyStream::new(body), parser: SseParser::new(), ready: Default::default() }
    }

    async fn next(&mut self) -> Result<Option<SseEvent>, String> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let frame = tokio::time::timeout(SILENCE_DEADLINE, self.body.next())
                .await
                .map_err(|_| format!("silent for {} s", SILENCE_DEADLINE.as_secs()))?;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(root_cause(&e)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.ready.extend(self.parser.push(&bytes).map_err(|e| e.to_string())?);
                    }
                }
            }
        }
    }
}

/// One turn's part of the log; ends after `turn.completed` or `turn.failed`.
pub struct TurnStream {
    client: Client,
    session_id: String,
    message: SendMessage,
    /// Repeating the call with it comes back to the same turn.
    key: String,
    source: Source,
    turn_id: Option<String>,
    last_id: u64,
}

enum Source {
    /// The answer to `message_stream`.
    Answer(Box<SseBody>),
    /// The session's log, after that answer broke off.
    Log(EventStream),
    Ended,
}

impl TurnStream {
    pub(crate) fn new(client: Client, session_id: String, message: SendMessage, key: String, body: Incoming) -> Self {
        let source = Source::Answer(Box::new(SseBody::new(body)));
        Self { client, session_id, message, key, source, turn_id: None, last_id: 0 }
    }

    /// The turn's id, once the stream has told it.
    pub fn turn_id(&self) -> Option<&str> {
        self.turn_id.as_deref()
    }

    /// The next entry of this turn; `None` after its last one. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Option<Result<LogEntry, Error>> {
        loop {
            let entry = match &mut self.source {
                Source::Ended => return None,
                Source::Answer(body) => match body.next().await {
                    Ok(Some(event)) => match LogEntry::read(&event.data) {
                        Ok(entry) => entry,
                        Err(e) => {
                            self.source = Source::Ended;
                            return Some(Err(self.client.unintelligible(&e)));
                        }
                    },
                    Ok(None) | Err(_) if self.turn_id.is_some() => {
                        let log = self.client.events(&self.session_id, self.last_id);
                        self.source = Source::Log(log);
                        continue;
                    }
                    // The turn waits behind others and has no name yet: its key is all there is to find it by.
                    Ok(None) | Err(_) => {
                        tokio::time::sleep(pause(0)).await;
                        match self.client.open_turn(&self.session_id, &self.message, &self.key).await {
                            Ok(body) => self.source = Source::Answer(Box::new(SseBody::new(body))),
                            Err(e) => {
                                self.source = Source::Ended;
                                return Some(Err(e));
                            }
                        }
                        continue;
                    }
                },
                Source::Log(log) => match log.next_entry().await? {
                    Ok(entry) => entry,
                    Err(e) => {
                        self.source = Source::Ended;
                        return Some(Err(e));
                    }
                },
            };
            if entry.id <= self.last_id {
                continue;
            }
            self.last_id = entry.id;
            if self.turn_id.is_none() {
                self.turn_id = entry.turn_id().map(str::to_owned);
            }
            let of_another_turn = entry.turn_id().is_some() && entry.turn_id() != self.turn_id.as_deref();
            if of_another_turn {
                continue;
            }
            if entry.ends_turn() || ends_session(&entry) {
                self.source = Source::Ended;
            }
            return Some(Ok(entry));
        }
    }
}

/// A session that is over answers no turn any more.
fn ends_session(entry: &LogEntry) -> bool {
    matches!(
        entry.event.as_ref().map(|event| &event.kind),
        Some(EventKind::SessionState { status, .. }) if status == "dead" || status == "failed"
    )
}
