//! Sessions move only as the table of states says, and each move stands in the log.

use std::collections::BTreeMap;

use lap_domain::session::{EndReason, Phase, Session, SessionEvent, SessionState};
use lap_domain::time::Timestamp;
use lap_store::{Counts, EgressLine, NewSession, SessionFilter, StoreError, Write};

use crate::kit::*;

fn stubs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, stub)| ((*key).to_owned(), (*stub).to_owned())).collect()
}

#[tokio::test]
async fn a_session_comes_back_as_it_went_in() {
    let kit = Kit::with_agent().await;
    let full = Session {
        title: Some("t".to_owned()),
        branch: Some("dev".to_owned()),
        harness_session_id: Some("h".to_owned()),
        ..session("s1", "a1")
    };
    let new = NewSession {
        session: full.clone(),
        stubs: stubs(&[("K", "stub_k")]),
        first_turn: Some(turn("s1", "t1")),
        boot_token: "of-the-first".into(),
        budget: Budget::default(),
    };
    let stored = kit.store.insert_session(new).await.expect("inserts");
    let expect = Session { title_preview: Some("preview t1".to_owned()), ..full };
    assert_eq!(stored, expect);
    assert_eq!(kit.store.session(&sid("s1")).await.expect("reads"), expect);
    assert_eq!(kit.log("s1").await, [r#"1 session.state {"status":"creating"}"#, r#"2 turn.queued {"turn_id":"t1"}"#]);
    assert_eq!(kit.store.messages(&sid("s1"), 0, 10).await.expect("reads")[0].data, r#"{"said":"t1"}"#);
    assert_eq!(kit.store.stubs(&sid("s1")).await.expect("reads"), stubs(&[("K", "stub_k")]));
    assert_eq!(kit.store.log_seq(&sid("s1"), 1).await.expect("reads"), 0);
    let orphan = NewSession {
        session: session("s2", "nope"),
        stubs: BTreeMap::new(),
        first_turn: None,
        boot_token: "of-the-first".into(),
        budget: Budget::default(),
    };
    assert!(matches!(kit.store.insert_session(orphan).await, Err(StoreError::NotFound { what: "agent", .. })));
}

#[tokio::test]
async fn a_life_with_its_events() {
    let kit = Kit::with_agent().await;
    kit.session("s1").await;
    let id = sid("s1");
    assert!(kit.store.set_phase(&id, 1, Phase::CreatingSandbox, None, NOW).await.expect("works"));
    assert!(kit.store.set_phase(&id, 1, Phase::CloningRepo, Some("50 %".to_owned()), NOW).await.expect("works"));
    assert!(!kit.store.set_phase(&id, 1, Phase::InjectingFiles, None, NOW).await.expect("works"), "only forward");
    let ready = kit.store.apply(&id, 1, SessionEvent::GuestReady, Timestamp(2_000)).await.expect("works");
    assert_eq!((&ready.state, ready.phase, &ready.phase_detail), (&SessionState::Ready, Some(Phase::Ready), &None));
    assert!(!kit.store.set_phase(&id, 1, Phase::Ready, None, NOW).await.expect("works"), "only while creating");
    kit.store.apply(&id, 1, SessionEvent::End { reason: EndReason::Oom }, NOW).await.expect("works");
    let again = kit.store.apply(&id, 1, SessionEvent::Restart, NOW).await.expect("works");
    assert_eq!((again.incarnation, again.phase, again.sandbox_name()), (2, None, "s1-2".to_owned()));
    kit.store
        .apply(&id, 2, SessionEvent::BootFailed { reason: "no such branch".to_owned() }, NOW)
        .await
        .expect("works");
    assert_eq!(
        kit.log("s1").await,
        [
            r#"1 session.state {"status":"creating"}"#,
            r#"2 session.phase {"phase":"creating_sandbox"}"#,
            r#"3 session.phase {"detail":"50 %","phase":"cloning_repo"}"#,
            r#"4 session.state {"status":"ready"}"#,
            r#"5 session.state {"end_reason":"oom","status":"dead"}"#,
            r#"6 session.state {"status":"creating"}"#,
            r#"7 session.state {"failure_reason":"no such branch","status":"failed"}"#,
        ]
    );
    let last = kit.store.session(&id).await.expect("reads");
    assert_eq!(last.state, SessionState::Failed { reason: "no such branch".to_owned() });
}

#[tokio::test]
async fn the_events_of_the_store_are_events_of_the_wire() {
    let kit = Kit::ready().await;
    kit.session("s2").await;
    kit.store.set_phase(&sid("s2"), 1, Phase::CloningRepo, Some("x".to_owned()), NOW).await.expect("works");
    kit.store.apply(&sid("s2"), 1, SessionEvent::BootFailed { reason: "r".to_owned() }, NOW).await.expect("works");
    kit.store.append_event(&sid("s1"), NOW, event("error", r#"{"code":"c","error":"e"}"#)).await.expect("works");
    let mut queued = turn("s1", "t1");
    queued.event = event("turn.started", r#"{"turn_id":"t1"}"#);
    kit.store.insert_turn(queued, 9).await.expect("queues");
    kit.store.apply(&sid("s1"), 1, SessionEvent::End { reason: EndReason::Idle }, NOW).await.expect("works");
    for id in ["s1", "s2"] {
        for event in kit.store.events(&sid(id), 0, 100).await.expect("reads") {
            let json = format!(r#"{{"type":"{}","data":{}}}"#, event.kind, event.data);
            let parsed: Result<lap_api::event::EventKind, _> = serde_json::from_str(&json);
            assert!(parsed.is_ok(), "{json}: {parsed:?}");
        }
    }
}

#[tokio::test]
async fn an_illegal_move_changes_nothing() {
    let kit = Kit::ready().await;
    let (before, log) = (kit.store.session(&sid("s1")).await.expect("reads"), kit.log("s1").await);
    let illegal = kit.store.apply(&sid("s1"), 1, SessionEvent::GuestReady, Timestamp(9_000)).await;
    assert!(matches!(illegal, Err(StoreError::Illegal(_))));
    let stale = kit.store.apply(&sid("s1"), 7, SessionEvent::End { reason: EndReason::Idle }, NOW).await;
    assert!(matches!(stale, Err(StoreError::StaleSandbox { current: 1 })));
    let unknown = kit.store.apply(&sid("s2"), 1, SessionEvent::Restart, NOW).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { what: "session", .. })));
    assert_eq!(kit.store.session(&sid("s1")).await.expect("reads"), before);
    assert_eq!(kit.log("s1").await, log);
}

#[tokio::test]
async fn lists_filter_and_page_newest_first() {
    let kit = Kit::with_agent().await;
    kit.store.insert_agent(&agent("a2")).await.expect("inserts");
    for (id, of, at) in [("s1", "a1", 1), ("s2", "a1", 2), ("s3", "a2", 3)] {
        let session = Session { created_at: Timestamp(at), ..session(id, of) };
        kit.store
            .insert_session(NewSession {
                session,
                stubs: [].into(),
                first_turn: None,
                boot_token: "of-the-first".into(),
                budget: Budget::default(),
            })
            .await
            .expect("inserts");
    }
    kit.store.apply(&sid("s1"), 1, SessionEvent::GuestReady, NOW).await.expect("works");
    let list = async |agent: Option<&str>, status: Option<&str>, limit, offset| {
        let filter = SessionFilter { agent_id: agent.map(aid), status: status.map(str::to_owned), limit, offset };
        let page = kit.store.list_sessions(&filter).await.expect("lists");
        (page.rows.iter().map(|it| it.id.to_string()).collect::<Vec<_>>().join(" "), page.total)
    };
    assert_eq!(list(None, None, 50, 0).await, ("s3 s2 s1".to_owned(), 3));
    assert_eq!(list(None, None, 1, 1).await, ("s2".to_owned(), 3));
    assert_eq!(list(Some("a1"), None, 50, 0).await, ("s2 s1".to_owned(), 2));
    assert_eq!(list(Some("a1"), Some("ready"), 50, 0).await, ("s1".to_owned(), 1));
    assert_eq!(list(None, Some("dead"), 50, 0).await, (String::new(), 0));
    let live = kit.store.live_sessions().await.expect("lists");
    assert_eq!(live.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["s1", "s2", "s3"]);
    let counts = Counts { agents: 2, creating: 2, ready: 1, failed: 0, dead: 0 };
    assert_eq!(kit.store.counts().await.expect("counts"), counts);
}

#[tokio::test]
async fn idle_is_ready_quiet_and_without_work() {
    let kit = Kit::ready().await;
    kit.session("s2").await;
    let idle = async |at| kit.store.idle_sessions(Timestamp(at)).await.expect("lists").len();
    assert_eq!((idle(10_999).await, idle(11_000).await), (0, 1));
    kit.store.touch(&sid("s1"), Timestamp(5_000)).await.expect("works");
    kit.store.touch(&sid("s1"), Timestamp(4_000)).await.expect("works");
    assert_eq!((idle(14_999).await, idle(15_000).await), (0, 1));
    kit.store.insert_turn(turn("s1", "t1"), 9).await.expect("queues");
    assert_eq!(idle(100_000).await, 0);
    kit.store.fail_turn(&sid("s1"), &tid("t1"), "aborted", "x", NOW).await.expect("works");
    assert_eq!(idle(100_000).await, 1);
}

#[tokio::test]
async fn small_edits() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    assert_eq!(kit.store.set_title(&id, Some("new".to_owned())).await.expect("works").title.as_deref(), Some("new"));
    kit.store.set_repo(&id, Some("main".to_owned()), Some("abc".to_owned())).await.expect("works");
    kit.store.set_repo(&id, None, None).await.expect("works");
    kit.store.set_session_env_keys(&id, vec!["X".to_owned()]).await.expect("works");
    let session = kit.store.session(&id).await.expect("reads");
    assert_eq!((session.branch.as_deref(), session.commit.as_deref()), (Some("main"), Some("abc")));
    assert_eq!(session.session_env_keys, ["X"]);
    assert!(matches!(kit.store.touch(&sid("nope"), NOW).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn stubs_keep_their_text() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    kit.store.add_stubs(&id, stubs(&[("A", "stub_a1")])).await.expect("works");
    let all = kit.store.add_stubs(&id, stubs(&[("A", "stub_a2"), ("B", "stub_b1")])).await.expect("works");
    assert_eq!(all, stubs(&[("A", "stub_a1"), ("B", "stub_b1")]));
}

#[tokio::test]
async fn boot_tokens_belong_to_one_sandbox() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    let matches = async |number, token: &str| kit.store.boot_token_matches(&id, number, token).await.expect("works");
    assert!(matches(1, "of-the-first").await && !matches(1, "").await, "it came with the session");
    kit.store.set_boot_token(&id, 1, "first").await.expect("works");
    kit.store.apply(&id, 1, SessionEvent::Restart, NOW).await.expect("works");
    assert!(!matches(2, "first").await);
    kit.store.set_boot_token(&id, 2, "second").await.expect("works");
    assert!(matches(2, "second").await && matches(1, "first").await && !matches(2, "first").await);
    assert!(matches!(kit.store.set_boot_token(&id, 3, "x").await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn deleting_erases_all_but_the_egress_record() {
    let kit = Kit::ready().await;
    let id = sid("s1");
    kit.store.insert_turn(turn("s1", "t1"), 9).await.expect("queues");
    kit.store.add_stubs(&id, stubs(&[("A", "stub_a1")])).await.expect("works");
    kit.store.set_boot_token(&id, 1, "token").await.expect("works");
    kit.store.append_log(&id, 1, vec![item(1, Write::Egress(line("x.example:443")))]).await.expect("works");
    let mut bell = kit.store.subscribe(&id);
    let before = kit.store.delete_session(&id, NOW).await.expect("works");
    assert_eq!((&before.state, before.sandbox_name()), (&SessionState::Ready, "s1-1".to_owned()));
    assert!(bell.changed().await.is_err(), "the bell is closed");
    assert!(matches!(kit.store.session(&id).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(kit.store.event_bounds(&id).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(kit.store.turn(&id, &tid("t1")).await, Err(StoreError::NotFound { what: "turn", .. })));
    assert!(matches!(kit.store.append_event(&id, NOW, event("x", "{}")).await, Err(StoreError::NotFound { .. })));
    assert_eq!(kit.log("s1").await, Vec::<String>::new());
    assert_eq!(kit.store.messages(&id, 0, 10).await.expect("reads"), []);
    assert!(kit.store.stubs(&id).await.expect("reads").is_empty());
    assert!(!kit.store.boot_token_matches(&id, 1, "token").await.expect("works"));
    assert!(kit.store.live_sessions().await.expect("lists").is_empty());
    let late = kit.store.append_log(
        &id,
        1,
        vec![item(2, Write::Event(event("late", "{}"))), item(3, Write::Egress(line("y.example:443")))],
    );
    assert_eq!(late.await.expect("works").events, Vec::<u64>::new());
    let page = kit.store.interceptions(&id, 10, 0).await.expect("reads");
    let hosts: Vec<_> = page.rows.iter().map(|record| record.line.host.as_str()).collect();
    assert_eq!((hosts, page.total), (vec!["y.example:443", "x.example:443"], 2));
    assert_eq!(kit.store.delete_session(&id, NOW).await.expect("again").id, id);
    assert!(matches!(kit.store.delete_session(&sid("nope"), NOW).await, Err(StoreError::NotFound { .. })));
}

fn line(host: &str) -> EgressLine {
    EgressLine {
        method: "GET".to_owned(),
        host: host.to_owned(),
        path: "/".to_owned(),
        status: Some(200),
        bytes_out: 1,
        bytes_in: 2,
        duration_ms: 3,
        credentials: vec!["A".to_owned()],
        verdict: "allowed".to_owned(),
        detail: None,
    }
}
