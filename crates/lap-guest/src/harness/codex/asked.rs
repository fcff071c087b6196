//! Codex's requests for permission: what a person is shown, and what each decision is in Codex's words. Pure.

use lap_api::message::ToolCall;
use serde_json::{Value, json};

/// A request that waits for a person.
pub(super) struct Asked {
    /// Codex's own id of it.
    id: Value,
    kind: Kind,
}

enum Kind {
    /// A command; what Codex would remember for "always", where it offers to.
    Command {
        amendment: Option<Value>,
    },
    Files,
    /// A tool of an MCP server; the ways it can be remembered.
    Tool {
        persist: Option<&'static str>,
    },
    /// Rights beyond the sandbox's; which.
    Rights(Value),
}

impl Asked {
    /// Reads a request; `None` for those nobody is asked about.
    pub(super) fn read(method: &str, id: &Value, params: &Value) -> Option<Self> {
        let kind = match method {
            "item/commandExecution/requestApproval" => {
                let mut offered = params["availableDecisions"].as_array().into_iter().flatten();
                let amendment = offered.find(|one| !one["acceptWithExecpolicyAmendment"].is_null()).cloned();
                Kind::Command { amendment }
            }
            "item/fileChange/requestApproval" => Kind::Files,
            "item/permissions/requestApproval" => Kind::Rights(params["permissions"].clone()),
            "mcpServer/elicitation/request" if params["_meta"]["codex_approval_kind"] == "mcp_tool_call" => {
                let offered: Vec<&str> = match &params["_meta"]["persist"] {
                    Value::String(one) => vec![one],
                    many => many.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
                };
                Kind::Tool { persist: ["always", "session"].into_iter().find(|way| offered.contains(way)) }
            }
            _ => return None,
        };
        Some(Self { id: id.clone(), kind })
    }

    /// One line and the details; `call` is the tool call it is about, where Codex told of one.
    pub(super) fn shown(&self, params: &Value, call: Option<&ToolCall>) -> (String, Value) {
        let reason = params["reason"].as_str().unwrap_or_default();
        match &self.kind {
            Kind::Command { .. } => {
                let command = command(params);
                let input = json!({ "command": command, "cwd": params["cwd"], "reason": params["reason"] });
                (format!("shell: {command}"), input)
            }
            Kind::Files => {
                let changes = call.map_or(Value::Null, |call| call.input["changes"].clone());
                (format!("apply_patch: {}", paths(&changes)), json!({ "changes": changes, "reason": params["reason"] }))
            }
            Kind::Tool { .. } => {
                let message = params["message"].as_str().unwrap_or(reason);
                let arguments = &params["_meta"]["tool_params"];
                (message.to_owned(), json!({ "server": params["serverName"], "arguments": arguments }))
            }
            Kind::Rights(rights) => (format!("more rights: {reason}"), json!({ "rights": rights })),
        }
    }

    /// The answer for `allow`, `allow_always` or anything else, which is a refusal.
    pub(super) fn answer(&self, decision: &str) -> Value {
        let (allowed, always) = (matches!(decision, "allow" | "allow_always"), decision == "allow_always");
        let result = match &self.kind {
            Kind::Command { amendment: Some(amendment) } if always => json!({ "decision": amendment }),
            Kind::Command { .. } | Kind::Files if always => json!({ "decision": "acceptForSession" }),
            Kind::Command { .. } | Kind::Files if allowed => json!({ "decision": "accept" }),
            Kind::Command { .. } | Kind::Files => json!({ "decision": "decline" }),
            Kind::Tool { persist: Some(way) } if always => {
                json!({ "action": "accept", "content": {}, "_meta": { "persist": way } })
            }
            Kind::Tool { .. } if allowed => json!({ "action": "accept", "content": {} }),
            Kind::Tool { .. } => json!({ "action": "decline" }),
            Kind::Rights(rights) if always => json!({ "permissions": rights, "scope": "session" }),
            Kind::Rights(rights) if allowed => json!({ "permissions": rights, "scope": "turn" }),
            Kind::Rights(_) => json!({ "permissions": {} }),
        };
        json!({ "id": self.id, "result": result })
    }
}

/// The answer to what nobody can be asked: no, in the words of the request.
pub(super) fn unasked(method: &str, id: &Value) -> Value {
    match method {
        "mcpServer/elicitation/request" => json!({ "id": id, "result": { "action": "decline" } }),
        "item/tool/requestUserInput" => json!({ "id": id, "result": { "answers": {} } }),
        "item/commandExecution/requestApproval" | "item/fileChange/requestApproval" => {
            json!({ "id": id, "result": { "decision": "decline" } })
        }
        _ => json!({ "id": id, "error": { "code": -32601, "message": "this is not supported here" } }),
    }
}

/// The command as the model wrote it, without the shell that Codex wraps around it.
pub(super) fn command(item: &Value) -> String {
    let wrapped = item["command"].as_str().unwrap_or_default();
    match item["commandActions"].as_array().map(Vec::as_slice) {
        Some([only]) => only["command"].as_str().unwrap_or(wrapped).to_owned(),
        _ => wrapped.to_owned(),
    }
}

/// The files of a change, by name.
pub(super) fn paths(changes: &Value) -> String {
    let paths = changes.as_array().into_iter().flatten().filter_map(|change| change["path"].as_str());
    paths.collect::<Vec<_>>().join(", ")
}
