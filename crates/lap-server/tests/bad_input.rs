//! Everything a client can get wrong: a status, a code and a sentence that says what to do instead.

mod kit;

use http_body_util::Full;
use kit::{Answer, KEY, Server};
use serde_json::{Value, json};

const AGENTS: &str = "POST /api/v1/managed_agents/agents";

/// An error answer is what it should be, and its sentences say all of `says`.
#[track_caller]
fn check_answer(what: &str, answer: &Answer, status: u16, code: &str, says: &[&str]) {
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), body["code"].as_str()), (status, Some(code)), "{what}: {}", answer.text());
    let error = body["error"].as_str().unwrap_or_default();
    for word in says {
        assert!(error.contains(word), "{what}: `{error}` does not say `{word}`");
    }
    assert!(answer.headers.contains_key("x-request-id"), "{what}: no request id");
}

async fn check(server: &Server, line: &str, body: Option<&str>, status: u16, code: &str, says: &[&str]) {
    let answer = server.send(server.request(line, body)).await;
    let shown: String = body.unwrap_or_default().chars().take(200).collect();
    check_answer(&format!("{line} {shown}"), &answer, status, code, says);
}

async fn check_invalid_agent(server: &Server, body: Value, says: &[&str]) {
    check(server, AGENTS, Some(&body.to_string()), 400, "invalid_request", says).await;
}

#[tokio::test]
async fn agents() {
    let server = Server::start().await;
    check_invalid_agent(&server, json!({}), &["model"]).await;
    check_invalid_agent(&server, json!({ "model": "" }), &["model"]).await;
    check_invalid_agent(
        &server,
        json!({ "model": "m", "harness_id": "emacs" }),
        &["emacs", "opencode", "claude-code", "codex"],
    )
    .await;
    let reserved =
        json!({ "model": "m", "env_vars": { "PORT": "1", "REPO_URL": "x", "LAP_X": "y", "PATH": "/", "FINE": "z" } });
    check_invalid_agent(&server, reserved, &["env_vars.PORT", "env_vars.REPO_URL", "env_vars.LAP_X", "env_vars.PATH"])
        .await;
    let keys: serde_json::Map<String, Value> = (0..51).map(|n| (format!("KEY_{n}"), json!("v"))).collect();
    check_invalid_agent(&server, json!({ "model": "m", "env_vars": keys }), &["51", "50"]).await;
    let frame = json!({ "K": "" }).to_string().len();
    let large = json!({ "model": "m", "env_vars": { "K": "x".repeat(16_384 - frame + 1) } });
    check_invalid_agent(&server, large, &["16"]).await;
    let fits = json!({ "model": "m", "env_vars": { "K": "x".repeat(16_384 - frame) } });
    assert_eq!(server.call(AGENTS, fits).await.status, 201);
    check_invalid_agent(&server, json!({ "model": "m", "env_vars": { "NO-KEY": "v" } }), &["NO-KEY"]).await;
    check_invalid_agent(&server, json!({ "model": "m", "env_vars": { "K": "********" } }), &["env_vars.K"]).await;
    for url in
        ["not a url", "git@github.com:o/r.git", "ssh://git@github.com/o/r", "https://u:p@github.com/o/r", "ftp://h/r"]
    {
        check_invalid_agent(&server, json!({ "model": "m", "repo_url": url }), &["repo_url"]).await;
    }
    check_invalid_agent(&server, json!({ "model": "m", "mcp_servers": ["file:///etc/passwd"] }), &["mcp_servers"])
        .await;
    check_invalid_agent(&server, json!({ "model": "m", "permission_mode": "perhaps" }), &["permission_mode"]).await;
    check_invalid_agent(&server, json!({ "model": "m", "image": "debian" }), &["image", "debian"]).await;
    check_invalid_agent(&server, json!({ "model": "m", "colour": 1, "shape": 2 }), &["colour", "shape"]).await;
    check_invalid_agent(&server, json!({ "model": 5 }), &["model: must be a string, not a number"]).await;
    let file = json!({ "name": "f", "sandbox_path": "/work/../../etc/passwd", "content": "", "size": 0 });
    check_invalid_agent(&server, json!({ "model": "m", "sandbox_files": [file] }), &["sandbox_files[0].sandbox_path"])
        .await;
    let file = json!({ "name": "f", "sandbox_path": "/work/f", "content": "%%%", "size": 0 });
    check_invalid_agent(&server, json!({ "model": "m", "sandbox_files": [file] }), &["sandbox_files[0].content"]).await;
    let skills = json!({ "model": "m", "skill_ids": ["no-such", "nor-this"] }).to_string();
    check(&server, AGENTS, Some(&skills), 404, "not_found", &["skill no-such"]).await;
    server.stop().await;
}

#[tokio::test]
async fn several_problems_are_told_together_and_one_by_one() {
    let server = Server::start().await;
    let body = json!({ "harness_id": "emacs", "repo_url": "x", "env_vars": { "PORT": "1" } });
    let answer = server.call(AGENTS, body).await;
    let problems = answer.json()["problems"].as_array().map(Vec::len);
    assert_eq!(problems, Some(4), "{}", answer.text());
    server.stop().await;
}

#[tokio::test]
async fn bodies() {
    let server = Server::start().await;
    check(&server, AGENTS, Some(""), 400, "invalid_request", &["empty"]).await;
    check(
        &server,
        AGENTS,
        Some("{\"model\": \"m\",}"),
        400,
        "invalid_request",
        &["not valid JSON", "line 1 column 15"],
    )
    .await;
    check(&server, AGENTS, Some("[]"), 400, "invalid_request", &["object"]).await;
    check(&server, AGENTS, Some(r#"{"model":"m","model":"n"}"#), 400, "invalid_request", &["`model` twice"]).await;
    check(&server, AGENTS, Some(&"[".repeat(1_000_000)), 400, "invalid_request", &["recursion"]).await;
    check(&server, AGENTS, None, 415, "unsupported_media_type", &["application/json"]).await;
    let mut form = server.request(AGENTS, Some("model=m"));
    form.headers_mut().insert("content-type", http::HeaderValue::from_static("application/x-www-form-urlencoded"));
    check_answer(
        "a form",
        &server.send(form).await,
        415,
        "unsupported_media_type",
        &["application/x-www-form-urlencoded"],
    );
    let limit = 25 * 1024 * 1024;
    let large = format!("\"{}\"", "x".repeat(limit - 1));
    check(&server, AGENTS, Some(&large), 413, "too_large", &["25 MiB", "26214400"]).await;
    let just_fits = format!("\"{}\"", "x".repeat(limit - 2));
    check(&server, AGENTS, Some(&just_fits), 400, "invalid_request", &["not a string"]).await;
    server.stop().await;
}

#[tokio::test]
async fn keys() {
    let server = Server::start().await;
    let list = "GET /api/v1/managed_agents/agents";
    let with = |values: &[&str]| {
        let mut request = server.request(list, None);
        request.headers_mut().remove("authorization");
        for value in values {
            request.headers_mut().append("authorization", value.parse().expect("a header value"));
        }
        server.send(request)
    };
    let (good, doubled) = (format!("Bearer {KEY}"), format!("Bearer {KEY}{KEY}"));
    for wrong in
        [&[][..], &["Bearer"], &["Bearer "], &["Bearer wrong"], &[KEY], &["Basic bGFw"], &[&doubled], &[&good, &good]]
    {
        let answer = with(wrong).await;
        check_answer(&format!("{wrong:?}"), &answer, 401, "unauthorized", &["unauthorized"]);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert!(!answer.text().contains(KEY));
    }
    assert_eq!(with(&[&good]).await.status, 200);
    assert_eq!(with(&[&format!("bearer {KEY}")]).await.status, 200);
    for open in ["/healthz", "/readyz", "/api/v1/health/k8s"] {
        let request =
            http::Request::get(format!("http://{}{open}", server.address)).body(Full::default()).expect("a request");
        assert_eq!(server.send(request).await.status, 200, "{open}");
    }
    server.stop().await;
}

#[tokio::test]
async fn paths_methods_and_queries() {
    let server = Server::start().await;
    check(&server, "GET /nothing", None, 404, "not_found", &[]).await;
    check(&server, "GET /api/v1/nothing", None, 404, "not_found", &[]).await;
    check(&server, "GET /api/v1/managed_agents/agents/", None, 404, "not_found", &[]).await;
    check(&server, "GET /api/v1/managed_agents/agents/%ff", None, 404, "not_found", &[]).await;
    check(&server, "GET /api/v1/managed_agents/agents/unknown", None, 404, "not_found", &["agent unknown"]).await;
    check(&server, "DELETE /api/v1/managed_agents/agents/unknown", None, 404, "not_found", &["agent unknown"]).await;
    check(&server, "PATCH /api/v1/managed_agents/agents/unknown", Some("{}"), 404, "not_found", &["agent unknown"])
        .await;
    check(&server, "PUT /api/v1/managed_agents/agents", Some("{}"), 405, "method_not_allowed", &["PUT"]).await;
    check(&server, "POST /healthz", Some("{}"), 405, "method_not_allowed", &["POST"]).await;
    let answer = server.call("DELETE /api/v1/managed_agents/agents", None).await;
    assert_eq!(answer.headers["allow"], "GET,HEAD,POST");
    for (query, says) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=ten", "limit"),
        ("offset=-1", "offset"),
        ("offset=9223372036854775808", "offset"),
        ("sort=size", "created_at"),
        ("order=up", "asc"),
        ("page=2", "page"),
        ("limit=1&limit=2", "twice"),
    ] {
        check(&server, &format!("GET /api/v1/managed_agents/agents?{query}"), None, 400, "invalid_request", &[says])
            .await;
    }
    check(&server, "GET /api/v1/managed_agents/sessions?status=alive", None, 400, "invalid_request", &["creating"])
        .await;
    server.stop().await;
}

#[tokio::test]
async fn sessions() {
    let server = Server::start().await;
    let unknown = "/api/v1/managed_agents/sessions/unknown";
    for (line, body) in [("GET", None), ("PATCH", Some(r#"{"title":"t"}"#)), ("DELETE", None)] {
        check(&server, &format!("{line} {unknown}"), body, 404, "not_found", &["session unknown"]).await;
    }
    for (line, body) in [
        ("GET {}/messages", None),
        ("GET {}/events", None),
        ("GET {}/interceptions", None),
        ("GET {}/interceptions?format=jsonl", None),
        ("GET {}/vault-keys", None),
        ("GET {}/sandbox_logs", None),
        ("PATCH {}/egress", Some(r#"{"deny_out":[]}"#)),
        ("POST {}/stop", None),
        ("POST {}/abort", None),
        ("POST {}/message", Some(r#"{"text":"x"}"#)),
        ("POST {}/message_stream", Some(r#"{"text":"x"}"#)),
        ("POST {}/permissions/p", Some(r#"{"decision":"allow"}"#)),
    ] {
        check(&server, &line.replace("{}", unknown), body, 404, "not_found", &["session unknown"]).await;
    }
    check(
        &server,
        "POST /api/v1/managed_agents/agents/unknown/session",
        Some("{}"),
        404,
        "not_found",
        &["agent unknown"],
    )
    .await;

    let opencode = server.call(AGENTS, json!({ "model": "m" })).await.json()["id"].as_str().expect("an id").to_owned();
    let line = format!("POST /api/v1/managed_agents/agents/{opencode}/session");
    check(&server, &line, Some("{}"), 409, "harness_not_installed", &["opencode", "lap harness install opencode"])
        .await;

    let agent = server.agent().await;
    let line = format!("POST /api/v1/managed_agents/agents/{agent}/session");
    let reserved = json!({ "env_vars": { "PORT": "1", "GIT_TOKEN": "x" } }).to_string();
    check(&server, &line, Some(&reserved), 400, "invalid_request", &["env_vars.PORT", "env_vars.GIT_TOKEN"]).await;
    let masked = json!({ "env_vars": { "K": "********" } }).to_string();
    check(&server, &line, Some(&masked), 400, "invalid_request", &["env_vars.K"]).await;
    let orphans = json!({ "initial_attachments": [{ "name": "a.png", "content_type": "image/png", "content": "" }] });
    check(&server, &line, Some(&orphans.to_string()), 400, "invalid_request", &["initial_prompt"]).await;
    check(&server, &line, Some(r#"{"branch":"-x"}"#), 400, "invalid_request", &["branch"]).await;
    check(&server, &line, Some(r#"{"skill_ids":["s"]}"#), 404, "not_found", &["skill s"]).await;
    server.stop().await;
}

#[tokio::test]
async fn messages() {
    let server = Server::start().await;
    let session = server.ready_session().await;
    let path = format!("/api/v1/managed_agents/sessions/{session}");
    let line = format!("POST {path}/message");
    check(&server, &line, Some("{}"), 400, "invalid_request", &["text"]).await;
    check(&server, &line, Some(r#"{"text":" "}"#), 400, "invalid_request", &["text"]).await;
    check(&server, &line, Some(r#"{"text":"x","parts":[]}"#), 400, "invalid_request", &["not both"]).await;
    check(&server, &line, Some(r#"{"parts":[{"type":"image"}]}"#), 400, "invalid_request", &["parts[0]"]).await;
    let long = json!({ "text": "x".repeat(1024 * 1024 + 1) }).to_string();
    check(&server, &line, Some(&long), 413, "too_large", &["1 MiB"]).await;
    let attachment = |content_type: &str, content: &str| {
        json!({ "text": "x", "attachments": [{ "name": "a", "content_type": content_type, "content": content }] })
            .to_string()
    };
    check(
        &server,
        &line,
        Some(&attachment("image/svg+xml", "")),
        400,
        "invalid_request",
        &["attachments[0].content_type"],
    )
    .await;
    check(&server, &line, Some(&attachment("image/png", "?")), 400, "invalid_request", &["attachments[0].content"])
        .await;
    let mut odd = server.request(&line, Some(r#"{"text":"x"}"#));
    odd.headers_mut().insert("idempotency-key", "k".repeat(201).parse().expect("a header value"));
    check_answer("a long key", &server.send(odd).await, 400, "invalid_request", &["Idempotency-Key"]);
    let decision = format!("POST {path}/permissions/p");
    check(&server, &decision, Some(r#"{"decision":"maybe"}"#), 400, "invalid_request", &["decision", "allow_always"])
        .await;
    check(&server, &format!("PATCH {path}"), Some("{}"), 400, "invalid_request", &["title"]).await;
    for (query, says) in [("wait=dead", "ready"), ("wait=ready&timeout_s=x", "timeout_s")] {
        check(&server, &format!("GET {path}?{query}"), None, 400, "invalid_request", &[says]).await;
    }
    check(&server, &format!("GET {path}/events?after=-1"), None, 400, "invalid_request", &["after"]).await;
    let mut resumed = server.request(&format!("GET {path}/events"), None);
    resumed.headers_mut().insert("last-event-id", http::HeaderValue::from_static("last"));
    check_answer("a bad position", &server.send(resumed).await, 400, "invalid_request", &["Last-Event-ID"]);
    server.stop().await;
}

#[tokio::test]
async fn sessions_that_take_no_turns() {
    let server = Server::start().await;
    let session = server.creating_session().await;
    let path = format!("/api/v1/managed_agents/sessions/{session}");
    for route in ["message", "message_stream"] {
        let line = format!("POST {path}/{route}");
        check(&server, &line, Some(r#"{"text":"x"}"#), 409, "session_not_ready", &["creating"]).await;
    }
    let stopped = server.call(&format!("POST {path}/stop"), None).await;
    assert_eq!((stopped.status.as_u16(), &stopped.json()["end_reason"]), (200, &json!("stopped")));
    let again = server.call(&format!("POST {path}/stop"), None).await;
    assert_eq!((again.status.as_u16(), again.json()), (200, stopped.json()));
    for route in ["message", "message_stream"] {
        let line = format!("POST {path}/{route}");
        check(&server, &line, Some(r#"{"text":"x"}"#), 409, "session_not_ready", &["dead", "stopped"]).await;
    }
    check(&server, &format!("POST {path}/abort"), None, 409, "session_not_ready", &["dead"]).await;
    server.stop().await;
}
