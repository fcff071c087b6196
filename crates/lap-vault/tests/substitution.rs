//! Stubs become secrets where that is allowed, and secrets become stubs on the way back.
#![allow(clippy::unwrap_used)]

mod kit;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kit::Kit;

const SECRET: &str = "ghp_0123456789abcdefghijklmnopqrstuv";
const TOKEN: &str = "GITHUB_TOKEN=ghp_0123456789abcdefghijklmnopqrstuv @ api.test";

#[tokio::test]
async fn swaps_in_credential_headers_and_scrubs_the_echo() {
    let mut kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("GITHUB_TOKEN").to_owned();
    assert_eq!(stub.len(), SECRET.len());
    let auth = format!("Bearer {stub}");
    let reply = kit.get("api.test", "/x?a=b", &[("authorization", &auth), ("x-note", &stub)]).await;
    assert_eq!(reply.status, 200);
    let seen = kit.seen().remove(0);
    assert_eq!(seen.header("authorization"), format!("Bearer {SECRET}"));
    assert_eq!(seen.header("x-note"), stub, "other headers are only text");
    assert!(!reply.body.contains(SECRET), "{}", reply.body);
    assert!(reply.body.contains(&format!("authorization: Bearer {stub}")), "{}", reply.body);
    let record = kit.record().await;
    assert_eq!(
        (record.method.as_str(), record.host.as_str(), record.path.as_str()),
        ("GET", "api.test:443", "/x?a=***")
    );
    assert_eq!((record.status, record.verdict.as_str()), (Some(200), "allowed"));
    assert_eq!(record.credentials, ["GITHUB_TOKEN"]);
    assert_eq!(record.bytes_in, reply.body.len() as u64);
    kit.shutdown().await;
}

#[tokio::test]
async fn swaps_in_basic_credentials_and_cookies() {
    let kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("GITHUB_TOKEN");
    let basic = format!("Basic {}", STANDARD.encode(format!("x-access-token:{stub}")));
    let cookie = format!("a=b; session={stub}");
    let reply = kit.get("api.test", "/", &[("authorization", &basic), ("cookie", &cookie)]).await;
    let seen = kit.seen().remove(0);
    assert_eq!(seen.header("authorization"), format!("Basic {}", STANDARD.encode(format!("x-access-token:{SECRET}"))));
    assert_eq!(seen.header("cookie"), format!("a=b; session={SECRET}"));
    let back = reply.body.lines().find_map(|l| l.strip_prefix("authorization: Basic ")).unwrap();
    let decoded = String::from_utf8_lossy(&STANDARD.decode(back).unwrap()).into_owned();
    assert!(!decoded.contains(&SECRET[4..]), "{decoded}");
}

#[tokio::test]
async fn a_stub_for_another_host_is_refused_in_credential_positions_only() {
    let mut kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("GITHUB_TOKEN").to_owned();
    for (name, value) in [
        ("authorization", format!("Bearer {stub}")),
        ("authorization", format!("Basic {}", STANDARD.encode(format!("u:{stub}")))),
        ("x-api-key", stub.clone()),
        ("private-token", stub.clone()),
        ("x-amz-auth-thing", stub.clone()),
        ("cookie", format!("a={stub}")),
    ] {
        let reply = kit.get("evil.test", "/", &[(name, &value)]).await;
        assert_eq!(reply.blocked(), (403, "misdirected_stub"), "{name}");
        assert!(reply.body.contains("GITHUB_TOKEN") && reply.body.contains("evil.test"), "{}", reply.body);
        let record = kit.record().await;
        assert_eq!(
            (record.verdict.as_str(), record.status, record.credentials.len()),
            ("misdirected_stub", Some(403), 0)
        );
    }
    assert!(kit.seen().is_empty());
    let reply = kit.post("evil.test", "/", &[("x-note", &stub)], stub.clone()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(kit.seen().remove(0).body, stub.as_bytes());
}

#[tokio::test]
async fn plain_http_carries_a_credential_only_where_the_port_is_named() {
    for (scope, expected) in [("plain.test", 403), ("plain.test:80", 200)] {
        let kit = Kit::new(&[&format!("KEY={SECRET} @ {scope}")]).await;
        let stream = kit.connect("plain.test:80").await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = kit::request("GET", "/", &[("host", "plain.test"), ("x-api-key", kit.stub("KEY"))], "");
        let reply = kit::reply(sender.send_request(request).await.unwrap()).await;
        assert_eq!(reply.status, expected, "{scope}: {}", reply.body);
    }
}

/// Sends `body` (with `{}` for the stub) to a host whose body is open and returns what upstream saw.
async fn body_seen(secret: &str, headers: &[(&str, &str)], body: &str) -> (kit::Seen, kit::Reply) {
    let kit = Kit::new(&[&format!("KEY={secret} @ api.test#body")]).await;
    let body = body.replace("{}", kit.stub("KEY"));
    let reply = kit.post("api.test", "/", headers, body).await;
    (kit.seen().remove(0), reply)
}

#[tokio::test]
async fn swaps_in_bodies_where_opened() {
    let (seen, reply) = body_seen(SECRET, &[], "token={}&x").await;
    assert_eq!(String::from_utf8_lossy(&seen.body), format!("token={SECRET}&x"));
    assert!(!reply.body.contains(SECRET));
    let awkward = "a\"b\\c/d+e f%g";
    let (seen, _) = body_seen(awkward, &[("content-type", "application/json")], r#"{"k":"{}"}"#).await;
    assert_eq!(String::from_utf8_lossy(&seen.body), r#"{"k":"a\"b\\c/d+e f%g"}"#);
    assert_eq!(seen.header("content-length"), seen.body.len().to_string());
    let (seen, _) = body_seen(awkward, &[("content-type", "application/x-www-form-urlencoded")], "a=1&k={}").await;
    assert_eq!(String::from_utf8_lossy(&seen.body), "a=1&k=a%22b%5Cc%2Fd%2Be%20f%25g");
}

#[tokio::test]
async fn long_bodies_of_another_length_are_streamed() {
    let filler = "y".repeat(2 << 20);
    let (seen, _) = body_seen("short-one", &[], &format!("{filler}{{}}{filler}")).await;
    assert_eq!(seen.body, format!("{filler}short-one{filler}").into_bytes());
    assert_eq!(seen.header("content-length"), "");
}

#[tokio::test]
async fn packed_bodies_are_unpacked_for_the_swap() {
    use tokio::io::AsyncWriteExt as _;
    let kit = Kit::new(&[&format!("KEY={SECRET} @ api.test#body")]).await;
    let mut encoder = async_compression::tokio::write::GzipEncoder::new(Vec::new());
    encoder.write_all(format!("k={}", kit.stub("KEY")).as_bytes()).await.unwrap();
    encoder.shutdown().await.unwrap();
    let reply = kit.post("api.test", "/", &[("content-encoding", "gzip")], encoder.into_inner()).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let seen = kit.seen().remove(0);
    assert_eq!((seen.body, seen.headers.get("content-encoding")), (format!("k={SECRET}").into_bytes(), None));
}

#[tokio::test]
async fn signed_bodies_with_a_stub_are_refused() {
    let kit = Kit::new(&[&format!("KEY={SECRET} @ api.test#body")]).await;
    let signed = [("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")];
    let reply = kit.post("api.test", "/", &signed, format!("k={}", kit.stub("KEY"))).await;
    assert_eq!(reply.blocked(), (403, "signed_body"));
    let reply = kit.post("api.test", "/", &signed, "nothing to swap").await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn swaps_in_path_and_query_where_opened() {
    let kit = Kit::new(&["BOT_TOKEN=12345:AAE/secret+bot @ api.test#path#query"]).await;
    let stub = kit.stub("BOT_TOKEN");
    let reply = kit.get("api.test", &format!("/bot{stub}/send?k={stub}"), &[]).await;
    assert_eq!(kit.seen().remove(0).line, "GET /bot12345%3AAAE%2Fsecret%2Bbot/send?k=12345%3AAAE%2Fsecret%2Bbot");
    assert!(!reply.body.contains("AAE"), "{}", reply.body);
    let kit = Kit::new(&["BOT_TOKEN=12345:AAE/secret+bot @ api.test"]).await;
    let stub = kit.stub("BOT_TOKEN").to_owned();
    kit.get("api.test", &format!("/bot{stub}"), &[]).await;
    assert_eq!(kit.seen().remove(0).line, format!("GET /bot{stub}"));
}

#[tokio::test]
async fn secrets_that_no_header_can_carry_are_refused() {
    let kit = Kit::new(&["KEY=first\r\nx-evil: yes-and-long-enough @ api.test"]).await;
    let reply = kit.get("api.test", "/", &[("x-api-key", kit.stub("KEY"))]).await;
    assert_eq!(reply.blocked(), (403, "unusable_secret"));
    assert!(kit.seen().is_empty());
}

#[tokio::test]
async fn nothing_comes_back() {
    let kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("GITHUB_TOKEN").to_owned();
    let auth = [("authorization", stub.as_str()), ("accept-encoding", "gzip, br, zstd, deflate, dcb")];
    for coding in ["gzip", "br", "zstd", "deflate", "identity"] {
        let reply = kit.get("api.test", &format!("/coded?{coding}"), &auth).await;
        assert_eq!(reply.status, 200, "{coding}");
        assert!(reply.body.contains(&format!("authorization: {stub}")), "{coding}: {}", reply.body);
        assert!(!reply.body.contains(SECRET), "{coding}");
        assert!(reply.body.contains("accept-encoding: gzip, br, zstd, deflate\n"), "{}", reply.body);
    }
    let reply = kit.get("api.test", "/coded?dcb", &auth).await;
    assert_eq!(reply.blocked(), (502, "encoding"));
    let reply = kit.get("api.test", "/header", &auth).await;
    assert_eq!(reply.header("x-echo"), stub);
    let reply = kit.get("api.test", "/split", &auth).await;
    assert_eq!(reply.body, stub);
    let reply = kit.get("api.test", "/trailers", &[("authorization", &stub), ("te", "trailers")]).await;
    assert_eq!(reply.trailers.unwrap().get("x-tail").unwrap().to_str().unwrap(), stub);
    let reply = kit.get("api.test", "/base64", &auth).await;
    let decoded = String::from_utf8_lossy(&STANDARD.decode(&reply.body).unwrap()).into_owned();
    assert!(decoded.starts_with("user:") && !decoded.contains(&SECRET[4..20]), "{decoded}");
}

#[tokio::test]
async fn ranges_are_dropped_when_a_credential_goes_along() {
    let kit = Kit::new(&[TOKEN]).await;
    let range = [("range", "bytes=0-1"), ("authorization", kit.stub("GITHUB_TOKEN"))];
    kit.get("api.test", "/", &range).await;
    assert_eq!(kit.seen().remove(0).header("range"), "");
    kit.get("api.test", "/", &range[..1]).await;
    assert_eq!(kit.seen().remove(0).header("range"), "bytes=0-1");
}

#[tokio::test]
async fn names_of_headers_and_reasons_come_back_without_values() {
    let kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("GITHUB_TOKEN");
    for path in ["/named", "/reason"] {
        let request = kit::request("GET", path, &[("host", "api.test"), ("authorization", stub)], "");
        let response = kit.send("api.test", request).await;
        assert_eq!(kit.seen().remove(0).header("authorization"), SECRET);
        assert_eq!(response.status(), 200);
        let reason = response.extensions().get::<hyper::ext::ReasonPhrase>();
        assert!(reason.is_none(), "{reason:?}");
        assert!(response.headers().keys().all(|name| !name.as_str().contains(SECRET)), "{:?}", response.headers());
    }
}

#[tokio::test]
async fn a_refused_websocket_is_answered_as_carefully_as_any_request() {
    let kit = Kit::new(&[TOKEN]).await;
    let mut headers = vec![
        ("host", "api.test"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("range", "bytes=0-1"),
        ("request-range", "bytes=0-1"),
        ("accept-encoding", "dcb"),
    ];
    // Without a credential they are the client's own affair.
    kit.send("api.test", kit::request("GET", "/coded?dcb", &headers, "")).await;
    assert_eq!(kit.seen().remove(0).header("request-range"), "bytes=0-1");
    headers.push(("authorization", kit.stub("GITHUB_TOKEN")));
    let reply = kit::reply(kit.send("api.test", kit::request("GET", "/coded?dcb", &headers, "")).await).await;
    assert_eq!(reply.blocked(), (502, "encoding"));
    let seen = kit.seen().remove(0);
    assert_eq!((seen.header("range"), seen.header("request-range"), seen.header("authorization")), ("", "", SECRET));
}

#[tokio::test]
async fn events_are_not_delayed() {
    use http_body_util::BodyExt as _;
    let kit = Kit::new(&[TOKEN]).await;
    let request = kit::request("GET", "/sse", &[("host", "api.test"), ("authorization", kit.stub("GITHUB_TOKEN"))], "");
    let mut response = kit.http1("api.test").await.send_request(request).await.unwrap();
    for event in ["data: one\n\n", "data: two ghp_ \n\n", "data: three\n\n"] {
        kit.upstream.sse_feed.send(event.to_owned()).await.unwrap();
        let frame = response.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event, "the event arrives whole before the next one is sent");
    }
}

#[tokio::test]
async fn the_gateway_has_model_routes_and_its_key_in_its_auth_header() {
    let mut kit = Kit::new(&["LITELLM_API_KEY=sk-gateway-0123456789abcdef @ gateway", TOKEN]).await;
    let key = kit.stub("LITELLM_API_KEY").to_owned();
    let send = async |kit: &Kit, path: &str, headers: &[(&str, &str)], body: String| {
        let stream = kit.connect("gateway.lap.internal:80").await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = kit::request("POST", path, headers, body);
        request.headers_mut().insert("host", "gateway.lap.internal".parse().unwrap());
        kit::reply(sender.send_request(request).await.unwrap()).await
    };
    let reply =
        send(&kit, "/v1/messages?beta=true", &[("x-api-key", &key), ("x-note", &key)], format!("my key is {key}"))
            .await;
    assert_eq!(reply.status, 200);
    let seen = kit.seen().remove(0);
    assert_eq!(seen.line, "POST /base/v1/messages?beta=true");
    assert_eq!(
        (seen.header("x-api-key"), seen.header("x-note"), seen.header("host")),
        ("sk-gateway-0123456789abcdef", key.as_str(), "gw.test")
    );
    assert_eq!(seen.body, format!("my key is {key}").into_bytes());
    assert!(!reply.body.contains("sk-gateway"));
    let record = kit.record().await;
    assert_eq!(
        (record.host.as_str(), record.credentials.as_slice()),
        ("gateway.lap.internal:80", &["LITELLM_API_KEY".to_owned()][..])
    );

    let reply = send(&kit, "/key/generate", &[("x-api-key", &key)], String::new()).await;
    assert_eq!(reply.blocked(), (403, "gateway_route"));
    let reply = send(&kit, "/v1/messages", &[("x-api-key", kit.stub("GITHUB_TOKEN"))], String::new()).await;
    assert_eq!(reply.blocked(), (403, "misdirected_stub"));
    let reply = send(&kit, "/v1/messages", &[("cookie", &key)], String::new()).await;
    assert_eq!(reply.blocked(), (403, "misdirected_stub"));
    assert!(kit.seen().is_empty());
    // The gateway's key is for the gateway under its inner name alone.
    let reply = kit.post("gw.test", "/base/v1/messages", &[("x-api-key", &key)], "").await;
    assert_eq!(reply.blocked(), (403, "misdirected_stub"));
    // Over TLS inside, and HTTP/2.
    let mut sender = kit.http2("gateway.lap.internal").await;
    let request = kit::request(
        "GET",
        "https://gateway.lap.internal/v1/models",
        &[("authorization", &format!("Bearer {key}"))],
        "",
    );
    let reply = kit::reply(sender.send_request(request).await.unwrap()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(kit.seen().remove(0).header("authorization"), "Bearer sk-gateway-0123456789abcdef");
}
