//! The operator's own proxy: everything goes through it, by the judged address, and nothing of it shows.
#![allow(clippy::unwrap_used)]

mod kit;

use std::sync::{Arc, Mutex};

use kit::Kit;
use lap_domain::egress::Policy;
use lap_vault::Outbound;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const SECRET: &str = "ghp_0123456789abcdefghijklmnopqrstuv";
const TOKEN: &str = "GITHUB_TOKEN=ghp_0123456789abcdefghijklmnopqrstuv @ api.test";

/// A proxy that answers CONNECT with this and then carries; its port, and the heads it saw.
async fn proxy(answer: &'static str) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, heads) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let seen = heads.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_owned();
                seen.lock().unwrap().push(head);
                stream.write_all(answer.as_bytes()).await.unwrap();
                if answer.contains(" 200 ") {
                    let mut upstream = TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
                }
            });
        }
    });
    (port, heads)
}

async fn through(port: u16, no_proxy: &str) -> Kit {
    let outbound = Outbound::parse(&format!("http://operator:hunter2hunter2@127.0.0.1:{port}"), no_proxy).unwrap();
    Kit::with(&[TOKEN], |grants| grants.outbound = Some(outbound)).await
}

#[tokio::test]
async fn requests_go_through_by_address_and_tls_is_end_to_end() {
    let (port, heads) = proxy("HTTP/1.1 200 Connection established\r\nX-Some: thing\r\n\r\n").await;
    let kit = through(port, "").await;
    let reply = kit.get("api.test", "/", &[("authorization", kit.stub("GITHUB_TOKEN"))]).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(!reply.body.to_lowercase().contains("proxy"), "{}", reply.body);
    assert_eq!(kit.seen().remove(0).header("authorization"), SECRET);
    let head = heads.lock().unwrap().remove(0);
    assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", kit.upstream.tls)), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic b3BlcmF0b3I6aHVudGVyMmh1bnRlcjI=\r\n"), "{head}");
    assert!(!head.contains("api.test") && !head.contains(SECRET), "{head}");
    let mut sender = kit.http2("api.test").await;
    let response = sender.send_request(kit::request("GET", "https://api.test/", &[], "")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(heads.lock().unwrap().len(), 1, "plain connections and HTTP/2 alike");
    // A certificate nobody vouches for is refused, proxy or not.
    kit.regrant(|grants| grants.extra_ca_pem = None);
    assert_eq!(kit.get("api.test", "/", &[]).await.blocked(), (502, "upstream_tls"));
}

#[tokio::test]
async fn rules_and_private_ranges_hold() {
    let (port, heads) = proxy("HTTP/1.1 200 OK\r\n\r\n").await;
    let kit = through(port, "").await;
    kit.regrant(|grants| grants.policy = Policy::parse(&[], &["evil.test".to_owned()], &[], &[]).unwrap());
    for (host, code) in [("evil.test", "denied"), ("api.test", "private_address"), ("169.254.169.254", "metadata")] {
        let answer = match kit.connect(&format!("{host}:443")).await {
            Err(head) => head,
            Ok(_) => kit.get(host, "/", &[]).await.header("x-lap-blocked").to_owned(),
        };
        assert!(answer.contains(code), "{host}: {answer}");
    }
    assert!(heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn some_hosts_are_reached_without_it() {
    let (port, heads) = proxy("HTTP/1.1 200 OK\r\n\r\n").await;
    let kit = through(port, "api.test").await;
    assert_eq!(kit.get("api.test", "/", &[]).await.status, 200);
    assert!(heads.lock().unwrap().is_empty());
    assert_eq!(kit.get("other.test", "/", &[]).await.status, 200);
    assert_eq!(heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_proxy_that_fails_is_502_and_tells_nothing() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (wants, _) =
        proxy("HTTP/1.1 407 Proxy Authentication Required\r\nX-Inner: proxy-7.corp\r\n\r\nwho are you").await;
    let (refuses, _) = proxy("HTTP/1.1 403 Forbidden\r\n\r\n").await;
    let (garbage, _) = proxy("SSH-2.0-OpenSSH\r\n\r\n").await;
    for (port, word) in
        [(closed, "could not be reached"), (wants, "credentials"), (refuses, "403"), (garbage, "does not speak HTTP")]
    {
        let mut kit = through(port, "").await;
        let reply = kit.get("api.test", "/", &[]).await;
        assert_eq!(reply.blocked(), (502, "outbound_proxy"), "{}", reply.body);
        assert!(reply.body.contains(word), "{}", reply.body);
        for hidden in ["hunter2", "operator:", "aHVudGVy", "proxy-7", &format!("{port}")] {
            assert!(!format!("{reply:?}").contains(hidden), "{reply:?}");
        }
        assert_eq!(kit.record().await.verdict, "outbound_proxy");
        assert!(kit.seen().is_empty(), "no way around a proxy that fails");
    }
}
