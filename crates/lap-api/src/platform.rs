//! The server about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A harness that agents can name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harness {
    /// What goes into an agent's `harness_id`.
    pub id: String,
    /// For people.
    pub name: String,
    pub version: Option<String>,
    /// Whether sessions can start with it.
    pub installed: bool,
    /// True for harnesses whose main face is a terminal.
    pub supports_tui: bool,
    /// How to install it, or what is wrong.
    pub detail: Option<String>,
}

/// What the server holds at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub agents: u64,
    /// Sessions by status; every status is there.
    pub sessions: BTreeMap<String, u64>,
    /// Where sandboxes run: `local`, …
    pub backend: String,
    /// Version of the server.
    pub version: String,
}

/// Answer of the health routes when all is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

/// Answer of calls that have nothing to tell but that they were done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Always true.
    pub ok: bool,
}
