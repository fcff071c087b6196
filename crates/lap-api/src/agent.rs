//! Agents on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A stored blueprint of sessions. Every field is always present; lists are never null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    pub id: String,
    /// Label; need not be unique.
    pub name: Option<String>,
    /// As the gateway names it, such as `anthropic/claude-opus-4-7`.
    pub model: String,
    /// System prompt.
    pub prompt: Option<String>,
    pub harness_id: String,
    /// True for harnesses whose main face is a terminal.
    pub supports_tui: bool,
    /// Cloned to `/work/repo`; null: that folder is empty.
    pub repo_url: Option<String>,
    pub branch: String,
    /// URLs.
    pub mcp_servers: Vec<String>,
    /// Secret values are [`crate::MASK`], plain ones as they are.
    pub env_vars: BTreeMap<String, String>,
    /// Where each credential may go, by its key: `host`, `*.suffix`, `:port`, `#body` ….
    pub env_var_hosts: BTreeMap<String, Vec<String>>,
    /// Keys of `env_vars` whose values are no secrets.
    pub plain_env_vars: Vec<String>,
    /// In the order in which they were attached.
    pub attached_skill_ids: Vec<String>,
    /// What sandboxes may reach; empty: everything that `deny_out` does not name.
    pub allow_out: Vec<String>,
    /// Wins over `allow_out`.
    pub deny_out: Vec<String>,
    pub sandbox_files: Vec<SandboxFile>,
    /// Headers by URL of the MCP server; `${KEY}` in a value becomes the stub of that variable.
    pub mcp_headers: BTreeMap<String, BTreeMap<String, String>>,
    /// `bypass`, `ask` or `deny`.
    pub permission_mode: String,
    /// Null: the platform's default for the harness.
    pub image: Option<String>,
    /// pip requirements text.
    pub requirements: Option<String>,
    /// How many tokens, in and out together, the model calls of all its sessions may use; null: no limit.
    pub max_tokens: Option<u64>,
    /// How many US dollars they may cost.
    pub max_cost_usd: Option<f64>,
    /// What the model calls of all its sessions used, by the vaults' meters.
    pub usage: crate::usage::Usage,
    pub warnings: Vec<Warning>,
    pub created_at: String,
    pub updated_at: String,
    /// Only in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_count: Option<u64>,
    /// Only in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_active_session: Option<bool>,
}

/// A file written into every sandbox at session start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxFile {
    pub name: String,
    /// Absolute or `~/…`.
    pub sandbox_path: String,
    /// Base64; left out in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(default = "octet_stream")]
    pub content_type: String,
    /// Length of the decoded content in bytes.
    pub size: u64,
}

fn octet_stream() -> String {
    "application/octet-stream".to_owned()
}

/// Something an operator should know about an agent that is not an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Stable code such as `unbound_credential`.
    pub code: String,
    pub message: String,
    /// The keys or entries it speaks of.
    pub keys: Vec<String>,
}

/// Body of agent creation; fields as in [`Agent`], what is absent has its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreateAgent {
    pub name: Option<String>,
    pub model: Option<String>,
    pub prompt: Option<String>,
    pub harness_id: Option<String>,
    pub repo_url: Option<String>,
    pub branch: Option<String>,
    pub mcp_servers: Vec<String>,
    pub env_vars: BTreeMap<String, String>,
    pub env_var_hosts: BTreeMap<String, Vec<String>>,
    pub plain_env_vars: Vec<String>,
    pub allow_out: Vec<String>,
    pub deny_out: Vec<String>,
    pub sandbox_files: Vec<SandboxFile>,
    pub mcp_headers: BTreeMap<String, BTreeMap<String, String>>,
    pub permission_mode: Option<String>,
    pub image: Option<String>,
    pub requirements: Option<String>,
    pub max_tokens: Option<u64>,
    pub max_cost_usd: Option<f64>,
    pub skill_ids: Vec<String>,
}

/// Body of an agent edit: what is absent stays; what can be null is cleared by null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PatchAgent {
    #[serde(with = "crate::double", skip_serializing_if = "Option::is_none")]
    pub name: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(with = "crate::double", skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Option<String>>,
    #[serde(with = "crate::double", skip_serializing_if = "Option::is_none")]
    pub repo_url: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcp_servers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_var_hosts: Option<BTreeMap<String, Vec<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain_env_vars: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_out: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_out: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_files: Option<Vec<SandboxFile>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcp_headers: Option<BTreeMap<String, BTreeMap<String, String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<String>,
    #[serde(with = "crate::double", skip_serializing_if = "Option::is_none")]
    pub image: Option<Option<String>>,
    #[serde(with = "crate::double", skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Option<String>>,
    #[serde(with = "crate::double", skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<Option<u64>>,
    #[serde(with = "crate::double", skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<Option<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skill_ids: Option<Vec<String>>,
}
