//! The client against a server that breaks connections, refuses and answers nonsense.

#![allow(clippy::unwrap_used)]

mod support;

use expect_test::{Expect, expect};
use lap_api::message::SendMessage;
use lap_api::session::CreateSession;
use lap_client::{ApiKey, Client, ClientConfig, Error, Feed, server_url};
use serde_json::json;
use support::{KEY, Mock};

fn client_with_key(url: &str, key: &str) -> Client {
    let config = ClientConfig { server: server_url(url).unwrap(), key: Some(ApiKey::new(key)), extra_ca_pem: None };
    Client::new(config).unwrap()
}

fn client(mock: &Mock) -> Client {
    client_with_key(&mock.url, KEY)
}

fn text(text: &str) -> SendMessage {
    SendMessage { text: Some(text.to_owned()), ..SendMessage::default() }
}

/// Reads the whole log over streams that break after the given numbers of events.
async fn check_log(cuts: &[usize]) {
    let mock = Mock::start().await;
    let agent = mock.add_agent("a");
    let session = mock.add_ready_session(&agent);
    mock.with(|data| data.cuts = cuts.to_vec());
    let mut events = client(&mock).events(&session, 0);
    let (mut seen, mut n_lost, mut n_back) = (Vec::new(), 0, 0);
    // Half of the log exists before, half comes while the stream breaks.
    for n in 0..5 {
        mock.push(&session, "error", json!({ "code": "x", "error": format!("number {n}") }));
    }
    while seen.len() < 10 {
        match events.next().await.unwrap().unwrap() {
            Feed::Entry(entry) => seen.push(entry.id),
            Feed::Lost { .. } => n_lost += 1,
            Feed::Back => n_back += 1,
        }
    }
    assert_eq!(seen, (1..=10).collect::<Vec<u64>>(), "cuts {cuts:?}");
    assert_eq!(n_lost, n_back, "cuts {cuts:?}");
    let n_cut = cuts.len().min(n_lost);
    assert_eq!(n_lost, n_cut, "cuts {cuts:?}");
}

#[tokio::test]
async fn a_broken_log_is_whole_and_without_repeats() {
    for cuts in [&[][..], &[0], &[3], &[1, 1, 1], &[0, 0, 2, 9]] {
        check_log(cuts).await;
    }
}

/// Runs a turn over streams that break, and shows what came.
async fn check_turn(words: &str, cuts: &[usize], expect: &Expect) {
    let mock = Mock::start().await;
    let agent = mock.add_agent("a");
    let session = mock.add_ready_session(&agent);
    mock.with(|data| data.cuts = cuts.to_vec());
    let mut turn = client(&mock).message_stream(&session, &text(words)).await.unwrap();
    let mut names = Vec::new();
    while let Some(entry) = turn.next().await {
        names.push(entry.unwrap().name);
    }
    let queued = mock.with(|data| data.logs[&session].iter().filter(|e| e["type"] == "turn.queued").count());
    assert_eq!(queued, 1, "a turn is sent once");
    expect.assert_eq(&names.join(" "));
}

#[tokio::test]
async fn a_turn_survives_broken_connections_and_is_sent_once() {
    let whole = expect!["turn.started tool tool message.delta message.delta message.completed turn.completed"];
    for cuts in [&[][..], &[0], &[1], &[0, 3], &[4, 1, 0, 2]] {
        check_turn("hello", cuts, &whole).await;
    }
    check_turn("fail", &[0, 0], &expect!["turn.started turn.failed"]).await;
}

#[tokio::test]
async fn a_deleted_session_ends_its_stream() {
    let mock = Mock::start().await;
    let agent = mock.add_agent("a");
    let session = mock.add_ready_session(&agent);
    let client = client(&mock);
    let mut events = client.events(&session, 4);
    assert_eq!(events.next_entry().await.unwrap().unwrap().id, 5);
    client.delete_session(&session).await.unwrap();
    let error = events.next_entry().await.unwrap().unwrap_err();
    assert_eq!(error.api().map(|refusal| refusal.status), Some(404));
    assert!(events.next_entry().await.is_none());
}

#[tokio::test]
async fn events_of_later_servers_are_passed_on_raw() {
    let mock = Mock::start().await;
    let agent = mock.add_agent("a");
    let session = mock.add_ready_session(&agent);
    mock.push(&session, "moon.phase", json!({ "full": true }));
    let entry = client(&mock).all_events(&session).await.unwrap().pop().unwrap();
    assert_eq!((entry.id, entry.name.as_str(), entry.event), (6, "moon.phase", None));
    assert!(entry.raw.contains("\"full\":true"), "{}", entry.raw);
}

#[tokio::test]
async fn long_logs_come_in_pages() {
    let mock = Mock::start().await;
    let agent = mock.add_agent("a");
    let session = mock.add_ready_session(&agent);
    for _ in 0..450 {
        mock.push(&session, "error", json!({ "code": "x", "error": "y" }));
    }
    let ids: Vec<u64> = client(&mock).all_events(&session).await.unwrap().iter().map(|entry| entry.id).collect();
    assert_eq!(ids, (1..=455).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_session_comes_up() {
    let mock = Mock::start().await;
    let agent = mock.add_agent("a");
    let client = client(&mock);
    let session = client.create_session(&agent, &CreateSession::default()).await.unwrap();
    assert_eq!(session.status, "creating");
    let session = client.session_when_ready(&session.id, std::time::Duration::from_secs(5)).await.unwrap();
    assert_eq!(session.status, "ready");
    assert_eq!(client.vault_keys(&session.id).await.unwrap(), ["GITHUB_TOKEN"]);
    assert_eq!(client.stop_session(&session.id).await.unwrap().end_reason.as_deref(), Some("stopped"));
}

#[tokio::test]
async fn ids_cannot_leave_their_place_in_the_path() {
    let mock = Mock::start().await;
    let _ = client(&mock).session("../agents?x=1#y").await;
    let asked = mock.with(|data| data.requests.pop()).unwrap();
    expect!["GET /api/v1/managed_agents/sessions/..%2Fagents%3Fx=1%23y"].assert_eq(&asked);
}

#[tokio::test]
async fn refusals_keep_status_code_sentence_and_problems() {
    let mock = Mock::start().await;
    let body = json!({
        "error": "The agent has 2 problems.", "code": "invalid_request",
        "problems": [{ "field": "model", "message": "is empty" }, { "field": "env_vars.PATH", "message": "is reserved" }],
    });
    mock.with(|data| data.refusals.insert("POST /api/v1/managed_agents/agents".into(), (400, body)));
    let error = client(&mock).create_agent(&Default::default()).await.unwrap_err();
    expect![[r#"
        Api(
            ApiError {
                status: 400,
                code: "invalid_request",
                message: "The agent has 2 problems.",
                problems: [
                    Problem {
                        field: "model",
                        message: "is empty",
                    },
                    Problem {
                        field: "env_vars.PATH",
                        message: "is reserved",
                    },
                ],
            },
        )
    "#]]
    .assert_debug_eq(&error);
}

#[tokio::test]
async fn errors_are_sentences() {
    let mock = Mock::start().await;
    let wrong_key = client_with_key(&mock.url, "wrong").session("s").await.unwrap_err();
    expect!["unauthorized: the key is missing or wrong"].assert_eq(&wrong_key.to_string());
    mock.with(|data| data.refusals.insert("GET /api/v1/harnesses".into(), (502, json!("<html>"))));
    let not_ours = client(&mock).harnesses().await.unwrap_err();
    expect![[r#"the server answered with status 502: "<html>""#]].assert_eq(&not_ours.to_string());
    mock.with(|data| data.refusals.insert("GET /api/v1/harnesses".into(), (200, json!({ "a": 1 }))));
    let nonsense = client(&mock).harnesses().await.unwrap_err();
    assert!(matches!(nonsense, Error::Unintelligible { .. }), "{nonsense:?}");
    let unused = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let nobody = client_with_key(&format!("http://{unused}"), KEY).health().await.unwrap_err();
    assert_eq!(
        nobody.to_string(),
        format!("could not reach the server at http://{unused}: Connection refused (os error 111)")
    );
}

#[tokio::test]
async fn https_servers_need_a_trusted_certificate() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = certified.cert.pem();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let mock = Mock::start().await;
    let plain = mock.url.trim_start_matches("http://").to_owned();
    // TLS in front of the mock, as a reverse proxy would do it.
    let proxy = tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (acceptor, plain) = (acceptor.clone(), plain.clone());
            tokio::spawn(async move {
                let Ok(mut inside) = acceptor.accept(connection).await else { return };
                let mut upstream = tokio::net::TcpStream::connect(plain).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut upstream).await;
            });
        }
    });
    let config = |extra_ca_pem| ClientConfig { server: server_url(&url).unwrap(), key: None, extra_ca_pem };
    let trusting = Client::new(config(Some(pem.into_bytes()))).unwrap();
    assert!(trusting.health().await.unwrap().ready);
    let error = Client::new(config(None)).unwrap().health().await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let nothing = Client::new(config(Some(b"no certificate".to_vec()))).unwrap_err().to_string();
    expect!["could not read the extra CA certificates: there is no PEM certificate in it"].assert_eq(&nothing);
    proxy.abort();
}

#[test]
fn keys_do_not_show() {
    let config =
        ClientConfig { server: server_url("localhost:1").unwrap(), key: Some(ApiKey::new("k3y")), extra_ca_pem: None };
    assert!(!format!("{config:?}").contains("k3y"));
    assert!(!format!("{:?}", Client::new(config).unwrap()).contains("k3y"));
}

#[test]
fn server_addresses_are_read_as_people_write_them() {
    let read = |text: &str| server_url(text).map_or_else(|e| e.to_string(), |url| url.to_string());
    expect!["http://127.0.0.1:4773/"].assert_eq(&read(" 127.0.0.1:4773 "));
    expect!["https://lap.example.com/base"].assert_eq(&read("https://lap.example.com/base"));
    expect!["`ftp://x` is not a server address: it must begin with http:// or https://"].assert_eq(&read("ftp://x"));
    expect!["`host` is not a server address: it must not hold a user or password; the API key is given apart"]
        .assert_eq(&read("https://user:secret@host"));
    expect!["`http://h/?key=1` is not a server address: it must end before any `?` or `#`"]
        .assert_eq(&read("http://h/?key=1"));
}
