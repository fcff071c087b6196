use expect_test::{Expect, expect};
use lap_client::LogEntry;

use super::retold;
use crate::transcript::Transcript;

/// Retells a log given as `type field=value…` shorthand lines.
#[track_caller]
fn check(turns: &[&str], expect: Expect) {
    let mut past = Vec::new();
    for (turn, end) in turns.iter().enumerate() {
        let t = format!("t{turn}");
        let message = |role: &str, text: &str| {
            format!(
                r#"{{"info":{{"id":"m","turn_id":"{t}","role":"{role}","created_at":""}},"parts":[{{"type":"text","id":"{t}-{role}","text":"{text}"}}]}}"#
            )
        };
        past.push((
            "turn.queued",
            format!(r#"{{"turn_id":"{t}","message":{}}}"#, message("user", &format!("ask {turn}"))),
        ));
        past.push(("turn.started", format!(r#"{{"turn_id":"{t}"}}"#)));
        if *end == "asking" {
            past.push((
                "permission.requested",
                format!(r#"{{"turn_id":"{t}","request_id":"r{turn}","title":"run it","input":{{}}}}"#),
            ));
        }
        if *end == "completed" {
            let usage = r#"{"input_tokens":10,"output_tokens":2,"cached_tokens":0,"cost_usd":null}"#;
            let answer = message("assistant", &format!("answer {turn}"));
            past.push(("turn.completed", format!(r#"{{"turn_id":"{t}","message":{answer},"usage":{usage}}}"#)));
        }
    }
    let past: Vec<LogEntry> = (1..)
        .zip(past)
        .map(|(id, (name, data))| {
            let json = format!(
                r#"{{"id":{id},"session_id":"s","at":"2026-01-01T00:00:00.000Z","type":"{name}","data":{data}}}"#
            );
            let entry = LogEntry::read(&json).expect("an entry");
            assert!(entry.event.is_some(), "{json}");
            entry
        })
        .collect();
    let (text, left) = retold(&past, &mut Transcript::new(false));
    expect.assert_eq(&format!("{text}left: {:?} {:?}\n", left.turn, left.question));
}

#[test]
fn the_last_turns_are_told_again() {
    check(
        &["completed"; 5],
        expect![[r#"
            [2 earlier turns; `lap logs` shows them]
            > ask 2
            answer 2
            [10 tokens in, 2 out, 0 s]
            > ask 3
            answer 3
            [10 tokens in, 2 out, 0 s]
            > ask 4
            answer 4
            [10 tokens in, 2 out, 0 s]
            left: None None
        "#]],
    );
}

#[test]
fn a_running_turn_is_waited_for() {
    check(
        &["completed", "running"],
        expect![[r#"
            > ask 0
            answer 0
            [10 tokens in, 2 out, 0 s]
            > ask 1
            left: Some("t1") None
        "#]],
    );
}

#[test]
fn an_empty_log_says_nothing() {
    check(
        &[],
        expect![[r#"
            left: None None
        "#]],
    );
}

#[test]
fn an_open_question_is_asked_again() {
    check(
        &["completed", "asking"],
        expect![[r#"
        > ask 0
        answer 0
        [10 tokens in, 2 out, 0 s]
        > ask 1
        ! the agent asks for permission: run it
        left: Some("t1") Some(Question { request_id: "r1", title: "run it" })
    "#]],
    );
}
