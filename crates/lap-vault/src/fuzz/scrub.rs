//! Values on their way back, in every form that programs are known to write them down.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use lap_domain::credential::Scope;
use percent_encoding::percent_decode;

use super::input::{Input, pieces};
use super::rewrite::{credential, has, in_pieces, table_of};
use crate::needles::{Release, Replacer};

/// Letters that no stub has, so that nothing beside a stub can make a value of it, and signs that codings care about.
const LETTERS: [char; 48] = [
    'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P', 'Q', 'R', 'S', 'T', 'X', 'Y', 'Z',
    'w', 'x', 'z', '/', '+', '=', '%', '"', '\\', '<', '>', '&', '\'', '~', '!', '*', '(', ')', ' ', '\t', '\n', '$',
    'é', '€', '😀',
];

/// How programs write a value down, and how others read it again.
type Coding = (fn(&[u8]) -> Vec<u8>, fn(&[u8]) -> Vec<u8>);
const CODINGS: [Coding; 14] = [
    (<[u8]>::to_vec, <[u8]>::to_vec),
    (|text| json(text, |_| false), unjson),
    // Python escapes what is not ASCII, Go what HTML cares about, PHP slashes.
    (|text| json(text, |c| !c.is_ascii()), unjson),
    (|text| json(text, |c| matches!(c, '<' | '>' | '&')), unjson),
    (|text| String::from_utf8_lossy(&json(text, |_| false)).replace('/', "\\/").into_bytes(), unjson),
    (|text| percent(text, "-._~"), unpercent),
    (|text| lower_percent(&percent(text, "-._~")), unpercent),
    // Python leaves slashes, browsers some signs, form fields have plus signs for spaces.
    (|text| percent(text, "-._~/"), unpercent),
    (|text| percent(text, "-._~!'()*"), unpercent),
    (|text| String::from_utf8_lossy(&percent(text, "-._*")).replace("%20", "+").into_bytes(), unform),
    (|text| STANDARD.encode(text).into_bytes(), |text| unbase64(&STANDARD_NO_PAD, text)),
    (|text| URL_SAFE_NO_PAD.encode(text).into_bytes(), |text| unbase64(&URL_SAFE_NO_PAD, text)),
    (|text| hex(text), unhex),
    (|text| hex(text).to_ascii_uppercase(), unhex),
];

fn json(text: &[u8], escaped: fn(char) -> bool) -> Vec<u8> {
    let plain = serde_json::to_string(&String::from_utf8_lossy(text)).expect("text is JSON");
    let mut out = String::new();
    for c in plain.chars() {
        if escaped(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out.into_bytes()
}

fn unjson(text: &[u8]) -> Vec<u8> {
    serde_json::from_slice::<String>(text).map_or_else(|_| text.to_vec(), String::into_bytes)
}

fn percent(text: &[u8], kept: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in text {
        if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

fn lower_percent(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    for at in (0..out.len()).filter(|at| text[*at] == b'%') {
        out[at + 1..at + 3].make_ascii_lowercase();
    }
    out
}

fn unpercent(text: &[u8]) -> Vec<u8> {
    percent_decode(text).collect()
}

fn unform(text: &[u8]) -> Vec<u8> {
    unpercent(&text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect::<Vec<_>>())
}

fn unbase64(engine: &impl base64::Engine, text: &[u8]) -> Vec<u8> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'=').collect();
    engine.decode(text).unwrap_or_default()
}

fn hex(text: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

fn unhex(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    text.chunks(2).map(|pair| digit(pair[0]) << 4 | pair.get(1).map_or(0, |low| digit(*low))).collect()
}

/// Whatever stands around a value and however a program writes it down: read again, it is not there any more.
pub fn scrub(data: &[u8]) {
    let mut input = Input::new(data);
    let (write, read) = CODINGS[usize::from(input.byte()) % CODINGS.len()];
    let secret: String = input.sized(40).iter().map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]).collect();
    let secret = format!("SECRET-{secret}Z");
    let cuts = input.sized(16).to_vec();
    let before = input.sized(40);
    // Texts around a value that are no text themselves would be written down in another way than anybody does.
    let [before, after] = [before, input.rest()].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let written = write([before.as_bytes(), secret.as_bytes(), after.as_bytes()].concat().as_slice());
    let table = table_of(vec![credential("KEY_TOKEN", &secret, Scope::Anywhere)]);

    let (whole, _) = in_pieces(&table.secrets, u128::MAX, &written, &[]);
    let (out, hits) = in_pieces(&table.secrets, u128::MAX, &written, &cuts);
    assert_eq!(out, whole, "the cut matters");
    assert_eq!(hits, 1, "{:?} was not found in {:?}", secret, String::from_utf8_lossy(&written));
    check_gone(&secret, &out, read);

    let mut replacer = Replacer::new(table.secrets.clone(), u128::MAX);
    let mut out: Vec<u8> = Vec::new();
    for piece in pieces(&written, &cuts) {
        out.extend_from_slice(&replacer.feed(Bytes::copy_from_slice(piece)));
        out.extend_from_slice(&replacer.relax(Release::Little));
    }
    out.extend_from_slice(&replacer.finish());
    check_gone(&secret, &out, read);
}

#[track_caller]
fn check_gone(secret: &str, out: &[u8], read: fn(&[u8]) -> Vec<u8>) {
    let shown = String::from_utf8_lossy(out);
    assert!(!has(out, secret), "{secret:?} is in {shown:?}");
    assert!(!has(&read(out), secret), "{secret:?} can be read in {shown:?}");
}
