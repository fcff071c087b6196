//! What HTTP allows and clients use, one by one: interim answers, answers without bodies, trailers, gRPC, bodies in every form
//! and cut everywhere, proxies asked twice.
#![allow(clippy::unwrap_used)]

mod kit;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use kit::{Kit, reply, request};
use lap_domain::egress::Policy;
use lap_vault::ResolveOverride;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const SECRET: &str = "ghp_0123456789abcdefghijklmnopqrstuv";
const TOKEN: &str = "KEY=ghp_0123456789abcdefghijklmnopqrstuv @ api.test#body plain.test:80#body";

/// What comes back through the vault when a plain-http server answers a request with these bytes.
async fn relayed(head: &str, answer: &'static str) -> String {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.read(&mut [0; 1]).await;
    });
    let kit = Kit::with(&[], |grants| {
        grants.resolve.push(ResolveOverride::parse(&format!("raw.test={addr}")).unwrap());
    })
    .await;
    let mut stream = kit.connect("raw.test:80").await.unwrap();
    stream.write_all(format!("{head}\r\nHost: raw.test\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got).await;
    String::from_utf8_lossy(&got).into_owned()
}

#[tokio::test]
async fn interim_answers_do_not_disturb_the_real_one() {
    let got = relayed(
        "GET / HTTP/1.1",
        "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    )
    .await;
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("\r\n\r\nbody"), "{got}");
}

#[tokio::test]
async fn answers_without_bodies_have_none() {
    for (head, answer, keeps_length) in [
        ("HEAD / HTTP/1.1", "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n", true),
        ("GET / HTTP/1.1", "HTTP/1.1 204 No Content\r\n\r\n", false),
        ("GET / HTTP/1.1", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", false),
    ] {
        let got = relayed(head, answer).await;
        assert!(got.starts_with(&answer[..12]) && got.ends_with("\r\n\r\n"), "{got}");
        assert_eq!(got.contains("content-length: 77"), keeps_length, "{got}");
    }
}

#[tokio::test]
async fn trailers_pass_over_http1_both_ways() {
    let got = relayed(
        "GET / HTTP/1.1\r\nTE: trailers",
        "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n",
    )
    .await;
    assert!(got.ends_with("4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n"), "{got}");
    let kit = Kit::new(&[TOKEN]).await;
    let mut stream = kit.connect("plain.test:80").await.unwrap();
    let head =
        "POST / HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked";
    stream.write_all(format!("{head}\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n").as_bytes()).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    let seen = kit.seen().remove(0);
    assert_eq!((seen.body.as_slice(), seen.trailers.unwrap()["x-sum"].to_str().unwrap()), (&b"hi"[..], "7"));
}

#[tokio::test]
async fn grpc_carries_a_bearer_and_brings_its_status_in_trailers() {
    let kit = Kit::new(&["KEY=ghp_0123456789abcdefghijklmnopqrstuv @ api.test"]).await;
    let stub = kit.stub("KEY").to_owned();
    let bearer = format!("Bearer {stub}");
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("authorization", bearer.as_str())];
    let message = [&[0, 0, 0, 0, 36][..], stub.as_bytes()].concat();
    let mut sender = kit.http2("api.test").await;
    let asked = request("POST", "https://api.test/trailers", &headers, message.clone());
    let answer = reply(sender.send_request(asked).await.unwrap()).await;
    assert_eq!(answer.trailers.unwrap()["x-tail"], bearer.as_str(), "the value became its stub in the trailers");
    let seen = kit.seen().remove(0);
    assert_eq!((seen.version, seen.header("te")), (http::Version::HTTP_2, "trailers"));
    assert_eq!(seen.header("authorization"), format!("Bearer {SECRET}"));
    assert_eq!(seen.body, message, "messages stay as they are where no body is open");
}

#[tokio::test]
async fn a_proxy_that_refused_can_be_asked_again_on_the_same_connection() {
    let deny = Policy::parse(&[], &["evil.test".to_owned()], &[], &["127.0.0.0/8".to_owned()]).unwrap();
    let kit = Kit::with(&[], |grants| grants.policy = deny).await;
    let mut stream = TcpStream::connect(kit.proxy).await.unwrap();
    for (target, expected) in [("evil.test:80", "403"), ("nonsense", "400"), ("plain.test:80", "200")] {
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {expected}")), "{target}: {answer}");
        if let Some(length) = answer.lines().find_map(|line| line.strip_prefix("content-length: ")) {
            stream.read_exact(&mut vec![0; length.parse().unwrap()]).await.unwrap();
        }
    }
    stream.write_all(b"GET /after HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("GET /after\n"), "{answer}");
}

#[tokio::test]
async fn stubs_are_found_wherever_chunks_and_frames_cut_them() {
    let kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("KEY").to_owned();
    let text = format!("before {stub} after");
    for cut in 1..text.len() {
        let (a, b) = text.split_at(cut);
        let mut stream = kit.connect("plain.test:80").await.unwrap();
        let head = "POST / HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\nTransfer-Encoding: chunked";
        let body = format!("{:x}\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n\r\n", a.len(), b.len());
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(kit.seen().remove(0).body, format!("before {SECRET} after").into_bytes(), "chunks cut at {cut}");
    }
    let mut sender = kit.http2("api.test").await;
    for cut in 1..text.len() {
        let (a, b) = text.split_at(cut);
        let frames = [a, b]
            .map(|piece| Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Frame::data(Bytes::from(piece.to_owned()))));
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
        let request = http::Request::post("https://api.test/").body(body).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        assert_eq!(kit.seen().remove(0).body, format!("before {SECRET} after").into_bytes(), "frames cut at {cut}");
    }
}

#[tokio::test]
async fn bodies_of_every_kind_are_swapped() {
    use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
    let kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("KEY").to_owned();
    let form = format!("--b\r\nContent-Disposition: form-data; name=\"k\"\r\n\r\n{stub}\r\n--b--\r\n");
    let reply = kit.post("api.test", "/", &[("content-type", "multipart/form-data; boundary=b")], form.clone()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(kit.seen().remove(0).body, form.replace(&stub, SECRET).into_bytes());
    macro_rules! packed {
        ($coding:literal, $encoder:ident) => {
            let mut encoder = $encoder::new(Vec::new());
            encoder.write_all(format!("k={stub}").as_bytes()).await.unwrap();
            encoder.shutdown().await.unwrap();
            let reply = kit.post("api.test", "/", &[("content-encoding", $coding)], encoder.into_inner()).await;
            assert_eq!(reply.status, 200, "{}: {}", $coding, reply.body);
            let seen = kit.seen().remove(0);
            assert_eq!(seen.header("content-encoding"), "");
            assert_eq!(seen.body, format!("k={SECRET}").into_bytes(), "{}", $coding);
        };
    }
    packed!("gzip", GzipEncoder);
    packed!("br", BrotliEncoder);
    packed!("zstd", ZstdEncoder);
    packed!("deflate", ZlibEncoder);
}

#[tokio::test]
async fn nonsense_over_http1_is_400() {
    let kit = Kit::new(&[]).await;
    for head in [
        "GET / HTTP/1.1\r\nHost plain.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: plain.test\r\nX: a\x00b\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: plain.test\r\n\r\n",
        "GET /\u{7f} HTTP/1.1\r\nHost: plain.test\r\nContent-Length: x\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = kit.connect("plain.test:80").await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
    }
    assert!(kit.seen().is_empty());
}
