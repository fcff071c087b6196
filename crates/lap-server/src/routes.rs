//! The table of contents: every route, and the layers around them.

use axum::extract::Request;
use axum::routing::{get, patch, post};
use axum::{Router, middleware};
use http::{HeaderValue, header};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::error::{self, ApiError};
use crate::{
    App, access, agents, auth, events, exec, files, harnesses, interceptions, messages, platform, sessions, terminal,
    usage,
};

pub(crate) fn router(app: App) -> Router {
    let managed = Router::new()
        .route("/agents", get(agents::list).post(agents::create))
        .route("/agents/{id}", get(agents::get).patch(agents::update).delete(agents::delete))
        .route("/agents/{id}/session", post(sessions::create))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{id}", get(sessions::get).patch(sessions::update).delete(sessions::delete))
        .route("/sessions/{id}/stop", post(sessions::stop))
        .route("/sessions/{id}/message", post(messages::send))
        .route("/sessions/{id}/message_stream", post(messages::stream))
        .route("/sessions/{id}/messages", get(messages::list))
        .route("/sessions/{id}/abort", post(messages::abort))
        .route("/sessions/{id}/permissions/{request_id}", post(messages::answer_permission))
        .route("/sessions/{id}/events", get(events::read))
        .route("/sessions/{id}/files", get(files::list))
        .route("/sessions/{id}/files/{*path}", get(files::read).put(files::write))
        .route("/sessions/{id}/exec", get(exec::stream).post(exec::run))
        .route("/sessions/{id}/egress", patch(sessions::change_egress))
        .route("/sessions/{id}/interceptions", get(interceptions::list))
        .route("/sessions/{id}/vault-keys", get(sessions::vault_keys))
        .route("/sessions/{id}/sandbox_logs", get(sessions::sandbox_logs));

    let with_key = Router::new()
        .nest("/managed_agents", managed)
        .route("/harnesses", get(harnesses::list))
        .route("/stats", get(platform::stats))
        .route("/usage", get(usage::list))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        // What an agent is and says is nobody else's; event streams have a word of their own on it.
        .layer(SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(middleware::from_fn_with_state(app.keys.clone(), auth::require_key));

    // Checks keys itself: where a terminal's WebSocket begins, a ticket will do.
    let with_ticket = Router::new()
        .route("/managed_agents/sessions/{id}/tty", get(terminal::attach))
        .method_not_allowed_fallback(wrong_method);

    let health = Router::new()
        .route("/healthz", get(platform::alive))
        .route("/readyz", get(platform::ready))
        .route("/api/v1/health/k8s", get(platform::backend))
        .method_not_allowed_fallback(wrong_method);

    Router::new()
        .nest(lap_api::BASE, with_ticket.merge(with_key))
        .merge(health)
        .fallback(no_such_route)
        .with_state(app)
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn(access::log))
}

async fn no_such_route() -> ApiError {
    ApiError::no_such_route()
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::wrong_method(request.method())
}
