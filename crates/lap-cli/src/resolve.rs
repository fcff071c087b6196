//! From what people type to what the server knows: agents by name or id, sessions by id or URL.

use lap_api::agent::Agent;
use lap_api::session::Session;
use lap_client::{AgentListQuery, Client, SessionListQuery};
use url::Url;

use crate::failure::{Exit, Failure};

/// Rows asked for at once when all are wanted; the server's maximum.
const PAGE: u32 = 200;

/// Finds the one agent that is meant. An exact name or id comes first, then the name without regard to case.
pub(crate) async fn agent(client: &Client, wanted: &str) -> Result<Agent, Failure> {
    let found = all_agents(client, Some(wanted)).await?;
    let by = |fits: &dyn Fn(&Agent) -> bool| found.iter().filter(|agent| fits(agent)).cloned().collect::<Vec<_>>();
    let name_is = |agent: &Agent, same: &dyn Fn(&str) -> bool| agent.name.as_deref().is_some_and(same);
    let steps = [
        by(&|agent| agent.id == wanted),
        by(&|agent| name_is(agent, &|name| name == wanted)),
        by(&|agent| name_is(agent, &|name| name.to_lowercase() == wanted.to_lowercase())),
    ];
    let candidates = steps.into_iter().find(|step| !step.is_empty()).unwrap_or_default();
    match <[Agent; 1]>::try_from(candidates) {
        // The list leaves things out (contents of files); whoever wants the agent wants it whole.
        Ok([agent]) => Ok(client.agent(&agent.id).await?),
        Err(none) if none.is_empty() => {
            let mut failure = Failure::new(Exit::NotFound, format!("there is no agent `{wanted}`"));
            for agent in found.iter().take(5) {
                failure = failure.detail(format!("similar: {}  {}", agent.name.as_deref().unwrap_or("-"), agent.id));
            }
            Err(failure.hint("`lap agents` lists agents, `lap agent create` makes one, `lap --help` lists commands."))
        }
        Err(several) => {
            let mut failure = Failure::usage(format!("{} agents are called `{wanted}`", several.len()));
            for agent in &several {
                let repo = agent.repo_url.as_deref().unwrap_or("no repository");
                failure = failure.detail(format!("{}  {}  {}  {repo}", agent.id, agent.model, agent.harness_id));
            }
            Err(failure.hint("Give the id of the one you mean."))
        }
    }
}

/// Every agent, or every one with the text in its name, id or harness.
pub(crate) async fn all_agents(client: &Client, search: Option<&str>) -> Result<Vec<Agent>, Failure> {
    let mut all: Vec<Agent> = Vec::new();
    loop {
        let query = AgentListQuery {
            search: search.map(str::to_owned),
            limit: Some(PAGE),
            offset: Some(all.len() as u64),
            ..AgentListQuery::default()
        };
        let page = client.agents(&query).await?;
        let last = page.data.is_empty();
        all.extend(page.data);
        if last || all.len() as u64 >= page.total {
            return Ok(all);
        }
    }
}

/// Every session that fits.
pub(crate) async fn all_sessions(
    client: &Client,
    agent_id: Option<&str>,
    status: Option<&str>,
) -> Result<Vec<Session>, Failure> {
    let mut all: Vec<Session> = Vec::new();
    loop {
        let query = SessionListQuery {
            agent_id: agent_id.map(str::to_owned),
            status: status.map(str::to_owned),
            limit: Some(PAGE),
            offset: Some(all.len() as u64),
        };
        let page = client.sessions(&query).await?;
        let last = page.data.is_empty();
        all.extend(page.data);
        if last || all.len() as u64 >= page.total {
            return Ok(all);
        }
    }
}

/// The newest session of an agent that lives or is about to.
pub(crate) async fn newest_live(client: &Client, agent_id: &str) -> Result<Option<Session>, Failure> {
    let mut newest: Option<Session> = None;
    for status in ["ready", "creating"] {
        let query = SessionListQuery {
            agent_id: Some(agent_id.to_owned()),
            status: Some(status.to_owned()),
            limit: Some(1),
            offset: None,
        };
        let found = client.sessions(&query).await?.data.into_iter().next();
        newest = match (newest, found) {
            (Some(a), Some(b)) => Some(if b.created_at > a.created_at { b } else { a }),
            (a, b) => a.or(b),
        };
    }
    Ok(newest)
}

/// A session's id from an id or from a URL of the API or the web UI.
pub(crate) fn session_id(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    let id = match Url::parse(text) {
        Ok(url) if url.has_host() => {
            let segments: Vec<&str> = url.path_segments().into_iter().flatten().filter(|s| !s.is_empty()).collect();
            let after_word = segments.iter().position(|s| *s == "sessions").and_then(|at| segments.get(at + 1));
            after_word.or(segments.last()).map(|s| (*s).to_owned())
        }
        _ => Some(text.to_owned()),
    };
    id.filter(|id| !id.is_empty())
        .ok_or_else(|| Failure::usage(format!("`{text}` names no session")).hint("`lap sessions` lists sessions."))
}

#[cfg(test)]
mod tests;
