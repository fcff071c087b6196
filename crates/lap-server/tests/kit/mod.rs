//! A server of one's own: the real engine on a fresh database, a backend that makes nothing, and a client that sees raw
//! answers. What a sandbox would report is written straight into the store.
#![allow(dead_code, reason = "every test file uses its own part of the kit")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lap_api::event::EventKind;
use lap_api::message::{Message, MessageInfo, Part};
use lap_api::session::Usage;
use lap_domain::ids::{SessionId, TurnId};
use lap_domain::session::SessionEvent;
use lap_domain::time::Timestamp;
use lap_sandbox::{Backend, BackendError, Check, SandboxExit, SandboxId, SandboxSpec, SandboxStatus};
use lap_store::{EventBody, LogItem, Store, Write};
use lap_test::in_process::InProcessServer;
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub use lap_test::in_process::KEY;

/// Longer than anything here takes on a busy machine; a test that meets it has found a hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub address: SocketAddr,
    pub store: Store,
    server: InProcessServer,
    client: Client<HttpConnector, Full<Bytes>>,
    seq: AtomicU64,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Server {
    pub async fn start() -> Self {
        let server = InProcessServer::routes_only(Arc::new(NoSandboxes)).await;
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { address: server.address, store: server.store.clone(), server, client, seq: AtomicU64::new(1) }
    }

    /// Stops serving and waits until every connection is closed.
    pub async fn stop(self) {
        self.server.stop().await;
    }

    /// A request as it stands, answered with an open body.
    pub async fn open(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let answer = tokio::time::timeout(PATIENCE, self.client.request(request)).await;
        answer.expect("the server answers in time").expect("the server answers")
    }

    /// A request as it stands.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let (parts, body) = self.open(request).await.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect())
            .await
            .expect("bodies end")
            .expect("bodies arrive")
            .to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// A request with the key; a body is sent as JSON.
    pub fn request(&self, line: &str, body: Option<&str>) -> Request<Full<Bytes>> {
        let (method, path) = line.split_once(' ').expect("lines are `METHOD /path`");
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(format!("http://{}{path}", self.address))
            .header("authorization", format!("Bearer {KEY}"));
        match body {
            Some(body) => request.header("content-type", "application/json").body(Full::from(body.to_owned())),
            None => request.body(Full::default()),
        }
        .expect("a request")
    }

    /// `METHOD /path` with the key and a JSON body.
    pub async fn call(&self, line: &str, body: impl Into<Option<Value>>) -> Answer {
        let body = body.into().map(|body| body.to_string());
        self.send(self.request(line, body.as_deref())).await
    }

    /// `METHOD /path` with the key, asking for JSON where there is a choice.
    pub async fn call_json(&self, line: &str) -> Value {
        let mut request = self.request(line, None);
        request.headers_mut().insert("accept", http::HeaderValue::from_static("application/json"));
        self.send(request).await.json()
    }

    /// For requests that outlive the server.
    pub fn client(&self) -> Client<HttpConnector, Full<Bytes>> {
        self.client.clone()
    }

    /// An agent of the harness that needs no installation.
    pub async fn agent(&self) -> String {
        let answer =
            self.call("POST /api/v1/managed_agents/agents", json!({ "model": "m", "harness_id": "shell" })).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        answer.json()["id"].as_str().expect("agents have ids").to_owned()
    }

    /// A session that is still creating.
    pub async fn creating_session(&self) -> String {
        let agent = self.agent().await;
        let answer = self.call(&format!("POST /api/v1/managed_agents/agents/{agent}/session"), json!({})).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        answer.json()["id"].as_str().expect("sessions have ids").to_owned()
    }

    /// A session that takes turns.
    pub async fn ready_session(&self) -> String {
        let session = self.creating_session().await;
        self.report(&session, vec![Write::Move(SessionEvent::GuestReady)]).await;
        session
    }

    /// What a sandbox would report.
    pub async fn report(&self, session: &str, writes: Vec<Write>) {
        let item = LogItem { seq: self.seq.fetch_add(1, Ordering::Relaxed), at: Timestamp(1), writes };
        self.store.append_log(&SessionId::new(session), 1, vec![item]).await.expect("the log takes an entry");
    }

    /// Waits until a turn is queued, as the sandbox would be given it, and takes it.
    pub async fn take_turn(&self, session: &str) -> TurnId {
        let session = SessionId::new(session);
        let mut newest = self.store.subscribe(&session);
        let taken = async {
            loop {
                newest.borrow_and_update();
                if let Some(turn) =
                    self.store.claim_next_turn(&session, 1, Timestamp(1)).await.expect("turns can be claimed")
                {
                    return turn.turn.id;
                }
                newest.changed().await.expect("the session is there");
            }
        };
        tokio::time::timeout(PATIENCE, taken).await.expect("a turn is queued")
    }

    /// Reports an event of a turn.
    pub async fn turn_event(&self, session: &str, turn: &TurnId, kind: EventKind) {
        self.report(session, vec![Write::TurnEvent { turn_id: turn.clone(), event: event_body(&kind) }]).await;
    }

    /// Reports the answer of a turn.
    pub async fn complete(&self, session: &str, turn: &TurnId, text: &str) {
        let message = answer_message(turn, text);
        let event =
            EventKind::TurnCompleted { turn_id: turn.to_string(), message: message.clone(), usage: Usage::default() };
        let answer = serde_json::to_string(&message).expect("plain data");
        let (turn_id, text) = (turn.clone(), text.to_owned());
        let write = Write::TurnCompleted { turn_id, answer, text, event: event_body(&event) };
        self.report(session, vec![write]).await;
    }

    /// Reports that a turn failed.
    pub async fn fail(&self, session: &str, turn: &TurnId, code: &str, error: &str) {
        let (code, error) = (code.to_owned(), error.to_owned());
        let event = EventKind::TurnFailed { turn_id: turn.to_string(), code: code.clone(), error: error.clone() };
        let write = Write::TurnFailed { turn_id: turn.clone(), code, error, event: event_body(&event) };
        self.report(session, vec![write]).await;
    }
}

fn answer_message(turn: &TurnId, text: &str) -> Message {
    let info = MessageInfo {
        id: format!("{turn}-answer"),
        turn_id: turn.to_string(),
        role: "assistant".to_owned(),
        created_at: "2026-01-01T00:00:00.000Z".to_owned(),
        model: None,
        usage: None,
        error: None,
    };
    Message { info, parts: vec![Part::Text { id: "p".to_owned(), text: text.to_owned() }] }
}

fn event_body(kind: &EventKind) -> EventBody {
    let value = serde_json::to_value(kind).expect("plain data");
    EventBody { kind: value["type"].as_str().expect("events have types").to_owned(), data: value["data"].to_string() }
}

/// A backend whose sandboxes come to nothing: these tests end where the link would begin.
struct NoSandboxes;

impl Backend for NoSandboxes {
    fn provision<'a>(&'a self, _: &'a SandboxSpec) -> BoxFuture<'a, Result<(), BackendError>> {
        async { Ok(()) }.boxed()
    }

    fn destroy<'a>(&'a self, _: &'a SandboxId) -> BoxFuture<'a, Result<(), BackendError>> {
        async { Ok(()) }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>, BackendError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn exits(&self) -> mpsc::Receiver<SandboxExit> {
        mpsc::channel(lap_sandbox::EXITS).1
    }

    fn logs<'a>(&'a self, _: &'a SandboxId, tail: usize) -> BoxFuture<'a, Result<String, BackendError>> {
        async move { Ok(format!("the last {tail} lines\n")) }.boxed()
    }

    fn checks(&self) -> BoxFuture<'_, Vec<Check>> {
        async { Vec::new() }.boxed()
    }
}

/// A stream of server-sent events, as far as it has come.
pub struct Events {
    body: Incoming,
    text: String,
}

/// One event: `id`, `event`, and `data` as JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct SentEvent {
    pub id: u64,
    pub name: String,
    pub data: Value,
}

impl Events {
    #[track_caller]
    pub fn of(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next event; none at the end of the stream.
    pub async fn next(&mut self) -> Option<SentEvent> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let event = parsed(frame);
                self.text = rest.to_owned();
                match event {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("the stream goes on or ends")?;
            let data = frame.expect("the stream does not break").into_data().expect("event streams have no trailers");
            self.text.push_str(std::str::from_utf8(&data).expect("events are text"));
        }
    }

    /// The names of all events until the end.
    pub async fn names(mut self) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(event) = self.next().await {
            names.push(event.name);
        }
        names
    }
}

/// None for a comment.
fn parsed(frame: &str) -> Option<SentEvent> {
    let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = serde_json::from_str(field("data")?).expect("data is JSON");
    let id = field("id").expect("events have ids").parse().expect("ids are numbers");
    Some(SentEvent { id, name: field("event").expect("events have names").to_owned(), data })
}
