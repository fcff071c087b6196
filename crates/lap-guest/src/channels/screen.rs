//! What a terminal shows, so that a viewer who comes later sees it too: text, colours, both screens, history, modes.
//!
//! Following every byte costs more than passing it on, so the model may lag behind the output and catches up when somebody
//! wants to see it, or when the lag has grown. Of a long flow of plain text only the last screens are looked at.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use avt::Terminal;
use lap_api::channel::Size;

use super::modes::{Modes, Question, Tracker};
use super::spool::Spool;

/// Lines above the screen that a new viewer gets.
const HISTORY_LINES: usize = 1000;

/// The model lags by no more than this; less than what the spool keeps.
pub(super) const MOST_LAG: u64 = 1024 * 1024;

/// Plain text longer than this is not followed as a whole.
const LONG: usize = 256 * 1024;

/// Whatever began before the text ends within this much of it.
const LEAD_IN: usize = 4 * 1024;

/// Windows larger than this are not real, and would cost memory.
const MOST: Size = Size { cols: 1000, rows: 500 };

/// A size that a terminal can have.
pub(super) fn sensible(size: Size) -> Size {
    Size { cols: size.cols.clamp(2, MOST.cols), rows: size.rows.clamp(1, MOST.rows) }
}

/// The model.
pub(super) struct Screen {
    terminal: Terminal,
    tracker: Tracker,
    /// How far the output was followed.
    position: u64,
    /// The beginning of a character whose rest has not come yet.
    partial: Vec<u8>,
}

impl Screen {
    /// An empty screen that follows the output from this position.
    pub(super) fn new(size: Size, position: u64) -> Self {
        Self { terminal: blank(size), tracker: Tracker::default(), position, partial: Vec::new() }
    }

    /// How far the output was followed.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Follows the output to its end.
    pub(super) fn catch_up(&mut self, spool: &Spool) {
        let [first, second] = spool.slices_after(self.position);
        self.follow(first);
        self.follow(second);
        self.position = spool.end();
    }

    fn follow(&mut self, bytes: &[u8]) {
        let plain = bytes.len() - bytes.iter().rev().take_while(|byte| is_plain(**byte)).count();
        let (before, text) = bytes.split_at(plain);
        self.feed(before);
        if text.len() < LONG {
            return self.feed(text);
        }
        let (_, rows) = self.terminal.size();
        match last_lines(text, rows + HISTORY_LINES) {
            Some(tail) => {
                self.feed(&text[..LEAD_IN]);
                self.feed(tail);
            }
            None => self.feed(text),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.tracker.feed(bytes);
        let whole;
        let bytes = if self.partial.is_empty() {
            bytes
        } else {
            whole = [std::mem::take(&mut self.partial).as_slice(), bytes].concat();
            &whole
        };
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.show(chunk.valid());
            match chunk.invalid() {
                [] => {}
                rest if chunks.peek().is_none()
                    && std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_none()) =>
                {
                    self.partial = rest.to_vec();
                }
                _ => self.show("\u{fffd}"),
            }
        }
    }

    /// The output is not trusted, and the model is somebody else's: a fault in it costs the picture, not the terminal.
    fn show(&mut self, text: &str) {
        let terminal = &mut self.terminal;
        if catch_unwind(AssertUnwindSafe(|| terminal.feed(text))).is_err() {
            self.terminal = blank(self.size());
        }
    }

    fn size(&self) -> Size {
        let (cols, rows) = self.terminal.size();
        Size { cols: u16::try_from(cols).unwrap_or(MOST.cols), rows: u16::try_from(rows).unwrap_or(MOST.rows) }
    }

    /// The window has another size. What was printed for the old one must have been followed.
    pub(super) fn resize(&mut self, size: Size) {
        let terminal = &mut self.terminal;
        let resized = catch_unwind(AssertUnwindSafe(|| terminal.resize(size.cols.into(), size.rows.into())));
        if resized.is_err() {
            self.terminal = blank(size);
        }
    }

    /// What makes any terminal of this size show the same and behave the same; `history` for one that has not seen what
    /// has scrolled away.
    pub(super) fn repaint(&self, history: bool) -> String {
        // All at once, where the terminal can: nobody sees half a picture.
        let mut out = format!("\x1b[?2026h{}\x1b[H\x1b[2J", Modes::RESET);
        if history {
            self.history(&mut out);
        }
        out.push_str("\x1b[H");
        out.push_str(&self.terminal.dump());
        self.tracker.modes().restore(&mut out);
        out.push_str("\x1b[?2026l");
        out
    }

    /// Prints what has scrolled away and lets it scroll away again, into the viewer's own history.
    fn history(&self, out: &mut String) {
        let (_, rows) = self.terminal.size();
        let lines: Vec<&avt::Line> = self.terminal.primary_screen().all_lines().collect();
        let gone = &lines[..lines.len().saturating_sub(rows)];
        for line in gone {
            write_line(line, out);
            out.push_str("\x1b[0m\x1b[K\r\n");
        }
        let shown = gone.len().min(rows.saturating_sub(1));
        let _ = write!(out, "\x1b[{rows};1H");
        out.extend(std::iter::repeat_n('\n', shown));
    }

    /// What a terminal would answer to what the program has asked since the last time.
    pub(super) fn answers(&mut self) -> String {
        let mut out = String::new();
        for question in self.tracker.questions() {
            let _ = match question {
                Question::Attributes => write!(out, "\x1b[?62;22c"),
                Question::Status => write!(out, "\x1b[0n"),
                Question::Cursor => {
                    let cursor = self.terminal.cursor();
                    write!(out, "\x1b[{};{}R", cursor.row + 1, cursor.col + 1)
                }
                Question::Keyboard => {
                    write!(out, "\x1b[?{}u", self.tracker.modes().keyboard_flags().unwrap_or_default())
                }
            };
        }
        out
    }

    /// What is shown, as text.
    #[cfg(test)]
    pub(super) fn text(&self) -> Vec<String> {
        self.terminal.screen().visible_lines().map(|line| line.text().trim_end().to_owned()).collect()
    }
}

fn blank(size: Size) -> Terminal {
    Terminal::with_scrollback(size.cols.into(), size.rows.into(), Some(HISTORY_LINES)).expect("sizes are never zero")
}

/// Whether a byte only ever prints or moves to another line: nothing that begins, ends or changes anything.
fn is_plain(byte: u8) -> bool {
    // 0xc2 begins the control characters above ASCII.
    !matches!(byte, 0x00..=0x07 | 0x0b..=0x0c | 0x0e..=0x1f | 0x7f | 0xc2)
}

/// The last lines of a long plain text, and the end of the line before: after so many lines nothing else is to be seen. None when
/// it has too few of them, or when leaving out the rest would spare nothing.
fn last_lines(text: &[u8], lines: usize) -> Option<&[u8]> {
    let mut start = text.len();
    for _ in 0..lines {
        start = text[LEAD_IN..start].windows(2).rposition(|pair| pair == b"\r\n")? + LEAD_IN;
    }
    Some(&text[start..])
}

/// A line's characters with their colours.
fn write_line(line: &avt::Line, out: &mut String) {
    for run in line.chunks(|a, b| a.pen() != b.pen()) {
        let Some(first) = run.first() else { continue };
        write_pen(first.pen(), out);
        out.extend(run.iter().map(avt::Cell::char));
    }
    let trimmed = out.trim_end_matches(' ').len();
    out.truncate(trimmed);
}

fn write_pen(pen: &avt::Pen, out: &mut String) {
    out.push_str("\x1b[0");
    let attributes = [
        (pen.is_bold(), 1),
        (pen.is_faint(), 2),
        (pen.is_italic(), 3),
        (pen.is_underline(), 4),
        (pen.is_blink(), 5),
        (pen.is_inverse(), 7),
        (pen.is_strikethrough(), 9),
    ];
    for (_, number) in attributes.iter().filter(|(on, _)| *on) {
        let _ = write!(out, ";{number}");
    }
    for (color, kind) in [(pen.foreground(), 38), (pen.background(), 48)] {
        let _ = match color {
            None => Ok(()),
            Some(avt::Color::Indexed(index)) => write!(out, ";{kind};5;{index}"),
            Some(avt::Color::RGB(color)) => write!(out, ";{kind};2;{};{};{}", color.r, color.g, color.b),
        };
    }
    out.push('m');
}

#[cfg(test)]
mod tests;
