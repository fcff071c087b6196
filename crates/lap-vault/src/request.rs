//! One request: whose is it, may it go there, what goes along, what comes back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use lap_domain::credential::Destination;
use lap_domain::egress::{Host, parse_authority};

use crate::body::{Direction, Relay, SignedBody};
use crate::connection::{Connection, Meant};
use crate::grants::{Open, Table};
use crate::meter::{self, Background, Call, Protocol};
use crate::record::{Exchange, redacted_path};
use crate::refusal::Refusal;
use crate::scrub::Care;
use crate::sigv4::{self, Recognised};
use crate::upstream::{Answer, Place, UpstreamError};
use crate::{Vault, gateway, route, scrub, substitute, websocket};

/// Headers about one connection, which never go on to the next.
const HOP_HEADERS: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Answers a request of the sandbox, whatever it is.
pub(crate) async fn handle(connection: &Arc<Connection>, request: Request<Incoming>) -> Response<Relay> {
    let vault = &connection.vault;
    let mut path = redacted_path(request.uri().path_and_query().map_or("/", PathAndQuery::as_str));
    // The sandbox cannot know a value; should it have learned one all the same, the record is no place for it.
    if let Ok(table) = vault.table()
        && let Some((scrubbed, _)) = table.secrets.replace(path.as_bytes(), u128::MAX)
    {
        path = String::from_utf8_lossy(&scrubbed).into_owned();
    }
    let Some(exchange) = vault.begin(request.method().as_str(), path).await else {
        let sentence = "The record of this request cannot be written, so it does not go out.";
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "record_unavailable", sentence).into_response(None);
    };
    // Over HTTP/2 the deadline of those that are refused ends it.
    let closes = connection.no_room && request.version() < Version::HTTP_2;
    match proceed(connection, request, &exchange).await {
        Ok(response) => {
            exchange.set_status(response.status().as_u16());
            response
        }
        Err(refusal) => {
            tracing::debug!(code = refusal.code, "a request was refused");
            let mut response = refusal.into_response(Some(&exchange));
            if closes {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

/// Where a request goes, after everything in it that names a place was found to agree.
pub(crate) struct Asked {
    pub host: Host,
    pub port: u16,
    pub must_be: Option<IpAddr>,
    /// As the client wrote it.
    pub authority: HeaderValue,
}

/// Everything about the way of a request.
pub(crate) struct Way {
    /// What the sandbox calls it; nothing else is said to it.
    pub host: Host,
    pub port: u16,
    pub place: Place,
    pub addresses: Vec<SocketAddr>,
    pub uri: Uri,
    pub authority: HeaderValue,
    pub open: Open,
    /// Credentials swapped in so far.
    pub swapped: u128,
    /// Credentials whose values are looked for in the answer.
    pub scrubbed: u128,
    /// How it is signed, if it is to be signed anew.
    pub recognised: Recognised,
    /// How it is metered, if it is a model call.
    pub metered: Option<Protocol>,
}

async fn proceed(
    connection: &Connection,
    mut request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Response<Relay>, Refusal> {
    let vault = &connection.vault;
    let asked = asked(connection, &request);
    match (&asked, &connection.meant) {
        (Ok(asked), _) => exchange.set_host(format!("{}:{}", asked.host, asked.port)),
        (Err(_), Meant::Place { host, port, .. }) => exchange.set_host(format!("{host}:{port}")),
        (Err(_), Meant::Each) => {}
    }
    let asked = asked?;
    if connection.no_room {
        return Err(Refusal::no_room());
    }
    if request.method() == Method::CONNECT {
        return Err(Refusal::bad_request("CONNECT is for the explicit proxy; here it would lead around the vault."));
    }
    let table = vault.table()?;
    let upgrade = websocket::take(connection, &mut request)?;
    check_framing(&request)?;
    strip_hop_headers(request.headers_mut(), matches!(connection.meant, Meant::Each));
    let way = if asked.host.name() == Some(gateway::NAME) {
        to_gateway(vault, &table, connection, &asked, &mut request).await?
    } else {
        to_host(vault, &table, connection, asked, &mut request).await?
    };
    exchange.add_swapped(way.swapped, &table);
    match upgrade {
        Some(upgrade) => websocket::open(vault, &table, way, request, upgrade, exchange).await,
        None => forward(vault, &table, way, request, exchange).await,
    }
}

/// Finds out where the request goes. Every disagreement is an error: a proxy that guesses can be played against the server.
pub(crate) fn asked<B>(connection: &Connection, request: &Request<B>) -> Result<Asked, Refusal> {
    if let Some(sentence) = &connection.disagreement {
        return Err(Refusal::misdirected(sentence.clone()));
    }
    let default_port = if connection.tls { 443 } else { 80 };
    let scheme = request.uri().scheme();
    if scheme.is_some_and(|s| *s != if connection.tls { Scheme::HTTPS } else { Scheme::HTTP }) {
        return Err(Refusal::bad_request("The scheme of the request's URI is not that of its connection."));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (header, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Refusal::bad_request("The request has more than one Host header."));
    }
    let parse = |text: &str| {
        parse_authority(text).map_err(|e| Refusal::bad_request(format!("The request's host is not valid: {e}.")))
    };
    let from_header = match header {
        Some(value) => {
            let text = value.to_str().map_err(|_| Refusal::bad_request("The Host header is not text."))?;
            Some((parse(text)?, value.clone()))
        }
        None => None,
    };
    let from_uri = match request.uri().authority() {
        Some(authority) => {
            let value = HeaderValue::from_str(authority.as_str())
                .map_err(|_| Refusal::bad_request("The request's authority is not text."))?;
            Some((parse(authority.as_str())?, value))
        }
        None => None,
    };
    let ((host, port), authority) = match (from_uri, from_header) {
        (Some((uri, value)), Some((header, _))) => {
            let same = uri.0 == header.0 && uri.1.unwrap_or(default_port) == header.1.unwrap_or(default_port);
            if !same {
                return Err(Refusal::misdirected("The request's URI and its Host header name different places."));
            }
            (uri, value)
        }
        (Some(found), None) | (None, Some(found)) => found,
        (None, None) => return Err(Refusal::bad_request("The request names no host.")),
    };
    match &connection.meant {
        Meant::Each if request.uri().authority().is_none() => {
            Err(Refusal::bad_request("This is a proxy: use CONNECT, or an absolute URI over http."))
        }
        Meant::Each => Ok(Asked { host, port: port.unwrap_or(default_port), must_be: None, authority }),
        Meant::Place { host: meant, port: meant_port, must_be } => {
            if port.is_some_and(|p| p != *meant_port) {
                return Err(Refusal::misdirected(format!(
                    "The connection is for port {meant_port}, the request for another."
                )));
            }
            let must_be = match (meant, &host) {
                _ if *meant == host => *must_be,
                // The connection was made to an address; the name has to lead there.
                (Host::Addr(addr), Host::Name(_)) => Some(*addr),
                _ => {
                    return Err(Refusal::misdirected(format!(
                        "The connection is for {meant}, the request for {host}; they must be the same."
                    )));
                }
            };
            Ok(Asked { host, port: *meant_port, must_be, authority })
        }
    }
}

/// Codings under the chunks are one interpretation too many. (Where a length stands beside them, the parser has dropped it:
/// upstream gets the framing the vault writes itself.)
fn check_framing(request: &Request<Incoming>) -> Result<(), Refusal> {
    let headers = request.headers();
    if request.version() >= Version::HTTP_2 {
        return Ok(());
    }
    let coded = headers.get_all(TRANSFER_ENCODING).iter().count();
    if coded > 1 || headers.get(TRANSFER_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Refusal::bad_request("The request has a Transfer-Encoding other than `chunked`."));
    }
    Ok(())
}

fn strip_hop_headers(headers: &mut HeaderMap, from_proxy: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_HEADERS {
        headers.remove(name);
    }
    let trailers = headers
        .get(TE)
        .is_some_and(|v| v.to_str().is_ok_and(|v| v.split(',').any(|w| w.trim().eq_ignore_ascii_case("trailers"))));
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if from_proxy {
        headers.remove(http::header::PROXY_AUTHORIZATION);
    }
    // The vault's own server has answered it.
    headers.remove(http::header::EXPECT);
}

async fn to_host(
    vault: &Vault,
    table: &Arc<Table>,
    connection: &Connection,
    asked: Asked,
    request: &mut Request<Incoming>,
) -> Result<Way, Refusal> {
    let Asked { host, port, must_be, authority } = asked;
    let addresses = route::addresses(vault, table, &host, port, must_be).await?;
    connection.reached.note(&host, port, &addresses);
    route::judge_again(vault, table, &host, port, &addresses)?;
    let open = table.open_at(&Destination { host: &host, port, tls: connection.tls });
    let recognised = sigv4::recognise(table, &open, &vault.signing_room, &authority, request).await?;
    let swapped = substitute::headers(table, &open, request.headers_mut(), &format!("{host}:{port}"))?;
    let (path, in_path) = match request.uri().path_and_query() {
        None => (PathAndQuery::from_static("/"), 0),
        Some(path) => match substitute::path_and_query(table, &open, path.as_str()) {
            None => (path.clone(), 0),
            Some((new, mask)) => (
                new.parse().map_err(|_| {
                    Refusal::new(StatusCode::FORBIDDEN, "unusable_secret", "The credential's value makes no valid URI.")
                })?,
                mask,
            ),
        },
    };
    let place =
        Place { tls: connection.tls, host: host.clone(), addr: NOWHERE, h2: request.version() == Version::HTTP_2 };
    let uri = uri_of(connection.tls, &authority, path)?;
    let signer = recognised.signing.as_ref().map_or(0, |signing| signing.signer);
    let (swapped, scrubbed) = (swapped | in_path | signer, open.credential | open.sign);
    Ok(Way { host, port, place, addresses, uri, authority, open, swapped, scrubbed, recognised, metered: None })
}

async fn to_gateway(
    vault: &Vault,
    table: &Arc<Table>,
    connection: &Connection,
    asked: &Asked,
    request: &mut Request<Incoming>,
) -> Result<Way, Refusal> {
    if asked.port != if connection.tls { 443 } else { 80 } {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "gateway_route", "The gateway is at its scheme's own port."));
    }
    let Some(target) = &table.gateway else {
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "dns", "No model gateway is configured."));
    };
    let (path, metered) = gateway::route(target, request.method(), request.uri().path(), request.uri().query())?;
    if metered.is_some() {
        vault.meter.check()?;
        meter::prepare(request.headers_mut())?;
    }
    let swapped = gateway::headers(table, request.headers_mut())?;
    let addresses = route::gateway_addresses(vault, table, &target.host, target.port).await?;
    let place = Place {
        tls: target.tls,
        host: target.host.clone(),
        addr: NOWHERE,
        h2: target.tls && request.version() == Version::HTTP_2,
    };
    let authority = HeaderValue::from_str(&target.authority())
        .map_err(|_| Refusal::bad_request("The gateway's address is not valid."))?;
    let path = path.parse().map_err(|_| Refusal::bad_request("The request's path is not valid."))?;
    let uri = uri_of(target.tls, &authority, path)?;
    let (host, scrubbed) = (Host::Name(gateway::NAME.to_owned()), table.open_at_gateway());
    let (open, recognised) = (Open::default(), Recognised::default());
    Ok(Way { host, port: asked.port, place, addresses, uri, authority, open, swapped, scrubbed, recognised, metered })
}

/// Stands in a place until the pool has chosen among the judged addresses.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn uri_of(tls: bool, authority: &HeaderValue, path: PathAndQuery) -> Result<Uri, Refusal> {
    Uri::builder()
        .scheme(if tls { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(authority.as_bytes())
        .path_and_query(path)
        .build()
        .map_err(|_| Refusal::bad_request("The request's URI is not valid."))
}

async fn forward(
    vault: &Vault,
    table: &Arc<Table>,
    way: Way,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Response<Relay>, Refusal> {
    let Way { host, port, place, addresses, uri, authority, open, swapped, scrubbed, recognised, metered } = way;
    let Recognised { signing, body: read } = recognised;
    let (mut parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let care = match &signing {
        Some(signing) => signing.care(table, &open, swapped),
        None if swapped != 0 || (open.body != 0 && has_body) || metered.is_some() => Care::Strict,
        None => Care::Lenient,
    };
    if care == Care::Strict {
        scrub::prepare(&mut parts.headers);
    }
    // Framing upstream follows from the body as it was read, never from what the client claimed.
    if !has_body && !parts.headers.contains_key(CONTENT_LENGTH) || body.size_hint().exact().is_none() {
        parts.headers.remove(CONTENT_LENGTH);
    }
    let mut body = match &read {
        Some(held) => held.relay(table, &open)?.counted(exchange.clone(), Direction::Out),
        None => substitute::body(table, open.body, &mut parts.headers, body, exchange).await?,
    };
    let call = metered.map(|protocol| Call::new(&vault.meter, exchange, protocol));
    if let Some(call) = &call {
        body = body.watched(call.ask());
    }
    if let Some(signing) = signing {
        signing.sign(table, parts.method.as_str(), &uri, &mut parts.headers)?;
    }
    let request = assemble(parts.method.clone(), uri, authority, parts.headers, body);
    let answer = vault.pool.send(place, &addresses, &table.tls, request).await.map_err(|error| {
        if let Some(call) = &call {
            call.discard();
        }
        broken(&host, port, &error)
    })?;
    let Answer { response, lease } = answer;
    let (mut head, body) = response.into_parts();
    if let Some(call) = &call {
        call.answered(&head);
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            "upstream",
            format!("{host}:{port} switched protocols unasked."),
        ));
    }
    check_codings_of_answer(&head.headers)?;
    clean_answer(table, scrubbed, &mut head);
    let mut body = scrub::body(table, scrubbed, care, &parts.method, head.status, &mut head.headers, body)?;
    if let Some(call) = &call {
        body = body.watched(call.reply());
    }
    if let Some(lease) = lease {
        body = body.leasing(lease);
    }
    Ok(Response::from_parts(head, body.counted(exchange.clone(), Direction::In)))
}

pub(crate) fn assemble(
    method: Method,
    uri: Uri,
    authority: HeaderValue,
    mut headers: HeaderMap,
    body: Relay,
) -> Request<Relay> {
    headers.insert(HOST, authority);
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

/// Codings below the chunks stay packed when the chunks are taken away, so nobody could search what is in them.
pub(crate) fn check_codings_of_answer(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get_all(TRANSFER_ENCODING).iter().all(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::BAD_GATEWAY,
        "encoding",
        "The answer came in a Transfer-Encoding other than `chunked`, which the vault cannot read.",
    ))
}

pub(crate) fn clean_answer(table: &Table, scrubbed: u128, head: &mut http::response::Parts) {
    head.version = Version::HTTP_11;
    // Among them is the reason beside the status: text of the server that nobody needs.
    head.extensions.clear();
    for name in HOP_HEADERS {
        head.headers.remove(name);
    }
    // It would send clients to QUIC, which the sandbox does not have.
    head.headers.remove(http::header::ALT_SVC);
    // Only the vault says what the vault refused.
    head.headers.remove("x-lap-blocked");
    if scrubbed != 0 {
        scrub::headers(table, scrubbed, &mut head.headers);
    }
}

pub(crate) fn broken(host: &Host, port: u16, error: &UpstreamError) -> Refusal {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = match error {
        UpstreamError::Http(error) => Some(error),
        _ => None,
    };
    while let Some(error) = cause {
        if error.is::<SignedBody>() {
            return Refusal::new(
                StatusCode::FORBIDDEN,
                "signed_body",
                format!("The request cannot be swapped: {error}."),
            );
        }
        if let Some(background) = error.downcast_ref::<Background>() {
            return Refusal::new(
                StatusCode::FORBIDDEN,
                "gateway_route",
                format!("The request is refused: {background}."),
            );
        }
        cause = error.source();
    }
    if host.name() == Some(gateway::NAME) {
        // Errors name hosts and certificates; where the gateway really is, is none of the sandbox's business.
        tracing::warn!("the model gateway could not be reached: {error}");
        return Refusal {
            sentence: "The model gateway could not be reached.".to_owned(),
            ..Refusal::upstream(host, port, error)
        };
    }
    Refusal::upstream(host, port, error)
}
