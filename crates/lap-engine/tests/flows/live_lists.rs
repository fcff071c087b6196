//! The lists of a live session: stored, sent, acknowledged when the vault has them, kept through restarts.

use lap_api::link::LogEntry;
use lap_domain::agent::{AgentEdit, NewAgent};
use lap_domain::egress::ListsEdit;
use lap_domain::ids::{AgentId, SessionId};
use lap_engine::{EngineError, NewSession};

use crate::kit::{Memory, World, soon};

fn list(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}

fn allow(entries: &[&str]) -> ListsEdit {
    ListsEdit { allow_out: Some(list(entries)), deny_out: None }
}

async fn agent(world: &World) -> AgentId {
    let new = NewAgent {
        model: Some("test/model".into()),
        harness_id: Some("shell".into()),
        allow_out: list(&["a.com"]),
        deny_out: list(&["deny.a.com"]),
        ..NewAgent::default()
    };
    world.engine.create_agent(new).await.expect("an agent").agent.id
}

/// The session's lists as `allow | deny`, and whether its vault has them.
async fn check_lists(world: &World, session: &SessionId, expect: &str, in_force: bool) {
    let lists = world.engine.session(session).await.expect("the session").lists;
    let shown = format!("{} | {}", lists.allow_out.join(" "), lists.deny_out.join(" "));
    assert_eq!((shown.as_str(), lists.are_in_force()), (expect, in_force));
}

async fn changes_told(world: &World, session: &SessionId) -> usize {
    world.log(session).await.iter().filter(|(_, name)| name == "egress.changed").count()
}

#[tokio::test]
async fn a_change_is_answered_when_the_vault_has_it() {
    let world = World::start().await;
    let agent = agent(&world).await;
    let session = world.session(&agent, NewSession::default()).await;
    check_lists(&world, &session, "a.com | deny.a.com", true).await;
    let spec = world.sandbox().await;
    let memory = Memory { egress_revision: Some(0), ..Memory::default() };
    let mut sidecar = world.dial(&spec, memory).await;
    assert_eq!(sidecar.boot().await.grants.allow_out, ["a.com"]);
    sidecar.report(lap_api::link::Report::Ready).await;
    world.state(&session, "ready").await;
    let change = tokio::spawn({
        let (engine, session) = (world.engine.clone(), session.clone());
        async move { engine.change_egress(&session, allow(&["b.com"])).await }
    });
    assert_eq!(sidecar.lists().await, (1, list(&["b.com"]), list(&["deny.a.com"])), "what is not given stays");
    check_lists(&world, &session, "b.com | deny.a.com", false).await;
    assert!(!change.is_finished(), "nobody is told that it holds before it does");
    sidecar.entry(LogEntry::EgressInForce { revision: 1 }).await;
    let view = soon("the answer", change).await.expect("no panic").expect("it holds");
    assert_eq!(view.lists.allow_out, ["b.com"]);
    check_lists(&world, &session, "b.com | deny.a.com", true).await;
    // A confirmation that comes again is no news.
    sidecar.entry(LogEntry::EgressInForce { revision: 1 }).await;
    assert_eq!(changes_told(&world, &session).await, 1);
    world.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_is_away_gets_the_newest_lists_when_it_calls() {
    let mut world = World::start().await;
    let agent = agent(&world).await;
    let (session, sidecar) = world.ready(&agent, NewSession::default()).await;
    let spec = world.sandbox().await;
    let memory = Memory { egress_revision: Some(0), ..sidecar.down() };
    let change = |edit: ListsEdit| {
        let (engine, session) = (world.engine.clone(), session.clone());
        tokio::spawn(async move { engine.change_egress(&session, edit).await })
    };
    // Nobody answers for the vault: the caller hears that the old lists may still hold.
    let pending = soon("the answer", change(allow(&["b.com"]))).await.expect("no panic");
    assert!(matches!(pending, Err(EngineError::EgressPending { .. })), "{pending:?}");
    let waiting = change(ListsEdit { allow_out: None, deny_out: Some(list(&["c.com"])) });
    while world.store.session_lists(&session).await.expect("lists").revision < 2 {
        tokio::task::yield_now().await;
    }
    check_lists(&world, &session, "b.com | c.com", false).await;
    let mut sidecar = world.dial(&spec, memory).await;
    sidecar.credentials().await;
    assert_eq!(sidecar.lists().await, (2, list(&["b.com"]), list(&["c.com"])));
    sidecar.entry(LogEntry::EgressInForce { revision: 2 }).await;
    soon("the answer", waiting).await.expect("no panic").expect("it holds");
    assert_eq!(changes_told(&world, &session).await, 1, "the older change was never in force");
    // A new server has the same lists, and does not send what the vault has.
    world.restart().await;
    sidecar.hung_up().await;
    check_lists(&world, &session, "b.com | c.com", true).await;
    let mut sidecar = world.dial(&spec, sidecar.down()).await;
    sidecar.credentials().await;
    world.engine.abort(&session).await.expect("nothing to abort is fine");
    world.say(&session, "one").await;
    sidecar.turn().await;
    world.stop().await;
}

#[tokio::test]
async fn lists_changed_before_the_boot_message_come_with_it() {
    let world = World::start().await;
    let agent = agent(&world).await;
    let session = world.session(&agent, NewSession::default()).await;
    let spec = world.sandbox().await;
    let change = tokio::spawn({
        let (engine, session) = (world.engine.clone(), session.clone());
        async move { engine.change_egress(&session, allow(&["b.com"])).await }
    });
    while world.store.session_lists(&session).await.expect("lists").revision < 1 {
        tokio::task::yield_now().await;
    }
    let mut sidecar = world.dial(&spec, Memory { egress_revision: Some(0), ..Memory::default() }).await;
    let grants = sidecar.boot().await.grants;
    assert_eq!((grants.allow_out, grants.egress_revision), (list(&["b.com"]), 1));
    sidecar.entry(LogEntry::EgressInForce { revision: 1 }).await;
    soon("the answer", change).await.expect("no panic").expect("it holds");
    world.stop().await;
}

#[tokio::test]
async fn agents_edits_are_for_new_sessions() {
    let world = World::start().await;
    let agent = agent(&world).await;
    let session = world.session(&agent, NewSession::default()).await;
    let edit = AgentEdit { allow_out: Some(list(&["later.com"])), ..AgentEdit::default() };
    world.engine.update_agent(&agent, edit).await.expect("an edit");
    check_lists(&world, &session, "a.com | deny.a.com", true).await;
    let newer = world.session(&agent, NewSession::default()).await;
    check_lists(&world, &newer, "later.com | deny.a.com", true).await;
    world.stop().await;
}

#[tokio::test]
async fn bad_lists_and_sessions_that_are_over_are_refused() {
    let world = World::start().await;
    let agent = agent(&world).await;
    let (session, _sidecar) = world.ready(&agent, NewSession::default()).await;
    let bad = ListsEdit { allow_out: Some(list(&["a..com", "fine.com"])), deny_out: Some(list(&["http://x"])) };
    match world.engine.change_egress(&session, bad).await {
        Err(EngineError::Invalid(problems)) => {
            let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
            assert_eq!(fields, ["allow_out[0]", "deny_out[0]"]);
        }
        other => panic!("{other:?}"),
    }
    let nothing = world.engine.change_egress(&session, ListsEdit::default()).await;
    assert!(matches!(nothing, Err(EngineError::Invalid(_))), "{nothing:?}");
    check_lists(&world, &session, "a.com | deny.a.com", true).await;
    world.engine.stop_session(&session).await.expect("it stops");
    let over = world.engine.change_egress(&session, allow(&["b.com"])).await;
    assert!(matches!(over, Err(EngineError::NotReady { .. })), "{over:?}");
    let unknown = world.engine.change_egress(&SessionId::new("no-such"), allow(&["b.com"])).await;
    assert!(matches!(unknown, Err(EngineError::NotFound { .. })), "{unknown:?}");
    world.stop().await;
}
