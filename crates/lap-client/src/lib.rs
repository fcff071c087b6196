//! Typed client of the REST surface: what `lap` and the test kit speak to a server with.
//!
//! Knows the wire and nothing behind it: no engine, no terminal, no environment. A [`Client`] is cheap to clone and keeps
//! its connections. Event streams come back by themselves after a lost connection, with nothing lost and nothing twice
//! (see [`EventStream`]); a turn is never sent twice (see [`Client::message_stream`]).

mod agents;
mod config;
mod connect;
mod error;
mod events;
mod files;
mod platform;
mod sessions;
pub mod sse;
mod transport;
mod tty;

pub use agents::AgentListQuery;
pub use config::{ApiKey, ClientConfig, ConfigError, server_url};
pub use error::{ApiError, Error};
pub use events::{EventStream, Feed, LogEntry, TurnStream};
pub use files::FileContent;
pub use platform::{Health, UsageQuery};
pub use sessions::SessionListQuery;
pub use transport::Client;
pub use tty::{TtyEvent, TtyOptions, TtyReader, TtyWriter};
