//! The session's log: between the store's rows and the events of the wire, and following it as it grows.

use lap_api::event::{Event, EventKind};
use lap_domain::ids::SessionId;
use lap_store::{EventBody, Store, StoreError};

use crate::{Engine, EngineError, rfc3339};

/// Longest payload of one event; longer ones are replaced by a note that says where the whole text is.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// Rows read at a time while following.
const BATCH: u32 = 500;

impl Engine {
    /// A page of the log after event `after`.
    pub async fn events(&self, session: &SessionId, after: u64, limit: u32) -> Result<Vec<Event>, EngineError> {
        self.inner.store.session(session).await?;
        let rows = self.inner.store.events(session, after, limit).await?;
        rows.into_iter().map(|row| from_row(session, row)).collect()
    }

    /// Follows the log from after event `after`.
    pub fn follow(&self, session: &SessionId, after: u64) -> EventFollower {
        let newest = self.inner.store.subscribe(session);
        EventFollower { store: self.inner.store.clone(), session: session.clone(), after, newest }
    }
}

/// A reader of a growing log: nothing lost, nothing twice.
pub struct EventFollower {
    store: Store,
    session: SessionId,
    after: u64,
    newest: tokio::sync::watch::Receiver<u64>,
}

impl EventFollower {
    /// The next events, waiting for them; `None` when the session was deleted. Safe to drop while waiting.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, EngineError> {
        loop {
            self.newest.borrow_and_update();
            let rows = self.store.events(&self.session, self.after, BATCH).await?;
            if let Some(last) = rows.last() {
                self.after = last.id;
                return rows.into_iter().map(|row| from_row(&self.session, row)).collect::<Result<_, _>>().map(Some);
            }
            // Deleted before this reader came: then nobody rings any more.
            if let Err(StoreError::NotFound { .. }) = self.store.session(&self.session).await {
                return Ok(None);
            }
            if self.newest.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}

/// An event as the store keeps it.
pub fn body(kind: &EventKind) -> EventBody {
    let mut value = serde_json::to_value(kind).expect("events are plain data with string keys");
    let name = value["type"].as_str().expect("every event has a type").to_owned();
    let mut data = value["data"].take().to_string();
    if data.len() > MAX_EVENT_BYTES {
        let note = format!("this {name} event had {} bytes; the whole text is in the session's messages", data.len());
        data = serde_json::to_value(EventKind::Error { code: "event_too_large".into(), error: note })
            .expect("plain data")["data"]
            .to_string();
        return EventBody { kind: "error".into(), data };
    }
    EventBody { kind: name, data }
}

fn from_row(session: &SessionId, row: lap_store::Event) -> Result<Event, EngineError> {
    let damaged = |cause| EngineError::Internal(Box::new(StoreError::Corrupt(format!("event {}: {cause}", row.id))));
    let data: serde_json::Value = serde_json::from_str(&row.data).map_err(damaged)?;
    let kind = serde_json::from_value(serde_json::json!({ "type": row.kind, "data": data })).map_err(damaged)?;
    Ok(Event { id: row.id, session_id: session.to_string(), at: rfc3339(row.at), kind })
}
