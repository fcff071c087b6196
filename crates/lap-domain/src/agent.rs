//! Agents: stored blueprints of sessions.

use std::collections::BTreeMap;

use crate::budget::{Budget, BudgetEdit};
use crate::catalogue;
use crate::credential::{self, Binding, HostRule, Scope};
use crate::egress::{self, Entry};
use crate::env_vars::{self, Vars};
use crate::files::{self, NewFile, SandboxFile};
use crate::ids::{AgentId, SkillId};
use crate::problem::Problem;
use crate::secret::Secret;
use crate::time::Timestamp;
use crate::url::HttpUrl;

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
    /// For all its sessions together.
    pub budget: Budget,
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

impl Agent {
    /// Its variables.
    pub fn vars(&self) -> Vars<'_> {
        Vars { env_vars: &self.env_vars, plain_env_vars: &self.plain_env_vars, env_var_hosts: &self.env_var_hosts }
    }
}

/// An agent as it was asked for: what is absent gets its default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewAgent {
    pub name: Option<String>,
    pub model: Option<String>,
    pub prompt: Option<String>,
    pub harness_id: Option<String>,
    pub repo_url: Option<String>,
    pub branch: Option<String>,
    pub mcp_servers: Vec<String>,
    pub mcp_headers: BTreeMap<String, BTreeMap<String, String>>,
    pub env_vars: BTreeMap<String, Secret>,
    pub plain_env_vars: Vec<String>,
    pub env_var_hosts: BTreeMap<String, Vec<String>>,
    pub skill_ids: Vec<SkillId>,
    pub allow_out: Vec<String>,
    pub deny_out: Vec<String>,
    pub sandbox_files: Vec<NewFile>,
    pub permission_mode: Option<String>,
    pub image: Option<String>,
    pub requirements: Option<String>,
    pub budget: Budget,
}

/// A change of an agent: what is absent stays, the inner `None` clears.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentEdit {
    pub name: Option<Option<String>>,
    pub model: Option<String>,
    pub prompt: Option<Option<String>>,
    pub repo_url: Option<Option<String>>,
    pub branch: Option<String>,
    pub mcp_servers: Option<Vec<String>>,
    pub mcp_headers: Option<BTreeMap<String, BTreeMap<String, String>>>,
    /// Replaces the whole map; a value that is the mask keeps the stored one.
    pub env_vars: Option<BTreeMap<String, Secret>>,
    pub plain_env_vars: Option<Vec<String>>,
    pub env_var_hosts: Option<BTreeMap<String, Vec<String>>>,
    pub skill_ids: Option<Vec<SkillId>>,
    pub allow_out: Option<Vec<String>>,
    pub deny_out: Option<Vec<String>>,
    pub sandbox_files: Option<Vec<NewFile>>,
    pub permission_mode: Option<String>,
    pub image: Option<Option<String>>,
    pub requirements: Option<Option<String>>,
    pub budget: BudgetEdit,
}

/// Something an operator should know about an agent that is not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Stable word for programs.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
    /// The keys or entries it speaks of.
    pub keys: Vec<String>,
}

/// The harness of an agent that names none.
pub const DEFAULT_HARNESS: &str = "opencode";

/// The branch of an agent that names none.
pub const DEFAULT_BRANCH: &str = "main";

/// Longest name of an agent, in characters.
pub const MAX_NAME_CHARS: usize = 255;

/// Longest system prompt.
pub const MAX_PROMPT_BYTES: usize = 1024 * 1024;

/// Longest requirements text.
pub const MAX_REQUIREMENTS_BYTES: usize = 256 * 1024;

/// How many MCP servers, skills, and headers of one server there may be.
pub const MAX_ITEMS: usize = 50;

/// Shorter secrets are found by accident in harmless text, so responses are not scrubbed of them.
pub const SHORT_SECRET_BYTES: usize = 8;

/// Makes an agent of what was asked for, or says everything that is wrong with it.
pub fn create(new: NewAgent, id: AgentId, harnesses: &[&str], now: Timestamp) -> Result<Agent, Vec<Problem>> {
    let NewAgent {
        name,
        model,
        prompt,
        harness_id,
        repo_url,
        branch,
        mcp_servers,
        mcp_headers,
        env_vars,
        plain_env_vars,
        env_var_hosts,
        skill_ids,
        allow_out,
        deny_out,
        sandbox_files,
        permission_mode,
        image,
        requirements,
        budget,
    } = new;
    let mut problems = Vec::new();
    let harness_id = harness_id.unwrap_or_else(|| DEFAULT_HARNESS.to_owned());
    if !harnesses.contains(&harness_id.as_str()) {
        let message = format!("`{harness_id}` is not a harness; there are {}", harnesses.join(", "));
        problems.push(Problem::new("harness_id", message));
    }
    let env_vars = env_vars::resolve_masks(env_vars, &BTreeMap::new(), &mut problems);
    let permission_mode = permission_mode.map_or(PermissionMode::default(), |text| check_mode(&text, &mut problems));
    let agent = Agent {
        id,
        name,
        model: model.unwrap_or_default(),
        prompt,
        harness_id,
        repo_url,
        branch: branch.unwrap_or_else(|| DEFAULT_BRANCH.to_owned()),
        mcp_servers,
        mcp_headers,
        env_vars,
        plain_env_vars,
        env_var_hosts,
        attached_skill_ids: skill_ids,
        allow_out,
        deny_out,
        sandbox_files: files::check(sandbox_files, &mut problems),
        permission_mode,
        image,
        requirements,
        budget,
        created_at: now,
        updated_at: now,
    };
    check(&agent, &mut problems);
    if problems.is_empty() { Ok(agent) } else { Err(problems) }
}

/// The agent after the edit, or everything that is wrong with it.
pub fn edit(agent: &Agent, edit: AgentEdit, now: Timestamp) -> Result<Agent, Vec<Problem>> {
    let AgentEdit {
        name,
        model,
        prompt,
        repo_url,
        branch,
        mcp_servers,
        mcp_headers,
        env_vars,
        plain_env_vars,
        env_var_hosts,
        skill_ids,
        allow_out,
        deny_out,
        sandbox_files,
        permission_mode,
        image,
        requirements,
        budget,
    } = edit;
    let mut problems = Vec::new();
    // Which stored values this edit does not give again; they must stay what they were, secret or not.
    let kept = |key: &str| match &env_vars {
        Some(given) => given.get(key).is_some_and(|value| value.expose() == env_vars::MASK),
        None => true,
    };
    if let Some(plain) = &plain_env_vars {
        for (i, key) in plain.iter().enumerate() {
            let stored = agent.env_vars.get(key).is_some_and(|value| !value.expose().is_empty());
            if stored && kept(key) && !agent.vars().is_plain(key) {
                let message = format!(
                    "`{key}` is stored as a secret, which cannot be read back: give its value again to make it plain"
                );
                problems.push(Problem::new(format!("plain_env_vars[{i}]"), message));
            }
        }
    }
    let replaced = env_vars.is_some();
    let env_vars = match env_vars {
        Some(given) => env_vars::resolve_masks(given, &agent.env_vars, &mut problems),
        None => agent.env_vars.clone(),
    };
    // What the edit does not speak of follows the variables: a key that is gone takes its entries along.
    let plain_env_vars = plain_env_vars.unwrap_or_else(|| {
        let stays = |key: &&String| !replaced || env_vars.contains_key(*key);
        agent.plain_env_vars.iter().filter(stays).cloned().collect()
    });
    let env_var_hosts = env_var_hosts.unwrap_or_else(|| {
        let mut hosts = agent.env_var_hosts.clone();
        hosts.retain(|key, _| env_vars.contains_key(key));
        hosts
    });
    let mcp_servers = mcp_servers.unwrap_or_else(|| agent.mcp_servers.clone());
    let mcp_headers = mcp_headers.unwrap_or_else(|| {
        let mut headers = agent.mcp_headers.clone();
        headers.retain(|server, _| mcp_servers.contains(server));
        headers
    });
    let permission_mode = permission_mode.map_or(agent.permission_mode, |text| check_mode(&text, &mut problems));
    let sandbox_files = match sandbox_files {
        Some(given) => files::check(given, &mut problems),
        None => agent.sandbox_files.clone(),
    };
    let edited = Agent {
        id: agent.id.clone(),
        name: name.unwrap_or_else(|| agent.name.clone()),
        model: model.unwrap_or_else(|| agent.model.clone()),
        prompt: prompt.unwrap_or_else(|| agent.prompt.clone()),
        harness_id: agent.harness_id.clone(),
        repo_url: repo_url.unwrap_or_else(|| agent.repo_url.clone()),
        branch: branch.unwrap_or_else(|| agent.branch.clone()),
        mcp_servers,
        mcp_headers,
        env_vars,
        plain_env_vars,
        env_var_hosts,
        attached_skill_ids: skill_ids.unwrap_or_else(|| agent.attached_skill_ids.clone()),
        allow_out: allow_out.unwrap_or_else(|| agent.allow_out.clone()),
        deny_out: deny_out.unwrap_or_else(|| agent.deny_out.clone()),
        sandbox_files,
        permission_mode,
        image: image.unwrap_or_else(|| agent.image.clone()),
        requirements: requirements.unwrap_or_else(|| agent.requirements.clone()),
        budget: agent.budget.edited(budget),
        created_at: agent.created_at,
        updated_at: now.max(agent.updated_at),
    };
    check(&edited, &mut problems);
    if problems.is_empty() { Ok(edited) } else { Err(problems) }
}

/// What an operator should know about the agent.
pub fn warnings(agent: &Agent) -> Vec<Warning> {
    let vars = agent.vars();
    let allow_out: Vec<Entry> = agent.allow_out.iter().filter_map(|entry| Entry::parse(entry).ok()).collect();
    let mut unbound = Vec::new();
    let mut short = Vec::new();
    let mut signing = Vec::new();
    for (key, value) in &agent.env_vars {
        if vars.is_plain(key) || value.expose().is_empty() {
            continue;
        }
        let bound: Option<Vec<HostRule>> = agent
            .env_var_hosts
            .get(key)
            .map(|hosts| hosts.iter().filter_map(|host| HostRule::parse(host).ok()).collect());
        let (_, binding) = credential::resolve_scope(key, bound.as_deref(), &allow_out);
        if binding == Binding::Unbound {
            unbound.push(key.clone());
        }
        if value.expose().len() < SHORT_SECRET_BYTES {
            short.push(key.clone());
        }
        if catalogue::is_signing_key(key) || is_private_key(value.expose()) {
            signing.push(key.clone());
        }
    }
    let mut warnings = Vec::new();
    let mut warn = |code: &'static str, keys: Vec<String>, message: String| {
        if !keys.is_empty() {
            warnings.push(Warning { code, message, keys });
        }
    };
    let message =
        format!("{} can be sent to any host: name its hosts in env_var_hosts, or limit allow_out", unbound.join(", "));
    warn("unbound_credential", unbound, message);
    let message = format!(
        "{} has fewer than {SHORT_SECRET_BYTES} bytes: too short to be taken out of responses",
        short.join(", ")
    );
    warn("short_secret", short, message);
    let message = format!(
        "{} signs and never travels, so that a stub in its place cannot work: use a credential that is sent, or list it in \
         plain_env_vars if the sandbox may know it",
        signing.join(", ")
    );
    warn("signing_credential", signing, message);
    if let Some(repo) = &agent.repo_url
        && let Ok(url) = HttpUrl::parse(repo)
    {
        if !url.tls {
            let message = format!(
                "{repo} is read over plain http: anybody on the way can change it, and no credential goes there"
            );
            warn("http_repo", vec![repo.clone()], message);
        }
        let named = |list: &[String]| {
            list.iter().filter_map(|entry| Entry::parse(entry).ok()).any(|entry| entry.matches(&url.host, url.port))
        };
        if named(&agent.deny_out) {
            let message = format!("deny_out closes {}, where the repository is: it cannot be cloned", url.entry());
            warn("repo_denied", vec![url.entry()], message);
        } else if !agent.allow_out.is_empty() && !named(&agent.allow_out) {
            let message = format!(
                "allow_out does not name {}: the repository is cloned, but fetch and push will be refused afterwards",
                url.entry()
            );
            warn("repo_not_allowed", vec![url.entry()], message);
        }
    }
    warnings
}

/// A warning of credentials that are bound to hosts which the operator lets through unread: nothing is swapped there.
pub fn unread_hosts(agent: &Agent, passthrough: &[Entry]) -> Option<Warning> {
    let vars = agent.vars();
    let mut keys = Vec::new();
    for (key, value) in &agent.env_vars {
        if vars.is_plain(key) || value.expose().is_empty() {
            continue;
        }
        let bound: Option<Vec<HostRule>> = agent
            .env_var_hosts
            .get(key)
            .map(|hosts| hosts.iter().filter_map(|host| HostRule::parse(host).ok()).collect());
        if let (Scope::Hosts(rules), Binding::Explicit | Binding::Catalogue) =
            credential::resolve_scope(key, bound.as_deref(), &[])
            && rules.iter().any(|rule| passthrough.iter().any(|entry| entry.pattern.overlaps(&rule.pattern)))
        {
            keys.push(key.clone());
        }
    }
    let message = format!(
        "{} is bound to a host that the operator lets through unread (LAP_VAULT_PASSTHROUGH): it is not swapped there",
        keys.join(", ")
    );
    (!keys.is_empty()).then_some(Warning { code: "unread_host", message, keys })
}

/// The reason why a branch name is none, as the end of a sentence that begins with the field.
pub fn check_branch(branch: &str) -> Result<(), String> {
    if branch.is_empty() {
        return Err("is empty".to_owned());
    }
    if branch.len() > 250 {
        return Err("is longer than 250 bytes".to_owned());
    }
    if branch.starts_with('-') {
        return Err(format!("`{branch}` begins with `-`, which git takes for an option"));
    }
    let forbidden = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    let bad = branch.chars().any(forbidden)
        || branch.contains("..")
        || branch.contains("@{")
        || branch == "@"
        || branch.ends_with('.')
        || branch.split('/').any(bad_part);
    if bad { Err(format!("`{branch}` is not a branch name that git accepts")) } else { Ok(()) }
}

/// The reason why a repository URL is refused, as the end of a sentence that begins with the field.
pub fn check_repo_url(repo: &str) -> Result<HttpUrl, String> {
    let scheme = repo.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        // `git@host:path` is ssh, too.
        Some("ssh" | "git+ssh" | "ssh+git") => return Err(SSH_REFUSED.to_owned()),
        None if repo.split_once(':').is_some_and(|(host, _)| host.contains('@') && !host.contains('/')) => {
            return Err(SSH_REFUSED.to_owned());
        }
        _ => {}
    }
    let url = HttpUrl::parse(repo)?;
    if url.rest.contains(['?', '#']) {
        return Err("has a query or a fragment, which a git URL does not".to_owned());
    }
    if url.rest.trim_matches('/').is_empty() {
        return Err("names a host and no repository on it".to_owned());
    }
    Ok(url)
}

const SSH_REFUSED: &str =
    "is an ssh URL; use its https form: the vault guards credentials on https only, and no ssh key enters a sandbox";

/// Everything that is wrong with an agent as it would be stored, its files and masks apart.
fn check(agent: &Agent, problems: &mut Vec<Problem>) {
    agent.budget.check(problems);
    let mut problem = |field: &str, message: String| problems.push(Problem::new(field, message));
    if let Some(name) = &agent.name
        && (name.trim().is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control))
    {
        problem("name", format!("must have 1 to {MAX_NAME_CHARS} characters on one line"));
    }
    let model = agent.model.as_str();
    if model.trim().is_empty() {
        problem("model", "is required, such as `anthropic/claude-opus-4-7`".to_owned());
    } else if model.len() > 255 || model.chars().any(|c| c.is_control() || c.is_whitespace()) {
        problem("model", "must be a LiteLLM model string of at most 255 bytes without spaces".to_owned());
    }
    if agent.prompt.as_ref().is_some_and(|prompt| prompt.len() > MAX_PROMPT_BYTES) {
        problem("prompt", format!("is longer than {MAX_PROMPT_BYTES} bytes"));
    }
    if let Some(repo) = &agent.repo_url
        && let Err(why) = check_repo_url(repo)
    {
        problem("repo_url", why);
    }
    if let Err(why) = check_branch(&agent.branch) {
        problem("branch", why);
    }
    if agent.requirements.as_ref().is_some_and(|text| text.len() > MAX_REQUIREMENTS_BYTES) {
        problem("requirements", format!("is longer than {MAX_REQUIREMENTS_BYTES} bytes"));
    }
    if agent.requirements.as_ref().is_some_and(|text| text.contains('\0')) {
        problem("requirements", "has a NUL character in it".to_owned());
    }
    if let Some(image) = &agent.image
        && (image.is_empty() || image.len() > 255 || image.chars().any(|c| c.is_control() || c.is_whitespace()))
    {
        problem("image", "must be the name of a sandbox image".to_owned());
    }
    check_mcp(agent, problems);
    let mut problem = |field: String, message: String| problems.push(Problem::new(field, message));
    if agent.attached_skill_ids.len() > MAX_ITEMS {
        problem(
            "skill_ids".to_owned(),
            format!("has {} skills; at most {MAX_ITEMS} are allowed", agent.attached_skill_ids.len()),
        );
    }
    for (i, id) in agent.attached_skill_ids.iter().enumerate() {
        if agent.attached_skill_ids[..i].contains(id) {
            problem(format!("skill_ids[{i}]"), format!("`{id}` is attached twice"));
        }
    }
    egress::check_list("allow_out", &agent.allow_out, problems);
    egress::check_list("deny_out", &agent.deny_out, problems);
    problems.extend(env_vars::validate(&agent.vars()));
}

fn check_mcp(agent: &Agent, problems: &mut Vec<Problem>) {
    let mut problem = |field: String, message: String| problems.push(Problem::new(field, message));
    if agent.mcp_servers.len() > MAX_ITEMS {
        problem(
            "mcp_servers".to_owned(),
            format!("has {} servers; at most {MAX_ITEMS} are allowed", agent.mcp_servers.len()),
        );
    }
    for (i, server) in agent.mcp_servers.iter().enumerate() {
        let field = || format!("mcp_servers[{i}]");
        if let Err(why) = HttpUrl::parse(server) {
            problem(field(), format!("`{server}` {why}"));
        }
        if agent.mcp_servers[..i].contains(server) {
            problem(field(), format!("`{server}` is listed twice"));
        }
    }
    for (server, headers) in &agent.mcp_headers {
        let field = format!("mcp_headers.{server}");
        if !agent.mcp_servers.contains(server) {
            problem(field.clone(), format!("`{server}` is not among mcp_servers"));
        }
        if headers.len() > MAX_ITEMS {
            problem(field.clone(), format!("has {} headers; at most {MAX_ITEMS} are allowed", headers.len()));
        }
        for (name, value) in headers {
            if !is_header_name(name) {
                problem(format!("{field}.{name}"), "is not a header name".to_owned());
            }
            if value.len() > 8192 || value.chars().any(char::is_control) {
                problem(format!("{field}.{name}"), "must have at most 8192 bytes and no control characters".to_owned());
            }
        }
    }
}

fn check_mode(text: &str, problems: &mut Vec<Problem>) -> PermissionMode {
    PermissionMode::parse(text).unwrap_or_else(|| {
        problems.push(Problem::new("permission_mode", format!("`{text}` is none of bypass, ask, deny")));
        PermissionMode::default()
    })
}

fn is_header_name(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 255 && name.bytes().all(token)
}

fn is_private_key(value: &str) -> bool {
    value.trim_start().starts_with("-----BEGIN ") && value.contains("PRIVATE KEY-----")
}

#[cfg(test)]
mod tests;
