use expect_test::{Expect, expect};

use super::{SIZE_LIMIT, SseParser, TooLarge};

/// Parses the text whole, then cut at every place, then byte by byte: all must agree.
#[track_caller]
fn check(stream: &str, expect: Expect) {
    let bytes = stream.as_bytes();
    let whole = parse([bytes]);
    for cut in 0..=bytes.len() {
        let (left, right) = bytes.split_at(cut);
        assert_eq!(parse([left, right]), whole, "cut at byte {cut}");
    }
    assert_eq!(parse(bytes.chunks(1)), whole, "byte by byte");
    expect.assert_eq(&whole);
}

fn parse<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut parser = SseParser::new();
    let mut text = String::new();
    for chunk in chunks {
        for event in parser.push(chunk).expect("small events") {
            text += &format!("{} {} {:?}\n", event.id.as_deref().unwrap_or("-"), event.name, event.data);
        }
    }
    text
}

#[test]
fn plain_events() {
    check(
        "id: 7\nevent: tool\ndata: {\"a\":1}\n\ndata: second\n\n",
        expect![[r#"
            7 tool "{\"a\":1}"
            7 message "second"
        "#]],
    );
}

#[test]
fn every_line_ending_counts() {
    check(
        "data: a\r\ndata: b\r\rdata: c\r\n\r\ndata: d\n\n",
        expect![[r#"
            - message "a\nb"
            - message "c"
            - message "d"
        "#]],
    );
}

#[test]
fn comments_and_events_without_data_are_no_events() {
    check(
        ": keep-alive\n\nevent: ping\n\nretry: 10\nid: 3\n\ndata:x\n\n",
        expect![[r#"
        3 message "x"
    "#]],
    );
}

#[test]
fn byte_order_mark_and_wide_characters_survive_cuts() {
    check(
        "\u{feff}data: grün 🦀\n\n",
        expect![[r#"
        - message "grün 🦀"
    "#]],
    );
}

#[test]
fn only_one_space_goes_and_empty_data_lines_stay() {
    check(
        "data:  x\ndata\ndata:\n\n",
        expect![[r#"
        - message " x\n\n"
    "#]],
    );
}

#[test]
fn what_is_not_ended_is_dropped() {
    check(
        "data: whole\n\nid: 9\ndata: half",
        expect![[r#"
        - message "whole"
    "#]],
    );
}

#[test]
fn endless_lines_end() {
    let mut parser = SseParser::new();
    assert_eq!(parser.push(&vec![b'x'; SIZE_LIMIT + 1]), Err(TooLarge));
}
