//! One turn as opencode's events tell it: what to report and when it is over. Pure: no I/O, time is an argument.
//!
//! opencode says `idle` once too early when a turn fails or is aborted, and again when the message is really final. So a
//! turn is over at the first `idle` that finds its user message known and none of its answers unfinished.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lap_api::event::DeltaKind;
use lap_api::link::Report;
use lap_api::message::{Message, MessageInfo, ToolCall};
use lap_api::session::Usage;
use serde_json::Value;

use super::wire::{Delta, Event, Info, PartInfo, Permission, Problem, SessionError, Status, Tokens, ToolState};
use crate::clip;
use crate::harness::answer::{Block, gateway_failure, named, parts, short};
use crate::harness::{ABORTED, HARNESS_FAILED, time};

/// opencode repeats a failed model call for ever, with pauses of 2, 4, 8, 16, 30 … s; after so many failures the turn
/// fails, and a person learns why.
const FAILED_CALLS: u32 = 5;

/// A running tool's output is reported at most this often.
const TOOL_PAUSE: Duration = Duration::from_millis(500);

/// How a turn ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Completed { message: Box<Message>, usage: Usage },
    Failed { code: &'static str, error: String },
}

/// What one event led to.
#[derive(Default)]
pub(super) struct Step {
    pub(super) reports: Vec<Report>,
    pub(super) outcome: Option<Outcome>,
    /// opencode would go on trying without an end: it is to be stopped.
    pub(super) give_up: bool,
}

/// A turn as far as it has come.
pub(super) struct Progress {
    turn_id: String,
    session_id: String,
    user_message: String,
    model: String,
    /// opencode has the user message; an `idle` before that is another turn's.
    known: bool,
    /// It began to work on it.
    began: bool,
    aborted: bool,
    problem: Option<String>,
    answers: Vec<Answer>,
    /// Tokens of every answer, those of subagents' sessions included.
    spent: BTreeMap<String, (Tokens, f64)>,
}

/// One utterance of the agent.
struct Answer {
    id: String,
    created_ms: i64,
    completed: bool,
    /// The model came to its end; false when it was stopped.
    finished: bool,
    error: Option<String>,
    parts: Vec<Block>,
    /// When each running tool was last reported.
    reported: BTreeMap<String, Instant>,
}

impl Progress {
    pub(super) fn new(turn_id: &str, session_id: &str, model: &str, user_message: String) -> Self {
        Self {
            turn_id: turn_id.to_owned(),
            session_id: session_id.to_owned(),
            user_message,
            model: model.to_owned(),
            known: false,
            began: false,
            aborted: false,
            problem: None,
            answers: Vec::new(),
            spent: BTreeMap::new(),
        }
    }

    pub(super) fn turn_id(&self) -> &str {
        &self.turn_id
    }

    /// The id the user message is sent with.
    pub(super) fn user_message(&self) -> &str {
        &self.user_message
    }

    /// Somebody asked for the turn's end.
    pub(super) fn abort(&mut self) {
        self.aborted = true;
    }

    /// Whether opencode begins something with this event that an earlier abort cannot have reached.
    pub(super) fn is_beginning(&self, event: &Event) -> bool {
        match event {
            Event::Status(Status { session_id, status }) => *session_id == self.session_id && status.kind == "busy",
            Event::Message(info) => self.owns(info) && info.time.completed.is_none() && self.answer(&info.id).is_none(),
            _ => false,
        }
    }

    /// Takes one event.
    pub(super) fn apply(&mut self, event: Event, now: Instant) -> Step {
        let mut step = Step::default();
        match event {
            Event::Message(info) => self.message(*info, &mut step),
            Event::Part(part) => self.part(*part, now, &mut step),
            Event::Delta(delta) => self.delta(delta, &mut step),
            Event::Status(status) => self.status(status, &mut step),
            Event::Error(SessionError { session_id: Some(id), error: Some(problem) })
                if id == self.session_id && self.known =>
            {
                self.problem.get_or_insert_with(|| sentence(&problem, &self.model));
            }
            Event::Error(_) => {}
            Event::Permission(permission) => step.reports.push(self.permission(*permission)),
            Event::Idle { session_id } if session_id == self.session_id => step.outcome = self.idle(),
            Event::Idle { .. } => {}
        }
        step
    }

    /// The turn ends from outside: what has come so far becomes final, with the reason in it.
    pub(super) fn leave(&mut self, error: &str) -> Vec<Report> {
        let open: Vec<usize> = (0..self.answers.len()).filter(|at| !self.answers[*at].completed).collect();
        open.into_iter()
            .filter_map(|at| {
                self.answers[at].completed = true;
                self.completed(at, Some(error.to_owned()))
            })
            .collect()
    }

    /// Whether this is an answer to the turn's message, or to one that opencode put after it: it does so when it shortens
    /// a long conversation in the middle of a turn. Its ids rise with time.
    fn owns(&self, info: &Info) -> bool {
        let mine = |parent: &str| parent == self.user_message || (self.known && parent > self.user_message.as_str());
        info.session_id == self.session_id && info.parent_id.as_deref().is_some_and(mine)
    }

    fn answer(&self, id: &str) -> Option<usize> {
        self.answers.iter().position(|answer| answer.id == id)
    }

    fn message(&mut self, info: Info, step: &mut Step) {
        if info.session_id != self.session_id {
            // A subagent's; its words stay inside opencode, its tokens count.
            if self.began && info.role == "assistant" {
                self.spend(&info);
            }
            return;
        }
        if info.id == self.user_message {
            self.known = true;
        }
        if !self.owns(&info) || info.role != "assistant" {
            return;
        }
        self.known = true;
        self.began = true;
        self.spend(&info);
        if info.summary == Value::Bool(true) {
            return;
        }
        let at = self.answer(&info.id).unwrap_or_else(|| {
            self.answers.push(Answer {
                id: info.id.clone(),
                created_ms: info.time.created as i64,
                completed: false,
                finished: false,
                error: None,
                parts: Vec::new(),
                reported: BTreeMap::new(),
            });
            self.answers.len() - 1
        });
        self.answers[at].finished |= info.finish.is_some();
        if info.time.completed.is_some() && !self.answers[at].completed {
            self.answers[at].completed = true;
            let error = info.error.as_ref().map(|problem| sentence(problem, &self.model));
            let error = if self.aborted && !self.answers[at].finished { Some(ABORTED.to_owned()) } else { error };
            self.answers[at].error.clone_from(&error);
            step.reports.extend(self.completed(at, error));
        }
    }

    fn spend(&mut self, info: &Info) {
        if let Some(tokens) = &info.tokens {
            self.spent.insert(info.id.clone(), (tokens.clone(), info.cost.unwrap_or_default()));
        }
    }

    fn part(&mut self, part: PartInfo, now: Instant, step: &mut Step) {
        let Some(at) = self.answer(&part.message_id).filter(|_| part.session_id == self.session_id) else { return };
        let turn_id = self.turn_id.clone();
        let Answer { parts, reported, .. } = &mut self.answers[at];
        match part.kind.as_str() {
            "text" | "reasoning" => {
                let kind = if part.kind == "text" { DeltaKind::Text } else { DeltaKind::Reasoning };
                let full = part.text.unwrap_or_default();
                let known = parts.iter_mut().find_map(|block| match block {
                    Block::Words { id, text, .. } if *id == part.id => Some(text),
                    _ => None,
                });
                let missing = match known {
                    Some(text) => {
                        let missing = full.strip_prefix(text.as_str()).unwrap_or_default().to_owned();
                        if !full.is_empty() {
                            *text = full;
                        }
                        missing
                    }
                    None => {
                        parts.push(Block::Words { id: part.id.clone(), kind, text: full.clone() });
                        full
                    }
                };
                // Providers without streaming give the words only here.
                if !missing.is_empty() {
                    step.reports.push(Report::Delta { turn_id, part_id: part.id, kind, delta: missing });
                }
            }
            "tool" => {
                let Some(call) = tool_call(part.id, part.tool.unwrap_or_default(), part.state.unwrap_or_default())
                else {
                    return;
                };
                let known = parts.iter_mut().find_map(|block| match block {
                    Block::Tool(known) if known.id == call.id => Some(known),
                    _ => None,
                });
                let report = match known {
                    Some(known) => {
                        let recent = reported.get(&call.id).is_some_and(|at| now.duration_since(*at) < TOOL_PAUSE);
                        let due = call.status != known.status || !recent;
                        known.clone_from(&call);
                        due
                    }
                    None => {
                        parts.push(Block::Tool(call.clone()));
                        true
                    }
                };
                if report {
                    reported.insert(call.id.clone(), now);
                    step.reports.push(Report::Tool { turn_id, call });
                }
            }
            _ => {}
        }
    }

    fn delta(&mut self, delta: Delta, step: &mut Step) {
        let Some(at) = self.answer(&delta.message_id).filter(|_| delta.field == "text") else { return };
        for block in &mut self.answers[at].parts {
            if let Block::Words { id, kind, text } = block
                && *id == delta.part_id
                && !delta.delta.is_empty()
            {
                text.push_str(&delta.delta);
                let (part_id, kind) = (delta.part_id, *kind);
                let turn_id = self.turn_id.clone();
                step.reports.push(Report::Delta { turn_id, part_id, kind, delta: delta.delta });
                return;
            }
        }
    }

    fn status(&mut self, Status { session_id, status }: Status, step: &mut Step) {
        if session_id != self.session_id || !self.known {
            return;
        }
        match status.kind.as_str() {
            "busy" => self.began = true,
            "retry" if status.attempt >= FAILED_CALLS && !self.aborted => {
                let words = status.message.unwrap_or_else(|| "no reason was given".to_owned());
                self.problem =
                    Some(format!("the model gateway failed {} times in a row: {}", status.attempt, short(&words)));
                step.give_up = true;
            }
            _ => {}
        }
    }

    fn idle(&self) -> Option<Outcome> {
        let aborted = || Some(Outcome::Failed { code: ABORTED, error: "the turn was aborted".to_owned() });
        let failed = |error: &String| Some(Outcome::Failed { code: HARNESS_FAILED, error: error.clone() });
        if !self.known || self.answers.iter().any(|answer| !answer.completed) {
            return None;
        }
        let Some(at) = self.answers.len().checked_sub(1) else {
            return match &self.problem {
                // An abort that came before the work is answered with an idle, and then the work begins.
                _ if self.aborted && self.began => aborted(),
                Some(error) if !self.aborted => failed(error),
                _ => None,
            };
        };
        let last = &self.answers[at];
        match (&last.error, &self.problem) {
            (Some(error), _) if error == ABORTED => aborted(),
            (Some(error), _) => failed(error),
            (None, _) if last.finished => {
                let message = Box::new(self.show(at, None));
                Some(Outcome::Completed { message, usage: self.usage() })
            }
            (None, Some(error)) => failed(error),
            (None, None) if self.aborted => aborted(),
            (None, None) => failed(&"opencode ended the turn without an answer".to_owned()),
        }
    }

    /// The report of a final utterance; one without any content is not worth one.
    fn completed(&self, at: usize, error: Option<String>) -> Option<Report> {
        let message = self.show(at, error);
        (!message.parts.is_empty()).then(|| Report::MessageCompleted { turn_id: self.turn_id.clone(), message })
    }

    /// An utterance for the API, cut to a size that can travel.
    fn show(&self, at: usize, error: Option<String>) -> Message {
        let answer = &self.answers[at];
        Message {
            parts: parts(answer.parts.iter()),
            info: MessageInfo {
                id: answer.id.clone(),
                turn_id: self.turn_id.clone(),
                role: "assistant".to_owned(),
                created_at: time(answer.created_ms),
                model: Some(self.model.clone()),
                usage: self.spent.get(&answer.id).map(|one| usage([one])),
                error,
            },
        }
    }

    fn usage(&self) -> Usage {
        usage(self.spent.values())
    }

    fn permission(&self, permission: Permission) -> Report {
        let Permission { id, permission, patterns, mut metadata } = permission;
        let what = match metadata.get("command").and_then(Value::as_str) {
            Some(command) => command.to_owned(),
            None => patterns.join(", "),
        };
        clip::value(&mut metadata, clip::TEXT_BYTES);
        Report::PermissionRequested {
            turn_id: self.turn_id.clone(),
            request_id: id,
            title: short(&format!("{permission}: {what}")),
            input: metadata,
        }
    }
}

fn usage<'a>(spent: impl IntoIterator<Item = &'a (Tokens, f64)>) -> Usage {
    let mut sum = Usage::default();
    for (tokens, cost) in spent {
        sum.input_tokens += (tokens.input + tokens.cache.write) as u64;
        sum.output_tokens += (tokens.output + tokens.reasoning) as u64;
        sum.cached_tokens += tokens.cache.read as u64;
        // opencode knows no price of a gateway's model and says 0 then.
        if *cost > 0.0 {
            sum.cost_usd = Some(sum.cost_usd.unwrap_or_default() + cost);
        }
    }
    sum
}

/// A tool call for the API; `None` while its input is still being written.
fn tool_call(id: String, tool: String, state: ToolState) -> Option<ToolCall> {
    let ToolState { status, mut input, title, output, error, metadata } = state;
    let live = || metadata.as_ref()?.get("output")?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let (status, output) = match status.as_str() {
        "running" => ("running", live().map(|text| clip::tail(&text, clip::RUNNING_BYTES))),
        "completed" => ("completed", output.map(|text| clip::head(&text, clip::TEXT_BYTES))),
        "error" => ("failed", error.map(|text| clip::head(&text, clip::TEXT_BYTES))),
        _ => return None,
    };
    let title = title.filter(|title| !title.is_empty()).or_else(|| named(&input)).map(|title| short(&title));
    clip::value(&mut input, clip::TEXT_BYTES);
    Some(ToolCall { id, tool, status: status.to_owned(), title, input, output })
}

/// An error of opencode or its model as a sentence.
fn sentence(problem: &Problem, model: &str) -> String {
    let Problem { name, data } = problem;
    let words = short(data.get("message").and_then(Value::as_str).unwrap_or(name));
    let blocked = data.get("responseHeaders").and_then(|headers| headers.get("x-lap-blocked")).and_then(Value::as_str);
    let status = data.get("statusCode").and_then(Value::as_u64);
    match (name.as_str(), blocked, status) {
        ("MessageAbortedError", ..) => ABORTED.to_owned(),
        (_, Some(code), _) => format!("the vault refused the call of the model ({code}): {words}"),
        ("ProviderAuthError", ..) => gateway_failure(Some(401), &words, model),
        (_, _, Some(_)) | ("APIError", ..) => gateway_failure(status, &words, model),
        ("MessageOutputLengthError", ..) => "the answer was longer than the model may write".to_owned(),
        _ => format!("opencode failed: {words}"),
    }
}

#[cfg(test)]
mod tests;
