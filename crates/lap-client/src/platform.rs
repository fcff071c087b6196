//! The server itself: is it there, what can it run.

use http::Method;
use lap_api::list::List;
use lap_api::platform::{Harness, Stats};
use lap_api::usage::UsageRow;
use serde::Serialize;

use crate::error::Error;
use crate::transport::{Call, Client};

/// What to sum; everything absent is the server's default (by agent, model and day).
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    /// Of `agent`, `session`, `model`, `day`, with commas between.
    pub by: Option<String>,
    /// Only this agent's.
    pub agent_id: Option<String>,
    /// Only this session's.
    pub session_id: Option<String>,
    /// Only this model's.
    pub model: Option<String>,
    /// From this day on, `YYYY-MM-DD`.
    pub from: Option<String>,
    /// Up to this day.
    pub to: Option<String>,
    /// Page size, 1..=200.
    pub limit: Option<u32>,
    /// Rows to skip.
    pub offset: Option<u64>,
}

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

    /// What the server holds at the moment.
    pub async fn stats(&self) -> Result<Stats, Error> {
        self.json(Call::root(Method::GET, vec!["api", "v1", "stats"])).await
    }

    /// One page of what model calls used.
    pub async fn usage(&self, query: &UsageQuery) -> Result<List<UsageRow>, Error> {
        let UsageQuery { by, agent_id, session_id, model, from, to, limit, offset } = query;
        let call = Call::root(Method::GET, vec!["api", "v1", "usage"])
            .query("by", by.as_ref())
            .query("agent_id", agent_id.as_ref())
            .query("session_id", session_id.as_ref())
            .query("model", model.as_ref())
            .query("from", from.as_ref())
            .query("to", to.as_ref())
            .query("limit", *limit)
            .query("offset", *offset);
        self.json(call).await
    }

    /// What can run here.
    pub async fn harnesses(&self) -> Result<Vec<Harness>, Error> {
        let list: List<Harness> = self.json(Call::root(Method::GET, vec!["api", "v1", "harnesses"])).await?;
        Ok(list.data)
    }
}
