//! An upstream that answers with what it got, to see what the vault made of a request.
//!
//! Routes: `/sse?events=N&gap_ms=M` streams N events; `/bytes/N` answers N bytes; `/status/N` answers with that status;
//! `/gzip…` echoes in gzip; `/reflect` answers with the request's body and content type; `/upload` says only how much came;
//! anything else echoes method, path, headers and body as JSON.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::watch;

use crate::ca::TestCa;
use crate::web::{self, Body, Running};

/// Large bodies come in pieces of this size.
const PIECE: usize = 64 * 1024;

/// The running upstream.
pub struct Echo {
    http: Running,
    https: Running,
    shared: Arc<Shared>,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct EchoRequest {
    pub method: String,
    /// Path with query.
    pub path: String,
    pub version: Version,
    pub headers: HeaderMap,
    /// Empty for `/upload`, which only counts.
    pub body: Bytes,
}

impl EchoRequest {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<EchoRequest>>,
    changed: watch::Sender<u64>,
}

impl Echo {
    /// Starts one on http and on https (HTTP/1.1 and HTTP/2) with a certificate of `ca` for `echo.test`, `localhost`,
    /// `127.0.0.1` and these names.
    pub async fn start(ca: &TestCa, names: &[&str]) -> Echo {
        let names: Vec<String> =
            ["echo.test", "localhost", "127.0.0.1"].iter().chain(names).map(|name| (*name).to_owned()).collect();
        let shared = Arc::new(Shared::default());
        let (plain, secure) = (shared.clone(), shared.clone());
        let http = web::serve(None, move |request| handle(plain.clone(), request));
        let http = http.await.expect("a free port on 127.0.0.1");
        let tls = ca.server_config(&names, &["h2", "http/1.1"]);
        let https = web::serve(Some(tls), move |request| handle(secure.clone(), request));
        let https = https.await.expect("a free port on 127.0.0.1");
        Echo { http, https, shared }
    }

    /// Port of the plain side.
    pub fn http_port(&self) -> u16 {
        self.http.address.port()
    }

    /// Port of the TLS side.
    pub fn https_port(&self) -> u16 {
        self.https.address.port()
    }

    /// `http://NAME:PORT`.
    pub fn http_url(&self, name: &str) -> String {
        format!("http://{name}:{}", self.http_port())
    }

    /// `https://NAME:PORT`.
    pub fn https_url(&self, name: &str) -> String {
        format!("https://{name}:{}", self.https_port())
    }

    /// Every request so far, in order of arrival.
    pub fn requests(&self) -> Vec<EchoRequest> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest request.
    pub fn last(&self) -> Option<EchoRequest> {
        self.requests().pop()
    }

    /// Waits until so many requests came in. The caller brings the deadline.
    pub async fn wait_for(&self, count: usize) {
        let mut changed = self.shared.changed.subscribe();
        while self.requests().len() < count {
            changed.changed().await.expect("the upstream outlives its borrow");
        }
    }
}

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let (count, body) = match path.as_str() {
        "/upload" => (drain(body).await, Bytes::new()),
        _ => {
            let body = web::whole(body).await;
            (body.len() as u64, body)
        }
    };
    let recorded = EchoRequest {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        version: head.version,
        headers: head.headers,
        body,
    };
    let response = answer(&path, &recorded, count);
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
    shared.changed.send_modify(|count| *count += 1);
    response
}

fn answer(path: &str, request: &EchoRequest, count: u64) -> Response<Body> {
    let number = |prefix: &str| path.strip_prefix(prefix).and_then(|rest| rest.parse::<u64>().ok());
    if path == "/sse" {
        return events(query(request, "events").unwrap_or(3), query(request, "gap_ms").unwrap_or(0));
    }
    if path == "/upload" {
        return web::json(StatusCode::OK, &json!({ "bytes": count }));
    }
    if path == "/reflect" {
        let mut response = web::text(StatusCode::OK, "text/plain", request.body.clone());
        if let Some(kind) = request.headers.get(header::CONTENT_TYPE) {
            response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
        }
        return response;
    }
    if let Some(length) = number("/bytes/") {
        return zeros(length);
    }
    if let Some(status) = number("/status/") {
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        return web::json(status.unwrap_or(StatusCode::BAD_REQUEST), &echo(request));
    }
    if path.starts_with("/gzip") {
        return gzipped(&echo(request).to_string());
    }
    web::json(StatusCode::OK, &echo(request))
}

fn echo(request: &EchoRequest) -> serde_json::Value {
    let headers: Vec<[String; 2]> = request
        .headers
        .iter()
        .map(|(name, value)| [name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()])
        .collect();
    let body = std::str::from_utf8(&request.body).ok();
    json!({
        "method": request.method, "path": request.path, "version": format!("{:?}", request.version), "headers": headers,
        "body": body, "body_base64": body.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(&request.body))
    })
}

fn query(request: &EchoRequest, name: &str) -> Option<u64> {
    let (_, query) = request.path.split_once('?')?;
    let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    value.parse().ok()
}

fn events(count: u64, gap: u64) -> Response<Body> {
    let events = stream::unfold(0, move |at| async move {
        if at == count {
            return None;
        }
        if at > 0 && gap > 0 {
            tokio::time::sleep(Duration::from_millis(gap)).await;
        }
        let event = Bytes::from(format!("id: {at}\nevent: tick\ndata: {{\"n\":{at}}}\n\n"));
        Some((Ok(Frame::data(event)), at + 1))
    });
    let mut response = web::text(StatusCode::OK, "text/event-stream", "");
    *response.body_mut() = StreamBody::new(events).boxed_unsync();
    response
}

fn zeros(length: u64) -> Response<Body> {
    let piece = Bytes::from(vec![b'0'; PIECE]);
    let pieces = stream::unfold(length, move |left| {
        let piece = piece.clone();
        async move {
            let size = left.min(PIECE as u64);
            let part = piece.slice(..usize::try_from(size).expect("a piece is small"));
            (size > 0).then(|| (Ok(Frame::data(part)), left - size))
        }
    });
    let mut response = web::text(StatusCode::OK, "application/octet-stream", "");
    *response.body_mut() = StreamBody::new(pieces).boxed_unsync();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn gzipped(text: &str) -> Response<Body> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("a vector takes everything");
    let packed = encoder.finish().expect("a vector takes everything");
    let mut response = web::text(StatusCode::OK, "application/json", packed);
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

/// Counts a body without keeping it.
async fn drain(mut body: Incoming) -> u64 {
    let mut count = 0;
    while let Some(Ok(frame)) = body.frame().await {
        count += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    count
}

#[cfg(test)]
mod tests;
