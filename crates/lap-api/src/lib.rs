//! Wire types: REST bodies, error codes, events, and the messages between server, sidecar and guest.
//!
//! Nothing here behaves: no validation, no defaults that decide anything, no I/O. Domain types are converted to and from
//! these by plain functions at each border. Times are RFC 3339 UTC strings with milliseconds on REST and Unix
//! milliseconds (`*_ms`, `i64`) on the link.

pub mod agent;
pub mod channel;
mod double;
pub mod error;
pub mod event;
pub mod exec;
pub mod files;
pub mod link;
pub mod list;
pub mod message;
pub mod platform;
pub mod session;
pub mod tty;
pub mod usage;

/// What every secret value looks like in an answer; sent back, it keeps the stored value.
pub const MASK: &str = "********";

/// Prefix of every REST route but health, OpenAPI and metrics.
pub const BASE: &str = "/api/v1";
