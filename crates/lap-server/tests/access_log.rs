//! The access log says which route, by whom, how it went; and nothing that was sent.

mod kit;

use std::io;
use std::sync::{Arc, Mutex};

use kit::{KEY, Server};
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics with the lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn the_access_log_names_routes_and_no_contents() {
    let lines = Lines::default();
    let everything =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(lines.clone());
    tracing::subscriber::set_global_default(everything.finish()).expect("the only test of its program");

    let server = Server::start().await;
    let session = server.creating_session().await;
    server.call("GET /api/v1/managed_agents/agents?search=CANARY-query", None).await;
    server.call("GET /CANARY-path?token=CANARY-token", None).await;
    let body = json!({ "model": "CANARY-model", "env_vars": { "K": "CANARY-secret" }, "prompt": "CANARY-prompt", "colour": 1 });
    server.call("POST /api/v1/managed_agents/agents", body).await;
    let mut wrong = server.request("GET /api/v1/stats", None);
    wrong.headers_mut().insert("authorization", http::HeaderValue::from_static("Bearer CANARY-key"));
    wrong.headers_mut().insert("x-request-id", http::HeaderValue::from_static("trace-7"));
    server.send(wrong).await;
    server.call(&format!("POST /api/v1/managed_agents/sessions/{session}/stop"), None).await;
    server.stop().await;

    let log = String::from_utf8(lines.0.lock().expect("nobody panics with the lock").clone()).expect("logs are text");
    let of_server: String = log.lines().filter(|line| line.contains(" lap_")).map(|line| format!("{line}\n")).collect();
    for part in [
        r#"method=GET route="/api/v1/managed_agents/agents" status=200"#,
        r#"method=GET route="(no route)" status=404"#,
        r#"method=POST route="/api/v1/managed_agents/agents" status=400"#,
        r#"request{request.id="trace-7"}"#,
        r#"route="/api/v1/stats" status=401"#,
        r#"caller="nobody""#,
        r#"caller="operator""#,
        r#"route="/api/v1/managed_agents/sessions/{id}/stop" status=200"#,
    ] {
        assert!(of_server.contains(part), "no `{part}` in\n{of_server}");
    }
    assert!(!of_server.contains("CANARY") && !of_server.contains(KEY) && !of_server.contains(&session), "{of_server}");
    assert!(!log.contains("CANARY-secret") && !log.contains(KEY), "not even below our own crates");
}
