use lap_api::event::{DeltaKind, EventKind};
use lap_api::message::{Message, MessageInfo, ToolCall};
use lap_api::session::Usage;
use serde_json::Value;

use super::name;

#[test]
fn events_are_named_as_serde_names_them() {
    let (id, text) = (|| "i".to_owned(), || "t".to_owned());
    let info = MessageInfo {
        id: id(),
        turn_id: id(),
        role: text(),
        created_at: text(),
        model: None,
        usage: None,
        error: None,
    };
    let message = Message { info, parts: Vec::new() };
    let call = ToolCall { id: id(), tool: text(), status: text(), title: None, input: Value::Null, output: None };
    let kinds = [
        EventKind::SessionState { status: text(), failure_reason: None, end_reason: None },
        EventKind::SessionPhase { phase: text(), detail: None },
        EventKind::TurnQueued { turn_id: id(), message: message.clone() },
        EventKind::TurnStarted { turn_id: id() },
        EventKind::MessageDelta { turn_id: id(), part_id: id(), kind: DeltaKind::Text, delta: text() },
        EventKind::Tool { turn_id: id(), call },
        EventKind::PermissionRequested { turn_id: id(), request_id: id(), title: text(), input: Value::Null },
        EventKind::PermissionAnswered { request_id: id(), decision: text() },
        EventKind::MessageCompleted { turn_id: id(), message: message.clone() },
        EventKind::TurnCompleted { turn_id: id(), message, usage: Usage::default() },
        EventKind::TurnFailed { turn_id: id(), code: text(), error: text() },
        EventKind::EgressChanged { allow_out: vec![text()], deny_out: vec![text()], revision: 1 },
        EventKind::EgressRefused { host: text(), code: text(), detail: text() },
        EventKind::SandboxLimit { limit: text(), detail: text() },
        EventKind::Error { code: text(), error: text() },
    ];
    for kind in kinds {
        let value = serde_json::to_value(&kind).expect("plain data");
        assert_eq!(value["type"], name(&kind));
    }
}
