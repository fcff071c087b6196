//! A session opened for change inside a transaction: read once, moved, its facts appended, written back once.

use lap_domain::ids::{SessionId, TurnId};
use lap_domain::session::{Phase, Session, SessionEvent, SessionState};
use lap_domain::time::Timestamp;
use sqlx::SqliteConnection;

use crate::events::EventBody;
use crate::sessions::SessionRow;
use crate::turns::NewTurn;
use crate::{StoreError, facts, numbers, session_egress};

/// The session and the transaction it is changed in. Nothing is kept unless [`Change::save`] is called and the
/// transaction commits.
pub(crate) struct Change<'c> {
    pub(crate) db: &'c mut SqliteConnection,
    pub(crate) id: SessionId,
    pub(crate) session: Session,
    pub(crate) deleted: bool,
    last_event_id: i64,
    last_message: i64,
    last_turn: i64,
    last_egress_id: i64,
}

/// What was saved, for the answer and for the bell.
pub(crate) struct Saved {
    pub(crate) session: Session,
    pub(crate) newest: u64,
}

impl<'c> Change<'c> {
    /// Opens a session, also a deleted one.
    pub(crate) async fn load_any(db: &'c mut SqliteConnection, id: &SessionId) -> Result<Self, StoreError> {
        let key = id.as_str();
        let row =
            sqlx::query_as!(SessionRow, "SELECT * FROM sessions WHERE id = ?1", key).fetch_optional(&mut *db).await?;
        let row = row.ok_or_else(|| StoreError::no_session(id))?;
        let SessionRow { deleted_at, last_event_id, last_message, last_turn, last_egress_id, .. } = row;
        let session = row.into_domain()?;
        let deleted = deleted_at.is_some();
        Ok(Self { db, id: id.clone(), session, deleted, last_event_id, last_message, last_turn, last_egress_id })
    }

    /// Opens a session that was not deleted.
    pub(crate) async fn load(db: &'c mut SqliteConnection, id: &SessionId) -> Result<Self, StoreError> {
        let change = Self::load_any(db, id).await?;
        if change.deleted { Err(StoreError::no_session(id)) } else { Ok(change) }
    }

    /// Opens a session for the sandbox `incarnation`, if that one still counts.
    pub(crate) async fn load_current(
        db: &'c mut SqliteConnection,
        id: &SessionId,
        incarnation: u32,
    ) -> Result<Self, StoreError> {
        let change = Self::load(db, id).await?;
        match change.session.incarnation {
            current if current == incarnation => Ok(change),
            current => Err(StoreError::StaleSandbox { current }),
        }
    }

    /// Appends a fact to the session's log.
    pub(crate) async fn event(&mut self, at: Timestamp, event: &EventBody) -> Result<u64, StoreError> {
        let EventBody { kind, data } = event;
        self.last_event_id += 1;
        let session = self.id.as_str();
        sqlx::query!(
            "INSERT INTO events (session_id, id, at, kind, data) VALUES (?1, ?2, ?3, ?4, ?5)",
            session,
            self.last_event_id,
            at.0,
            kind,
            data
        )
        .execute(&mut *self.db)
        .await?;
        Ok(numbers::from_sql(self.last_event_id))
    }

    /// Moves the session, with everything that goes with the move: the turns that nobody will answer any more fail first.
    pub(crate) async fn apply(&mut self, event: SessionEvent, now: Timestamp) -> Result<(), StoreError> {
        let restart = event == SessionEvent::Restart;
        let next = self.session.state.apply(event)?;
        match &next {
            SessionState::Ready => {
                self.session.phase = Some(Phase::Ready);
                self.session.phase_detail = None;
                self.session.last_seen_at = self.session.last_seen_at.max(now);
            }
            SessionState::Creating => {
                self.fail_open_turns("session_ended", "the session was restarted before this turn was answered", now)
                    .await?;
                self.session.phase = None;
                self.session.phase_detail = None;
                self.session.last_seen_at = self.session.last_seen_at.max(now);
            }
            SessionState::Failed { reason } => {
                let error = format!("the session failed: {reason}");
                self.fail_open_turns("session_failed", &error, now).await?;
            }
            SessionState::Dead { reason } => {
                let error = format!("the session ended ({}) before this turn was answered", reason.as_str());
                self.fail_open_turns("session_ended", &error, now).await?;
            }
        }
        if restart {
            self.session.incarnation += 1;
            self.new_sandbox().await?;
            session_egress::begin_again(self.db, &self.id).await?;
        }
        self.session.state = next;
        let fact = facts::state(&self.session.state);
        self.event(now, &fact).await?;
        Ok(())
    }

    /// Makes the row that counts the log of the current incarnation.
    pub(crate) async fn new_sandbox(&mut self) -> Result<(), StoreError> {
        let (session, incarnation) = (self.id.as_str(), i64::from(self.session.incarnation));
        sqlx::query!(
            "INSERT INTO sandboxes (session_id, incarnation, log_seq) VALUES (?1, ?2, 0)",
            session,
            incarnation
        )
        .execute(&mut *self.db)
        .await?;
        Ok(())
    }

    /// What the sidecar of this sandbox will prove itself with.
    pub(crate) async fn boot_token(&mut self, token: &str) -> Result<(), StoreError> {
        crate::sessions::set_boot_token(&mut *self.db, &self.id, self.session.incarnation, token).await?;
        Ok(())
    }

    /// Notes a phase if it is ahead of the last one and the session is still on its way.
    pub(crate) async fn phase(
        &mut self,
        phase: Phase,
        detail: Option<String>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let ahead = self.session.phase.is_none_or(|reached| phase > reached);
        if self.session.state != SessionState::Creating || !ahead {
            return Ok(false);
        }
        let fact = facts::phase(phase, detail.as_deref());
        self.session.phase = Some(phase);
        self.session.phase_detail = detail;
        self.event(now, &fact).await?;
        Ok(true)
    }

    /// Notes activity.
    pub(crate) fn seen(&mut self, at: Timestamp) {
        self.session.last_seen_at = self.session.last_seen_at.max(at);
    }

    /// Stores a message at the end of the conversation; the same message again replaces what the agent said before, and
    /// never what the user said.
    pub(crate) async fn message(
        &mut self,
        at: Timestamp,
        id: &str,
        turn: &TurnId,
        role: &str,
        data: &str,
    ) -> Result<(), StoreError> {
        self.last_message += 1;
        let (session, turn) = (self.id.as_str(), turn.as_str());
        sqlx::query!(
            "INSERT INTO messages (session_id, position, id, turn_id, role, at, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (session_id, id) DO UPDATE SET data = excluded.data
             WHERE messages.role <> 'user' AND messages.turn_id = excluded.turn_id",
            session,
            self.last_message,
            id,
            turn,
            role,
            at.0,
            data
        )
        .execute(&mut *self.db)
        .await?;
        Ok(())
    }

    /// Queues a turn with its message and its event.
    pub(crate) async fn queue(&mut self, new: &NewTurn, initial: bool) -> Result<(), StoreError> {
        let NewTurn { id, session_id: _, idempotency, input, message_id, message, event, title_preview, at } = new;
        self.last_turn += 1;
        let (session, turn) = (self.id.as_str(), id.as_str());
        let key = idempotency.as_ref().map(|it| it.key.as_str());
        let hmac = idempotency.as_ref().map(|it| it.body_hmac.as_slice());
        sqlx::query!(
            "INSERT INTO turns (id, session_id, position, state, initial, idempotency_key, body_hmac, created_at, input)
             VALUES (?1, ?2, ?3, 'queued', ?4, ?5, ?6, ?7, ?8)",
            turn,
            session,
            self.last_turn,
            initial,
            key,
            hmac,
            at.0,
            input
        )
        .execute(&mut *self.db)
        .await?;
        self.message(*at, message_id, id, "user", message).await?;
        self.event(*at, event).await?;
        if self.session.title_preview.is_none() {
            self.session.title_preview.clone_from(title_preview);
        }
        self.seen(*at);
        Ok(())
    }

    /// Fails one turn if it is still open; says whether it was.
    pub(crate) async fn fail_turn(
        &mut self,
        turn: &TurnId,
        code: &str,
        error: &str,
        fact: &EventBody,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let (session, id) = (self.id.as_str(), turn.as_str());
        let moved = sqlx::query!(
            "UPDATE turns SET state = 'failed', error_code = ?3, error = ?4, input = NULL
             WHERE session_id = ?1 AND id = ?2 AND state IN ('queued', 'sent')",
            session,
            id,
            code,
            error
        )
        .execute(&mut *self.db)
        .await?;
        if moved.rows_affected() == 0 {
            return Ok(false);
        }
        self.event(at, fact).await?;
        Ok(true)
    }

    /// Fails every turn that is not over, oldest first.
    pub(crate) async fn fail_open_turns(
        &mut self,
        code: &str,
        error: &str,
        at: Timestamp,
    ) -> Result<Vec<TurnId>, StoreError> {
        let session = self.id.as_str();
        let open = sqlx::query_scalar!(
            "SELECT id FROM turns WHERE session_id = ?1 AND state IN ('queued', 'sent') ORDER BY position",
            session
        )
        .fetch_all(&mut *self.db)
        .await?;
        let open: Vec<TurnId> = open.into_iter().map(TurnId::new).collect();
        for turn in &open {
            let fact = facts::turn_failed(turn, code, error);
            self.fail_turn(turn, code, error, &fact, at).await?;
        }
        Ok(open)
    }

    /// The next number of the egress record.
    pub(crate) fn next_egress_id(&mut self) -> i64 {
        self.last_egress_id += 1;
        self.last_egress_id
    }

    /// The newest event's number.
    pub(crate) fn newest(&self) -> u64 {
        numbers::from_sql(self.last_event_id)
    }

    /// Writes the session back.
    pub(crate) async fn save(self) -> Result<Saved, StoreError> {
        let newest = self.newest();
        let row = SessionRow::from_domain(&self.session);
        let SessionRow {
            id,
            agent_id: _,
            title,
            state,
            failure_reason,
            end_reason,
            phase,
            phase_detail,
            incarnation,
            harness_id: _,
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
            created_at: _,
            last_seen_at,
            idle_timeout_ms: _,
            last_event_id: _,
            last_message: _,
            last_turn: _,
            last_egress_id: _,
            deleted_at: _,
        } = row;
        sqlx::query!(
            "UPDATE sessions SET title = ?2, state = ?3, failure_reason = ?4, end_reason = ?5, phase = ?6, phase_detail = ?7,
                incarnation = ?8, harness_session_id = ?9, branch = ?10, commit_id = ?11, title_preview = ?12, response = ?13,
                session_env_keys = ?14, last_seen_at = ?15, last_event_id = ?16, last_message = ?17, last_turn = ?18,
                last_egress_id = ?19
             WHERE id = ?1",
            id,
            title,
            state,
            failure_reason,
            end_reason,
            phase,
            phase_detail,
            incarnation,
            harness_session_id,
            branch,
            commit_id,
            title_preview,
            response,
            session_env_keys,
            last_seen_at,
            self.last_event_id,
            self.last_message,
            self.last_turn,
            self.last_egress_id
        )
        .execute(&mut *self.db)
        .await?;
        Ok(Saved { session: self.session, newest })
    }
}
