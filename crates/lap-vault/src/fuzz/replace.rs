//! The search for many texts in a stream, against the plainest program that does the same.

use std::sync::Arc;

use bytes::Bytes;
use lap_domain::secret::Secret;

use super::input::{Input, pieces};
use crate::needles::{Needle, Needles, Release, Replacer};

/// A text and what stands in for it.
type Pair = (Vec<u8>, Vec<u8>);

/// Needles shorter than this are not looked for.
const SHORTEST: usize = 4;

/// Any cut of a stream gives the same bytes, and those a plain search gives; pauses change no length.
pub fn replace(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    // Three letters make texts that begin, end and lie in one another.
    let narrow = |bytes: &[u8]| -> Vec<u8> {
        if flags & 1 == 1 { bytes.iter().map(|byte| b'a' + byte % 3).collect() } else { bytes.to_vec() }
    };
    let enabled = u128::from(input.byte());
    let pairs: Vec<Pair> = (0..input.byte() % 6 + 1)
        .map(|_| {
            let text = narrow(input.sized(24));
            let mut with = input.sized(24).to_vec();
            // What stands in for a secret is never shorter than what a pause lets go.
            with.resize(with.len().max(SHORTEST), b'=');
            (text, with)
        })
        .collect();
    let cuts = input.sized(16).to_vec();
    let stream = narrow(input.rest());
    let needle = |(i, (text, with)): (usize, &Pair)| Needle {
        text: Secret::new(text.clone()),
        with: Secret::new(with.clone()),
        owner: u8::try_from(i).expect("there are few"),
    };
    let needles = Arc::new(Needles::new(pairs.iter().enumerate().map(needle).collect()));

    let (expected, hits) = plainly(&pairs, enabled, &stream);
    match needles.replace(&stream, enabled) {
        Some(whole) => assert_eq!(whole, (expected.clone(), hits)),
        None => assert_eq!((&expected, 0), (&stream, hits)),
    }
    if !needles.changes_length(enabled) {
        assert_eq!(expected.len(), stream.len());
    }
    let mut replacer = Replacer::new(needles.clone(), enabled);
    let mut out: Vec<u8> = Vec::new();
    for piece in pieces(&stream, &cuts) {
        out.extend_from_slice(&replacer.feed(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&replacer.finish());
    assert!(replacer.is_empty());
    assert_eq!((out, replacer.hits()), (expected.clone(), hits));

    let mut replacer = Replacer::new(needles, enabled);
    let (mut out, mut let_go): (Vec<u8>, usize) = (Vec::new(), 0);
    for piece in pieces(&stream, &cuts) {
        out.extend_from_slice(&replacer.feed(Bytes::copy_from_slice(piece)));
        let can = replacer.can_relax(Release::Little);
        let little = replacer.relax(Release::Little);
        assert_eq!(can, !little.is_empty());
        let_go += little.len();
        out.extend_from_slice(&little);
    }
    out.extend_from_slice(&replacer.finish());
    assert_eq!((out.len(), replacer.hits()), (expected.len(), hits));
    let other = out.iter().zip(&expected).filter(|(a, b)| a != b).count();
    assert!(other <= let_go, "{other} bytes differ, {let_go} were let go");
}

/// Scans from the left, takes the longest text that begins here, goes on behind it.
fn plainly(pairs: &[Pair], enabled: u128, input: &[u8]) -> (Vec<u8>, u128) {
    let (mut out, mut hits, mut at) = (Vec::new(), 0, 0);
    while at < input.len() {
        let mut longest: Option<(usize, &Pair)> = None;
        for (owner, pair) in pairs.iter().enumerate() {
            let wanted = enabled >> owner & 1 == 1 && pair.0.len() >= SHORTEST;
            if wanted && input[at..].starts_with(&pair.0) && longest.is_none_or(|(_, l)| l.0.len() < pair.0.len()) {
                longest = Some((owner, pair));
            }
        }
        match longest {
            Some((owner, (text, with))) => {
                out.extend_from_slice(with);
                hits |= 1 << owner;
                at += text.len();
            }
            None => {
                out.push(input[at]);
                at += 1;
            }
        }
    }
    (out, hits)
}
