use serde_json::json;

use super::*;

fn claude() -> Claude {
    let mut claude =
        Claude { conversation: "c".to_owned(), model: "m".to_owned(), deny: false, requests: 0, turn: None };
    claude.begin(&Turn { turn_id: "t1".to_owned(), text: "hello".to_owned(), attachments: Vec::new() });
    claude
}

#[test]
fn a_result_of_a_turn_that_claude_began_itself_ends_nothing() {
    let mut claude = claude();
    let mine = claude.turn.as_ref().unwrap().message.clone();
    let step = claude.take(json!({ "type": "result", "is_error": false, "user_message_uuids": ["another"] }));
    assert!(step.outcome.is_none());
    let step = claude.take(json!({ "type": "result", "is_error": false, "user_message_uuids": [mine] }));
    assert!(matches!(step.outcome, Some(Outcome::Completed { .. })));
}

#[test]
fn what_is_allowed_for_ever_is_not_written_into_the_repository() {
    let mut claude = claude();
    let rule = json!({ "type": "addRules", "rules": [{ "toolName": "Bash" }], "destination": "localSettings" });
    let mode = json!({ "type": "setMode", "mode": "acceptEdits", "destination": "session" });
    let request = json!({ "subtype": "can_use_tool", "tool_name": "Bash", "input": { "command": "make" },
                          "permission_suggestions": [rule, mode] });
    let step = claude.take(json!({ "type": "control_request", "request_id": "p", "request": request }));
    assert!(matches!(&step.reports[..], [Report::PermissionRequested { title, .. }] if title == "Bash: make"));
    let sent = claude.decide("p", "allow_always").send;
    let response = &sent[0]["response"]["response"];
    assert_eq!(response["updatedInput"], json!({ "command": "make" }));
    let kept = json!([{ "type": "addRules", "rules": [{ "toolName": "Bash" }], "destination": "userSettings" }]);
    assert_eq!(response["updatedPermissions"], kept);
    assert!(claude.decide("p", "deny").send.is_empty(), "it is answered once");
}
