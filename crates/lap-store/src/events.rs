//! The numbered log of a session.

use lap_domain::ids::SessionId;
use lap_domain::time::Timestamp;

use crate::change::Change;
use crate::{Store, StoreError, numbers};

/// A stored fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the session's log, from 1.
    pub id: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Its type, such as `turn.started`.
    pub kind: String,
    /// JSON of its fields.
    pub data: String,
}

/// A fact to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBody {
    /// Its type, such as `turn.started`.
    pub kind: String,
    /// JSON of its fields.
    pub data: String,
}

/// How far a session's log reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventBounds {
    /// The oldest event that is kept.
    pub oldest: Option<u64>,
    /// The newest number given out.
    pub newest: u64,
}

impl Store {
    /// Events after `after`, oldest first.
    pub async fn events(&self, session: &SessionId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let (key, after, limit) = (session.as_str(), numbers::to_sql(after), i64::from(limit));
        let rows = sqlx::query!(
            "SELECT id, at, kind, data FROM events WHERE session_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
            key,
            after,
            limit
        )
        .fetch_all(self.readers())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Event { id: numbers::from_sql(row.id), at: Timestamp(row.at), kind: row.kind, data: row.data })
            .collect())
    }

    /// The oldest event kept and the newest number given out.
    pub async fn event_bounds(&self, session: &SessionId) -> Result<EventBounds, StoreError> {
        let key = session.as_str();
        let row = sqlx::query!(
            r#"SELECT last_event_id, (SELECT MIN(id) FROM events WHERE session_id = sessions.id) AS "oldest: i64"
               FROM sessions WHERE id = ?1 AND deleted_at IS NULL"#,
            key
        )
        .fetch_optional(self.readers())
        .await?
        .ok_or_else(|| StoreError::no_session(session))?;
        Ok(EventBounds { oldest: row.oldest.map(numbers::from_sql), newest: numbers::from_sql(row.last_event_id) })
    }

    /// Appends a fact and answers with its number.
    pub async fn append_event(&self, session: &SessionId, at: Timestamp, event: EventBody) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let mut change = Change::load(&mut tx, session).await?;
        let id = change.event(at, &event).await?;
        change.save().await?;
        self.commit_and_ring(tx, session, id).await?;
        Ok(id)
    }
}
