//! HTTP/2, trailers and other corners of the protocols, and what hostile clients make of them.
#![allow(clippy::unwrap_used)]

mod kit;

use std::pin::Pin;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use kit::{Kit, reply, request};

const SECRET: &str = "ghp_0123456789abcdefghijklmnopqrstuv";
const TOKEN: &str = "GITHUB_TOKEN=ghp_0123456789abcdefghijklmnopqrstuv @ api.test#body";

#[tokio::test]
async fn http2_both_ways_with_trailers() {
    let kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("GITHUB_TOKEN").to_owned();
    let mut sender = kit.http2("api.test").await;
    let request = request("GET", "https://api.test/trailers", &[("authorization", &stub), ("te", "trailers")], "");
    let answer = reply(sender.send_request(request).await.unwrap()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "body"));
    assert_eq!(answer.trailers.unwrap()["x-tail"], stub.as_str());
    let seen = kit.seen().remove(0);
    assert_eq!(
        (seen.version, seen.header("authorization"), seen.header("te")),
        (http::Version::HTTP_2, SECRET, "trailers")
    );
    assert_eq!(seen.header("host"), "", "HTTP/2 has its :authority");

    let tail =
        http::HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("7"))]);
    let frames: Vec<Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>> = vec![
        Ok(Frame::data(Bytes::from(stub[..9].to_owned()))),
        Ok(Frame::data(Bytes::from(stub[9..].to_owned()))),
        Ok(Frame::trailers(tail)),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
    let request = http::Request::post("https://api.test/").body(body).unwrap();
    let answer = reply(sender.send_request(request).await.unwrap()).await;
    assert_eq!(answer.status, 200);
    let seen = kit.seen().remove(0);
    assert_eq!(seen.body, SECRET.as_bytes(), "the stub was split between frames");
    assert_eq!(seen.trailers.unwrap()["x-sum"], "7");
}

#[tokio::test]
async fn cookies_that_http2_cut_are_judged_and_swapped_one_by_one() {
    let kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("GITHUB_TOKEN").to_owned();
    let mut sender = kit.http2("evil.test").await;
    let cookie = format!("s={stub}");
    let request = request("GET", "https://evil.test/", &[("cookie", "a=b"), ("cookie", &cookie)], "");
    assert_eq!(reply(sender.send_request(request).await.unwrap()).await.blocked(), (403, "misdirected_stub"));
    assert!(kit.seen().is_empty());
}

#[tokio::test]
async fn a_message_that_ends_like_a_stub_begins_does_not_wait_for_ever() {
    let kit = Kit::new(&[TOKEN]).await;
    let (feed, frames) = tokio::sync::mpsc::channel::<Bytes>(4);
    let frames = futures_util::stream::unfold(frames, |mut frames| async move {
        let piece = frames.recv().await?;
        Some((Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Frame::data(piece)), frames))
    });
    let body = StreamBody::new(Box::pin(frames) as Pin<Box<dyn futures_util::Stream<Item = _> + Send + Sync>>).boxed();
    let mut sender = kit.http2("api.test").await;
    let request = http::Request::post("https://api.test/").body(body).unwrap();
    let response = tokio::spawn(sender.send_request(request));
    feed.send(Bytes::from_static(b"message s")).await.unwrap();
    // The record's channel is the event that tells when everything is over; here only the bytes count.
    feed.send(Bytes::from_static(b"tub_github_ of another kind")).await.unwrap();
    drop(feed);
    assert_eq!(reply(response.await.unwrap().unwrap()).await.status, 200);
    assert_eq!(kit.seen().remove(0).body, b"message stub_github_ of another kind");
}

#[tokio::test]
async fn upgrades_to_anything_but_websockets_are_not_passed_on() {
    let kit = Kit::new(&[TOKEN]).await;
    let headers = [
        ("connection", "Upgrade, HTTP2-Settings, X-Gone"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ("x-gone", "1"),
    ];
    let answer = kit.get("api.test", "/", &headers).await;
    assert_eq!(answer.status, 200);
    let seen = kit.seen().remove(0);
    for name in ["upgrade", "connection", "http2-settings", "x-gone"] {
        assert_eq!(seen.header(name), "", "{name}");
    }
}

#[tokio::test]
async fn connect_inside_a_connection_is_refused() {
    let kit = Kit::new(&[TOKEN]).await;
    let request = http::Request::builder()
        .method("CONNECT")
        .uri("api.test:443")
        .header("host", "api.test:443")
        .body(kit::full(""))
        .unwrap();
    let answer = kit.http1("api.test").await.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(kit.seen().is_empty());
}

#[tokio::test]
async fn a_stub_published_by_the_agent_stays_a_stub() {
    let kit = Kit::new(&["GITHUB_TOKEN=ghp_0123456789abcdefghijklmnopqrstuv @ api.test"]).await;
    let stub = kit.stub("GITHUB_TOKEN").to_owned();
    // A public comment, a file name, a search: on the very host the credential is bound to.
    let comment = format!("{{\"body\":\"{stub}\"}}");
    let headers = [("authorization", stub.as_str()), ("content-type", "application/json"), ("x-title", stub.as_str())];
    kit.post("api.test", &format!("/repos/x/{stub}?q={stub}"), &headers, comment.clone()).await;
    let seen = kit.seen().remove(0);
    assert_eq!(seen.line, format!("POST /repos/x/{stub}?q={stub}"));
    assert_eq!(seen.body, comment.as_bytes());
    assert_eq!((seen.header("x-title"), seen.header("authorization")), (stub.as_str(), SECRET));
}

#[tokio::test]
async fn bombs_are_refused() {
    use tokio::io::AsyncWriteExt as _;
    let kit = Kit::new(&[TOKEN]).await;
    let mut encoder = async_compression::tokio::write::BrotliEncoder::new(Vec::new());
    encoder.write_all(&vec![0; 8 << 20]).await.unwrap();
    encoder.shutdown().await.unwrap();
    let packed = encoder.into_inner();
    assert!(packed.len() < 4096);
    let answer = kit.post("api.test", "/", &[("content-encoding", "br")], packed).await;
    assert_eq!(answer.status, 502, "{}", answer.body);
}

#[tokio::test]
async fn secrets_show_in_no_debug_output_and_no_record() {
    let mut kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("GITHUB_TOKEN").to_owned();
    kit.post("api.test", &format!("/{SECRET}?x={SECRET}"), &[("authorization", &stub)], stub.clone()).await;
    let record = kit.record().await;
    assert_eq!(record.credentials, ["GITHUB_TOKEN"]);
    assert_eq!(record.path, format!("/{stub}?x=***"));
    let shown = format!("{:?} {:?}", kit.vault, kit::credential(TOKEN));
    assert!(!shown.contains(SECRET), "{shown}");
}
