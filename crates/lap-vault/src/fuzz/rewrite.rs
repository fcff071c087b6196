//! Stubs to secrets and back, with the vault's own tables, in every position.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use lap_domain::credential::{Credential, Destination, HostRule, Scope};
use lap_domain::egress::Host;
use lap_domain::secret::Secret;
use lap_domain::stub;
use memchr::memmem;
use percent_encoding::percent_decode;

use super::input::{Input, pieces};
use crate::grants::{Grants, Open, Table};
use crate::needles::{Needles, Replacer};
use crate::upstream::tls::UpstreamTls;
use crate::{scrub as answers, substitute};

/// Names, values and where they may go. Values begin and end in letters no stub has, so that nothing beside a stub can make
/// a value of it.
const CREDENTIALS: [(&str, &str, &[&str]); 7] = [
    ("GITHUB_TOKEN", "GHP-0123456789abcdefghijklmnopqrstuVWXYZ", &["api.test"]),
    (
        "QUOTED_SECRET",
        "Q\"uo\\te/d va+lue=& with %odd <signs>Z",
        &["api.test#header#path#query#body", "api.test:80#body"],
    ),
    ("OTHER_KEY", "OTHER-VALUE-WITH-LENGTH-OF-ITS-OWN", &["other.test#body#path"]),
    ("ANY_TOKEN", "ANYWHERE-IT-MAY-GO", &["*"]),
    ("LINES", "LINE ONE\r\nLINE TWO\tEND", &["api.test#body", "any.test#body"]),
    ("SHORT", "SH-RT", &["api.test#body#query"]),
    ("LITELLM_API_KEY", "GATEWAY-KEY-AS-LONG-AS-ITS-STUB-XYZ", &[]),
];

const PLACES: [(&str, u16, bool); 5] = [
    ("api.test", 443, true),
    ("other.test", 443, true),
    ("api.test", 80, false),
    ("any.test", 8443, true),
    ("any.test", 80, false),
];

/// Values shorter than this are not taken out of answers.
const SCRUBBED_FROM: usize = 8;

fn stub_of(name: &str, secret: &str) -> String {
    let random: Vec<u8> = name.bytes().cycle().take(64).collect();
    stub::mint(name, secret.len(), &random)
}

pub(super) fn credential(name: &str, secret: &str, scope: Scope) -> Credential {
    Credential { name: name.to_owned(), stub: stub_of(name, secret), secret: Secret::new(secret.to_owned()), scope }
}

pub(super) fn table_of(credentials: Vec<Credential>) -> Arc<Table> {
    let tls = UpstreamTls::new(None).expect("no authorities are good ones");
    Arc::new(Table::new(Grants { credentials, ..Grants::default() }, tls).expect("these can be granted"))
}

fn table() -> Arc<Table> {
    static TABLE: OnceLock<Arc<Table>> = OnceLock::new();
    let new = || {
        let scope = |places: &[&str]| match places {
            [] => Scope::Gateway,
            ["*"] => Scope::Anywhere,
            rules => Scope::Hosts(rules.iter().map(|rule| HostRule::parse(rule).expect("a rule")).collect()),
        };
        table_of(CREDENTIALS.iter().map(|(name, secret, places)| credential(name, secret, scope(places))).collect())
    };
    TABLE.get_or_init(new).clone()
}

fn open_at(place: u8) -> (Open, String) {
    let (host, port, tls) = PLACES[usize::from(place) % PLACES.len()];
    let host = Host::parse(host).expect("a host");
    (table().open_at(&Destination { host: &host, port, tls }), format!("{host}:{port}"))
}

/// Text with stubs, halves of stubs and values where the fuzzer's bytes are no ASCII.
fn expand(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in bytes {
        let (name, secret, _) = CREDENTIALS[usize::from(byte & 15) % CREDENTIALS.len()];
        let stub = stub_of(name, secret);
        match byte >> 4 {
            8 => out.extend_from_slice(stub.as_bytes()),
            9 => out.extend_from_slice(&stub.as_bytes()[..stub.len() / 2]),
            10 => out.extend_from_slice(&stub.as_bytes()[stub.len() / 2..]),
            11 => out.extend_from_slice(secret.as_bytes()),
            12 => out.extend_from_slice(stub.to_ascii_uppercase().as_bytes()),
            13 => out.extend_from_slice(STANDARD.encode(&stub).as_bytes()),
            14 => out.extend_from_slice(STANDARD.encode(secret).as_bytes()),
            _ => out.push(*byte),
        }
    }
    out
}

pub(super) fn has(text: &[u8], part: &str) -> bool {
    memmem::find(text, part.as_bytes()).is_some()
}

/// Which credentials' stubs, and which credentials' values, stand in a text as they are.
fn stubs_in(text: &[u8]) -> u128 {
    let bit =
        |(i, (name, secret, _)): (usize, &(&str, &str, &[&str]))| u128::from(has(text, &stub_of(name, secret))) << i;
    CREDENTIALS.iter().enumerate().map(bit).fold(0, |a, b| a | b)
}

fn secrets_in(text: &[u8]) -> u128 {
    let bit = |(i, (_, secret, _)): (usize, &(&str, &str, &[&str]))| u128::from(has(text, secret)) << i;
    CREDENTIALS.iter().enumerate().map(bit).fold(0, |a, b| a | b)
}

fn scrubbed_ones() -> u128 {
    let bit = |(i, (_, secret, _)): (usize, &(&str, &str, &[&str]))| u128::from(secret.len() >= SCRUBBED_FROM) << i;
    CREDENTIALS.iter().enumerate().map(bit).fold(0, |a, b| a | b)
}

/// What a server reads in a credential header: the value, and what Basic packs.
fn read(value: &[u8]) -> Vec<u8> {
    let mut out = value.to_vec();
    if let Some((scheme, rest)) = value.split_at_checked(6)
        && scheme.eq_ignore_ascii_case(b"basic ")
    {
        // Padding in the middle means nothing to a server that follows the rules, and a stub behind it stays a stub.
        let rest = rest.trim_ascii();
        let packed = &rest[..rest.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1)];
        out.push(b'\n');
        out.extend_from_slice(&STANDARD_NO_PAD.decode(packed).unwrap_or_default());
    }
    out
}

/// No stub stays in a credential header, no value goes where it may not, and what comes back is what was sent.
pub fn swap_in_headers(data: &[u8]) {
    const NAMES: [&str; 8] = [
        "authorization",
        "x-api-key",
        "cookie",
        "proxy-authorization",
        "x-other",
        "idempotency-key",
        "sec-websocket-protocol",
        "x-auth-data",
    ];
    let mut input = Input::new(data);
    let name = HeaderName::from_static(NAMES[usize::from(input.byte()) % NAMES.len()]);
    let (open, to) = open_at(input.byte());
    let basic = input.byte() & 1 == 1;
    let text = expand(input.rest());
    let sent = if basic { format!("Basic {}", STANDARD.encode(&text)).into_bytes() } else { text };
    let Ok(value) = HeaderValue::from_bytes(&sent) else { return };
    let in_position = substitute::is_credential_header(&name);
    let allowed = if in_position { open.credential } else { open.header };
    // Only in a header made for credentials does Basic mean anything.
    let read = if in_position { read } else { <[u8]>::to_vec };
    let (table, before) = (table(), read(&sent));
    let mut headers = HeaderMap::from_iter([(name.clone(), value)]);
    match substitute::headers(&table, &open, &mut headers, &to) {
        Err(refusal) => match refusal.code {
            "misdirected_stub" => assert_ne!(stubs_in(&before) & !allowed, 0, "{name} toward {to}"),
            "unusable_secret" => assert_ne!(stubs_in(&before) & 1 << 4, 0, "{name} toward {to}"),
            other => panic!("refused as {other}"),
        },
        Ok(swapped) => {
            let after = read(headers[&name].as_bytes());
            let stay = if in_position { 0 } else { stubs_in(&before) & !allowed };
            assert_eq!(stubs_in(&after) & !stay, 0, "{name} toward {to}: {}", String::from_utf8_lossy(&after));
            assert_eq!(secrets_in(&after) & !secrets_in(&before) & !allowed, 0);
            assert_eq!((swapped & !allowed, swapped & !stubs_in(&before)), (0, 0));
            answers::headers(&table, u128::MAX, &mut headers);
            let back = headers[&name].as_bytes();
            assert_eq!(secrets_in(&read(back)) & scrubbed_ones(), 0, "{}", String::from_utf8_lossy(back));
            if table.secrets.occurring(&sent) == 0
                && !sent.to_ascii_lowercase().starts_with(b"basic ")
                && swapped & !scrubbed_ones() == 0
            {
                assert_eq!(String::from_utf8_lossy(back), String::from_utf8_lossy(&sent));
            }
        }
    }
}

/// Path and query stay a path and a query, and mean what was sent with values for stubs.
pub fn swap_in_path(data: &[u8]) {
    let mut input = Input::new(data);
    let (open, to) = open_at(input.byte());
    let Ok(sent) = PathAndQuery::from_maybe_shared(Bytes::from(expand(input.rest()))) else { return };
    let (path, query) = sent.as_str().split_once('?').unwrap_or((sent.as_str(), ""));
    let inside = (stubs_in(path.as_bytes()) & open.path) | (stubs_in(query.as_bytes()) & open.query);
    let Some((new, swapped)) = substitute::path_and_query(&table(), &open, sent.as_str()) else {
        assert_eq!(inside, 0, "{sent} toward {to}");
        return;
    };
    assert_eq!(swapped, inside);
    let parsed: PathAndQuery = new.parse().expect("it stays a path");
    assert_eq!(parsed.as_str(), new);
    let (new_path, new_query) = new.split_once('?').unwrap_or((&new, ""));
    for (old, new, allowed) in [(path, new_path, open.path), (query, new_query, open.query)] {
        assert_eq!(stubs_in(new.as_bytes()) & allowed, 0, "{new}");
        let decoded = |text: &str| percent_decode(text.as_bytes()).collect::<Vec<u8>>();
        let meant = decoded(old);
        // A stub that shows only when decoded stays as it is: it is found by nobody's eyes but the server's.
        if stubs_in(&meant) == stubs_in(old.as_bytes()) {
            assert_eq!(decoded(new), plainly_swapped(&meant, allowed), "{sent} became {new}");
        }
    }
}

fn plainly_swapped(text: &[u8], allowed: u128) -> Vec<u8> {
    let mut out = text.to_vec();
    for (_, (name, secret, _)) in CREDENTIALS.iter().enumerate().filter(|(i, _)| allowed >> i & 1 == 1) {
        let stub = stub_of(name, secret);
        let mut rest = std::mem::take(&mut out);
        while let Some(at) = memmem::find(&rest, stub.as_bytes()) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(secret.as_bytes());
            rest.drain(..at + stub.len());
        }
        out.extend_from_slice(&rest);
    }
    out
}

pub(super) fn in_pieces(needles: &Arc<Needles>, mask: u128, text: &[u8], cuts: &[u8]) -> (Vec<u8>, u128) {
    let mut replacer = Replacer::new(needles.clone(), mask);
    let mut out: Vec<u8> = Vec::new();
    for piece in pieces(text, cuts) {
        out.extend_from_slice(&replacer.feed(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&replacer.finish());
    (out, replacer.hits())
}

/// No stub stays in an opened body; its form stays what it was; what comes back is what was sent.
pub fn swap_in_body(data: &[u8]) {
    const KINDS: [&str; 6] = [
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "application/grpc+proto",
        "multipart/form-data; boundary=x",
        "application/vnd.api+json; charset=utf-8",
    ];
    let mut input = Input::new(data);
    let kind = KINDS[usize::from(input.byte()) % KINDS.len()];
    let (open, _) = open_at(input.byte());
    let cuts = input.sized(16).to_vec();
    let text = expand(input.rest());
    let json = kind.contains("json");
    let sent = if json { serde_json::to_vec(&String::from_utf8_lossy(&text)).expect("text is JSON") } else { text };
    let (table, headers) = (table(), HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]));
    let (needles, mask) = substitute::needles_for(&table, &headers, open.body);
    let (swapped, hits) = in_pieces(&needles, mask, &sent, &cuts);
    assert_eq!(hits, stubs_in(&sent) & mask);
    assert_eq!(stubs_in(&swapped) & mask, 0);
    assert_eq!(stubs_in(&swapped), stubs_in(&sent) & !mask, "stubs of others stay");
    if kind.starts_with("application/grpc") {
        assert_eq!(swapped.len(), sent.len());
    }
    if json {
        let parse = |bytes: &[u8]| serde_json::from_slice::<String>(bytes).expect("JSON stays JSON").into_bytes();
        assert_eq!(parse(&swapped), plainly_swapped(&parse(&sent), mask));
    }
    if table.secrets.occurring(&sent) == 0 && hits & !scrubbed_ones() == 0 {
        let (back, _) = in_pieces(&table.secrets, u128::MAX, &swapped, &cuts);
        assert_eq!(String::from_utf8_lossy(&back), String::from_utf8_lossy(&sent));
    }
}
