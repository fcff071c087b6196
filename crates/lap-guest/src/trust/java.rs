//! The store of certificates as Java has it: version 2 of its own format, which every JDK reads.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
/// An entry that is a certificate somebody trusts.
const TRUSTED: u32 = 2;

/// The password that everybody knows, since the store keeps no secret; it only seals the digest at its end.
const PASSWORD: &str = "changeit";

/// All certificates of a PEM text as a store made at `at_ms`.
pub(crate) fn key_store(pem: &[u8], at_ms: i64) -> Vec<u8> {
    let certificates = certificates(pem);
    let mut store = Vec::with_capacity(pem.len());
    let count = u32::try_from(certificates.len()).expect("a bundle is a file of some hundred certificates");
    for number in [MAGIC, VERSION, count] {
        store.extend_from_slice(&number.to_be_bytes());
    }
    for (number, certificate) in certificates.iter().enumerate() {
        store.extend_from_slice(&TRUSTED.to_be_bytes());
        text(&mut store, &format!("lap-{number}"));
        store.extend_from_slice(&at_ms.to_be_bytes());
        text(&mut store, "X.509");
        let length = u32::try_from(certificate.len()).expect("a certificate is a few kilobytes");
        store.extend_from_slice(&length.to_be_bytes());
        store.extend_from_slice(certificate);
    }
    let mut seal = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    for unit in PASSWORD.encode_utf16() {
        seal.update(&unit.to_be_bytes());
    }
    seal.update(b"Mighty Aphrodite");
    seal.update(&store);
    store.extend_from_slice(seal.finish().as_ref());
    store
}

/// The certificates of a PEM text; what is none is left out.
fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(pem);
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = blocks.filter_map(|block| block.split_once("-----END CERTIFICATE-----").map(|(body, _)| body));
    let decoded = bodies.filter_map(|body| {
        let body: String = body.split_ascii_whitespace().collect();
        STANDARD.decode(body).ok()
    });
    decoded.collect()
}

/// A length in two bytes and the text, which is ASCII here.
fn text(store: &mut Vec<u8>, text: &str) {
    store.extend_from_slice(&u16::try_from(text.len()).expect("a short name").to_be_bytes());
    store.extend_from_slice(text.as_bytes());
}
