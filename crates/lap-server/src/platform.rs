//! The server about itself: is it alive, can it work, what does it hold.

use axum::Json as Answer;
use axum::extract::State;
use lap_api::error::ErrorCode;
use lap_api::platform::{Health, Stats};

use crate::App;
use crate::convert;
use crate::error::{ApiError, ApiResult};
use crate::serve::Stopping;

/// `GET /healthz`: the process answers.
pub(crate) async fn alive() -> Answer<Health> {
    ok()
}

/// `GET /readyz`: requests can be served. Turns bad when the server stops, so that balancers look elsewhere.
pub(crate) async fn ready(State(app): State<App>, stopping: Stopping) -> ApiResult<Answer<Health>> {
    if stopping.now() {
        return Err(ApiError::shutting_down());
    }
    app.engine.ready().await.map_err(|reason| ApiError::new(ErrorCode::Unavailable, reason))?;
    Ok(ok())
}

/// `GET /health/k8s`: the sandbox backend answers, whichever it is.
pub(crate) async fn backend(State(app): State<App>) -> ApiResult<Answer<Health>> {
    app.engine.backend_health().await.map_err(|reason| ApiError::new(ErrorCode::Unavailable, reason))?;
    Ok(ok())
}

/// `GET /stats`
pub(crate) async fn stats(State(app): State<App>) -> ApiResult<Answer<Stats>> {
    Ok(Answer(convert::stats(app.engine.stats().await?)))
}

fn ok() -> Answer<Health> {
    Answer(Health { status: "ok".to_owned() })
}
