//! A small MCP server over https, as harnesses find one at a company: it demands a token and has one tool, `ping`, which
//! repeats the word it is given.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::ca::TestCa;
use crate::web::{self, Body, Running};

/// The running server.
pub struct McpServer {
    https: Running,
    token: String,
    calls: Arc<Mutex<Vec<Value>>>,
}

impl McpServer {
    /// Starts one with a certificate for this name.
    pub async fn start(ca: &TestCa, name: &str) -> McpServer {
        let token = String::from("mcp-token-for-tests-0123456789");
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (expected, kept) = (format!("Bearer {token}"), calls.clone());
        let tls = ca.server_config(&[name.to_owned()], &["h2", "http/1.1"]);
        let https = web::serve(Some(tls), move |request| answer(expected.clone(), kept.clone(), request)).await;
        McpServer { https: https.expect("a free port on 127.0.0.1"), token, calls }
    }

    /// What it demands as `Authorization: Bearer`.
    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn port(&self) -> u16 {
        self.https.address.port()
    }

    /// Arguments of the calls of its tool so far.
    pub fn calls(&self) -> Vec<Value> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(expected: String, calls: Arc<Mutex<Vec<Value>>>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body: Value = serde_json::from_slice(&web::whole(body).await).unwrap_or_default();
    if head.headers.get("authorization").is_none_or(|given| given.as_bytes() != expected.as_bytes()) {
        return web::json(StatusCode::UNAUTHORIZED, &json!({ "error": "no valid token" }));
    }
    if head.method != Method::POST {
        // It has nothing to say by itself.
        return web::json(StatusCode::METHOD_NOT_ALLOWED, &json!({}));
    }
    let params = &body["params"];
    let result = match body["method"].as_str().unwrap_or_default() {
        "initialize" => json!({
            "protocolVersion": params["protocolVersion"], "capabilities": { "tools": {} },
            "serverInfo": { "name": "test", "version": "1" },
        }),
        "tools/list" => json!({ "tools": [{
            "name": "ping", "description": "Repeats a word",
            "inputSchema": { "type": "object", "properties": { "word": { "type": "string" } } },
        }] }),
        "tools/call" => {
            let arguments = params["arguments"].clone();
            let said = format!("pong {}", arguments["word"].as_str().unwrap_or_default());
            calls.lock().unwrap_or_else(PoisonError::into_inner).push(arguments);
            json!({ "content": [{ "type": "text", "text": said }] })
        }
        _ => json!({}),
    };
    match &body["id"] {
        Value::Null => web::text(StatusCode::ACCEPTED, "text/plain", ""),
        id => web::json(StatusCode::OK, &json!({ "jsonrpc": "2.0", "id": id, "result": result })),
    }
}
