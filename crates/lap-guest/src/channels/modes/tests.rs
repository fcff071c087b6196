use super::*;

/// What restores the modes after this output.
#[track_caller]
fn check(output: &str, expect: &str) {
    let mut tracker = Tracker::default();
    tracker.feed(output.as_bytes());
    let mut restored = String::new();
    tracker.modes().restore(&mut restored);
    assert_eq!(restored, expect);
    // What restores is understood by what reads it.
    let mut again = Tracker::default();
    again.feed(restored.as_bytes());
    let mut twice = String::new();
    again.modes().restore(&mut twice);
    assert_eq!(twice, restored, "restoring twice is restoring once");
}

#[test]
fn mouse_paste_and_focus_are_kept() {
    check("\x1b[?1000;1006h\x1b[?2004h\x1b[?1004h", "\x1b[?1000h\x1b[?1004h\x1b[?1006h\x1b[?2004h");
    check("\x1b[?1003h\x1b[?1003l", "\x1b[?1003l");
    // Of no lasting meaning, or kept by the screen model.
    check("\x1b[?2026h\x1b[?25l\x1b[?1h", "");
}

#[test]
fn the_keyboard_has_a_stack_for_each_screen() {
    check("\x1b[>1u", "\x1b[=1u");
    check("\x1b[>1u\x1b[>31u", "\x1b[=31u");
    check("\x1b[>1u\x1b[>31u\x1b[<u", "\x1b[=1u");
    check("\x1b[>1u\x1b[<9u", "");
    check("\x1b[>1u\x1b[=4;2u", "\x1b[=5u");
    check("\x1b[?1049h\x1b[>7u\x1b[?1049l", "");
}

#[test]
fn titles_cursor_and_colours_are_kept() {
    check("\x1b]0;hello; you\x07", "\x1b]2;hello; you\x1b\\");
    check("\x1b[5 q\x1b[>4;2m\x1b=", "\x1b=\x1b[>4;2m\x1b[5 q");
    check("\x1b]11;rgb:00/00/00\x1b\\", "\x1b]11;rgb:00/00/00\x1b\\");
    check("\x1b]11;rgb:00/00/00\x1b\\\x1b]111\x07", "");
    check("\x1b]11;?\x07", "");
}

#[test]
fn a_hard_reset_forgets_all_but_the_title() {
    check("\x1b]2;t\x07\x1b[?1000h\x1b[>1u\x1b[3 q\x1b=\x1bc", "\x1b]2;t\x1b\\");
}

#[test]
fn sequences_may_be_cut_anywhere() {
    for cut in 1..7 {
        let mut tracker = Tracker::default();
        b"\x1b[?2004h\x1b[6n\x1b]2;t\x07".chunks(cut).for_each(|piece| tracker.feed(piece));
        let mut restored = String::new();
        tracker.modes().restore(&mut restored);
        assert_eq!(restored, "\x1b[?2004h\x1b]2;t\x1b\\");
        assert_eq!(tracker.questions(), [Question::Cursor]);
        assert_eq!(tracker.questions(), []);
    }
}
