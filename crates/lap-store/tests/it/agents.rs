//! Agents: everything comes back as it went in.

use lap_domain::agent::Agent;
use lap_domain::files::SandboxFile;
use lap_domain::ids::SkillId;
use lap_domain::session::{EndReason, SessionEvent, SessionState};
use lap_domain::time::Timestamp;
use lap_store::{AgentFilter, AgentSort, Order, StoreError};

use crate::kit::*;

fn full(id: &str) -> Agent {
    let file = |name: &str, content: Vec<u8>| SandboxFile {
        name: name.to_owned(),
        sandbox_path: format!("~/{name}"),
        size: content.len() as u64,
        content,
        content_type: "text/plain".to_owned(),
    };
    Agent {
        prompt: Some("Be brief.".to_owned()),
        repo_url: Some("https://git.example/a".to_owned()),
        mcp_servers: vec!["https://m.example/".to_owned()],
        mcp_headers: [("https://m.example/".to_owned(), [("x-a".to_owned(), "${A}".to_owned())].into())].into(),
        plain_env_vars: vec!["EMPTY".to_owned()],
        env_var_hosts: [("A".to_owned(), vec!["a.example".to_owned()])].into(),
        attached_skill_ids: vec![SkillId::new("z"), SkillId::new("b")],
        allow_out: vec!["x.example".to_owned()],
        deny_out: vec!["y.example".to_owned()],
        sandbox_files: vec![file("one", b"first".to_vec()), file("empty", Vec::new()), file("big", vec![7; 3_000_000])],
        image: Some("host".to_owned()),
        requirements: Some("requests".to_owned()),
        ..agent(id)
    }
}

#[tokio::test]
async fn an_agent_comes_back_as_it_went_in() {
    let kit = Kit::new().await;
    kit.store.insert_agent(&full("a1")).await.expect("inserts");
    assert_eq!(kit.store.agent(&aid("a1")).await.expect("reads"), full("a1"));
    assert!(matches!(kit.store.insert_agent(&full("a1")).await, Err(StoreError::Conflict(_))));
    assert!(matches!(kit.store.agent(&aid("a2")).await, Err(StoreError::NotFound { what: "agent", .. })));
}

#[tokio::test]
async fn an_edit_is_whole_or_nothing() {
    let kit = Kit::new().await;
    kit.store.insert_agent(&full("a1")).await.expect("inserts");
    let refused = kit.store.update_agent(&aid("a1"), |_| Err::<Agent, _>("no")).await.expect("the store works");
    assert_eq!(refused, Err("no"));
    assert_eq!(kit.store.agent(&aid("a1")).await.expect("reads"), full("a1"));
    let edited = |agent: Agent| Agent {
        prompt: None,
        attached_skill_ids: vec![SkillId::new("b")],
        sandbox_files: agent.sandbox_files[1..2].to_vec(),
        updated_at: Timestamp(5_000),
        ..agent
    };
    let after = kit.store.update_agent(&aid("a1"), |agent| Ok::<_, ()>(edited(agent))).await.expect("the store works");
    assert_eq!(after, Ok(edited(full("a1"))));
    assert_eq!(kit.store.agent(&aid("a1")).await.expect("reads"), edited(full("a1")));
    let gone = kit.store.update_agent(&aid("a2"), Ok::<_, ()>).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn edits_at_once_do_not_lose_each_other() {
    let kit = Kit::with_agent().await;
    let mut edits = tokio::task::JoinSet::new();
    for i in 0..20 {
        let store = kit.store.clone();
        edits.spawn(async move {
            let add = |mut agent: Agent| {
                agent.allow_out.push(format!("h{i}.example"));
                Ok::<_, ()>(agent)
            };
            store.update_agent(&aid("a1"), add).await
        });
    }
    while let Some(done) = edits.join_next().await {
        done.expect("runs").expect("the store works").expect("is accepted");
    }
    assert_eq!(kit.store.agent(&aid("a1")).await.expect("reads").allow_out.len(), 20);
}

async fn names(kit: &Kit, filter: AgentFilter) -> (Vec<String>, u64) {
    let page = kit.store.list_agents(&filter).await.expect("lists");
    (page.rows.into_iter().map(|row| row.agent.id.to_string()).collect(), page.total)
}

fn filter(sort: AgentSort, order: Order) -> AgentFilter {
    AgentFilter { search: None, sort, order, limit: 50, offset: 0 }
}

#[tokio::test]
async fn lists_sort_search_and_page() {
    let kit = Kit::new().await;
    for (id, name, harness, at) in
        [("a1", Some("beta"), "codex", 3), ("a2", Some("Alpha_1"), "opencode", 1), ("a3", None, "aider", 2)]
    {
        let made = Agent {
            name: name.map(str::to_owned),
            harness_id: harness.to_owned(),
            created_at: Timestamp(at),
            ..full(id)
        };
        kit.store.insert_agent(&made).await.expect("inserts");
    }
    for (id, of) in [("s1", "a2"), ("s2", "a2"), ("s3", "a1")] {
        let new = lap_store::NewSession {
            session: session(id, of),
            stubs: [].into(),
            first_turn: None,
            boot_token: "of-the-first".into(),
            budget: Budget::default(),
        };
        kit.store.insert_session(new).await.expect("inserts");
    }
    let end = SessionEvent::End { reason: EndReason::Stopped };
    kit.store.apply(&sid("s3"), 1, end, NOW).await.expect("ends");

    for (sort, ascending) in [
        (AgentSort::CreatedAt, ["a2", "a3", "a1"]),
        (AgentSort::Name, ["a3", "a2", "a1"]),
        (AgentSort::HarnessId, ["a3", "a1", "a2"]),
        (AgentSort::Sessions, ["a3", "a1", "a2"]),
    ] {
        let mut expect = ascending.map(str::to_owned).to_vec();
        assert_eq!(names(&kit, filter(sort, Order::Asc)).await, (expect.clone(), 3), "{sort:?}");
        expect.reverse();
        assert_eq!(names(&kit, filter(sort, Order::Desc)).await, (expect, 3), "{sort:?}");
    }
    let search = |text: &str| AgentFilter { search: Some(text.to_owned()), ..filter(AgentSort::Name, Order::Asc) };
    assert_eq!(names(&kit, search("ALPHA")).await, (vec!["a2".to_owned()], 1));
    assert_eq!(names(&kit, search("_")).await, (vec!["a2".to_owned()], 1));
    assert_eq!(names(&kit, search("aid")).await, (vec!["a3".to_owned()], 1));
    assert_eq!(names(&kit, search("%")).await, (vec![], 0));
    assert_eq!(names(&kit, search("a")).await.1, 3);
    let page = AgentFilter { limit: 1, offset: 1, ..filter(AgentSort::CreatedAt, Order::Asc) };
    assert_eq!(names(&kit, page).await, (vec!["a3".to_owned()], 3));

    let rows = kit.store.list_agents(&filter(AgentSort::CreatedAt, Order::Asc)).await.expect("lists").rows;
    let counts: Vec<_> = rows.iter().map(|row| (row.session_count, row.has_active_session)).collect();
    assert_eq!(counts, [(2, true), (0, false), (1, false)]);
    let files = &rows[0].agent.sandbox_files;
    assert!(files.iter().all(|file| file.content.is_empty()), "lists carry no contents");
    assert_eq!(files.iter().map(|file| file.size).collect::<Vec<_>>(), [5, 0, 3_000_000]);
}

#[tokio::test]
async fn deleting_ends_the_live_sessions_and_keeps_their_history() {
    let kit = Kit::ready().await;
    kit.session("s2").await;
    kit.session("s3").await;
    kit.store.apply(&sid("s3"), 1, SessionEvent::End { reason: EndReason::Idle }, NOW).await.expect("ends");
    kit.store.insert_turn(turn("s1", "t1"), 9).await.expect("queues");
    let mut bell = kit.store.subscribe(&sid("s1"));
    let ended = kit.store.delete_agent(&aid("a1"), Timestamp(2_000)).await.expect("deletes");
    assert_eq!(ended.iter().map(|session| session.id.as_str()).collect::<Vec<_>>(), ["s1", "s2"]);
    assert!(ended.iter().all(|it| it.state == SessionState::Dead { reason: EndReason::AgentDeleted }));
    bell.changed().await.expect("rings");
    assert_eq!(
        kit.log("s1").await[3..],
        [
            r#"4 turn.failed {"code":"session_ended","error":"the session ended (agent_deleted) before this turn was answered","turn_id":"t1"}"#,
            r#"5 session.state {"end_reason":"agent_deleted","status":"dead"}"#,
        ]
    );
    assert_eq!(
        kit.store.session(&sid("s3")).await.expect("reads").state,
        SessionState::Dead { reason: EndReason::Idle }
    );
    assert!(matches!(kit.store.agent(&aid("a1")).await, Err(StoreError::NotFound { .. })));
    let history = kit.store.agent_or_deleted(&aid("a1")).await.expect("reads");
    assert_eq!((history.name.as_deref(), history.env_vars.len()), (Some("Agent a1"), 0));
    assert_eq!(names(&kit, filter(AgentSort::Name, Order::Asc)).await, (vec![], 0));
    assert_eq!(kit.store.delete_agent(&aid("a1"), NOW).await.expect("again"), []);
    assert!(matches!(kit.store.delete_agent(&aid("nope"), NOW).await, Err(StoreError::NotFound { .. })));
    let new = lap_store::NewSession {
        session: session("s9", "a1"),
        stubs: [].into(),
        first_turn: None,
        boot_token: "of-the-first".into(),
        budget: Budget::default(),
    };
    assert!(matches!(kit.store.insert_session(new).await, Err(StoreError::AgentDeleted)));
    let restart = kit.store.apply(&sid("s3"), 1, SessionEvent::Restart, NOW).await;
    assert!(matches!(restart, Err(StoreError::AgentDeleted)));
}
