//! Requests with an `Idempotency-Key`: of several with the same key one runs, and the others learn what came of it. Of a
//! request only a keyed hash is kept, of its outcome only the id of what it made.

use lap_domain::time::Timestamp;
use lap_store::{Begun, IdempotencyGuard, KeptAnswer};

use crate::{Engine, EngineError, Idempotency, now};

/// How long a key is remembered.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// What to do with a request that has a key.
#[derive(Debug)]
pub enum Once {
    /// Run it, then say what it made.
    First(FirstRun),
    /// It ran before and made the thing with this id.
    Repeat(String),
}

/// Held while the first request runs. Dropped without [`FirstRun::made`], the next request with the key is a first one.
#[derive(Debug)]
pub struct FirstRun(IdempotencyGuard);

impl Engine {
    /// Begins a request that makes something. `scope` tells callers and routes apart; `request.body` must be without
    /// secrets. Waits while another request with the same key runs.
    pub async fn once(&self, scope: &str, request: &Idempotency) -> Result<Once, EngineError> {
        let Timestamp(now) = now();
        self.inner.store.prune_idempotency(Timestamp(now - KEPT_MS)).await?;
        let hash = self.inner.store.hmac(&request.body);
        Ok(match self.inner.store.begin_idempotent(scope, &request.key, &hash).await? {
            Begun::First(guard) => Once::First(FirstRun(guard)),
            Begun::Repeat(KeptAnswer { status: _, body: id }) => Once::Repeat(id),
        })
    }
}

impl FirstRun {
    /// Keeps the id for repeats.
    pub async fn made(self, id: &str) -> Result<(), EngineError> {
        let answer = KeptAnswer { status: 201, body: id.to_owned() };
        Ok(self.0.finish(answer, now()).await?)
    }
}
