//! From what a sandbox says to what is stored. Pure. The guest is not trusted: unknown phases are dropped, and the store
//! ignores moves and turns that are not legal.

use lap_api::event::EventKind;
use lap_api::link::{EgressLine, LogEntry, Report};
use lap_domain::ids::TurnId;
use lap_domain::session::{EndReason, Phase, SessionEvent};
use lap_store::{EgressLine as StoredEgress, Write};

use crate::events::body;

/// Longest text of the guest's that becomes a field of its session.
const MAX_FIELD_BYTES: usize = 4096;

/// The writes of one entry, in order.
pub fn writes(entry: LogEntry, sandbox_ended: impl Fn(bool) -> SessionEvent) -> Vec<Write> {
    match entry {
        LogEntry::Guest(report) => from_report(report),
        LogEntry::Egress(line) => from_egress(line),
        LogEntry::Metered(metered) => vec![crate::budget::metered(metered)],
        LogEntry::Booted => Vec::new(),
        LogEntry::EgressInForce { revision } => vec![Write::EgressInForce { revision }],
        LogEntry::Limit { limit, detail } => vec![Write::Event(body(&EventKind::SandboxLimit { limit, detail }))],
        LogEntry::SandboxExited { detail, oom } => {
            let error = EventKind::Error { code: "sandbox_exited".into(), error: detail };
            vec![Write::Event(body(&error)), Write::Move(sandbox_ended(oom))]
        }
    }
}

/// What the end of a sandbox does to its session: bring-up fails, a ready session is over.
pub fn sandbox_ended(creating: bool, oom: bool) -> SessionEvent {
    match (creating, oom) {
        (true, false) => SessionEvent::BootFailed {
            reason: "the sandbox ended while it was being set up; `lap logs --sandbox` shows its last lines".into(),
        },
        (true, true) => SessionEvent::BootFailed {
            reason: "the sandbox ran out of memory while it was being set up; raise LAP_SANDBOX_MEMORY".into(),
        },
        (false, false) => SessionEvent::End { reason: EndReason::SandboxLost },
        (false, true) => SessionEvent::End { reason: EndReason::Oom },
    }
}

fn from_report(report: Report) -> Vec<Write> {
    match report {
        Report::Phase { phase, detail } => match Phase::parse(&phase) {
            Some(phase) => vec![Write::Phase { phase, detail: detail.map(clipped) }],
            None => Vec::new(),
        },
        Report::CloneDone { branch, commit } => {
            vec![Write::Repo { branch: branch.map(clipped), commit: commit.map(clipped) }]
        }
        Report::Ready => vec![Write::Move(SessionEvent::GuestReady)],
        Report::Conversation { harness_session_id } => vec![Write::HarnessSession { id: clipped(harness_session_id) }],
        Report::BootFailed { code, reason } => {
            let reason = clipped(format!("{code}: {reason}"));
            vec![Write::Move(SessionEvent::BootFailed { reason })]
        }
        Report::TurnStarted { turn_id } => turn_event(&turn_id, &EventKind::TurnStarted { turn_id: turn_id.clone() }),
        Report::Delta { turn_id, part_id, kind, delta } => {
            turn_event(&turn_id, &EventKind::MessageDelta { turn_id: turn_id.clone(), part_id, kind, delta })
        }
        Report::Tool { turn_id, call } => turn_event(&turn_id, &EventKind::Tool { turn_id: turn_id.clone(), call }),
        Report::PermissionRequested { turn_id, request_id, title, input } => {
            let asked = EventKind::PermissionRequested { turn_id: turn_id.clone(), request_id, title, input };
            turn_event(&turn_id, &asked)
        }
        Report::MessageCompleted { turn_id, message } => vec![Write::Message {
            turn_id: TurnId::new(turn_id.clone()),
            id: message.info.id.clone(),
            role: message.info.role.clone(),
            data: json(&message),
            event: body(&EventKind::MessageCompleted { turn_id, message }),
        }],
        Report::TurnCompleted { turn_id, message, usage } => vec![Write::TurnCompleted {
            turn_id: TurnId::new(turn_id.clone()),
            answer: json(&message),
            text: text_of(&message),
            event: body(&EventKind::TurnCompleted { turn_id, message, usage }),
        }],
        Report::TurnFailed { turn_id, code, error } => vec![Write::TurnFailed {
            turn_id: TurnId::new(turn_id.clone()),
            code: code.clone(),
            error: error.clone(),
            event: body(&EventKind::TurnFailed { turn_id, code, error }),
        }],
        Report::HarnessExited { detail, restarting } => {
            let end = if restarting { "it is being started again" } else { "it will not be started again" };
            let error = format!("the harness ended unasked ({detail}); {end}");
            vec![Write::Event(body(&EventKind::Error { code: "harness_exited".into(), error }))]
        }
    }
}

/// What becomes a field of the session is shown in every list of sessions; the guest decides its text, not its length.
fn clipped(mut text: String) -> String {
    if text.len() > MAX_FIELD_BYTES {
        let end = (0..=MAX_FIELD_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

fn from_egress(line: EgressLine) -> Vec<Write> {
    let refused = (line.verdict != "allowed").then(|| {
        let detail = line.detail.clone().unwrap_or_default();
        Write::Event(body(&EventKind::EgressRefused { host: line.host.clone(), code: line.verdict.clone(), detail }))
    });
    let EgressLine { method, host, path, status, bytes_out, bytes_in, duration_ms, credentials, verdict, detail } =
        line;
    let stored =
        StoredEgress { method, host, path, status, bytes_out, bytes_in, duration_ms, credentials, verdict, detail };
    [Write::Egress(stored)].into_iter().chain(refused).collect()
}

fn turn_event(turn_id: &str, kind: &EventKind) -> Vec<Write> {
    vec![Write::TurnEvent { turn_id: TurnId::new(turn_id), event: body(kind) }]
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("wire types are plain data with string keys")
}

/// The words of an answer, without tools and thinking.
fn text_of(message: &lap_api::message::Message) -> String {
    let words = message.parts.iter().filter_map(|part| match part {
        lap_api::message::Part::Text { text, .. } => Some(text.as_str()),
        _ => None,
    });
    words.collect::<Vec<_>>().join("\n")
}
