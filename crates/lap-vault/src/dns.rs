//! The sandbox's resolver: answers every question for an address with a fake one (see `names`), at once and without asking
//! anybody. No query ever leaves, so none can carry anything out.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::names::Names;

/// Fake addresses never change their meaning, so clients may keep them.
const TTL: u32 = 300;
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const NO_ERROR: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const SERVER_FAILURE: u8 = 2;
const NAME_ERROR: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;
const REFUSED: u8 = 5;

/// Answers until `stop`.
pub(crate) async fn serve(socket: UdpSocket, names: Arc<Names>, stop: CancellationToken) {
    let mut buf = [0; 1500];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buf) => received,
        };
        // Errors here are about single datagrams (a port that closed); the socket stays good.
        let Ok((len, from)) = received else { continue };
        if let Some(reply) = answer(&buf[..len], &names) {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

/// The answer to a query; none to what is no query at all.
pub(crate) fn answer(query: &[u8], names: &Names) -> Option<Vec<u8>> {
    let header: &[u8; 12] = query.first_chunk()?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    if header[2] & 0x78 != 0 {
        return Some(reply(query, &[], NOT_IMPLEMENTED, None));
    }
    if u16::from_be_bytes([header[4], header[5]]) != 1 {
        return Some(reply(query, &[], FORMAT_ERROR, None));
    }
    let Some((name, kind, class, question)) = question(&query[12..]) else {
        return Some(reply(query, &[], FORMAT_ERROR, None));
    };
    if class != CLASS_IN {
        return Some(reply(query, question, REFUSED, None));
    }
    if is_reverse(&name) {
        return Some(reply(query, question, NAME_ERROR, None));
    }
    if kind != TYPE_A {
        // No data: AAAA, HTTPS and SVCB would lead around the fake addresses, everything else has no business here.
        return Some(reply(query, question, NO_ERROR, None));
    }
    Some(match names.address_of(&name) {
        Ok(Some(addr)) => reply(query, question, NO_ERROR, Some(addr)),
        Ok(None) => reply(query, question, SERVER_FAILURE, None),
        Err(_) => reply(query, question, NAME_ERROR, None),
    })
}

/// Name, type, class and the bytes of the first question. Compression has no place in it.
fn question(bytes: &[u8]) -> Option<(String, u16, u16, &[u8])> {
    let (mut name, mut at) = (String::new(), 0);
    loop {
        let len = usize::from(*bytes.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        if len > 63 || name.len() + len > 253 {
            return None;
        }
        let label = bytes.get(at..at + len)?;
        if !name.is_empty() {
            name.push('.');
        }
        // Dots or anything odd inside a label would make another name of it; `Host` refuses what remains.
        for byte in label {
            name.push(if byte.is_ascii_graphic() && *byte != b'.' { char::from(*byte) } else { '!' });
        }
        at += len;
    }
    let tail: &[u8; 4] = bytes.get(at..)?.first_chunk()?;
    Some((name, u16::from_be_bytes([tail[0], tail[1]]), u16::from_be_bytes([tail[2], tail[3]]), &bytes[..at + 4]))
}

fn is_reverse(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "arpa" || name.ends_with(".arpa")
}

fn reply(query: &[u8], question: &[u8], code: u8, addr: Option<Ipv4Addr>) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + question.len() + 16);
    out.extend_from_slice(&query[..2]);
    // An answer, with the asker's wish for recursion repeated and granted.
    out.extend_from_slice(&[0x84 | (query[2] & 0x01), 0x80 | code]);
    out.extend_from_slice(&[0, u8::from(!question.is_empty()), 0, u8::from(addr.is_some()), 0, 0, 0, 0]);
    out.extend_from_slice(question);
    if let Some(addr) = addr {
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&TYPE_A.to_be_bytes());
        out.extend_from_slice(&CLASS_IN.to_be_bytes());
        out.extend_from_slice(&TTL.to_be_bytes());
        out.extend_from_slice(&4_u16.to_be_bytes());
        out.extend_from_slice(&addr.octets());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::InsideNet;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|l| !l.is_empty()) {
            out.push(u8::try_from(label.len()).expect("test labels are short"));
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out
    }

    /// Response code and addresses of the answer.
    #[track_caller]
    fn check(query: &[u8], expected: Option<(u8, Option<[u8; 4]>)>) {
        let names = Names::new(InsideNet { base: Ipv4Addr::new(198, 18, 0, 0), bits: 15 });
        let got = answer(query, &names).map(|reply| {
            assert_eq!(reply[..2], query[..2], "the id is repeated");
            let addr = (reply[7] == 1).then(|| *reply.last_chunk::<4>().expect("an address is at the end"));
            (reply[3] & 15, addr)
        });
        assert_eq!(got, expected);
    }

    #[test]
    fn answers_a_and_gives_no_data_for_the_rest() {
        check(&query("example.com", 1), Some((0, Some([198, 18, 0, 16]))));
        check(&query("gateway.lap.internal", 1), Some((0, Some([198, 18, 0, 16]))));
        for kind in [28, 65, 64, 16, 15, 255] {
            check(&query("example.com", kind), Some((0, None)));
        }
        check(&query("4.4.8.8.in-addr.arpa", 12), Some((3, None)));
    }

    #[test]
    fn odd_names_and_broken_queries_get_no_address() {
        check(&query("0x7f.1", 1), Some((3, None)));
        check(&query("bad label.com", 1), Some((3, None)));
        check(&query("-x.com", 1), Some((3, None)));
        check(&[0; 5], None);
        check(&query("example.com", 1)[..20], Some((1, None)));
        let mut answer = query("example.com", 1);
        answer[2] |= 0x80;
        check(&answer, None);
        let mut pointer = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];
        check(&pointer, Some((1, None)));
        pointer.truncate(12);
        check(&pointer, Some((1, None)));
    }
}
