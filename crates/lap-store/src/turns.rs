//! Turns: queued with their message, handed out once, over once.

use lap_domain::ids::{SessionId, TurnId};
use lap_domain::session::SessionState;
use lap_domain::time::Timestamp;
use lap_domain::turn::{Turn, TurnState};
use sqlx::SqliteConnection;

use crate::change::Change;
use crate::events::EventBody;
use crate::{Store, StoreError, facts, numbers};

/// A turn to queue.
#[derive(Debug, Clone)]
pub struct NewTurn {
    /// Its id.
    pub id: TurnId,
    /// Where it belongs.
    pub session_id: SessionId,
    /// Present when the caller may repeat the request.
    pub idempotency: Option<Idempotency>,
    /// JSON of what the harness is to be told. Kept until the turn is over.
    pub input: String,
    /// The user message's id.
    pub message_id: String,
    /// JSON of the user message.
    pub message: String,
    /// The `turn.queued` event.
    pub event: EventBody,
    /// First words, for a session that has no preview yet.
    pub title_preview: Option<String>,
    /// Now.
    pub at: Timestamp,
}

/// How a repeated request is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key.
    pub key: String,
    /// Keyed hash of the body.
    pub body_hmac: Vec<u8>,
}

/// A turn with what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnRecord {
    /// The turn.
    pub turn: Turn,
    /// As it was queued; none when the turn is over.
    pub input: Option<String>,
    /// JSON of the answer, once there is one.
    pub answer: Option<String>,
}

impl Store {
    /// Queues a turn of a ready session with its message and event, unless `max_waiting` turns wait. A repeated
    /// idempotency key answers with the turn it made the first time, in whatever state the session is by now.
    pub async fn insert_turn(&self, new: NewTurn, max_waiting: u32) -> Result<TurnRecord, StoreError> {
        let session = new.session_id.clone();
        let mut tx = self.begin().await?;
        let mut change = Change::load(&mut tx, &session).await?;
        if let Some(idempotency) = &new.idempotency
            && let Some(record) = repeated(change.db, &session, idempotency).await?
        {
            return Ok(record);
        }
        if change.session.state != SessionState::Ready {
            return Err(StoreError::SessionNotReady { state: change.session.state });
        }
        if waiting(change.db, &session).await? >= u64::from(max_waiting) {
            return Err(StoreError::TooManyTurns { limit: max_waiting });
        }
        change.queue(&new, false).await?;
        let saved = change.save().await?;
        self.commit_and_ring(tx, &session, saved.newest).await?;
        let turn = Turn { id: new.id, session_id: new.session_id, state: TurnState::Queued, created_at: new.at };
        Ok(TurnRecord { turn, input: Some(new.input), answer: None })
    }

    /// Takes the oldest queued turn of a ready session in which none is under way, and marks it sent before anybody
    /// sees it: whatever happens to the caller, it is not handed out a second time.
    pub async fn claim_next_turn(
        &self,
        session: &SessionId,
        incarnation: u32,
        now: Timestamp,
    ) -> Result<Option<TurnRecord>, StoreError> {
        let mut tx = self.begin().await?;
        let mut change = Change::load_current(&mut tx, session, incarnation).await?;
        if change.session.state != SessionState::Ready {
            return Ok(None);
        }
        let key = session.as_str();
        let claimed = sqlx::query_as!(
            TurnRow,
            r#"UPDATE turns SET state = 'sent'
               WHERE id = (SELECT id FROM turns WHERE session_id = ?1 AND state = 'queued' ORDER BY position LIMIT 1)
                 AND NOT EXISTS (SELECT 1 FROM turns WHERE session_id = ?1 AND state = 'sent')
               RETURNING id AS "id!", session_id AS "session_id!", state AS "state!", error_code, error, input, answer,
                 created_at AS "created_at!", body_hmac"#,
            key
        )
        .fetch_optional(&mut *change.db)
        .await?;
        let Some(row) = claimed else { return Ok(None) };
        change.seen(now);
        change.save().await?;
        tx.commit().await?;
        row.into_record().map(Some)
    }

    /// The turn under way, if there is one.
    pub async fn sent_turn(&self, session: &SessionId) -> Result<Option<TurnRecord>, StoreError> {
        let key = session.as_str();
        let row = sqlx::query_as!(
            TurnRow,
            "SELECT id, session_id, state, error_code, error, input, answer, created_at, body_hmac FROM turns
             WHERE session_id = ?1 AND state = 'sent'",
            key
        )
        .fetch_optional(self.readers())
        .await?;
        row.map(TurnRow::into_record).transpose()
    }

    /// A turn.
    pub async fn turn(&self, session: &SessionId, id: &TurnId) -> Result<TurnRecord, StoreError> {
        let (key, turn) = (session.as_str(), id.as_str());
        let row = sqlx::query_as!(
            TurnRow,
            "SELECT id, session_id, state, error_code, error, input, answer, created_at, body_hmac FROM turns
             WHERE session_id = ?1 AND id = ?2",
            key,
            turn
        )
        .fetch_optional(self.readers())
        .await?;
        row.ok_or_else(|| StoreError::no_turn(id))?.into_record()
    }

    /// Ends a turn without an answer, with its `turn.failed` event. False when it was over already.
    pub async fn fail_turn(
        &self,
        session: &SessionId,
        turn: &TurnId,
        code: &str,
        error: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let mut change = Change::load(&mut tx, session).await?;
        let fact = facts::turn_failed(turn, code, error);
        if !change.fail_turn(turn, code, error, &fact, now).await? {
            return Ok(false);
        }
        let saved = change.save().await?;
        self.commit_and_ring(tx, session, saved.newest).await?;
        Ok(true)
    }

    /// Ends every open turn of a session without an answer, with their events.
    pub async fn fail_open_turns(
        &self,
        session: &SessionId,
        code: &str,
        error: &str,
        now: Timestamp,
    ) -> Result<Vec<TurnId>, StoreError> {
        let mut tx = self.begin().await?;
        let mut change = Change::load(&mut tx, session).await?;
        let failed = change.fail_open_turns(code, error, now).await?;
        let saved = change.save().await?;
        self.commit_and_ring(tx, session, saved.newest).await?;
        Ok(failed)
    }

    /// How many turns are queued or under way.
    pub async fn waiting_turns(&self, session: &SessionId) -> Result<u64, StoreError> {
        let mut connection = self.readers().acquire().await?;
        waiting(&mut connection, session).await
    }
}

async fn waiting(db: &mut SqliteConnection, session: &SessionId) -> Result<u64, StoreError> {
    let key = session.as_str();
    let number =
        sqlx::query_scalar!("SELECT COUNT(*) FROM turns WHERE session_id = ?1 AND state IN ('queued', 'sent')", key)
            .fetch_one(db)
            .await?;
    Ok(numbers::from_sql(number))
}

async fn repeated(
    db: &mut SqliteConnection,
    session: &SessionId,
    idempotency: &Idempotency,
) -> Result<Option<TurnRecord>, StoreError> {
    let (id, Idempotency { key, body_hmac }) = (session.as_str(), idempotency);
    let row = sqlx::query_as!(
        TurnRow,
        "SELECT id, session_id, state, error_code, error, input, answer, created_at, body_hmac FROM turns
         WHERE session_id = ?1 AND idempotency_key = ?2",
        id,
        key
    )
    .fetch_optional(db)
    .await?;
    match row {
        Some(row) if row.body_hmac.as_deref() != Some(body_hmac.as_slice()) => Err(StoreError::IdempotencyMismatch),
        other => other.map(TurnRow::into_record).transpose(),
    }
}

/// The columns of `turns` that readers want.
struct TurnRow {
    id: String,
    session_id: String,
    state: String,
    error_code: Option<String>,
    error: Option<String>,
    input: Option<String>,
    answer: Option<String>,
    created_at: i64,
    body_hmac: Option<Vec<u8>>,
}

impl TurnRow {
    fn into_record(self) -> Result<TurnRecord, StoreError> {
        let Self { id, session_id, state, error_code, error, input, answer, created_at, body_hmac: _ } = self;
        let state = match state.as_str() {
            "queued" => TurnState::Queued,
            "sent" => TurnState::Sent,
            "completed" => TurnState::Completed,
            "failed" => TurnState::Failed { code: error_code.unwrap_or_default(), error: error.unwrap_or_default() },
            _ => return Err(StoreError::Corrupt(format!("turn {id}: unknown state"))),
        };
        let turn = Turn {
            id: TurnId::new(id),
            session_id: SessionId::new(session_id),
            state,
            created_at: Timestamp(created_at),
        };
        Ok(TurnRecord { turn, input, answer })
    }
}
