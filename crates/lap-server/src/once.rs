//! Creating a thing at most once: the answer to a `POST` that makes something, with or without an `Idempotency-Key`.

use axum::Json as Answer;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use http::header;
use lap_engine::{EngineError, Idempotency, Once};
use serde::Serialize;

use crate::App;
use crate::error::ApiResult;
use crate::extract::IdempotencyKey;

/// What came of a request that makes something.
pub(crate) enum Made<T> {
    /// This, just now.
    Now(T),
    /// The thing with this id, when the key came first.
    Before(String),
}

/// Runs `make` unless a request with the same key has run already. `request` is what makes two requests the same one: the
/// body without secrets. What has begun under a key is done to its end, also when the caller hangs up: that is when the
/// request comes again.
pub(crate) async fn once<T: Send + 'static>(
    app: &App,
    scope: &str,
    key: IdempotencyKey,
    request: &impl Serialize,
    make: impl Future<Output = ApiResult<T>> + Send + 'static,
    id_of: impl FnOnce(&T) -> String + Send + 'static,
) -> ApiResult<Made<T>> {
    let IdempotencyKey(Some(key)) = key else { return Ok(Made::Now(make.await?)) };
    let body = serde_json::to_vec(request).map_err(|cause| EngineError::Internal(Box::new(cause)))?;
    match app.engine.once(scope, &Idempotency { key, body }).await? {
        Once::Repeat(id) => Ok(Made::Before(id)),
        Once::First(run) => {
            let whole = tokio::spawn(async move {
                let made = make.await?;
                // The thing is made: to answer otherwise because the key could not be kept would make a second one likely.
                if let Err(problem) = run.made(&id_of(&made)).await {
                    tracing::error!(
                        problem = &problem as &dyn std::error::Error,
                        "an Idempotency-Key could not be kept"
                    );
                }
                Ok(Made::Now(made))
            });
            whole.await.unwrap_or_else(|cause| Err(EngineError::Internal(Box::new(cause)).into()))
        }
    }
}

/// 201 with the thing and where it is, `place` being the path of its kind.
pub(crate) fn created(place: &str, id: &str, thing: impl Serialize) -> Response {
    let location = format!("{}/managed_agents/{place}/{id}", lap_api::BASE);
    (StatusCode::CREATED, [(header::LOCATION, location)], Answer(thing)).into_response()
}

#[cfg(test)]
mod tests;
