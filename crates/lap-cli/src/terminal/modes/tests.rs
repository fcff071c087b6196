use super::*;

#[track_caller]
fn check(output: &str, alternate: bool) {
    for cut in [1, 2, 3, 1000] {
        let mut modes = Modes::default();
        output.as_bytes().chunks(cut).for_each(|piece| modes.follow(piece));
        assert_eq!(modes.alternate, alternate, "{output:?} in pieces of {cut}");
    }
}

#[test]
fn the_alternate_screen_is_noticed() {
    check("text", false);
    check("a\x1b[?1049hb", true);
    check("a\x1b[?1049hb\x1b[?1049lc", false);
    check("\x1b\x1b[?25;1049h", true);
    check("\x1b[?1049h\x1b[?25l\x1b[31m\x1b]2;x\x07", true);
    check("\x1b[1049h\x1b[?10490h", false);
}
