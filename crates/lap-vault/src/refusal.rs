//! Answers the vault gives itself: a status, `x-lap-blocked` with a stable code, and a sentence.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use lap_domain::egress;

use crate::body::Relay;
use crate::record::Exchange;
use crate::upstream::UpstreamError;

static BLOCKED: HeaderName = HeaderName::from_static("x-lap-blocked");
static SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// The code of a refusal at the limit of a budget.
const BUDGET: &str = "budget";

/// Why a request does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub sentence: String,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, sentence: impl Into<String>) -> Self {
        Self { status, code, sentence: sentence.into() }
    }

    /// The request is broken or ambiguous; what is not understood is not passed on.
    pub fn bad_request(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", sentence)
    }

    /// Target, SNI and Host do not name the same place.
    pub fn misdirected(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", sentence)
    }

    /// The policy says no.
    pub fn egress(host: &egress::Host, port: u16, refusal: &egress::Refusal) -> Self {
        Self::new(StatusCode::FORBIDDEN, refusal.code.as_str(), format!("{host}:{port} is closed: {refusal}."))
    }

    /// The real server did not do its part.
    pub fn upstream(host: &egress::Host, port: u16, error: &UpstreamError) -> Self {
        let (status, code) = match error {
            UpstreamError::NoRoom => return Self::no_room(),
            UpstreamError::Tls(_) => (StatusCode::BAD_GATEWAY, "upstream_tls"),
            UpstreamError::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            UpstreamError::Outbound(_) => (StatusCode::BAD_GATEWAY, "outbound_proxy"),
            UpstreamError::Connect(_) | UpstreamError::Http(_) => (StatusCode::BAD_GATEWAY, "upstream"),
        };
        Self::new(status, code, format!("{host}:{port} could not be reached: {error}."))
    }

    /// The vault holds open as much as it may.
    pub fn no_room() -> Self {
        let sentence = "This sandbox has too many connections open; close some, or try again later.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", sentence)
    }

    /// A limit of what model calls may use is reached.
    pub fn budget(sentence: String) -> Self {
        Self::new(StatusCode::PAYMENT_REQUIRED, BUDGET, sentence)
    }

    /// The answer, noted in the record.
    pub fn into_response(self, exchange: Option<&Exchange>) -> Response<Relay> {
        let is_budget = self.code == BUDGET;
        let text = if is_budget { budget_body(&self.sentence) } else { format!("LAP: {}\n", self.sentence) };
        let mut response = Response::new(Relay::text(text));
        *response.status_mut() = self.status;
        response.headers_mut().insert(BLOCKED.clone(), HeaderValue::from_static(self.code));
        let kind = if is_budget { "application/json" } else { "text/plain; charset=utf-8" };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if is_budget {
            // Clients of models try again by themselves; the official ones listen to this.
            response.headers_mut().insert(SHOULD_RETRY.clone(), HeaderValue::from_static("false"));
        }
        if let Some(exchange) = exchange {
            exchange.set_status(self.status.as_u16());
            exchange.set_refusal(self.code, self.sentence);
        }
        response
    }
}

/// An error as clients of Anthropic's and of OpenAI's protocols alike show it to people.
fn budget_body(sentence: &str) -> String {
    let sentence = String::from_utf8_lossy(&crate::forms::json(sentence.as_bytes())).into_owned();
    format!(r#"{{"type":"error","error":{{"type":"budget","message":"{sentence}","code":"budget","param":null}}}}"#)
}
