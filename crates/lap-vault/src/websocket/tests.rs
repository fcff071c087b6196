use std::sync::Arc;

use bytes::BytesMut;
use lap_domain::credential::{Credential, Scope};
use lap_domain::secret::Secret;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::frame::{Head, Opcode, Order, Violation, apply_mask};
use super::pump::{Broken, Pump, Way};
use crate::grants::{Grants, Table};
use crate::record::Exchange;
use crate::upstream::tls::UpstreamTls;

const STUB: &str = "stub_k_0123456789abcdef";
const SECRET: &str = "a\"longer and\\other secret";

fn table() -> Arc<Table> {
    let credential = Credential {
        name: "K".to_owned(),
        stub: STUB.to_owned(),
        secret: Secret::new(SECRET.to_owned()),
        scope: Scope::Anywhere,
    };
    let grants = Grants { credentials: vec![credential], ..Grants::default() };
    Arc::new(Table::new(grants, UpstreamTls::new(None).expect("no authorities")).expect("one credential"))
}

fn frame(fin: bool, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    Head { fin, opcode, mask, len: payload.len() as u64 }.write(&mut out);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
    out.to_vec()
}

/// Sends bytes through a direction, cut into pieces of these lengths, and reads what comes out as frames.
async fn through(way: Way, bytes: &[u8], cut: usize) -> (Result<(), Broken>, Vec<(bool, Opcode, Vec<u8>)>, u128) {
    let (mut source, from) = tokio::io::duplex(1 << 20);
    let (to, mut sink) = tokio::io::duplex(1 << 20);
    let (records, mut record) = tokio::sync::mpsc::channel(1);
    let exchange = Exchange::new(records.reserve_owned().await.expect("room"), "GET", String::new());
    let (table, feeding) = (table(), bytes.to_vec());
    let feed = tokio::spawn(async move {
        for piece in feeding.chunks(cut.max(1)) {
            if source.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let ended = {
        let mut pump = Pump::new(way, from, to, &table, u128::MAX, &exchange);
        pump.run().await
    };
    feed.abort();
    let mut out = Vec::new();
    sink.read_to_end(&mut out).await.expect("memory");
    drop(exchange);
    let swapped = record.recv().await.expect("a record").credentials.len() as u128;
    (ended, frames(&out), swapped)
}

fn frames(mut bytes: &[u8]) -> Vec<(bool, Opcode, Vec<u8>)> {
    let (mut found, mut order) = (Vec::new(), Order::default());
    while let Some((head, length)) = Head::parse(bytes).expect("frames by the rules") {
        order.take(&head).expect("frames in order");
        let len = usize::try_from(head.len).expect("small");
        let mut payload = bytes[length..length + len].to_vec();
        if let Some(mask) = head.mask {
            apply_mask(&mut payload, mask);
        }
        found.push((head.fin, head.opcode, payload));
        bytes = &bytes[length + len..];
    }
    assert!(bytes.is_empty(), "half a frame");
    found
}

const MASK: Option<[u8; 4]> = Some([1, 2, 3, 250]);

#[track_caller]
fn check_head(bytes: &[u8], expected: Result<Option<(bool, Opcode, u64)>, Violation>) {
    let found = Head::parse(bytes).map(|found| found.map(|(head, _)| (head.fin, head.opcode, head.len)));
    assert_eq!(found, expected, "{bytes:02x?}");
}

#[test]
fn heads_are_read_strictly() {
    check_head(&[0x81, 5], Ok(Some((true, Opcode::Text, 5))));
    check_head(&[0x02, 0x85, 1, 2, 3, 4], Ok(Some((false, Opcode::Binary, 5))));
    check_head(&[0x02, 0x85, 1, 2, 3], Ok(None));
    check_head(&[0x81], Ok(None));
    check_head(&[0x81, 126, 0], Ok(None));
    check_head(&[0x81, 126, 0, 126], Ok(Some((true, Opcode::Text, 126))));
    check_head(&[0x81, 126, 0, 125], Err(Violation::Length));
    check_head(&[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0], Ok(Some((true, Opcode::Text, 65_536))));
    check_head(&[0x81, 127, 0, 0, 0, 0, 0, 0, 255, 255], Err(Violation::Length));
    check_head(&[0x81, 127, 128, 0, 0, 0, 0, 0, 0, 0], Err(Violation::Length));
    check_head(&[0xc1, 5], Err(Violation::Reserved));
    check_head(&[0x83, 5], Err(Violation::Opcode));
    check_head(&[0x8b, 5], Err(Violation::Opcode));
    check_head(&[0x89, 125], Ok(Some((true, Opcode::Ping, 125))));
    check_head(&[0x89, 126, 0, 126], Err(Violation::Control));
    check_head(&[0x09, 1], Err(Violation::Control));
}

#[test]
fn heads_are_written_as_they_are_read() {
    for len in [0, 1, 125, 126, 65_535, 65_536, i64::MAX as u64] {
        for mask in [None, MASK] {
            let head = Head { fin: true, opcode: Opcode::Binary, mask, len };
            let mut out = BytesMut::new();
            head.write(&mut out);
            assert_eq!(Head::parse(&out), Ok(Some((head, out.len()))));
        }
    }
}

#[track_caller]
fn check_order(frames: &[(bool, Opcode)], expected: Result<(), Violation>) {
    let mut order = Order::default();
    let taken: Result<Vec<_>, _> = frames
        .iter()
        .map(|(fin, opcode)| order.take(&Head { fin: *fin, opcode: *opcode, mask: None, len: 0 }))
        .collect();
    assert_eq!(taken.map(|_| ()), expected);
}

#[test]
fn frames_come_in_order() {
    use Opcode::{Binary, Close, Continuation, Ping, Text};
    check_order(&[(false, Text), (true, Ping), (false, Continuation), (true, Continuation), (true, Binary)], Ok(()));
    check_order(&[(true, Continuation)], Err(Violation::Continues));
    check_order(&[(true, Text), (true, Continuation)], Err(Violation::Continues));
    check_order(&[(false, Text), (true, Text)], Err(Violation::Within));
    check_order(&[(true, Close), (true, Ping)], Err(Violation::AfterClose));
}

#[tokio::test]
async fn either_side_must_mask_as_its_role_says() {
    let (ended, out, _) = through(Way::Up, &frame(true, Opcode::Text, None, b"hi"), 9).await;
    assert!(matches!(ended, Err(Broken::Frame(Violation::Unmasked))) && out.is_empty());
    let (ended, out, _) = through(Way::Down, &frame(true, Opcode::Text, MASK, b"hi"), 9).await;
    assert!(matches!(ended, Err(Broken::Frame(Violation::Masked))) && out.is_empty());
}

#[tokio::test]
async fn json_is_told_from_other_texts_by_how_it_begins() {
    for (text, expected) in [
        (format!("42[\"{STUB}\"]"), "42[\"a\\\"longer and\\\\other secret\"]".to_owned()),
        (format!(" {{\"k\":\"{STUB}\"}}"), " {\"k\":\"a\\\"longer and\\\\other secret\"}".to_owned()),
        (format!("PASS {STUB}\r\n"), format!("PASS {SECRET}\r\n")),
        (STUB.to_owned(), SECRET.to_owned()),
        (format!("7{STUB}"), format!("7{SECRET}")),
    ] {
        for cut in [1, 7, 100] {
            let (ended, out, swapped) = through(Way::Up, &frame(true, Opcode::Text, MASK, text.as_bytes()), cut).await;
            assert!(ended.is_ok());
            assert_eq!(out, [(true, Opcode::Text, expected.clone().into_bytes())]);
            assert_eq!(swapped, 1);
        }
    }
}

#[tokio::test]
async fn long_frames_become_several_and_their_content_stays() {
    let text = format!("{}{STUB}{}", "x".repeat((64 << 10) - 5), "y".repeat(200_000));
    let (ended, out, _) = through(Way::Up, &frame(true, Opcode::Text, MASK, text.as_bytes()), 10_000).await;
    assert!(ended.is_ok());
    assert!(out.len() > 3 && out.iter().all(|(_, _, payload)| payload.len() < 70 << 10));
    let whole: Vec<u8> = out.into_iter().flat_map(|(_, _, payload)| payload).collect();
    assert_eq!(whole, text.replace(STUB, SECRET).into_bytes());
}

#[tokio::test]
async fn what_control_frames_carry_stays_within_their_bounds() {
    let close = [&1000u16.to_be_bytes()[..], SECRET.as_bytes()].concat();
    let full = [SECRET.as_bytes(), &[b'x'; 100][..]].concat();
    let sent = [
        frame(true, Opcode::Ping, None, SECRET.as_bytes()),
        frame(true, Opcode::Pong, None, &full),
        frame(true, Opcode::Close, None, &close),
    ]
    .concat();
    let (ended, out, _) = through(Way::Down, &sent, 1000).await;
    assert!(ended.is_ok());
    let stub = STUB.as_bytes();
    assert_eq!(out[0], (true, Opcode::Ping, stub.to_vec()));
    assert_eq!(out[1], (true, Opcode::Pong, [stub, &[b'x'; 100][..]].concat()));
    assert_eq!(out[2], (true, Opcode::Close, [&1000u16.to_be_bytes()[..], stub].concat()));
}

fn messages() -> impl Strategy<Value = Vec<(bool, Vec<Vec<u8>>)>> {
    let piece = prop_oneof![Just(STUB.to_owned()), Just(SECRET.to_owned()), "[a-z{\"]{0,9}"];
    let text = proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat().into_bytes());
    let message =
        (any::<bool>(), text, proptest::collection::vec(0usize..80, 0..5)).prop_map(|(binary, text, cuts)| {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let (mut pieces, mut from) = (Vec::new(), 0);
            for cut in cuts {
                pieces.push(text[from..cut].to_vec());
                from = cut;
            }
            pieces.push(text[from..].to_vec());
            (binary, pieces)
        });
    proptest::collection::vec(message, 0..5)
}

proptest! {
    /// However a message is cut into frames and its frames into pieces: what arrives is the message with its texts replaced,
    /// and pings come through between its frames.
    #[test]
    fn any_cut_gives_the_same_messages(messages in messages(), cut in 1usize..60, up in any::<bool>()) {
        let (way, mask) = if up { (Way::Up, MASK) } else { (Way::Down, None) };
        let (mut sent, mut pings) = (Vec::new(), 0);
        for (binary, pieces) in &messages {
            for (i, piece) in pieces.iter().enumerate() {
                let opcode = match (i, binary) {
                    (0, true) => Opcode::Binary,
                    (0, false) => Opcode::Text,
                    _ => Opcode::Continuation,
                };
                sent.extend(frame(i + 1 == pieces.len(), opcode, mask, piece));
                sent.extend(frame(true, Opcode::Ping, mask, b"p"));
                pings += 1;
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (ended, out, _) = runtime.block_on(through(way, &sent, cut));
        prop_assert!(ended.is_ok());
        let table = table();
        let expected: Vec<Vec<u8>> = messages.iter().map(|(binary, pieces)| {
            let text = pieces.concat();
            let json = matches!(text.first(), Some(b'{' | b'['| b'"'));
            let needles = match (up, binary, json) {
                (true, true, _) => return text,
                (true, false, true) => &table.stubs_json,
                (true, false, false) => &table.stubs,
                (false, _, _) => &table.secrets,
            };
            needles.replace(&text, u128::MAX).map_or(text, |(new, _)| new)
        }).collect();
        let (mut got, mut arrived) = (Vec::new(), 0);
        let mut message = Vec::new();
        for (fin, opcode, payload) in out {
            if opcode == Opcode::Ping {
                arrived += 1;
                continue;
            }
            message.extend(payload);
            if fin {
                got.push(std::mem::take(&mut message));
            }
        }
        prop_assert_eq!(got, expected);
        prop_assert_eq!(arrived, pings);
    }
}
