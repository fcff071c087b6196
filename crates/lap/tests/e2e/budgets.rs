//! What a real harness uses is what the gateway says it used, and at the limit its turn ends in words, soon.

use std::time::Duration;

use lap_api::agent::CreateAgent;
use lap_api::event::EventKind;
use lap_api::session::{CreateSession, PatchSession, Session};
use lap_client::UsageQuery;

use crate::world::{Needs, World, say};

/// Long enough for a loaded machine, and far shorter than a harness that tries again and again.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn opencode_ends_its_turn_in_words_and_goes_on_with_more() {
    ends_its_turn_in_words_and_goes_on_with_more("opencode").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_ends_its_turn_in_words_and_goes_on_with_more() {
    ends_its_turn_in_words_and_goes_on_with_more("claude-code").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_agent_sdk_ends_its_turn_in_words_and_goes_on_with_more() {
    ends_its_turn_in_words_and_goes_on_with_more("claude-agent-sdk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_ends_its_turn_in_words_and_goes_on_with_more() {
    ends_its_turn_in_words_and_goes_on_with_more("codex").await;
}

async fn ends_its_turn_in_words_and_goes_on_with_more(harness: &'static str) {
    let world = World::new(Needs::Harness(harness)).await;
    let new =
        CreateAgent { model: Some("test-model".into()), harness_id: Some(harness.into()), ..CreateAgent::default() };
    let agent = world.agent(new).await;
    let session = world.ready(&agent, CreateSession { max_tokens: Some(1), ..CreateSession::default() }).await;

    // The first call has room, the second has none: what its tool says cannot be told to the model.
    let failed = fails(&world, &session, "[[bash:true]][[say:never said]]").await;
    let calls = world.gateway.calls().len();
    assert!(failed.contains("this session may use 1 tokens") && failed.contains("max_tokens"), "{failed}");
    fails(&world, &session, "[[say:never said]]").await;
    assert_eq!(world.gateway.calls().len(), calls, "nothing reaches the gateway any more");
    let events = world.client.all_events(&session.id).await.expect("events");
    let kinds: Vec<EventKind> = events.into_iter().filter_map(|entry| Some(entry.event?.kind)).collect();
    let named = |kind: &EventKind| matches!(kind, EventKind::TurnFailed { code, .. } if code == "budget");
    assert_eq!(kinds.iter().filter(|kind| named(kind)).count(), 2, "{kinds:#?}");
    assert!(kinds.iter().any(|kind| matches!(kind, EventKind::EgressRefused { code, .. } if code == "budget")));

    let none = PatchSession { max_tokens: Some(None), ..PatchSession::default() };
    let raised = world.client.edit_session(&session.id, &none).await.expect("edited");
    assert_eq!(raised.max_tokens, None);
    assert_eq!(world.ask(&session, "[[say:on we go]]").await, "on we go");

    let said = world.gateway.usage();
    let used = world.client.session(&session.id).await.expect("there").usage;
    assert_eq!((used.total.input_tokens, used.total.output_tokens), (said.input, said.output), "{used:?}");
    assert!(used.total.cost_usd > Some(0.0) && used.total.unpriced_calls == 0, "{used:?}");
    let query = UsageQuery { by: Some("agent".into()), ..UsageQuery::default() };
    let rows = world.client.usage(&query).await.expect("sums").data;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].agent_id.as_deref(), rows[0].spend), (Some(agent.id.as_str()), used.total));
    world.end().await;
}

/// Sends what the session has no room for, and returns the reason it was given.
async fn fails(world: &World, session: &Session, text: &str) -> String {
    let answer = tokio::time::timeout(SOON, world.client.message(&session.id, &say(text), None)).await;
    answer.expect("soon").expect_err("there is no room").to_string()
}
