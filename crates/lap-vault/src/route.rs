//! From what a sandbox named to the addresses that may be dialled: judged, resolved, judged again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::StatusCode;
use lap_domain::egress::{Host, Policy, ReasonCode, Target, Verdict};

use crate::Vault;
use crate::grants::Table;
use crate::refusal::Refusal;

/// The addresses of `host:port` that may be dialled, best first; never none. With `must_be` the name has to resolve to the
/// address that the sandbox's connection was meant for.
pub(crate) async fn addresses(
    vault: &Vault,
    table: &Table,
    host: &Host,
    port: u16,
    must_be: Option<IpAddr>,
) -> Result<Vec<SocketAddr>, Refusal> {
    if let Verdict::Refused(refusal) = table.policy.decide_unresolved(host, port) {
        return Err(Refusal::egress(host, port, &refusal));
    }
    let mut candidates = resolve(vault, table, host, port).await?;
    if let Some(meant) = must_be {
        candidates.retain(|addr| addr.ip() == meant);
        if candidates.is_empty() {
            return Err(Refusal::misdirected(format!(
                "{host} does not resolve to {meant}, which the connection was made to."
            )));
        }
    }
    let mut refused = None;
    candidates.retain(|dial| match judge(&table.policy, host, port, *dial) {
        Verdict::Allowed => true,
        Verdict::Refused(refusal) => {
            refused.get_or_insert(refusal);
            false
        }
    });
    match (candidates.is_empty(), refused) {
        (true, Some(refusal)) => Err(Refusal::egress(host, port, &refusal)),
        (true, None) => Err(no_address(host, "the name has no address")),
        (false, _) => Ok(candidates),
    }
}

/// The gateway's addresses. The operator configured it, so no list is asked.
pub(crate) async fn gateway_addresses(
    vault: &Vault,
    table: &Table,
    host: &Host,
    port: u16,
) -> Result<Vec<SocketAddr>, Refusal> {
    resolve(vault, table, host, port).await
}

/// Whether a connection that stands may go on, by what the sandbox calls its other end.
pub(crate) fn name_is_open(table: &Table, host: &Host, port: u16) -> bool {
    matches!(host, Host::Name(name) if name == crate::gateway::NAME)
        || table.policy.decide_unresolved(host, port) == Verdict::Allowed
}

/// The same by the address it may have been dialled at.
pub(crate) fn address_is_open(table: &Table, host: &Host, port: u16, dial: SocketAddr) -> bool {
    judge(&table.policy, host, port, dial) == Verdict::Allowed
}

/// Judges addresses again if the rules have changed since `table` was taken, as they may while a name is looked up.
pub(crate) fn judge_again(
    vault: &Vault,
    table: &Arc<Table>,
    host: &Host,
    port: u16,
    addresses: &[SocketAddr],
) -> Result<(), Refusal> {
    let now = vault.table()?;
    if Arc::ptr_eq(&now, table) {
        return Ok(());
    }
    for dial in addresses {
        if let Verdict::Refused(refusal) = judge(&now.policy, host, port, *dial) {
            return Err(Refusal::egress(host, port, &refusal));
        }
    }
    Ok(())
}

async fn resolve(vault: &Vault, table: &Table, host: &Host, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
    match host {
        Host::Addr(addr) => Ok(vec![SocketAddr::new(*addr, port)]),
        Host::Name(name) => match table.override_of(name) {
            Some((addr, dial_port)) => Ok(vec![SocketAddr::new(addr, dial_port.unwrap_or(port))]),
            None => {
                let found = vault.resolver.resolve(name).await.map_err(|why| no_address(host, &why))?;
                Ok(found.iter().map(|addr| SocketAddr::new(*addr, port)).collect())
            }
        },
    }
}

/// The operator may open a private address by the port that was asked for or by the one an override leads to.
fn judge(policy: &Policy, host: &Host, port: u16, dial: SocketAddr) -> Verdict {
    let asked = policy.decide(&Target { host, port, addr: dial.ip() });
    match &asked {
        Verdict::Refused(refusal)
            if refusal.code == ReasonCode::PrivateAddress && policy.opens_private(host, dial.port(), dial.ip()) =>
        {
            Verdict::Allowed
        }
        _ => asked,
    }
}

fn no_address(host: &Host, why: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, "dns", format!("The name {host} does not resolve: {why}."))
}
