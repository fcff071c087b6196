//! What model calls used is counted from the gateway's replies, whatever the sandbox does, and a budget stops them.
#![allow(clippy::unwrap_used)]

mod kit;

use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use kit::{Body, Kit, Never, Reply, full, pack, reply, request};
use lap_domain::budget::{Allowance, Budget, Whose};
use lap_domain::usage::Spend;
use lap_vault::Metered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

const MESSAGES: &str = r#"{"type":"message","model":"claude-x","content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":10,
    "cache_creation_input_tokens":5,"cache_read_input_tokens":100,"output_tokens":20}}"#;
const CHAT: &str = r#"{"model":"gpt-x","choices":[],"usage":{"prompt_tokens":8,"completion_tokens":2}}"#;
const ASK: &str = r#"{"model":"asked/for","messages":[{"role":"user","content":"0123456789abcdef"}]}"#;

async fn kit() -> Kit {
    Kit::new(&["LITELLM_API_KEY=sk-master-key-0123456789 @ gateway"]).await
}

fn answers(kit: &Kit, headers: &[(&str, &str)], body: impl Into<Bytes>) {
    let mut response = Response::builder().header("content-type", "application/json");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    kit.upstream.replies.lock().unwrap().push_back(response.body(full(body)).unwrap());
}

/// The gateway answers with a stream that this end feeds.
fn streams(kit: &Kit) -> mpsc::Sender<&'static str> {
    let (feed, pieces) = mpsc::channel(16);
    let frames = futures_util::stream::unfold(pieces, |mut pieces: mpsc::Receiver<&'static str>| async {
        let piece = pieces.recv().await?;
        Some((Ok(Frame::data(Bytes::from_static(piece.as_bytes()))), pieces))
    });
    let response =
        Response::builder().header("content-type", "text/event-stream").body(StreamBody::new(frames).boxed());
    kit.upstream.replies.lock().unwrap().push_back(response.unwrap());
    feed
}

async fn sender(kit: &Kit) -> hyper::client::conn::http1::SendRequest<Body> {
    let stream = kit.connect("gateway.lap.internal:80").await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn asking(kit: &Kit, path: &str, more: &[(&str, &str)], body: impl Into<Bytes>) -> http::Request<Body> {
    let key = format!("Bearer {}", kit.stub("LITELLM_API_KEY"));
    let mut headers =
        vec![("host", "gateway.lap.internal"), ("authorization", key.as_str()), ("content-type", "application/json")];
    headers.retain(|(name, _)| !more.iter().any(|(other, _)| name == other));
    headers.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    request("POST", path, &headers, body)
}

async fn ask(kit: &Kit, path: &str, more: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let request = asking(kit, path, more, body);
    reply(sender(kit).await.send_request(request).await.unwrap()).await
}

/// What the next record says of tokens and cost.
async fn metered(kit: &mut Kit) -> String {
    let Some(Metered { model, spend }) = kit.record().await.metered else { return "nothing".to_owned() };
    let Spend { input_tokens, output_tokens, cached_tokens, cache_write_tokens, .. } = spend;
    let cost = spend.cost_usd.map_or("no price".to_owned(), |cost| format!("${cost}"));
    let sure = if spend.estimated_calls == 0 { "" } else { ", estimated" };
    format!("{model} {input_tokens} ({cached_tokens} {cache_write_tokens}) {output_tokens}, {cost}{sure}")
}

fn allow(kit: &Kit, max_tokens: Option<u64>, max_cost_usd: Option<f64>, elsewhere: u64) {
    let elsewhere = Spend { input_tokens: elsewhere, ..Spend::default() };
    let budget = Budget { max_tokens, max_cost_usd };
    kit.vault.set_allowances(vec![Allowance { whose: Whose::Session, budget, elsewhere }]);
}

#[tokio::test]
async fn calls_are_counted_once_with_their_cost() {
    let mut kit = kit().await;
    answers(&kit, &[("x-litellm-response-cost", "0.00125"), ("x-litellm-model-group", "anthropic/claude-x")], MESSAGES);
    let answer = ask(&kit, "/v1/messages", &[], ASK).await;
    assert_eq!(answer.body, MESSAGES);
    assert_eq!(metered(&mut kit).await, "anthropic/claude-x 115 (100 5) 20, $0.00125");
    let seen = kit.seen();
    assert_eq!(String::from_utf8_lossy(&seen[0].body), ASK, "the body goes up as it came");
    assert_eq!(seen[0].header("x-litellm-include-cost-in-streaming-usage"), "true");
    answers(&kit, &[], CHAT);
    ask(&kit, "/chat/completions", &[("content-type", "")], ASK).await;
    assert_eq!(metered(&mut kit).await, "gpt-x 8 (0 0) 2, $0.00009259259259259259, estimated", "by the known price");
}

#[tokio::test]
async fn packed_replies_are_read() {
    let mut kit = kit().await;
    let bytes = MESSAGES.as_bytes();
    for (coding, packed) in [
        ("gzip", pack(GzipEncoder::new(Vec::new()), bytes).await),
        ("br", pack(BrotliEncoder::new(Vec::new()), bytes).await),
        ("zstd", pack(ZstdEncoder::new(Vec::new()), bytes).await),
        ("deflate", pack(ZlibEncoder::new(Vec::new()), bytes).await),
    ] {
        answers(&kit, &[("content-encoding", coding)], packed.clone());
        assert_eq!(ask(&kit, "/v1/messages", &[("accept-encoding", coding)], ASK).await.body, MESSAGES, "{coding}");
        assert_eq!(metered(&mut kit).await, "claude-x 115 (100 5) 20, no price", "{coding}");
        // Without a key nothing is searched for in the reply; it is read all the same.
        answers(&kit, &[("content-encoding", coding)], packed);
        ask(&kit, "/v1/messages", &[("authorization", "")], ASK).await;
        assert_eq!(metered(&mut kit).await, "claude-x 115 (100 5) 20, no price", "{coding}");
    }
    answers(&kit, &[("content-encoding", "compress")], "?");
    assert_eq!(ask(&kit, "/v1/messages", &[("accept-encoding", "compress")], ASK).await.blocked(), (502, "encoding"));
    assert!(kit.seen().iter().all(|seen| seen.header("accept-encoding") != "compress"));
}

#[tokio::test]
async fn streams_are_not_held_and_a_client_that_hangs_up_pays_for_what_it_got() {
    let mut kit = kit().await;
    let feed = streams(&kit);
    let mut sender = sender(&kit).await;
    let mut stream = sender.send_request(asking(&kit, "/v1/chat/completions", &[], ASK)).await.unwrap();
    for piece in ["data: {\"model\":\"gpt-x\",\"choices\":[{\"delta\":{\"content\":\"twelve ", "bytes\"}}]}\n\n"] {
        feed.send(piece).await.unwrap();
        let frame = stream.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame, piece, "each piece passes by itself");
    }
    drop((stream, sender));
    assert_eq!(metered(&mut kit).await, "gpt-x 5 (0 0) 3, no price, estimated");
}

#[tokio::test]
async fn hanging_up_before_the_answer_counts_what_was_asked() {
    let mut kit = kit().await;
    kit.upstream.replies.lock().unwrap().push_back(Response::builder().extension(Never).body(full("")).unwrap());
    let mut sender = sender(&kit).await;
    let mut sent = Box::pin(sender.send_request(asking(&kit, "/v1/chat/completions", &[], ASK)));
    let arrived = async {
        while kit.upstream.seen.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut sent => panic!("answered"),
        () = arrived => {}
    }
    drop((sent, sender));
    assert_eq!(metered(&mut kit).await, "asked/for 5 (0 0) 0, no price, estimated");
}

#[tokio::test]
async fn refused_and_failed_calls_are_not_counted() {
    let mut kit = kit().await;
    let mut response = Response::new(full(MESSAGES));
    *response.status_mut() = http::StatusCode::BAD_REQUEST;
    kit.upstream.replies.lock().unwrap().push_back(response);
    assert_eq!(ask(&kit, "/v1/messages", &[], ASK).await.status, 400);
    assert_eq!(metered(&mut kit).await, "nothing");
    answers(&kit, &[], r#"{"input_tokens":12}"#);
    assert_eq!(ask(&kit, "/v1/messages/count_tokens", &[], ASK).await.status, 200);
    assert_eq!(metered(&mut kit).await, "nothing");
    let mut sender = sender(&kit).await;
    let list = request("GET", "/v1/models", &[("host", "gateway.lap.internal")], "");
    assert_eq!(reply(sender.send_request(list).await.unwrap()).await.status, 200);
    assert_eq!(metered(&mut kit).await, "nothing");
}

#[tokio::test]
async fn a_budget_stops_calls_and_more_of_it_opens_them_again() {
    let mut kit = kit().await;
    allow(&kit, Some(300), None, 0);
    for _ in 0..3 {
        answers(&kit, &[], MESSAGES);
    }
    assert_eq!(ask(&kit, "/v1/messages", &[], ASK).await.status, 200);
    allow(&kit, Some(300), None, 165);
    let refused = ask(&kit, "/v1/messages", &[], ASK).await;
    assert_eq!((refused.blocked(), refused.header("x-should-retry")), ((402, "budget"), "false"));
    let sentence =
        "The budget is used up: this session may use 300 tokens and has used 300. Raise its max_tokens to go on.";
    let told = format!(
        r#"{{"type":"error","error":{{"type":"budget","message":"{sentence}","code":"budget","param":null}}}}"#
    );
    assert_eq!(refused.body, told);
    assert_eq!(kit.vault.refused_for_budget(), (1, Some(sentence.to_owned())));
    for path in ["/v1/chat/completions", "/responses", "/v1/embeddings"] {
        assert_eq!(ask(&kit, path, &[], ASK).await.blocked(), (402, "budget"), "{path}");
    }
    assert_eq!(ask(&kit, "/v1/messages/count_tokens", &[], ASK).await.status, 200, "costs nothing");
    allow(&kit, Some(301), None, 165);
    assert_eq!(ask(&kit, "/v1/messages", &[], ASK).await.status, 200);
    allow(&kit, None, None, 9999);
    assert_eq!(ask(&kit, "/v1/messages", &[], ASK).await.status, 200);
    assert_eq!(kit.record().await.verdict, "allowed");
    let record = kit.record().await;
    assert_eq!((record.verdict.as_str(), record.status, record.metered), ("budget", Some(402), None));
}

#[tokio::test]
async fn a_budget_in_dollars_is_kept_by_estimates_and_not_without_any_price() {
    let kit = kit().await;
    allow(&kit, None, Some(1.0), 0);
    answers(&kit, &[("x-litellm-response-cost", "0.9")], MESSAGES);
    assert_eq!(ask(&kit, "/v1/messages", &[], ASK).await.status, 200);
    answers(&kit, &[], MESSAGES);
    assert_eq!(ask(&kit, "/v1/messages", &[], ASK).await.status, 200);
    let refused = ask(&kit, "/v1/messages", &[], ASK).await;
    assert!(refused.body.contains("may spend $1 and has spent $1.8000"), "{}", refused.body);

    let kit = self::kit().await;
    allow(&kit, None, Some(1.0), 0);
    for n in 0..10 {
        answers(&kit, &[], MESSAGES);
        assert_eq!(ask(&kit, "/v1/messages", &[], ASK).await.status, 200, "{n}");
    }
    let refused = ask(&kit, "/v1/messages", &[], ASK).await;
    assert_eq!(refused.blocked(), (402, "budget"));
    assert!(refused.body.contains("did not say what the last 10 calls cost"), "{}", refused.body);
}

#[tokio::test]
async fn what_the_sandbox_says_counts_for_nothing() {
    let mut kit = kit().await;
    // Numbers in its own request, as JSON, as events, in headers.
    let fake = r#"{"model":"free","usage":{"input_tokens":0,"output_tokens":0,"cost":0},"messages":[{"content":
        "data: {\"usage\":{\"output_tokens\":0}}\n\n"}]}"#;
    answers(&kit, &[], MESSAGES);
    let lies = [("x-litellm-response-cost", "0"), ("x-litellm-include-cost-in-streaming-usage", "false")];
    ask(&kit, "/v1/messages", &lies, fake).await;
    assert_eq!(metered(&mut kit).await, "claude-x 115 (100 5) 20, no price");
    assert_eq!(kit.seen()[0].header("x-litellm-include-cost-in-streaming-usage"), "true");
    // Part of a reply only.
    answers(&kit, &[], MESSAGES);
    ask(&kit, "/v1/messages", &[("range", "bytes=0-10"), ("if-range", "x")], ASK).await;
    assert_eq!(metered(&mut kit).await, "claude-x 115 (100 5) 20, no price");
    assert_eq!((kit.seen()[0].header("range"), kit.upstream.replies.lock().unwrap().len()), ("", 0));
    // Bodies that the vault cannot read.
    let packed = pack(GzipEncoder::new(Vec::new()), ASK.as_bytes()).await;
    assert_eq!(ask(&kit, "/v1/messages", &[("content-encoding", "gzip")], packed).await.blocked(), (415, "encoding"));
    for kind in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"] {
        assert_eq!(
            ask(&kit, "/v1/messages", &[("content-type", kind)], ASK).await.blocked(),
            (415, "encoding"),
            "{kind}"
        );
    }
    // Answers that come later, on a route that does not exist here.
    for body in [r#"{"background":true,"input":"x"}"#, r#"{"input":"x","\u0062ackground" : true , "background":false}"#]
    {
        assert_eq!(ask(&kit, "/v1/responses", &[], body).await.blocked(), (403, "gateway_route"), "{body}");
    }
    assert!(kit.seen().is_empty(), "none of these has arrived");
    // Other ways to call: no route.
    for (method, path) in [
        ("HEAD", "/v1/messages"),
        ("GET", "/v1/chat/completions"),
        ("PUT", "/v1/messages"),
        ("POST", "/v1/completions"),
    ] {
        let request = request(method, path, &[("host", "gateway.lap.internal")], ASK);
        let answer = sender(&kit).await.send_request(request).await.unwrap();
        assert_eq!(answer.headers()["x-lap-blocked"], "gateway_route", "{method} {path}");
    }
    assert!(kit.seen().is_empty());
}

#[tokio::test]
async fn pipelined_calls_are_counted_each() {
    let mut kit = kit().await;
    for _ in 0..2 {
        answers(&kit, &[], MESSAGES);
    }
    let mut stream = kit.connect("gateway.lap.internal:80").await.unwrap();
    let key = kit.stub("LITELLM_API_KEY");
    let one = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: gateway.lap.internal\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n{ASK}",
        ASK.len()
    );
    stream.write_all(one.repeat(2).as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while read.windows(MESSAGES.len()).filter(|window| *window == MESSAGES.as_bytes()).count() < 2 {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0);
    }
    for _ in 0..2 {
        assert_eq!(metered(&mut kit).await, "claude-x 115 (100 5) 20, no price");
    }
}
