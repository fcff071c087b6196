//! The egress lists of sessions: taken from the agent when a session opens or restarts, changed for one session alone, and
//! whether its vault has them.

use std::collections::HashMap;

use lap_domain::egress::SessionLists;
use lap_domain::ids::SessionId;
use lap_domain::session::SessionState;
use lap_domain::time::Timestamp;
use sqlx::SqliteConnection;

use crate::change::Change;
use crate::{Store, StoreError, facts, numbers};

impl Store {
    /// A session's lists.
    pub async fn session_lists(&self, id: &SessionId) -> Result<SessionLists, StoreError> {
        let key = id.as_str();
        let row = sqlx::query_as!(ListsRow, "SELECT * FROM session_egress WHERE session_id = ?1", key)
            .fetch_optional(self.readers())
            .await?;
        Ok(row.ok_or_else(|| StoreError::no_session(id))?.into_domain()?.1)
    }

    /// The lists of several sessions.
    pub async fn lists_of_sessions(&self, ids: &[&str]) -> Result<HashMap<SessionId, SessionLists>, StoreError> {
        let ids = numbers::to_json(&ids);
        let rows = sqlx::query_as!(
            ListsRow,
            "SELECT * FROM session_egress WHERE session_id IN (SELECT value FROM json_each(?1))",
            ids
        )
        .fetch_all(self.readers())
        .await?;
        rows.into_iter().map(ListsRow::into_domain).collect()
    }

    /// Changes a live session's lists by `change`, whose refusal changes nothing. Its vault has yet to hear of it.
    pub async fn change_session_lists<E>(
        &self,
        id: &SessionId,
        change: impl FnOnce(&SessionLists) -> Result<SessionLists, E>,
    ) -> Result<Result<SessionLists, E>, StoreError> {
        let mut tx = self.begin().await?;
        let session = Change::load(&mut tx, id).await?.session;
        if !matches!(session.state, SessionState::Creating | SessionState::Ready) {
            return Err(StoreError::SessionNotReady { state: session.state });
        }
        let key = id.as_str();
        let row = sqlx::query_as!(ListsRow, "SELECT * FROM session_egress WHERE session_id = ?1", key)
            .fetch_one(&mut *tx)
            .await?;
        let lists = match change(&row.into_domain()?.1) {
            Ok(lists) => lists,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let SessionLists { allow_out, deny_out, revision, in_force: _ } = &lists;
        let (allow_out, deny_out) = (numbers::to_json(allow_out), numbers::to_json(deny_out));
        let revision = numbers::to_sql(*revision);
        sqlx::query!(
            "UPDATE session_egress SET allow_out = ?2, deny_out = ?3, revision = ?4 WHERE session_id = ?1",
            key,
            allow_out,
            deny_out,
            revision
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Ok(lists))
    }
}

/// A new session lives by its agent's lists.
pub(crate) async fn begin(db: &mut SqliteConnection, id: &SessionId) -> Result<(), StoreError> {
    let key = id.as_str();
    sqlx::query!(
        "INSERT INTO session_egress (session_id, allow_out, deny_out, revision, in_force)
         SELECT sessions.id, agents.allow_out, agents.deny_out, 0, 0
         FROM sessions JOIN agents ON agents.id = sessions.agent_id WHERE sessions.id = ?1",
        key
    )
    .execute(db)
    .await?;
    Ok(())
}

/// So does a restarted one, unless its lists were changed for it alone: those it keeps.
pub(crate) async fn begin_again(db: &mut SqliteConnection, id: &SessionId) -> Result<(), StoreError> {
    let key = id.as_str();
    sqlx::query!(
        "UPDATE session_egress SET allow_out = agents.allow_out, deny_out = agents.deny_out
         FROM sessions JOIN agents ON agents.id = sessions.agent_id
         WHERE session_egress.session_id = ?1 AND sessions.id = ?1 AND session_egress.revision = 0",
        key
    )
    .execute(db)
    .await?;
    Ok(())
}

impl Change<'_> {
    /// The vault judges by this revision now. Told once, whatever comes again.
    pub(crate) async fn lists_in_force(&mut self, at: Timestamp, revision: u64) -> Result<(), StoreError> {
        let (key, number) = (self.id.as_str(), numbers::to_sql(revision));
        let row = sqlx::query_as!(
            ListsRow,
            "UPDATE session_egress SET in_force = ?2 WHERE session_id = ?1 AND in_force < ?2 AND revision >= ?2
             RETURNING session_id, allow_out, deny_out, revision, in_force",
            key,
            number
        )
        .fetch_optional(&mut *self.db)
        .await?;
        let Some(row) = row else { return Ok(()) };
        let lists = row.into_domain()?.1;
        // A newer change is under way; it is told when it has arrived, with what then holds.
        if lists.are_in_force() {
            self.event(at, &facts::egress_changed(&lists)).await?;
        }
        Ok(())
    }
}

struct ListsRow {
    session_id: String,
    allow_out: String,
    deny_out: String,
    revision: i64,
    in_force: i64,
}

impl ListsRow {
    fn into_domain(self) -> Result<(SessionId, SessionLists), StoreError> {
        let Self { session_id, allow_out, deny_out, revision, in_force } = self;
        let lists = SessionLists {
            allow_out: numbers::from_json("session_egress.allow_out", &allow_out)?,
            deny_out: numbers::from_json("session_egress.deny_out", &deny_out)?,
            revision: numbers::from_sql(revision),
            in_force: numbers::from_sql(in_force),
        };
        Ok((SessionId::new(session_id), lists))
    }
}
