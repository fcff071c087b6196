//! What Codex is told at its start: its configuration in the home folder, and the parameters of a thread. Nothing is
//! written into the user's repository.

use std::io;
use std::path::PathBuf;

use lap_api::link::McpServer;
use serde_json::{Map, Value, json};

use crate::environment::Environment;
use crate::harness::Setting;

/// The provider's name inside Codex.
const PROVIDER: &str = "lap";

/// The variable Codex takes the gateway's key from.
const KEY: &str = "LITELLM_API_KEY";

/// Writes `config.toml`; both faces read it.
pub(super) fn write(setting: &Setting) -> io::Result<()> {
    let folder = setting.layout.home().join(".codex");
    std::fs::create_dir_all(&folder)?;
    let text = toml::to_string(&config(setting)).map_err(io::Error::other)?;
    std::fs::write(folder.join("config.toml"), text)
}

/// Where Codex keeps conversations.
pub(super) fn conversations(setting: &Setting) -> PathBuf {
    setting.layout.home().join(".codex/sessions")
}

/// The whole configuration.
fn config(setting: &Setting) -> Value {
    let boot = &setting.boot;
    let gateway = boot.gateway_url.trim_end_matches('/');
    // What the terminal asks about by itself; a thread of messages has a mode of its own, which is not known here.
    let (approvals, sandbox) = match boot.permission_mode.as_str() {
        "bypass" => ("never", "danger-full-access"),
        "ask" => ("on-request", "read-only"),
        _ => ("never", "read-only"),
    };
    let servers: Map<String, Value> = boot
        .mcp_servers
        .iter()
        .map(|McpServer { name, url, headers }| (name.clone(), json!({ "url": url, "http_headers": headers })))
        .collect();
    let mut config = json!({
        "model": boot.model,
        "model_provider": PROVIDER,
        "approval_policy": approvals,
        "sandbox_mode": sandbox,
        "check_for_update_on_startup": false,
        "cli_auth_credentials_store": "file",
        // A search at the provider's would go out past the vault.
        "web_search": "disabled",
        "analytics": { "enabled": false },
        "feedback": { "enabled": false },
        "otel": { "exporter": "none" },
        "features": { "plugins": false, "apps": false, "remote_plugin": false, "daemon_auto_start": false },
        "tui": { "show_tooltips": false, "screen_reader_detection_done": true },
        "notice": { "hide_full_access_warning": true, "hide_rate_limit_model_nudge": true },
        "model_providers": { PROVIDER: {
            "name": "LAP model gateway",
            "base_url": format!("{gateway}/v1"),
            "wire_api": "responses",
            "env_key": KEY,
            "request_max_retries": 3,
            "stream_max_retries": 3,
            "supports_websockets": false,
        } },
        "projects": { setting.layout.repo().display().to_string(): { "trust_level": "trusted" } },
        "mcp_servers": servers,
    });
    if let Some(prompt) = &boot.prompt {
        config["developer_instructions"] = json!(prompt);
    }
    config
}

/// Parameters of a thread, new or resumed. Codex's own sandbox is off: ours is the boundary. In mode `deny` it asks like in
/// `ask`, and the adapter refuses.
pub(super) fn thread(setting: &Setting) -> Value {
    let approvals = if setting.boot.permission_mode == "bypass" { "never" } else { "untrusted" };
    let mut thread = json!({
        "cwd": setting.layout.repo(),
        "model": setting.boot.model,
        "modelProvider": PROVIDER,
        "approvalPolicy": approvals,
        "sandbox": "danger-full-access",
    });
    if let Some(prompt) = &setting.boot.prompt {
        thread["developerInstructions"] = json!(prompt);
    }
    thread
}

/// The sandbox's environment, with the gateway's key.
pub(super) fn environment(setting: &Setting) -> Environment {
    let mut env = setting.env.clone();
    env.insert(KEY.to_owned(), setting.boot.gateway_key.clone());
    env
}

/// What a resumed thread must be told, when the agent's prompt is another than the one it holds: a thread keeps the prompt
/// it began with in its history.
pub(super) fn new_prompt(setting: &Setting) -> Option<Value> {
    let now = setting.boot.prompt.as_deref().unwrap_or_default();
    let before = std::fs::read_to_string(prompt_file(setting)).unwrap_or_default();
    let text = format!("These instructions replace those given at the beginning of this conversation.\n\n{now}");
    let message =
        json!({ "type": "message", "role": "developer", "content": [{ "type": "input_text", "text": text }] });
    (now != before).then(|| json!([message]))
}

/// Remembers the prompt the thread holds by now.
pub(super) fn keep_prompt(setting: &Setting) -> io::Result<()> {
    std::fs::write(prompt_file(setting), setting.boot.prompt.as_deref().unwrap_or_default())
}

fn prompt_file(setting: &Setting) -> std::path::PathBuf {
    setting.layout.home().join(".codex/lap-prompt.md")
}
