//! Who may turn a request into a WebSocket, and the turning itself.

use axum::extract::FromRequestParts;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, header};
use lap_api::error::ErrorCode;
use lap_api::tty::MAX_CLIENT_MESSAGE_BYTES;

use crate::App;
use crate::auth::{self, Caller};
use crate::error::ApiError;
use crate::ticket::Tickets;

/// An idle connection keeps a buffer of this size: people type little at a time.
const READ_BUFFER_BYTES: usize = 2 * 1024;

/// Whoever came with a key, or with a ticket for the session in the path.
pub(crate) struct Visitor(pub(crate) Caller);

impl FromRequestParts<App> for Visitor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        if parts.headers.contains_key(header::AUTHORIZATION) {
            let caller = auth::bearer(&parts.headers).and_then(|key| app.keys.caller(key));
            return caller.map(Self).ok_or_else(ApiError::unauthorized);
        }
        let ticket = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .find_map(|(name, value)| (name == "token").then(|| value.into_owned()));
        let session = axum::extract::Path::<String>::from_request_parts(parts, app).await;
        let caller = match (ticket, session) {
            (Some(ticket), Ok(session)) => app.tickets.check(&session.0, &ticket, now_s()),
            _ => None,
        };
        caller.map(Self).ok_or_else(ApiError::unauthorized)
    }
}

/// Issues tickets to whoever asks, in answers about a single session.
pub(crate) struct TicketOffice {
    tickets: Tickets,
    caller: Caller,
    /// Where the caller found this server, as far as it told.
    base: Option<String>,
}

/// A terminal's address and what opens it.
pub(crate) struct Ticket {
    pub(crate) url: Option<String>,
    pub(crate) token: String,
}

impl TicketOffice {
    pub(crate) fn issue(&self, session: &str) -> Ticket {
        let url =
            self.base.as_ref().map(|base| format!("{base}{}/managed_agents/sessions/{session}/tty", lap_api::BASE));
        Ticket { url, token: self.tickets.issue(session, self.caller, now_s()) }
    }
}

impl FromRequestParts<App> for TicketOffice {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Caller>().copied().ok_or_else(ApiError::unauthorized)?;
        Ok(Self { tickets: app.tickets.clone(), caller, base: base(&parts.headers) })
    }
}

/// `ws://` or `wss://` and the host the request names. It is told to nobody but who sent it.
fn base(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let forwarded = headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
    let scheme = if forwarded.is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https")) { "wss" } else { "ws" };
    Some(format!("{scheme}://{host}"))
}

fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A request that wants to become a WebSocket and comes from no other site's page.
pub(crate) struct Upgrade(WebSocketUpgrade);

impl FromRequestParts<App> for Upgrade {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        same_origin(&parts.headers)?;
        let upgrade = WebSocketUpgrade::from_request_parts(parts, app).await.map_err(|_| {
            let message = "This route speaks WebSocket: send Connection: upgrade, Upgrade: websocket and version 13.";
            ApiError::new(ErrorCode::InvalidRequest, message)
        })?;
        Ok(Self(upgrade))
    }
}

impl Upgrade {
    /// Answers with the switch and hands the socket over.
    pub(crate) fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        Visitor(caller): Visitor,
        then: impl FnOnce(WebSocket) -> F + Send + 'static,
    ) -> Response {
        let mut response = self
            .0
            // A little more than is allowed, so that the refusal is ours to word.
            .max_message_size(2 * MAX_CLIENT_MESSAGE_BYTES)
            .max_frame_size(2 * MAX_CLIENT_MESSAGE_BYTES)
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .on_upgrade(then);
        // For the access log.
        response.extensions_mut().insert(caller);
        response
    }
}

/// A browser says whose page it acts for; only this server's own pages may.
fn same_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let named = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
    let without_port = |text: &str, port: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
    let plain = |text: &str| without_port(&without_port(text, ":80"), ":443");
    match (named, host) {
        (Some(named), Some(host)) if plain(named) == plain(host) => Ok(()),
        _ => Err(ApiError::new(
            ErrorCode::Forbidden,
            "A page of another site may not open terminals here: Origin and Host must be the same.",
        )),
    }
}
