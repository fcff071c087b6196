//! What the agent has said and done in a turn so far, in the words of the API, for adapters whose harness tells it piece by
//! piece. Pure.

use lap_api::event::DeltaKind;
use lap_api::link::Report;
use lap_api::message::{Message, MessageInfo, Part, ToolCall};
use lap_api::session::Usage;
use serde_json::Value;

use super::time;
use crate::clip;

/// One block of an utterance.
pub(super) enum Block {
    Words { id: String, kind: DeltaKind, text: String },
    Tool(ToolCall),
}

/// The utterances of a turn. Ids are made of the turn's, so that none of them depends on what a model calls its answers.
pub(super) struct Answer {
    turn_id: String,
    model: String,
    utterances: Vec<Utterance>,
}

struct Utterance {
    created_ms: i64,
    usage: Option<Usage>,
    completed: bool,
    blocks: Vec<(String, Block)>,
}

/// A tool call as a harness tells it.
pub(super) struct Call<'a> {
    /// What the harness calls it.
    pub(super) key: &'a str,
    pub(super) tool: &'a str,
    pub(super) title: Option<String>,
    pub(super) input: Value,
}

impl Answer {
    pub(super) fn new(turn_id: &str, model: &str) -> Self {
        Self { turn_id: turn_id.to_owned(), model: model.to_owned(), utterances: Vec::new() }
    }

    pub(super) fn turn_id(&self) -> &str {
        &self.turn_id
    }

    /// The agent begins to speak anew: what it said before is final.
    pub(super) fn begin(&mut self, now_ms: i64) -> Vec<Report> {
        let reports = self.close(None);
        self.utterances.push(Utterance { created_ms: now_ms, usage: None, completed: false, blocks: Vec::new() });
        reports
    }

    /// Whether a tool was called since the agent last began to speak.
    pub(super) fn has_called(&self) -> bool {
        let blocks = self.utterances.last().map_or(&[][..], |utterance| &utterance.blocks);
        blocks.iter().any(|(_, block)| matches!(block, Block::Tool(_)))
    }

    /// A piece of words.
    pub(super) fn delta(&mut self, key: &str, kind: DeltaKind, delta: &str) -> Option<Report> {
        if delta.is_empty() {
            return None;
        }
        let turn_id = self.turn_id.clone();
        let (part_id, text) = self.words(key, kind);
        text.push_str(delta);
        Some(Report::Delta { turn_id, part_id, kind, delta: delta.to_owned() })
    }

    /// Words in full; what no delta brought is reported as one.
    pub(super) fn whole(&mut self, key: &str, kind: DeltaKind, full: &str) -> Option<Report> {
        let (_, text) = self.words(key, kind);
        let missing = full.strip_prefix(text.as_str()).unwrap_or_default().to_owned();
        self.delta(key, kind, &missing)
    }

    /// A tool call that begins.
    pub(super) fn call(&mut self, call: Call<'_>) -> Report {
        let Call { key, tool, title, mut input } = call;
        let id = self.part_id();
        let title = title.or_else(|| named(&input)).map(|title| short(&title));
        clip::value(&mut input, clip::TEXT_BYTES);
        let call = ToolCall { id, tool: tool.to_owned(), status: "running".to_owned(), title, input, output: None };
        self.open().blocks.push((key.to_owned(), Block::Tool(call.clone())));
        Report::Tool { turn_id: self.turn_id.clone(), call }
    }

    /// The call of this key, if it is known and runs.
    pub(super) fn running(&mut self, key: &str) -> Option<&mut ToolCall> {
        let blocks = self.utterances.iter_mut().rev().flat_map(|utterance| utterance.blocks.iter_mut());
        blocks.filter(|(known, _)| known == key).find_map(|(_, block)| match block {
            Block::Tool(call) if call.status == "running" => Some(call),
            _ => None,
        })
    }

    /// A tool call ends.
    pub(super) fn called(&mut self, key: &str, failed: bool, output: &str) -> Option<Report> {
        let call = self.running(key)?;
        call.status = if failed { "failed" } else { "completed" }.to_owned();
        call.output = Some(clip::head(output, clip::TEXT_BYTES));
        let call = call.clone();
        Some(Report::Tool { turn_id: self.turn_id.clone(), call })
    }

    /// What the newest utterance cost.
    pub(super) fn spent(&mut self, usage: Usage) {
        self.open().usage = Some(usage);
    }

    /// Ends everything that is open; with an error when it was cut off.
    pub(super) fn close(&mut self, error: Option<&str>) -> Vec<Report> {
        let mut reports = Vec::new();
        for at in 0..self.utterances.len() {
            if std::mem::replace(&mut self.utterances[at].completed, true) {
                continue;
            }
            for (_, block) in &mut self.utterances[at].blocks {
                if let Block::Tool(call) = block
                    && call.status == "running"
                {
                    call.status = "failed".to_owned();
                    reports.push(Report::Tool { turn_id: self.turn_id.clone(), call: call.clone() });
                }
            }
            let message = self.show(at, error.map(str::to_owned));
            if !message.parts.is_empty() {
                reports.push(Report::MessageCompleted { turn_id: self.turn_id.clone(), message });
            }
        }
        reports
    }

    /// The last utterance; an empty one when nothing was said.
    pub(super) fn last(&mut self) -> Message {
        self.open();
        self.show(self.utterances.len() - 1, None)
    }

    fn open(&mut self) -> &mut Utterance {
        if self.utterances.is_empty() {
            let created_ms = super::now_ms();
            self.utterances.push(Utterance { created_ms, usage: None, completed: false, blocks: Vec::new() });
        }
        self.utterances.last_mut().expect("there is one by now")
    }

    fn part_id(&mut self) -> String {
        let within = self.open().blocks.len();
        format!("prt_{}-{}-{within}", self.turn_id, self.utterances.len())
    }

    /// The words of this key in the newest utterance, opened if need be.
    fn words(&mut self, key: &str, kind: DeltaKind) -> (String, &mut String) {
        let id = self.part_id();
        let blocks = &mut self.open().blocks;
        let is_it = |(known, block): &(String, Block)| known == key && matches!(block, Block::Words { .. });
        let at = blocks.iter().position(is_it).unwrap_or_else(|| {
            blocks.push((key.to_owned(), Block::Words { id, kind, text: String::new() }));
            blocks.len() - 1
        });
        match &mut blocks[at].1 {
            Block::Words { id, text, .. } => (id.clone(), text),
            Block::Tool(_) => unreachable!("words were looked for"),
        }
    }

    fn show(&self, at: usize, error: Option<String>) -> Message {
        let Utterance { created_ms, usage, blocks, .. } = &self.utterances[at];
        Message {
            parts: parts(blocks.iter().map(|(_, block)| block)),
            info: MessageInfo {
                id: format!("msg_{}-{}", self.turn_id, at + 1),
                turn_id: self.turn_id.clone(),
                role: "assistant".to_owned(),
                created_at: time(*created_ms),
                model: Some(self.model.clone()),
                usage: *usage,
                error,
            },
        }
    }
}

/// Blocks for the API, together cut to a size that can travel; empty ones are left out.
pub(super) fn parts<'a>(blocks: impl Iterator<Item = &'a Block>) -> Vec<Part> {
    let mut left = clip::MESSAGE_BYTES;
    let mut cut = |text: &str| {
        let text = clip::head(text, left.min(clip::TEXT_BYTES));
        left = left.saturating_sub(text.len());
        text
    };
    let parts = blocks.filter_map(|block| match block {
        Block::Words { text, .. } if text.is_empty() => None,
        Block::Words { id, kind: DeltaKind::Text, text } => Some(Part::Text { id: id.clone(), text: cut(text) }),
        Block::Words { id, kind: DeltaKind::Reasoning, text } => {
            Some(Part::Reasoning { id: id.clone(), text: cut(text) })
        }
        Block::Tool(call) => {
            let mut call = call.clone();
            call.output = call.output.as_deref().map(&mut cut);
            Some(Part::Tool(call))
        }
    });
    parts.collect()
}

/// The field of a tool's input that says most in one line.
pub(super) fn named(input: &Value) -> Option<String> {
    ["command", "filePath", "file_path", "path", "pattern", "url", "query", "description"]
        .iter()
        .find_map(|field| input.get(field)?.as_str().map(str::to_owned))
}

/// One line of bearable length.
pub(super) fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A refusal or failure of the gateway as a sentence.
pub(super) fn gateway_failure(status: Option<u64>, words: &str, model: &str) -> String {
    let words = short(words);
    match status {
        Some(401 | 403) => format!("the model gateway refused the key: {words}"),
        Some(404) => format!("the model gateway does not know the model `{model}`: {words}"),
        Some(429) => format!("the model gateway asks to slow down (429): {words}"),
        Some(status @ 400..=499) => format!("the model gateway refused the request ({status}): {words}"),
        Some(status) => format!("the model gateway failed ({status}): {words}"),
        None => format!("the model gateway cannot be reached: {words}"),
    }
}
