//! What typing means to `lap` itself: how to leave, and a few words after `~` at the beginning of a line, as ssh has them.
//!
//! Everything else goes through untouched. What is pasted is text, whatever it looks like.

/// What was typed: bytes for the program, and at most one wish.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Typed {
    pub(super) bytes: Vec<u8>,
    pub(super) wish: Option<Wish>,
}

/// What somebody wants of `lap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Detach,
    Help,
}

/// Follows what is typed.
#[derive(Debug)]
pub(super) struct Escape {
    /// Ctrl-D leaves. In a shell it would rather be the shell's.
    ctrl_d_leaves: bool,
    state: State,
    /// The beginning or end of a paste that may just be coming.
    marker: Vec<u8>,
    pasting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    Tilde,
    InLine,
}

const CTRL_D: u8 = 0x04;
const PASTE_BEGINS: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// Ctrl-D as terminals send it that report keys in full.
const CTRL_D_IN_FULL: [&[u8]; 3] = [b"\x1b[100;5u", b"\x1b[100;5:1u", b"\x1b[27;5;100~"];

impl Escape {
    pub(super) fn new(ctrl_d_leaves: bool) -> Self {
        Self { ctrl_d_leaves, state: State::LineStart, marker: Vec::new(), pasting: false }
    }

    /// What a read from the keyboard means. What follows a wish to leave is dropped.
    pub(super) fn take(&mut self, read: &[u8]) -> Typed {
        let mut typed = Typed::default();
        if !self.pasting && self.ctrl_d_leaves && CTRL_D_IN_FULL.contains(&read) {
            typed.wish = Some(Wish::Detach);
            return typed;
        }
        for byte in read {
            if let Some(wish) = self.byte(*byte, &mut typed.bytes) {
                typed.wish = Some(wish);
                if wish == Wish::Detach {
                    return typed;
                }
            }
        }
        typed
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Wish> {
        self.follow_paste(byte);
        if self.pasting || !self.marker.is_empty() {
            if self.state == State::Tilde {
                out.push(b'~');
            }
            self.state = State::InLine;
            out.push(byte);
            return None;
        }
        match (self.state, byte) {
            (_, CTRL_D) if self.ctrl_d_leaves && self.state != State::Tilde => return Some(Wish::Detach),
            (State::LineStart, b'~') => {
                self.state = State::Tilde;
                return None;
            }
            (State::Tilde, b'.') => return Some(Wish::Detach),
            (State::Tilde, b'?') => {
                self.state = State::LineStart;
                return Some(Wish::Help);
            }
            // Ctrl-D for the program, where it would leave otherwise.
            (State::Tilde, b'd') => out.push(CTRL_D),
            (State::Tilde, b'~') => out.push(b'~'),
            (State::Tilde, other) => out.extend([b'~', other]),
            (_, other) => out.push(other),
        }
        self.state = if matches!(byte, b'\r' | b'\n') { State::LineStart } else { State::InLine };
        None
    }

    fn follow_paste(&mut self, byte: u8) {
        let wanted = if self.pasting { PASTE_ENDS } else { PASTE_BEGINS };
        self.marker.push(byte);
        if self.marker == wanted {
            self.pasting = !self.pasting;
            self.marker.clear();
        } else if !wanted.starts_with(&self.marker) {
            self.marker.clear();
            if byte == wanted[0] {
                self.marker.push(byte);
            }
        }
    }
}

#[cfg(test)]
mod tests;
