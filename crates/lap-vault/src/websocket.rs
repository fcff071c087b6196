//! WebSockets: the handshake is a request like any other; what follows goes through the vault frame by frame. Where `#ws` opens
//! a host, stubs in text messages become secrets; on the way back secrets in messages become stubs. No extension is agreed
//! on, so that nothing in the frames is packed.

mod frame;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod pump;

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use lap_domain::credential::Destination;
use lap_domain::egress::Host;

use crate::body::{Direction, Relay};
use crate::connection::{Connection, Meant};
use crate::grants::Table;
use crate::reached::Reached;
use crate::record::Exchange;
use crate::refusal::Refusal;
use crate::request::{self, Way};
use crate::scrub::Care;
use crate::upstream::Answer;
use crate::{Vault, gateway, scrub};

use pump::{Broken, Pump};

/// For the close frames of a connection that ends before its time.
const FAREWELL: Duration = Duration::from_secs(2);
/// Codes of close frames.
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const AGAINST_POLICY: u16 = 1008;
const RESTART: u16 = 1012;

/// A WebSocket that waits for the server's consent.
pub(crate) struct Upgrade {
    inside: OnUpgrade,
}

/// Takes the wish for a WebSocket out of a request. Wishes for anything else (h2c among them) are not passed on.
pub(crate) fn take(connection: &Connection, request: &mut Request<Incoming>) -> Result<Option<Upgrade>, Refusal> {
    if !wants(request.headers()) || request.version() != Version::HTTP_11 || request.method() != Method::GET {
        return Ok(None);
    }
    if matches!(connection.meant, Meant::Each) {
        return Err(Refusal::bad_request("WebSockets through the proxy need CONNECT."));
    }
    Ok(Some(Upgrade { inside: hyper::upgrade::on(request) }))
}

fn wants(headers: &http::HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Asks the server, and lets frames flow when it consents.
pub(crate) async fn open(
    vault: &Arc<Vault>,
    table: &Arc<Table>,
    way: Way,
    request: Request<Incoming>,
    upgrade: Upgrade,
    exchange: &Arc<Exchange>,
) -> Result<Response<Relay>, Refusal> {
    let Way { host, port, mut place, addresses, uri, authority, open, swapped, scrubbed, recognised, metered: _ } = way;
    if host.name() == Some(gateway::NAME) {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "gateway_route",
            "The gateway's model routes are not WebSockets.",
        ));
    }
    place.h2 = false;
    let tls = place.tls;
    let (mut parts, _) = request.into_parts();
    // A server that does not consent answers like any other.
    let care = if swapped != 0 { Care::Strict } else { Care::Lenient };
    if care == Care::Strict {
        scrub::prepare(&mut parts.headers);
    }
    // Packed frames could not be searched.
    parts.headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Some(signing) = recognised.signing {
        signing.sign(table, parts.method.as_str(), &uri, &mut parts.headers)?;
    }
    let request = request::assemble(parts.method.clone(), uri, authority, parts.headers, Relay::empty());
    let answer = vault
        .pool
        .send(place, &addresses, &table.tls, request)
        .await
        .map_err(|error| request::broken(&host, port, &error))?;
    let Answer { mut response, lease } = answer;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut head, body) = response.into_parts();
        request::check_codings_of_answer(&head.headers)?;
        request::clean_answer(table, scrubbed, &mut head);
        let mut body = scrub::body(table, scrubbed, care, &parts.method, head.status, &mut head.headers, body)?;
        if let Some(lease) = lease {
            body = body.leasing(lease);
        }
        return Ok(Response::from_parts(head, body.counted(exchange.clone(), Direction::In)));
    }
    if !wants(response.headers()) || response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            "upstream",
            format!("{host}:{port} switched to something that was not asked for."),
        ));
    }
    let outside = hyper::upgrade::on(&mut response);
    if let Some(lease) = lease {
        lease.detach(&vault.tasks);
    }
    let (mut head, _) = response.into_parts();
    request::clean_answer(table, scrubbed, &mut head);
    head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let reached = Reached::default();
    reached.note(&host, port, &addresses);
    let relay = Relaying {
        vault: vault.clone(),
        reached,
        table: table.clone(),
        host,
        port,
        tls,
        stubs: open.ws,
        secrets: scrubbed,
        exchange: exchange.clone(),
    };
    vault.tasks.spawn(async move {
        if let (Ok(inside), Ok(outside)) = tokio::join!(upgrade.inside, outside) {
            relay.run(TokioIo::new(inside), TokioIo::new(outside)).await;
        }
    });
    Ok(Response::from_parts(head, Relay::empty()))
}

/// An open WebSocket.
struct Relaying {
    vault: Arc<Vault>,
    /// Where it leads.
    reached: Reached,
    table: Arc<Table>,
    host: Host,
    port: u16,
    tls: bool,
    /// Credentials swapped in on the way up.
    stubs: u128,
    /// Credentials taken out on the way back.
    secrets: u128,
    exchange: Arc<Exchange>,
}

/// Why an open WebSocket ends before its sides end it.
enum Change {
    Stopped,
    /// The rules close the host.
    Closed,
    /// Credentials of the host have other values, or are gone.
    Credentials,
}

/// The code for the one inside, the one for the server, and the reason.
type Farewell = (u16, u16, String);

impl Relaying {
    async fn run<S: tokio::io::AsyncRead + tokio::io::AsyncWrite>(self, inside: S, outside: S) {
        let (inside_read, inside_write) = tokio::io::split(inside);
        let (outside_read, outside_write) = tokio::io::split(outside);
        let (table, exchange) = (&self.table, &self.exchange);
        let mut up = Pump::new(pump::Way::Up, inside_read, outside_write, table, self.stubs, exchange);
        let mut down = Pump::new(pump::Way::Down, outside_read, inside_write, table, self.secrets, exchange);
        let farewell = tokio::select! {
            ended = async { tokio::try_join!(
                async { up.run().await.map_err(|broken| (pump::Way::Up, broken)) },
                async { down.run().await.map_err(|broken| (pump::Way::Down, broken)) },
            ) } => match ended {
                Ok(_) | Err((_, Broken::Io(_))) => return,
                Err((way, Broken::Frame(violation))) => self.violated(way, &violation),
            },
            change = self.changed() => match change {
                Change::Stopped => return,
                change => self.told(&change),
            },
        };
        let (inside, outside, reason) = farewell;
        let said = async { tokio::join!(down.close(inside, &reason), up.close(outside, &reason)) };
        // Who does not take the close frame in time is closed all the same.
        let _ = tokio::time::timeout(FAREWELL, said).await;
    }

    fn violated(&self, way: pump::Way, violation: &frame::Violation) -> Farewell {
        let (who, inside, outside) = match way {
            pump::Way::Up => ("the client", PROTOCOL_ERROR, GOING_AWAY),
            pump::Way::Down => ("the server", GOING_AWAY, PROTOCOL_ERROR),
        };
        self.exchange.set_refusal("bad_frame", format!("A frame of {who} breaks RFC 6455: {violation}."));
        (inside, outside, format!("{who}: {violation}"))
    }

    fn told(&self, change: &Change) -> Farewell {
        match change {
            Change::Closed | Change::Stopped => {
                let sentence = format!("{}:{} was closed: the rules have changed.", self.host, self.port);
                self.exchange.set_refusal("denied", sentence);
                (AGAINST_POLICY, GOING_AWAY, "the rules have changed".to_owned())
            }
            Change::Credentials => (RESTART, GOING_AWAY, "the credentials of this host have changed".to_owned()),
        }
    }

    /// Waits until this WebSocket may not go on as it began. A request is over soon and may end as it began; a WebSocket
    /// stands for days.
    async fn changed(&self) -> Change {
        let mut changed = self.vault.changed.subscribe();
        loop {
            // Looked at after subscribing: a change that came while the server was asked is seen here.
            let Ok(table) = self.vault.table() else { return Change::Closed };
            if !self.reached.is_open(&table) {
                return Change::Closed;
            }
            let destination = Destination { host: &self.host, port: self.port, tls: self.tls };
            if !self.table.same_at(&table, &destination) {
                return Change::Credentials;
            }
            tokio::select! {
                () = self.vault.stop.cancelled() => return Change::Stopped,
                _ = changed.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
