//! Hosts that the operator lets through unread, for programs that trust nothing but the real certificate. Policy judges the
//! TLS name and the address as always, and no credential is ever swapped there. Without a TLS name, or with another one than
//! the connection is meant for, nothing passes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lap_domain::egress::Host;

use crate::Vault;
use crate::reached::Reached;
use crate::refusal::Refusal;
use crate::wire::Wire;
use crate::{route, tunnel};

/// For the client's part of a TLS handshake.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// Takes a TLS connection that passes unread. Given back: one that is to be read like any other.
pub(crate) async fn take(vault: &Arc<Vault>, mut wire: Wire, host: &Host, port: u16) -> Option<Wire> {
    let Ok(table) = vault.table() else { return Some(wire) };
    let is_meant = table.passes(host, port);
    if !is_meant && (host.name().is_some() || !table.passes_some()) {
        return Some(wire);
    }
    let hello = tokio::time::timeout(HELLO_DEADLINE, wire.server_name()).await;
    let name = match hello {
        Ok(Ok(name)) => name.and_then(|name| Host::parse(&name).ok()),
        // Whoever reads it finds the same.
        Ok(Err(_)) | Err(_) if !is_meant => return Some(wire),
        Ok(Err(_)) | Err(_) => None,
    };
    let (name, must_be) = match (name, host) {
        (Some(name), _) if name == *host => (name, None),
        (Some(name), Host::Addr(addr)) if table.passes(&name, port) => (name, Some(*addr)),
        _ if !is_meant => return Some(wire),
        (name, _) => {
            let shown = name.map_or("none".to_owned(), |name| name.to_string());
            let sentence =
                format!("{host}:{port} passes unread, and only with its own TLS name; this one was {shown}.");
            tunnel::refuse(vault, "TLS", host, port, Refusal::misdirected(sentence)).await;
            return None;
        }
    };
    carry(vault, &mut wire, &name, port, must_be).await;
    None
}

async fn carry(vault: &Arc<Vault>, wire: &mut Wire, host: &Host, port: u16, must_be: Option<IpAddr>) {
    let Some(exchange) = vault.begin("TLS", String::new()).await else { return };
    exchange.set_host(format!("{host}:{port}"));
    exchange.set_note("passed through unread");
    let carried = async {
        let table = vault.table()?;
        let addresses = route::addresses(vault, &table, host, port, must_be).await?;
        let reached = Reached::default();
        reached.note(host, port, &addresses);
        let dialled = vault.pool.dial_any(host, &addresses).await;
        let mut upstream = dialled.map_err(|error| Refusal::upstream(host, port, &error))?;
        tunnel::carry(vault, wire, &mut upstream, &reached, &exchange).await
    };
    if let Err(refusal) = carried.await {
        exchange.set_refusal(refusal.code, refusal.sentence);
    }
}
