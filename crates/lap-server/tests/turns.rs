//! Messages, their answers whole and streamed, and the log: nothing lost, nothing twice.

mod kit;

use http::StatusCode;
use kit::{Events, SentEvent, Server};
use lap_api::event::{DeltaKind, EventKind};
use lap_domain::ids::TurnId;
use serde_json::json;

const HELLO: &str = r#"{"text":"hello"}"#;

fn path(session: &str, route: &str) -> String {
    format!("/api/v1/managed_agents/sessions/{session}/{route}")
}

fn started(turn: &TurnId) -> EventKind {
    EventKind::TurnStarted { turn_id: turn.to_string() }
}

fn delta(turn: &TurnId, text: &str) -> EventKind {
    let (turn_id, part_id) = (turn.to_string(), "p".to_owned());
    EventKind::MessageDelta { turn_id, part_id, kind: DeltaKind::Text, delta: text.to_owned() }
}

#[tokio::test]
async fn a_message_is_answered() {
    let server = Server::start().await;
    let session = server.ready_session().await;
    let request = server.request(&format!("POST {}", path(&session, "message")), Some(HELLO));
    let (answer, ()) = tokio::join!(server.send(request), async {
        let turn = server.take_turn(&session).await;
        server.complete(&session, &turn, "hi").await;
    });
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.json()["parts"], json!([{ "type": "text", "id": "p", "text": "hi" }]));
    assert_eq!(answer.json()["info"]["role"], "assistant");
    let conversation = server.call(&format!("GET {}", path(&session, "messages")), None).await.json();
    assert_eq!(conversation[0]["parts"][0]["text"], "hello");
    server.stop().await;
}

async fn check_failed_turn(code: &str, error: &str, status: u16, answer_code: &str) {
    let server = Server::start().await;
    let session = server.ready_session().await;
    let request = server.request(&format!("POST {}", path(&session, "message")), Some(HELLO));
    let (answer, ()) = tokio::join!(server.send(request), async {
        let turn = server.take_turn(&session).await;
        server.fail(&session, &turn, code, error).await;
    });
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), body["code"].as_str()), (status, Some(answer_code)), "{}", answer.text());
    assert_eq!(body["error"].as_str(), Some("The model said no."));
    server.stop().await;
}

#[tokio::test]
async fn a_failed_turn_is_502_and_an_aborted_one_409() {
    check_failed_turn("harness_failed", "the model said no", 502, "harness_failed").await;
    check_failed_turn("aborted", "the model said no", 409, "conflict").await;
}

#[tokio::test]
async fn a_repeated_key_answers_again_without_a_second_turn() {
    let server = Server::start().await;
    let session = server.ready_session().await;
    let keyed = |body: &str| {
        let mut request = server.request(&format!("POST {}", path(&session, "message")), Some(body));
        request.headers_mut().insert("idempotency-key", http::HeaderValue::from_static("once"));
        server.send(request)
    };
    let (first, ()) = tokio::join!(keyed(HELLO), async {
        let turn = server.take_turn(&session).await;
        server.complete(&session, &turn, "hi").await;
    });
    let repeat = keyed("{ \"text\" : \"hello\" }").await;
    assert_eq!((repeat.status, repeat.json()), (first.status, first.json()));
    let other = keyed(r#"{"text":"something else"}"#).await;
    assert_eq!((other.status.as_u16(), &other.json()["code"]), (422, &json!("idempotency_mismatch")));
    let conversation = server.call(&format!("GET {}", path(&session, "messages")), None).await.json();
    assert_eq!(conversation.as_array().map(|all| all.iter().filter(|m| m["info"]["role"] == "user").count()), Some(1));

    let mut streamed = server.request(&format!("POST {}", path(&session, "message_stream")), Some(HELLO));
    streamed.headers_mut().insert("idempotency-key", http::HeaderValue::from_static("once"));
    let names = Events::of(server.open(streamed).await).names().await;
    assert_eq!(names, ["turn.completed"]);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_shows_its_turn_and_ends() {
    let server = Server::start().await;
    let session = server.ready_session().await;
    // Another turn comes first; nothing of it may show.
    let first = server.request(&format!("POST {}", path(&session, "message")), Some(HELLO));
    let first = server.send(first);
    let rest = async {
        let turn = server.take_turn(&session).await;
        let request = server.request(&format!("POST {}", path(&session, "message_stream")), Some(HELLO));
        let stream = Events::of(server.open(request).await);
        server.turn_event(&session, &turn, delta(&turn, "not this")).await;
        server.complete(&session, &turn, "nor this").await;
        let turn = server.take_turn(&session).await;
        server.turn_event(&session, &turn, started(&turn)).await;
        server.turn_event(&session, &turn, delta(&turn, "wo")).await;
        server.turn_event(&session, &turn, delta(&turn, "rds")).await;
        server.complete(&session, &turn, "words").await;
        stream.names().await
    };
    let (_, names) = tokio::join!(first, rest);
    assert_eq!(names, ["turn.started", "message.delta", "message.delta", "turn.completed"]);
    server.stop().await;
}

#[tokio::test]
async fn a_failed_turn_ends_its_stream() {
    let server = Server::start().await;
    let session = server.ready_session().await;
    let request = server.request(&format!("POST {}", path(&session, "message_stream")), Some(HELLO));
    let stream = Events::of(server.open(request).await);
    let turn = server.take_turn(&session).await;
    server.fail(&session, &turn, "harness_failed", "no").await;
    assert_eq!(stream.names().await, ["turn.failed"]);
    server.stop().await;
}

#[tokio::test]
async fn a_session_that_ends_ends_its_streams_and_waits() {
    let server = Server::start().await;
    let session = server.ready_session().await;
    let request = server.request(&format!("POST {}", path(&session, "message_stream")), Some(HELLO));
    let stream = Events::of(server.open(request).await);
    let message = server.send(server.request(&format!("POST {}", path(&session, "message")), Some(HELLO)));
    let stop = async {
        server.take_turn(&session).await;
        server.call(&format!("POST {}", path(&session, "stop")), None).await
    };
    let (answer, stopped) = tokio::join!(message, stop);
    assert_eq!(stopped.json()["status"], "dead");
    assert!(matches!(answer.status.as_u16(), 409 | 502), "{}", answer.text());
    assert_eq!(stream.names().await, ["turn.failed"]);
    server.stop().await;
}

async fn log(server: &Server, session: &str, after: Option<u64>, header: Option<u64>) -> Events {
    let query = after.map(|after| format!("?after={after}")).unwrap_or_default();
    let mut request = server.request(&format!("GET {}{query}", path(session, "events")), None);
    if let Some(id) = header {
        request.headers_mut().insert("last-event-id", id.into());
    }
    Events::of(server.open(request).await)
}

#[tokio::test]
async fn the_log_resumes_anywhere() {
    let server = Server::start().await;
    let session = server.ready_session().await;
    let request = server.request(&format!("POST {}", path(&session, "message")), Some(HELLO));
    let (_, ()) = tokio::join!(server.send(request), async {
        let turn = server.take_turn(&session).await;
        for word in ["a", "b", "c"] {
            server.turn_event(&session, &turn, delta(&turn, word)).await;
        }
        server.complete(&session, &turn, "abc").await;
    });
    let page = server.call_json(&format!("GET {}?limit=200", path(&session, "events"))).await;
    let all = page["data"].as_array().expect("events").clone();
    assert_eq!(all.first().map(|event| &event["type"]), Some(&json!("session.state")));
    assert_eq!(all.last().map(|event| &event["type"]), Some(&json!("turn.completed")));
    assert_eq!(page["next_after"], all.last().expect("events")["id"]);
    for from in 0..all.len() {
        let after = if from == 0 { 0 } else { all[from - 1]["id"].as_u64().expect("an id") };
        let mut stream = log(&server, &session, Some(0).filter(|_| from % 2 == 0), Some(after)).await;
        for expected in &all[from..] {
            let SentEvent { id, name, data } = stream.next().await.expect("an event");
            assert_eq!((&json!(id), &json!(name), &data), (&expected["id"], &expected["type"], expected));
        }
    }
    let mut newest = log(&server, &session, all.last().expect("events")["id"].as_u64(), None).await;
    let stop = format!("POST {}", path(&session, "stop"));
    let (event, _) = tokio::join!(newest.next(), server.call(&stop, None));
    assert_eq!(event.expect("an event").data["data"]["status"], "dead");
    // Deleting ends who still reads.
    let delete = format!("DELETE /api/v1/managed_agents/sessions/{session}");
    let (end, _) = tokio::join!(newest.next(), server.call(&delete, None));
    assert_eq!(end, None);
    server.stop().await;
}

#[tokio::test]
async fn stopping_the_server_ends_streams_and_waits_at_once() {
    let server = Server::start().await;
    let session = server.ready_session().await;
    let mut stream = log(&server, &session, None, None).await;
    stream.next().await.expect("the log has a beginning");
    let message = server.request(&format!("POST {}", path(&session, "message")), Some(HELLO));
    let client = server.client();
    let sending = tokio::spawn(async move { client.request(message).await.expect("an answer").status() });
    server.take_turn(&session).await;
    let began = std::time::Instant::now();
    server.stop().await;
    assert_eq!(sending.await.expect("a status"), StatusCode::SERVICE_UNAVAILABLE);
    while stream.next().await.is_some() {}
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "streams and waits end by themselves");
}

#[tokio::test]
async fn silent_connections_do_not_hold_up_the_end() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let server = Server::start().await;
    let mut silent = tokio::net::TcpStream::connect(server.address).await.expect("a connection");
    let mut used = tokio::net::TcpStream::connect(server.address).await.expect("a connection");
    used.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a request is sent");
    used.read_exact(&mut [0; 12]).await.expect("an answer begins");
    let began = std::time::Instant::now();
    server.stop().await;
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "idle connections are closed at once");
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.expect("the connection is closed in order");
    assert_eq!(rest, b"");
    used.read_to_end(&mut rest).await.expect("the connection is closed in order");
}
