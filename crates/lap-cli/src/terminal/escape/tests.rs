use super::*;

/// All reads together: what reaches the program, and the last wish.
#[track_caller]
fn check(ctrl_d_leaves: bool, reads: &[&str], bytes: &str, wish: Option<Wish>) {
    let mut escape = Escape::new(ctrl_d_leaves);
    let mut all = Typed::default();
    for read in reads {
        let typed = escape.take(read.as_bytes());
        all.bytes.extend(typed.bytes);
        all.wish = typed.wish.or(all.wish);
    }
    assert_eq!((String::from_utf8_lossy(&all.bytes).as_ref(), all.wish), (bytes, wish));
}

#[test]
fn ordinary_typing_goes_through() {
    check(true, &["ls ~/x\r", "a~.b", "\x1b[A", "é"], "ls ~/x\ra~.b\x1b[Aé", None);
}

#[test]
fn a_tilde_at_the_beginning_of_a_line_is_for_lap() {
    check(true, &["~."], "", Some(Wish::Detach));
    check(false, &["ls\r", "~", "."], "ls\r", Some(Wish::Detach));
    check(false, &["~?", "~?ls"], "ls", Some(Wish::Help));
    check(false, &["~~."], "~.", None);
    check(false, &["~x\r~/bin"], "~x\r~/bin", None);
    check(true, &["~d"], "\x04", None);
}

#[test]
fn ctrl_d_leaves_where_it_is_not_the_programs() {
    check(true, &["abc", "\x04", "more"], "abcmore", Some(Wish::Detach));
    check(true, &["abc\x04def"], "abc", Some(Wish::Detach));
    check(true, &["\x1b[100;5u"], "", Some(Wish::Detach));
    check(false, &["abc\x04"], "abc\x04", None);
    check(false, &["\x1b[100;5u"], "\x1b[100;5u", None);
}

#[test]
fn what_is_pasted_is_text() {
    check(true, &["\x1b[200~~.\r~.\x04\x1b[201~"], "\x1b[200~~.\r~.\x04\x1b[201~", None);
    check(true, &["\x1b[20", "0~x\r~.", "\x1b[201", "~\r~."], "\x1b[200~x\r~.\x1b[201~\r", Some(Wish::Detach));
}
