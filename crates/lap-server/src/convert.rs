//! Between the wire and the domain, by destructuring: a new field on either side is a compile error here. Knows no rules;
//! what is checked here is only what the domain's types cannot express.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lap_api::message::{Attachment, InputPart, SendMessage};
use lap_api::platform;
use lap_api::session::{PatchEgress, PermissionDecision};
use lap_domain::agent::{AgentEdit, NewAgent};
use lap_domain::budget::{Budget, BudgetEdit};
use lap_domain::egress::{ListsEdit, SessionLists};
use lap_domain::env_vars::Vars;
use lap_domain::files::{self, NewFile};
use lap_domain::ids::SkillId;
use lap_domain::secret::Secret;
use lap_domain::session::SessionState;
use lap_domain::time::Timestamp;
use lap_domain::{agent, session, turn};

use crate::upgrade::{Ticket, TicketOffice};
use lap_engine::{AgentView, Decision, HarnessView, NewSession, SessionView, Stats};

use crate::error::{ApiError, shortened};
use crate::usage;

/// What an agent is created from.
pub(crate) fn new_agent(body: lap_api::agent::CreateAgent) -> NewAgent {
    let lap_api::agent::CreateAgent {
        name,
        model,
        prompt,
        harness_id,
        repo_url,
        branch,
        mcp_servers,
        env_vars,
        env_var_hosts,
        plain_env_vars,
        allow_out,
        deny_out,
        sandbox_files,
        mcp_headers,
        permission_mode,
        image,
        requirements,
        max_tokens,
        max_cost_usd,
        skill_ids,
    } = body;
    NewAgent {
        name,
        model,
        prompt,
        harness_id,
        repo_url,
        branch,
        mcp_servers,
        mcp_headers,
        env_vars: secrets(env_vars),
        plain_env_vars,
        env_var_hosts,
        skill_ids: skill_ids.into_iter().map(SkillId::new).collect(),
        allow_out,
        deny_out,
        sandbox_files: sandbox_files.into_iter().map(new_file).collect(),
        permission_mode,
        image,
        requirements,
        budget: Budget { max_tokens, max_cost_usd },
    }
}

/// What is to change in an agent.
pub(crate) fn agent_edit(body: lap_api::agent::PatchAgent) -> AgentEdit {
    let lap_api::agent::PatchAgent {
        name,
        model,
        prompt,
        repo_url,
        branch,
        mcp_servers,
        env_vars,
        env_var_hosts,
        plain_env_vars,
        allow_out,
        deny_out,
        sandbox_files,
        mcp_headers,
        permission_mode,
        image,
        requirements,
        max_tokens,
        max_cost_usd,
        skill_ids,
    } = body;
    AgentEdit {
        name,
        model,
        prompt,
        repo_url,
        branch,
        mcp_servers,
        mcp_headers,
        env_vars: env_vars.map(secrets),
        plain_env_vars,
        env_var_hosts,
        skill_ids: skill_ids.map(|ids| ids.into_iter().map(SkillId::new).collect()),
        allow_out,
        deny_out,
        sandbox_files: sandbox_files.map(|files| files.into_iter().map(new_file).collect()),
        permission_mode,
        image,
        requirements,
        budget: BudgetEdit { max_tokens, max_cost_usd },
    }
}

fn secrets(values: BTreeMap<String, String>) -> BTreeMap<String, Secret> {
    values.into_iter().map(|(key, value)| (key, Secret::new(value))).collect()
}

fn new_file(file: lap_api::agent::SandboxFile) -> NewFile {
    let lap_api::agent::SandboxFile { name, sandbox_path, content, content_type, size } = file;
    let encoded = content.unwrap_or_default();
    NewFile {
        name,
        sandbox_path,
        encoded_len: encoded.len(),
        content: STANDARD.decode(encoded).ok(),
        content_type,
        size,
    }
}

/// Whether the content of an agent's files is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    /// One agent: whole.
    Whole,
    /// In lists: names and sizes only, and the counts that only lists have.
    Listed,
}

/// An agent as clients see it: secret values masked.
pub(crate) fn agent(view: AgentView, shown: Files) -> lap_api::agent::Agent {
    let AgentView { agent, warnings, session_count, has_active_session, supports_tui, used } = view;
    let agent::Agent {
        id,
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
        attached_skill_ids,
        allow_out,
        deny_out,
        sandbox_files,
        permission_mode,
        image,
        requirements,
        budget: Budget { max_tokens, max_cost_usd },
        created_at,
        updated_at,
    } = agent;
    let listed = shown == Files::Listed;
    lap_api::agent::Agent {
        id: id.to_string(),
        name,
        model,
        prompt,
        harness_id,
        supports_tui,
        repo_url,
        branch,
        mcp_servers,
        env_vars: masked(env_vars, &plain_env_vars),
        env_var_hosts,
        plain_env_vars,
        attached_skill_ids: attached_skill_ids.iter().map(ToString::to_string).collect(),
        allow_out,
        deny_out,
        sandbox_files: sandbox_files.into_iter().map(|file| sandbox_file(file, shown)).collect(),
        mcp_headers,
        permission_mode: permission_mode.as_str().to_owned(),
        image,
        requirements,
        max_tokens,
        max_cost_usd,
        usage: usage::usage(used),
        warnings: warnings.into_iter().map(warning).collect(),
        created_at: time(created_at),
        updated_at: time(updated_at),
        session_count: listed.then_some(session_count),
        has_active_session: listed.then_some(has_active_session),
    }
}

fn masked(values: BTreeMap<String, Secret>, plain: &[String]) -> BTreeMap<String, String> {
    let shown = |key: &String, value: &Secret| {
        if plain.contains(key) { value.expose().clone() } else { lap_api::MASK.to_owned() }
    };
    values.iter().map(|(key, value)| (key.clone(), shown(key, value))).collect()
}

fn sandbox_file(file: files::SandboxFile, shown: Files) -> lap_api::agent::SandboxFile {
    let files::SandboxFile { name, sandbox_path, content, content_type, size } = file;
    let content = (shown == Files::Whole).then(|| STANDARD.encode(content));
    lap_api::agent::SandboxFile { name, sandbox_path, content, content_type, size }
}

fn warning(warning: agent::Warning) -> lap_api::agent::Warning {
    let agent::Warning { code, message, keys } = warning;
    lap_api::agent::Warning { code: code.to_owned(), message, keys }
}

/// What a session is opened with, checked.
pub(crate) fn new_session(body: lap_api::session::CreateSession) -> Result<NewSession, ApiError> {
    let lap_api::session::CreateSession {
        title,
        initial_prompt,
        initial_attachments,
        env_vars,
        plain_env_vars,
        env_var_hosts,
        skill_ids,
        branch,
        max_tokens,
        max_cost_usd,
    } = body;
    no_skills(&skill_ids)?;
    let budget = Budget { max_tokens, max_cost_usd };
    let env_vars = secrets(env_vars);
    let contents = decoded(&initial_attachments);
    session::validate_new(&session::SessionInput {
        title: title.as_deref(),
        branch: branch.as_deref(),
        initial_prompt: initial_prompt.as_deref(),
        initial_attachments: &attachments(&initial_attachments, &contents),
        vars: Vars { env_vars: &env_vars, plain_env_vars: &plain_env_vars, env_var_hosts: &env_var_hosts },
        budget,
    })?;
    Ok(NewSession {
        title,
        initial_prompt,
        initial_attachments,
        env_vars,
        plain_env_vars,
        env_var_hosts,
        branch,
        budget,
    })
}

/// There are no images but the default yet.
pub(crate) fn no_image(image: Option<&str>) -> Result<(), ApiError> {
    image.map_or(Ok(()), |image| {
        let message = format!("there is no image `{}` here; null means the default", shortened(image));
        Err(ApiError::invalid_field("image", message))
    })
}

/// There is no skill library yet, so any id is one too many.
pub(crate) fn no_skills(ids: &[String]) -> Result<(), ApiError> {
    ids.first().map_or(Ok(()), |id| Err(ApiError::not_found("skill", id)))
}

/// Text and images of a user message.
pub(crate) fn user_message(body: SendMessage) -> Result<(String, Vec<Attachment>), ApiError> {
    let SendMessage { text, parts, attachments } = body;
    let text = match (text, parts) {
        (Some(text), None) => text,
        (None, Some(parts)) => {
            let texts: Vec<String> = parts.into_iter().map(|InputPart::Text { text }| text).collect();
            texts.join("\n")
        }
        (Some(_), Some(_)) => return Err(ApiError::invalid_field("text", "give either text or parts, not both")),
        (None, None) => return Err(ApiError::invalid_field("text", "give the message as text or as parts")),
    };
    let contents = decoded(&attachments);
    turn::check_input("text", &text, "attachments", &self::attachments(&attachments, &contents))?;
    Ok((text, attachments))
}

/// Contents of images; none where it is not base64.
fn decoded(attachments: &[Attachment]) -> Vec<Option<Vec<u8>>> {
    attachments.iter().map(|attachment| STANDARD.decode(&attachment.content).ok()).collect()
}

fn attachments<'a>(given: &'a [Attachment], contents: &'a [Option<Vec<u8>>]) -> Vec<turn::Attachment<'a>> {
    let attachment =
        |(Attachment { name, content_type, content: _ }, content): (&'a Attachment, &'a Option<Vec<u8>>)| {
            turn::Attachment { name, content_type, content: content.as_deref() }
        };
    given.iter().zip(contents).map(attachment).collect()
}

/// A single session as clients see it, with what opens its terminal.
pub(crate) fn session(view: SessionView, office: &TicketOffice) -> lap_api::session::Session {
    let alive = matches!(view.session.state, SessionState::Creating | SessionState::Ready);
    let session = listed_session(view);
    let ticket = alive.then(|| office.issue(&session.id));
    let (tty_url, tty_token) = ticket.map_or((None, None), |Ticket { url, token }| (url, Some(token)));
    lap_api::session::Session { tty_url, tty_token, ..session }
}

/// A session in a list: nothing in it opens anything.
pub(crate) fn listed_session(view: SessionView) -> lap_api::session::Session {
    let SessionView { session, supports_tui, faces, lists, used, budget: Budget { max_tokens, max_cost_usd } } = view;
    let session::Session {
        id,
        agent_id,
        title,
        state,
        phase,
        phase_detail,
        incarnation: _,
        harness_id: _,
        harness_session_id,
        branch,
        commit,
        title_preview,
        response,
        session_env_keys: _,
        created_at,
        last_seen_at,
        idle_timeout_ms,
    } = session;
    let status = state.as_str().to_owned();
    let (failure_reason, end_reason) = match state {
        SessionState::Creating | SessionState::Ready => (None, None),
        SessionState::Failed { reason } => (Some(reason), None),
        SessionState::Dead { reason } => (None, Some(reason.as_str().to_owned())),
    };
    lap_api::session::Session {
        id: id.to_string(),
        agent_id: agent_id.to_string(),
        title,
        status,
        phase: phase.map(|phase| phase.as_str().to_owned()),
        phase_detail,
        failure_reason,
        end_reason,
        supports_tui,
        faces,
        sandbox_url: None,
        harness_session_id,
        branch,
        commit,
        tty_url: None,
        tty_token: None,
        response,
        created_at: time(created_at),
        last_seen_at: time(last_seen_at),
        idle_timeout_ms: u64::try_from(idle_timeout_ms).unwrap_or_default(),
        title_preview,
        usage: usage::usage(used),
        max_tokens,
        max_cost_usd,
        egress: egress(lists),
    }
}

fn egress(lists: SessionLists) -> lap_api::session::SessionEgress {
    let in_force = lists.are_in_force();
    let SessionLists { allow_out, deny_out, revision: _, in_force: _ } = lists;
    lap_api::session::SessionEgress { allow_out, deny_out, in_force }
}

/// A change of a session's lists.
pub(crate) fn lists_edit(body: PatchEgress) -> ListsEdit {
    let PatchEgress { allow_out, deny_out } = body;
    ListsEdit { allow_out, deny_out }
}

/// The answer to a permission request.
pub(crate) fn decision(decision: PermissionDecision) -> Decision {
    match decision {
        PermissionDecision::Allow => Decision::Allow,
        PermissionDecision::AllowAlways => Decision::AllowAlways,
        PermissionDecision::Deny => Decision::Deny,
    }
}

/// A harness as clients see it.
pub(crate) fn harness(view: HarnessView) -> platform::Harness {
    let HarnessView { id, name, version, installed, supports_tui, detail } = view;
    platform::Harness { id, name, version: Some(version), installed, supports_tui, detail }
}

/// Numbers of the platform.
pub(crate) fn stats(stats: Stats) -> platform::Stats {
    let Stats { agents, sessions, backend, version } = stats;
    platform::Stats {
        agents,
        sessions: sessions.into_iter().map(|(state, n)| (state.to_owned(), n)).collect(),
        backend: backend.to_owned(),
        version: version.to_owned(),
    }
}

/// RFC 3339 in UTC with milliseconds. What no calendar holds is shown as its nearest end.
fn time(at: Timestamp) -> String {
    let nearest = if at.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    format!("{:.3}", jiff::Timestamp::from_millisecond(at.0).unwrap_or(nearest))
}
