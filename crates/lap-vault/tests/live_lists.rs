//! Lists that change while the sandbox lives: in force for the next request, and what stands and is no longer open is closed.
#![allow(clippy::unwrap_used)]

mod kit;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kit::{Kit, reply, request};
use lap_domain::egress::Policy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn policy(allow: &[&str], deny: &[&str]) -> Policy {
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    Policy::parse(&own(allow), &own(deny), &[], &["127.0.0.0/8".to_owned()]).unwrap()
}

/// Ways to close api.test, plain.test and the addresses they lead to.
fn closings() -> [Policy; 4] {
    [
        policy(&["other.test"], &[]),
        policy(&[], &["*.test"]),
        policy(&[], &["127.0.0.0/8"]),
        policy(&["*.test"], &["127.0.0.1"]),
    ]
}

#[tokio::test]
async fn they_hold_for_the_next_request_of_a_kept_connection() {
    for closing in closings() {
        let kit = Kit::new(&[]).await;
        let mut sender = kit.http1("api.test").await;
        let get = || request("GET", "/", &[("host", "api.test")], "");
        assert_eq!(reply(sender.send_request(get()).await.unwrap()).await.status, 200);
        kit.regrant(|g| g.policy = closing);
        // Closed at once; a request that was quicker than that is refused.
        if sender.ready().await.is_ok()
            && let Ok(answer) = sender.send_request(get()).await
        {
            assert_eq!(answer.status(), 403);
        }
        assert_eq!(kit.seen().len(), 1, "only the first one arrived");
        let opened = kit.connect("api.test:443").await;
        let refused = match opened {
            Err(_) => 403,
            Ok(_) => kit.get("api.test", "/", &[]).await.status,
        };
        assert_eq!(refused, 403);
        kit.shutdown().await;
    }
}

/// A stream that stood ends with an error, not as if the server had said everything.
async fn check_broken(what: &str, mut stream: Incoming) {
    let end = tokio::time::timeout(std::time::Duration::from_secs(30), stream.frame()).await;
    let end = end.unwrap_or_else(|_| panic!("{what}: goes on"));
    assert!(end.is_none_or(|frame| frame.is_err()), "{what}: more came");
}

#[tokio::test]
async fn streams_in_progress_are_closed() {
    for closing in closings() {
        let kit = Kit::new(&[]).await;
        let mut http1 = kit.http1("api.test").await;
        let answer = http1.send_request(request("GET", "/sse", &[("host", "api.test")], "")).await.unwrap();
        let mut stream1 = answer.into_body();
        kit.upstream.sse_feed.send("data: before\n\n".to_owned()).await.unwrap();
        assert_eq!(stream1.frame().await.unwrap().unwrap().into_data().unwrap(), "data: before\n\n");
        let mut http2 = kit.http2("api.test").await;
        let answer = http2.send_request(request("GET", "https://api.test/sse", &[], "")).await.unwrap();
        // Long polls have no head yet.
        let waiting = tokio::spawn(http2.send_request(request("GET", "https://api.test/never", &[], "")));
        while !kit.upstream.seen.lock().unwrap().iter().any(|seen| seen.line == "GET /never") {
            tokio::task::yield_now().await;
        }
        kit.regrant(|g| g.policy = closing);
        check_broken("HTTP/1.1", stream1).await;
        check_broken("HTTP/2", answer.into_body()).await;
        assert!(waiting.await.unwrap().is_err(), "the long poll is over");
        kit.shutdown().await;
    }
}

#[tokio::test]
async fn streams_through_the_explicit_proxy_are_closed() {
    for closing in closings() {
        let kit = Kit::new(&[]).await;
        let mut stream = TcpStream::connect(kit.proxy).await.unwrap();
        stream.write_all(b"GET http://plain.test/sse HTTP/1.1\r\nHost: plain.test\r\n\r\n").await.unwrap();
        kit.upstream.sse_feed.send("data: before\n\n".to_owned()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(6).any(|window| window == b"before") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
        kit.regrant(|g| g.policy = closing);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "it did not end as if all had been said");
        kit.shutdown().await;
    }
}

#[tokio::test]
async fn websockets_are_closed() {
    for closing in closings() {
        let mut kit = Kit::new(&[]).await;
        let stream = kit.connect("plain.test:80").await.unwrap();
        let mut stream = stream;
        stream
            .write_all(b"GET /ws HTTP/1.1\r\nHost: plain.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        kit.regrant(|g| g.policy = closing);
        let _ = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(kit.record().await.verdict, "denied");
        kit.shutdown().await;
    }
}

/// A server that repeats what it is told, named `db.test`; a tunnel to it.
async fn tunnel() -> (Kit, u16, TcpStream) {
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = echo.accept().await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let kit = Kit::with(&[], |g| {
        g.policy = policy(&[&format!("db.test:{port}")], &[]);
        g.resolve.push(lap_vault::ResolveOverride::parse("db.test=127.0.0.1").unwrap());
    })
    .await;
    let mut stream = kit.connect(&format!("db.test:{port}")).await.unwrap();
    stream.write_all(b"\x00\x01data").await.unwrap();
    let mut back = [0; 6];
    stream.read_exact(&mut back).await.unwrap();
    (kit, port, stream)
}

#[tokio::test]
async fn tunnels_are_closed() {
    // Also where the host stays open for HTTP and only its port is no longer named.
    let port_unnamed = [policy(&["db.test"], &[]), policy(&[], &[])];
    for closing in closings().into_iter().chain(port_unnamed) {
        let (mut kit, _, mut stream) = tunnel().await;
        kit.regrant(|g| g.policy = closing);
        assert!(matches!(stream.read(&mut [0; 8]).await, Ok(0) | Err(_)));
        assert_eq!(kit.record().await.verdict, "denied");
        kit.shutdown().await;
    }
}

#[tokio::test]
async fn what_stays_open_is_left_alone() {
    let (kit, port, mut db) = tunnel().await;
    let named = format!("db.test:{port}");
    kit.regrant(|g| g.policy = policy(&[&named, "api.test"], &[]));
    let mut sender = kit.http1("api.test").await;
    let answer = sender.send_request(request("GET", "/sse", &[("host", "api.test")], "")).await.unwrap();
    let mut stream = answer.into_body();
    // Other lists, and lists that are the same with other credentials.
    kit.regrant(|g| g.policy = policy(&[&named, "*.test"], &["evil.test", "8.0.0.0/8"]));
    kit.regrant(|g| {
        g.policy = policy(&[&named, "*.test"], &["evil.test", "8.0.0.0/8"]);
        g.credentials.push(kit::credential("TOKEN=some-secret-value @ api.test"));
    });
    kit.upstream.sse_feed.send("data: after\n\n".to_owned()).await.unwrap();
    assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "data: after\n\n");
    db.write_all(b"after").await.unwrap();
    let mut back = [0; 5];
    db.read_exact(&mut back).await.unwrap();
    kit.shutdown().await;
}
