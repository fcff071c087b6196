//! The log equals what happened, however the client comes and goes.

use lap_api::session::CreateSession;
use lap_client::LogEntry;

use crate::world::{Needs, World, say, shell_agent};

async fn until_turn_over(events: &mut lap_client::EventStream, seen: &mut Vec<LogEntry>, stop_after: usize) -> bool {
    while let Some(entry) = events.next_entry().await {
        let entry = entry.expect("the stream goes on");
        let over = entry.name == "turn.completed";
        seen.push(entry);
        if over {
            return true;
        }
        if seen.len() >= stop_after {
            return false;
        }
    }
    panic!("the stream ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_misses_nothing_and_sees_nothing_twice() {
    let world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let sending = tokio::spawn({
        let (client, id) = (world.client.clone(), session.id.clone());
        async move { client.message(&id, &say("for i in $(seq 1 200); do echo line $i; sleep 0.01; done"), None).await }
    });
    // Cut off after every few events, again and again, each time going on after the last one that was seen.
    let mut seen: Vec<LogEntry> = Vec::new();
    let mut over = false;
    while !over {
        let after = seen.last().map_or(0, |entry| entry.id);
        let mut events = world.client.events(&session.id, after);
        let limit = seen.len() + 7;
        over = until_turn_over(&mut events, &mut seen, limit).await;
    }
    sending.await.expect("no panic").expect("an answer");
    let all = world.client.all_events(&session.id).await.expect("the log");
    assert_eq!(seen, all[..seen.len()], "what was streamed in pieces is the log itself");
    let ids: Vec<u64> = all.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "numbered without holes");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_on_across_a_server_that_is_killed() {
    let mut world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let mut turn = world
        .client
        .message_stream(&session.id, &say("mkfifo /tmp/go; echo begun; read -r go < /tmp/go"))
        .await
        .expect("sent");
    while let Some(entry) = turn.next().await {
        if entry.expect("goes on").raw.contains("begun") {
            break;
        }
    }
    drop(turn);
    let before = world.client.all_events(&session.id).await.expect("the log");
    world.kill_and_restart().await;
    let after = world.client.all_events(&session.id).await.expect("the log");
    assert_eq!(before, after[..before.len()], "numbers and contents stay");
    let mut events = world.client.events(&session.id, before.len() as u64);
    world.client.abort(&session.id).await.expect("the sidecar dials again");
    let mut seen = Vec::new();
    while let Some(entry) = events.next_entry().await {
        let entry = entry.expect("goes on");
        let over = entry.name == "turn.failed" || entry.name == "turn.completed";
        seen.push(entry.id);
        if over {
            break;
        }
    }
    assert_eq!(seen.first(), Some(&(before.len() as u64 + 1)));
    world.end().await;
}
