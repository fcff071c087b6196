//! The explicit proxy, for programs that are configured with one: CONNECT, and requests with an absolute URI over http.
//!
//! A tunnel made by CONNECT is judged by what goes through it exactly like a redirected connection: it never fails open.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lap_domain::egress::{Verdict, parse_authority};

use crate::body::Relay;
use crate::connection::{self, Connection, Meant};
use crate::reached::Reached;
use crate::refusal::Refusal;
use crate::wire::Wire;
use crate::{Vault, gateway, request};

/// For the head of a request, idle time included.
const HEAD_DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Serves a connection to the proxy's own address.
pub(crate) async fn serve(vault: Arc<Vault>, wire: Wire, no_room: bool) {
    let reached = Reached::default();
    let connection =
        Connection { vault: vault.clone(), meant: Meant::Each, tls: false, disagreement: None, no_room, reached };
    let connection = Arc::new(connection);
    let serving = connection.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let connection = serving.clone();
        async move {
            let response = if request.method() == Method::CONNECT {
                connect(&connection, request).await
            } else {
                request::handle(&connection, request).await
            };
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades();
    if let Some(Err(error)) = vault.while_open(&connection.reached, served).await {
        tracing::debug!("a connection to the proxy ended early: {error}");
    }
}

async fn connect(connection: &Connection, request: Request<Incoming>) -> Response<Relay> {
    let vault = &connection.vault;
    let text = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let (host, port) = match parse_authority(&text) {
        Ok((host, Some(port))) => (host, port),
        _ => {
            let refusal = Refusal::bad_request(format!("CONNECT `{text}` names no `host:port`."));
            return refuse(vault, &text, refusal).await;
        }
    };
    let refused = match vault.table() {
        _ if connection.no_room => Some(Refusal::no_room()),
        Err(refusal) => Some(refusal),
        Ok(_) if host.name() == Some(gateway::NAME) => None,
        Ok(table) => match table.policy.decide_unresolved(&host, port) {
            Verdict::Allowed => None,
            Verdict::Refused(refusal) => Some(Refusal::egress(&host, port, &refusal)),
        },
    };
    if let Some(refusal) = refused {
        return refuse(vault, &format!("{host}:{port}"), refusal).await;
    }
    let task = vault.clone();
    vault.tasks.spawn(async move {
        let served = async {
            let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
            let Ok(parts) = upgraded.downcast::<TokioIo<Wire>>() else { return };
            let mut wire = parts.io.into_inner();
            wire.push_back(&parts.read_buf);
            connection::serve(task.clone(), wire, host, port, false).await;
        };
        tokio::select! {
            () = served => {}
            () = task.stop.cancelled() => {}
        }
    });
    Response::new(Relay::empty())
}

async fn refuse(vault: &Vault, host: &str, refusal: Refusal) -> Response<Relay> {
    match vault.begin("CONNECT", String::new()).await {
        Some(exchange) => {
            exchange.set_host(host.to_owned());
            refusal.into_response(Some(&exchange))
        }
        None => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "record_unavailable", "The record cannot be written.")
            .into_response(None),
    }
}
