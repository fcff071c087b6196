//! Agents: stored, read, edited, deleted. Live sessions learn of changed values at once.

use lap_domain::agent::{Agent, AgentEdit, NewAgent, Warning};
use lap_domain::budget::BudgetEdit;
use lap_domain::egress::Entry;
use lap_domain::ids::AgentId;
use lap_domain::problem::Problem;
use lap_domain::usage::ModelSpend;
use lap_store::{AgentFilter, AgentSort, Order};

use crate::live::SessionVars;
use crate::{Engine, EngineError, Page, bringup, fresh_id, now, whole};

/// An agent with what is derived of it.
#[derive(Debug, Clone)]
pub struct AgentView {
    pub agent: Agent,
    pub warnings: Vec<Warning>,
    pub supports_tui: bool,
    /// By model.
    pub used: Vec<ModelSpend>,
    pub session_count: u64,
    pub has_active_session: bool,
}

/// Which agents to list, and how.
#[derive(Debug, Clone)]
pub struct AgentQuery {
    /// Looked for in name, id and harness.
    pub search: Option<String>,
    pub sort: AgentSort,
    pub order: Order,
    pub limit: u32,
    pub offset: u64,
}

impl Engine {
    /// Stores a new agent.
    pub async fn create_agent(&self, new: NewAgent) -> Result<AgentView, EngineError> {
        let harnesses = self.known_harness_ids();
        let harnesses: Vec<&str> = harnesses.iter().map(String::as_str).collect();
        let agent = lap_domain::agent::create(new, AgentId::new(fresh_id()), &harnesses, now())
            .map_err(EngineError::Invalid)?;
        bringup::check_binding(&self.inner.config, &agent, &SessionVars::default())?;
        self.inner.store.insert_agent(&agent).await?;
        Ok(self.agent_view(agent, Vec::new(), 0, false))
    }

    /// An agent as it stands.
    pub async fn agent(&self, id: &AgentId) -> Result<AgentView, EngineError> {
        let agent = self.inner.store.agent(id).await?;
        self.agent_with_usage(agent).await
    }

    /// A page of agents.
    pub async fn agents(&self, query: AgentQuery) -> Result<Page<AgentView>, EngineError> {
        let AgentQuery { search, sort, order, limit, offset } = query;
        let page = self.inner.store.list_agents(&AgentFilter { search, sort, order, limit, offset }).await?;
        let ids: Vec<&AgentId> = page.rows.iter().map(|row| &row.agent.id).collect();
        let mut used = self.inner.store.usage_of_agents(&ids).await?;
        let view = |row: lap_store::AgentRow| {
            let used = used.remove(row.agent.id.as_str()).unwrap_or_default();
            self.agent_view(row.agent, used, row.session_count, row.has_active_session)
        };
        Ok(Page { rows: page.rows.into_iter().map(view).collect(), total: page.total })
    }

    /// Edits an agent. Changed values reach the vaults of live sessions before this returns; the rest applies to new ones.
    pub async fn update_agent(&self, id: &AgentId, edit: AgentEdit) -> Result<AgentView, EngineError> {
        let (engine, id) = (self.clone(), id.clone());
        whole(async move { engine.edit_agent(&id, edit).await }).await
    }

    async fn edit_agent(&self, id: &AgentId, edit: AgentEdit) -> Result<AgentView, EngineError> {
        let config = self.inner.config.clone();
        let limits_changed = edit.budget != BudgetEdit::default();
        let changed = self.inner.store.update_agent(id, move |agent| {
            let agent = lap_domain::agent::edit(&agent, edit, now()).map_err(EngineError::Invalid)?;
            bringup::check_binding(&config, &agent, &SessionVars::default())?;
            Ok::<Agent, EngineError>(agent)
        });
        let agent = changed.await??;
        for session in self.inner.store.live_sessions().await?.iter().filter(|session| session.agent_id == agent.id) {
            // One session's trouble must not keep the others from hearing of it.
            let sent = async {
                self.send_grants(session).await?;
                if limits_changed { self.send_budget(session).await } else { Ok(()) }
            };
            if let Err(problem) = sent.await {
                tracing::error!(session.id = %session.id, problem = &problem as &dyn std::error::Error, "could not send new grants");
            }
        }
        self.agent_with_usage(agent).await
    }

    /// Deletes an agent; its sessions end, their history stays.
    pub async fn delete_agent(&self, id: &AgentId) -> Result<(), EngineError> {
        let (engine, id) = (self.clone(), id.clone());
        whole(async move {
            for session in engine.inner.store.delete_agent(&id, now()).await? {
                engine.inner.live.forget_vars(&session.id);
            }
            engine.inner.wake.notify_one();
            Ok(())
        })
        .await
    }

    fn warnings_of(&self, agent: &Agent) -> Vec<Warning> {
        let passthrough: Vec<Entry> =
            self.inner.config.passthrough.iter().filter_map(|entry| Entry::parse(entry).ok()).collect();
        let mut warnings = lap_domain::agent::warnings(agent);
        warnings.extend(lap_domain::agent::unread_hosts(agent, &passthrough));
        warnings
    }

    async fn agent_with_usage(&self, agent: Agent) -> Result<AgentView, EngineError> {
        let used = self.inner.store.usage_of_agents(&[&agent.id]).await?.remove(agent.id.as_str()).unwrap_or_default();
        Ok(self.agent_view(agent, used, 0, false))
    }

    fn agent_view(
        &self,
        agent: Agent,
        used: Vec<ModelSpend>,
        session_count: u64,
        has_active_session: bool,
    ) -> AgentView {
        let supports_tui = self.known_harness(&agent.harness_id).is_some_and(|harness| harness.supports_tui);
        AgentView { warnings: self.warnings_of(&agent), supports_tui, used, session_count, has_active_session, agent }
    }
}

impl From<Vec<Problem>> for EngineError {
    fn from(problems: Vec<Problem>) -> Self {
        EngineError::Invalid(problems)
    }
}
