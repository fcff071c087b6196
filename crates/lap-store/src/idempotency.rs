//! Requests with an `Idempotency-Key`: the first runs, a repeat gets its answer. Which ones run is known in memory alone,
//! since this server is the only one and a request does not survive it; answers are rows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lap_domain::time::Timestamp;
use tokio::sync::watch;

use crate::{Store, StoreError};

/// An answer as it was given. Whoever keeps it has taken secrets out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Begun {
    /// Run it, and tell the guard what came of it.
    First(IdempotencyGuard),
    /// It ran before; this was the answer.
    Repeat(KeptAnswer),
}

/// Held while the first request runs. Dropped without [`IdempotencyGuard::finish`], nothing is kept and the next
/// request with the key is a first one.
pub struct IdempotencyGuard {
    store: Store,
    name: Name,
    body_hmac: Vec<u8>,
}

impl std::fmt::Debug for IdempotencyGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdempotencyGuard").field("scope", &self.name.0).finish_non_exhaustive()
    }
}

/// Scope and key.
type Name = Arc<(String, String)>;

/// The requests under way. The sender's end closes when the request is over, which wakes the repeats.
#[derive(Default)]
pub(crate) struct Running {
    requests: Mutex<HashMap<Name, Request>>,
}

struct Request {
    body_hmac: Vec<u8>,
    over: watch::Sender<()>,
}

impl Running {
    fn requests(&self) -> MutexGuard<'_, HashMap<Name, Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Becomes the one that runs, or learns how to wait for the one that does.
    fn enter(&self, name: &Name, body_hmac: &[u8]) -> Result<Option<watch::Receiver<()>>, StoreError> {
        let mut requests = self.requests();
        match requests.get(name) {
            Some(request) if request.body_hmac != body_hmac => Err(StoreError::IdempotencyMismatch),
            Some(request) => Ok(Some(request.over.subscribe())),
            None => {
                let request = Request { body_hmac: body_hmac.to_vec(), over: watch::Sender::new(()) };
                requests.insert(name.clone(), request);
                Ok(None)
            }
        }
    }
}

impl Store {
    /// Begins a request with an idempotency key. While another with the same key runs, this waits for its end; the
    /// caller's own deadline bounds that.
    pub async fn begin_idempotent(&self, scope: &str, key: &str, body_hmac: &[u8]) -> Result<Begun, StoreError> {
        let name: Name = Arc::new((scope.to_owned(), key.to_owned()));
        loop {
            if let Some(mut over) = self.shared.running.enter(&name, body_hmac)? {
                // Only ever an error, since nothing is sent: the sender is gone, the request is over.
                let _ = over.changed().await;
                continue;
            }
            let guard = IdempotencyGuard { store: self.clone(), name: name.clone(), body_hmac: body_hmac.to_vec() };
            let kept = sqlx::query!(
                "SELECT body_hmac, status, body FROM kept_answers WHERE scope = ?1 AND key = ?2",
                scope,
                key
            )
            .fetch_optional(self.readers())
            .await?;
            return match kept {
                Some(kept) if kept.body_hmac != body_hmac => Err(StoreError::IdempotencyMismatch),
                Some(kept) => {
                    let status = u16::try_from(kept.status).unwrap_or(500);
                    Ok(Begun::Repeat(KeptAnswer { status, body: kept.body }))
                }
                None => Ok(Begun::First(guard)),
            };
        }
    }

    /// Forgets answers given before `before`.
    pub async fn prune_idempotency(&self, before: Timestamp) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM kept_answers WHERE at < ?1", before.0).execute(&self.shared.writer).await?;
        Ok(())
    }
}

impl IdempotencyGuard {
    /// Keeps the answer for repeats.
    pub async fn finish(self, answer: KeptAnswer, now: Timestamp) -> Result<(), StoreError> {
        let KeptAnswer { status, body } = answer;
        let (scope, key) = (&self.name.0, &self.name.1);
        let status = i64::from(status);
        sqlx::query!(
            "INSERT INTO kept_answers (scope, key, body_hmac, status, body, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (scope, key) DO UPDATE SET body_hmac = excluded.body_hmac, status = excluded.status,
                body = excluded.body, at = excluded.at",
            scope,
            key,
            self.body_hmac,
            status,
            body,
            now.0
        )
        .execute(&self.store.shared.writer)
        .await?;
        Ok(())
    }
}

impl Drop for IdempotencyGuard {
    fn drop(&mut self) {
        self.store.shared.running.requests().remove(&self.name);
    }
}
