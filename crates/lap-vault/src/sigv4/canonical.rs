//! What a signature of AWS's version 4 is made of: the canonical form of a request, and the chain of HMACs over it. Pure.
//!
//! Clients differ in how they write path and query canonically, as services do. A form is found by trying: the one under
//! which the client's own signature is right is the one its service expects.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use http::HeaderMap;
use zeroize::Zeroizing;

use crate::forms::from_percent;

/// A request as far as it is signed.
pub(super) struct Message<'a> {
    pub method: &'a str,
    /// As it stands in the request.
    pub path: &'a str,
    /// As it stands in the request, without the question mark.
    pub query: &'a str,
    /// Stands for the Host header.
    pub authority: &'a str,
    pub headers: &'a HeaderMap,
    /// Names of the signed headers, in order.
    pub signed: &'a [String],
    /// Digest of the body, or the word in its place.
    pub payload: &'a str,
}

/// How path and query are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    path: PathForm,
    query: QueryForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathForm {
    /// S3.
    AsSent,
    /// S3, where the client wrote something unencoded.
    EncodedAnew,
    /// All others: encoded once more.
    Encoded,
    /// The same, with dots and doubled slashes resolved first.
    NormalEncoded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueryForm {
    Sorted,
    EncodedAnew,
}

impl Form {
    /// Every form a service may expect.
    pub fn all() -> impl Iterator<Item = Self> {
        use PathForm::{AsSent, Encoded, EncodedAnew, NormalEncoded};
        [NormalEncoded, AsSent, Encoded, EncodedAnew].into_iter().flat_map(|path| {
            [QueryForm::Sorted, QueryForm::EncodedAnew].into_iter().map(move |query| Self { path, query })
        })
    }
}

impl Message<'_> {
    /// The canonical request's digest. None: a header that is said to be signed is not there.
    pub fn digest(&self, form: Form) -> Option<String> {
        Some(hex(digest(&SHA256, self.canonical(form)?.as_bytes()).as_ref()))
    }

    pub fn canonical(&self, form: Form) -> Option<String> {
        let path = if self.path.is_empty() { "/" } else { self.path };
        let path = match form.path {
            PathForm::AsSent => path.to_owned(),
            PathForm::EncodedAnew => encode(&from_percent(path), true),
            PathForm::Encoded => encode(path.as_bytes(), true),
            PathForm::NormalEncoded => encode(resolved(path).as_bytes(), true),
        };
        let mut pairs: Vec<(String, String)> = self
            .query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                match form.query {
                    QueryForm::Sorted => (key.to_owned(), value.to_owned()),
                    QueryForm::EncodedAnew => (encode(&from_percent(key), false), encode(&from_percent(value), false)),
                }
            })
            .collect();
        pairs.sort();
        let query: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut out = format!("{}\n{path}\n{}\n", self.method, query.join("&"));
        for name in self.signed {
            let value = if name == "host" { self.authority.to_owned() } else { joined(self.headers, name)? };
            let _ = writeln!(out, "{name}:{value}");
        }
        let _ = write!(out, "\n{}\n{}", self.signed.join(";"), self.payload);
        Some(out)
    }
}

/// All values of a header, with runs of white space made one.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<String> = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).split_ascii_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// The signature over a canonical request's digest. `scope` is `date/region/service/aws4_request`.
pub(super) fn signature(secret: &str, scope: &str, time: &str, digest: &str) -> String {
    let first = Zeroizing::new(format!("AWS4{secret}"));
    let key = scope
        .split('/')
        .fold(Zeroizing::new(first.as_bytes().to_vec()), |key, part| Zeroizing::new(hmac_of(&key, part.as_bytes())));
    hex(&hmac_of(&key, format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}").as_bytes()))
}

fn hmac_of(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// The digest of a body.
pub(super) fn payload_of(body: &[u8]) -> String {
    hex(digest(&SHA256, body).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    String::from_utf8(crate::forms::hex(bytes)).expect("digits are ASCII")
}

fn encode(text: &[u8], slashes: bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || (slashes && *byte == b'/') {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Without dot segments and doubled slashes.
fn resolved(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}
