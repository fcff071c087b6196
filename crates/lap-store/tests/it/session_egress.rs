//! The lists of one session: its agent's until they are its own.

use lap_domain::agent::{self, AgentEdit};
use lap_domain::egress::ListsEdit;
use lap_domain::problem::Problem;
use lap_domain::session::{EndReason, SessionEvent};
use lap_store::{StoreError, Write};

use crate::kit::*;

async fn agent_allows(kit: &Kit, entry: &str) {
    let edit = AgentEdit { allow_out: Some(vec![entry.to_owned()]), ..AgentEdit::default() };
    let edited = |a| Ok::<_, StoreError>(agent::edit(&a, edit, NOW).expect("valid"));
    kit.store.update_agent(&aid("a1"), edited).await.expect("works").expect("edits");
}

async fn allow(kit: &Kit, entry: &str) -> Result<u64, StoreError> {
    let edit = ListsEdit { allow_out: Some(vec![entry.to_owned()]), deny_out: None };
    let changed = kit.store.change_session_lists::<Vec<Problem>>(&sid("s1"), |lists| lists.changed(edit)).await?;
    Ok(changed.expect("valid").revision)
}

async fn check(kit: &Kit, allowed: &str, in_force: bool) {
    let lists = kit.store.session_lists(&sid("s1")).await.expect("reads");
    assert_eq!((lists.allow_out.join(" ").as_str(), lists.are_in_force()), (allowed, in_force));
}

async fn restart(kit: &Kit, incarnation: u32) {
    let end = SessionEvent::End { reason: EndReason::Stopped };
    for event in [end, SessionEvent::Restart] {
        kit.store.apply(&sid("s1"), incarnation, event, NOW).await.expect("moves");
    }
}

#[tokio::test]
async fn a_restart_takes_the_agents_lists_until_the_session_has_its_own() {
    let kit = Kit::with_agent().await;
    agent_allows(&kit, "first.com").await;
    kit.session("s1").await;
    agent_allows(&kit, "second.com").await;
    check(&kit, "first.com", true).await;
    restart(&kit, 1).await;
    check(&kit, "second.com", true).await;
    assert_eq!(allow(&kit, "own.com").await.expect("works"), 1);
    check(&kit, "own.com", false).await;
    restart(&kit, 2).await;
    check(&kit, "own.com", false).await;
    kit.store.append_log(&sid("s1"), 3, vec![item(1, Write::EgressInForce { revision: 1 })]).await.expect("works");
    check(&kit, "own.com", true).await;
}

#[tokio::test]
async fn only_what_was_asked_for_can_be_in_force_and_it_is_told_once() {
    let kit = Kit::ready().await;
    allow(&kit, "a.com").await.expect("works");
    allow(&kit, "b.com").await.expect("works");
    let confirmed = [7, 1, 2, 2, 1];
    let items =
        confirmed.iter().zip(1..).map(|(revision, seq)| item(seq, Write::EgressInForce { revision: *revision }));
    kit.store.append_log(&sid("s1"), 1, items.collect()).await.expect("works");
    check(&kit, "b.com", true).await;
    let told: Vec<String> = kit.log("s1").await.into_iter().filter(|line| line.contains("egress.changed")).collect();
    assert_eq!(told, [r#"3 egress.changed {"allow_out":["b.com"],"deny_out":[],"revision":2}"#]);
}

#[tokio::test]
async fn sessions_that_are_over_keep_their_lists() {
    let kit = Kit::ready().await;
    let end = SessionEvent::End { reason: EndReason::Stopped };
    kit.store.apply(&sid("s1"), 1, end, NOW).await.expect("ends");
    assert!(matches!(allow(&kit, "a.com").await, Err(StoreError::SessionNotReady { .. })));
    kit.store.delete_session(&sid("s1"), NOW).await.expect("deletes");
    assert!(matches!(allow(&kit, "a.com").await, Err(StoreError::NotFound { .. })));
    assert!(matches!(kit.store.session_lists(&sid("s1")).await, Err(StoreError::NotFound { .. })));
}
