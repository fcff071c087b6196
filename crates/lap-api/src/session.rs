//! Sessions on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::message::Attachment;

/// One run of an agent in one sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub id: String,
    pub agent_id: String,
    pub title: Option<String>,
    /// `creating`, `ready`, `failed` or `dead`.
    pub status: String,
    /// Progress while creating; the last one reached otherwise.
    pub phase: Option<String>,
    /// What exactly is being done in this phase.
    pub phase_detail: Option<String>,
    /// Only when `failed`: a sentence a person can act on.
    pub failure_reason: Option<String>,
    /// Only when `dead`: `idle`, `stopped`, `agent_deleted`, `sandbox_lost` or `oom`.
    pub end_reason: Option<String>,
    pub supports_tui: bool,
    /// How the session can be spoken to: `messages`, `terminal`.
    pub faces: Vec<String>,
    /// Always null: sandboxes cannot be reached from outside.
    pub sandbox_url: Option<String>,
    /// The harness's own id of the conversation.
    pub harness_session_id: Option<String>,
    /// What was asked for until the clone is done, then what was cloned.
    pub branch: Option<String>,
    /// Commit that was cloned.
    pub commit: Option<String>,
    /// WebSocket of the terminal; null where there is none.
    pub tty_url: Option<String>,
    /// Short-lived, for `tty_url` alone; null where there is none.
    pub tty_token: Option<String>,
    /// The reply to `initial_prompt`, once there is one.
    pub response: Option<String>,
    pub created_at: String,
    /// Newest activity; the idle timeout counts from here.
    pub last_seen_at: String,
    pub idle_timeout_ms: u64,
    /// First words of the first message.
    pub title_preview: Option<String>,
    /// What its model calls used, by the vault's meter.
    pub usage: crate::usage::Usage,
    /// How many tokens, in and out together, its model calls may use; null: no limit of its own.
    pub max_tokens: Option<u64>,
    /// How many US dollars its model calls may cost.
    pub max_cost_usd: Option<f64>,
    pub egress: SessionEgress,
}

/// The lists a session's sandbox lives by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEgress {
    /// When not empty, everything else is closed.
    pub allow_out: Vec<String>,
    /// Wins over `allow_out`.
    pub deny_out: Vec<String>,
    /// False while the sandbox's vault has not confirmed them: it may still live by those before.
    pub in_force: bool,
}

/// Tokens and cost of a turn or message, as its harness tells them. What counts is metered by the vault, see
/// [`crate::usage`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Everything the model read, from a cache or not.
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Input tokens that came from the provider's cache.
    pub cached_tokens: u64,
    /// In US dollars, where the gateway or harness reports it.
    pub cost_usd: Option<f64>,
}

/// Body of session creation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreateSession {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_prompt: Option<String>,
    pub initial_attachments: Vec<Attachment>,
    pub env_vars: BTreeMap<String, String>,
    pub plain_env_vars: Vec<String>,
    pub env_var_hosts: BTreeMap<String, Vec<String>>,
    pub skill_ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Instead of the agent's.
    pub branch: Option<String>,
    /// For this session alone, beside the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<f64>,
}

/// Body of a session edit: what is absent stays, null takes it away.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PatchSession {
    #[serde(with = "crate::double", skip_serializing_if = "Option::is_none")]
    pub title: Option<Option<String>>,
    #[serde(with = "crate::double", skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<Option<u64>>,
    #[serde(with = "crate::double", skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<Option<f64>>,
}

/// Body of a change of a live session's lists. A list that is given replaces the one before; one that is not stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PatchEgress {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_out: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_out: Option<Vec<String>>,
}

/// Body of the answer to a permission request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerPermission {
    pub decision: PermissionDecision,
}

/// What may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PermissionDecision {
    /// This once.
    Allow,
    /// This and everything like it in this session.
    AllowAlways,
    /// No.
    Deny,
}

/// One line of the egress record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interception {
    /// Position in the session's record, from 1.
    pub id: u64,
    pub at: String,
    pub method: String,
    /// `host:port` as the sandbox meant it.
    pub host: String,
    /// As the sandbox sent it, query values redacted.
    pub path: String,
    /// Status the sandbox saw; null for tunnels refused before there was a request.
    pub status: Option<u16>,
    /// Bytes sent by the sandbox.
    pub bytes_out: u64,
    /// Bytes sent to the sandbox.
    pub bytes_in: u64,
    pub duration_ms: u64,
    /// Names of the credentials swapped in; never values.
    pub credentials: Vec<String>,
    /// `allowed`, or the code of the refusal.
    pub verdict: String,
    /// Why it was refused, in words.
    pub detail: Option<String>,
}
