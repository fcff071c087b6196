//! Where a live sandbox may go is changed from outside, and holds.

use lap_api::session::{CreateSession, PatchEgress, SessionEgress};

use crate::world::{ECHO_HOST, Needs, World, shell_agent};

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_a_live_session_are_changed_and_stay_changed() {
    let mut world = World::new(Needs::Shell).await;
    let agent = world.agent(shell_agent()).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let echo = format!("{ECHO_HOST}:{}", world.echo.https_port());
    let status = format!("curl -sS -o /dev/null -w '%{{http_code}}' https://{echo}/echo");
    assert_eq!(world.ask(&session, &status).await.trim(), "200");

    // A stream that would go on for an hour, in a session of its own so that it outlives its turn, and a file that says how
    // it ended.
    let stream = format!(
        "setsid sh -c 'curl -sSN \"https://{echo}/sse?events=36000&gap_ms=100\" > /tmp/stream 2>&1; echo $? > /tmp/over.new; \
         mv /tmp/over.new /tmp/over' > /dev/null 2>&1 & until [ -s /tmp/stream ]; do sleep 0.05; done"
    );
    world.ask(&session, &stream).await;
    let deny = |entries: &[&str]| PatchEgress {
        deny_out: Some(entries.iter().map(|entry| (*entry).to_owned()).collect()),
        allow_out: None,
    };
    let changed = world.client.change_egress(&session.id, &deny(&[ECHO_HOST])).await.expect("the vault has it");
    let expect = SessionEgress { allow_out: Vec::new(), deny_out: vec![ECHO_HOST.to_owned()], in_force: true };
    assert_eq!(changed.egress, expect);
    assert_eq!(world.ask(&session, &status).await.trim(), "403");
    let over = world.ask(&session, "until [ -s /tmp/over ]; do sleep 0.05; done; cat /tmp/over").await;
    assert_ne!(over.trim(), "0", "the stream was broken off, it did not end");

    world.kill_and_restart().await;
    assert_eq!(world.client.session(&session.id).await.expect("there").egress, expect);
    assert_eq!(world.ask(&session, &status).await.trim(), "403");
    let changed = world.client.change_egress(&session.id, &deny(&[])).await.expect("the vault has it");
    assert!(changed.egress.in_force && changed.egress.deny_out.is_empty());
    assert_eq!(world.ask(&session, &status).await.trim(), "200");
    let events = world.client.all_events(&session.id).await.expect("the log");
    assert_eq!(events.iter().filter(|event| event.name == "egress.changed").count(), 2);

    let lap_client::Error::Api(problem) =
        world.client.change_egress(&session.id, &deny(&["http://x", "a b"])).await.expect_err("both are wrong")
    else {
        panic!("not an answer")
    };
    assert_eq!((problem.status, problem.problems.len()), (400, 2));
    world.client.stop_session(&session.id).await.expect("it stops");
    let lap_client::Error::Api(problem) =
        world.client.change_egress(&session.id, &deny(&[])).await.expect_err("it is over")
    else {
        panic!("not an answer")
    };
    assert_eq!((problem.status, problem.code.as_str()), (409, "session_not_ready"));
    world.end().await;
}
