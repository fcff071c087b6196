//! Where a sandbox may go, and that everything in a request which names a place has to agree.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::{Kit, reply, request};
use lap_domain::egress::Policy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn policy(allow: &[&str], deny: &[&str], private: &[&str]) -> Policy {
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    Policy::parse(&own(allow), &own(deny), &[], &own(private)).unwrap()
}

/// Sends a GET through CONNECT and TLS, or says why CONNECT was refused.
async fn code(kit: &Kit, host: &str) -> String {
    match kit.connect(&format!("{host}:443")).await {
        Err(head) => head.lines().find_map(|l| l.strip_prefix("x-lap-blocked: ")).unwrap_or(&head).to_owned(),
        Ok(_) => {
            let reply = kit.get(host, "/", &[]).await;
            if reply.status == 200 { "ok".to_owned() } else { reply.header("x-lap-blocked").to_owned() }
        }
    }
}

#[tokio::test]
async fn lists_decide_and_deny_wins() {
    let kit = Kit::with(&[], |g| g.policy = policy(&["*.test"], &["evil.test"], &["127.0.0.0/8"])).await;
    assert_eq!(code(&kit, "api.test").await, "ok");
    assert_eq!(code(&kit, "evil.test").await, "denied");
    assert_eq!(code(&kit, "example.com").await, "not_allowed");
    assert_eq!(code(&kit, "nowhere-at-all.test").await, "dns");
}

#[tokio::test]
async fn private_addresses_open_through_the_operator_only() {
    let kit = Kit::with(&[], |g| g.policy = policy(&["api.test"], &[], &[])).await;
    assert_eq!(code(&kit, "api.test").await, "private_address");
    let kit = Kit::with(&[], |g| g.policy = policy(&[], &[], &["api.test"])).await;
    assert_eq!(code(&kit, "api.test").await, "ok");
    assert_eq!(code(&kit, "other.test").await, "private_address");
    assert_eq!(code(&kit, "169.254.169.254").await, "metadata");
    assert_eq!(code(&kit, "[::ffff:169.254.169.254]").await, "metadata");
    assert_eq!(code(&kit, "[::1]").await, "private_address");
    assert_eq!(code(&kit, "localhost").await, "private_address");
    for odd in ["0177.0.0.1", "2130706433", "0x7f.1", "127.1", "a b", "exämple.com"] {
        let answer = code(&kit, odd).await;
        assert!(answer.contains("bad_request") || answer.contains("400"), "{odd}: {answer}");
    }
}

#[tokio::test]
async fn before_the_first_grants_everything_is_refused() {
    let (tx, _rx) = tokio::sync::mpsc::channel(8);
    let listener = std::net::TcpListener::bind("127.78.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap();
    let inside = lap_vault::InsideNet { base: "127.78.0.0".parse().unwrap(), bits: 16 };
    let config = lap_vault::VaultConfig { inside, proxy_port: proxy.port(), ..Default::default() };
    let vault = lap_vault::Vault::new(config, tx).unwrap();
    let dns = std::net::UdpSocket::bind("127.78.0.1:0").unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let served = tokio::spawn({
        let (vault, stop) = (vault.clone(), stop.clone());
        async move { vault.serve(vec![listener], dns, stop).await }
    });
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream
        .write_all(b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("x-lap-blocked: not_ready"), "{answer}");
    stop.cancel();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn sni_host_and_target_must_agree() {
    let kit = Kit::new(&[]).await;
    let get = |host: &str| request("GET", "/", &[("host", host)], "");
    let mut sender = kit.http1("api.test").await;
    for (host, status) in [
        ("api.test", 200),
        ("API.test:443", 200),
        ("other.test", 421),
        ("api.test:444", 421),
        ("api.test@evil.test", 400),
    ] {
        assert_eq!(sender.send_request(get(host)).await.unwrap().status(), status, "{host}");
    }
    let mut twice = get("api.test");
    twice.headers_mut().append("host", "other.test".parse().unwrap());
    assert_eq!(sender.send_request(twice).await.unwrap().status(), 400);
    let stream = kit.connect("api.test:443").await.unwrap();
    let tls = kit.tls(stream, "evil.test", &["http/1.1"]).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    for host in ["api.test", "evil.test"] {
        assert_eq!(sender.send_request(get(host)).await.unwrap().status(), 421, "{host}");
    }
    let mut sender = kit.http2("api.test").await;
    for (uri, status) in [("https://api.test/", 200), ("https://other.test/", 421), ("http://api.test/", 400)] {
        let response = sender.send_request(request("GET", uri, &[], "")).await.unwrap();
        assert_eq!(response.status(), status, "{uri}");
    }
}

#[tokio::test]
async fn an_address_with_a_name_is_judged_by_both() {
    let kit = Kit::with(&[], |g| g.policy = policy(&["api.test", "127.0.0.1"], &[], &["127.0.0.0/8"])).await;
    // api.test resolves to 127.0.0.1, and so may be spoken to there.
    for (target, sni, expected) in
        [("127.0.0.1:443", "api.test", 200), ("127.0.0.1:443", "other.test", 403), ("127.0.0.2:443", "api.test", 403)]
    {
        let Ok(stream) = kit.connect(target).await else {
            assert_eq!(expected, 403, "{target} {sni}");
            continue;
        };
        let tls = kit.tls(stream, sni, &["http/1.1"]).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(request("GET", "/", &[("host", sni)], "")).await.unwrap();
        assert_eq!(response.status(), expected, "{target} {sni}");
    }
    let kit = Kit::with(&[], |g| g.policy = policy(&[], &[], &["127.0.0.0/8"])).await;
    let stream = kit.connect("127.0.0.2:443").await.unwrap();
    let tls = kit.tls(stream, "api.test", &["http/1.1"]).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request("GET", "/", &[("host", "api.test")], "")).await.unwrap();
    assert_eq!(response.status(), 421, "the name does not lead to that address");
}

/// Sends raw bytes to the proxy and returns what comes back until it closes.
async fn raw(kit: &Kit, bytes: &str) -> String {
    let mut stream = TcpStream::connect(kit.proxy).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn absolute_uris_through_the_proxy() {
    let kit = Kit::new(&[]).await;
    let answer = raw(
        &kit,
        "GET http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\nProxy-Authorization: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("GET /x\n"), "{answer}");
    assert_eq!(kit.seen().remove(0).header("proxy-authorization"), "");
    for (head, code) in [
        ("GET http://plain.test/ HTTP/1.1\r\nHost: other.test", "misdirected"),
        ("GET https://api.test/ HTTP/1.1\r\nHost: api.test", "bad_request"),
        ("GET / HTTP/1.1\r\nHost: plain.test", "bad_request"),
        ("POST http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\nTransfer-Encoding: gzip, chunked", "bad_request"),
    ] {
        let answer = raw(&kit, &format!("{head}\r\nConnection: close\r\n\r\n0\r\n\r\n")).await;
        assert!(answer.contains(&format!("x-lap-blocked: {code}")), "{head}: {answer}");
    }
    for head in [
        "POST http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "POST http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "GET http://plain.test/ HTTP/1.1\r\nHost : plain.test\r\n\r\n",
        "GET http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\nX: a\r\n b\r\n\r\n",
    ] {
        let answer = raw(&kit, head).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head}: {answer}");
    }
    assert!(kit.seen().is_empty());
    // A length beside chunks is dropped; what goes up has one framing of its own, and is one request.
    for framing in
        ["Transfer-Encoding: chunked\r\nContent-Length: 3", "Content-Length: 3\r\nTransfer-Encoding: chunked"]
    {
        let head = format!("POST http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\n{framing}\r\nConnection: close");
        raw(
            &kit,
            &format!("{head}\r\n\r\n0\r\n\r\nGET http://plain.test/smuggled HTTP/1.1\r\nHost: plain.test\r\n\r\n"),
        )
        .await;
        let seen = kit.seen();
        assert_eq!(
            (seen.len(), seen[0].header("content-length"), seen[0].header("transfer-encoding")),
            (1, "", "chunked")
        );
    }
}

#[tokio::test]
async fn connect_never_fails_open() {
    let mut kit = Kit::new(&[]).await;
    for bytes in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"\x00\x01\x02\x03", b"hello there\r\n"] {
        let mut stream = kit.connect("plain.test:22").await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
        let record = kit.record().await;
        assert_eq!(
            (record.method.as_str(), record.verdict.as_str(), record.host.as_str()),
            ("TCP", "not_http", "plain.test:22")
        );
    }
    assert_eq!(kit.upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
    // A POST right after CONNECT is HTTP like any other.
    let mut stream = kit.connect("plain.test:80").await.unwrap();
    stream
        .write_all(b"POST /p HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("POST /p\n") && answer.ends_with("hi"), "{answer}");
}

#[tokio::test]
async fn other_bytes_pass_where_the_port_is_named() {
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = echo.accept().await.unwrap();
        stream.write_all(b"220 hello\r\n").await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let mut kit = Kit::with(&[], |g| {
        g.policy = policy(&[&format!("db.test:{port}")], &[], &["127.0.0.0/8"]);
        g.resolve.push(lap_vault::ResolveOverride::parse("db.test=127.0.0.1").unwrap());
    })
    .await;
    // The server speaks first; the client waits.
    let mut stream = kit.connect(&format!("db.test:{port}")).await.unwrap();
    let mut hello = [0; 11];
    stream.read_exact(&mut hello).await.unwrap();
    stream.write_all(b"\x00\x01data").await.unwrap();
    let mut back = [0; 6];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!((&hello, &back), (b"220 hello\r\n", b"\x00\x01data"));
    drop(stream);
    let record = kit.record().await;
    assert_eq!((record.verdict.as_str(), record.bytes_out, record.bytes_in), ("allowed", 6, 17));
    // A client that only takes its time is no reason to look away.
    kit.regrant(|g| {
        g.policy = policy(&["plain.test:80"], &[], &["127.0.0.0/8"]);
    });
    let mut stream = kit.connect("plain.test:80").await.unwrap();
    while kit.upstream.connections.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    stream.write_all(b"GET /late HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\n\r\n").await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    let record = kit.record().await;
    assert_eq!((record.method.as_str(), record.path.as_str(), record.verdict.as_str()), ("GET", "/late", "allowed"));
}

#[tokio::test]
async fn redirected_connections_go_by_their_fake_address() {
    let mut kit = Kit::new(&[]).await;
    let fake = ask(&kit, "plain.test").await;
    assert_eq!(fake, [127, 77, 0, 16]);
    // A listener of this test stands at the address; the port is the listener's.
    let target = std::net::SocketAddr::from((fake, kit.proxy.port()));
    let mut stream = TcpStream::connect(target).await.unwrap();
    let head = format!("GET /t HTTP/1.1\r\nHost: plain.test:{}\r\nConnection: close\r\n\r\n", kit.proxy.port());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(kit.record().await.host, format!("plain.test:{}", kit.proxy.port()));
    let fake = ask(&kit, "api.test").await;
    let stream = TcpStream::connect(std::net::SocketAddr::from((fake, kit.proxy.port()))).await.unwrap();
    let tls = kit.tls(stream, "api.test", &["h2"]).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), hyper_util::rt::TokioIo::new(tls))
            .await
            .unwrap();
    tokio::spawn(connection);
    let uri = format!("https://api.test:{}/", kit.proxy.port());
    let answer = reply(sender.send_request(request("GET", &uri, &[], "")).await.unwrap()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(kit.seen().pop().unwrap().version, http::Version::HTTP_2);
    kit.record().await;
    // An address that was never given out means nothing.
    let mut stream = TcpStream::connect((std::net::Ipv4Addr::new(127, 77, 0, 19), kit.proxy.port())).await.unwrap();
    let mut nothing = Vec::new();
    let _ = stream.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty());
    assert_eq!(kit.record().await.verdict, "unknown_address");
}

#[tokio::test]
async fn refusals_can_be_read_on_redirected_connections() {
    let kit = Kit::with(&[], |g| g.policy = policy(&[], &["plain.test"], &["127.0.0.0/8"])).await;
    let target = std::net::SocketAddr::from((ask(&kit, "plain.test").await, kit.proxy.port()));
    let mut stream = TcpStream::connect(target).await.unwrap();
    for _ in 0..2 {
        let head = format!("GET / HTTP/1.1\r\nHost: plain.test:{}\r\n\r\n", kit.proxy.port());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b".\n") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "it stays, so that the next one is told too");
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("x-lap-blocked: denied"), "{answer}");
    }
}

async fn ask(kit: &Kit, name: &str) -> [u8; 4] {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut query = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&query, kit.dns).await.unwrap();
    let mut answer = [0; 512];
    let n = socket.recv(&mut answer).await.unwrap();
    *answer[..n].last_chunk().unwrap()
}

#[tokio::test]
async fn connections_are_kept_and_reused() {
    let kit = Kit::new(&[]).await;
    let mut sender = kit.http1("api.test").await;
    for path in ["/", "/big", "/empty", "/split", "/coded?gzip", "/header"] {
        let response = sender.send_request(request("GET", path, &[("host", "api.test")], "")).await.unwrap();
        reply(response).await;
        sender.ready().await.unwrap();
    }
    let head = sender.send_request(request("HEAD", "/big", &[("host", "api.test")], "")).await.unwrap();
    assert_eq!(head.headers()["content-length"], (3 << 20).to_string());
    reply(head).await;
    for _ in 0..3 {
        reply(sender.send_request(request("POST", "/", &[("host", "api.test")], "body")).await.unwrap()).await;
        sender.ready().await.unwrap();
    }
    assert_eq!(kit.upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
    // A server that closes is noticed; the next request goes over a new connection.
    for _ in 0..3 {
        let answer =
            reply(sender.send_request(request("GET", "/close", &[("host", "api.test")], "")).await.unwrap()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        sender.ready().await.unwrap();
    }
    let mut sender = kit.http2("api.test").await;
    let before = kit.upstream.connections.load(std::sync::atomic::Ordering::SeqCst);
    let requests: Vec<_> = (0..40).map(|_| sender.send_request(request("GET", "https://api.test/", &[], ""))).collect();
    for response in requests {
        assert_eq!(reply(response.await.unwrap()).await.status, 200);
    }
    assert_eq!(
        kit.upstream.connections.load(std::sync::atomic::Ordering::SeqCst) - before,
        1,
        "HTTP/2 requests share one"
    );
}

#[tokio::test]
async fn servers_that_fail_are_told_apart() {
    let mut kit = Kit::with(&[], |g| {
        g.extra_ca_pem = None;
        g.resolve.push(lap_vault::ResolveOverride::parse("closed.test=127.0.0.1:1").unwrap());
    })
    .await;
    let reply = kit.get("api.test", "/", &[]).await;
    assert_eq!(reply.blocked(), (502, "upstream_tls"));
    let reply = kit.get("closed.test", "/", &[]).await;
    assert_eq!(reply.blocked(), (502, "upstream"));
    assert_eq!(kit.record().await.verdict, "upstream_tls");
}

#[tokio::test]
async fn expect_continue_and_pipelining() {
    let kit = Kit::new(&[]).await;
    let mut stream = kit.connect("plain.test:80").await.unwrap();
    stream
        .write_all(b"POST /e HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 25];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    stream.write_all(b"GET /two HTTP/1.1\r\nHost: plain.test\r\n\r\nGET /three HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let places: Vec<_> = ["POST /e\n", "GET /two\n", "GET /three\n"].iter().map(|t| answer.find(t).unwrap()).collect();
    assert!(places.is_sorted(), "{answer}");
    assert_eq!(kit.seen()[0].body, b"body");
}

#[tokio::test]
async fn requests_wait_for_room_in_the_record() {
    let mut kit = Kit::new(&[]).await;
    // Fill the channel but for nothing: every request below holds one place of 256.
    let mut sender = kit.http1("api.test").await;
    for _ in 0..256 {
        reply(sender.send_request(request("GET", "/", &[("host", "api.test")], "")).await.unwrap()).await;
        sender.ready().await.unwrap();
    }
    let waiting = sender.send_request(request("GET", "/", &[("host", "api.test")], ""));
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(150), &mut waiting).await.is_err(), "it waits");
    kit.record().await;
    assert_eq!(waiting.await.unwrap().status(), 200);
    kit.records.close();
    while kit.records.recv().await.is_some() {}
    sender.ready().await.unwrap();
    let answer = reply(sender.send_request(request("GET", "/", &[("host", "api.test")], "")).await.unwrap()).await;
    assert_eq!(answer.blocked(), (503, "record_unavailable"));
}

#[tokio::test]
async fn requests_that_find_no_room_in_the_record_are_refused_until_there_is_some() {
    let short = std::time::Duration::from_millis(100);
    let mut kit = Kit::with_config(|config| config.record_deadline = short, &[], |_| {}).await;
    let mut sender = kit.http1("api.test").await;
    let mut ask = async || {
        sender.ready().await.unwrap();
        let answer = reply(sender.send_request(request("GET", "/", &[("host", "api.test")], "")).await.unwrap()).await;
        (answer.status, answer.header("x-lap-blocked").to_owned())
    };
    for _ in 0..256 {
        assert_eq!(ask().await.0, 200);
    }
    kit.seen();
    assert_eq!(ask().await, (503, "record_unavailable".to_owned()));
    assert!(kit.seen().is_empty(), "what cannot be recorded does not go out");
    kit.record().await;
    assert_eq!(ask().await.0, 200, "with room again all is as before");
}
