//! What a model's reply says about what it used, and how much of it there was. Reads JSON and event streams, cut anywhere;
//! which of them it is shows at the first byte.

use lap_domain::usage::Spend;

use super::json::{Scanner, Value, Word};

/// Text of so many bytes is about one token.
pub(super) const BYTES_PER_TOKEN: u64 = 4;
/// No call uses more than this; a larger number is none.
const MOST_TOKENS: u64 = 1_000_000_000_000;
/// Longest name of a model, in characters.
const MODEL_CHARS: usize = 120;

/// How the gateway is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Anthropic Messages: input is told without what came from the cache or went into it.
    Messages,
    /// OpenAI Chat Completions.
    Chat,
    /// OpenAI Responses.
    Responses,
    /// OpenAI embeddings: input only.
    Embeddings,
}

/// A reply as far as it has come.
pub(super) struct Reply {
    protocol: Protocol,
    scanner: Scanner,
    framing: Framing,
    said: Said,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Nothing but blanks so far.
    Unknown,
    Json,
    Events(Line),
}

/// Where in a line of an event stream it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// At its start.
    Start,
    /// So much of `data:` has come.
    Field(usize),
    /// In the data.
    Data,
    /// In a line of no interest.
    Other,
    /// After a carriage return: a line feed belongs to it.
    Return,
}

/// The numbers that were told; of each the largest, for streams tell them several times and they only grow.
#[derive(Debug, Default)]
struct Said {
    model: Option<String>,
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cached: u64,
    written: u64,
    cost: Option<f64>,
    /// The numbers are those of the whole reply, not of its beginning.
    whole: bool,
    /// Bytes of text for people and tools.
    text: u64,
}

impl Reply {
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, scanner: Scanner::new(), framing: Framing::Unknown, said: Said::default() }
    }

    /// Takes the next bytes of it.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        if self.framing == Framing::Unknown {
            let blank = |byte: &u8| byte.is_ascii_whitespace() || [0xef, 0xbb, 0xbf].contains(byte);
            let Some(start) = bytes.iter().position(|byte| !blank(byte)) else { return };
            bytes = &bytes[start..];
            self.framing = if bytes[0] == b'{' { Framing::Json } else { Framing::Events(Line::Start) };
        }
        match self.framing {
            Framing::Unknown => {}
            Framing::Json => self.scan(bytes),
            Framing::Events(line) => self.framing = Framing::Events(self.lines(bytes, line)),
        }
    }

    fn lines(&mut self, mut bytes: &[u8], mut line: Line) -> Line {
        const DATA: &[u8] = b"data:";
        while let Some(&byte) = bytes.first() {
            if matches!(byte, b'\n' | b'\r') {
                // The pieces of one event are one text; an empty line ends it.
                match line {
                    Line::Return if byte == b'\n' => {}
                    Line::Start | Line::Return => self.scanner.reset(),
                    _ => self.scan(b"\n"),
                }
                line = match (line, byte) {
                    (Line::Return, b'\n') => Line::Start,
                    (_, b'\r') => Line::Return,
                    _ => Line::Start,
                };
                bytes = &bytes[1..];
                continue;
            }
            match line {
                Line::Start | Line::Return => line = Line::Field(0),
                Line::Field(n) if n < DATA.len() => {
                    line = if byte == DATA[n] { Line::Field(n + 1) } else { Line::Other };
                    bytes = &bytes[1..];
                }
                Line::Field(_) => line = Line::Data,
                Line::Data | Line::Other => {
                    let end = memchr::memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
                    if line == Line::Data {
                        self.scan(&bytes[..end]);
                    }
                    bytes = &bytes[end..];
                }
            }
        }
        line
    }

    fn scan(&mut self, bytes: &[u8]) {
        let Self { scanner, said, protocol, framing } = self;
        let streamed_responses = *protocol == Protocol::Responses && *framing != Framing::Json;
        scanner.feed(bytes, |path, value| said.take(path, value, streamed_responses));
    }

    /// The model that answered, where the reply says so.
    pub fn model(&self) -> Option<&str> {
        self.said.model.as_deref()
    }

    /// What it used so far, given how much text was asked. Estimated where it was not told.
    pub fn spend(&self, asked_text: u64) -> Spend {
        let said = &self.said;
        let text = match self.scanner.unfinished() {
            Some((word, length)) if is_text(word, self.is_streamed_responses()) => said.text + length,
            _ => said.text,
        };
        let output = match (self.protocol, said.whole) {
            (Protocol::Embeddings, _) => Some(0),
            (_, true) => {
                said.output.or_else(|| said.total.zip(said.input).map(|(total, input)| total.saturating_sub(input)))
            }
            (_, false) => None,
        };
        let input = said.input.or(said.total.filter(|_| self.protocol == Protocol::Embeddings));
        let input_tokens = match (input, self.protocol) {
            (Some(input), Protocol::Messages) => input + said.cached + said.written,
            (Some(input), _) => input,
            (None, _) => asked_text.div_ceil(BYTES_PER_TOKEN),
        };
        let estimated = input.is_none() || output.is_none();
        let cached_tokens = said.cached.min(input_tokens);
        Spend {
            calls: 1,
            estimated_calls: u64::from(estimated),
            unpriced_calls: 0,
            input_tokens,
            output_tokens: output.unwrap_or_else(|| text.div_ceil(BYTES_PER_TOKEN).max(said.output.unwrap_or(0))),
            cached_tokens,
            cache_write_tokens: said.written.min(input_tokens - cached_tokens),
            cost_usd: said.cost,
        }
    }

    fn is_streamed_responses(&self) -> bool {
        self.protocol == Protocol::Responses && self.framing != Framing::Json
    }
}

impl Said {
    fn take(&mut self, path: &[Word], value: Value<'_>, streamed_responses: bool) {
        let (inside, begins) = match path {
            [Word::Message, rest @ ..] => (rest, true),
            [Word::Response, rest @ ..] => (rest, false),
            _ => (path, false),
        };
        match (inside, value) {
            ([Word::Model], Value::Text(name, _)) if self.model.is_none() => self.model = clean(name),
            (_, Value::Text(_, length)) if path.last().is_some_and(|word| is_text(*word, streamed_responses)) => {
                self.text += length;
            }
            ([Word::Usage, Word::Cost], Value::Bare(number)) => self.cost = largest(self.cost, dollars(number)),
            ([Word::Usage, rest @ ..], Value::Bare(number)) => {
                let Some(number) = count(number) else { return };
                self.count(rest, number, begins);
            }
            _ => {}
        }
    }

    fn count(&mut self, field: &[Word], number: u64, begins: bool) {
        match field {
            [Word::InputTokens | Word::PromptTokens] => self.input = self.input.max(Some(number)),
            [Word::OutputTokens | Word::CompletionTokens] => self.output = self.output.max(Some(number)),
            [Word::TotalTokens] => self.total = self.total.max(Some(number)),
            [Word::CacheRead] | [Word::PromptDetails | Word::InputDetails, Word::CachedTokens] => {
                self.cached = self.cached.max(number);
                return;
            }
            [Word::CacheCreation]
            | [Word::PromptDetails | Word::InputDetails, Word::CacheWriteTokens | Word::CacheCreationTokens] => {
                self.written = self.written.max(number);
                return;
            }
            _ => return,
        }
        self.whole |= !begins;
    }
}

/// Whether a text under this key is words or a tool's input, each of them once.
fn is_text(key: Word, streamed_responses: bool) -> bool {
    match key {
        // These streams say everything again when it is finished.
        Word::Delta => streamed_responses,
        Word::Content
        | Word::Text
        | Word::Thinking
        | Word::PartialJson
        | Word::Arguments
        | Word::Reasoning
        | Word::ReasoningContent
        | Word::Refusal => !streamed_responses,
        _ => false,
    }
}

fn count(number: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(number).ok()?;
    let number = text.parse::<u64>().ok().or_else(|| {
        let number = text.parse::<f64>().ok()?;
        (0.0..=MOST_TOKENS as f64).contains(&number).then_some(number as u64)
    });
    number.filter(|number| *number <= MOST_TOKENS)
}

/// A number of dollars, as it stands in a reply or its header.
pub(super) fn dollars(number: &[u8]) -> Option<f64> {
    let cost = std::str::from_utf8(number).ok()?.trim().parse::<f64>().ok()?;
    (0.0..=lap_domain::budget::LARGEST_COST_USD).contains(&cost).then_some(cost)
}

fn largest(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    }
}

/// A model's name as it can be shown; none when nothing is left of it.
pub(super) fn clean(name: &[u8]) -> Option<String> {
    let name = String::from_utf8_lossy(name);
    let name: String = name.chars().filter(|c| !c.is_control()).take(MODEL_CHARS).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
