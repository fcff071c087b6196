//! Takes the sandbox's connections and finds out where they were meant to go.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lap_domain::egress::Host;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use crate::names::Means;
use crate::refusal::Refusal;
use crate::room::REFUSAL_DEADLINE;
use crate::wire::Wire;
use crate::{Vault, connection, proxy};

/// When the process is out of descriptors, accepting again at once would only spin.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the vault stops. Connections there is no room for are taken as well, and told so.
pub(crate) async fn accept(vault: Arc<Vault>, listener: TcpListener) {
    loop {
        let refused = vault.room.to_refuse().await;
        let accepted = tokio::select! {
            () = vault.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("could not accept a connection of the sandbox: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let task = vault.clone();
        match vault.room.take(&stream) {
            Some(place) => vault.tasks.spawn(async move {
                tokio::select! {
                    () = take(&task, stream, place, false) => {}
                    () = task.stop.cancelled() => {}
                }
                task.moved.fetch_add(1, Ordering::Relaxed);
            }),
            None => vault.tasks.spawn(async move {
                tokio::select! {
                    _ = tokio::time::timeout(REFUSAL_DEADLINE, take(&task, stream, refused, true)) => {}
                    () = task.stop.cancelled() => {}
                }
            }),
        };
    }
}

async fn take(vault: &Arc<Vault>, stream: TcpStream, place: OwnedSemaphorePermit, no_room: bool) {
    let Ok(meant) = meant_for(&stream) else { return };
    // Without this, small answers wait for acknowledgements that are themselves delayed.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let wire = Wire::new(stream, place);
    if vault.is_proxy(meant) {
        return proxy::serve(vault.clone(), wire, no_room).await;
    }
    let host = match meant.ip() {
        IpAddr::V4(addr) => match vault.names.meaning_of(addr) {
            Means::Name(name) => Host::Name(name),
            Means::Itself => Host::from_addr(meant.ip()),
            Means::Nothing => return unknown(vault, meant).await,
        },
        IpAddr::V6(_) => Host::from_addr(meant.ip()),
    };
    connection::serve(vault.clone(), wire, host, meant.port(), no_room).await;
}

/// Where the sandbox connected to before the redirection; without one, the local end is it.
fn meant_for(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    let socket = SockRef::from(stream);
    // A dual-stack listener has IPv4 peers as mapped addresses, and only the IPv4 call knows their destination.
    let is_v4 = local.ip().to_canonical().is_ipv4();
    let original = if is_v4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let meant = original.ok().and_then(|addr| addr.as_socket()).unwrap_or(local);
    Ok(SocketAddr::new(meant.ip().to_canonical(), meant.port()))
}

async fn unknown(vault: &Vault, meant: SocketAddr) {
    if let Some(exchange) = vault.begin("TCP", String::new()).await {
        exchange.set_host(meant.to_string());
        let refusal = Refusal::new(
            http::StatusCode::FORBIDDEN,
            "unknown_address",
            format!("{} stands for no name in this sandbox.", meant.ip()),
        );
        exchange.set_refusal(refusal.code, refusal.sentence);
    }
}
