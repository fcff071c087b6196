//! Agents: stored blueprints of sessions.

use std::collections::BTreeMap;

use crate::files::SandboxFile;
use crate::ids::{AgentId, SkillId};
use crate::secret::Secret;
use crate::time::Timestamp;

/// A stored blueprint. Everything in it has passed validation.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    pub id: AgentId,
    pub name: Option<String>,
    /// LiteLLM model string.
    pub model: String,
    pub prompt: Option<String>,
    pub harness_id: String,
    /// https (or http) git URL; none: an empty `/work/repo`.
    pub repo_url: Option<String>,
    pub branch: String,
    pub mcp_servers: Vec<String>,
    pub mcp_headers: BTreeMap<String, BTreeMap<String, String>>,
    /// Plain and secret values alike are kept as secrets until they are shown.
    pub env_vars: BTreeMap<String, Secret>,
    pub plain_env_vars: Vec<String>,
    pub env_var_hosts: BTreeMap<String, Vec<String>>,
    pub attached_skill_ids: Vec<SkillId>,
    pub allow_out: Vec<String>,
    pub deny_out: Vec<String>,
    pub sandbox_files: Vec<SandboxFile>,
    pub permission_mode: PermissionMode,
    pub image: Option<String>,
    pub requirements: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What happens when the harness wants to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PermissionMode {
    /// It acts: the sandbox is the boundary.
    #[default]
    Bypass,
    /// It asks first.
    Ask,
    /// It may not.
    Deny,
}

impl PermissionMode {
    /// As it stands in answers and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }

    /// The reverse of [`PermissionMode::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Bypass, Self::Ask, Self::Deny].into_iter().find(|mode| mode.as_str() == text)
    }
}
