//! Agents: blueprints of sessions.

use http::Method;
use lap_api::agent::{Agent, CreateAgent, PatchAgent};
use lap_api::list::List;

use crate::error::Error;
use crate::transport::{Call, Client};

/// What to list; everything absent is the server's default (50 rows, newest first).
#[derive(Debug, Clone, Default)]
pub struct AgentListQuery {
    /// Part of name, id or harness.
    pub search: Option<String>,
    /// `created_at`, `name`, `harness_id` or `sessions`.
    pub sort: Option<String>,
    /// `asc` or `desc`.
    pub order: Option<String>,
    /// Page size, 1..=200.
    pub limit: Option<u32>,
    /// Rows to skip.
    pub offset: Option<u64>,
}

impl Client {
    /// Stores a new agent.
    pub async fn create_agent(&self, new: &CreateAgent) -> Result<Agent, Error> {
        self.json(Call::managed(Method::POST, &["agents"]).body(new)).await
    }

    /// One agent by its id.
    pub async fn agent(&self, id: &str) -> Result<Agent, Error> {
        self.json(Call::managed(Method::GET, &["agents", id])).await
    }

    /// One page of agents.
    pub async fn agents(&self, query: &AgentListQuery) -> Result<List<Agent>, Error> {
        let AgentListQuery { search, sort, order, limit, offset } = query;
        let call = Call::managed(Method::GET, &["agents"])
            .query("search", search.as_ref())
            .query("sort", sort.as_ref())
            .query("order", order.as_ref())
            .query("limit", *limit)
            .query("offset", *offset);
        self.json(call).await
    }

    /// Changes an agent; absent fields stay.
    pub async fn update_agent(&self, id: &str, edit: &PatchAgent) -> Result<Agent, Error> {
        self.json(Call::managed(Method::PATCH, &["agents", id]).body(edit)).await
    }

    /// Deletes an agent and ends its sessions.
    pub async fn delete_agent(&self, id: &str) -> Result<(), Error> {
        self.empty(Call::managed(Method::DELETE, &["agents", id])).await
    }
}
