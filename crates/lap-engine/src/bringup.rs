//! What a sandbox is given: stubs, credentials and where they may go, environment, repository, harness.
//!
//! Real values go into the grants only; the guest's half of the boot message holds stubs and plain values.

use std::collections::BTreeMap;

use lap_api::link::{Boot, CredentialGrant, CredentialScope, Gateway, Grants, GuestBoot, McpServer, Outbound, Repo};
use lap_domain::agent::Agent;
use lap_domain::credential::{Binding, HostRule, Scope, resolve_scope};
use lap_domain::egress::{Entry, SessionLists};
use lap_domain::env_vars::{Merged, Vars, merge};
use lap_domain::repository_token::{Repository, TOKEN_BYTES, TOKEN_KEY, TOKEN_KEYS};
use lap_domain::secret::Secret;
use lap_domain::session::Session;
use lap_domain::stub;
use lap_domain::url::HttpUrl;

use crate::live::SessionVars;
use crate::{Engine, EngineConfig, EngineError};

/// Name of the gateway's credential, and the variable in which its stub stands.
const GATEWAY_KEY: &str = "LITELLM_API_KEY";

/// Name of the platform's token for clones.
const GIT_TOKEN: &str = "GIT_TOKEN";

/// Where the gateway is, seen from inside.
const GATEWAY_INSIDE: &str = "http://gateway.lap.internal";

/// Names of variables with their stubs.
type Stubs = BTreeMap<String, String>;

impl SessionVars {
    fn level(&self) -> Vars<'_> {
        let Self { env_vars, plain_env_vars, env_var_hosts } = self;
        Vars { env_vars, plain_env_vars, env_var_hosts }
    }
}

fn vars_of(agent: &Agent) -> Vars<'_> {
    Vars { env_vars: &agent.env_vars, plain_env_vars: &agent.plain_env_vars, env_var_hosts: &agent.env_var_hosts }
}

/// Stubs for every secret of a session that has none yet.
pub(crate) fn mint_stubs(config: &EngineConfig, agent: &Agent, vars: &SessionVars, mut have: Stubs) -> Stubs {
    let merged = merge(&vars_of(agent), &vars.level());
    let of_vars =
        merged.iter().filter(|(_, merged)| is_secret(merged)).map(|(key, merged)| (key.as_str(), &merged.value));
    let gateway = config.gateway.as_ref().map(|gateway| (GATEWAY_KEY, &gateway.key));
    let git = config.git_token.as_ref().map(|token| (GIT_TOKEN, token));
    for (key, secret) in of_vars.chain(gateway).chain(git).filter(|(_, secret)| !secret.expose().is_empty()) {
        have.entry(key.to_owned()).or_insert_with(|| mint_stub(key, secret.expose().len()));
    }
    have
}

fn mint_stub(key: &str, length: usize) -> String {
    let mut bytes = vec![0; stub::random_needed(length)];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
    stub::mint(key, length, &bytes)
}

/// A token of the platform's own for the agent's repository, and where it may go.
struct PlatformToken<'a> {
    secret: Secret,
    hosts: &'a [String],
}

/// The repository for which a sandbox with these variables gets a token of the platform's own: none when there is no
/// app that makes them, when the repository lies elsewhere, or when the user gave a token.
fn repository_of<'k>(
    config: &EngineConfig,
    agent: &Agent,
    mut given: impl Iterator<Item = &'k String>,
) -> Option<Repository> {
    let tokens = config.repository_tokens.as_ref()?;
    let own = given.any(|key| TOKEN_KEYS.contains(&key.as_str()));
    Repository::at(&tokens.host, agent.repo_url.as_deref()?).filter(|_| !own)
}

/// The repository for which the session's sandbox is to get a token, before it has been brought up.
pub(crate) async fn wanted_repository(engine: &Engine, session: &Session) -> Result<Option<Repository>, EngineError> {
    if engine.inner.config.repository_tokens.is_none() {
        return Ok(None);
    }
    let agent = engine.inner.store.agent(&session.agent_id).await?;
    let given = agent.env_vars.keys().chain(&session.session_env_keys);
    Ok(repository_of(&engine.inner.config, &agent, given))
}

/// With `LAP_VAULT_REQUIRE_BINDING`, no credential may be free to go anywhere.
pub(crate) fn check_binding(config: &EngineConfig, agent: &Agent, vars: &SessionVars) -> Result<(), EngineError> {
    if !config.require_binding {
        return Ok(());
    }
    let allow_out = entries(&agent.allow_out)?;
    let mut keys = Vec::new();
    for (key, merged) in merge(&vars_of(agent), &vars.level()) {
        if is_secret(&merged) && binding(&key, &merged, &allow_out)?.1 == Binding::Unbound {
            keys.push(key);
        }
    }
    if keys.is_empty() { Ok(()) } else { Err(EngineError::UnboundCredential { keys }) }
}

/// The boot message; none when the session's own variables are no longer here.
pub(crate) async fn boot(engine: &Engine, session: &Session) -> Result<Option<Boot>, EngineError> {
    let vars = engine.inner.live.vars(&session.id);
    let vars = match vars {
        Some(vars) => vars,
        None if session.session_env_keys.is_empty() => SessionVars::default(),
        None => return Ok(None),
    };
    let config = &engine.inner.config;
    let agent = engine.inner.store.agent(&session.agent_id).await?;
    let stubs = engine.inner.store.stubs(&session.id).await?;
    let mut fresh = mint_stubs(config, &agent, &vars, stubs);
    let merged = merge(&vars_of(&agent), &vars.level());
    let repository = repository_of(config, &agent, merged.keys());
    let mut no_token = None;
    let platform = match &repository {
        Some(repository) => match engine.token_for_boot(session, repository).await? {
            Ok(token) => Some(token),
            Err(why) => {
                no_token = Some(why);
                None
            }
        },
        None => None,
    };
    let named = repository.filter(|_| platform.is_some()).map(|repository| repository.to_string());
    engine.inner.store.set_token_repository(&session.id, named.as_deref()).await?;
    if platform.is_some() {
        fresh.entry(TOKEN_KEY.to_owned()).or_insert_with(|| mint_stub(TOKEN_KEY, TOKEN_BYTES));
    }
    let stubs = engine.inner.store.add_stubs(&session.id, fresh).await?;
    let platform = platform_token(config, platform);
    let lists = engine.inner.store.session_lists(&session.id).await?;
    let credentials = credentials(config, &agent, &merged, platform.as_ref(), &stubs)?;
    let grants = grants(config, &agent, credentials, lists);
    let mut guest = guest_boot(engine, session, &agent, &merged, platform.is_some(), &stubs)?;
    if let Some(repo) = &mut guest.repo {
        repo.no_token = no_token;
    }
    let budget = engine.budget_of(session).await?;
    Ok(Some(Boot { grants, guest, session_keys: session.session_env_keys.clone(), budget }))
}

fn platform_token(config: &EngineConfig, secret: Option<Secret>) -> Option<PlatformToken<'_>> {
    let tokens = config.repository_tokens.as_ref()?;
    Some(PlatformToken { secret: secret?, hosts: &tokens.credential_hosts })
}

/// What credentials of a sandbox that is up mean now.
pub(crate) struct CredentialsNow {
    pub credentials: Vec<CredentialGrant>,
    /// Names whose value is not at hand: the sidecar keeps what it has.
    pub keep: Vec<String>,
}

/// What the agent's and the platform's credentials mean now, for a sandbox that is up. Session-level ones stay as the
/// sidecar has them. None when the agent was deleted: its sessions are ending.
pub(crate) async fn credentials_of_agent(
    engine: &Engine,
    session: &Session,
) -> Result<Option<CredentialsNow>, EngineError> {
    let agent = match engine.inner.store.agent(&session.agent_id).await {
        Ok(agent) => agent,
        Err(lap_store::StoreError::NotFound { .. } | lap_store::StoreError::AgentDeleted) => return Ok(None),
        Err(problem) => return Err(problem.into()),
    };
    let config = &engine.inner.config;
    let stubs = engine.inner.store.stubs(&session.id).await?;
    let mut merged = merge(&vars_of(&agent), &SessionVars::default().level());
    merged.retain(|key, _| !session.session_env_keys.contains(key));
    let (mut token, mut keep) = (None, Vec::new());
    if !merged.keys().any(|key| TOKEN_KEYS.contains(&key.as_str()))
        && let Some(repository) = engine.token_repository(session).await?
    {
        token = engine.token_at_hand(session, &repository);
        keep.extend(token.is_none().then(|| TOKEN_KEY.to_owned()));
    }
    let credentials = credentials(config, &agent, &merged, platform_token(config, token).as_ref(), &stubs)?;
    Ok(Some(CredentialsNow { credentials, keep }))
}

/// Secrets and where each may go. That is the agent's to say: opening a host for one session does not send credentials there.
fn credentials(
    config: &EngineConfig,
    agent: &Agent,
    merged: &BTreeMap<String, Merged>,
    platform: Option<&PlatformToken<'_>>,
    stubs: &Stubs,
) -> Result<Vec<CredentialGrant>, EngineError> {
    let allow_out = entries(&agent.allow_out)?;
    let mut credentials = Vec::new();
    let mut grant = |name: &str, secret: &Secret, scope: CredentialScope, clone_only: bool| {
        if let Some(stub) = stubs.get(name).filter(|_| !secret.expose().is_empty()) {
            let (name, stub, secret) = (name.to_owned(), stub.clone(), secret.expose().clone());
            credentials.push(CredentialGrant { name, stub, secret, scope, clone_only });
        }
    };
    for (key, merged) in merged.iter().filter(|(_, merged)| is_secret(merged)) {
        let scope = match binding(key, merged, &allow_out)?.0 {
            Scope::Hosts(rules) => CredentialScope::Hosts { hosts: rules.iter().map(ToString::to_string).collect() },
            Scope::Gateway => CredentialScope::Gateway,
            Scope::Anywhere => CredentialScope::Anywhere,
        };
        grant(key, &merged.value, scope, false);
    }
    if let Some(gateway) = &config.gateway {
        grant(GATEWAY_KEY, &gateway.key, CredentialScope::Gateway, false);
    }
    if let Some(PlatformToken { secret, hosts }) = platform {
        grant(TOKEN_KEY, secret, CredentialScope::Hosts { hosts: hosts.to_vec() }, false);
    } else if let (Some(token), Some(host)) = (&config.git_token, clone_token_host(config, agent)) {
        grant(GIT_TOKEN, token, CredentialScope::Hosts { hosts: vec![host] }, true);
    }
    Ok(credentials)
}

fn grants(config: &EngineConfig, agent: &Agent, credentials: Vec<CredentialGrant>, lists: SessionLists) -> Grants {
    let SessionLists { allow_out, deny_out, revision: egress_revision, in_force: _ } = lists;
    let repository = agent.repo_url.as_deref().and_then(host_of);
    Grants {
        credentials,
        allow_out,
        deny_out,
        egress_revision,
        implied: agent.mcp_servers.iter().filter_map(|url| host_of(url)).collect(),
        implied_for_clone: repository.into_iter().collect(),
        private_allow: config.private_allow.clone(),
        resolve: config.resolve.clone(),
        gateway: config.gateway.as_ref().map(|gateway| Gateway { base_url: gateway.base_url.clone() }),
        extra_ca_pem: config.extra_ca_pem.clone(),
        passthrough: config.passthrough.clone(),
        outbound: config
            .outbound
            .as_ref()
            .map(|outbound| Outbound { url: outbound.url.expose().clone(), no_proxy: outbound.no_proxy.clone() }),
    }
}

fn guest_boot(
    engine: &Engine,
    session: &Session,
    agent: &Agent,
    merged: &BTreeMap<String, Merged>,
    has_platform_token: bool,
    stubs: &Stubs,
) -> Result<GuestBoot, EngineError> {
    let config = &engine.inner.config;
    let branch = session.branch.clone().unwrap_or_else(|| agent.branch.clone());
    let gateway_key = stubs.get(GATEWAY_KEY).cloned().unwrap_or_default();
    let mut env: BTreeMap<String, String> =
        merged.iter().map(|(key, merged)| (key.clone(), shown(key, merged, stubs))).collect();
    env.insert("LITELLM_API_BASE".into(), GATEWAY_INSIDE.into());
    env.insert(GATEWAY_KEY.into(), gateway_key.clone());
    env.insert("LITELLM_DEFAULT_MODEL".into(), agent.model.clone());
    env.insert("BRANCH".into(), branch.clone());
    if let Some(url) = &agent.repo_url {
        env.insert("REPO_URL".into(), url.clone());
    }
    // A token for this repository alone is better than one for all.
    let clone_token =
        clone_token_host(config, agent).filter(|_| !has_platform_token).and_then(|_| stubs.get(GIT_TOKEN).cloned());
    if let Some(stub) = stubs.get(TOKEN_KEY).filter(|_| has_platform_token) {
        env.extend(TOKEN_KEYS.map(|key| (key.to_owned(), stub.clone())));
    }
    Ok(GuestBoot {
        session_id: session.id.to_string(),
        git_author: config.git_author.clone().unwrap_or_else(|| author_of(agent)),
        repo: agent.repo_url.clone().map(|url| Repo { url, branch, clone_token, no_token: None }),
        files: agent.sandbox_files.iter().map(file).collect(),
        skills: Vec::new(),
        requirements: agent.requirements.clone(),
        prompt: lap_domain::prompt::system_prompt(agent.prompt.as_deref(), &[]),
        model: agent.model.clone(),
        permission_mode: agent.permission_mode.as_str().to_owned(),
        mcp_servers: mcp_servers(agent, &env),
        harness: engine.launch_of(&agent.harness_id)?,
        gateway_url: GATEWAY_INSIDE.into(),
        gateway_key,
        resume: session.harness_session_id.clone(),
        env,
    })
}

/// What the sandbox sees of a variable.
fn shown(key: &str, merged: &Merged, stubs: &Stubs) -> String {
    if is_secret(merged) { stubs.get(key).cloned().unwrap_or_default() } else { merged.value.expose().clone() }
}

/// Empty values have no stub and need none.
fn is_secret(merged: &Merged) -> bool {
    !merged.plain && !merged.value.expose().is_empty()
}

fn binding(key: &str, merged: &Merged, allow_out: &[Entry]) -> Result<(Scope, Binding), EngineError> {
    let bound = match &merged.hosts {
        Some(hosts) => {
            Some(hosts.iter().map(|host| HostRule::parse(host)).collect::<Result<Vec<_>, _>>().map_err(stored)?)
        }
        None => None,
    };
    // An agent's allow list says where the agent's credentials may go, and those that came with the session alike.
    Ok(resolve_scope(key, bound.as_deref(), allow_out))
}

fn entries(list: &[String]) -> Result<Vec<Entry>, EngineError> {
    list.iter().map(|entry| Entry::parse(entry)).collect::<Result<_, _>>().map_err(stored)
}

/// What is stored has passed validation; if it does not parse, that is a fault of ours.
fn stored(problem: impl std::error::Error + Send + Sync + 'static) -> EngineError {
    EngineError::Internal(Box::new(problem))
}

/// `host:port` of the repository, when the platform's git token may be used for it.
fn clone_token_host(config: &EngineConfig, agent: &Agent) -> Option<String> {
    let url = HttpUrl::parse(agent.repo_url.as_deref()?).ok()?;
    let named = |entry: &String| Entry::parse(entry).is_ok_and(|entry| entry.matches(&url.host, url.port));
    let allowed = config.git_token.is_some() && url.tls && config.git_token_hosts.iter().any(named);
    allowed.then(|| url.entry())
}

/// `host:port` of an http(s) address.
fn host_of(url: &str) -> Option<String> {
    HttpUrl::parse(url).ok().map(|url| url.entry())
}

fn author_of(agent: &Agent) -> String {
    let name = agent.name.as_deref().unwrap_or("LAP agent");
    let name: String = name.chars().filter(|c| !c.is_control() && !matches!(c, '<' | '>')).collect();
    // Git takes no name of nothing but dots, quotes and the like.
    let name = if name.chars().any(char::is_alphanumeric) { name.trim() } else { "LAP agent" };
    format!("{name} <agent@lap.invalid>")
}

fn file(file: &lap_domain::files::SandboxFile) -> lap_api::agent::SandboxFile {
    use base64::Engine as _;
    lap_api::agent::SandboxFile {
        name: file.name.clone(),
        sandbox_path: file.sandbox_path.clone(),
        content: Some(base64::engine::general_purpose::STANDARD.encode(&file.content)),
        content_type: file.content_type.clone(),
        size: file.size,
    }
}

/// MCP servers with names made of their hosts, told apart by numbers, and with `${KEY}` in headers replaced by what the
/// sandbox sees of the variable.
fn mcp_servers(agent: &Agent, env: &BTreeMap<String, String>) -> Vec<McpServer> {
    let mut taken: Vec<String> = Vec::new();
    let mut servers = Vec::new();
    for url in &agent.mcp_servers {
        let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let base: String =
            host.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
        let mut name = base.clone();
        let mut number = 2;
        while taken.contains(&name) {
            name = format!("{base}_{number}");
            number += 1;
        }
        taken.push(name.clone());
        let headers = agent.mcp_headers.get(url).into_iter().flatten();
        let headers = headers.map(|(header, value)| (header.clone(), expand(value, env))).collect();
        servers.push(McpServer { name, url: url.clone(), headers });
    }
    servers
}

/// Replaces `${KEY}`; an unknown key stays as it stands.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let after = &rest[start + 2..];
        match after.find('}').map(|end| (&after[..end], &after[end + 1..])) {
            Some((key, tail)) if env.contains_key(key) => {
                out.push_str(&env[key]);
                rest = tail;
            }
            _ => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
