use super::*;

const SIZE: Size = Size { cols: 20, rows: 5 };

fn shown(outputs: &[&[u8]]) -> (Screen, Spool) {
    let (mut screen, mut spool) = (Screen::new(SIZE, 0), Spool::new(0, 2 * 1024 * 1024));
    for output in outputs {
        spool.push(output);
        screen.catch_up(&spool);
    }
    (screen, spool)
}

/// What a fresh terminal shows after a repaint, and what it would repaint itself.
fn painted(screen: &Screen) -> Screen {
    let mut spool = Spool::new(0, 8 * 1024 * 1024);
    spool.push(screen.repaint(true).as_bytes());
    let mut other = Screen::new(SIZE, 0);
    other.feed(&spool.slices_after(0).concat());
    other
}

#[track_caller]
fn check_repaint(output: &str) {
    let (screen, _) = shown(&[output.as_bytes()]);
    let copy = painted(&screen);
    assert_eq!(copy.text(), screen.text());
    assert_eq!(copy.terminal.cursor(), screen.terminal.cursor());
    assert_eq!(copy.terminal.dump(), screen.terminal.dump());
    let history = |screen: &Screen| screen.terminal.primary_screen().text();
    assert_eq!(history(&copy), history(&screen), "what has scrolled away is there too");
    assert_eq!(copy.tracker.modes().keyboard_flags(), screen.tracker.modes().keyboard_flags());
}

#[test]
fn a_repaint_shows_the_same() {
    check_repaint("");
    check_repaint("hello");
    check_repaint("one\r\ntwo\r\nthree\r\n\x1b[31mred\x1b[0m and \x1b[1;48;2;1;2;3mbold");
    check_repaint("\x1b[3;7Hthere\x1b[?25l");
    check_repaint(&(1..40).map(|n| format!("line {n}\r\n")).collect::<String>());
    check_repaint(&(1..4).map(|n| format!("line {n}\r\n")).collect::<String>());
    check_repaint(&(1..6).map(|n| format!("line {n}\r\n")).collect::<String>());
    check_repaint("12345678901234567890");
    check_repaint("before\r\n\x1b[?1049h\x1b[2J\x1b[Hin the other screen\x1b[2;4r\x1b[?2004h\x1b[>5u");
    check_repaint("wide 日本語 é\r\n\x1b[4munder");
}

#[test]
fn characters_may_be_cut_anywhere_and_rubbish_is_shown_as_such() {
    let bytes = "é日本🎉".as_bytes();
    for cut in 1..bytes.len() {
        let (screen, _) = shown(&[&bytes[..cut], &bytes[cut..]]);
        assert_eq!(screen.text()[0], "é日本🎉");
    }
    let (screen, _) = shown(&[b"a\xffb\xc3(c"]);
    assert_eq!(screen.text()[0], "a\u{fffd}b\u{fffd}(c");
}

#[test]
fn a_flood_of_text_ends_in_the_same_picture() {
    let flood: String = (0..100_000).map(|n| format!("line {n} of many\r\n")).collect();
    let (short, _) = shown(&[b"\x1b[32mgreen\r\n", flood.as_bytes(), b"end"]);
    let mut long = Screen::new(SIZE, 0);
    long.feed(b"\x1b[32mgreen\r\n");
    long.feed(flood.as_bytes());
    long.feed(b"end");
    assert_eq!(short.terminal.dump(), long.terminal.dump());
    assert_eq!(short.terminal.primary_screen().text(), long.terminal.primary_screen().text());
    // Nothing to hold on to: followed as a whole.
    let endless = "x".repeat(LONG * 2);
    let (short, _) = shown(&[endless.as_bytes()]);
    let mut long = Screen::new(SIZE, 0);
    long.feed(endless.as_bytes());
    assert_eq!(short.terminal.dump(), long.terminal.dump());
}

#[test]
fn questions_get_answers() {
    let (mut screen, _) = shown(&[b"ab\x1b[6n\x1b[c\x1b[5n\x1b[?u"]);
    assert_eq!(screen.answers(), "\x1b[1;3R\x1b[?62;22c\x1b[0n\x1b[?0u");
    assert_eq!(screen.answers(), "");
}

#[test]
fn sizes_are_bounded() {
    assert_eq!(sensible(Size { cols: 0, rows: 0 }), Size { cols: 2, rows: 1 });
    assert_eq!(sensible(Size { cols: u16::MAX, rows: u16::MAX }), MOST);
}
