//! What right requests are answered with.

mod kit;

use http::StatusCode;
use kit::Server;
use serde_json::{Value, json};

const AGENTS: &str = "POST /api/v1/managed_agents/agents";

#[tokio::test]
async fn an_agent_from_first_to_last() {
    let server = Server::start().await;
    let body = json!({
        "name": "fixer",
        "model": "anthropic/claude-opus-4-7",
        "repo_url": "https://github.com/o/r",
        "env_vars": { "GITHUB_TOKEN": "ghp_real_value", "MODE": "fast", "EMPTY": "" },
        "plain_env_vars": ["MODE"],
        "sandbox_files": [{ "name": "n", "sandbox_path": "~/n.txt", "content": "aGk=", "size": 2 }],
    });
    let created = server.call(AGENTS, body).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text());
    let agent = created.json();
    let id = agent["id"].as_str().expect("an id");
    assert_eq!(created.headers["location"], format!("/api/v1/managed_agents/agents/{id}"));
    assert!(!created.text().contains("ghp_real_value"));
    assert_eq!(agent["env_vars"], json!({ "GITHUB_TOKEN": "********", "MODE": "fast", "EMPTY": "********" }));
    assert_eq!(agent["harness_id"], "opencode");
    assert_eq!(agent["branch"], "main");
    assert_eq!(agent["permission_mode"], "bypass");
    assert_eq!(agent["sandbox_files"][0]["content"], "aGk=");
    assert_eq!(agent["sandbox_files"][0]["content_type"], "application/octet-stream");
    for list in ["mcp_servers", "attached_skill_ids", "allow_out", "deny_out"] {
        assert_eq!(agent[list], json!([]), "{list}");
    }
    for null in ["prompt", "image", "requirements"] {
        assert_eq!(agent.get(null), Some(&Value::Null), "{null}");
    }
    let created_at = agent["created_at"].as_str().expect("a time");
    assert!(created_at.len() == 24 && created_at.ends_with('Z'), "{created_at}");

    let path = format!("/api/v1/managed_agents/agents/{id}");
    assert_eq!(server.call(&format!("GET {path}"), None).await.json(), agent);

    let edit =
        json!({ "name": null, "prompt": "be kind", "env_vars": { "GITHUB_TOKEN": "********", "NEW": "secret-value" } });
    let edited = server.call(&format!("PATCH {path}"), edit).await;
    assert_eq!(edited.status, StatusCode::OK, "{}", edited.text());
    let edited = edited.json();
    assert_eq!((&edited["name"], &edited["prompt"]), (&Value::Null, &json!("be kind")));
    assert_eq!(edited["env_vars"], json!({ "GITHUB_TOKEN": "********", "NEW": "********" }));

    let list = server.call("GET /api/v1/managed_agents/agents?limit=1", None).await.json();
    assert_eq!((&list["total"], &list["limit"], &list["offset"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(server.call("GET /api/v1/stats", None).await.headers["cache-control"], "no-store");
    let row = &list["data"][0];
    assert_eq!((&row["session_count"], &row["has_active_session"]), (&json!(0), &json!(false)));
    assert_eq!((row["sandbox_files"][0].get("content"), &row["sandbox_files"][0]["size"]), (None, &json!(2)));

    for _ in 0..2 {
        let deleted = server.call(&format!("DELETE {path}"), None).await;
        assert_eq!((deleted.status, deleted.text()), (StatusCode::NO_CONTENT, String::new()));
    }
    assert_eq!(server.call(&format!("GET {path}"), None).await.status, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn agents_of_every_known_harness_can_be_made() {
    let server = Server::start().await;
    let harnesses = server.call("GET /api/v1/harnesses", None).await.json();
    let ids: Vec<&str> =
        harnesses["data"].as_array().expect("a list").iter().filter_map(|h| h["id"].as_str()).collect();
    for id in ["opencode", "claude-agent-sdk", "claude-code", "codex"] {
        assert!(ids.contains(&id), "{ids:?}");
        let created = server.call(AGENTS, json!({ "model": "m", "harness_id": id })).await;
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.text());
        assert_eq!(created.json()["supports_tui"], json!(matches!(id, "claude-code" | "codex")), "{id}");
    }
    let by_name = server.call("GET /api/v1/managed_agents/agents?search=codex", None).await.json();
    assert_eq!(by_name["total"], 1);
    server.stop().await;
}

#[tokio::test]
async fn a_session_from_first_to_last() {
    let server = Server::start().await;
    let agent = server.agent().await;
    let body = json!({ "title": "t", "env_vars": { "TOKEN": "a-session-secret" } });
    let created = server.call(&format!("POST /api/v1/managed_agents/agents/{agent}/session"), body).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text());
    let session = created.json();
    let id = session["id"].as_str().expect("an id");
    let path = format!("/api/v1/managed_agents/sessions/{id}");
    assert_eq!(created.headers["location"], path);
    assert_eq!(
        (&session["status"], &session["title"], &session["agent_id"]),
        (&json!("creating"), &json!("t"), &json!(agent))
    );
    assert!(!created.text().contains("a-session-secret"));
    let mut fields: Vec<&String> = session.as_object().expect("an object").keys().collect();
    fields.sort();
    let expected = "agent_id branch commit created_at egress end_reason faces failure_reason harness_session_id id idle_timeout_ms \
                    last_seen_at max_cost_usd max_tokens phase phase_detail response sandbox_url status supports_tui title title_preview tty_token \
                    tty_url usage";
    assert_eq!(fields, expected.split_whitespace().collect::<Vec<_>>());

    let keys = server.call(&format!("GET {path}/vault-keys"), None).await.json();
    assert_eq!(keys["data"], json!(["TOKEN"]));
    let renamed = server.call(&format!("PATCH {path}"), json!({ "title": "u" })).await;
    assert_eq!(renamed.json()["title"], "u");
    let limited = server.call(&format!("PATCH {path}"), json!({ "max_tokens": 9, "max_cost_usd": 1.5 })).await.json();
    assert_eq!(
        (&limited["title"], &limited["max_tokens"], &limited["max_cost_usd"]),
        (&json!("u"), &json!(9), &json!(1.5))
    );
    let free = server.call(&format!("PATCH {path}"), json!({ "max_tokens": null })).await.json();
    assert_eq!(
        (&free["max_tokens"], &free["max_cost_usd"], &free["usage"]["calls"]),
        (&json!(null), &json!(1.5), &json!(0))
    );
    let used = server.call("GET /api/v1/usage?by=session,day&from=2026-01-01", None).await;
    assert_eq!((used.status.as_u16(), used.json()["total"].clone()), (200, json!(0)));
    for wrong in ["by=moon", "from=yesterday", "limit=0", "colour=red"] {
        let answer = server.call(&format!("GET /api/v1/usage?{wrong}"), None).await;
        assert_eq!(answer.json()["code"], "invalid_request", "{wrong}");
    }
    let at_once = server.call(&format!("GET {path}?wait=ready&timeout_s=0"), None).await;
    assert_eq!(at_once.json()["status"], "creating");

    let line = format!("GET {path}?wait=ready");
    let (waited, ()) = tokio::join!(server.call(&line, None), async {
        server.report(id, vec![lap_store::Write::Move(lap_domain::session::SessionEvent::GuestReady)]).await;
    });
    assert_eq!(waited.json()["status"], "ready");
    let logs = server.call(&format!("GET {path}/sandbox_logs?tailLines=3"), None).await;
    assert_eq!(logs.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(logs.text(), "the last 3 lines\n");

    let listed = server.call(&format!("GET /api/v1/managed_agents/sessions?agent_id={agent}&status=ready"), None).await;
    assert_eq!((&listed.json()["total"], &listed.json()["data"][0]["id"]), (&json!(1), &json!(id)));
    let none = server.call("GET /api/v1/managed_agents/sessions?status=failed", None).await.json();
    assert_eq!((&none["total"], &none["data"]), (&json!(0), &json!([])));
    let stats = server.call("GET /api/v1/stats", None).await.json();
    assert_eq!(stats["sessions"], json!({ "creating": 0, "ready": 1, "failed": 0, "dead": 0 }));

    for _ in 0..2 {
        assert_eq!(server.call(&format!("DELETE {path}"), None).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(server.call(&format!("GET {path}"), None).await.status, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn a_session_needs_no_body() {
    let server = Server::start().await;
    let agent = server.agent().await;
    let created = server.call(&format!("POST /api/v1/managed_agents/agents/{agent}/session"), None).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text());
    server.stop().await;
}

#[tokio::test]
async fn the_egress_record_is_paged_and_exported() {
    let server = Server::start().await;
    let session = server.ready_session().await;
    let line = |n: u16| lap_store::EgressLine {
        method: "GET".to_owned(),
        host: "example.com:443".to_owned(),
        path: format!("/{n}"),
        status: Some(200),
        bytes_out: 1,
        bytes_in: 2,
        duration_ms: 3,
        credentials: vec!["GITHUB_TOKEN".to_owned()],
        verdict: "allowed".to_owned(),
        detail: None,
    };
    server.report(&session, (1..=450).map(|n| lap_store::Write::Egress(line(n))).collect()).await;
    let path = format!("/api/v1/managed_agents/sessions/{session}/interceptions");
    let page = server.call(&format!("GET {path}?limit=2&offset=1"), None).await.json();
    assert_eq!(
        (&page["total"], &page["data"][0]["path"], &page["data"][1]["path"]),
        (&json!(450), &json!("/449"), &json!("/448"))
    );
    let export = server.call(&format!("GET {path}?format=jsonl"), None).await;
    assert_eq!(export.headers["content-type"], "application/x-ndjson");
    let text = export.text();
    let ids: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON")["id"].as_u64().expect("an id"))
        .collect();
    assert_eq!(ids, (1..=450).collect::<Vec<u64>>());
    server.stop().await;
}

#[tokio::test]
async fn requests_have_ids() {
    let server = Server::start().await;
    let fresh = server.call("GET /healthz", None).await;
    assert_eq!(fresh.headers["x-request-id"].len(), 36);
    for (given, kept) in [("trace-7", true), ("has space", false), (&*"x".repeat(129), false)] {
        let mut request = server.request("GET /healthz", None);
        request.headers_mut().insert("x-request-id", given.parse().expect("a header value"));
        let answer = server.send(request).await;
        assert_eq!(answer.headers["x-request-id"] == given, kept, "{given}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_key_makes_nothing_new() {
    let server = Server::start().await;
    let agent = server.agent().await;
    let sessions = format!("POST /api/v1/managed_agents/agents/{agent}/session");
    for (line, first, other) in [
        (AGENTS, json!({ "model": "m", "env_vars": { "K": "secret-one" } }), json!({ "model": "n" })),
        (&sessions, json!({ "title": "t", "env_vars": { "K": "secret-one" } }), json!({ "title": "u" })),
    ] {
        let keyed = |body: &Value| {
            let mut request = server.request(line, Some(&body.to_string()));
            request.headers_mut().insert("idempotency-key", http::HeaderValue::from_static("k-1"));
            server.send(request)
        };
        // Both at once: one of them waits for the other.
        let (one, two) = tokio::join!(keyed(&first), keyed(&first));
        assert_eq!((one.status, two.status), (StatusCode::CREATED, StatusCode::CREATED), "{}", one.text());
        assert_eq!(one.json()["id"], two.json()["id"]);
        assert_eq!(one.headers["location"], two.headers["location"]);
        let mut same = first.clone();
        same["env_vars"]["K"] = json!("secret-two");
        assert_eq!(keyed(&same).await.json()["id"], one.json()["id"], "secrets are not part of what is compared");
        let other = keyed(&other).await;
        assert_eq!((other.status.as_u16(), &other.json()["code"]), (422, &json!("idempotency_mismatch")));
    }
    server.stop().await;
}
