use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use lap_api::link::HarnessLaunch;

use super::*;

fn boot(model: &str, mode: &str) -> GuestBoot {
    GuestBoot {
        session_id: "ses_1".to_owned(),
        env: BTreeMap::new(),
        git_author: String::new(),
        repo: None,
        files: Vec::new(),
        skills: Vec::new(),
        requirements: None,
        prompt: Some("Be kind.".to_owned()),
        model: model.to_owned(),
        permission_mode: mode.to_owned(),
        mcp_servers: vec![McpServer {
            name: "tickets".to_owned(),
            url: "https://mcp.example.com/mcp".to_owned(),
            headers: [("Authorization".to_owned(), "Bearer stub_x".to_owned())].into(),
        }],
        harness: HarnessLaunch {
            id: "opencode".to_owned(),
            version: "1".to_owned(),
            adapter: "opencode-serve".to_owned(),
            command: Vec::new(),
            env: BTreeMap::new(),
            skills_dir: "~/skills".to_owned(),
            files: Vec::new(),
            tui: None,
        },
        gateway_url: "http://gateway.lap.internal/".to_owned(),
        gateway_key: "stub_litellm_1".to_owned(),
        resume: None,
    }
}

#[track_caller]
fn check(model: &str, mode: &str, pointer: &str, expect: Value) {
    assert_eq!(config(&boot(model, mode)).pointer(pointer), Some(&expect));
}

#[test]
fn the_gateway_is_the_only_provider() {
    check("anthropic/claude-x", "bypass", "/provider/lap/options/baseURL", json!("http://gateway.lap.internal/v1"));
    check("anthropic/claude-x", "bypass", "/provider/lap/options/apiKey", json!("stub_litellm_1"));
    check("anthropic/claude-x", "bypass", "/enabled_providers", json!(["lap"]));
    check("anthropic/claude-x", "bypass", "/model", json!("lap/anthropic/claude-x"));
    check("anthropic/claude-x", "bypass", "/provider/lap/npm", json!("@ai-sdk/anthropic"));
    check("openai/gpt-x", "bypass", "/provider/lap/npm", json!("@ai-sdk/openai-compatible"));
}

#[test]
fn permission_modes_differ_in_what_changes_things() {
    for (mode, bash) in [("bypass", "allow"), ("ask", "ask"), ("deny", "deny")] {
        check("m", mode, "/permission/*", json!(bash));
        check("m", mode, "/permission/question", json!("deny"));
    }
    check("m", "ask", "/permission/read", json!("allow"));
}

#[test]
fn servers_of_tools_bring_their_headers() {
    check("m", "bypass", "/mcp/tickets/url", json!("https://mcp.example.com/mcp"));
    check("m", "bypass", "/mcp/tickets/headers", json!({ "Authorization": "Bearer stub_x" }));
}

#[test]
fn arguments_are_added_only_where_the_launch_has_none() {
    let given = |arguments: &[&str]| arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    assert_eq!(arguments(&[]), ["serve", "--hostname", "127.0.0.1", "--port", "0"]);
    assert!(arguments(&given(&["serve", "--hostname", "127.0.0.1", "--port", "0"])).is_empty());
}

#[test]
fn the_users_configuration_is_read_only_while_it_is_loaded() {
    let tree = tempfile::tempdir().expect("a folder");
    let path = tree.path().join("opencode.json");
    std::fs::write(&path, "{}").expect("a file");
    let mode = || std::fs::metadata(&path).expect("the file").permissions().mode() & 0o777;
    let before = mode();
    let held = Untouched::hold(tree.path());
    assert_eq!(mode() & 0o222, 0);
    drop(held);
    assert_eq!(mode(), before);
}
