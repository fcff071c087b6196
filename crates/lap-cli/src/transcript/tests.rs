use expect_test::{Expect, expect};
use lap_api::event::{DeltaKind, Event, EventKind};
use lap_api::message::{Message, MessageInfo, Part, ToolCall};
use lap_api::session::Usage;
use serde_json::json;

use super::Transcript;

#[track_caller]
fn check(events: Vec<EventKind>, expect: Expect) {
    let mut transcript = Transcript::new(false);
    let mut text = String::new();
    for (second, kind) in events.into_iter().enumerate() {
        let at = format!("2026-01-01T00:00:{second:02}.000Z");
        text += &transcript.event(&Event { id: 1 + second as u64, session_id: "s".into(), at, kind });
    }
    text += &transcript.end_line();
    expect.assert_eq(&text);
}

fn delta(part: &str, text: &str) -> EventKind {
    EventKind::MessageDelta { turn_id: "t".into(), part_id: part.into(), kind: DeltaKind::Text, delta: text.into() }
}

fn thought(part: &str, text: &str) -> EventKind {
    EventKind::MessageDelta {
        turn_id: "t".into(),
        part_id: part.into(),
        kind: DeltaKind::Reasoning,
        delta: text.into(),
    }
}

fn text(id: &str, text: &str) -> Part {
    Part::Text { id: id.into(), text: text.into() }
}

fn message(role: &str, parts: Vec<Part>) -> Message {
    let info = MessageInfo {
        id: "m".into(),
        turn_id: "t".into(),
        role: role.into(),
        created_at: String::new(),
        model: None,
        usage: None,
        error: None,
    };
    Message { info, parts }
}

fn completed(parts: Vec<Part>) -> EventKind {
    let usage = Usage { input_tokens: 12_345, output_tokens: 67, cached_tokens: 12_000, cost_usd: Some(0.0123) };
    EventKind::TurnCompleted { turn_id: "t".into(), message: message("assistant", parts), usage }
}

fn tool(id: &str, status: &str, input: serde_json::Value, output: Option<&str>) -> EventKind {
    let call = ToolCall {
        id: id.into(),
        tool: "bash".into(),
        status: status.into(),
        title: None,
        input,
        output: output.map(str::to_owned),
    };
    EventKind::Tool { turn_id: "t".into(), call }
}

fn started() -> EventKind {
    EventKind::TurnStarted { turn_id: "t".into() }
}

#[test]
fn an_answer_streams_and_is_there_once() {
    check(
        vec![
            started(),
            delta("p1", "Hello "),
            delta("p1", "world."),
            EventKind::MessageCompleted {
                turn_id: "t".into(),
                message: message("assistant", vec![text("p1", "Hello world.")]),
            },
            completed(vec![text("p1", "Hello world.")]),
        ],
        expect![[r#"
            Hello world.
            [12.3k tokens in (12.0k cached), 67 out, $0.01, 4 s]
        "#]],
    );
}

#[test]
fn swallowed_deltas_come_from_the_final_message() {
    check(
        vec![delta("p1", "Hel"), completed(vec![text("p1", "Hello"), text("p2", "And more.")])],
        expect![[r#"
            Hello
            And more.
            [12.3k tokens in (12.0k cached), 67 out, $0.01]
        "#]],
    );
}

#[test]
fn tools_show_title_output_and_end() {
    check(
        vec![
            delta("p1", "Running the tests."),
            tool("c1", "running", json!({}), None),
            tool("c1", "running", json!({"command": "cargo test"}), None),
            tool("c1", "completed", json!({"command": "cargo test"}), Some("a\nb\nc\nd\ne\nf\ng\n")),
            delta("p2", "\n\nAll well."),
        ],
        expect![[r#"
            Running the tests.
            * bash: cargo test
              | a
              | b
              | c
              | d
              | e
              | … 2 more lines
              done
            All well.
        "#]],
    );
}

#[test]
fn parallel_tools_name_themselves_again() {
    check(
        vec![
            tool("c1", "running", json!({"command": "one"}), None),
            tool("c2", "running", json!({"command": "two"}), None),
            tool("c1", "failed", json!({"command": "one"}), Some("no such file")),
            tool("c2", "completed", json!({"command": "two"}), None),
        ],
        expect![[r#"
            * bash: one
            * bash: two
            - bash: one
              | no such file
              failed
            - bash: two
              done
        "#]],
    );
}

#[test]
fn what_an_agent_writes_cannot_drive_the_terminal() {
    check(
        vec![
            delta("p1", "a\u{1b}]0;title\u{7}b\u{1b}[2J"),
            delta("p1", "\u{202e}c\r\u{9b}d"),
            tool("c1", "completed", json!({"command": "x\u{1b}[31m\ny"}), Some("\u{1b}[Hhome")),
        ],
        expect![[r#"
            a]0;titleb[2Jcd
            - bash: x[31m…
              | [Hhome
              done
        "#]],
    );
}

#[test]
fn thinking_is_marked_in_words() {
    check(
        vec![thought("r1", "Let me "), thought("r1", "see."), delta("p1", "Done.")],
        expect![[r#"
            thinking: Let me see.
            Done.
        "#]],
    );
}

#[test]
fn other_peoples_messages_are_shown_own_ones_are_not() {
    let queued = |turn: &str, words: &str| EventKind::TurnQueued {
        turn_id: turn.into(),
        message: message("user", vec![text("u", words)]),
    };
    let mut transcript = Transcript::new(false);
    transcript.is_own("mine");
    let mut event = |kind| transcript.event(&Event { id: 1, session_id: "s".into(), at: String::new(), kind });
    assert_eq!(event(queued("mine", "secret plan")), "");
    expect!["> line one\n> line two\n"].assert_eq(&event(queued("theirs", "line one\nline two")));
}

#[test]
fn failures_refusals_and_ends_are_sentences() {
    let failed =
        |code: &str, error: &str| EventKind::TurnFailed { turn_id: "t".into(), code: code.into(), error: error.into() };
    check(
        vec![
            delta("p1", "half an ans"),
            failed("aborted", "aborted"),
            failed("harness_failed", "model not found"),
            EventKind::EgressRefused {
                host: "evil.test:443".into(),
                code: "denied".into(),
                detail: "not allowed".into(),
            },
            EventKind::SandboxLimit { limit: "memory".into(), detail: "4 GiB".into() },
            EventKind::PermissionRequested {
                turn_id: "t".into(),
                request_id: "r".into(),
                title: "run rm".into(),
                input: json!({}),
            },
            EventKind::PermissionAnswered { request_id: "r".into(), decision: "allow_always".into() },
            EventKind::SessionState { status: "dead".into(), failure_reason: None, end_reason: Some("idle".into()) },
        ],
        expect![[r#"
            half an ans
            ! the turn was stopped
            ! the turn failed: model not found
            ! the vault refused evil.test:443 (denied): not allowed
            ! limit memory reached: 4 GiB
            ! the agent asks for permission: run rm
            ! permission: allow always
            ! the session has ended (idle)
        "#]],
    );
}

#[test]
fn a_text_that_changed_is_told_as_it_ended() {
    check(
        vec![delta("p1", "Draft"), completed(vec![text("p1", "Final")])],
        expect![[r#"
            Draft
            Final
            [12.3k tokens in (12.0k cached), 67 out, $0.01]
        "#]],
    );
}
