//! HTTP in front of the engine: routes, keys, strict reading, answers, event streams.
//!
//! A handler says who asks for what, lets the engine do it and shows the outcome. Knows no SQL, no sandboxes, no
//! environment; the one place that makes HTTP out of errors is `error.rs`, the one list of routes is `routes.rs`.

mod access;
mod agents;
mod auth;
mod convert;
mod error;
mod events;
mod extract;
mod harnesses;
mod interceptions;
mod messages;
mod once;
mod platform;
mod routes;
mod serve;
mod sessions;
mod sse;

use axum::Router;
use lap_domain::secret::Secret;
use lap_engine::Engine;

pub use serve::serve;

/// What the operator decides.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Opens every route.
    pub master_key: Secret,
}

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) engine: Engine,
}

/// All routes, ready for [`serve`].
pub fn router(engine: Engine, config: ServerConfig) -> Router {
    let ServerConfig { master_key } = config;
    routes::router(App { engine }, auth::Keys::new(&master_key))
}
