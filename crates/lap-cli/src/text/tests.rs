use super::{ago, clean, one_line, short_number};

#[test]
fn nothing_a_terminal_obeys_is_left() {
    assert_eq!(clean("a\u{1b}[31mb\u{7}\r\n\tc\u{9d}\u{202e}d"), "a[31mb\n\tcd");
}

#[test]
fn one_line_is_one_line() {
    assert_eq!(one_line("  short  ", 10), "short");
    assert_eq!(one_line("first\nsecond", 10), "first…");
    assert_eq!(one_line("grüße an alle", 6), "grüße…");
    assert_eq!(one_line("", 6), "");
}

#[test]
fn ages_are_told_roughly() {
    let now = "2026-01-10T00:00:00Z".parse().expect("a time");
    let tell = |at: &str| ago(at, now);
    assert_eq!(tell("2026-01-09T23:59:30.000Z"), "just now");
    assert_eq!(tell("2026-01-09T23:30:00.000Z"), "30 min ago");
    assert_eq!(tell("2026-01-09T12:00:00.000Z"), "12 h ago");
    assert_eq!(tell("2026-01-01T00:00:00.000Z"), "9 days ago");
    assert_eq!(tell("2027-01-01T00:00:00.000Z"), "just now");
    assert_eq!(tell("soon"), "soon");
}

#[test]
fn large_numbers_are_short() {
    let told = [0, 999, 1_000, 12_345, 999_949, 999_950, 4_500_000].map(short_number);
    assert_eq!(told, ["0", "999", "1.0k", "12.3k", "999.9k", "1.0M", "4.5M"]);
}
