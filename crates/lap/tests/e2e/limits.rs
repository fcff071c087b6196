//! Limits of a sandbox: each is enforced, and hitting one is an event with its name.

use lap_api::session::{CreateSession, Session};

use crate::world::{Needs, World, shell_agent};

/// Runs a command that hits a limit and waits for the event that names it.
async fn check(world: &World, session: &Session, command: &str, limit: &str) -> String {
    let answer = world.client.message(&session.id, &crate::world::say(command), None).await;
    let named = format!("\"limit\":\"{limit}\"");
    let mut events = world.client.events(&session.id, 0);
    while let Some(entry) = events.next_entry().await {
        if entry.expect("the log goes on").raw.contains(&named) {
            break;
        }
    }
    answer.map_or_else(|problem| problem.to_string(), |message| crate::world::words(&message))
}

#[tokio::test(flavor = "multi_thread")]
async fn hitting_a_limit_is_an_event_with_its_name() {
    let limits = [("LAP_SANDBOX_MEMORY", "256MiB"), ("LAP_SANDBOX_PIDS", "64"), ("LAP_SANDBOX_TMP", "8MiB")];
    let world = World::with_env(Needs::Shell, &limits).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let memory = check(&world, &session, "python3 -c 'x = bytearray(600 << 20)'; echo rc $?", "memory").await;
    assert!(memory.contains("rc 137"), "{memory}");
    let processes = "python3 -c '\nimport os, time\nn = 0\ntry:\n  while n < 200:\n    if os.fork() == 0: time.sleep(2); os._exit(0)\n    n += 1\nexcept OSError as e: print(\"refused after\", n)\n'";
    let pids = check(&world, &session, processes, "pids").await;
    assert!(pids.contains("refused after"), "{pids}");
    let disk = check(&world, &session, "dd if=/dev/zero of=/work/big bs=1M count=1000 2>&1 | head -1", "disk").await;
    assert!(disk.contains("No space left"), "{disk}");
    let tmp = world
        .ask(&session, "dd if=/dev/zero of=/tmp/big bs=1M count=20 2>&1 | head -1; rm -f /work/big; echo ok")
        .await;
    assert!(tmp.contains("No space left") && tmp.contains("ok"), "{tmp}");
    world.end().await;
}
