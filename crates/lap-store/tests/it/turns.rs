//! Turns: one at a time, in order, each handed out once.

use lap_domain::session::{EndReason, SessionEvent, SessionState};
use lap_domain::turn::TurnState;
use lap_store::{Idempotency, NewTurn, StoreError};

use crate::kit::*;

fn keyed(id: &str, key: &str, body: &[u8]) -> NewTurn {
    NewTurn { idempotency: Some(Idempotency { key: key.to_owned(), body_hmac: body.to_vec() }), ..turn("s1", id) }
}

#[tokio::test]
async fn turns_are_handed_out_one_at_a_time_in_order() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    for name in ["t2", "t1", "t3"] {
        let record = kit.store.insert_turn(turn("s1", name), 9).await.expect("queues");
        assert_eq!((record.turn.state, record.turn.id), (TurnState::Queued, tid(name)));
    }
    assert_eq!(kit.store.waiting_turns(&id).await.expect("counts"), 3);
    let first = kit.store.claim_next_turn(&id, 1, NOW).await.expect("works").expect("one waits");
    assert_eq!((first.turn.id.as_str(), first.input.as_deref()), ("t2", Some("input of t2")));
    assert_eq!(first.turn.state, TurnState::Sent);
    assert_eq!(kit.store.claim_next_turn(&id, 1, NOW).await.expect("works"), None, "one is under way");
    assert_eq!(kit.store.sent_turn(&id).await.expect("works"), Some(first));
    kit.store.append_log(&id, 1, vec![item(1, completed("t2", "done"))]).await.expect("works");
    let over = kit.store.turn(&id, &tid("t2")).await.expect("reads");
    assert_eq!(
        (over.turn.state, over.input, over.answer.as_deref()),
        (TurnState::Completed, None, Some(r#"{"answer":"done"}"#))
    );
    let next = kit.store.claim_next_turn(&id, 1, NOW).await.expect("works").expect("one waits");
    assert_eq!(next.turn.id.as_str(), "t1");
    assert!(kit.store.fail_turn(&id, &tid("t1"), "aborted", "stopped by the user", NOW).await.expect("works"));
    assert!(!kit.store.fail_turn(&id, &tid("t1"), "aborted", "again", NOW).await.expect("works"));
    let failed = TurnState::Failed { code: "aborted".to_owned(), error: "stopped by the user".to_owned() };
    assert_eq!(kit.store.turn(&id, &tid("t1")).await.expect("reads").turn.state, failed);
    assert_eq!(kit.store.waiting_turns(&id).await.expect("counts"), 1);
}

#[tokio::test]
async fn many_who_claim_at_once_get_each_turn_once() {
    let kit = Kit::ready().await;
    kit.store.insert_turn(turn("s1", "t1"), 9).await.expect("queues");
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = kit.store.clone();
        claims.spawn(async move { store.claim_next_turn(&sid("s1"), 1, NOW).await });
    }
    let mut claimed = 0;
    while let Some(done) = claims.join_next().await {
        claimed += usize::from(done.expect("runs").expect("works").is_some());
    }
    assert_eq!(claimed, 1);
}

#[tokio::test]
async fn a_repeated_key_answers_with_the_first_turn() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    kit.store.insert_turn(keyed("t1", "k", b"body"), 9).await.expect("queues");
    let log = kit.log("s1").await;
    let again = kit.store.insert_turn(keyed("t2", "k", b"body"), 9).await.expect("repeats");
    assert_eq!(again.turn.id, tid("t1"));
    assert_eq!(kit.log("s1").await, log, "nothing was added");
    let other = kit.store.insert_turn(keyed("t3", "k", b"other"), 9).await;
    assert!(matches!(other, Err(StoreError::IdempotencyMismatch)));
    kit.store.claim_next_turn(&id, 1, NOW).await.expect("works").expect("one waits");
    kit.store.append_log(&id, 1, vec![item(1, completed("t1", "done"))]).await.expect("works");
    kit.store.apply(&id, 1, SessionEvent::End { reason: EndReason::Idle }, NOW).await.expect("ends");
    let late = kit.store.insert_turn(keyed("t4", "k", b"body"), 9).await.expect("repeats after the end");
    assert_eq!(late.answer.as_deref(), Some(r#"{"answer":"done"}"#));
}

#[tokio::test]
async fn the_same_key_many_times_at_once_is_one_turn() {
    let kit = Kit::ready().await;
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..20 {
        let store = kit.store.clone();
        calls.spawn(async move { store.insert_turn(keyed(&format!("t{i}"), "k", b"body"), 99).await });
    }
    let mut ids = std::collections::BTreeSet::new();
    while let Some(done) = calls.join_next().await {
        ids.insert(done.expect("runs").expect("works").turn.id.to_string());
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(kit.store.messages(&sid("s1"), 0, 100).await.expect("reads").len(), 1);
}

#[tokio::test]
async fn only_a_ready_session_takes_turns_and_only_so_many() {
    let kit = Kit::ready().await;
    kit.session("s2").await;
    let early = kit.store.insert_turn(turn("s2", "t1"), 9).await;
    assert!(matches!(early, Err(StoreError::SessionNotReady { state: SessionState::Creating })));
    for i in 0..2 {
        kit.store.insert_turn(turn("s1", &format!("t{i}")), 2).await.expect("queues");
    }
    assert!(matches!(kit.store.insert_turn(turn("s1", "t9"), 2).await, Err(StoreError::TooManyTurns { limit: 2 })));
    assert_eq!(
        kit.store.messages(&sid("s1"), 0, 100).await.expect("reads").len(),
        2,
        "a refused turn leaves no message"
    );
    let unknown = kit.store.insert_turn(turn("nope", "t1"), 9).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { what: "session", .. })));
}

#[tokio::test]
async fn the_end_of_a_session_fails_its_open_turns_in_order() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    for name in ["t1", "t2"] {
        kit.store.insert_turn(turn("s1", name), 9).await.expect("queues");
    }
    kit.store.claim_next_turn(&id, 1, NOW).await.expect("works");
    kit.store.apply(&id, 1, SessionEvent::End { reason: EndReason::Oom }, NOW).await.expect("ends");
    let log = kit.log("s1").await;
    let kinds: Vec<&str> = log.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(kinds[2..], ["turn.queued", "turn.queued", "turn.failed", "turn.failed", "session.state"]);
    assert!(log[4].contains("t1") && log[5].contains("t2"), "{log:#?}");
    assert_eq!(kit.store.waiting_turns(&id).await.expect("counts"), 0);
    assert_eq!(kit.store.claim_next_turn(&id, 1, NOW).await.expect("works"), None);
}

#[tokio::test]
async fn open_turns_can_be_failed_by_hand() {
    let kit = Kit::ready().await;
    kit.store.insert_turn(turn("s1", "t1"), 9).await.expect("queues");
    let failed = kit.store.fail_open_turns(&sid("s1"), "c", "e", NOW).await.expect("works");
    assert_eq!(failed, [tid("t1")]);
    assert_eq!(kit.store.fail_open_turns(&sid("s1"), "c", "e", NOW).await.expect("works"), []);
    assert_eq!(kit.log("s1").await[3], r#"4 turn.failed {"code":"c","error":"e","turn_id":"t1"}"#);
}

#[tokio::test]
async fn the_first_prompt_waits_for_the_session_and_its_answer_is_the_response() {
    let kit = Kit::with_agent().await;
    let id = sid("s1");
    let new = lap_store::NewSession {
        session: session("s1", "a1"),
        stubs: [].into(),
        first_turn: Some(turn("s1", "t1")),
        boot_token: "of-the-first".into(),
        budget: Budget::default(),
    };
    kit.store.insert_session(new).await.expect("inserts");
    assert_eq!(kit.store.claim_next_turn(&id, 1, NOW).await.expect("works"), None, "not before it is ready");
    kit.store.apply(&id, 1, SessionEvent::GuestReady, NOW).await.expect("works");
    kit.store.insert_turn(turn("s1", "t2"), 9).await.expect("queues");
    for (seq, name) in [(1, "t1"), (2, "t2")] {
        kit.store.claim_next_turn(&id, 1, NOW).await.expect("works").expect("one waits");
        kit.store.append_log(&id, 1, vec![item(seq, completed(name, name))]).await.expect("works");
    }
    assert_eq!(kit.store.session(&id).await.expect("reads").response.as_deref(), Some("t1"));
}

#[tokio::test]
async fn a_replaced_sandbox_claims_nothing() {
    let kit = Kit::ready().await;
    kit.store.apply(&sid("s1"), 1, SessionEvent::Restart, NOW).await.expect("works");
    let stale = kit.store.claim_next_turn(&sid("s1"), 1, NOW).await;
    assert!(matches!(stale, Err(StoreError::StaleSandbox { current: 2 })));
}
