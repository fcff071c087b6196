//! Bytes both ways: tunnels to ports that the allow list names.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use lap_domain::egress::Host;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Vault;
use crate::reached::Reached;
use crate::record::Exchange;
use crate::refusal::Refusal;
use crate::route;
use crate::wire::{PATIENCE, Speaks, Wire};

/// Read at once.
const PIECE: usize = 16 << 10;

/// Carries bytes that are neither HTTP nor TLS, if this very port stands in the allow list.
pub(crate) async fn serve(vault: &Arc<Vault>, wire: &mut Wire, host: &Host, port: u16) {
    let Some(exchange) = vault.begin("TCP", String::new()).await else { return };
    exchange.set_host(format!("{host}:{port}"));
    let reached = Reached::unread();
    let carried = async {
        let mut upstream = open(vault, host, port, &reached).await?;
        carry(vault, wire, &mut upstream, &reached, &exchange).await
    };
    if let Err(refusal) = carried.await {
        exchange.set_refusal(refusal.code, refusal.sentence);
    }
}

/// Serves a client that has said nothing yet. When the server speaks first, the bytes are carried; when the client does after
/// all, and speaks HTTP or TLS, the connection goes the way of all requests: what it speaks is given back.
pub(crate) async fn serve_silent(vault: &Arc<Vault>, wire: &mut Wire, host: &Host, port: u16) -> Option<Speaks> {
    let exchange = vault.begin("TCP", String::new()).await?;
    exchange.set_host(format!("{host}:{port}"));
    let reached = Reached::unread();
    let carried = async {
        let mut upstream = open(vault, host, port, &reached).await?;
        let spoken = tokio::select! {
            biased;
            spoken = wire.sniff(PATIENCE) => spoken.unwrap_or(Speaks::Closed),
            _ = upstream.readable() => Speaks::Other,
        };
        if spoken == Speaks::Other {
            carry(vault, wire, &mut upstream, &reached, &exchange).await?;
            return Ok(None);
        }
        exchange.forget();
        Ok(Some(spoken))
    };
    carried.await.unwrap_or_else(|refusal: Refusal| {
        exchange.set_refusal(refusal.code, refusal.sentence);
        None
    })
}

/// Notes that a connection went nowhere.
pub(crate) async fn refuse(vault: &Vault, method: &str, host: &Host, port: u16, refusal: Refusal) {
    if let Some(exchange) = vault.begin(method, String::new()).await {
        exchange.set_host(format!("{host}:{port}"));
        exchange.set_refusal(refusal.code, refusal.sentence);
    }
}

async fn open(vault: &Vault, host: &Host, port: u16, reached: &Reached) -> Result<TcpStream, Refusal> {
    let table = vault.table()?;
    if !table.policy.names_port(host, port) {
        return Err(not_http(host, port));
    }
    let addresses = route::addresses(vault, &table, host, port, None).await?;
    reached.note(host, port, &addresses);
    vault.pool.dial_any(host, &addresses).await.map_err(|e| Refusal::upstream(host, port, &e))
}

pub(crate) async fn carry(
    vault: &Vault,
    wire: &mut Wire,
    upstream: &mut TcpStream,
    reached: &Reached,
    exchange: &Exchange,
) -> Result<(), Refusal> {
    match vault.while_open(reached, splice(wire, upstream, exchange)).await {
        Some(_) => Ok(()),
        None if vault.stop.is_cancelled() => Ok(()),
        None => Err(Refusal::new(
            http::StatusCode::FORBIDDEN,
            "denied",
            "The rules have changed: it was closed while the connection stood.",
        )),
    }
}

fn not_http(host: &Host, port: u16) -> Refusal {
    Refusal::new(
        http::StatusCode::FORBIDDEN,
        "not_http",
        format!(
            "{host}:{port} was spoken to in neither HTTP nor TLS; such bytes pass only where the allow list names `{host}:{port}`."
        ),
    )
}

/// Copies both ways until both sides are done or one fails.
async fn splice<A, B>(inside: &mut A, outside: &mut B, exchange: &Exchange) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (inside_read, inside_write) = tokio::io::split(inside);
    let (outside_read, outside_write) = tokio::io::split(outside);
    let up = copy(inside_read, outside_write, &exchange.bytes_out);
    let down = copy(outside_read, inside_write, &exchange.bytes_in);
    tokio::try_join!(up, down).map(|_| ())
}

async fn copy<R, W>(mut from: R, mut to: W, counter: &AtomicU64) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buf = BytesMut::with_capacity(PIECE);
    loop {
        buf.clear();
        let n = from.read_buf(&mut buf).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buf).await?;
        to.flush().await?;
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
}
