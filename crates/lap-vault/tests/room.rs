//! What a sandbox hears that has too much open: a refusal in its own protocol, at once, and only as long as that is so.
#![allow(clippy::unwrap_used)]

mod kit;

use std::net::SocketAddr;

use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::{Kit, reply, request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A vault with room for so many connections, and so many that are open and say nothing.
async fn full(connections: usize) -> (Kit, Vec<TcpStream>) {
    let kit = Kit::with_config(|config| config.max_connections = connections, &[], |_| {}).await;
    let mut idle = Vec::new();
    for _ in 0..connections {
        // A CONNECT that was answered has surely been taken.
        idle.push(kit.connect("api.test:443").await.unwrap());
    }
    (kit, idle)
}

fn address(kit: &Kit) -> SocketAddr {
    SocketAddr::new("127.76.0.1".parse().unwrap(), kit.proxy.port())
}

/// What a connection that sends this hears until it is closed.
async fn hear(at: SocketAddr, said: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(said).await.unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_whatever_it_speaks() {
    let (mut kit, _idle) = full(2).await;
    let is_refusal = |heard: &str| {
        let lower = heard.to_ascii_lowercase();
        lower.starts_with("http/1.1 503")
            && lower.contains("x-lap-blocked: overloaded")
            && lower.contains("connection: close")
    };
    let heard = hear(address(&kit), b"GET / HTTP/1.1\r\nHost: 127.76.0.1\r\n\r\n").await;
    assert!(is_refusal(&heard), "{heard}");
    assert_eq!((kit.record().await.verdict.as_str(), heard.contains("too many")), ("overloaded", true));

    assert!(kit.connect("api.test:443").await.unwrap_err().contains("x-lap-blocked: overloaded"), "the explicit proxy");
    assert_eq!(kit.record().await.verdict, "overloaded");

    let stream = TcpStream::connect(address(&kit)).await.unwrap();
    let tls = kit.tls(stream, "api.test", &["http/1.1"]).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
    let closed = tokio::spawn(connection);
    let answer = reply(sender.send_request(request("GET", "/", &[("host", "api.test")], "")).await.unwrap()).await;
    assert_eq!(answer.blocked(), (503, "overloaded"));
    closed.await.unwrap().unwrap();
    assert_eq!(kit.record().await.host, format!("api.test:{}", kit.proxy.port()));

    let stream = TcpStream::connect(address(&kit)).await.unwrap();
    let tls = kit.tls(stream, "api.test", &["h2"]).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("https://api.test:{}/", kit.proxy.port());
    let answer = reply(sender.send_request(request("GET", &uri, &[], "")).await.unwrap()).await;
    assert_eq!(answer.blocked(), (503, "overloaded"));
    assert_eq!(kit.record().await.verdict, "overloaded");

    assert_eq!(hear(address(&kit), b"SSH-2.0-OpenSSH_9.2\r\n").await, "");
    let record = kit.record().await;
    assert_eq!((record.method.as_str(), record.verdict.as_str()), ("TCP", "overloaded"));
    assert!(kit.seen().is_empty(), "nothing went out");
    kit.shutdown().await;
}

#[tokio::test]
async fn those_that_have_room_work_on_and_room_comes_back() {
    let (kit, mut idle) = full(2).await;
    let tls = kit.tls(idle.pop().unwrap(), "api.test", &["http/1.1"]).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
    let worked = tokio::spawn(connection);
    let mut ask =
        async || sender.send_request(request("GET", "/", &[("host", "api.test")], "")).await.unwrap().status();
    assert_eq!(ask().await, 200);
    assert!(kit.connect("api.test:443").await.is_err());
    assert_eq!(ask().await, 200, "what is open is not disturbed");
    drop(sender);
    worked.await.unwrap().unwrap();
    // The other end notices in its own time.
    let again = async {
        while kit.connect("api.test:443").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), again).await.expect("room again");
    kit.shutdown().await;
}

#[tokio::test]
async fn without_descriptors_there_is_no_room_either() {
    // The first descriptors of this process are long taken: every further one lies in the reserve.
    let mut kit = Kit::with_config(|config| config.max_descriptors = 4, &[], |_| {}).await;
    let heard = hear(address(&kit), b"GET / HTTP/1.1\r\nHost: 127.76.0.1\r\n\r\n").await;
    assert!(heard.contains("x-lap-blocked: overloaded"), "{heard}");
    assert_eq!(kit.record().await.verdict, "overloaded");
    kit.shutdown().await;
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_the_others_from_being_refused() {
    let (mut kit, _idle) = full(1).await;
    // As many as are refused at once, each slow to say what it wants.
    let mut slow = Vec::new();
    for _ in 0..255 {
        slow.push(TcpStream::connect(address(&kit)).await.unwrap());
    }
    let heard = hear(address(&kit), b"GET / HTTP/1.1\r\nHost: 127.76.0.1\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 503"), "{heard}");
    assert_eq!(kit.record().await.verdict, "overloaded");
    // Another hundred wait in the kernel's queue; after the deadline of those before them it is their turn.
    for _ in 0..100 {
        slow.push(TcpStream::connect(address(&kit)).await.unwrap());
    }
    let heard = hear(address(&kit), b"GET / HTTP/1.1\r\nHost: 127.76.0.1\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 503"), "{heard}");
    kit.shutdown().await;
}
