//! Reads JSON as it flows by, in constant memory: numbers and short texts at known places, lengths of all texts. What is
//! not JSON says nothing; nothing is ever an error, because nothing here decides whether bytes go on.

use memchr::memchr2;

/// Levels whose keys are remembered; deeper ones have no place.
const LEVELS: usize = 12;
/// Levels of which it is known whether they are objects; deeper ones are skipped.
const KINDS: usize = 64;
/// Longest text or number that is kept.
const KEPT: usize = 128;

macro_rules! words {
    ($($name:ident = $text:literal,)*) => {
        /// Keys that mean something; all others are one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Word { $($name,)* Other }

        impl Word {
            fn of(text: &[u8]) -> Self {
                match std::str::from_utf8(text) { $(Ok($text) => Self::$name,)* _ => Self::Other }
            }
        }
    };
}

words! {
    Model = "model",
    Stream = "stream",
    Background = "background",
    Usage = "usage",
    Message = "message",
    Response = "response",
    InputTokens = "input_tokens",
    OutputTokens = "output_tokens",
    PromptTokens = "prompt_tokens",
    CompletionTokens = "completion_tokens",
    TotalTokens = "total_tokens",
    CacheRead = "cache_read_input_tokens",
    CacheCreation = "cache_creation_input_tokens",
    PromptDetails = "prompt_tokens_details",
    InputDetails = "input_tokens_details",
    CachedTokens = "cached_tokens",
    CacheWriteTokens = "cache_write_tokens",
    CacheCreationTokens = "cache_creation_tokens",
    Cost = "cost",
    Content = "content",
    Text = "text",
    Thinking = "thinking",
    PartialJson = "partial_json",
    Arguments = "arguments",
    Reasoning = "reasoning",
    ReasoningContent = "reasoning_content",
    Refusal = "refusal",
    Delta = "delta",
    Data = "data",
    FileData = "file_data",
    Signature = "signature",
    EncryptedContent = "encrypted_content",
}

/// A value that ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// Its beginning, unescaped, and how many bytes it had as it stood.
    Text(&'a [u8], u64),
    /// A number, `true`, `false` or `null`, as it stood.
    Bare(&'a [u8]),
}

/// Where a reader stands in a text.
pub(super) struct Scanner {
    /// Open containers.
    depth: usize,
    /// A bit for each open container: set for objects.
    objects: u64,
    /// The key under which each level stands; arrays have none.
    path: [Word; LEVELS],
    state: State,
    /// In an object, before a colon.
    before_key: bool,
    kept: [u8; KEPT],
    kept_len: usize,
    /// Bytes of the text that is being read.
    length: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Bare,
    Text,
    Escape,
    /// So many digits of a `\u` escape are still to come; the number so far.
    Unicode(u8, u16),
}

impl Scanner {
    pub fn new() -> Self {
        Self {
            depth: 0,
            objects: 0,
            path: [Word::Other; LEVELS],
            state: State::Between,
            before_key: false,
            kept: [0; KEPT],
            kept_len: 0,
            length: 0,
        }
    }

    /// Forgets where it stands; what follows is a text of its own.
    pub fn reset(&mut self) {
        self.depth = 0;
        self.objects = 0;
        self.state = State::Between;
        self.before_key = false;
    }

    /// The text that has begun and not ended: its key, and how many bytes of it have come.
    pub fn unfinished(&self) -> Option<(Word, u64)> {
        let inside = matches!(self.state, State::Text | State::Escape | State::Unicode(..));
        (inside && !self.before_key).then(|| (self.key(), self.length))
    }

    /// Takes the next bytes and tells of every value that ends in them, with the keys that lead to it; an array's items
    /// stand under `Other`.
    pub fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(&[Word], Value<'_>)) {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Text {
                let end = memchr2(b'"', b'\\', &bytes[at..]).map_or(bytes.len(), |n| at + n);
                self.keep(&bytes[at..end]);
                self.length += (end - at) as u64;
                at = end;
                if at == bytes.len() {
                    return;
                }
            }
            let byte = bytes[at];
            at += 1;
            match self.state {
                State::Text if byte == b'"' => self.end_text(&mut found),
                State::Text => self.escape(State::Escape),
                State::Escape if byte == b'u' => self.escape(State::Unicode(4, 0)),
                State::Escape => {
                    let plain = match byte {
                        b'n' => b'\n',
                        b't' => b'\t',
                        b'r' => b'\r',
                        other => other,
                    };
                    self.keep(&[plain]);
                    self.escape(State::Text);
                }
                State::Unicode(left, number) => {
                    let digit = char::from(byte).to_digit(16).unwrap_or(0);
                    let number = number << 4 | u16::try_from(digit).unwrap_or(0);
                    self.escape(State::Unicode(left - 1, number));
                    if left == 1 {
                        self.keep(&[u8::try_from(number).ok().filter(u8::is_ascii).unwrap_or(b'?')]);
                        self.state = State::Text;
                    }
                }
                State::Bare if is_bare(byte) => self.keep(&[byte]),
                State::Bare => {
                    self.state = State::Between;
                    found(self.place(), Value::Bare(&self.kept[..self.kept_len]));
                    self.between(byte);
                }
                State::Between => self.between(byte),
            }
        }
    }

    fn escape(&mut self, to: State) {
        self.length += 1;
        self.state = to;
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b'{' => self.open(true),
            b'[' => self.open(false),
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.before_key = false;
            }
            b',' => {
                self.before_key = self.in_object();
                if let Some(level) = self.level()
                    && !self.before_key
                {
                    self.path[level] = Word::Other;
                }
            }
            b':' => self.before_key = false,
            b'"' => {
                self.state = State::Text;
                (self.kept_len, self.length) = (0, 0);
            }
            byte if is_bare(byte) => {
                self.state = State::Bare;
                self.kept_len = 0;
                self.keep(&[byte]);
            }
            _ => {}
        }
    }

    fn open(&mut self, object: bool) {
        if self.depth < KINDS {
            let bit = 1 << self.depth;
            self.objects = if object { self.objects | bit } else { self.objects & !bit };
        }
        self.depth += 1;
        self.before_key = object && self.depth <= KINDS;
        if let Some(level) = self.level() {
            self.path[level] = Word::Other;
        }
    }

    fn in_object(&self) -> bool {
        (1..=KINDS).contains(&self.depth) && self.objects >> (self.depth - 1) & 1 == 1
    }

    /// The index of the innermost container's key, where it is remembered.
    fn level(&self) -> Option<usize> {
        self.depth.checked_sub(1).filter(|level| *level < LEVELS)
    }

    fn key(&self) -> Word {
        self.level().map_or(Word::Other, |level| self.path[level])
    }

    /// The keys that lead to the value under way; too deep ones lead nowhere.
    fn place(&self) -> &[Word] {
        if self.depth <= LEVELS { &self.path[..self.depth] } else { &[] }
    }

    fn end_text(&mut self, found: &mut impl FnMut(&[Word], Value<'_>)) {
        self.state = State::Between;
        if !self.before_key {
            found(self.place(), Value::Text(&self.kept[..self.kept_len], self.length));
        } else if let Some(level) = self.level() {
            let whole = self.kept_len < KEPT;
            self.path[level] = if whole { Word::of(&self.kept[..self.kept_len]) } else { Word::Other };
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT - self.kept_len;
        let n = bytes.len().min(room);
        self.kept[self.kept_len..self.kept_len + n].copy_from_slice(&bytes[..n]);
        self.kept_len += n;
    }
}

fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value with its keys, however the text is cut.
    fn read(text: &str, cut: usize) -> Vec<String> {
        let mut scanner = Scanner::new();
        let mut seen = Vec::new();
        for piece in text.as_bytes().chunks(cut) {
            scanner.feed(piece, |path, value| {
                let value = match value {
                    Value::Text(text, length) => format!("{:?} {length}", String::from_utf8_lossy(text)),
                    Value::Bare(text) => String::from_utf8_lossy(text).into_owned(),
                };
                seen.push(format!("{path:?} {value}"));
            });
        }
        seen
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        for cut in 1..=text.len() {
            assert_eq!(read(text, cut), expected, "{text} in pieces of {cut}");
        }
    }

    #[test]
    fn tells_values_with_their_keys() {
        check(
            r#"{"model":"m","usage":{"input_tokens":12 , "cost":1e-3},"x":[1,{"text":"hi"}]} "#,
            &[
                r#"[Model] "m" 1"#,
                "[Usage, InputTokens] 12",
                "[Usage, Cost] 1e-3",
                "[Other, Other] 1",
                r#"[Other, Other, Text] "hi" 2"#,
            ],
        );
    }

    #[test]
    fn what_stands_in_a_text_is_text() {
        check(
            r#"{"content":"\"usage\":{\"input_tokens\":9}","usage":{"input_tokens":1}}"#,
            &[r#"[Content] "\"usage\":{\"input_tokens\":9}" 30"#, "[Usage, InputTokens] 1"],
        );
    }

    #[test]
    fn keys_may_be_escaped() {
        check(r#"{"\u0062ackground":true,"mod\u00e9l":"x"}"#, &["[Background] true", r#"[Other] "x" 1"#]);
    }

    #[test]
    fn what_is_too_deep_has_no_place_and_ends_all_the_same() {
        let deep = format!("{{\"x\":{}{}, \"model\":\"m\"}}", "[".repeat(100), "]".repeat(100));
        assert_eq!(read(&deep, 7), [r#"[Model] "m" 1"#]);
    }

    #[test]
    fn garbage_is_no_harm() {
        for text in ["}}}]]]{\"usage\":{", "\"", "{{{{:::", "nul", "\u{feff}{\"model\":1"] {
            for cut in 1..=text.len() {
                read(text, cut);
            }
        }
    }
}
