//! Takes secrets out of what comes back: in every form they are known to travel in, they become their stub again.

use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, IF_RANGE, RANGE,
};
use http::{Method, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::body::{Purpose, Relay, Rewriting};
use crate::codec::{self, Coding, Growth};
use crate::grants::Table;
use crate::needles::Replacer;
use crate::refusal::Refusal;

/// How much care an answer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// A credential went along, or it is metered: what cannot be read does not come back.
    Strict,
    /// A credential could have gone along: what can be read is searched.
    Lenient,
    /// Only what is of no use without a secret that never travels went along, and no other credential could have: what is
    /// found is replaced in place, so that lengths, ranges and checksums stay right.
    InPlace,
}

/// Prepares a request that carries a credential, so that its answer can be read: no ranges (a secret could be read byte by
/// byte), no coding the vault does not know.
pub(crate) fn prepare(headers: &mut HeaderMap) {
    headers.remove(RANGE);
    // What ranges were called before they had a standard; widespread servers still listen to it.
    headers.remove("request-range");
    headers.remove(IF_RANGE);
    let asked = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(", ");
    let value =
        HeaderValue::from_str(&Coding::readable(&asked)).unwrap_or_else(|_| HeaderValue::from_static("identity"));
    headers.insert(ACCEPT_ENCODING, value);
}

/// Secrets in header values become stubs; a header whose very name holds one goes, as names are no place for text.
pub(crate) fn headers(table: &Table, mask: u128, headers: &mut HeaderMap) {
    let holds = |name: &&HeaderName| table.secrets_in_names.replace(name.as_str().as_bytes(), mask).is_some();
    let telling: Vec<HeaderName> = headers.keys().filter(holds).cloned().collect();
    for name in telling {
        headers.remove(name);
    }
    for value in headers.values_mut() {
        if let Some((new, _)) = table.secrets.replace(value.as_bytes(), mask) {
            // Stubs are plain letters: what was a header value stays one.
            *value = HeaderValue::from_bytes(&new).unwrap_or_else(|_| HeaderValue::from_static("***"));
        }
    }
}

/// The body on its way back.
pub(crate) fn body(
    table: &Arc<Table>,
    mask: u128,
    care: Care,
    method: &Method,
    status: StatusCode,
    headers: &mut HeaderMap,
    body: Incoming,
) -> Result<Relay, Refusal> {
    let bodyless = *method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    // A model's reply is read even where nothing in it is searched.
    if (mask == 0 && care == Care::Lenient) || body.is_end_stream() {
        return Ok(Relay::incoming(body));
    }
    if bodyless {
        // Over HTTP/2 a server can send one all the same, trailers too; nothing that was not searched comes back.
        return Ok(Relay::empty());
    }
    let needles = if care == Care::InPlace { &table.secrets_in_place } else { &table.secrets };
    let rewriting = |keeps_length| Rewriting {
        replacer: Replacer::new(needles.clone(), mask),
        purpose: Purpose::Scrub,
        table: table.clone(),
        keeps_length,
    };
    match (Coding::of(headers), care) {
        (Coding::Identity, _) => {
            let keeps_length = !needles.changes_length(mask);
            if !keeps_length {
                headers.remove(CONTENT_LENGTH);
            }
            Ok(Relay::incoming(body).rewritten(rewriting(keeps_length)))
        }
        (Coding::Unreadable, Care::Strict) => Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            "encoding",
            "The answer to a request with a credential came in a Content-Encoding the vault cannot read.",
        )),
        (Coding::Unreadable, Care::Lenient) | (_, Care::InPlace) => Ok(Relay::incoming(body)),
        // A piece of something packed cannot be unpacked.
        (_, Care::Lenient) if status == StatusCode::PARTIAL_CONTENT => Ok(Relay::incoming(body)),
        (coding, _) => {
            headers.remove(CONTENT_LENGTH);
            headers.remove(CONTENT_ENCODING);
            Ok(Relay::decoded(codec::decode(coding, body, Growth::Free)).rewritten(rewriting(false)))
        }
    }
}
