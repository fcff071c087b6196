//! What Claude Code is told at its start: by arguments, by its environment and by files in the platform's own folder.
//! Nothing is written into the user's repository.

use std::io;
use std::path::PathBuf;

use lap_api::link::McpServer;
use serde_json::{Map, Value, json};

use crate::environment::Environment;
use crate::harness::Setting;
use crate::harness::talk::Face;

/// Tools that need a person at a terminal, or that begin turns nobody asked for.
const WITHOUT: &str = "AskUserQuestion,EnterPlanMode,ExitPlanMode,CronCreate,CronDelete,CronList,ScheduleWakeup";

/// Arguments for going on with a conversation, or for beginning it under this id.
pub(super) fn arguments(setting: &Setting, conversation: &str) -> io::Result<Vec<String>> {
    let mut all = shared(setting)?;
    let open = if has_begun(setting, conversation) { "--resume" } else { "--session-id" };
    all.extend([open.to_owned(), conversation.to_owned()]);
    Ok(all)
}

/// The program for people, on this conversation.
pub(super) fn face(setting: &Setting, conversation: &str) -> io::Result<Face> {
    let (arguments, env) = (shared(setting)?, environment(setting)?);
    let mut own = setting.boot.harness.env.clone();
    own.extend(env);
    Ok(Face { arguments, env: own, begun: has_begun(setting, conversation) })
}

/// Where Claude keeps conversations.
pub(super) fn conversations(setting: &Setting) -> PathBuf {
    setting.layout.home().join(".claude/projects")
}

/// Arguments for messages and terminal alike.
fn shared(setting: &Setting) -> io::Result<Vec<String>> {
    let boot = &setting.boot;
    let mode = if boot.permission_mode == "bypass" { "bypassPermissions" } else { "default" };
    let mut all = vec!["--model", &boot.model, "--permission-mode", mode, "--disallowed-tools", WITHOUT];
    let prompt = setting.layout.run().join("prompt.md").display().to_string();
    if let Some(text) = &boot.prompt {
        std::fs::write(&prompt, text)?;
        all.extend(["--append-system-prompt-file", &prompt]);
    }
    // A conversation remembers the prompt it began with, and would hold on to it when the agent has a new one.
    all.extend(["--system-prompt-snapshot", "off"]);
    let servers = setting.layout.run().join("mcp.json").display().to_string();
    if !boot.mcp_servers.is_empty() {
        let known: Map<String, Value> = boot
            .mcp_servers
            .iter()
            .map(|McpServer { name, url, headers }| {
                (name.clone(), json!({ "type": "http", "url": url, "headers": headers }))
            })
            .collect();
        std::fs::write(&servers, json!({ "mcpServers": known }).to_string())?;
        all.extend(["--mcp-config", &servers]);
    }
    Ok(all.into_iter().map(str::to_owned).collect())
}

/// Claude keeps a conversation as a file named by its id; it takes an id for a new one only when there is none.
fn has_begun(setting: &Setting, conversation: &str) -> bool {
    let folders = std::fs::read_dir(conversations(setting)).into_iter().flatten().flatten();
    folders.map(|folder| folder.path().join(format!("{conversation}.jsonl"))).any(|file| file.exists())
}

/// The sandbox's environment, with the gateway. A key of Anthropic's that the agent brought is meant for its work, not for
/// the gateway, where it would be refused: it reaches the shells through the file that Claude runs before each command.
pub(super) fn environment(setting: &Setting) -> io::Result<Environment> {
    let mut env = setting.env.clone();
    let mut shells = String::new();
    for name in ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "CLAUDE_CODE_OAUTH_TOKEN"] {
        if let Some(value) = env.remove(name) {
            shells.push_str(&format!("export {name}='{}'\n", value.replace('\'', r"'\''")));
        }
    }
    if !shells.is_empty() {
        let file = setting.layout.run().join("claude-env.sh");
        std::fs::write(&file, shells)?;
        env.insert("CLAUDE_ENV_FILE".to_owned(), file.display().to_string());
    }
    env.insert("ANTHROPIC_BASE_URL".to_owned(), setting.boot.gateway_url.trim_end_matches('/').to_owned());
    env.insert("ANTHROPIC_AUTH_TOKEN".to_owned(), setting.boot.gateway_key.clone());
    Ok(env)
}

/// What "always" means: Claude's own suggestions, kept with the user's settings. Its first choice is a file in the working
/// tree, which belongs to the repository.
pub(super) fn lasting(mut suggestions: Value) -> Value {
    let rules = suggestions.as_array_mut().map(std::mem::take).unwrap_or_default();
    let kept = rules.into_iter().filter(|rule| rule["type"] == "addRules").map(|mut rule| {
        rule["destination"] = json!("userSettings");
        rule
    });
    Value::Array(kept.collect())
}
