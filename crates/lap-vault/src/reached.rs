//! What a connection of the sandbox has reached, and its end when the rules close any of it.
//!
//! New rules hold for the next request by themselves, since every request is judged. This is about what stands: idle
//! connections, answers that stream, tunnels. A connection goes as a whole: whoever still may go there simply connects again.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use lap_domain::egress::Host;

use crate::Vault;
use crate::grants::Table;
use crate::route;

/// More places than that are only reached through the explicit proxy, in the clear. Such a connection ends with any change.
const MAX_PLACES: usize = 64;

/// The places that one connection of the sandbox has reached.
#[derive(Default)]
pub(crate) struct Reached(Mutex<Places>);

#[derive(Default)]
struct Places {
    names: Vec<(Host, u16)>,
    /// With the name as which the sandbox knows it, by position in `names`.
    addresses: Vec<(usize, SocketAddr)>,
    too_many: bool,
    /// Bytes that nobody reads go there, so the allow list has to name the very port.
    unread: bool,
}

impl Reached {
    /// For a tunnel of bytes that are neither HTTP nor TLS.
    pub fn unread() -> Self {
        Self(Mutex::new(Places { unread: true, ..Places::default() }))
    }

    /// Notes where a request that was let through goes, before it goes: what is not noted is not closed. A request that is
    /// refused reaches nothing; its connection stays, so that the client can read why.
    pub fn note(&self, host: &Host, port: u16, addresses: &[SocketAddr]) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = places.names.iter().position(|(name, at)| *at == port && name == host);
        let index = match known {
            Some(index) => index,
            None if places.names.len() < MAX_PLACES => {
                places.names.push((host.clone(), port));
                places.names.len() - 1
            }
            None => {
                places.too_many = true;
                return;
            }
        };
        for address in addresses {
            if places.addresses.contains(&(index, *address)) {
                continue;
            }
            if places.addresses.len() < MAX_PLACES {
                places.addresses.push((index, *address));
            } else {
                places.too_many = true;
            }
        }
    }

    /// Whether all of it is still open.
    pub fn is_open(&self, table: &Table) -> bool {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |host: &Host, port: u16| {
            route::name_is_open(table, host, port) && (!places.unread || table.policy.names_port(host, port))
        };
        !places.too_many
            && places.names.iter().all(|(host, port)| open(host, *port))
            && places.addresses.iter().all(|(index, address)| {
                let (host, port) = &places.names[*index];
                route::address_is_open(table, host, *port, *address)
            })
    }
}

impl Vault {
    /// Works until the work is over or the rules close what it has reached. None: they did, or the vault stopped.
    pub(crate) async fn while_open<T>(&self, reached: &Reached, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.closed(reached) => None,
        }
    }

    /// Waits until the rules close any of this or the vault stops.
    pub(crate) async fn closed(&self, reached: &Reached) {
        let mut changed = self.changed.subscribe();
        // Looked at after subscribing: a change that came before it is seen here. Before the first rules nothing was reached.
        while self.table().map_or(true, |table| reached.is_open(&table)) {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = changed.changed() => {}
            }
        }
        tracing::debug!("a connection was closed: the rules have changed");
    }
}
