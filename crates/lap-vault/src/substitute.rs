//! Puts secrets in the place of stubs, in the positions that are open at a destination and nowhere else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use memchr::memmem;
use zeroize::Zeroizing;

use crate::body::{Direction, Purpose, Relay, Rewriting};
use crate::codec::{self, Coding, Growth};
use crate::grants::{Open, Table};
use crate::needles::{Needles, Replacer};
use crate::record::Exchange;
use crate::refusal::Refusal;

/// Bodies up to this size are collected when a swap changes their length, so that Content-Length stays true.
const MAX_COLLECTED: u64 = 1 << 20;
/// For collecting such a body from the sandbox.
const COLLECT_DEADLINE: Duration = Duration::from_secs(300);
/// Clients differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// Headers that digest or sign the content: a swap in the body would make them lie.
const SIGNING_HEADERS: [&str; 7] =
    ["content-md5", "digest", "content-digest", "repr-digest", "signature", "signature-input", "x-amz-content-sha256"];

/// Whether a header is made for credentials. In these a stub of another host's credential is refused; in all others it is
/// only text.
pub(crate) fn is_credential_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    match name {
        "authorization" | "proxy-authorization" | "cookie" | "token" | "apikey" | "api-key" | "auth" => true,
        // Made by the client for the WebSocket handshake; `*-key` by accident.
        "sec-websocket-key" | "idempotency-key" => false,
        "sec-websocket-protocol" => true,
        _ => {
            [
                "-token",
                "-key",
                "-apikey",
                "-secret",
                "-password",
                "-credential",
                "-credentials",
                "-authorization",
                "-authentication",
            ]
            .iter()
            .any(|end| name.ends_with(end))
                || name.contains("-auth")
        }
    }
}

/// Swaps in headers. The mask says which credentials went in.
pub(crate) fn headers(table: &Table, open: &Open, headers: &mut HeaderMap, to: &str) -> Result<u128, Refusal> {
    let mut swapped = 0;
    for (name, value) in headers.iter_mut() {
        let in_position = is_credential_header(name);
        let allowed = if in_position { open.credential } else { open.header };
        if !in_position && allowed == 0 {
            continue;
        }
        let swap = match basic_credentials(value).filter(|_| in_position) {
            Some(decoded) => swap_value(table, allowed, in_position, &decoded, to)?.map(|(new, mask)| {
                let encoded = format!("Basic {}", BASE64.encode(&*new));
                (Zeroizing::new(encoded.into_bytes()), mask)
            }),
            None => swap_value(table, allowed, in_position, value.as_bytes(), to)?,
        };
        if let Some((new, mask)) = swap {
            *value = header_value(&new, table, mask)?;
            swapped |= mask;
        }
    }
    Ok(swapped)
}

type Swapped = (Zeroizing<Vec<u8>>, u128);

fn swap_value(
    table: &Table,
    allowed: u128,
    in_position: bool,
    value: &[u8],
    to: &str,
) -> Result<Option<Swapped>, Refusal> {
    if in_position {
        let elsewhere = table.stubs.occurring(value) & !allowed;
        if elsewhere != 0 {
            let names = table.names_of(elsewhere).join(", ");
            if elsewhere & table.signing != 0 {
                let sentence = format!("{names} signs requests and never travels: not to {to}, nor anywhere else.");
                return Err(Refusal::new(StatusCode::FORBIDDEN, "misdirected_stub", sentence));
            }
            let sentence = format!(
                "The credential {names} may not go to {to}. If it should, its owner can name that host in env_var_hosts \
                 (over plain http with its port)."
            );
            return Err(Refusal::new(StatusCode::FORBIDDEN, "misdirected_stub", sentence));
        }
    }
    Ok(table.stubs.replace(value, allowed).map(|(new, mask)| (Zeroizing::new(new), mask)))
}

fn header_value(bytes: &[u8], table: &Table, mask: u128) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::from_bytes(bytes).map_err(|_| {
        let names = table.names_of(mask).join(", ");
        let sentence = format!("The value of {names} has characters (such as line breaks) that no header can carry.");
        Refusal::new(StatusCode::FORBIDDEN, "unusable_secret", sentence)
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The decoded part of `Basic …`.
fn basic_credentials(value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, rest) = value.as_bytes().split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    BASE64.decode(rest.trim_ascii()).ok()
}

/// Swaps in path and query. None when nothing is to be swapped.
pub(crate) fn path_and_query(table: &Table, open: &Open, text: &str) -> Option<(String, u128)> {
    if open.path | open.query == 0 || memmem::find(text.as_bytes(), b"stub_").is_none() {
        return None;
    }
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    let swap = |part: &str, allowed: u128| match table.stubs_percent.replace(part.as_bytes(), allowed) {
        Some((new, mask)) => (String::from_utf8(new).unwrap_or_else(|_| part.to_owned()), mask),
        None => (part.to_owned(), 0),
    };
    let (mut out, mut swapped) = swap(path, open.path);
    if let Some(query) = query {
        let (query, mask) = swap(query, open.query);
        out.push('?');
        out.push_str(&query);
        swapped |= mask;
    }
    (swapped != 0).then_some((out, swapped))
}

/// The body on its way up, swapped where `mask` opens it.
pub(crate) async fn body(
    table: &Arc<Table>,
    mask: u128,
    headers: &mut HeaderMap,
    body: Incoming,
    exchange: &Arc<Exchange>,
) -> Result<Relay, Refusal> {
    if mask == 0 || body.is_end_stream() {
        return Ok(Relay::incoming(body).counted(exchange.clone(), Direction::Out));
    }
    let (needles, mask) = needles_for(table, headers, mask);
    let signed = SIGNING_HEADERS.iter().any(|name| {
        headers
            .get(*name)
            .is_some_and(|value| *name != "x-amz-content-sha256" || value.as_bytes() != b"UNSIGNED-PAYLOAD")
    });
    let purpose = if signed { Purpose::RefuseStubs } else { Purpose::Substitute };
    let keeps_length = signed || !needles.changes_length(mask);
    let rewriting = |keeps_length| Rewriting {
        replacer: Replacer::new(needles.clone(), mask),
        purpose,
        table: table.clone(),
        keeps_length,
    };
    match Coding::of(headers) {
        Coding::Identity if keeps_length => {
            Ok(Relay::incoming(body).rewritten(rewriting(true)).counted(exchange.clone(), Direction::Out))
        }
        Coding::Identity if body.size_hint().exact().is_some_and(|n| n <= MAX_COLLECTED) => {
            collected(table, &needles, mask, headers, body, exchange).await
        }
        Coding::Identity => {
            headers.remove(CONTENT_LENGTH);
            Ok(Relay::incoming(body).rewritten(rewriting(false)).counted(exchange.clone(), Direction::Out))
        }
        Coding::Unreadable => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "encoding",
            "Stubs may be swapped in the body here, and its Content-Encoding is one the vault cannot read.",
        )),
        // A signed packed body must go up as it is; looking for stubs in it would mean unpacking a copy.
        _ if signed => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "signed_body",
            "Stubs may be swapped in the body here, and this packed body is signed: swapping would break the signature.",
        )),
        coding => {
            headers.remove(CONTENT_LENGTH);
            headers.remove(CONTENT_ENCODING);
            let decoded = codec::decode(coding, body, Growth::Bounded);
            Ok(Relay::decoded(decoded).rewritten(rewriting(false)).counted(exchange.clone(), Direction::Out))
        }
    }
}

async fn collected(
    table: &Arc<Table>,
    needles: &Needles,
    mask: u128,
    headers: &mut HeaderMap,
    body: Incoming,
    exchange: &Arc<Exchange>,
) -> Result<Relay, Refusal> {
    let limit = usize::try_from(MAX_COLLECTED).expect("a mebibyte fits");
    let bytes = tokio::time::timeout(COLLECT_DEADLINE, Limited::new(body, limit).collect())
        .await
        .map_err(|_| {
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "The request's body did not arrive in time.")
        })?
        .map_err(|e| Refusal::bad_request(format!("The request's body could not be read: {e}.")))?
        .to_bytes();
    exchange.bytes_out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    let bytes = match needles.replace(&bytes, mask) {
        Some((new, hits)) => {
            exchange.add_swapped(hits, table);
            new.into()
        }
        None => bytes,
    };
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    Ok(Relay::full(bytes))
}

/// The form a secret must have in this kind of body, and the credentials that can be swapped in it.
pub(crate) fn needles_for(table: &Table, headers: &HeaderMap, mask: u128) -> (Arc<Needles>, u128) {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.ends_with("/json") || kind.ends_with("+json") || kind.ends_with("ndjson") {
        (table.stubs_json.clone(), mask)
    } else if kind == "application/x-www-form-urlencoded" {
        (table.stubs_percent.clone(), mask)
    } else if kind.starts_with("application/grpc") {
        // Messages inside count their bytes: only what keeps the length can be swapped.
        (table.stubs.clone(), table.stubs.evenly(mask))
    } else {
        (table.stubs.clone(), mask)
    }
}

#[cfg(test)]
#[path = "substitute/tests.rs"]
mod tests;
