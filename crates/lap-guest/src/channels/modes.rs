//! What a terminal is told beside its text: modes of mouse, paste, focus and keyboard, cursor shape, title, colours.
//!
//! The screen model knows what is shown; this knows what a viewer's own terminal must be told before it behaves as the
//! program expects.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// DEC private modes worth restoring that the screen model does not keep: mouse, focus, its encodings, alternate scroll,
/// bracketed paste, grapheme clusters, colour scheme reports, in-band resizes, cursor blinking, keypad, backarrow.
const KEPT: [u16; 18] =
    [9, 12, 66, 67, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 2004, 2027, 2031, 2048];

/// Entering and leaving the alternate screen; keyboards have a stack of their own there.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];

/// Longest title that is kept.
const TITLE_BYTES: usize = 512;

/// Deepest stack of keyboard flags, as terminals have it.
const KEYBOARD_DEPTH: usize = 16;

/// Everything here, as the program set it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Modes {
    dec: BTreeMap<u16, bool>,
    alternate: bool,
    /// Stacks of the kitty keyboard protocol: of the primary and of the alternate screen.
    keyboard: [Vec<u16>; 2],
    modify_other_keys: Option<u16>,
    keypad: bool,
    cursor_style: Option<u16>,
    title: Option<String>,
    /// By number: default foreground, background, cursor.
    colors: BTreeMap<u16, String>,
}

/// What a program asks its terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// What it is.
    Attributes,
    /// Whether it works.
    Status,
    /// Where the cursor is.
    Cursor,
    /// Which keyboard flags hold.
    Keyboard,
}

/// Reads output for what matters here.
#[derive(Default)]
pub(super) struct Tracker {
    parser: vte::Parser,
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    modes: Modes,
    questions: Vec<Question>,
}

impl Tracker {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.parser.advance(&mut self.seen, bytes);
    }

    pub(super) fn modes(&self) -> &Modes {
        &self.seen.modes
    }

    /// Questions since the last time.
    pub(super) fn questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.seen.questions)
    }
}

impl Modes {
    /// Puts a viewer's terminal into a known state, whatever it was in. Some terminals read no long lists.
    pub(super) const RESET: &'static str = concat!(
        "\x18\x1b[?1049l\x1b[!p\x1b[?6l\x1b[?7h\x1b[4l\x1b[?1l\x1b>\x1b(B\x1b)B\x0f\x1b[r\x1b[0m",
        "\x1b[?9;1000;1001;1002;1003l\x1b[?1004;1005;1006;1007;1015;1016l\x1b[?2004;2031;2048l\x1b[=0u\x1b[>4m\x1b[0 q\x1b[?25h",
    );

    /// What makes a terminal that was reset behave as the program expects.
    pub(super) fn restore(&self, out: &mut String) {
        // Writing to a string cannot fail.
        for (mode, on) in &self.dec {
            let _ = write!(out, "\x1b[?{mode}{}", if *on { 'h' } else { 'l' });
        }
        if self.keypad {
            out.push_str("\x1b=");
        }
        if let Some(level) = self.modify_other_keys {
            let _ = write!(out, "\x1b[>4;{level}m");
        }
        if let Some(flags) = self.keyboard_flags() {
            let _ = write!(out, "\x1b[={flags}u");
        }
        if let Some(style) = self.cursor_style {
            let _ = write!(out, "\x1b[{style} q");
        }
        for (number, color) in &self.colors {
            let _ = write!(out, "\x1b]{number};{color}\x1b\\");
        }
        if let Some(title) = &self.title {
            let _ = write!(out, "\x1b]2;{title}\x1b\\");
        }
    }

    pub(super) fn keyboard_flags(&self) -> Option<u16> {
        self.keyboard[usize::from(self.alternate)].last().copied().filter(|flags| *flags > 0)
    }

    fn set(&mut self, mode: u16, on: bool) {
        if ALTERNATE.contains(&mode) {
            self.alternate = on;
        } else if KEPT.contains(&mode) {
            self.dec.insert(mode, on);
        }
    }

    fn keyboard(&mut self, intermediate: u8, numbers: &[u16]) {
        let stack = &mut self.keyboard[usize::from(self.alternate)];
        let number = |at: usize, absent: u16| numbers.get(at).copied().filter(|n| *n > 0).unwrap_or(absent);
        match intermediate {
            b'>' => {
                if stack.len() == KEYBOARD_DEPTH {
                    stack.remove(0);
                }
                stack.push(number(0, 0));
            }
            b'<' => {
                let left = stack.len().saturating_sub(usize::from(number(0, 1)));
                stack.truncate(left);
            }
            b'=' => {
                let flags = number(0, 0);
                let before = stack.pop().unwrap_or_default();
                stack.push(match number(1, 1) {
                    2 => before | flags,
                    3 => before & !flags,
                    _ => flags,
                });
            }
            _ => {}
        }
    }
}

impl vte::Perform for Seen {
    fn csi_dispatch(&mut self, params: &vte::Params, intermediates: &[u8], ignore: bool, action: char) {
        if ignore {
            return;
        }
        let numbers: Vec<u16> = params.iter().filter_map(|group| group.first().copied()).collect();
        let first = numbers.first().copied().unwrap_or_default();
        let modes = &mut self.modes;
        match (intermediates, action) {
            (b"?", 'h' | 'l') => numbers.iter().for_each(|mode| modes.set(*mode, action == 'h')),
            (b"?", 'u') => self.questions.push(Question::Keyboard),
            ([kind @ (b'>' | b'<' | b'=')], 'u') => modes.keyboard(*kind, &numbers),
            (b">", 'm') if first == 4 => modes.modify_other_keys = numbers.get(1).copied().filter(|level| *level > 0),
            (b" ", 'q') => modes.cursor_style = Some(first).filter(|style| *style > 0),
            // A soft reset leaves mouse and paste as they are, but not the keypad.
            (b"!", 'p') => {
                modes.keypad = false;
                modes.cursor_style = None;
            }
            (b"", 'c') if first == 0 => self.questions.push(Question::Attributes),
            (b"", 'n') if first == 5 => self.questions.push(Question::Status),
            (b"", 'n') if first == 6 => self.questions.push(Question::Cursor),
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _ignore: bool, byte: u8) {
        match (intermediates, byte) {
            (b"", b'c') => self.modes = Modes { title: self.modes.title.take(), ..Modes::default() },
            (b"", b'=') => self.modes.keypad = true,
            (b"", b'>') => self.modes.keypad = false,
            _ => {}
        }
    }

    fn osc_dispatch(&mut self, params: &[&[u8]], _bell_terminated: bool) {
        let text = || {
            let whole = params[1..].join(&b';');
            let text: String = String::from_utf8_lossy(&whole).chars().filter(|c| !c.is_control()).collect();
            (text.len() <= TITLE_BYTES).then_some(text)
        };
        match params.first() {
            Some(&b"0" | &b"2") => self.modes.title = text().filter(|title| !title.is_empty()),
            Some(&number @ (b"10" | b"11" | b"12")) => {
                let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                if let (Some(number), Some(color)) = (number, text().filter(|color| color != "?")) {
                    self.modes.colors.insert(number, color);
                }
            }
            Some(&b"110") => drop(self.modes.colors.remove(&10)),
            Some(&b"111") => drop(self.modes.colors.remove(&11)),
            Some(&b"112") => drop(self.modes.colors.remove(&12)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
