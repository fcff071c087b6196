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
mod exec;
mod extract;
mod files;
mod harnesses;
mod interceptions;
mod messages;
mod once;
mod platform;
mod routes;
mod serve;
mod sessions;
mod sse;
mod terminal;
mod ticket;
mod upgrade;
mod usage;

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
    pub(crate) keys: auth::Keys,
    pub(crate) tickets: ticket::Tickets,
    pub(crate) seats: terminal::Seats,
}

impl App {
    fn new(engine: Engine, config: ServerConfig) -> Self {
        let ServerConfig { master_key } = config;
        let (keys, tickets) = (auth::Keys::new(&master_key), ticket::Tickets::new(&master_key));
        Self { engine, keys, tickets, seats: terminal::Seats::default() }
    }
}

/// All routes, ready for [`serve`].
pub fn router(engine: Engine, config: ServerConfig) -> Router {
    routes::router(App::new(engine, config))
}
