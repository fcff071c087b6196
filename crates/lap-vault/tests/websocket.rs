//! WebSockets through the vault: their handshake, what happens to their messages, and what ends them.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::{Kit, Websocket};
use lap_domain::egress::Policy;
use lap_domain::secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SECRET: &str = "xoxb-0123456789";
const TOKEN: &str = "SLACK_TOKEN=xoxb-0123456789 @ api.test#ws";

/// Both ends of a WebSocket through the vault.
async fn open(kit: &Kit, headers: &[(&str, &str)]) -> (Websocket, Websocket) {
    let mut all = vec![
        ("host", "api.test"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ];
    all.extend_from_slice(headers);
    let response = kit.http1("api.test").await.send_request(kit::request("GET", "/ws", &all, "")).await.unwrap();
    assert_eq!(response.status(), 101);
    let inside = Websocket::new(hyper::upgrade::on(response).await.unwrap());
    let outside = kit.upstream.websockets.lock().await.recv().await.unwrap();
    (inside, outside)
}

/// A short frame; `head` is its first byte.
fn frame(head: u8, masked: bool, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let len = u8::try_from(payload.len()).unwrap();
    assert!(len <= 125);
    let mut out = vec![head, len];
    if masked {
        out[1] |= 0x80;
        out.extend_from_slice(&[7, 7, 7, 7]);
        out.extend(payload.iter().map(|b| b ^ 7));
    } else {
        out.extend_from_slice(payload);
    }
    out
}

/// The next short frame: its first byte and its payload.
async fn next(from: &mut Websocket, masked: bool) -> (u8, String) {
    let (head, len) = (from.read_u8().await.unwrap(), from.read_u8().await.unwrap());
    assert_eq!(len & 0x80 != 0, masked);
    let mut mask = [0; 4];
    if masked {
        from.read_exact(&mut mask).await.unwrap();
    }
    let mut payload = vec![0; usize::from(len & 0x7f)];
    from.read_exact(&mut payload).await.unwrap();
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[i % 4];
    }
    (head, String::from_utf8_lossy(&payload).into_owned())
}

async fn is_over(websocket: &mut Websocket) -> bool {
    websocket.read(&mut [0; 1]).await.is_ok_and(|n| n == 0)
}

#[tokio::test]
async fn the_handshake_carries_credentials_and_no_extension() {
    let kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("SLACK_TOKEN").to_owned();
    open(&kit, &[("authorization", &stub)]).await;
    let seen = kit.seen().remove(0);
    assert_eq!((seen.header("authorization"), seen.header("sec-websocket-extensions")), (SECRET, ""));
    assert_eq!(kit.get("api.test", "/ws", &[]).await.status, 426, "a server that does not consent");
}

#[tokio::test]
async fn texts_are_swapped_both_ways_whatever_their_length() {
    let mut kit = Kit::new(&[TOKEN]).await;
    let stub = kit.stub("SLACK_TOKEN").to_owned();
    assert_ne!(stub.len(), SECRET.len());
    let (mut inside, mut outside) = open(&kit, &[]).await;
    inside.write_all(&frame(0x81, true, format!("{{\"token\":\"{stub}\"}}"))).await.unwrap();
    assert_eq!(next(&mut outside, true).await, (0x81, format!("{{\"token\":\"{SECRET}\"}}")));
    outside.write_all(&frame(0x81, false, format!("hello {SECRET}, {SECRET}"))).await.unwrap();
    assert_eq!(next(&mut inside, false).await, (0x81, format!("hello {stub}, {stub}")));
    // Over frames, with a ping in between.
    let (a, b) = stub.split_at(9);
    inside.write_all(&frame(0x01, true, format!("x{a}"))).await.unwrap();
    assert_eq!(next(&mut outside, true).await, (0x01, "x".to_owned()));
    inside.write_all(&frame(0x89, true, "?")).await.unwrap();
    assert_eq!(next(&mut outside, true).await, (0x89, "?".to_owned()));
    inside.write_all(&frame(0x80, true, format!("{b}y"))).await.unwrap();
    assert_eq!(next(&mut outside, true).await, (0x80, format!("{SECRET}y")));
    let (a, b) = SECRET.split_at(4);
    outside.write_all(&frame(0x01, false, a)).await.unwrap();
    outside.write_all(&frame(0x80, false, b)).await.unwrap();
    assert_eq!(next(&mut inside, false).await, (0x81, stub.clone()), "nothing of it was certain before its end");
    // Binary messages go up as they are; from them, too, nothing comes back.
    inside.write_all(&frame(0x82, true, &stub)).await.unwrap();
    assert_eq!(next(&mut outside, true).await, (0x82, stub.clone()));
    outside.write_all(&frame(0x82, false, SECRET)).await.unwrap();
    assert_eq!(next(&mut inside, false).await, (0x82, stub.clone()));
    // The end of it, said by one side and answered by the other.
    inside.write_all(&frame(0x88, true, [3, 232])).await.unwrap();
    assert_eq!(next(&mut outside, true).await.0, 0x88);
    outside.write_all(&frame(0x88, false, [3, 232])).await.unwrap();
    outside.shutdown().await.unwrap();
    assert_eq!(next(&mut inside, false).await.0, 0x88);
    assert!(is_over(&mut inside).await);
    drop((inside, outside));
    let record = kit.record().await;
    assert_eq!((record.status, record.verdict.as_str()), (Some(101), "allowed"));
    assert_eq!(record.credentials, ["SLACK_TOKEN"]);
    assert!(record.bytes_out > 0 && record.bytes_in > 0);
}

#[tokio::test]
async fn stubs_stay_stubs_where_ws_is_not_open() {
    let mut kit = Kit::new(&["SLACK_TOKEN=xoxb-0123456789 @ api.test"]).await;
    let stub = kit.stub("SLACK_TOKEN").to_owned();
    let (mut inside, mut outside) = open(&kit, &[]).await;
    inside.write_all(&frame(0x81, true, &stub)).await.unwrap();
    assert_eq!(next(&mut outside, true).await, (0x81, stub.clone()));
    outside.write_all(&frame(0x81, false, SECRET)).await.unwrap();
    assert_eq!(next(&mut inside, false).await, (0x81, stub));
    drop((inside, outside));
    assert!(kit.record().await.credentials.is_empty());
}

#[tokio::test]
async fn frames_that_break_the_protocol_close_it() {
    for (by_client, bytes) in [
        (true, frame(0x81, false, "not masked")),
        (true, frame(0xc1, true, "packed, it seems")),
        (true, frame(0x80, true, "continues nothing")),
        (true, frame(0x83, true, "unknown")),
        (true, frame(0x09, true, "a ping in pieces")),
        (false, frame(0x81, true, "masked")),
        (false, frame(0xc2, false, "packed")),
    ] {
        let mut kit = Kit::new(&[TOKEN]).await;
        let (mut inside, mut outside) = open(&kit, &[]).await;
        let from = if by_client { &mut inside } else { &mut outside };
        from.write_all(&bytes).await.unwrap();
        let (to_client, to_server) = if by_client { (1002, 1001) } else { (1001, 1002) };
        for (end, masked, code) in [(&mut inside, false, to_client), (&mut outside, true, to_server)] {
            let (head, payload) = next(end, masked).await;
            assert_eq!(head, 0x88, "{bytes:02x?}");
            let expected = u16::to_be_bytes(code);
            assert_eq!(payload.as_bytes()[0], expected[0], "{payload}");
            assert!(is_over(end).await);
        }
        assert_eq!(kit.record().await.verdict, "bad_frame");
    }
}

#[tokio::test]
async fn changed_rules_and_credentials_end_it() {
    let mut kit = Kit::new(&[TOKEN]).await;
    let (mut inside, mut outside) = open(&kit, &[]).await;
    // The same grants again are no change.
    kit.regrant(|_| {});
    outside.write_all(&frame(0x81, false, "still here")).await.unwrap();
    assert_eq!(next(&mut inside, false).await, (0x81, "still here".to_owned()));
    kit.regrant(|grants| grants.credentials[0].secret = Secret::new("xoxb-other-value".to_owned()));
    assert!(next(&mut inside, false).await.1.contains("credentials"));
    assert!(is_over(&mut inside).await);
    assert_eq!(next(&mut outside, true).await.0, 0x88);
    drop((inside, outside));
    assert_eq!(kit.record().await.verdict, "allowed");

    let kit = Kit::new(&[TOKEN]).await;
    let (mut inside, _outside) = open(&kit, &[]).await;
    kit.regrant(|grants| {
        grants.policy = Policy::parse(&["other.test".to_owned()], &[], &[], &["127.0.0.0/8".to_owned()]).unwrap();
    });
    let mut rest = Vec::new();
    let _ = inside.read_to_end(&mut rest).await;
}
