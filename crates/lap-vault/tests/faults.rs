//! What happens when either side breaks off, stalls or talks nonsense.
#![allow(clippy::unwrap_used)]

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::BodyExt as _;
use kit::{Kit, request};
use lap_vault::ResolveOverride;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A vault before a plain-http server that answers every connection with these bytes and closes.
async fn broken(answer: &'static [u8]) -> Kit {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = server.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    Kit::with(&["KEY=ghp_0123456789abcdefghijklmnopqrstuv @ broken.test:80"], |g| {
        g.resolve.push(ResolveOverride::parse(&format!("broken.test={addr}")).unwrap());
    })
    .await
}

async fn ask(kit: &Kit, target: &str, head: &str) -> String {
    let mut stream = kit.connect(target).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: broken.test\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn servers_that_talk_nonsense_are_502() {
    for answer in [
        &b""[..],
        b"\x00\x01\x02garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nBad Header\x01: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let kit = broken(answer).await;
        let got = ask(&kit, "broken.test:80", GET).await;
        assert!(got.starts_with("HTTP/1.1 502") && got.contains("x-lap-blocked: upstream"), "{answer:?}: {got}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off() {
    let mut kit = broken(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").await;
    let got = ask(&kit, "broken.test:80", GET).await;
    assert!(got.contains("content-length: 100") && got.ends_with("only this"), "{got}");
    assert_eq!(kit.record().await.status, Some(200));
    let kit = broken(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let got = ask(&kit, "broken.test:80", GET).await;
    assert!(!got.ends_with("0\r\n\r\n"), "a broken body must not look whole: {got}");
}

/// More than sockets and buffers of the whole way hold.
const AHEAD: u64 = 32 << 20;

#[tokio::test]
async fn an_answer_faster_than_its_reader_is_not_kept_in_memory() {
    let pushed = Arc::new(AtomicU64::new(0));
    let mut read = 0;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr().unwrap();
    let counted = pushed.clone();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
        let piece = vec![b'x'; 64 << 10];
        while stream.write_all(&piece).await.is_ok() {
            counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    });
    let kit = Kit::with(&["KEY=ghp_0123456789abcdefghijklmnopqrstuv @ fast.test:80"], |g| {
        g.resolve.push(ResolveOverride::parse(&format!("fast.test={addr}")).unwrap());
    })
    .await;
    let mut stream = kit.connect("fast.test:80").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: fast.test\r\n\r\n").await.unwrap();
    let mut piece = [0; 4096];
    while read < 4 << 20 {
        read += stream.read(&mut piece).await.unwrap() as u64;
        // The server and the vault have the processor far more often than the reader.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let ahead = pushed.load(Ordering::Relaxed).saturating_sub(read);
        assert!(ahead < AHEAD, "{ahead} bytes are on their way to a reader that took {read}");
    }
}

#[tokio::test]
async fn a_header_of_the_server_with_the_code_of_a_refusal_is_not_passed_on() {
    let kit = broken(b"HTTP/1.1 200 OK\r\nx-lap-blocked: denied\r\nAlt-Svc: h3\r\nContent-Length: 0\r\n\r\n").await;
    let got = ask(&kit, "broken.test:80", GET).await;
    assert!(got.starts_with("HTTP/1.1 200") && !got.contains("x-lap-blocked") && !got.contains("alt-svc"), "{got}");
}

#[tokio::test]
async fn clients_that_leave_end_their_request() {
    let mut kit = Kit::new(&[]).await;
    // Before the head of the answer, and in the middle of its body.
    let mut stream = kit.connect("plain.test:80").await.unwrap();
    stream.write_all(b"GET /never HTTP/1.1\r\nHost: plain.test\r\n\r\n").await.unwrap();
    while kit.upstream.seen.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(stream);
    assert_eq!((kit.record().await.path.as_str(), kit.seen().len()), ("/never", 1));
    let mut sender = kit.http1("api.test").await;
    let response = sender.send_request(request("GET", "/sse", &[("host", "api.test")], "")).await.unwrap();
    drop((response, sender));
    assert_eq!(kit.record().await.path, "/sse");
    let mut sender = kit.http2("api.test").await;
    let response = sender.send_request(request("GET", "https://api.test/sse", &[], "")).await.unwrap();
    drop(response);
    assert_eq!(kit.record().await.path, "/sse");
}

#[tokio::test]
async fn a_vault_that_stops_closes_everything() {
    let kit = Kit::new(&[]).await;
    let mut idle = TcpStream::connect(kit.proxy).await.unwrap();
    let mut sender = kit.http1("api.test").await;
    let mut events = sender.send_request(request("GET", "/sse", &[("host", "api.test")], "")).await.unwrap();
    kit.shutdown().await;
    assert!(events.frame().await.is_none_or(|frame| frame.is_err()));
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn many_connections_at_once() {
    let mut kit = Kit::new(&[]).await;
    let mut tasks = tokio::task::JoinSet::new();
    let proxy = kit.proxy;
    for i in 0..300 {
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(proxy).await.unwrap();
            let head = format!("GET http://plain.test/{i} HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains(&format!("GET /{i}\n")), "{answer}");
        });
    }
    // Fewer places in the record than requests: they wait for one another.
    for _ in 0..300 {
        assert_eq!(kit.record().await.verdict, "allowed");
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn slow_heads_and_bodies_hold_up_nobody_else() {
    let mut kit = Kit::new(&["KEY=ghp_0123456789abcdefghijklmnopqrstuv @ plain.test:80#body"]).await;
    let mut slow = Vec::new();
    for i in 0..100 {
        let mut stream = kit.connect("plain.test:80").await.unwrap();
        let said = match i % 3 {
            // A head that never ends, a body that never comes, a body that comes byte by byte.
            0 => "GET / HTTP/1.1\r\nHost: plain.test\r\nX-",
            1 => "POST / HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 100000\r\n\r\n",
            _ => "POST / HTTP/1.1\r\nHost: plain.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        };
        stream.write_all(said.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let got = ask(&kit, "plain.test:80", "GET /quick HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    drop(slow);
    // Those that had come as far as a body leave their record when they give up.
    let mut paths = Vec::new();
    while paths.len() < 1 + 66 {
        paths.push(kit.record().await.path);
    }
    assert_eq!(paths.iter().filter(|path| *path == "/quick").count(), 1);
}
