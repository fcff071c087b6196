//! Whatever JSON comes, and whatever is nearly JSON: an answer below 500.

mod kit;

use kit::Server;
use proptest::prelude::*;
use serde_json::Value;

/// The names that the routes know, so that what comes gets past the first check often enough.
fn any_name() -> impl Strategy<Value = String> {
    let names = "name model prompt harness_id repo_url branch mcp_servers env_vars env_var_hosts plain_env_vars allow_out \
                 deny_out sandbox_files mcp_headers permission_mode image requirements skill_ids text parts attachments type \
                 title initial_prompt initial_attachments decision sandbox_path content content_type size PATH KEY";
    let known = prop::sample::select(names.split_whitespace().collect::<Vec<_>>());
    prop_oneof![30 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

fn any_text() -> impl Strategy<Value = String> {
    let known = [
        "opencode",
        "shell",
        "text",
        "https://example.com/r.git",
        "********",
        "\0",
        "10.0.0.0/33",
        "*.example.com:70000",
        "image/png",
        "iVBORw0KGgo=",
        "~/f",
    ];
    prop_oneof![prop::sample::select(known.to_vec()).prop_map(str::to_owned), any::<String>(), "[a-z0-9./:*#-]{0,20}",]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 32, 6, |inner| {
        prop_oneof![prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from), any_object_of(inner)]
    })
}

fn any_object_of(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::vec((any_name(), values), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
}

/// Text where the routes want text, so that some bodies are right.
fn any_plausible() -> impl Strategy<Value = Value> {
    prop::collection::vec((any_name(), any_text().prop_map(Value::from)), 0..3).prop_map(|pairs| {
        let model = ("model".to_owned(), Value::from("m"));
        Value::Object(pairs.into_iter().chain([model]).collect())
    })
}

fn any_body() -> impl Strategy<Value = String> {
    let broken =
        (any_object_of(any_value()), any::<prop::sample::Index>(), any::<char>()).prop_map(|(object, at, c)| {
            let mut chars: Vec<char> = object.to_string().chars().collect();
            let at = at.index(chars.len());
            chars[at] = c;
            chars.into_iter().collect()
        });
    prop_oneof![
        3 => any_object_of(any_value()).prop_map(|object| object.to_string()),
        3 => any_plausible().prop_map(|object| object.to_string()),
        1 => broken,
        1 => any::<String>(),
    ]
}

#[test]
fn no_body_is_answered_with_a_fault_of_the_server() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (server, agent, session) = runtime.block_on(async {
        let server = Server::start().await;
        let agent = server.agent().await;
        // Still creating: a message that is right all the same is refused, not waited for.
        let session = server.creating_session().await;
        (server, agent, session)
    });
    let lines = vec![
        "POST /api/v1/managed_agents/agents".to_owned(),
        format!("PATCH /api/v1/managed_agents/agents/{agent}"),
        format!("POST /api/v1/managed_agents/agents/{agent}/session"),
        format!("PATCH /api/v1/managed_agents/sessions/{session}"),
        format!("POST /api/v1/managed_agents/sessions/{session}/message"),
        format!("POST /api/v1/managed_agents/sessions/{session}/message_stream"),
    ];
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(line in prop::sample::select(lines), body in any_body())| {
        let answer = runtime.block_on(server.send(server.request(&line, Some(&body))));
        prop_assert!(answer.status.as_u16() < 500, "{line} {body}: {}", answer.text());
        if !answer.status.is_success() {
            let error = answer.json();
            prop_assert!(error["error"].is_string() && error["code"].is_string(), "{line} {body}: {}", answer.text());
        }
    });
    runtime.block_on(server.stop());
}
