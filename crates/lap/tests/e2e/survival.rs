//! What is killed comes back or is told; nothing that was answered is lost.

use lap_api::session::CreateSession;

use crate::world::{Needs, World, say, shell_agent, vars};

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_goes_on_while_the_server_is_dead() {
    let mut world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let new =
        CreateSession { env_vars: vars([("SESSION_TOKEN", "of-this-session-0123456789")]), ..CreateSession::default() };
    let session = world.ready(&agent, new).await;
    assert!(world.ask(&session, "echo kept > /work/kept").await.is_empty());
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
    world.kill_and_restart().await;
    // The session is still there, its sandbox too, and the turn is the same one: it is aborted by the new server.
    assert_eq!(world.client.session(&session.id).await.expect("there").status, "ready");
    world.client.abort(&session.id).await.expect("the sidecar is back");
    assert_eq!(world.ask(&session, "cat /work/kept").await.trim(), "kept");
    let seen = world.ask(&session, "echo $SESSION_TOKEN").await;
    assert!(seen.starts_with("stub_session_"), "{seen}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_sidecar_dies_ends_its_session_and_leaves_nothing() {
    let world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let running = tokio::spawn({
        let (client, id) = (world.client.clone(), session.id.clone());
        async move { client.message(&id, &say("sleep 1000"), None).await }
    });
    let mut events = world.client.events(&session.id, 0);
    while let Some(entry) = events.next_entry().await {
        if entry.expect("goes on").name == "turn.started" {
            break;
        }
    }
    let sidecars = sidecars_of(&world);
    assert!(!sidecars.is_empty());
    for pid in sidecars {
        let status = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        assert!(status.expect("kill is there").success());
    }
    let refused = running.await.expect("no panic");
    assert!(refused.is_err(), "the turn has no answer");
    let after = world.client.session(&session.id).await.expect("its history stays");
    assert_eq!((after.status.as_str(), after.end_reason.as_deref()), ("dead", Some("sandbox_lost")));
    let refused = world.client.message(&session.id, &say("echo"), None).await;
    let lap_client::Error::Api(problem) = refused.expect_err("it is dead") else { panic!("an answer") };
    assert_eq!((problem.status, problem.code.as_str()), (409, "session_not_ready"));
    world.end().await;
}

/// Sidecars whose standard error is in this world's data folder.
fn sidecars_of(world: &World) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let ours = |pid: &u32| {
        let stderr = std::fs::read_link(format!("/proc/{pid}/fd/2"));
        stderr.is_ok_and(|target| target.starts_with(world.data_dir().join("sandboxes")))
    };
    pids.filter(ours).collect()
}
