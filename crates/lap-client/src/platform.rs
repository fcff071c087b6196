//! The server itself: is it there, what can it run.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::transport::{Call, Client};

/// Whether the server lives and can work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// `healthz` answered well.
    pub alive: bool,
    /// `readyz` answered well.
    pub ready: bool,
    /// What `readyz` said when it did not.
    pub detail: Option<String>,
}

/// A harness that agents can name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harness {
    /// What goes into an agent's `harness_id`.
    pub id: String,
    /// Version that runs here, where one is installed or pinned.
    #[serde(default)]
    pub version: Option<String>,
    /// Whether sessions can start with it.
    #[serde(default)]
    pub installed: bool,
    /// True for harnesses whose main face is a terminal.
    #[serde(default)]
    pub supports_tui: bool,
    /// How to install it, or what is wrong.
    #[serde(default)]
    pub detail: Option<String>,
}

impl Client {
    /// Asks `healthz` and `readyz`; an error only when the server cannot be reached at all.
    pub async fn health(&self) -> Result<Health, Error> {
        match self.empty(Call::root(Method::GET, vec!["healthz"]).accept("*/*")).await {
            Ok(()) => {}
            Err(Error::Api(refusal)) => {
                return Ok(Health { alive: false, ready: false, detail: Some(refusal.message) });
            }
            Err(e) => return Err(e),
        }
        match self.empty(Call::root(Method::GET, vec!["readyz"]).accept("*/*")).await {
            Ok(()) => Ok(Health { alive: true, ready: true, detail: None }),
            Err(Error::Api(refusal)) => Ok(Health { alive: true, ready: false, detail: Some(refusal.message) }),
            Err(e) => Err(e),
        }
    }

    /// What can run here.
    pub async fn harnesses(&self) -> Result<Vec<Harness>, Error> {
        let rows: Rows<Harness> = self.json(Call::root(Method::GET, vec!["api", "v1", "harnesses"])).await?;
        Ok(rows.into_vec())
    }
}

/// Rows with or without the frame of a list: what is not paged may come either way.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Rows<T> {
    Framed { data: Vec<T> },
    Bare(Vec<T>),
}

impl<T> Rows<T> {
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Rows::Framed { data } | Rows::Bare(data) => data,
        }
    }
}
