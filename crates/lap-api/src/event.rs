//! The session's append-only log as clients read it.

use serde::{Deserialize, Serialize};

use crate::message::{Message, ToolCall};
use crate::session::Usage;

/// One numbered, immutable fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the session's log, from 1, never reused.
    pub id: u64,
    pub session_id: String,
    pub at: String,
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened. `type` names it and `data` holds its fields; unknown types are to be skipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum EventKind {
    /// The session moved to another state.
    #[serde(rename = "session.state")]
    SessionState {
        status: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure_reason: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end_reason: Option<String>,
    },
    /// Bring-up reached a phase.
    #[serde(rename = "session.phase")]
    SessionPhase {
        phase: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// A user message was accepted and waits for its turn.
    #[serde(rename = "turn.queued")]
    TurnQueued { turn_id: String, message: Message },
    /// The harness has the message.
    #[serde(rename = "turn.started")]
    TurnStarted { turn_id: String },
    /// A piece of the answer, to be appended to part `part_id`.
    #[serde(rename = "message.delta")]
    MessageDelta { turn_id: String, part_id: String, kind: DeltaKind, delta: String },
    /// A tool call began, went on or ended; the newest replaces the older ones.
    #[serde(rename = "tool")]
    Tool { turn_id: String, call: ToolCall },
    /// The harness asks before it acts.
    #[serde(rename = "permission.requested")]
    PermissionRequested { turn_id: String, request_id: String, title: String, input: serde_json::Value },
    /// Somebody answered.
    #[serde(rename = "permission.answered")]
    PermissionAnswered { request_id: String, decision: String },
    /// An utterance of the agent is final.
    #[serde(rename = "message.completed")]
    MessageCompleted { turn_id: String, message: Message },
    /// The turn is over; `message` is the answer that the synchronous call returns.
    #[serde(rename = "turn.completed")]
    TurnCompleted { turn_id: String, message: Message, usage: Usage },
    /// The turn ended without an answer.
    #[serde(rename = "turn.failed")]
    TurnFailed { turn_id: String, code: String, error: String },
    /// The vault refused a request.
    #[serde(rename = "egress.refused")]
    EgressRefused { host: String, code: String, detail: String },
    /// A credential that the platform makes itself was made anew; the sandbox goes on with the same stub.
    #[serde(rename = "credential.renewed")]
    CredentialRenewed { name: String, expires_at: String },
    /// A credential that the platform makes itself could not be made; for a live session it is tried again.
    #[serde(rename = "credential.failed")]
    CredentialFailed { name: String, reason: String },
    /// The session's lists were changed, and its vault lives by these now.
    #[serde(rename = "egress.changed")]
    EgressChanged { allow_out: Vec<String>, deny_out: Vec<String>, revision: u64 },
    /// A limit of the sandbox was hit.
    #[serde(rename = "sandbox.limit")]
    SandboxLimit { limit: String, detail: String },
    /// Something went wrong that did not end the session.
    #[serde(rename = "error")]
    Error { code: String, error: String },
}

/// What a delta belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeltaKind {
    /// The answer itself.
    Text,
    /// Thinking.
    Reasoning,
}
