//! Sessions and their sandboxes.

use std::collections::BTreeMap;

use aws_lc_rs::{constant_time, digest};
use lap_domain::budget::Budget;
use lap_domain::ids::{AgentId, SessionId};
use lap_domain::session::{EndReason, Phase, Session, SessionEvent, SessionState};
use lap_domain::time::Timestamp;
use sqlx::SqliteConnection;

use crate::change::Change;
use crate::turns::NewTurn;
use crate::usage::write_budget;
use crate::{Page, Store, StoreError, facts, numbers, session_egress};

/// A session to insert.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// State `Creating`, incarnation 1.
    pub session: Session,
    /// Variable → stub.
    pub stubs: BTreeMap<String, String>,
    /// The prompt given at creation.
    pub first_turn: Option<NewTurn>,
    /// What the sidecar of the first sandbox will prove itself with.
    pub boot_token: String,
    /// What its model calls may use.
    pub budget: Budget,
}

/// Which sessions to list.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// Of this agent.
    pub agent_id: Option<AgentId>,
    /// In this state, by name.
    pub status: Option<String>,
    /// Rows of a page.
    pub limit: u32,
    /// Rows before it.
    pub offset: u64,
}

/// How many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Agents that were not deleted.
    pub agents: u64,
    /// Sessions on their way.
    pub creating: u64,
    /// Sessions that take turns.
    pub ready: u64,
    /// Sessions whose bring-up failed.
    pub failed: u64,
    /// Sessions that are over.
    pub dead: u64,
}

impl Store {
    /// Inserts a session with its first events and, when there is one, its first turn.
    pub async fn insert_session(&self, new: NewSession) -> Result<Session, StoreError> {
        let NewSession { session, stubs, first_turn, boot_token, budget } = new;
        let id = session.id.clone();
        let mut tx = self.begin().await?;
        require_agent(&mut tx, &session.agent_id).await?;
        insert_row(&mut tx, &session).await?;
        insert_stubs(&mut tx, &id, &stubs).await?;
        write_budget(&mut tx, id.as_str(), &budget).await?;
        session_egress::begin(&mut tx, &id).await?;
        let mut change = Change::load(&mut tx, &id).await?;
        change.new_sandbox().await?;
        change.boot_token(&boot_token).await?;
        let fact = facts::state(&change.session.state);
        change.event(session.created_at, &fact).await?;
        if let Some(turn) = &first_turn {
            change.queue(turn, true).await?;
        }
        let saved = change.save().await?;
        self.commit_and_ring(tx, &id, saved.newest).await?;
        Ok(saved.session)
    }

    /// A session.
    pub async fn session(&self, id: &SessionId) -> Result<Session, StoreError> {
        let key = id.as_str();
        let row = sqlx::query_as!(SessionRow, "SELECT * FROM sessions WHERE id = ?1 AND deleted_at IS NULL", key)
            .fetch_optional(self.readers())
            .await?;
        row.ok_or_else(|| StoreError::no_session(id))?.into_domain()
    }

    /// A page of sessions, newest first.
    pub async fn list_sessions(&self, filter: &SessionFilter) -> Result<Page<Session>, StoreError> {
        let SessionFilter { agent_id, status, limit, offset } = filter;
        let agent = agent_id.as_ref().map(AgentId::as_str);
        let (limit, offset) = (i64::from(*limit), numbers::to_sql(*offset));
        let rows = sqlx::query_as!(
            SessionRow,
            "SELECT * FROM sessions
             WHERE deleted_at IS NULL AND (?1 IS NULL OR agent_id = ?1) AND (?2 IS NULL OR state = ?2)
             ORDER BY created_at DESC, id DESC LIMIT ?3 OFFSET ?4",
            agent,
            status,
            limit,
            offset
        )
        .fetch_all(self.readers())
        .await?;
        let total = sqlx::query_scalar!(
            "SELECT COUNT(*) FROM sessions
             WHERE deleted_at IS NULL AND (?1 IS NULL OR agent_id = ?1) AND (?2 IS NULL OR state = ?2)",
            agent,
            status
        )
        .fetch_one(self.readers())
        .await?;
        Ok(Page { rows: into_domain(rows)?, total: numbers::from_sql(total) })
    }

    /// Every session that wants a sandbox, oldest first. As many as the node holds sandboxes, hence no pages.
    pub async fn live_sessions(&self) -> Result<Vec<Session>, StoreError> {
        let rows = sqlx::query_as!(
            SessionRow,
            "SELECT * FROM sessions WHERE deleted_at IS NULL AND state IN ('creating', 'ready') ORDER BY created_at, id"
        )
        .fetch_all(self.readers())
        .await?;
        into_domain(rows)
    }

    /// Ready sessions whose idle timeout has passed and that have no turn to work on.
    pub async fn idle_sessions(&self, now: Timestamp) -> Result<Vec<Session>, StoreError> {
        let rows = sqlx::query_as!(
            SessionRow,
            "SELECT * FROM sessions
             WHERE deleted_at IS NULL AND state IN ('creating', 'ready') AND state = 'ready'
                AND last_seen_at + idle_timeout_ms <= ?1
                AND NOT EXISTS (SELECT 1 FROM turns WHERE turns.session_id = sessions.id AND turns.state IN ('queued', 'sent'))
             ORDER BY last_seen_at, id",
            now.0
        )
        .fetch_all(self.readers())
        .await?;
        into_domain(rows)
    }

    /// Moves a session; state and `session.state` event are stored together. When the move ends the session's sandbox,
    /// its open turns fail with it.
    pub async fn apply(
        &self,
        id: &SessionId,
        incarnation: u32,
        event: SessionEvent,
        now: Timestamp,
    ) -> Result<Session, StoreError> {
        let mut tx = self.begin().await?;
        if event == SessionEvent::Restart {
            require_agent_of(&mut tx, id).await?;
        }
        let mut change = Change::load_current(&mut tx, id, incarnation).await?;
        change.apply(event, now).await?;
        let saved = change.save().await?;
        self.commit_and_ring(tx, id, saved.newest).await?;
        Ok(saved.session)
    }

    /// Notes progress of a bring-up. False, and nothing stored, when the session is not creating or was further already.
    pub async fn set_phase(
        &self,
        id: &SessionId,
        incarnation: u32,
        phase: Phase,
        detail: Option<String>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let mut change = Change::load_current(&mut tx, id, incarnation).await?;
        if !change.phase(phase, detail, now).await? {
            return Ok(false);
        }
        let saved = change.save().await?;
        self.commit_and_ring(tx, id, saved.newest).await?;
        Ok(true)
    }

    /// Notes what was cloned.
    pub async fn set_repo(
        &self,
        id: &SessionId,
        branch: Option<String>,
        commit: Option<String>,
    ) -> Result<(), StoreError> {
        let key = id.as_str();
        let done = sqlx::query!(
            "UPDATE sessions SET branch = COALESCE(?2, branch), commit_id = COALESCE(?3, commit_id)
             WHERE id = ?1 AND deleted_at IS NULL",
            key,
            branch,
            commit
        )
        .execute(&self.shared.writer)
        .await?;
        found(id, done.rows_affected())
    }

    /// Renames a session.
    pub async fn set_title(&self, id: &SessionId, title: Option<String>) -> Result<Session, StoreError> {
        let mut tx = self.begin().await?;
        let mut change = Change::load(&mut tx, id).await?;
        change.session.title = title;
        let saved = change.save().await?;
        tx.commit().await?;
        Ok(saved.session)
    }

    /// Notes which variables the session was given; never their values.
    pub async fn set_session_env_keys(&self, id: &SessionId, keys: Vec<String>) -> Result<(), StoreError> {
        let (key, keys) = (id.as_str(), numbers::to_json(&keys));
        let done =
            sqlx::query!("UPDATE sessions SET session_env_keys = ?2 WHERE id = ?1 AND deleted_at IS NULL", key, keys)
                .execute(&self.shared.writer)
                .await?;
        found(id, done.rows_affected())
    }

    /// Notes activity.
    pub async fn touch(&self, id: &SessionId, now: Timestamp) -> Result<(), StoreError> {
        let key = id.as_str();
        let done = sqlx::query!(
            "UPDATE sessions SET last_seen_at = MAX(last_seen_at, ?2) WHERE id = ?1 AND deleted_at IS NULL",
            key,
            now.0
        )
        .execute(&self.shared.writer)
        .await?;
        found(id, done.rows_affected())
    }

    /// Deletes a session: its log, conversation and turns are erased, its egress lines and what its
    /// model calls used stay. Answers with the session as
    /// it was, so that its sandbox can be found; deleting it again answers likewise.
    pub async fn delete_session(&self, id: &SessionId, now: Timestamp) -> Result<Session, StoreError> {
        let mut tx = self.begin().await?;
        let mut change = Change::load_any(&mut tx, id).await?;
        let before = change.session.clone();
        if change.deleted {
            return Ok(before);
        }
        if change.session.state.wants_sandbox() {
            change.session.state = change.session.state.apply(SessionEvent::End { reason: EndReason::Stopped })?;
        }
        if let SessionState::Failed { reason } = &mut change.session.state {
            reason.clear();
        }
        change.session.title = None;
        change.session.phase_detail = None;
        change.session.harness_session_id = None;
        change.session.branch = None;
        change.session.commit = None;
        change.session.title_preview = None;
        change.session.response = None;
        change.session.session_env_keys = Vec::new();
        change.save().await?;
        let key = id.as_str();
        sqlx::query!("UPDATE sessions SET deleted_at = ?2 WHERE id = ?1", key, now.0).execute(&mut *tx).await?;
        sqlx::query!("UPDATE sandboxes SET boot_token_hash = NULL WHERE session_id = ?1", key)
            .execute(&mut *tx)
            .await?;
        sqlx::query!("DELETE FROM events WHERE session_id = ?1", key).execute(&mut *tx).await?;
        sqlx::query!("DELETE FROM messages WHERE session_id = ?1", key).execute(&mut *tx).await?;
        sqlx::query!("DELETE FROM turns WHERE session_id = ?1", key).execute(&mut *tx).await?;
        sqlx::query!("DELETE FROM session_stubs WHERE session_id = ?1", key).execute(&mut *tx).await?;
        sqlx::query!("DELETE FROM session_repositories WHERE session_id = ?1", key).execute(&mut *tx).await?;
        write_budget(&mut tx, key, &Budget::default()).await?;
        sqlx::query!("DELETE FROM session_egress WHERE session_id = ?1", key).execute(&mut *tx).await?;
        let gone = id.clone();
        self.commit(tx, move |wakers| wakers.close(&gone)).await?;
        Ok(before)
    }

    /// The session's stubs by variable.
    pub async fn stubs(&self, id: &SessionId) -> Result<BTreeMap<String, String>, StoreError> {
        let key = id.as_str();
        let rows = sqlx::query!("SELECT key, stub FROM session_stubs WHERE session_id = ?1", key)
            .fetch_all(self.readers())
            .await?;
        Ok(rows.into_iter().map(|row| (row.key, row.stub)).collect())
    }

    /// Gives new variables their stubs; a variable that has one keeps it. Answers with all of them.
    pub async fn add_stubs(
        &self,
        id: &SessionId,
        stubs: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, StoreError> {
        let mut tx = self.begin().await?;
        Change::load(&mut tx, id).await?;
        insert_stubs(&mut tx, id, &stubs).await?;
        tx.commit().await?;
        self.stubs(id).await
    }

    /// Notes the repository for which the session's sandbox gets tokens of the platform's own; none: it gets none.
    pub async fn set_token_repository(&self, id: &SessionId, repository: Option<&str>) -> Result<(), StoreError> {
        let key = id.as_str();
        let mut tx = self.begin().await?;
        Change::load(&mut tx, id).await?;
        sqlx::query!("DELETE FROM session_repositories WHERE session_id = ?1", key).execute(&mut *tx).await?;
        if let Some(repository) = repository {
            sqlx::query!("INSERT INTO session_repositories (session_id, repository) VALUES (?1, ?2)", key, repository)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The repository for which the session's sandbox gets tokens of the platform's own.
    pub async fn token_repository(&self, id: &SessionId) -> Result<Option<String>, StoreError> {
        let key = id.as_str();
        let query = sqlx::query_scalar!("SELECT repository FROM session_repositories WHERE session_id = ?1", key);
        Ok(query.fetch_optional(self.readers()).await?)
    }

    /// Notes what the sidecar of `incarnation` will prove itself with. Only the token's hash is kept.
    pub async fn set_boot_token(&self, id: &SessionId, incarnation: u32, token: &str) -> Result<(), StoreError> {
        let mut writer = self.shared.writer.acquire().await?;
        found(id, set_boot_token(&mut writer, id, incarnation, token).await?)
    }

    /// Whether this is the token of the sidecar of `incarnation`. Takes the same time for every wrong one.
    pub async fn boot_token_matches(&self, id: &SessionId, incarnation: u32, token: &str) -> Result<bool, StoreError> {
        let (key, number) = (id.as_str(), i64::from(incarnation));
        let kept = sqlx::query_scalar!(
            "SELECT boot_token_hash FROM sandboxes WHERE session_id = ?1 AND incarnation = ?2",
            key,
            number
        )
        .fetch_optional(self.readers())
        .await?
        .flatten();
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        Ok(kept.is_some_and(|kept| constant_time::verify_slices_are_equal(&kept, hash.as_ref()).is_ok()))
    }

    /// The number of the newest entry of the sandbox's log that is stored; 0 for none.
    pub async fn log_seq(&self, id: &SessionId, incarnation: u32) -> Result<u64, StoreError> {
        let (key, number) = (id.as_str(), i64::from(incarnation));
        let seq = sqlx::query_scalar!(
            "SELECT log_seq FROM sandboxes WHERE session_id = ?1 AND incarnation = ?2",
            key,
            number
        )
        .fetch_optional(self.readers())
        .await?;
        seq.map(numbers::from_sql).ok_or_else(|| StoreError::no_session(id))
    }

    /// How many agents and sessions there are.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let agents = sqlx::query_scalar!("SELECT COUNT(*) FROM agents WHERE deleted_at IS NULL")
            .fetch_one(self.readers())
            .await?;
        let mut counts = Counts { agents: numbers::from_sql(agents), ..Counts::default() };
        let rows =
            sqlx::query!("SELECT state, COUNT(*) AS number FROM sessions WHERE deleted_at IS NULL GROUP BY state")
                .fetch_all(self.readers())
                .await?;
        for row in rows {
            let number = numbers::from_sql(row.number);
            match row.state.as_str() {
                "creating" => counts.creating = number,
                "ready" => counts.ready = number,
                "failed" => counts.failed = number,
                _ => counts.dead = number,
            }
        }
        Ok(counts)
    }
}

/// A row of `sessions`, in the order of its columns.
#[derive(Debug)]
pub(crate) struct SessionRow {
    pub(crate) id: String,
    pub(crate) agent_id: String,
    pub(crate) title: Option<String>,
    pub(crate) state: String,
    pub(crate) failure_reason: Option<String>,
    pub(crate) end_reason: Option<String>,
    pub(crate) phase: Option<String>,
    pub(crate) phase_detail: Option<String>,
    pub(crate) incarnation: i64,
    pub(crate) harness_id: String,
    pub(crate) harness_session_id: Option<String>,
    pub(crate) branch: Option<String>,
    pub(crate) commit_id: Option<String>,
    pub(crate) title_preview: Option<String>,
    pub(crate) response: Option<String>,
    pub(crate) session_env_keys: String,
    // Sums of what harnesses said of themselves; no longer kept, the table of what was metered is.
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) cached_tokens: i64,
    pub(crate) cost_usd: Option<f64>,
    pub(crate) created_at: i64,
    pub(crate) last_seen_at: i64,
    pub(crate) idle_timeout_ms: i64,
    pub(crate) last_event_id: i64,
    pub(crate) last_message: i64,
    pub(crate) last_turn: i64,
    pub(crate) last_egress_id: i64,
    pub(crate) deleted_at: Option<i64>,
}

impl SessionRow {
    pub(crate) fn into_domain(self) -> Result<Session, StoreError> {
        let Self {
            id,
            agent_id,
            title,
            state,
            failure_reason,
            end_reason,
            phase,
            phase_detail,
            incarnation,
            harness_id,
            harness_session_id,
            branch,
            commit_id,
            title_preview,
            response,
            session_env_keys,
            input_tokens: _,
            output_tokens: _,
            cached_tokens: _,
            cost_usd: _,
            created_at,
            last_seen_at,
            idle_timeout_ms,
            last_event_id: _,
            last_message: _,
            last_turn: _,
            last_egress_id: _,
            deleted_at: _,
        } = self;
        let unknown = |what: &str| StoreError::Corrupt(format!("session {id}: unknown {what}"));
        let state = match state.as_str() {
            "creating" => SessionState::Creating,
            "ready" => SessionState::Ready,
            "failed" => SessionState::Failed { reason: failure_reason.unwrap_or_default() },
            "dead" => {
                let reason = end_reason.as_deref().and_then(EndReason::parse).ok_or_else(|| unknown("end reason"))?;
                SessionState::Dead { reason }
            }
            _ => return Err(unknown("state")),
        };
        let phase = phase.map(|name| Phase::parse(&name).ok_or_else(|| unknown("phase"))).transpose()?;
        Ok(Session {
            agent_id: AgentId::new(agent_id),
            title,
            state,
            phase,
            phase_detail,
            incarnation: numbers::small(incarnation),
            harness_id,
            harness_session_id,
            branch,
            commit: commit_id,
            title_preview,
            response,
            session_env_keys: numbers::from_json("sessions.session_env_keys", &session_env_keys)?,
            created_at: Timestamp(created_at),
            last_seen_at: Timestamp(last_seen_at),
            idle_timeout_ms,
            id: SessionId::new(id),
        })
    }

    /// The counters are the database's own and start at zero.
    pub(crate) fn from_domain(session: &Session) -> Self {
        let Session {
            id,
            agent_id,
            title,
            state,
            phase,
            phase_detail,
            incarnation,
            harness_id,
            harness_session_id,
            branch,
            commit,
            title_preview,
            response,
            session_env_keys,
            created_at,
            last_seen_at,
            idle_timeout_ms,
        } = session;
        let (failure_reason, end_reason) = match state {
            SessionState::Creating | SessionState::Ready => (None, None),
            SessionState::Failed { reason } => (Some(reason.clone()), None),
            SessionState::Dead { reason } => (None, Some(reason.as_str().to_owned())),
        };
        Self {
            id: id.to_string(),
            agent_id: agent_id.to_string(),
            title: title.clone(),
            state: state.as_str().to_owned(),
            failure_reason,
            end_reason,
            phase: phase.map(|phase| phase.as_str().to_owned()),
            phase_detail: phase_detail.clone(),
            incarnation: i64::from(*incarnation),
            harness_id: harness_id.clone(),
            harness_session_id: harness_session_id.clone(),
            branch: branch.clone(),
            commit_id: commit.clone(),
            title_preview: title_preview.clone(),
            response: response.clone(),
            session_env_keys: numbers::to_json(session_env_keys),
            input_tokens: 0,
            output_tokens: 0,
            cached_tokens: 0,
            cost_usd: None,
            created_at: created_at.0,
            last_seen_at: last_seen_at.0,
            idle_timeout_ms: *idle_timeout_ms,
            last_event_id: 0,
            last_message: 0,
            last_turn: 0,
            last_egress_id: 0,
            deleted_at: None,
        }
    }
}

fn into_domain(rows: Vec<SessionRow>) -> Result<Vec<Session>, StoreError> {
    rows.into_iter().map(SessionRow::into_domain).collect()
}

fn found(id: &SessionId, rows: u64) -> Result<(), StoreError> {
    if rows == 0 { Err(StoreError::no_session(id)) } else { Ok(()) }
}

/// A session needs an agent that exists.
async fn require_agent(db: &mut SqliteConnection, id: &AgentId) -> Result<(), StoreError> {
    let key = id.as_str();
    let deleted = sqlx::query_scalar!("SELECT deleted_at FROM agents WHERE id = ?1", key).fetch_optional(db).await?;
    match deleted {
        None => Err(StoreError::no_agent(id)),
        Some(Some(_)) => Err(StoreError::AgentDeleted),
        Some(None) => Ok(()),
    }
}

async fn require_agent_of(db: &mut SqliteConnection, id: &SessionId) -> Result<(), StoreError> {
    let key = id.as_str();
    let agent =
        sqlx::query_scalar!("SELECT agent_id FROM sessions WHERE id = ?1", key).fetch_optional(&mut *db).await?;
    let agent = agent.ok_or_else(|| StoreError::no_session(id))?;
    require_agent(db, &AgentId::new(agent)).await
}

async fn insert_row(db: &mut SqliteConnection, session: &Session) -> Result<(), StoreError> {
    let row = SessionRow::from_domain(session);
    sqlx::query!(
        "INSERT INTO sessions (id, agent_id, title, state, failure_reason, end_reason, phase, phase_detail, incarnation,
            harness_id, harness_session_id, branch, commit_id, title_preview, response, session_env_keys, input_tokens,
            output_tokens, cached_tokens, cost_usd, created_at, last_seen_at, idle_timeout_ms, last_event_id, last_message,
            last_turn, last_egress_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23,
            0, 0, 0, 0)",
        row.id,
        row.agent_id,
        row.title,
        row.state,
        row.failure_reason,
        row.end_reason,
        row.phase,
        row.phase_detail,
        row.incarnation,
        row.harness_id,
        row.harness_session_id,
        row.branch,
        row.commit_id,
        row.title_preview,
        row.response,
        row.session_env_keys,
        row.input_tokens,
        row.output_tokens,
        row.cached_tokens,
        row.cost_usd,
        row.created_at,
        row.last_seen_at,
        row.idle_timeout_ms
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Keeps a boot token's hash; the number of rows that were there for it.
pub(crate) async fn set_boot_token(
    connection: &mut sqlx::SqliteConnection,
    id: &SessionId,
    incarnation: u32,
    token: &str,
) -> Result<u64, StoreError> {
    let (key, number) = (id.as_str(), i64::from(incarnation));
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    let hash = hash.as_ref();
    let done = sqlx::query!(
        "UPDATE sandboxes SET boot_token_hash = ?3 WHERE session_id = ?1 AND incarnation = ?2",
        key,
        number,
        hash
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn insert_stubs(
    db: &mut SqliteConnection,
    id: &SessionId,
    stubs: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    let session = id.as_str();
    for (key, stub) in stubs {
        sqlx::query!(
            "INSERT INTO session_stubs (session_id, key, stub) VALUES (?1, ?2, ?3) ON CONFLICT (session_id, key) DO NOTHING",
            session,
            key,
            stub
        )
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}
