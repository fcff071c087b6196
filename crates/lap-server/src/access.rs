//! A number and a line in the log for every request. Paths are logged as routes, never as sent: ids, queries, keys and
//! bodies stay out.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue};
use tracing::Instrument;
use uuid::Uuid;

use crate::auth::Caller;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Room for the ids of proxies and tracing systems; a log line is not the place for more.
const LONGEST_REQUEST_ID: usize = 128;

/// The outermost layer.
pub(crate) async fn log(mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request.headers().get(&REQUEST_ID).filter(|given| usable(given)).cloned().unwrap_or_else(fresh);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("(no route)", MatchedPath::as_str);
    let span = tracing::info_span!("request", request.id = id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span.clone()).await;
    response.headers_mut().insert(REQUEST_ID, id);
    let caller = response.extensions().get::<Caller>().map_or("nobody", |caller| caller.as_str());
    let (status, ms) = (response.status().as_u16(), began.elapsed().as_millis() as u64);
    span.in_scope(|| match route {
        // Asked every few seconds by whatever watches the server.
        "/healthz" | "/readyz" if status < 400 => tracing::debug!(%method, route, status, ms, caller, "answered"),
        _ => tracing::info!(%method, route, status, ms, caller, "answered"),
    });
    response
}

fn usable(id: &HeaderValue) -> bool {
    (1..=LONGEST_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn fresh() -> HeaderValue {
    HeaderValue::try_from(Uuid::now_v7().to_string()).expect("a UUID is ASCII")
}
