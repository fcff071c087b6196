//! How long until a sandbox speaks: from the call to the event that its guest has said hello, as a client sees it.
//!
//! Everything is on: namespaces, volume, limits, network, filter, vault. The harness is the one without a program.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lap_api::agent::CreateAgent;
use lap_api::event::EventKind;
use lap_api::session::CreateSession;
use lap_client::Client;
use lap_test::server::LapServer;

use super::table::{Line, Table, Times, added, ms};
use super::{Fault, Place};

/// The phase that the guest's hello begins.
const SPOKE: &str = "pod_running";

/// A sandbox that takes longer is broken, not slow.
const DEADLINE: Duration = Duration::from_secs(60);

/// Sandboxes at once in the second half.
const BURST: usize = 20;

/// Starts that are not counted: the first ones fill caches.
const WARM_UP: usize = 5;

const TARGET_P50: Duration = Duration::from_millis(10);
const TARGET_P99: Duration = Duration::from_millis(30);

pub async fn measure(place: &Place, table: &mut Table) -> Result<(), Fault> {
    let env = [("LAP_TEST_HARNESSES", "true".to_owned())];
    place.with_server(&env, async |_| Ok(()), async |server| starts(place, server, table).await).await
}

/// When a session reached what, counted from the call.
struct Reached {
    id: String,
    /// The server has answered the call.
    accepted: Duration,
    spoke: Duration,
    ready: Duration,
}

async fn starts(place: &Place, server: &LapServer, table: &mut Table) -> Result<(), Fault> {
    let client = server.client();
    let shell = CreateAgent {
        harness_id: Some("shell".into()),
        model: Some("test-model".into()),
        name: Some("bench".into()),
        ..CreateAgent::default()
    };
    let agent = client.create_agent(&shell).await?.id;
    let sandboxes = server.data_dir().join("sandboxes");
    let gone = || lap_test::wait::until_empty(&sandboxes, DEADLINE);

    let samples = if place.quick { 30 } else { 200 };
    let (mut accepted, mut spoke, mut ready, mut bare) =
        (Times::default(), Times::default(), Times::default(), Times::default());
    for number in 0..WARM_UP + samples {
        let spawned = bare_start()?;
        let reached = start(&client, &agent).await?;
        client.delete_session(&reached.id).await?;
        gone().await?;
        if number >= WARM_UP {
            bare.add(spawned);
            accepted.add(reached.accepted);
            spoke.add(reached.spoke);
            ready.add(reached.ready);
        }
    }
    let title =
        format!("1. sandbox start: the call until its guest has said hello, one after the other, n = {samples}");
    table.part(&title, "fork, exec and wait of /bin/true");
    let against = |what, percent, target: Duration| {
        let (measured, baseline) = (spoke.percentile(percent), bare.percentile(percent));
        Line {
            what,
            measured: ms(measured),
            baseline: ms(baseline),
            between: added(measured, baseline),
            target: Some((format!("at most {} ms", target.as_millis()), measured <= target)),
        }
    };
    table.line(against("p50", 50, TARGET_P50));
    table.line(against("p99", 99, TARGET_P99));
    for (what, times) in
        [("of it: the call answered, p50", &accepted), ("session ready (no harness program), p50", &ready)]
    {
        table.line(Line { what, measured: ms(times.median()), ..Line::default() });
    }

    let rounds = if place.quick { 1 } else { 5 };
    let (mut spoke, mut whole) = (Times::default(), Times::default());
    for _ in 0..rounds {
        let begun = Instant::now();
        let tasks: Vec<_> = (0..BURST)
            .map(|_| {
                let (client, agent) = (client.clone(), agent.clone());
                tokio::spawn(async move { start(&client, &agent).await.map_err(|problem| problem.to_string()) })
            })
            .collect();
        let mut burst = Vec::new();
        for task in tasks {
            burst.push(task.await??);
        }
        whole.add(begun.elapsed());
        for reached in burst {
            spoke.add(reached.spoke);
            client.delete_session(&reached.id).await?;
        }
        gone().await?;
    }
    table.part(&format!("   {BURST} at once, {rounds} times"), "one after the other, as above");
    table.line(Line { what: "p50", measured: ms(spoke.median()), ..Line::default() });
    table.line(Line { what: "the last one", measured: ms(spoke.longest()), ..Line::default() });
    let each = whole.median() / u32::try_from(BURST).expect("a small number");
    table.line(Line { what: "until all are ready, for each", measured: ms(each), ..Line::default() });
    Ok(())
}

/// What starting any program costs here.
fn bare_start() -> std::io::Result<Duration> {
    let begun = Instant::now();
    Command::new("/bin/true").stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    Ok(begun.elapsed())
}

async fn start(client: &Client, agent: &str) -> Result<Reached, Fault> {
    let begun = Instant::now();
    let id = client.create_session(agent, &CreateSession::default()).await?.id;
    let accepted = begun.elapsed();
    let mut spoke = None;
    let ready = until_ready(client, &id, |phase| {
        if phase == SPOKE {
            spoke = Some(begun.elapsed());
        }
    })
    .await
    .map(|()| begun.elapsed())?;
    Ok(Reached { id, accepted, spoke: spoke.ok_or("the guest did not say hello")?, ready })
}

/// Follows a session until it is ready, and tells each phase as it comes.
pub async fn until_ready(client: &Client, session: &str, mut phase: impl FnMut(&str)) -> Result<(), Fault> {
    let mut events = client.events(session, 0);
    loop {
        let next = tokio::time::timeout(DEADLINE, events.next_entry()).await;
        let entry = next.map_err(|_| "the session was not ready in time")?.ok_or("the log ended early")??;
        match entry.event.map(|event| event.kind) {
            Some(EventKind::SessionPhase { phase: name, .. }) => phase(&name),
            Some(EventKind::SessionState { status, .. }) if status == "ready" => return Ok(()),
            Some(EventKind::SessionState { status, failure_reason, .. }) if status != "creating" => {
                return Err(failure_reason.unwrap_or(status).into());
            }
            _ => {}
        }
    }
}
