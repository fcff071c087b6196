//! Names to addresses. The vault asks the system's resolver itself and dials the very address that was judged.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// An answer is used this long; every use is judged anew.
const KEEP: Duration = Duration::from_secs(30);
/// A slow resolver fails a request, it does not hold it for ever.
const DEADLINE: Duration = Duration::from_secs(10);
const MAX_KEPT: usize = 1024;
/// Addresses of one name that are considered.
const MAX_ADDRESSES: usize = 16;
/// Look-ups at once; each takes a thread.
const MAX_LOOKUPS: usize = 16;

/// When it was learned, and what.
type Kept = (Instant, Arc<[IpAddr]>);

pub(crate) struct Resolver {
    kept: Mutex<HashMap<String, Kept>>,
    lookups: Semaphore,
}

impl Resolver {
    pub fn new() -> Self {
        Self { kept: Mutex::default(), lookups: Semaphore::new(MAX_LOOKUPS) }
    }

    /// The addresses of a name; an error says why there are none.
    pub async fn resolve(&self, name: &str) -> Result<Arc<[IpAddr]>, String> {
        if let Some(known) = self.known(name) {
            return Ok(known);
        }
        let _permit = self.lookups.acquire().await.map_err(|e| e.to_string())?;
        if let Some(known) = self.known(name) {
            return Ok(known);
        }
        let found = tokio::time::timeout(DEADLINE, tokio::net::lookup_host((name, 0)))
            .await
            .map_err(|_| "the resolver did not answer in time".to_owned())?
            .map_err(|e| e.to_string())?;
        let mut addresses: Vec<IpAddr> = found.map(|a| a.ip()).take(MAX_ADDRESSES).collect();
        // Many machines have no IPv6 route; the other order would cost them a failed attempt each time.
        addresses.sort_by_key(IpAddr::is_ipv6);
        addresses.dedup();
        if addresses.is_empty() {
            return Err("the name has no address".to_owned());
        }
        let addresses: Arc<[IpAddr]> = addresses.into();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (at, _)| at.elapsed() < KEEP);
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
        }
        kept.insert(name.to_owned(), (Instant::now(), addresses.clone()));
        Ok(addresses)
    }

    fn known(&self, name: &str) -> Option<Arc<[IpAddr]>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(name).filter(|(at, _)| at.elapsed() < KEEP).map(|(_, addresses)| addresses.clone())
    }
}
