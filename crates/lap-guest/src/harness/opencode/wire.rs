//! opencode's events, as far as they matter here. Unknown fields and events are skipped: opencode adds some often.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// One event that matters.
#[derive(Debug)]
pub(super) enum Event {
    Message(Box<Info>),
    Part(Box<PartInfo>),
    Delta(Delta),
    Status(Status),
    Idle { session_id: String },
    Error(SessionError),
    Permission(Box<Permission>),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow, default)]
    properties: Option<&'a RawValue>,
}

/// A message of a conversation, without its parts.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Info {
    pub(super) id: String,
    #[serde(rename = "sessionID")]
    pub(super) session_id: String,
    pub(super) role: String,
    #[serde(rename = "parentID", default)]
    pub(super) parent_id: Option<String>,
    pub(super) time: Time,
    #[serde(default)]
    pub(super) error: Option<Problem>,
    #[serde(default)]
    pub(super) tokens: Option<Tokens>,
    #[serde(default)]
    pub(super) cost: Option<f64>,
    /// `true`: opencode talks to itself, to shorten a conversation that grew too long.
    #[serde(default)]
    pub(super) summary: Value,
    /// Why generation ended; absent when it was cut off.
    #[serde(default)]
    pub(super) finish: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Time {
    pub(super) created: f64,
    #[serde(default)]
    pub(super) completed: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tokens {
    pub(super) input: f64,
    pub(super) output: f64,
    pub(super) reasoning: f64,
    pub(super) cache: Cache,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Cache {
    pub(super) read: f64,
    pub(super) write: f64,
}

/// What went wrong, in opencode's words.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Problem {
    pub(super) name: String,
    #[serde(default)]
    pub(super) data: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct PartInfo {
    pub(super) id: String,
    #[serde(rename = "sessionID")]
    pub(super) session_id: String,
    #[serde(rename = "messageID")]
    pub(super) message_id: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) text: Option<String>,
    #[serde(default)]
    pub(super) tool: Option<String>,
    #[serde(default)]
    pub(super) state: Option<ToolState>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ToolState {
    pub(super) status: String,
    pub(super) input: Value,
    pub(super) title: Option<String>,
    pub(super) output: Option<String>,
    pub(super) error: Option<String>,
    pub(super) metadata: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Delta {
    #[serde(rename = "messageID")]
    pub(super) message_id: String,
    #[serde(rename = "partID")]
    pub(super) part_id: String,
    pub(super) field: String,
    pub(super) delta: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Status {
    #[serde(rename = "sessionID")]
    pub(super) session_id: String,
    pub(super) status: StatusKind,
}

#[derive(Debug, Deserialize)]
pub(super) struct StatusKind {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) attempt: u32,
    #[serde(default)]
    pub(super) message: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct SessionError {
    #[serde(rename = "sessionID", default)]
    pub(super) session_id: Option<String>,
    pub(super) error: Option<Problem>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Permission {
    pub(super) id: String,
    pub(super) permission: String,
    #[serde(default)]
    pub(super) patterns: Vec<String>,
    #[serde(default)]
    pub(super) metadata: Value,
}

#[derive(Deserialize)]
struct MessageUpdated {
    info: Info,
}

#[derive(Deserialize)]
struct PartUpdated {
    part: PartInfo,
}

#[derive(Deserialize)]
struct SessionIdle {
    #[serde(rename = "sessionID")]
    session_id: String,
}

/// Reads one event; `None` for those that do not matter or look different from what was expected.
pub(super) fn parse(data: &[u8]) -> Option<Event> {
    let Envelope { kind, properties } = serde_json::from_slice(data).ok()?;
    let properties = properties?.get();
    fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
        serde_json::from_str(text).ok()
    }
    match kind.as_str() {
        "message.updated" => read(properties).map(|MessageUpdated { info }| Event::Message(Box::new(info))),
        "message.part.updated" => read(properties).map(|PartUpdated { part }| Event::Part(Box::new(part))),
        "message.part.delta" => read(properties).map(Event::Delta),
        "session.status" => read(properties).map(Event::Status),
        "session.idle" => read(properties).map(|SessionIdle { session_id }| Event::Idle { session_id }),
        "session.error" => read(properties).map(Event::Error),
        "permission.asked" => read(properties).map(|permission| Event::Permission(Box::new(permission))),
        _ => None,
    }
}

/// Cuts a stream of server-sent events into the data of each.
#[derive(Default)]
pub(super) struct Frames {
    buffer: Vec<u8>,
    /// Up to here there is no line end.
    searched: usize,
}

/// Longest event: a message with images comes back as one for each.
const EVENT_BYTES: usize = 32 * 1024 * 1024;

impl Frames {
    /// Takes bytes and hands each whole event's data to `each`. False: one is too long to be true.
    pub(super) fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) -> bool {
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + length;
            // opencode writes each event's data as one line.
            if let Some(data) = self.buffer[start..end].strip_prefix(b"data:") {
                each(data.trim_ascii());
            }
            start = end + 1;
            self.searched = start;
        }
        self.buffer.drain(..start);
        self.searched = self.buffer.len();
        if self.buffer.is_empty() && self.buffer.capacity() > SPARE_BYTES {
            self.buffer = Vec::new();
        }
        self.buffer.len() <= EVENT_BYTES
    }
}

/// A larger empty buffer is given back.
const SPARE_BYTES: usize = 64 * 1024;
