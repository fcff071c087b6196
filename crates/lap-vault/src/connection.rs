//! One connection of the sandbox: what it is meant for, what it speaks, and the HTTP server that answers it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lap_domain::egress::Host;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;

use crate::reached::Reached;
use crate::refusal::Refusal;
use crate::tasks::Owned;
use crate::wire::{PATIENCE, SILENCE, Speaks, Wire};
use crate::{Vault, passthrough, request, tunnel};

/// For the TLS handshake with a client inside.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// For the head of a request, idle time between requests included.
const HEAD_DEADLINE: Duration = Duration::from_secs(5 * 60);
const MAX_HEADERS: usize = 256;
/// Heads of requests; also how much of a body is read at once.
const MAX_BUFFER: usize = 256 << 10;
const MAX_H2_STREAMS: u32 = 256;
const MAX_H2_HEADERS: u32 = 128 << 10;
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_CONNECTION_WINDOW: u32 = 4 << 20;

/// What the HTTP server knows of its connection.
pub(crate) struct Connection {
    pub vault: Arc<Vault>,
    pub meant: Meant,
    pub tls: bool,
    /// SNI and target disagree: every request is refused with this sentence, where the client can read it.
    pub disagreement: Option<String>,
    /// Every request is refused: there are too many connections.
    pub no_room: bool,
    /// Where its requests went.
    pub reached: Reached,
}

/// What a connection is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meant {
    /// This place.
    Place { host: Host, port: u16, must_be: Option<IpAddr> },
    /// Whatever each request says: the explicit proxy.
    Each,
}

/// Serves a connection that is meant for `host:port`; without room for it, only as far as to say so.
pub(crate) async fn serve(vault: Arc<Vault>, mut wire: Wire, host: Host, port: u16, no_room: bool) {
    let names_port = !no_room && vault.table().is_ok_and(|table| table.policy.names_port(&host, port));
    let Ok(mut speaks) = wire.sniff(if names_port { SILENCE } else { PATIENCE }).await else { return };
    if speaks == Speaks::Silent && names_port {
        // It waits for the server, or it only takes its time; what is spoken first decides.
        let Some(spoken) = tunnel::serve_silent(&vault, &mut wire, &host, port).await else { return };
        speaks = spoken;
    }
    match speaks {
        Speaks::Closed | Speaks::Silent => {}
        Speaks::Tls => serve_tls(vault, wire, host, port, no_room).await,
        Speaks::Http1 | Speaks::Http2 => {
            let reached = Reached::default();
            let meant = Meant::Place { host, port, must_be: None };
            let connection = Connection { vault, meant, tls: false, disagreement: None, no_room, reached };
            serve_http(connection, wire, speaks == Speaks::Http2).await;
        }
        Speaks::Other if no_room => tunnel::refuse(&vault, "TCP", &host, port, Refusal::no_room()).await,
        Speaks::Other => tunnel::serve(&vault, &mut wire, &host, port).await,
    }
}

async fn serve_tls(vault: Arc<Vault>, wire: Wire, host: Host, port: u16, no_room: bool) {
    let wire = match no_room {
        true => wire,
        false => match passthrough::take(&vault, wire, &host, port).await {
            Some(wire) => wire,
            None => return,
        },
    };
    let accept = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), wire).await?;
        let sni = start.client_hello().server_name().map(str::to_owned);
        let (shown, meant, disagreement) = meant_by(host, port, sni.as_deref());
        let config = vault.authority.config_for(&shown).map_err(std::io::Error::other)?;
        let stream = start.into_stream(config).await?;
        std::io::Result::Ok((stream, meant, disagreement))
    };
    match tokio::time::timeout(HANDSHAKE_DEADLINE, accept).await {
        Ok(Ok((stream, meant, disagreement))) => {
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let reached = Reached::default();
            serve_http(Connection { vault, meant, tls: true, disagreement, no_room, reached }, stream, h2).await;
        }
        // A client that does not trust the authority, or gave up: nothing was asked for yet.
        Ok(Err(error)) => tracing::debug!("a TLS handshake inside failed: {error}"),
        Err(_) => tracing::debug!("a TLS handshake inside did not end in time"),
    }
}

/// The name to show a certificate for, and what the connection is meant for once SNI is known.
fn meant_by(host: Host, port: u16, sni: Option<&str>) -> (Host, Meant, Option<String>) {
    let Some(sni) = sni else {
        return (host.clone(), Meant::Place { host, port, must_be: None }, None);
    };
    match (Host::parse(sni), &host) {
        (Ok(name), Host::Addr(addr)) if name != host => {
            let must_be = Some(*addr);
            (name.clone(), Meant::Place { host: name, port, must_be }, None)
        }
        (Ok(name), _) if name == host => (name, Meant::Place { host, port, must_be: None }, None),
        (Ok(name), _) => {
            let sentence =
                format!("The connection is for {host}, its TLS handshake for {name}; they must be the same.");
            (name, Meant::Place { host, port, must_be: None }, Some(sentence))
        }
        (Err(error), _) => {
            let sentence = format!("The TLS handshake names no valid host: {error}.");
            (host.clone(), Meant::Place { host, port, must_be: None }, Some(sentence))
        }
    }
}

/// Answers requests until the connection ends, the vault stops or the rules close what it is meant for.
pub(crate) async fn serve_http<S>(connection: Connection, stream: S, h2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Arc::new(connection);
    let vault = connection.vault.clone();
    let service = {
        let connection = connection.clone();
        service_fn(move |request| {
            let connection = connection.clone();
            // In memory of its own: a connection that waits for its next request does without it.
            async move { Ok::<_, Infallible>(Box::pin(request::handle(&connection, request)).await) }
        })
    };
    let io = TokioIo::new(stream);
    let served = async {
        if h2 {
            http2::Builder::new(Owned(vault.tasks.clone()))
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_H2_STREAMS)
                .max_header_list_size(MAX_H2_HEADERS)
                .initial_stream_window_size(H2_STREAM_WINDOW)
                .initial_connection_window_size(H2_CONNECTION_WINDOW)
                .serve_connection(io, service)
                .await
        } else {
            // Without `pipeline_flush`: with it hyper puts no bound on what it keeps for a reader that is slower than the answer.
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .max_headers(MAX_HEADERS)
                .max_buf_size(MAX_BUFFER)
                .serve_connection(io, service)
                .with_upgrades()
                .await
        }
    };
    if let Some(Err(error)) = vault.while_open(&connection.reached, served).await {
        tracing::debug!("a connection inside ended early: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(target: &str, sni: Option<&str>, shown: &str, meant: &str, must_be: Option<&str>, agree: bool) {
        let parse = |text: &str| Host::parse(text).expect("a host");
        let (got_shown, got_meant, disagreement) = meant_by(parse(target), 443, sni);
        let must_be = must_be.map(|a| a.parse().expect("an address"));
        assert_eq!(got_shown, parse(shown));
        assert_eq!(got_meant, Meant::Place { host: parse(meant), port: 443, must_be });
        assert_eq!(disagreement.is_none(), agree);
    }

    #[test]
    fn sni_and_target_must_agree() {
        check("a.example.com", Some("A.example.com"), "a.example.com", "a.example.com", None, true);
        check("a.example.com", Some("b.example.com"), "b.example.com", "a.example.com", None, false);
        check("a.example.com", None, "a.example.com", "a.example.com", None, true);
        check("93.184.216.34", None, "93.184.216.34", "93.184.216.34", None, true);
        check("93.184.216.34", Some("example.com"), "example.com", "example.com", Some("93.184.216.34"), true);
        check("a.example.com", Some("0x7f.1"), "a.example.com", "a.example.com", None, false);
    }
}
