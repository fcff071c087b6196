//! What opencode is told at its start and with each message. All of it travels in the environment and in requests:
//! nothing is written into the user's repository.

use std::fs::Permissions;
use std::path::{Path, PathBuf};

use lap_api::link::{GuestBoot, McpServer, Turn};
use serde_json::{Map, Value, json};

/// The provider's name inside opencode.
const PROVIDER: &str = "lap";

/// The whole configuration, for `OPENCODE_CONFIG_CONTENT`.
pub(super) fn config(boot: &GuestBoot) -> Value {
    let gateway = boot.gateway_url.trim_end_matches('/');
    let model = format!("{PROVIDER}/{}", boot.model);
    let mcp: Map<String, Value> = boot
        .mcp_servers
        .iter()
        .map(|McpServer { name, url, headers }| {
            (name.clone(), json!({ "type": "remote", "url": url, "headers": headers, "oauth": false, "enabled": true }))
        })
        .collect();
    json!({
        "autoupdate": false,
        "share": "disabled",
        // Snapshots are commits in a repository of opencode's own; the session's events and its git tree already tell.
        "snapshot": false,
        "provider": { PROVIDER: {
            "name": "LAP model gateway",
            "npm": npm(&boot.model),
            "options": { "baseURL": format!("{gateway}/v1"), "apiKey": boot.gateway_key },
            "models": { boot.model.clone(): {
                "name": boot.model,
                "attachment": true,
                "tool_call": true,
                "modalities": { "input": ["text", "image"], "output": ["text"] },
                "limit": { "context": 200_000, "output": 32_000 },
            } },
        } },
        "enabled_providers": [PROVIDER],
        "model": model,
        "small_model": model,
        "permission": permission(&boot.permission_mode),
        "mcp": mcp,
    })
}

/// Which of the providers built into opencode speaks to the gateway. The gateway takes all protocols for every model;
/// Anthropic's own carries thinking and prompt caching, which the other one would lose on the way.
fn npm(model: &str) -> &'static str {
    let model = model.to_ascii_lowercase();
    if model.contains("claude") || model.starts_with("anthropic/") {
        "@ai-sdk/anthropic"
    } else {
        "@ai-sdk/openai-compatible"
    }
}

/// Requests that make opencode load its plugins, providers and tools.
pub(super) const WARM_UP: [&str; 2] = ["/config/providers", "/api/model"];

/// What opencode needs in its environment.
pub(super) fn environment(boot: &GuestBoot, password: &str) -> [(String, String); 6] {
    [
        ("OPENCODE_CONFIG_CONTENT", config(boot).to_string()),
        ("OPENCODE_SERVER_PASSWORD", password.to_owned()),
        // Versions are pinned, and the only way out of a sandbox is for the agent's work.
        ("OPENCODE_DISABLE_AUTOUPDATE", "1".to_owned()),
        ("OPENCODE_DISABLE_MODELS_FETCH", "1".to_owned()),
        ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1".to_owned()),
        ("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// Arguments the launch does not give itself.
pub(super) fn arguments(given: &[String]) -> Vec<&'static str> {
    let mut more = Vec::new();
    if !given.iter().any(|argument| argument == "serve") {
        more.push("serve");
    }
    if !given.iter().any(|argument| argument.starts_with("--port")) {
        more.extend(["--hostname", "127.0.0.1", "--port", "0"]);
    }
    more
}

/// What opencode may do by itself. It never asks questions of its own: nobody could answer them.
fn permission(mode: &str) -> Value {
    let reading = |rest: &str| {
        json!({
            "*": rest, "read": "allow", "list": "allow", "glob": "allow", "grep": "allow", "skill": "allow",
            "todowrite": "allow", "todoread": "allow", "question": "deny",
        })
    };
    match mode {
        "ask" => reading("ask"),
        "deny" => reading("deny"),
        _ => json!({ "*": "allow", "question": "deny" }),
    }
}

/// Keeps opencode from editing the user's configuration while it loads it: it would add a `$schema` line to a file
/// without one, and the working tree would differ from what was cloned. Dropping it gives the files their modes back.
pub(super) struct Untouched(Vec<(PathBuf, Permissions)>);

impl Untouched {
    /// Takes the right to write from the files that opencode would write.
    pub(super) fn hold(tree: &Path) -> Self {
        let files = ["opencode.json", "opencode.jsonc", ".opencode/opencode.json", ".opencode/opencode.jsonc"];
        let held = files.iter().filter_map(|name| {
            let path = tree.join(name);
            let before = std::fs::symlink_metadata(&path).ok().filter(|data| data.is_file())?.permissions();
            let mut locked = before.clone();
            locked.set_readonly(true);
            std::fs::set_permissions(&path, locked).ok()?;
            Some((path, before))
        });
        Self(held.collect())
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        for (path, before) in self.0.drain(..) {
            // Gone in the meantime: then there is nothing to give back.
            let _ = std::fs::set_permissions(path, before);
        }
    }
}

/// One user message; images travel inside it.
pub(super) fn prompt(boot: &GuestBoot, turn: &Turn, message_id: &str) -> Value {
    let mut parts = vec![json!({ "type": "text", "text": turn.text })];
    parts.extend(turn.attachments.iter().map(|image| {
        let url = format!("data:{};base64,{}", image.content_type, image.content);
        json!({ "type": "file", "mime": image.content_type, "filename": image.name, "url": url })
    }));
    let mut prompt = json!({ "messageID": message_id, "parts": parts });
    if let Some(system) = &boot.prompt {
        prompt["system"] = json!(system);
    }
    prompt
}

#[cfg(test)]
mod tests;
