//! Fifty sessions at once, and nothing left of them.

use lap_api::session::CreateSession;

use crate::world::{Needs, World, cgroups_named, leftovers, shell_agent};

const SESSIONS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_sessions_come_and_go_without_a_trace() {
    let world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let opened =
        futures_util::future::join_all((0..SESSIONS).map(|_| world.open(&agent, CreateSession::default()))).await;
    let ready = futures_util::future::join_all(opened.iter().map(|session| world.settled(session))).await;
    for session in &ready {
        assert_eq!(session.status, "ready", "{:?}", session.failure_reason);
    }
    let answers =
        futures_util::future::join_all(ready.iter().map(|session| world.ask(session, "hostname; id -u; ls /work")))
            .await;
    for answer in answers {
        assert!(answer.starts_with("sandbox\n1000\n"), "{answer}");
    }
    let ids: Vec<String> = ready.iter().map(|session| session.id.clone()).collect();
    let data_dir = world.data_dir().to_owned();
    assert!(!leftovers(&data_dir).is_empty(), "the search finds what is there");
    world.end().await;
    let cgroups = cgroups_named(&ids);
    assert!(cgroups.is_empty(), "{cgroups:#?}");
}
