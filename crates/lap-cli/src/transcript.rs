//! Turns a session's events into what a person reads. Pure: events in, text out.
//!
//! Answers stream as they come; what a lost connection or compaction swallowed is filled in from the final message, so
//! that the text on the screen is the answer, whole and once. Everything an agent wrote is made harmless first.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use lap_api::event::{DeltaKind, Event, EventKind};
use lap_api::message::{Message, Part, ToolCall};
use lap_api::session::Usage;
use serde_json::Value;

use crate::text::{clean, one_line, short_number};

/// Lines of a tool's output that are shown.
const OUTPUT_LINES: usize = 5;

/// Longest line of a tool's title or output.
const LINE_WIDTH: usize = 140;

/// What was shown so far, and from it what is still to be shown.
#[derive(Debug, Default)]
pub struct Transcript {
    color: bool,
    at_line_start: bool,
    /// The part whose text stands at the end of the screen.
    open: Option<(DeltaKind, String)>,
    /// Text shown of each part of the running turn.
    parts: HashMap<String, String>,
    tools: HashMap<String, ToolShown>,
    /// Tool whose heading was printed last, so that its result needs no second one.
    last_tool: Option<String>,
    started: HashMap<String, Timestamp>,
    /// Turns whose user message is on the screen because it was typed there.
    own: HashSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToolShown {
    Heading,
    Whole,
}

impl Transcript {
    /// An empty screen; `color` allows escape sequences.
    pub fn new(color: bool) -> Self {
        Self { color, at_line_start: true, ..Self::default() }
    }

    /// Says that this turn's user message needs no showing.
    pub fn is_own(&mut self, turn_id: &str) {
        self.own.insert(turn_id.to_owned());
    }

    /// Says that something else was written and the cursor stands at the beginning of a line.
    pub fn at_new_line(&mut self) {
        self.at_line_start = true;
        self.open = None;
        self.last_tool = None;
    }

    /// Whether the cursor stands at the beginning of a line.
    pub(crate) fn is_at_line_start(&self) -> bool {
        self.at_line_start
    }

    /// What to write for an event; often nothing.
    pub fn event(&mut self, event: &Event) -> String {
        let mut out = String::new();
        match &event.kind {
            EventKind::TurnQueued { turn_id, message } => {
                if !self.own.contains(turn_id) {
                    self.user(&mut out, message);
                }
            }
            EventKind::TurnStarted { turn_id } => {
                if let Ok(at) = event.at.parse() {
                    self.started.insert(turn_id.clone(), at);
                }
            }
            EventKind::MessageDelta { part_id, kind, delta, .. } => self.piece(&mut out, *kind, part_id, delta),
            EventKind::Tool { call, .. } => self.tool(&mut out, call),
            EventKind::PermissionRequested { title, .. } => {
                self.note(&mut out, &format!("the agent asks for permission: {}", one_line(title, LINE_WIDTH)));
            }
            EventKind::PermissionAnswered { decision, .. } => {
                self.note(&mut out, &format!("permission: {}", decision.replace('_', " ")));
            }
            EventKind::MessageCompleted { message, .. } => self.rest(&mut out, message),
            EventKind::TurnCompleted { turn_id, message, usage } => {
                self.rest(&mut out, message);
                let took = self.took(turn_id, &event.at);
                self.dim_line(&mut out, &footer(usage, took));
                self.forget_turn();
            }
            EventKind::TurnFailed { turn_id, code, error } => {
                let words = match code.as_str() {
                    "aborted" => "the turn was stopped".to_owned(),
                    _ => format!("the turn failed: {}", clean(error)),
                };
                self.note(&mut out, &words);
                self.started.remove(turn_id);
                self.forget_turn();
            }
            EventKind::EgressRefused { host, code, detail } => {
                let detail = one_line(detail, LINE_WIDTH);
                self.note(&mut out, &format!("the vault refused {} ({code}): {detail}", clean(host)));
            }
            EventKind::CredentialFailed { name, reason } => {
                self.note(&mut out, &format!("no fresh {}: {}", clean(name), one_line(reason, LINE_WIDTH)));
            }
            EventKind::EgressChanged { .. } => {
                self.note(&mut out, "the lists of where the sandbox may go were changed");
            }
            EventKind::SandboxLimit { limit, detail } => {
                self.note(&mut out, &format!("limit {limit} reached: {}", one_line(detail, LINE_WIDTH)));
            }
            EventKind::Error { error, .. } => self.note(&mut out, &clean(error)),
            EventKind::SessionState { status, failure_reason, end_reason } => match status.as_str() {
                "failed" => {
                    let reason = failure_reason.as_deref().unwrap_or("no reason given");
                    self.note(&mut out, &format!("the session failed: {}", clean(reason)));
                }
                "dead" => {
                    let reason = end_reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                    self.note(&mut out, &format!("the session has ended{reason}"));
                }
                _ => {}
            },
            EventKind::SessionPhase { .. } | EventKind::CredentialRenewed { .. } => {}
        }
        out
    }

    /// A line of ours between what the agent says, at the beginning of a line.
    pub fn aside(&mut self, words: &str) -> String {
        let mut out = String::new();
        self.dim_line(&mut out, words);
        out
    }

    /// Ends the line that is open, if any.
    pub fn end_line(&mut self) -> String {
        let mut out = String::new();
        self.fresh_line(&mut out);
        out
    }

    fn user(&mut self, out: &mut String, message: &Message) {
        self.fresh_line(out);
        for part in &message.parts {
            match part {
                Part::Text { text, .. } => {
                    for line in clean(text).trim_end().lines() {
                        *out += &self.bold(&format!("> {line}"));
                        out.push('\n');
                    }
                }
                Part::File { name, .. } => *out += &format!("> [{}]\n", clean(name)),
                Part::Reasoning { .. } | Part::Tool(_) => {}
            }
        }
    }

    /// A piece of a part, appended where its part stands or begun on a new line.
    fn piece(&mut self, out: &mut String, kind: DeltaKind, part_id: &str, piece: &str) {
        if piece.is_empty() {
            return;
        }
        self.parts.entry(part_id.to_owned()).or_default().push_str(piece);
        let mut text = clean(piece);
        if self.open.as_ref().is_none_or(|(_, id)| id != part_id) {
            text = text.trim_start_matches('\n').to_owned();
            if text.is_empty() {
                return;
            }
            self.fresh_line(out);
            if kind == DeltaKind::Reasoning {
                *out += &self.dim("thinking: ");
            }
            self.open = Some((kind, part_id.to_owned()));
            self.last_tool = None;
        }
        if text.is_empty() {
            return;
        }
        self.at_line_start = text.ends_with('\n');
        *out += &match kind {
            DeltaKind::Text => text,
            DeltaKind::Reasoning => self.dim(&text),
        };
    }

    /// What of a final message is not on the screen yet.
    fn rest(&mut self, out: &mut String, message: &Message) {
        if message.info.role == "user" {
            return;
        }
        for part in &message.parts {
            match part {
                Part::Text { id, text } => self.rest_of_part(out, DeltaKind::Text, id, text),
                Part::Reasoning { id, text } => self.rest_of_part(out, DeltaKind::Reasoning, id, text),
                Part::Tool(call) => self.tool(out, call),
                Part::File { .. } => {}
            }
        }
        self.fresh_line(out);
    }

    fn rest_of_part(&mut self, out: &mut String, kind: DeltaKind, id: &str, text: &str) {
        let shown = self.parts.get(id).cloned().unwrap_or_default();
        match text.strip_prefix(shown.as_str()) {
            Some(rest) => self.piece(out, kind, id, rest),
            None if text.trim() == shown.trim() => {}
            // The harness changed its mind about the text: the final one is what counts.
            None => {
                self.fresh_line(out);
                self.parts.remove(id);
                self.piece(out, kind, id, text);
            }
        }
    }

    fn tool(&mut self, out: &mut String, call: &ToolCall) {
        let running = call.status == "running";
        let title = title(call);
        match self.tools.get(&call.id) {
            Some(ToolShown::Whole) => return,
            Some(ToolShown::Heading) if running => return,
            // Harnesses announce a call before they know its input; a heading without it says nothing.
            None if running && title.is_empty() => return,
            _ => {}
        }
        let name = clean(&call.tool);
        let heading = if title.is_empty() { name } else { format!("{name}: {title}") };
        if self.last_tool.as_ref() != Some(&call.id) {
            self.fresh_line(out);
            let mark = if running { "* " } else { "- " };
            *out += &self.bold(&format!("{mark}{heading}"));
            out.push('\n');
        }
        self.last_tool = Some(call.id.clone());
        if running {
            self.tools.insert(call.id.clone(), ToolShown::Heading);
            return;
        }
        self.tools.insert(call.id.clone(), ToolShown::Whole);
        let output = clean(call.output.as_deref().unwrap_or_default());
        let lines: Vec<&str> = output.trim_matches('\n').lines().collect();
        for line in lines.iter().take(OUTPUT_LINES) {
            *out += &self.dim(&format!("  | {}", one_line(line, LINE_WIDTH).trim_end()));
            out.push('\n');
        }
        let hidden = lines.len().saturating_sub(OUTPUT_LINES);
        if hidden > 0 {
            let noun = if hidden == 1 { "line" } else { "lines" };
            *out += &self.dim(&format!("  | … {hidden} more {noun}"));
            out.push('\n');
        }
        let verdict = if call.status == "completed" { "done" } else { &call.status };
        *out += &self.dim(&format!("  {}", clean(verdict)));
        out.push('\n');
    }

    fn note(&mut self, out: &mut String, words: &str) {
        self.fresh_line(out);
        *out += &self.bold(&format!("! {words}"));
        out.push('\n');
    }

    fn dim_line(&mut self, out: &mut String, words: &str) {
        self.fresh_line(out);
        *out += &self.dim(words);
        out.push('\n');
    }

    fn fresh_line(&mut self, out: &mut String) {
        if !self.at_line_start {
            out.push('\n');
        }
        self.at_new_line();
    }

    fn took(&mut self, turn_id: &str, ended_at: &str) -> Option<i64> {
        let started = self.started.remove(turn_id)?;
        Some(ended_at.parse::<Timestamp>().ok()?.duration_since(started).as_secs().max(0))
    }

    /// Part and call ids are unique in a session, but a long one need not keep them all.
    fn forget_turn(&mut self) {
        self.parts.clear();
        self.tools.clear();
        self.last_tool = None;
    }

    fn dim(&self, text: &str) -> String {
        self.styled(text, "2")
    }

    fn bold(&self, text: &str) -> String {
        self.styled(text, "1")
    }

    fn styled(&self, text: &str, code: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The call's title, or the most telling field of its input.
pub(crate) fn title(call: &ToolCall) -> String {
    if let Some(title) = call.title.as_deref().filter(|title| !title.trim().is_empty()) {
        return one_line(title, LINE_WIDTH);
    }
    let Value::Object(input) = &call.input else { return String::new() };
    const TELLING: [&str; 8] = ["command", "filePath", "file_path", "path", "pattern", "url", "query", "description"];
    let telling = TELLING.iter().find_map(|key| input.get(*key)?.as_str());
    telling.map(|text| one_line(text, LINE_WIDTH)).unwrap_or_default()
}

/// Tokens, cost and time of a turn.
pub(crate) fn footer(usage: &Usage, seconds: Option<i64>) -> String {
    let Usage { input_tokens, output_tokens, cached_tokens, cost_usd } = *usage;
    let mut words = format!("[{} tokens in", short_number(input_tokens));
    if cached_tokens > 0 {
        words += &format!(" ({} cached)", short_number(cached_tokens));
    }
    words += &format!(", {} out", short_number(output_tokens));
    match cost_usd {
        Some(cost) if cost > 0.0 && cost < 0.01 => words += &format!(", ${cost:.4}"),
        Some(cost) if cost > 0.0 => words += &format!(", ${cost:.2}"),
        _ => {}
    }
    match seconds {
        Some(seconds @ 0..=59) => words += &format!(", {seconds} s"),
        Some(seconds) => words += &format!(", {} min {} s", seconds / 60, seconds % 60),
        None => {}
    }
    words + "]"
}

#[cfg(test)]
mod tests;
