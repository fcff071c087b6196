//! The vault from inside a sandbox, with the tools an agent has.

use lap_api::agent::PatchAgent;
use lap_api::session::{CreateSession, Interception, Session};

use crate::world::{ECHO_HOST, GIT_HOST, Needs, World, shell_agent, vars};

async fn record(world: &World, session: &Session) -> Vec<Interception> {
    world.client.interceptions(&session.id, Some(200), None).await.expect("the record").data
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_where_they_may_and_nowhere_else() {
    let world = World::new(Needs::Shell).await;
    let echo = format!("{ECHO_HOST}:{}", world.echo.https_port());
    let mut blueprint = shell_agent();
    blueprint.env_vars =
        vars([("SERVICE_TOKEN", "the-real-service-token-0001"), ("OTHER_TOKEN", "the-real-other-token-0002")]);
    blueprint.env_var_hosts = [
        ("SERVICE_TOKEN".to_owned(), vec![echo.clone()]),
        ("OTHER_TOKEN".to_owned(), vec!["elsewhere.example.com".to_owned()]),
    ]
    .into();
    blueprint.deny_out = vec![format!("{GIT_HOST}:{}", world.git.port())];
    let agent = world.agent(blueprint).await;
    let session = world.ready(&agent, CreateSession::default()).await;

    // In a header and as a Basic password; what the echo sends back is a stub again.
    let bearer = world
        .ask(
            &session,
            &format!(
                "curl -sS -H \"Authorization: Bearer $SERVICE_TOKEN\" https://{echo}/echo; echo; echo $SERVICE_TOKEN"
            ),
        )
        .await;
    assert!(!bearer.contains("the-real-service-token"), "{bearer}");
    world.ask(&session, &format!("curl -sS -u me:$SERVICE_TOKEN https://{echo}/basic")).await;
    let requests = world.echo.requests();
    let sent: Vec<&str> = requests.iter().filter_map(|request| request.header("authorization")).collect();
    assert_eq!(sent, ["Bearer the-real-service-token-0001", "Basic bWU6dGhlLXJlYWwtc2VydmljZS10b2tlbi0wMDAx"]);

    // A tool that knows no proxy, over HTTP/1.1, and one that insists on HTTP/2.
    let status = |version: &str| {
        format!("curl -sS {version} -o /dev/null -w '%{{http_code}} %{{http_version}}' https://{echo}/echo")
    };
    assert_eq!(world.ask(&session, &status("--http1.1")).await.trim(), "200 1.1");
    assert_eq!(world.ask(&session, &status("--http2")).await.trim(), "200 2");
    // Through the explicit proxy, with CONNECT.
    assert_eq!(world.ask(&session, &status("-x http://198.18.0.1:3128 --http1.1")).await.trim(), "200 1.1");

    // Toward the wrong host, to a denied one, to the machine's own loopback, to metadata.
    let blocked = |args: String| {
        format!("curl -sS -o /dev/null -D - {args} | tr -d '\\r' | grep -i '^x-lap-blocked' | cut -d' ' -f2")
    };
    let wrong =
        world.ask(&session, &blocked(format!("-H \"Authorization: Bearer $OTHER_TOKEN\" https://{echo}/echo"))).await;
    assert_eq!(wrong.trim(), "misdirected_stub");
    let denied = world.ask(&session, &blocked(format!("https://{GIT_HOST}:{}/", world.git.port()))).await;
    assert_eq!(denied.trim(), "denied");
    let metadata = world.ask(&session, &blocked("http://169.254.169.254/latest/meta-data/".into())).await;
    assert_eq!(metadata.trim(), "metadata");
    let own = world.ask(&session, &blocked(format!("http://10.0.0.1:{}/", world.gateway.http_port()))).await;
    assert_eq!(own.trim(), "private_address");
    let loopback = world
        .ask(&session, &format!("curl -sS -m 5 http://127.0.0.1:{}/ 2>&1; echo status $?", world.gateway.http_port()))
        .await;
    assert!(loopback.contains("status 7"), "the machine's loopback is not this sandbox's: {loopback}");
    // The gateway's other routes are not for agents.
    let minting = world
        .ask(
            &session,
            &blocked(
                "-X POST -H \"Authorization: Bearer $LITELLM_API_KEY\" http://gateway.lap.internal/key/generate".into(),
            ),
        )
        .await;
    assert_eq!(minting.trim(), "gateway_route");

    let lines = record(&world, &session).await;
    for verdict in ["allowed", "misdirected_stub", "denied", "metadata", "private_address", "gateway_route"] {
        assert!(lines.iter().any(|line| line.verdict == verdict), "{verdict}: {lines:#?}");
    }
    assert!(lines.iter().any(|line| line.credentials == ["SERVICE_TOKEN"] && line.status == Some(200)), "{lines:#?}");
    let events = world.client.all_events(&session.id).await.expect("the log");
    assert!(events.iter().any(|event| event.name == "egress.refused" && event.raw.contains("misdirected_stub")));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_value_reaches_live_sessions_at_once() {
    let world = World::new(Needs::Shell).await;
    let echo = format!("{ECHO_HOST}:{}", world.echo.https_port());
    let mut blueprint = shell_agent();
    blueprint.env_vars = vars([("SERVICE_TOKEN", "the-first-service-token-01")]);
    blueprint.env_var_hosts = [("SERVICE_TOKEN".to_owned(), vec![echo.clone()])].into();
    let agent = world.agent(blueprint).await;
    let session = world.ready(&agent, CreateSession::default()).await;
    let call = format!(
        "curl -sS -o /dev/null -H \"Authorization: Bearer $SERVICE_TOKEN\" https://{echo}/echo; echo $SERVICE_TOKEN"
    );
    let stub = world.ask(&session, &call).await;
    let edit =
        PatchAgent { env_vars: Some(vars([("SERVICE_TOKEN", "the-second-service-token-2")])), ..PatchAgent::default() };
    world.client.update_agent(&agent.id, &edit).await.expect("edited");
    assert_eq!(world.ask(&session, &call).await, stub, "the stub stays");
    let requests = world.echo.requests();
    let sent: Vec<&str> = requests.iter().filter_map(|request| request.header("authorization")).collect();
    assert_eq!(sent, ["Bearer the-first-service-token-01", "Bearer the-second-service-token-2"]);
    world.end().await;
}
