//! The sandbox's log is stored exactly once, whatever is sent again and whoever sends it.

use lap_domain::session::{EndReason, Phase, SessionEvent, SessionState};
use lap_domain::time::Timestamp;
use lap_store::{EgressLine, LogItem, StoreError, Write};

use crate::kit::*;

fn numbered(n: u64) -> LogItem {
    item(n, Write::Event(event("e", &n.to_string())))
}

fn egress(host: &str) -> Write {
    Write::Egress(EgressLine {
        method: "GET".to_owned(),
        host: host.to_owned(),
        path: "/".to_owned(),
        status: None,
        bytes_out: u64::MAX,
        bytes_in: 0,
        duration_ms: 0,
        credentials: vec![],
        verdict: "denied".to_owned(),
        detail: Some("why".to_owned()),
    })
}

#[tokio::test]
async fn entries_sent_again_are_stored_once() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    let sent = [1..4, 1..4, 2..6, 6..7, 1..7, 3..8];
    for range in sent {
        let done = kit.store.append_log(&id, 1, range.clone().map(numbered).collect()).await.expect("works");
        assert!(done.seq >= range.end - 1);
    }
    let data: Vec<String> = kit.log("s1").await[2..].to_vec();
    let expect: Vec<String> = (1..8).map(|n| format!("{} e {n}", n + 2)).collect();
    assert_eq!(data, expect);
    assert_eq!(kit.store.log_seq(&id, 1).await.expect("reads"), 7);
}

#[tokio::test]
async fn a_sidecar_and_its_late_twin_at_once_store_each_entry_once() {
    let kit = Kit::ready().await;
    let mut links = tokio::task::JoinSet::new();
    for from in [1, 1, 1, 1] {
        let store = kit.store.clone();
        links.spawn(async move {
            for start in (from..200).step_by(7) {
                store.append_log(&sid("s1"), 1, (start..start + 7).map(numbered).collect()).await.expect("works");
            }
        });
    }
    while let Some(done) = links.join_next().await {
        done.expect("runs");
    }
    let log = kit.log("s1").await;
    let expect: Vec<String> = (1..log.len() as u64 - 1).map(|n| format!("{} e {n}", n + 2)).collect();
    assert_eq!(log[2..], expect);
}

#[tokio::test]
async fn a_whole_turn() {
    let kit = Kit::with_agent().await;
    let id = sid("s1");
    kit.session("s1").await;
    let boot = vec![
        item(1, Write::Phase { phase: Phase::CloningRepo, detail: None }),
        LogItem {
            seq: 2,
            at: NOW,
            writes: vec![
                Write::Repo { branch: Some("main".to_owned()), commit: Some("abc".to_owned()) },
                Write::HarnessSession { id: "h1".to_owned() },
                Write::Move(SessionEvent::GuestReady),
            ],
        },
    ];
    let ready = kit.store.append_log(&id, 1, boot).await.expect("works");
    assert_eq!((ready.session.state, ready.session.commit.as_deref()), (SessionState::Ready, Some("abc")));
    assert_eq!((ready.seq, ready.events, ready.refused.len()), (2, vec![2, 3], 0));
    kit.store.insert_turn(turn("s1", "t1"), 9).await.expect("queues");
    kit.store.claim_next_turn(&id, 1, NOW).await.expect("works").expect("one waits");
    let message = Write::Message {
        turn_id: tid("t1"),
        id: "m1".to_owned(),
        role: "assistant".to_owned(),
        data: r#"{"text":"hi"}"#.to_owned(),
        event: event("message.completed", "{}"),
    };
    let during = vec![
        item(3, Write::TurnEvent { turn_id: tid("t1"), event: event("turn.started", "{}") }),
        item(4, message.clone()),
        item(5, egress("x.example:443")),
        item(6, metered("claude", 10, Some(0.5))),
        LogItem { at: Timestamp(7_000), ..item(7, completed("t1", "hi")) },
    ];
    let done = kit.store.append_log(&id, 1, during.clone()).await.expect("works");
    assert!(done.turn_over);
    assert_eq!(done.session.last_seen_at, Timestamp(7_000));
    let again = kit.store.append_log(&id, 1, during).await.expect("works");
    assert_eq!((again.turn_over, again.events.len()), (false, 0));
    assert_eq!(kit.used("s1").await, ["claude: 1 calls 10 in 0 out $0.5"], "counted once");
    let roles: Vec<_> = kit.store.messages(&id, 0, 10).await.expect("reads").into_iter().map(|it| it.role).collect();
    assert_eq!(roles, ["user", "assistant"]);
    let kinds: Vec<String> =
        kit.log("s1").await[3..].iter().filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect();
    assert_eq!(kinds, ["turn.queued", "turn.started", "message.completed", "turn.completed"]);
    let record = kit.store.interceptions_after(&id, 0, 10).await.expect("reads");
    assert_eq!((record.len(), record[0].id, record[0].line.bytes_out), (1, 1, i64::MAX as u64));
}

#[tokio::test]
async fn what_a_hostile_guest_says_out_of_turn_is_dropped() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    for name in ["t1", "t2"] {
        kit.store.insert_turn(turn("s1", name), 9).await.expect("queues");
    }
    kit.store.claim_next_turn(&id, 1, NOW).await.expect("works").expect("one waits");
    let log = kit.log("s1").await;
    let forged = |id: &str, turn: &str| Write::Message {
        turn_id: tid(turn),
        id: id.to_owned(),
        role: "assistant".to_owned(),
        data: "forged".to_owned(),
        event: event("forged", "{}"),
    };
    let hostile = vec![
        item(1, Write::Move(SessionEvent::GuestReady)),
        item(2, Write::Phase { phase: Phase::Ready, detail: None }),
        item(3, completed("t2", "not its turn")),
        item(4, completed("unknown", "no turn")),
        item(5, Write::TurnEvent { turn_id: tid("t2"), event: event("delta", "{}") }),
        item(
            6,
            Write::TurnFailed {
                turn_id: tid("t2"),
                code: "c".to_owned(),
                error: "e".to_owned(),
                event: event("f", "{}"),
            },
        ),
        item(7, forged("m", "t2")),
        item(8, metered("m", u64::MAX, Some(f64::NAN))),
        item(9, metered("m", 1, Some(-1.0))),
    ];
    let done = kit.store.append_log(&id, 1, hostile).await.expect("the log goes on");
    assert_eq!((done.seq, done.refused.len(), done.turn_over), (9, 1, false));
    assert_eq!(kit.log("s1").await, log);
    assert_eq!(kit.store.waiting_turns(&id).await.expect("counts"), 2);
    assert_eq!(kit.used("s1").await, ["m: 2 calls 1000000000001 in 0 out"], "clamped");
    let overwrite = vec![item(10, forged("message of t1", "t1"))];
    kit.store.append_log(&id, 1, overwrite).await.expect("the log goes on");
    let messages = kit.store.messages(&id, 0, 10).await.expect("reads");
    assert_eq!(messages[0].data, r#"{"said":"t1"}"#, "the user's words stay the user's");
}

#[tokio::test]
async fn a_message_sent_again_replaces_itself() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    kit.store.insert_turn(turn("s1", "t1"), 9).await.expect("queues");
    kit.store.claim_next_turn(&id, 1, NOW).await.expect("works").expect("one waits");
    let message = |seq, data: &str| {
        item(
            seq,
            Write::Message {
                turn_id: tid("t1"),
                id: "m".to_owned(),
                role: "assistant".to_owned(),
                data: data.to_owned(),
                event: event("message.completed", "{}"),
            },
        )
    };
    kit.store.append_log(&id, 1, vec![message(1, "half"), message(2, "whole")]).await.expect("works");
    let messages = kit.store.messages(&id, 1, 10).await.expect("reads");
    assert_eq!(messages.iter().map(|it| it.data.as_str()).collect::<Vec<_>>(), ["whole"]);
}

#[tokio::test]
async fn of_a_replaced_sandbox_only_the_egress_record_counts() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    kit.store.append_log(&id, 1, vec![numbered(1)]).await.expect("works");
    kit.store.apply(&id, 1, SessionEvent::Restart, NOW).await.expect("works");
    let log = kit.log("s1").await;
    let late = vec![numbered(2), item(3, egress("late.example:443")), item(4, Write::Move(SessionEvent::GuestReady))];
    let done = kit.store.append_log(&id, 1, late).await.expect("works");
    assert_eq!((done.seq, done.session.state), (4, SessionState::Creating));
    assert_eq!(kit.log("s1").await, log);
    assert_eq!(kit.store.interceptions(&id, 10, 0).await.expect("reads").total, 1);
    assert_eq!(kit.store.log_seq(&id, 2).await.expect("reads"), 0);
    kit.store.append_log(&id, 2, vec![numbered(1)]).await.expect("the new one counts from 1");
    assert!(matches!(kit.store.append_log(&id, 3, vec![numbered(1)]).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn the_end_of_the_sandbox_ends_the_session_and_its_turn() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    kit.store.insert_turn(turn("s1", "t1"), 9).await.expect("queues");
    kit.store.claim_next_turn(&id, 1, NOW).await.expect("works").expect("one waits");
    let exit = vec![
        item(1, Write::Move(SessionEvent::End { reason: EndReason::SandboxLost })),
        item(2, completed("t1", "too late")),
    ];
    let done = kit.store.append_log(&id, 1, exit).await.expect("works");
    assert_eq!(done.session.state, SessionState::Dead { reason: EndReason::SandboxLost });
    assert!(done.turn_over);
    assert_eq!(kit.store.turn(&id, &tid("t1")).await.expect("reads").answer, None);
}
