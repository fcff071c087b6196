//! Sessions: opened, read, named, stopped, deleted. All of it is intent in the store; the reconciler acts on it.

use std::collections::BTreeMap;
use std::time::Duration;

use lap_api::message::Attachment;
use lap_domain::budget::Budget;
use lap_domain::egress::SessionLists;
use lap_domain::ids::{AgentId, SessionId};
use lap_domain::secret::Secret;
use lap_domain::session::{EndReason, Phase, Session, SessionEvent, SessionState};
use lap_domain::usage::ModelSpend;
use lap_store::StoreError;

use crate::live::SessionVars;
use crate::{Engine, EngineError, Page, bringup, fresh_id, now, whole};

/// What a session is opened with; `lap_domain::session::validate_new` has nothing against it.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    pub title: Option<String>,
    pub initial_prompt: Option<String>,
    pub initial_attachments: Vec<Attachment>,
    pub env_vars: BTreeMap<String, Secret>,
    pub plain_env_vars: Vec<String>,
    pub env_var_hosts: BTreeMap<String, Vec<String>>,
    pub branch: Option<String>,
    pub budget: Budget,
}

/// A session with what its harness adds, what it used and may use.
#[derive(Debug, Clone)]
pub struct SessionView {
    pub session: Session,
    pub supports_tui: bool,
    pub faces: Vec<String>,
    /// By model.
    pub used: Vec<ModelSpend>,
    pub budget: Budget,
    pub lists: SessionLists,
}

/// Which sessions to list.
#[derive(Debug, Clone, Default)]
pub struct SessionQuery {
    pub agent_id: Option<AgentId>,
    /// `creating`, `ready`, `failed` or `dead`.
    pub state: Option<String>,
    pub limit: u32,
    pub offset: u64,
}

impl Engine {
    /// Opens a session: it is stored and bring-up begins. Returns at once.
    pub async fn create_session(&self, agent: &AgentId, new: NewSession) -> Result<SessionView, EngineError> {
        let (engine, agent) = (self.clone(), agent.clone());
        whole(async move { engine.open_session(&agent, new).await }).await
    }

    async fn open_session(&self, agent: &AgentId, new: NewSession) -> Result<SessionView, EngineError> {
        let NewSession {
            title,
            initial_prompt,
            initial_attachments,
            env_vars,
            plain_env_vars,
            env_var_hosts,
            branch,
            budget,
        } = new;
        let vars = SessionVars { env_vars, plain_env_vars, env_var_hosts };
        let agent = self.inner.store.agent(agent).await?;
        self.installed_harness(&agent.harness_id)?;
        bringup::check_binding(&self.inner.config, &agent, &vars)?;
        let (id, at) = (SessionId::new(fresh_id()), now());
        let stubs = bringup::mint_stubs(&self.inner.config, &agent, &vars, BTreeMap::new());
        let first_turn = initial_prompt
            .as_deref()
            .map(|prompt| crate::turns::stored_turn(&id, prompt, initial_attachments, None, true, at));
        let session = Session {
            id: id.clone(),
            agent_id: agent.id.clone(),
            title,
            state: SessionState::Creating,
            phase: None,
            phase_detail: None,
            incarnation: 1,
            harness_id: agent.harness_id.clone(),
            harness_session_id: None,
            branch: agent.repo_url.is_some().then(|| branch.unwrap_or_else(|| agent.branch.clone())),
            commit: None,
            title_preview: initial_prompt.as_deref().and_then(lap_domain::session::title_preview),
            response: None,
            session_env_keys: vars.env_vars.keys().cloned().collect(),
            created_at: at,
            last_seen_at: at,
            idle_timeout_ms: self.inner.config.idle_timeout_ms,
        };
        // The secrets are in memory before the reconciler can see the session.
        self.inner.live.open(&id, vars, at);
        let token = crate::reconcile::fresh_boot_token();
        let boot_token = token.0.clone();
        self.inner.fresh.add(session.clone(), token);
        match self
            .inner
            .store
            .insert_session(lap_store::NewSession { session, stubs, first_turn, boot_token, budget })
            .await
        {
            Ok(session) => {
                self.inner.fresh.stored(&id);
                let lists = self.lists_of(&id).await?;
                Ok(self.shown(session, Vec::new(), budget, lists))
            }
            Err(problem) => {
                self.inner.fresh.drop(&id);
                self.inner.live.close(&id);
                Err(problem.into())
            }
        }
    }

    /// A session as it stands.
    pub async fn session(&self, id: &SessionId) -> Result<SessionView, EngineError> {
        self.session_view(self.inner.store.session(id).await?).await
    }

    /// Returns as soon as the session is no longer creating, or as it stands after `at_most`.
    pub async fn wait_while_creating(&self, id: &SessionId, at_most: Duration) -> Result<SessionView, EngineError> {
        let mut newest = self.inner.store.subscribe(id);
        let settled = async {
            loop {
                newest.borrow_and_update();
                let session = self.inner.store.session(id).await?;
                if session.state != SessionState::Creating || newest.changed().await.is_err() {
                    return self.session_view(session).await;
                }
            }
        };
        match tokio::time::timeout(at_most, settled).await {
            Ok(view) => view,
            Err(_) => self.session(id).await,
        }
    }

    /// A page of sessions, newest first.
    pub async fn sessions(&self, query: SessionQuery) -> Result<Page<SessionView>, EngineError> {
        let SessionQuery { agent_id, state, limit, offset } = query;
        let filter = lap_store::SessionFilter { agent_id, status: state, limit, offset };
        let page = self.inner.store.list_sessions(&filter).await?;
        let ids: Vec<&SessionId> = page.rows.iter().map(|session| &session.id).collect();
        let mut used = self.inner.store.usage_of_sessions(&ids).await?;
        let owners: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        let mut budgets = self.inner.store.budgets(&owners).await?;
        let mut lists = self.inner.store.lists_of_sessions(&owners).await?;
        let view = |session: Session| {
            let id = session.id.as_str();
            let (used, budget) = (used.remove(id).unwrap_or_default(), budgets.remove(id).unwrap_or_default());
            let lists = lists.remove(&session.id).unwrap_or_default();
            self.shown(session, used, budget, lists)
        };
        Ok(Page { rows: page.rows.into_iter().map(view).collect(), total: page.total })
    }

    /// Ends a session; its history stays. A finished one is returned unchanged.
    pub async fn stop_session(&self, id: &SessionId) -> Result<SessionView, EngineError> {
        loop {
            let session = self.inner.store.session(id).await?;
            if !session.state.wants_sandbox() {
                return self.session_view(session).await;
            }
            let end = SessionEvent::End { reason: EndReason::Stopped };
            match self.inner.store.apply(id, session.incarnation, end, now()).await {
                Ok(session) => {
                    self.inner.live.forget_vars(id);
                    self.inner.wake.notify_one();
                    return self.session_view(session).await;
                }
                // It ended or was restarted in between: look again.
                Err(StoreError::Illegal(_) | StoreError::StaleSandbox { .. }) => {}
                Err(problem) => return Err(problem.into()),
            }
        }
    }

    /// Deletes a session with its history; everything it held is released.
    pub async fn delete_session(&self, id: &SessionId) -> Result<(), EngineError> {
        let (engine, id) = (self.clone(), id.clone());
        whole(async move {
            engine.inner.store.delete_session(&id, now()).await?;
            engine.inner.live.close(&id);
            engine.remove_kept_logs(&id).await;
            engine.inner.wake.notify_one();
            Ok(())
        })
        .await
    }

    pub(crate) async fn session_view(&self, session: Session) -> Result<SessionView, EngineError> {
        let id = session.id.as_str();
        let used = self.inner.store.usage_of_sessions(&[&session.id]).await?.remove(id).unwrap_or_default();
        let budget = self.inner.store.budgets(&[id]).await?.remove(id).unwrap_or_default();
        let lists = self.lists_of(&session.id).await?;
        Ok(self.shown(session, used, budget, lists))
    }

    async fn lists_of(&self, id: &SessionId) -> Result<SessionLists, EngineError> {
        match self.inner.store.session_lists(id).await {
            Ok(lists) => Ok(lists),
            // Deleted since it was read; as it stood then it is still an answer.
            Err(StoreError::NotFound { .. }) => Ok(SessionLists::default()),
            Err(problem) => Err(problem.into()),
        }
    }

    fn shown(&self, mut session: Session, used: Vec<ModelSpend>, budget: Budget, lists: SessionLists) -> SessionView {
        // A session that is ready has left the phases behind.
        if session.state == SessionState::Ready {
            session.phase = Some(Phase::Ready);
        }
        let harness = self.known_harness(&session.harness_id);
        SessionView {
            session,
            supports_tui: harness.as_ref().is_some_and(|harness| harness.supports_tui),
            faces: harness.map(|harness| harness.faces.clone()).unwrap_or_default(),
            used,
            budget,
            lists,
        }
    }
}
