//! A server that speaks the wire contract and runs nothing: what agents would do is scripted by the words of a message.
//!
//! Also used by the tests of `lap-cli`. Words: `wait` runs until aborted, `ask` asks for permission, `fail` fails,
//! anything else is answered with `You said: …` after a tool call.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The only key that is let in.
pub const KEY: &str = "lap-test-key-0123456789";

type Body = BoxBody<Bytes, io::Error>;

/// A running mock; stops when dropped.
pub struct Mock {
    pub url: String,
    pub state: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Shared {
    data: Mutex<Data>,
    grown: watch::Sender<u64>,
}

#[derive(Default)]
pub struct Data {
    pub agents: Vec<Value>,
    pub sessions: Vec<Value>,
    /// Events by session.
    pub logs: HashMap<String, Vec<Value>>,
    /// Every request: `METHOD path?query`.
    pub requests: Vec<String>,
    /// Bodies of requests with one, beside their path.
    pub bodies: Vec<(String, Value)>,
    /// How many events each coming stream may send before its connection breaks; a stream without an entry lives on.
    pub cuts: Vec<usize>,
    /// Answers given instead of the usual ones: method and path to status and body, each used once.
    pub refusals: BTreeMap<String, (u16, Value)>,
    /// New sessions fail for this reason.
    pub boot_fails: Option<String>,
    turns: HashMap<String, String>,
    next: u64,
}

impl Mock {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Shared { data: Mutex::default(), grown: watch::channel(0).0 });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(Arc::clone(&shared), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(connection), service)
                        .await;
                });
            }
        });
        Self { url, state, task }
    }

    pub fn with<T>(&self, f: impl FnOnce(&mut Data) -> T) -> T {
        self.state.with(f)
    }

    pub fn add_agent(&self, name: &str) -> String {
        self.with(|data| data.add_agent(&json!({ "name": name, "model": "m/1" })))
    }

    pub fn add_ready_session(&self, agent: &str) -> String {
        let id = self.with(|data| data.add_session(agent));
        self.state.boot(&id);
        id
    }

    pub fn push(&self, session: &str, kind: &str, body: Value) {
        self.state.push(session, kind, body);
    }

    /// Waits until what is recorded satisfies the condition.
    pub async fn until(&self, condition: impl Fn(&Data) -> bool) {
        let mut grown = self.state.grown.subscribe();
        while !self.with(|data| condition(data)) {
            grown.changed().await.unwrap();
        }
    }
}

impl Data {
    fn id(&mut self) -> String {
        self.next += 1;
        format!("00000000-0000-7000-8000-{:012}", self.next)
    }

    pub fn add_agent(&mut self, given: &Value) -> String {
        let id = self.id();
        let mut agent = json!({
            "id": id, "name": null, "model": "", "prompt": null, "harness_id": "opencode", "supports_tui": false,
            "repo_url": null, "branch": "main", "mcp_servers": [], "env_vars": {}, "env_var_hosts": {},
            "plain_env_vars": [], "attached_skill_ids": [], "allow_out": [], "deny_out": [], "sandbox_files": [],
            "mcp_headers": {}, "permission_mode": "bypass", "image": null, "requirements": null, "warnings": [],
            "max_tokens": null, "max_cost_usd": null, "usage": no_usage(),
            "created_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-01T00:00:00.000Z",
        });
        merge(&mut agent, given);
        self.agents.push(agent);
        id
    }

    pub fn add_session(&mut self, agent: &str) -> String {
        let id = self.id();
        let n_minutes = self.sessions.len();
        self.sessions.push(json!({
            "id": id, "agent_id": agent, "title": null, "status": "creating", "phase": null, "phase_detail": null,
            "failure_reason": null, "end_reason": null, "supports_tui": false, "faces": ["messages"],
            "sandbox_url": null, "harness_session_id": null, "branch": "main", "commit": null, "tty_url": null,
            "tty_token": null, "response": null, "created_at": format!("2026-01-01T00:{n_minutes:02}:00.000Z"),
            "last_seen_at": format!("2026-01-01T00:{n_minutes:02}:30.000Z"), "idle_timeout_ms": 86_400_000,
            "title_preview": null,
            "usage": no_usage(), "max_tokens": null, "max_cost_usd": null,
            "egress": { "allow_out": [], "deny_out": [], "in_force": true },
        }));
        self.logs.insert(id.clone(), Vec::new());
        id
    }

    pub fn session(&mut self, id: &str) -> Option<&mut Value> {
        self.sessions.iter_mut().find(|session| session["id"] == id)
    }
}

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut Data) -> T) -> T {
        f(&mut self.data.lock().unwrap())
    }

    fn tell(&self) {
        self.grown.send_modify(|n| *n += 1);
    }

    fn push(&self, session: &str, kind: &str, body: Value) {
        self.with(|data| {
            if kind == "session.state" {
                let row = data.session(session).unwrap();
                row["status"] = body["status"].clone();
                for field in ["failure_reason", "end_reason"] {
                    row[field] = body.get(field).cloned().unwrap_or(Value::Null);
                }
            }
            let Some(log) = data.logs.get_mut(session) else { return };
            let id = log.len() as u64 + 1;
            let at = format!("2026-01-01T00:00:{:02}.000Z", id.min(59));
            log.push(json!({ "id": id, "session_id": session, "at": at, "type": kind, "data": body }));
        });
        self.tell();
    }

    fn boot(&self, id: &str) {
        self.push(id, "session.state", json!({ "status": "creating" }));
        self.push(id, "session.phase", json!({ "phase": "creating_sandbox" }));
        self.push(id, "session.phase", json!({ "phase": "cloning_repo", "detail": "https://git.test/a" }));
        match self.with(|data| data.boot_fails.clone()) {
            Some(reason) => {
                self.push(id, "session.state", json!({ "status": "failed", "failure_reason": reason }));
            }
            None => {
                self.push(id, "session.phase", json!({ "phase": "ready" }));
                self.push(id, "session.state", json!({ "status": "ready" }));
            }
        }
    }

    fn turn(&self, session: &str, text: &str) -> String {
        let turn = self.with(|data| {
            data.next += 1;
            format!("turn-{}", data.next)
        });
        let message = |role: &str, id: &str, text: &str| {
            json!({
                "info": { "id": id, "turn_id": turn, "role": role, "created_at": "2026-01-01T00:00:00.000Z" },
                "parts": [{ "type": "text", "id": format!("{id}-p"), "text": text }],
            })
        };
        let user = message("user", &format!("{turn}-u"), text);
        self.push(session, "turn.queued", json!({ "turn_id": turn, "message": user }));
        self.push(session, "turn.started", json!({ "turn_id": turn }));
        match text.trim() {
            "wait" => {}
            "ask" => self.push(
                session,
                "permission.requested",
                json!({ "turn_id": turn, "request_id": "r1", "title": "rm -r build", "input": {} }),
            ),
            "fail" => self.push(
                session,
                "turn.failed",
                json!({ "turn_id": turn, "code": "harness_failed", "error": "the model is not there" }),
            ),
            _ => {
                for (status, output) in [("running", None), ("completed", Some("ok\n"))] {
                    let call = json!({
                        "id": format!("{turn}-c"), "tool": "bash", "status": status, "title": "cargo test",
                        "input": { "command": "cargo test" }, "output": output,
                    });
                    self.push(session, "tool", json!({ "turn_id": turn, "call": call }));
                }
                let answer = format!("You said: {text}");
                let id = format!("{turn}-a");
                let (first, second) = answer.split_at(answer.find(' ').unwrap());
                for piece in [first, second] {
                    let delta =
                        json!({ "turn_id": turn, "part_id": format!("{id}-p"), "kind": "text", "delta": piece });
                    self.push(session, "message.delta", delta);
                }
                self.complete(session, &turn, message("assistant", &id, &answer));
            }
        }
        turn
    }

    fn complete(&self, session: &str, turn: &str, message: Value) {
        let usage = json!({ "input_tokens": 1200, "output_tokens": 34, "cached_tokens": 0, "cost_usd": 0.5 });
        self.push(session, "message.completed", json!({ "turn_id": turn, "message": message }));
        self.push(session, "turn.completed", json!({ "turn_id": turn, "message": message, "usage": usage }));
    }

    fn running_turn(&self, session: &str) -> Option<String> {
        self.with(|data| {
            let log = data.logs.get(session)?;
            let last = log.iter().rev().find(|event| event["type"].as_str().unwrap().starts_with("turn."))?;
            (last["type"] == "turn.started").then(|| last["data"]["turn_id"].as_str().unwrap().to_owned())
        })
    }
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let line = format!("{} {}", head.method, head.uri);
    let body = body.collect().await.unwrap().to_bytes();
    let given: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let refusal = shared.with(|data| {
        data.requests.push(line);
        if !body.is_empty() {
            data.bodies.push((path.clone(), given.clone()));
        }
        data.refusals.remove(&format!("{} {path}", head.method))
    });
    shared.tell();
    if let Some((status, body)) = refusal {
        return Ok(reply(status, &body));
    }
    if path == "/healthz" || path == "/readyz" {
        return Ok(reply(200, &json!({ "status": "ok" })));
    }
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    if header("authorization") != Some(format!("Bearer {KEY}")) {
        return Ok(reply(
            401,
            &json!({ "error": "unauthorized: the key is missing or wrong", "code": "unauthorized" }),
        ));
    }
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let segments: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
    let list = |rows: Vec<Value>| {
        let n = rows.len();
        let offset = query.get("offset").map_or(0, |text| text.parse::<usize>().unwrap());
        let limit = query.get("limit").map_or(50, |text| text.parse::<usize>().unwrap());
        let rows: Vec<Value> = rows.into_iter().rev().skip(offset).take(limit).collect();
        reply(200, &json!({ "data": rows, "total": n, "limit": limit, "offset": offset }))
    };
    let wants = |field: &str, row: &Value| query.get(field).is_none_or(|wanted| row[field] == **wanted);
    Ok(match (&head.method, &segments[..]) {
        (&Method::GET, ["managed_agents", "agents"]) => {
            let search = query.get("search").cloned().unwrap_or_default().to_lowercase();
            let fits = |row: &Value| {
                ["name", "id", "harness_id"]
                    .iter()
                    .any(|field| row[*field].as_str().unwrap_or_default().to_lowercase().contains(&search))
            };
            list(shared.with(|data| data.agents.iter().filter(|row| fits(row)).cloned().collect()))
        }
        (&Method::POST, ["managed_agents", "agents"]) => {
            let mut given = given;
            given.as_object_mut().unwrap().remove("skill_ids");
            given.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            for (_, value) in given["env_vars"].as_object_mut().unwrap() {
                *value = json!("********");
            }
            let agent = shared.with(|data| {
                data.add_agent(&given);
                data.agents.last().unwrap().clone()
            });
            reply(201, &agent)
        }
        (method, ["managed_agents", "agents", id]) => {
            let found = shared.with(|data| data.agents.iter().position(|row| row["id"] == *id));
            match (found, method) {
                (None, _) => not_found("agent"),
                (Some(at), &Method::PATCH) => shared.with(|data| {
                    merge(&mut data.agents[at], &given);
                    reply(200, &data.agents[at])
                }),
                (Some(at), &Method::DELETE) => {
                    shared.with(|data| data.agents.remove(at));
                    reply(204, &Value::Null)
                }
                (Some(at), _) => reply(200, &shared.with(|data| data.agents[at].clone())),
            }
        }
        (&Method::POST, ["managed_agents", "agents", id, "session"]) => {
            let id = shared.with(|data| data.add_session(id));
            let session = shared.with(|data| data.session(&id).unwrap().clone());
            shared.boot(&id);
            reply(201, &session)
        }
        (&Method::GET, ["managed_agents", "sessions"]) => {
            let fits = |row: &&Value| wants("agent_id", row) && wants("status", row);
            list(shared.with(|data| data.sessions.iter().filter(fits).cloned().collect()))
        }
        (&Method::GET, ["usage"]) => list(vec![
            json!({
                "agent_id": "00000000-0000-7000-8000-000000000001", "agent_name": "backend", "model": "m",
                "day": "2026-01-02", "calls": 3, "estimated_calls": 1, "unpriced_calls": 1, "input_tokens": 12_345,
                "output_tokens": 67, "cached_tokens": 12_000, "cache_write_tokens": 0, "cost_usd": 0.0123,
            }),
            json!({
                "agent_id": "00000000-0000-7000-8000-000000000003", "model": "m", "day": "2026-01-01", "calls": 1,
                "estimated_calls": 0, "unpriced_calls": 0, "input_tokens": 5, "output_tokens": 1,
                "cached_tokens": 0, "cache_write_tokens": 0, "cost_usd": null,
            }),
        ]),
        (method, ["managed_agents", "sessions", id, rest @ ..]) => {
            let Some(session) = shared.with(|data| data.session(id).cloned()) else { return Ok(not_found("session")) };
            match (method, rest) {
                (&Method::GET, []) => reply(200, &session),
                (&Method::DELETE, []) => {
                    shared.with(|data| {
                        data.sessions.retain(|row| row["id"] != *id);
                        data.logs.remove(*id);
                    });
                    shared.tell();
                    reply(204, &Value::Null)
                }
                (&Method::POST, ["stop"]) => {
                    shared.push(id, "session.state", json!({ "status": "dead", "end_reason": "stopped" }));
                    reply(200, &shared.with(|data| data.session(id).unwrap().clone()))
                }
                (&Method::POST, ["abort"]) => match shared.running_turn(id) {
                    Some(turn) => {
                        let failed = json!({ "turn_id": turn, "code": "aborted", "error": "aborted" });
                        shared.push(id, "turn.failed", failed);
                        reply(200, &json!({ "ok": true }))
                    }
                    None => reply(409, &json!({ "error": "No turn is running.", "code": "conflict" })),
                },
                (&Method::POST, ["permissions", request]) => {
                    let answered = json!({ "request_id": request, "decision": given["decision"] });
                    shared.push(id, "permission.answered", answered);
                    let turn = shared.running_turn(id).unwrap();
                    let text = format!("You decided: {}", given["decision"].as_str().unwrap());
                    let message = json!({
                        "info": { "id": "pa", "turn_id": turn, "role": "assistant", "created_at": "" },
                        "parts": [{ "type": "text", "id": "pa-p", "text": text }],
                    });
                    shared.complete(id, &turn, message);
                    reply(200, &json!({ "ok": true }))
                }
                (&Method::POST, ["message" | "message_stream"]) if session["status"] != "ready" => {
                    let error = format!("The session is {}.", session["status"].as_str().unwrap());
                    reply(409, &json!({ "error": error, "code": "session_not_ready" }))
                }
                (&Method::POST, ["message_stream"]) => {
                    let key = header("idempotency-key").unwrap();
                    let known = shared.with(|data| data.turns.get(&key).cloned());
                    let turn = known.unwrap_or_else(|| {
                        let turn = shared.turn(id, given["text"].as_str().unwrap());
                        shared.with(|data| data.turns.insert(key, turn.clone()));
                        turn
                    });
                    let of_turn =
                        move |event: &Value| event["data"]["turn_id"] == *turn && event["type"] != "turn.queued";
                    let last = |event: &Value| event["type"] == "turn.completed" || event["type"] == "turn.failed";
                    stream(shared, id, 0, of_turn, last)
                }
                (&Method::GET, ["events"]) => {
                    let after = header("last-event-id").or_else(|| query.get("after").cloned());
                    let after = after.map_or(0, |text| text.parse::<u64>().unwrap());
                    if header("accept").as_deref() == Some("application/json") {
                        let limit = query.get("limit").map_or(50, |text| text.parse::<usize>().unwrap());
                        let log = shared.with(|data| data.logs[*id].clone());
                        let page: Vec<Value> =
                            log.into_iter().filter(|e| e["id"].as_u64().unwrap() > after).take(limit).collect();
                        let next = page.last().map_or(after, |event| event["id"].as_u64().unwrap());
                        reply(200, &json!({ "data": page, "limit": limit, "next_after": next }))
                    } else {
                        stream(shared, id, after, |_| true, |_| false)
                    }
                }
                (&Method::GET, ["interceptions"]) => list(vec![
                    json!({
                        "id": 1, "at": "2026-01-01T00:00:01.000Z", "method": "POST", "host": "git.test:443",
                        "path": "/a/git-receive-pack", "status": 200, "bytes_out": 10, "bytes_in": 20,
                        "duration_ms": 12, "credentials": ["GITHUB_TOKEN"], "verdict": "allowed", "detail": null,
                    }),
                    json!({
                        "id": 2, "at": "2026-01-01T00:00:02.000Z", "method": "CONNECT", "host": "evil.test:443",
                        "path": "", "status": null, "bytes_out": 0, "bytes_in": 0, "duration_ms": 0,
                        "credentials": [], "verdict": "denied", "detail": "not in allow_out",
                    }),
                ]),
                (&Method::GET, ["vault-keys"]) => list(vec![json!("GITHUB_TOKEN")]),
                (&Method::GET, ["messages"]) => reply(200, &json!([])),
                (&Method::GET, ["sandbox_logs"]) => {
                    let text = Full::new(Bytes::from("clone: done\nharness: listening"));
                    Response::new(text.map_err(|never| match never {}).boxed())
                }
                _ => not_found("route"),
            }
        }
        _ => not_found("route"),
    })
}

fn reply(status: u16, body: &Value) -> Response<Body> {
    let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let body = Full::new(bytes).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn not_found(what: &str) -> Response<Body> {
    reply(404, &json!({ "error": format!("There is no such {what}."), "code": "not_found" }))
}

/// The log as it grows; ends with an error in the middle of an event where a cut is due.
fn stream(
    shared: Arc<Shared>,
    session: &str,
    mut after: u64,
    chosen: impl Fn(&Value) -> bool + Send + Sync + 'static,
    last: impl Fn(&Value) -> bool + Send + Sync + 'static,
) -> Response<Body> {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, io::Error>>(1);
    let session = session.to_owned();
    let mut left = shared.with(|data| if data.cuts.is_empty() { usize::MAX } else { data.cuts.remove(0) });
    tokio::spawn(async move {
        let mut grown = shared.grown.subscribe();
        loop {
            grown.borrow_and_update();
            let Some(log) = shared.with(|data| data.logs.get(&session).cloned()) else { return };
            for event in &log {
                let id = event["id"].as_u64().unwrap();
                if id <= after {
                    continue;
                }
                after = id;
                if !chosen(event) {
                    continue;
                }
                let text = format!("id: {after}\nevent: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
                if left == 0 {
                    let half = text[..text.len() / 2].to_owned();
                    let _ = sender.send(Ok(Frame::data(half.into()))).await;
                    let _ = sender.send(Err(io::Error::other("cut"))).await;
                    return;
                }
                left -= 1;
                if sender.send(Ok(Frame::data(text.into()))).await.is_err() || last(event) {
                    return;
                }
            }
            tokio::select! {
                _ = grown.changed() => {}
                () = sender.closed() => return,
            }
        }
    });
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let frame = receiver.recv().await?;
        Some((frame, receiver))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    response
}

fn no_usage() -> Value {
    json!({
        "calls": 0, "estimated_calls": 0, "unpriced_calls": 0, "input_tokens": 0, "output_tokens": 0,
        "cached_tokens": 0, "cache_write_tokens": 0, "cost_usd": null, "models": []
    })
}
