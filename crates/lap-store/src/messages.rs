//! The conversation of a session.

use lap_domain::ids::{SessionId, TurnId};
use lap_domain::time::Timestamp;

use crate::{Store, StoreError, numbers};

/// One utterance as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Place in the conversation; rises, with gaps.
    pub position: u64,
    /// The message's own id.
    pub id: String,
    /// The turn it belongs to.
    pub turn_id: TurnId,
    /// `user` or `assistant`.
    pub role: String,
    /// When it was stored first.
    pub at: Timestamp,
    /// JSON of the message.
    pub data: String,
}

impl Store {
    /// Messages after position `after`, in order.
    pub async fn messages(
        &self,
        session: &SessionId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<StoredMessage>, StoreError> {
        let (key, after, limit) = (session.as_str(), numbers::to_sql(after), i64::from(limit));
        let rows = sqlx::query!(
            "SELECT position, id, turn_id, role, at, data FROM messages
             WHERE session_id = ?1 AND position > ?2 ORDER BY position LIMIT ?3",
            key,
            after,
            limit
        )
        .fetch_all(self.readers())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| StoredMessage {
                position: numbers::from_sql(row.position),
                id: row.id,
                turn_id: TurnId::new(row.turn_id),
                role: row.role,
                at: Timestamp(row.at),
                data: row.data,
            })
            .collect())
    }
}
