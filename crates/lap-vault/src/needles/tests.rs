use std::sync::Arc;

use bytes::Bytes;
use lap_domain::secret::Secret;
use proptest::prelude::*;

use super::{Needle, Needles, Replacer};

fn needles(pairs: &[(&str, &str)]) -> Arc<Needles> {
    let needle = |(i, (text, with)): (usize, &(&str, &str))| Needle {
        text: Secret::new(text.as_bytes().to_vec()),
        with: Secret::new(with.as_bytes().to_vec()),
        owner: u8::try_from(i).expect("tests use few needles"),
    };
    Arc::new(Needles::new(pairs.iter().enumerate().map(needle).collect()))
}

fn stream(needles: &Arc<Needles>, pieces: &[&[u8]]) -> Vec<u8> {
    let mut replacer = Replacer::new(needles.clone(), u128::MAX);
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&replacer.feed(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&replacer.finish());
    out
}

#[track_caller]
fn check(pairs: &[(&str, &str)], input: &str, expected: &str) {
    let needles = needles(pairs);
    assert_eq!(String::from_utf8_lossy(&stream(&needles, &[input.as_bytes()])), expected);
    for cut in 0..=input.len() {
        let (a, b) = input.as_bytes().split_at(cut);
        assert_eq!(String::from_utf8_lossy(&stream(&needles, &[a, b])), expected, "cut at {cut}");
    }
    let single: Vec<&[u8]> = input.as_bytes().chunks(1).collect();
    assert_eq!(String::from_utf8_lossy(&stream(&needles, &single)), expected, "byte by byte");
}

#[test]
fn replaces_wherever_the_stream_is_cut() {
    check(&[("stub_a", "X")], "…stub_a…stub_astub_a", "…X…XX");
}

#[test]
fn takes_the_longest_of_those_that_begin_together() {
    check(&[("stub_a", "1"), ("stub_abc", "2")], "stub_a stub_ab stub_abc stub_abcd", "1 1b 2 2d");
}

#[test]
fn a_failed_beginning_does_not_hide_the_text_inside() {
    check(&[("aaab_x", "1"), ("aab_yy", "2")], "aaab_yy aaaab_x", "a2 a1");
}

#[test]
fn a_text_inside_an_unfinished_longer_one_waits_and_is_then_found() {
    check(&[("xxstub_a_long", "1"), ("stub_a", "2")], "xxstub_a_lost xxstub_a_long xxstub_a", "xx2_lost 1 xx2");
}

#[test]
fn pieces_without_anything_come_back_uncopied() {
    let needles = needles(&[("stub_a", "X")]);
    let piece = Bytes::from_static(b"data: nothing to see\n\n");
    let mut replacer = Replacer::new(needles, u128::MAX);
    assert_eq!(replacer.feed(piece.clone()).as_ptr(), piece.as_ptr());
    assert!(replacer.is_empty());
}

#[test]
fn a_pause_lets_a_little_go_and_the_text_is_still_found() {
    let needles = needles(&[("ghp_secret", "stub_long_enough")]);
    let mut replacer = Replacer::new(needles.clone(), u128::MAX);
    assert_eq!(replacer.feed(Bytes::from_static(b"pong")), "pon");
    assert_eq!(replacer.relax(super::Release::Little), "g");
    assert!(replacer.is_empty());
    assert_eq!(replacer.feed(Bytes::from_static(b" next g")), " next ");
    assert_eq!(replacer.relax(super::Release::Little), "g");
    assert_eq!(replacer.feed(Bytes::from_static(b"hp")), "");
    assert_eq!(replacer.relax(super::Release::Little), "hp");
    assert_eq!(replacer.feed(Bytes::from_static(b"_")), "");
    assert!(!replacer.can_relax(super::Release::Little));
    assert_eq!(replacer.relax(super::Release::Little), "");
    assert_eq!(replacer.feed(Bytes::from_static(b"secret!")), "b_long_enough!");
    assert_eq!(replacer.finish(), "");
    let mut replacer = Replacer::new(needles, u128::MAX);
    assert_eq!(replacer.feed(Bytes::from_static(b"ghp_sec")), "");
    assert_eq!(replacer.relax(super::Release::All), "ghp_sec");
}

#[test]
fn disabled_credentials_are_left_alone() {
    let needles = needles(&[("stub_a", "X"), ("stub_b", "Y")]);
    let (out, hits) = needles.replace(b"stub_a stub_b", 0b10).expect("one is there");
    assert_eq!((out.as_slice(), hits), (b"stub_a Y".as_slice(), 0b10));
}

/// What a reader would call right: scan from the left, take the longest text that begins here, go on behind it.
fn plainly(pairs: &[(String, String)], input: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < input.len() {
        let longest = pairs
            .iter()
            .filter(|(text, _)| input[at..].starts_with(text.as_bytes()))
            .max_by_key(|(text, _)| text.len());
        match longest {
            Some((text, with)) => {
                out.extend_from_slice(with.as_bytes());
                at += text.len();
            }
            None => {
                out.push(input[at]);
                at += 1;
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn any_cut_gives_what_the_plain_scan_gives(
        texts in proptest::collection::btree_map("[ab]{4,9}", "[AB]{0,6}", 1..5),
        input in "[abc]{0,120}",
        cuts in proptest::collection::vec(0usize..120, 0..12),
    ) {
        let pairs: Vec<(String, String)> = texts.into_iter().collect();
        let borrowed: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let needles = needles(&borrowed);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(input.len())).collect();
        cuts.sort_unstable();
        let (mut pieces, mut from) = (Vec::new(), 0);
        for cut in cuts {
            pieces.push(&input.as_bytes()[from..cut]);
            from = cut;
        }
        pieces.push(&input.as_bytes()[from..]);
        let expected = plainly(&pairs, input.as_bytes());
        prop_assert_eq!(stream(&needles, &pieces), expected.clone());
        let whole = needles.replace(input.as_bytes(), u128::MAX).map_or_else(|| input.clone().into_bytes(), |(out, _)| out);
        prop_assert_eq!(whole, expected);
    }
}
