//! A model gateway without a model: it speaks Anthropic Messages, Chat Completions and Responses, streaming and not, and
//! answers by script. It stands where LiteLLM stands.
//!
//! A prompt says itself what the "model" does, by markers (`[[bash:ls]] [[say:hello]]`, see [`markers`]), or a [`Script`]
//! registered in code knows what to do about it. Without either the answer repeats the prompt. Every request is kept.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::ca::TestCa;
use crate::web::{self, Body, Running};

pub mod ask;
mod encode;
pub mod markers;
pub mod script;

pub use ask::Ask;
pub use script::{Script, Step};

/// How a gateway is set up.
pub struct GatewayConfig {
    /// What clients must send as `Authorization: Bearer` or `x-api-key`.
    pub key: String,
    /// Names and addresses of the https side's certificate.
    pub names: Vec<String>,
    /// What `/v1/models` lists.
    pub models: Vec<String>,
}

impl Default for GatewayConfig {
    fn default() -> GatewayConfig {
        GatewayConfig {
            key: String::from("sk-gateway-key-for-tests"),
            names: ["gateway.test", "localhost", "127.0.0.1"].map(String::from).to_vec(),
            models: vec![String::from("test-model")],
        }
    }
}

/// The running gateway.
pub struct Gateway {
    http: Running,
    https: Running,
    key: String,
    shared: Arc<Shared>,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Position in the record, from 0.
    pub index: usize,
    pub method: String,
    /// Path with query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The status answered.
    pub status: u16,
    /// What the gateway made of it; absent for anything but a model call.
    pub ask: Option<Ask>,
    /// Tokens reported for it.
    pub usage: Usage,
}

impl Recorded {
    /// The body as JSON, null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Tokens of one call as reported to the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub input: u64,
    pub output: u64,
}

pub(crate) struct Shared {
    key: String,
    models: Vec<String>,
    state: Mutex<State>,
    /// Counts changes of `state`; tests wait on it.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    record: Vec<Recorded>,
    scripts: Vec<Arc<Script>>,
    released: HashSet<String>,
    held: HashMap<String, usize>,
    failed: HashMap<String, u32>,
}

impl Gateway {
    /// Starts one with the default configuration and a certificate of `ca`.
    pub async fn start(ca: &TestCa) -> Gateway {
        Gateway::start_with(ca, GatewayConfig::default()).await
    }

    /// Starts one, on http and on https.
    pub async fn start_with(ca: &TestCa, config: GatewayConfig) -> Gateway {
        let GatewayConfig { key, names, models } = config;
        let shared =
            Arc::new(Shared { key: key.clone(), models, state: Mutex::default(), changed: watch::Sender::new(0) });
        let tls = ca.server_config(&names, &["h2", "http/1.1"]);
        let (plain, secure) = (shared.clone(), shared.clone());
        let http = web::serve(None, move |request| handle(plain.clone(), request));
        let http = http.await.expect("a free port on 127.0.0.1");
        let https = web::serve(Some(tls), move |request| handle(secure.clone(), request));
        let https = https.await.expect("a free port on 127.0.0.1");
        Gateway { http, https, key, shared }
    }

    /// The key it demands.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// `http://127.0.0.1:PORT`, without `/v1`.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http.address)
    }

    /// `https://NAME:PORT`, without `/v1`; the name must be one of the certificate's.
    pub fn https_url(&self, name: &str) -> String {
        format!("https://{name}:{}", self.https.address.port())
    }

    /// Port of the plain side.
    pub fn http_port(&self) -> u16 {
        self.http.address.port()
    }

    /// Port of the TLS side.
    pub fn https_port(&self) -> u16 {
        self.https.address.port()
    }

    /// From now on prompts that this script knows are answered by it. Newer scripts are asked first.
    pub fn script(&self, script: Script) {
        self.shared.lock().scripts.insert(0, Arc::new(script));
    }

    /// Everything that came in so far, in order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().record.clone()
    }

    /// The model calls that offered tools, that is, the conversation without side calls such as titles.
    pub fn calls(&self) -> Vec<Ask> {
        let state = self.shared.lock();
        state.record.iter().filter_map(|request| request.ask.clone()).filter(|ask| !ask.tools.is_empty()).collect()
    }

    /// Sum of the tokens reported so far.
    pub fn usage(&self) -> Usage {
        let state = self.shared.lock();
        state.record.iter().fold(Usage::default(), |sum, request| Usage {
            input: sum.input + request.usage.input,
            output: sum.output + request.usage.output,
        })
    }

    /// Waits until a recorded request fits and returns it. The caller brings the deadline.
    pub async fn wait_for(&self, fits: impl Fn(&Recorded) -> bool) -> Recorded {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let found = self.shared.lock().record.iter().find(|request| fits(request)).cloned();
            if let Some(request) = found {
                return request;
            }
            changed.changed().await.expect("the gateway outlives its borrow");
        }
    }

    /// Waits until an answer stands at `[[hold:NAME]]`.
    pub async fn wait_until_held(&self, name: &str) {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if self.shared.lock().held.get(name).is_some_and(|count| *count > 0) {
                return;
            }
            changed.changed().await.expect("the gateway outlives its borrow");
        }
    }

    /// Lets every answer that stands or will stand at `[[hold:NAME]]` go on.
    pub fn release(&self, name: &str) {
        self.shared.lock().released.insert(name.to_owned());
        self.shared.announce();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Adds a request to the record and returns its position.
    fn keep(&self, mut request: Recorded) -> usize {
        let index = {
            let mut state = self.lock();
            request.index = state.record.len();
            state.record.push(request);
            state.record.len() - 1
        };
        self.announce();
        index
    }

    /// Stands at a named gate until a test opens it.
    pub(crate) async fn hold(&self, name: &str) {
        let mut changed = self.changed.subscribe();
        *self.lock().held.entry(name.to_owned()).or_default() += 1;
        self.announce();
        loop {
            changed.borrow_and_update();
            if self.lock().released.contains(name) {
                return;
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// True while a step that fails only so many times has to fail once more.
    fn fails_again(&self, ask: &Ask, status: u16, times: Option<u32>) -> bool {
        let Some(times) = times else { return true };
        let mut state = self.lock();
        let count = state.failed.entry(format!("{status} {}", ask.prompt)).or_default();
        *count += 1;
        *count <= times
    }
}

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = web::whole(body).await;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let mut recorded = Recorded {
        index: 0,
        method: head.method.to_string(),
        path,
        headers: head.headers,
        body,
        status: 200,
        ask: None,
        usage: Usage::default(),
    };
    let route = Route::of(recorded.method.as_str(), head.uri.path());
    if !authorized(&shared.key, &recorded.headers) {
        recorded.status = 401;
        shared.keep(recorded);
        return failure(route, StatusCode::UNAUTHORIZED, "Authentication Error: no valid key");
    }
    match route {
        Route::Model(protocol) => model_call(shared, protocol, recorded).await,
        Route::CountTokens => {
            let count = tokens(&String::from_utf8_lossy(&recorded.body));
            shared.keep(recorded);
            web::json(StatusCode::OK, &json!({ "input_tokens": count }))
        }
        Route::Models => {
            let models: Vec<Value> =
                shared.models.iter().map(|id| json!({ "id": id, "object": "model", "owned_by": "test" })).collect();
            shared.keep(recorded);
            web::json(StatusCode::OK, &json!({ "object": "list", "data": models }))
        }
        Route::Health => {
            shared.keep(recorded);
            web::json(StatusCode::OK, &json!("I'm alive!"))
        }
        // Exists so that a test can show that whoever stopped this call, it was not the gateway.
        Route::MintKey => {
            shared.keep(recorded);
            web::json(StatusCode::OK, &json!({ "key": "sk-minted" }))
        }
        Route::Unknown => {
            recorded.status = 404;
            shared.keep(recorded);
            failure(route, StatusCode::NOT_FOUND, "Not Found")
        }
    }
}

async fn model_call(shared: Arc<Shared>, protocol: Protocol, mut recorded: Recorded) -> Response<Body> {
    let route = Route::Model(protocol);
    let Ok(body) = serde_json::from_slice::<Value>(&recorded.body) else {
        recorded.status = 400;
        shared.keep(recorded);
        return failure(route, StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let ask = Ask::read(protocol, &body);
    let scripts = shared.lock().scripts.clone();
    let reply = script::answer(&scripts, &ask);
    if let Some((status, times)) = reply.error
        && shared.fails_again(&ask, status, times)
    {
        recorded.status = status;
        recorded.ask = Some(ask);
        shared.keep(recorded);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return failure(route, status, "scripted failure");
    }
    let usage = Usage { input: (recorded.body.len() as u64).div_ceil(4), output: reply.tokens() };
    recorded.usage = usage;
    recorded.ask = Some(ask.clone());
    let index = shared.keep(recorded);
    let mut response = encode::respond(shared, protocol, ask, reply, usage, index).await;
    // LiteLLM says what a call cost here; ours are cheap.
    response.headers_mut().insert("x-litellm-response-cost", HeaderValue::from_static("0.000125"));
    response
}

/// The three protocols of model calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Anthropic Messages.
    Messages,
    /// OpenAI Chat Completions.
    Chat,
    /// OpenAI Responses.
    Responses,
}

#[derive(Clone, Copy)]
enum Route {
    Model(Protocol),
    CountTokens,
    Models,
    Health,
    MintKey,
    Unknown,
}

impl Route {
    /// Routes are told by the end of the path, so that a gateway below a base path works too.
    fn of(method: &str, path: &str) -> Route {
        let ends = |suffix: &str| path.ends_with(suffix);
        match method {
            "POST" if ends("/v1/messages/count_tokens") => Route::CountTokens,
            "POST" if ends("/v1/messages") => Route::Model(Protocol::Messages),
            "POST" if ends("/chat/completions") => Route::Model(Protocol::Chat),
            "POST" if ends("/responses") => Route::Model(Protocol::Responses),
            "POST" if ends("/key/generate") => Route::MintKey,
            "GET" if ends("/models") => Route::Models,
            "GET" if ends("/health/liveliness") => Route::Health,
            _ => Route::Unknown,
        }
    }
}

fn authorized(key: &str, headers: &HeaderMap) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let api_key = headers.get("x-api-key").and_then(|value| value.to_str().ok());
    bearer.and_then(|value| value.strip_prefix("Bearer ")) == Some(key) || api_key == Some(key)
}

fn failure(route: Route, status: StatusCode, message: &str) -> Response<Body> {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    let body = match route {
        Route::Model(Protocol::Messages) | Route::CountTokens => {
            json!({ "type": "error", "error": { "type": kind, "message": message } })
        }
        _ => json!({ "error": { "message": message, "type": kind, "param": null, "code": status.as_str() } }),
    };
    web::json(status, &body)
}

/// As good a count as any: four characters make a token.
fn tokens(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(4)
}

#[cfg(test)]
mod tests;
