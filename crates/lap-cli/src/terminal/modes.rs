//! Whether the program is on the alternate screen, from the bytes it prints: the one thing that cannot be undone blindly,
//! since leaving a screen that was never entered moves the cursor.

/// Follows output.
#[derive(Debug, Default)]
pub(super) struct Modes {
    alternate: bool,
    /// The beginning of a sequence whose rest has not come yet.
    begun: Vec<u8>,
}

/// Longest sequence that is followed.
const LONGEST: usize = 64;

impl Modes {
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        loop {
            if self.begun.is_empty() {
                let Some(at) = bytes.iter().position(|byte| *byte == 0x1b) else { return };
                bytes = &bytes[at + 1..];
                self.begun.push(0x1b);
            }
            let Some((byte, rest)) = bytes.split_first() else { return };
            bytes = rest;
            self.begun.push(*byte);
            match (self.begun.len(), byte) {
                (2, b'[') | (3, b'?') => {}
                (4.., b'0'..=b'9' | b';') if self.begun.len() < LONGEST => {}
                (4.., b'h' | b'l') => {
                    let modes = &self.begun[3..self.begun.len() - 1];
                    if modes.split(|byte| *byte == b';').any(|mode| matches!(mode, b"47" | b"1047" | b"1049")) {
                        self.alternate = *byte == b'h';
                    }
                    self.begun.clear();
                }
                (_, 0x1b) => self.begun.truncate(1),
                _ => self.begun.clear(),
            }
        }
    }

    /// Gives the terminal back as programs expect to find it. Modes come a few at a time: some terminals read no long lists.
    pub(super) fn undo(&self) -> String {
        let screen = if self.alternate { "\x1b[?1049l" } else { "" };
        format!(
            "\x18\x1b[?2026l\x1b[?9;1000;1001;1002;1003l\x1b[?1004;1005;1006;1007;1015;1016l\x1b[?2004;2031;2048l\x1b[=0u\x1b[>4m\x1b[?1l\x1b>\
             \x1b[?6l\x1b[r{screen}\x1b[?7h\x1b[4l\x1b(B\x0f\x1b[0m\x1b[0 q\x1b[?25h"
        )
    }
}

#[cfg(test)]
mod tests;
