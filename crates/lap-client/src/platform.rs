//! The server itself: is it there, what can it run.

use http::Method;
use lap_api::list::List;
use lap_api::platform::{Harness, Stats};
use serde::Serialize;

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

    /// What can run here.
    pub async fn harnesses(&self) -> Result<Vec<Harness>, Error> {
        let list: List<Harness> = self.json(Call::root(Method::GET, vec!["api", "v1", "harnesses"])).await?;
        Ok(list.data)
    }
}
