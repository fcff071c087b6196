//! The engine's main flows, seen from both ends: the caller's methods and the sidecar's link.

mod kit;
mod live_lists;
mod repository_tokens;

use kit::{Memory, Sidecar, World, completed, secrets, soon};
use lap_api::link::{LogEntry, Report, ServerToSidecar};
use lap_domain::session::{EndReason, SessionState};
use lap_engine::{EngineError, NewSession, NewTurn};
use lap_sandbox::fake::Call;

fn with_vars(pairs: &[(&str, &str)]) -> NewSession {
    NewSession { env_vars: secrets(pairs), ..NewSession::default() }
}

/// The value a sandbox's vault is told for a variable.
fn granted(credentials: &[lap_api::link::CredentialGrant], name: &str) -> Option<String> {
    credentials.iter().find(|credential| credential.name == name).map(|credential| credential.secret.clone())
}

#[tokio::test]
async fn a_session_comes_up_and_answers() {
    let world = World::start().await;
    let agent = world.agent(&[("AGENT_SECRET", "of-the-agent")]).await;
    let session = world.session(&agent, with_vars(&[("SESSION_SECRET", "of-the-session")])).await;
    let spec = world.sandbox().await;
    let mut sidecar = world.dial(&spec, Memory::default()).await;
    let boot = sidecar.boot().await;
    assert_eq!(granted(&boot.grants.credentials, "AGENT_SECRET").as_deref(), Some("of-the-agent"));
    assert_eq!(granted(&boot.grants.credentials, "SESSION_SECRET").as_deref(), Some("of-the-session"));
    assert!(!serde_json::to_string(&boot.guest).unwrap().contains("of-the-"), "the guest is told stubs only");
    assert_eq!(boot.session_keys, ["SESSION_SECRET"]);
    sidecar.report(Report::Phase { phase: "waiting_harness".into(), detail: None }).await;
    sidecar.report(Report::Conversation { harness_session_id: "h".into() }).await;
    sidecar.report(Report::Ready).await;
    world.state(&session, "ready").await;

    let (first, second) = (world.say(&session, "one").await, world.say(&session, "two").await);
    let turn = sidecar.turn().await;
    assert_eq!(turn.text, "one");
    sidecar.report(Report::TurnStarted { turn_id: turn.turn_id.clone() }).await;
    sidecar.complete(&turn, "first").await;
    assert!(world.answer(&session, &first).await.contains("first"));
    let turn = sidecar.turn().await;
    assert_eq!(turn.text, "two");
    sidecar.complete(&turn, "second").await;
    assert!(world.answer(&session, &second).await.contains("second"));

    world.engine.delete_session(&session).await.expect("deleting");
    world.no_sandboxes().await;
    world.stop().await;
}

#[tokio::test]
async fn a_link_that_breaks_loses_nothing_and_repeats_nothing() {
    let world = World::start().await;
    let agent = world.agent(&[]).await;
    let (session, mut sidecar) = world.ready(&agent, NewSession::default()).await;
    let spec = world.sandbox().await;
    let asked = world.say(&session, "one").await;
    let turn = sidecar.turn().await;
    sidecar.report(Report::TurnStarted { turn_id: turn.turn_id.clone() }).await;
    // Sent twice: once on the link that breaks, whether or not it arrived, and once more on the next.
    sidecar
        .entry_unacked(LogEntry::Guest(Report::Delta {
            turn_id: turn.turn_id.clone(),
            part_id: "p".into(),
            kind: lap_api::event::DeltaKind::Text,
            delta: "wo".into(),
        }))
        .await;
    sidecar.entry_unsent(LogEntry::Guest(completed(&turn, "words")));
    let mut sidecar = world.dial(&spec, sidecar.down()).await;
    // Neither boot nor turn again: what credentials mean now is all there is to say.
    sidecar.credentials().await;
    assert!(world.answer(&session, &asked).await.contains("words"));
    sidecar.all_acked().await;
    let log = world.log(&session).await;
    let count = |name: &str| log.iter().filter(|(_, event)| event == name).count();
    assert_eq!((count("turn.started"), count("message.delta"), count("turn.completed")), (1, 1, 1), "{log:?}");
    assert_eq!(log.iter().map(|(id, _)| *id).collect::<Vec<_>>(), (1..=log.len() as u64).collect::<Vec<_>>());
    let asked = world.say(&session, "two").await;
    let turn = sidecar.turn().await;
    assert_eq!(turn.text, "two");
    sidecar.complete(&turn, "more").await;
    assert!(world.answer(&session, &asked).await.contains("more"));
    world.stop().await;
}

#[tokio::test]
async fn a_turn_that_was_lost_with_its_link_is_handed_over_again_and_one_that_arrived_is_not() {
    let world = World::start().await;
    let agent = world.agent(&[]).await;
    let (session, mut sidecar) = world.ready(&agent, NewSession::default()).await;
    let spec = world.sandbox().await;
    world.say(&session, "one").await;
    let turn = sidecar.turn().await;
    // The frame was lost: this sidecar has never seen the turn.
    let memory = Memory { last_turn_id: None, ..sidecar.down() };
    let mut sidecar = world.dial(&spec, memory).await;
    sidecar.credentials().await;
    assert_eq!(sidecar.turn().await.turn_id, turn.turn_id);
    let mut sidecar = world.dial(&spec, sidecar.down()).await;
    sidecar.credentials().await;
    world.engine.abort(&session).await.expect("an abort");
    assert_eq!(sidecar.abort().await, turn.turn_id, "no turn comes before it");
    world.stop().await;
}

#[tokio::test]
async fn a_new_server_goes_on_where_the_old_one_stood() {
    let mut world = World::start().await;
    let agent = world.agent(&[]).await;
    let (session, mut sidecar) = world.ready(&agent, with_vars(&[("SESSION_SECRET", "of-the-session")])).await;
    let spec = world.sandbox().await;
    let running = world.say(&session, "one").await;
    let waiting = world.say(&session, "two").await;
    let turn = sidecar.turn().await;
    world.restart().await;
    sidecar.hung_up().await;
    sidecar.entry_unsent(LogEntry::Guest(completed(&turn, "first")));
    let mut sidecar = world.dial(&spec, sidecar.down()).await;
    let credentials = sidecar.credentials().await;
    assert_eq!(granted(&credentials, "SESSION_SECRET"), None, "only the sidecar has it now");
    assert!(world.answer(&session, &running).await.contains("first"));
    let turn = sidecar.turn().await;
    assert_eq!(turn.text, "two");
    sidecar.complete(&turn, "second").await;
    assert!(world.answer(&session, &waiting).await.contains("second"));
    assert_eq!(world.backend.running().len(), 1);
    world.stop().await;
}

/// A server that dies before the sidecar has said that it holds the variables loses them, and says which.
async fn check_env_lost(dialled_before: bool) {
    let mut world = World::start().await;
    let agent = world.agent(&[]).await;
    let session = world.session(&agent, with_vars(&[("SESSION_SECRET", "of-the-session")])).await;
    let spec = world.sandbox().await;
    // The guest runs long before it is told anything: its first words say nothing of the boot message.
    let running = LogEntry::Guest(Report::Phase { phase: "pod_running".into(), detail: None });
    let mut memory = Memory::default();
    if dialled_before {
        let mut sidecar = world.dial(&spec, memory).await;
        sidecar.entry(running).await;
        world.restart().await;
        memory = sidecar.down();
    } else {
        memory.log.push(running);
        world.restart().await;
    }
    let _sidecar = world.dial(&spec, memory).await;
    match world.state(&session, "failed").await {
        SessionState::Failed { reason } => {
            assert!(reason.starts_with("session_env_lost") && reason.contains("SESSION_SECRET"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    world.no_sandboxes().await;
    world.stop().await;
}

#[tokio::test]
async fn variables_lost_with_the_server_before_the_sidecar_called() {
    check_env_lost(false).await;
}

#[tokio::test]
async fn variables_lost_with_the_server_after_the_guest_spoke() {
    check_env_lost(true).await;
}

#[tokio::test]
async fn a_boot_message_lost_with_its_link_comes_again() {
    let world = World::start().await;
    let agent = world.agent(&[]).await;
    let session = world.session(&agent, with_vars(&[("SESSION_SECRET", "of-the-session")])).await;
    let spec = world.sandbox().await;
    let mut sidecar = world.dial(&spec, Memory::default()).await;
    sidecar.report(Report::Phase { phase: "pod_running".into(), detail: None }).await;
    sidecar.boot_unsaid().await;
    let mut sidecar = world.dial(&spec, sidecar.down()).await;
    let boot = sidecar.boot().await;
    assert_eq!(granted(&boot.grants.credentials, "SESSION_SECRET").as_deref(), Some("of-the-session"));
    sidecar.report(Report::Ready).await;
    world.state(&session, "ready").await;
    world.stop().await;
}

#[tokio::test]
async fn a_server_that_dies_after_the_boot_message_does_no_harm() {
    let mut world = World::start().await;
    let agent = world.agent(&[]).await;
    let session = world.session(&agent, with_vars(&[("SESSION_SECRET", "of-the-session")])).await;
    let spec = world.sandbox().await;
    let mut sidecar = world.dial(&spec, Memory::default()).await;
    sidecar.boot_unsaid().await;
    sidecar.memory.booted = true;
    sidecar.entry_unsent(LogEntry::Booted);
    world.restart().await;
    let mut sidecar = world.dial(&spec, sidecar.down()).await;
    sidecar.credentials().await;
    sidecar.report(Report::Ready).await;
    world.state(&session, "ready").await;
    world.stop().await;
}

#[tokio::test]
async fn a_session_deleted_while_it_comes_up_leaves_nothing() {
    let world = World::start().await;
    let agent = world.agent(&[]).await;
    let session = world.session(&agent, NewSession::default()).await;
    let spec = world.sandbox().await;
    let mut sidecar = world.dial(&spec, Memory::default()).await;
    sidecar.boot().await;
    world.engine.delete_session(&session).await.expect("deleting");
    world.no_sandboxes().await;
    // A sidecar that calls all the same is told to stop.
    let mut late = Sidecar::hello(&world, &spec, sidecar.down()).await;
    assert!(matches!(late.next().await, Some(ServerToSidecar::Stop)));
    assert!(matches!(world.engine.session(&session).await, Err(EngineError::NotFound { .. })));
    world.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_made_fails_its_session_and_is_not_tried_again() {
    let world = World::start().await;
    world.backend.fail_provision(Some("the disk is full"));
    let agent = world.agent(&[]).await;
    let session = world.session(&agent, NewSession::default()).await;
    match world.state(&session, "failed").await {
        SessionState::Failed { reason } => assert!(reason.contains("the disk is full"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.backend.calls().iter().filter(|call| matches!(call, Call::Provision(_))).count(), 1);
    world.stop().await;
}

#[tokio::test]
async fn an_abort_follows_its_turn_and_the_next_turn_follows_the_abort() {
    let world = World::start().await;
    let agent = world.agent(&[]).await;
    let (session, mut sidecar) = world.ready(&agent, NewSession::default()).await;
    world.engine.abort(&session).await.expect("nothing to abort is fine");
    let first = world.say(&session, "one").await;
    let second = world.say(&session, "two").await;
    world.engine.abort(&session).await.expect("an abort");
    let turn = sidecar.turn().await;
    assert_eq!(sidecar.abort().await, turn.turn_id);
    let (turn_id, code, error) = (turn.turn_id, "aborted".to_owned(), "as asked".to_owned());
    sidecar.report(Report::TurnFailed { turn_id, code, error }).await;
    assert_eq!(world.answer(&session, &first).await, "aborted");
    let turn = sidecar.turn().await;
    assert_eq!(turn.text, "two");
    sidecar.complete(&turn, "second").await;
    assert!(world.answer(&session, &second).await.contains("second"));
    world.stop().await;
}

#[tokio::test]
async fn edited_credentials_reach_live_sandboxes_and_session_ones_stay() {
    let world = World::start().await;
    let agent = world.agent(&[("ROTATED", "old-value"), ("REMOVED", "some-value"), ("BOTH", "agent-value")]).await;
    let (_session, mut sidecar) = world.ready(&agent, with_vars(&[("BOTH", "session-value")])).await;
    world.edit_vars(&agent, &[("ROTATED", "new-value"), ("BOTH", "agent-value"), ("ADDED", "added-value")]).await;
    let credentials = sidecar.credentials().await;
    assert_eq!(granted(&credentials, "ROTATED").as_deref(), Some("new-value"));
    assert_eq!(granted(&credentials, "REMOVED"), None);
    assert_eq!(granted(&credentials, "BOTH"), None, "the session's own value wins, and only the sidecar has it");
    assert_eq!(granted(&credentials, "ADDED"), None, "a new variable is for new sessions");
    world.stop().await;
}

#[tokio::test]
async fn edits_while_the_sidecar_is_away_reach_it_when_it_calls() {
    let world = World::start().await;
    let agent = world.agent(&[("ROTATED", "old-value")]).await;
    let (_session, sidecar) = world.ready(&agent, NewSession::default()).await;
    let spec = world.sandbox().await;
    let memory = sidecar.down();
    world.edit_vars(&agent, &[("ROTATED", "new-value")]).await;
    let mut sidecar = world.dial(&spec, memory).await;
    // If the old link was still known, its grants went down with it.
    assert_eq!(granted(&sidecar.credentials().await, "ROTATED").as_deref(), Some("new-value"));
    world.stop().await;
}

/// The caller goes away at the first moment at which its request is pending.
async fn check_hung_up<T>(work: impl Future<Output = T>) {
    tokio::select! {
        biased;
        _ = work => {}
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn what_a_caller_began_is_done_when_it_hangs_up() {
    let world = World::start().await;
    let agent = world.agent(&[("ROTATED", "old-value")]).await;
    let (session, mut sidecar) = world.ready(&agent, NewSession::default()).await;
    let turn = NewTurn { text: "one".into(), attachments: Vec::new(), idempotency: None };
    check_hung_up(world.engine.send(&session, turn)).await;
    let turn = sidecar.turn().await;
    sidecar.complete(&turn, "unheard").await;
    check_hung_up(world.edit_vars(&agent, &[("ROTATED", "new-value")])).await;
    assert_eq!(granted(&sidecar.credentials().await, "ROTATED").as_deref(), Some("new-value"));
    check_hung_up(world.engine.delete_session(&session)).await;
    world.no_sandboxes().await;
    world.stop().await;
}

#[tokio::test]
async fn the_last_words_of_a_sandbox_count_after_a_new_server_came() {
    let mut world = World::start().await;
    let agent = world.agent(&[]).await;
    let (session, mut sidecar) = world.ready(&agent, NewSession::default()).await;
    let spec = world.sandbox().await;
    let asked = world.say(&session, "one").await;
    let turn = sidecar.turn().await;
    world.restart().await;
    sidecar.entry_unsent(LogEntry::Guest(completed(&turn, "just in time")));
    sidecar.entry_unsent(LogEntry::SandboxExited { detail: "it ended".into(), oom: true });
    let _sidecar = world.dial(&spec, sidecar.down()).await;
    assert!(world.answer(&session, &asked).await.contains("just in time"));
    assert_eq!(world.state(&session, "dead").await, SessionState::Dead { reason: EndReason::Oom });
    world.no_sandboxes().await;
    world.stop().await;
}

#[tokio::test]
async fn a_second_link_of_a_sandbox_replaces_the_first() {
    let world = World::start().await;
    let agent = world.agent(&[]).await;
    let (session, mut first) = world.ready(&agent, NewSession::default()).await;
    let spec = world.sandbox().await;
    let memory = Memory { booted: true, log: first.memory.log.clone(), ..Memory::default() };
    let mut second = world.dial(&spec, memory).await;
    second.credentials().await;
    first.hung_up().await;
    let asked = world.say(&session, "one").await;
    let turn = second.turn().await;
    second.complete(&turn, "second").await;
    assert!(world.answer(&session, &asked).await.contains("second"));
    world.stop().await;
}

#[tokio::test]
async fn a_lost_sandbox_ends_its_session_and_its_log_is_kept_until_the_session_goes() {
    let world = World::start().await;
    let agent = world.agent(&[]).await;
    let (session, mut sidecar) = world.ready(&agent, NewSession::default()).await;
    let spec = world.sandbox().await;
    let asked = world.say(&session, "one").await;
    sidecar.turn().await;
    world.backend.write_log(&spec.id, "the last line");
    assert!(world.backend.crash(&spec.id, "killed"));
    assert_eq!(world.answer(&session, &asked).await, "session_ended");
    assert_eq!(world.state(&session, "dead").await, SessionState::Dead { reason: EndReason::SandboxLost });
    // Read from the backend or from what was kept of it: at no moment is it gone.
    let log = world.engine.sandbox_logs(&session, 10).await.expect("the log");
    assert_eq!(log.trim_end(), "the last line");
    world.engine.delete_session(&session).await.expect("deleting");
    assert!(matches!(world.engine.sandbox_logs(&session, 10).await, Err(EngineError::NotFound { .. })));
    world.stop().await;
}

#[tokio::test]
async fn a_deleted_agent_ends_its_sessions_and_their_history_stays() {
    let world = World::start().await;
    let agent = world.agent(&[]).await;
    let (session, _sidecar) = world.ready(&agent, NewSession::default()).await;
    world.engine.delete_agent(&agent).await.expect("deleting");
    assert_eq!(world.state(&session, "dead").await, SessionState::Dead { reason: EndReason::AgentDeleted });
    world.no_sandboxes().await;
    assert!(!world.log(&session).await.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn wrong_proof_opens_nothing() {
    let world = World::start().await;
    let agent = world.agent(&[]).await;
    world.session(&agent, with_vars(&[("SESSION_SECRET", "of-the-session")])).await;
    let mut spec = world.sandbox().await;
    spec.boot_token.0 = "0".repeat(64);
    let mut liar = Sidecar::hello(&world, &spec, Memory::default()).await;
    assert!(matches!(liar.next().await, Some(ServerToSidecar::Stop)));
    assert!(soon("the end", liar.next()).await.is_none());
    world.stop().await;
}
