//! The language of Claude Code: stream-json on standard input and output, one process for many turns, `--resume` for the
//! conversation after a crash. The Claude Agent SDK speaks the same with the same program.
//!
//! Claude may begin a turn by itself, when something it left in the background ends. Such a turn is not the user's: its
//! result names other messages than the one that was sent, and is passed over.

mod config;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use lap_api::event::DeltaKind;
use lap_api::link::{Report, Turn};
use lap_api::session::Usage;
use serde_json::{Value, json};

use super::answer::{Answer, Call, gateway_failure, named, short};
use super::program::{News, Program};
use super::talk::{Face, Outcome, Protocol, Step};
use super::{ABORTED, HARNESS_FAILED, Setting, now_ms};
use crate::outbox::Outbox;
use crate::{Failure, clip};

/// Longest start. It takes half a second of processor time; fifty at once on two processors are slow, not broken.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// The conversation with one process.
pub(super) struct Claude {
    conversation: String,
    model: String,
    /// Nobody is asked: everything that would need a permission is refused.
    deny: bool,
    /// Requests sent so far; their numbers are their ids.
    requests: u64,
    turn: Option<Running>,
}

/// The turn that runs.
struct Running {
    /// Id of the user message.
    message: String,
    answer: Answer,
    /// The model's id of the utterance that is under way.
    utterance: String,
    /// Blocks of it that came whole so far.
    blocks: usize,
    /// Kinds of its blocks that come in pieces, by their numbers.
    kinds: BTreeMap<u64, DeltaKind>,
    /// Permission requests nobody answered yet: what the answer must repeat.
    asked: BTreeMap<String, Asked>,
    aborted: bool,
}

struct Asked {
    input: Value,
    suggestions: Value,
}

impl Protocol for Claude {
    const NAME: &'static str = "Claude Code";

    async fn start(setting: &Setting, out: &Outbox, conversation: Option<&str>) -> Result<(Program, Self), Failure> {
        let failed = |why: String| Failure::new("harness_failed", format!("Claude Code did not start: {why}"));
        let conversation = match conversation {
            Some(id) => id.to_owned(),
            None => super::uuid().map_err(|error| failed(error.to_string()))?,
        };
        let arguments = config::arguments(setting, &conversation).map_err(|error| failed(error.to_string()))?;
        let env = config::environment(setting).map_err(|error| failed(error.to_string()))?;
        let mut program = Program::start(Self::NAME, setting, &arguments, &env, out)?;
        // Its answer says that the program listens; without it the first message would say so.
        program.send(json!({ "type": "control_request", "request_id": "0", "request": { "subtype": "initialize" } }));
        let listening = async {
            loop {
                match program.news().await {
                    News::Message(message) if message["type"] == "control_response" => return Ok(()),
                    News::Message(_) => {}
                    News::Ended(detail) => return Err(failed(format!("it {detail}"))),
                }
            }
        };
        tokio::time::timeout(START_DEADLINE, listening)
            .await
            .map_err(|_| failed(format!("it was silent for {} s", START_DEADLINE.as_secs())))??;
        let (model, deny) = (setting.boot.model.clone(), setting.boot.permission_mode == "deny");
        Ok((program, Self { conversation, model, deny, requests: 0, turn: None }))
    }

    fn terminal(setting: &Setting, conversation: &str) -> std::io::Result<Face> {
        config::face(setting, conversation)
    }

    fn conversations(setting: &Setting) -> PathBuf {
        config::conversations(setting)
    }

    fn conversation(&self) -> &str {
        &self.conversation
    }

    fn begin(&mut self, turn: &Turn) -> Step {
        // Without randomness its own turns cannot be told from ours, which is rare enough.
        let message = super::uuid().unwrap_or_default();
        let images = turn.attachments.iter().map(|image| {
            let source = json!({ "type": "base64", "media_type": image.content_type, "data": image.content });
            json!({ "type": "image", "source": source })
        });
        let content: Vec<Value> = images.chain([json!({ "type": "text", "text": turn.text })]).collect();
        self.turn = Some(Running {
            message: message.clone(),
            answer: Answer::new(&turn.turn_id, &self.model),
            utterance: String::new(),
            blocks: 0,
            kinds: BTreeMap::new(),
            asked: BTreeMap::new(),
            aborted: false,
        });
        Step::sending(json!({
            "type": "user", "uuid": message, "session_id": self.conversation, "parent_tool_use_id": null,
            "message": { "role": "user", "content": content },
        }))
    }

    fn take(&mut self, message: Value) -> Step {
        // What subagents say stays inside Claude; their tokens count.
        let own = message["parent_tool_use_id"].is_null();
        let (model, deny) = (self.model.clone(), self.deny);
        let Some(turn) = &mut self.turn else { return Step::default() };
        if turn.aborted && message["type"] == "system" && message["subtype"] == "status" {
            // An abort that came before the work found nothing to stop: it is repeated when the work begins.
            return Step::sending(self.interrupt());
        }
        match message["type"].as_str().unwrap_or_default() {
            "system" if message["subtype"] == "init" => {
                // A command of the user's such as /clear opens another conversation.
                if let Some(id) = message["session_id"].as_str() {
                    id.clone_into(&mut self.conversation);
                }
                Step::default()
            }
            "stream_event" if own => Step { reports: turn.piece(&message["event"]), ..Step::default() },
            "assistant" if own => Step { reports: turn.whole(&message["message"]), ..Step::default() },
            "user" if own => Step { reports: turn.results(&message["message"]["content"]), ..Step::default() },
            "control_request" => {
                let id = message["request_id"].as_str().unwrap_or_default();
                let request = &message["request"];
                match request["subtype"].as_str() {
                    Some("can_use_tool") if deny => Step::sending(refusal(id, "This agent may not do this.")),
                    Some("can_use_tool") => Step { reports: vec![turn.ask(id, request)], ..Step::default() },
                    _ => Step::sending(unknown(id)),
                }
            }
            "control_cancel_request" => {
                turn.asked.remove(message["request_id"].as_str().unwrap_or_default());
                Step::default()
            }
            "result" if turn.is_of(&message) => {
                let outcome = turn.outcome(&message, &model);
                let reports = turn.answer.close(match &outcome {
                    Outcome::Completed { .. } => None,
                    Outcome::Failed { code: ABORTED, .. } => Some(ABORTED),
                    Outcome::Failed { error, .. } => Some(error),
                });
                self.turn = None;
                Step { reports, send: Vec::new(), outcome: Some(outcome) }
            }
            _ => Step::default(),
        }
    }

    fn idle(&mut self, message: Value) -> Vec<Value> {
        let id = message["request_id"].as_str().unwrap_or_default();
        match (message["type"].as_str(), message["request"]["subtype"].as_str()) {
            (Some("control_request"), Some("can_use_tool")) => {
                vec![refusal(id, "Nobody can be asked at the moment.")]
            }
            (Some("control_request"), _) => vec![unknown(id)],
            _ => Vec::new(),
        }
    }

    fn abort(&mut self) -> Step {
        let Some(turn) = &mut self.turn else { return Step::default() };
        turn.aborted = true;
        turn.asked.clear();
        Step::sending(self.interrupt())
    }

    fn decide(&mut self, request_id: &str, decision: &str) -> Step {
        let asked = self.turn.as_mut().and_then(|turn| turn.asked.remove(request_id));
        let Some(Asked { input, suggestions }) = asked else { return Step::default() };
        let mut allowed = json!({ "behavior": "allow", "updatedInput": input });
        match decision {
            "allow" => Step::sending(answer(request_id, allowed)),
            "allow_always" => {
                allowed["updatedPermissions"] = config::lasting(suggestions);
                Step::sending(answer(request_id, allowed))
            }
            _ => Step::sending(refusal(request_id, "The user does not allow this.")),
        }
    }

    fn leave(&mut self, error: &str) -> Vec<Report> {
        self.turn.take().map(|mut turn| turn.answer.close(Some(error))).unwrap_or_default()
    }
}

impl Claude {
    fn interrupt(&mut self) -> Value {
        self.requests += 1;
        let request = json!({ "subtype": "interrupt" });
        json!({ "type": "control_request", "request_id": self.requests.to_string(), "request": request })
    }
}

impl Running {
    /// A new utterance, unless it is under way already.
    fn utter(&mut self, id: &str) -> Vec<Report> {
        if self.utterance == id {
            return Vec::new();
        }
        id.clone_into(&mut self.utterance);
        self.blocks = 0;
        self.kinds.clear();
        self.answer.begin(now_ms())
    }

    /// An event of the model's stream.
    fn piece(&mut self, event: &Value) -> Vec<Report> {
        let index = event["index"].as_u64().unwrap_or_default();
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                let reports = self.utter(event["message"]["id"].as_str().unwrap_or_default());
                self.answer.spent(usage(&event["message"]["usage"]));
                reports
            }
            "message_delta" => {
                self.answer.spent(usage(&event["usage"]));
                Vec::new()
            }
            "content_block_start" => {
                match event["content_block"]["type"].as_str() {
                    Some("text") => self.kinds.insert(index, DeltaKind::Text),
                    Some("thinking") => self.kinds.insert(index, DeltaKind::Reasoning),
                    _ => None,
                };
                Vec::new()
            }
            "content_block_delta" => {
                let Some(kind) = self.kinds.get(&index).copied() else { return Vec::new() };
                let delta = event["delta"]["text"].as_str().or(event["delta"]["thinking"].as_str());
                self.answer.delta(&index.to_string(), kind, delta.unwrap_or_default()).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whole blocks of an utterance; they come one by one, after their pieces.
    fn whole(&mut self, message: &Value) -> Vec<Report> {
        if message["model"] == "<synthetic>" {
            // An error in the form of an answer; the result says it too.
            return Vec::new();
        }
        let mut reports = self.utter(message["id"].as_str().unwrap_or_default());
        for block in message["content"].as_array().into_iter().flatten() {
            let key = self.blocks.to_string();
            self.blocks += 1;
            let text = |field: &str| block[field].as_str().unwrap_or_default();
            match block["type"].as_str().unwrap_or_default() {
                "text" => reports.extend(self.answer.whole(&key, DeltaKind::Text, text("text"))),
                "thinking" => reports.extend(self.answer.whole(&key, DeltaKind::Reasoning, text("thinking"))),
                "tool_use" => {
                    let input = block["input"].clone();
                    reports.push(self.answer.call(Call { key: text("id"), tool: text("name"), title: None, input }));
                }
                _ => {}
            }
        }
        reports
    }

    /// What tools answered.
    fn results(&mut self, content: &Value) -> Vec<Report> {
        let results = content.as_array().into_iter().flatten().filter(|block| block["type"] == "tool_result");
        let ended = results.filter_map(|block| {
            let key = block["tool_use_id"].as_str().unwrap_or_default();
            self.answer.called(key, block["is_error"] == true, &words(&block["content"]))
        });
        ended.collect()
    }

    fn ask(&mut self, id: &str, request: &Value) -> Report {
        let tool = request["tool_name"].as_str().unwrap_or_default();
        let mut input = request["input"].clone();
        let asked = Asked { input: input.clone(), suggestions: request["permission_suggestions"].clone() };
        self.asked.insert(id.to_owned(), asked);
        let title = short(&format!("{tool}: {}", named(&input).unwrap_or_default()));
        clip::value(&mut input, clip::TEXT_BYTES);
        Report::PermissionRequested {
            turn_id: self.answer.turn_id().to_owned(),
            request_id: id.to_owned(),
            title,
            input,
        }
    }

    /// Whether a result is that of the message that was sent; one without names is.
    fn is_of(&self, result: &Value) -> bool {
        let names = result["user_message_uuids"].as_array();
        names.is_none_or(|names| names.iter().any(|name| name.as_str() == Some(&self.message)))
    }

    fn outcome(&mut self, result: &Value, model: &str) -> Outcome {
        if result["is_error"] != true {
            let mut spent = Usage::default();
            for one in result["model_usage_since_last_result"].as_object().into_iter().flat_map(|all| all.values()) {
                let count = |field: &str| one[field].as_u64().unwrap_or_default();
                spent.input_tokens += count("inputTokens") + count("cacheCreationInputTokens");
                spent.output_tokens += count("outputTokens");
                spent.cached_tokens += count("cacheReadInputTokens");
            }
            return Outcome::Completed { message: Box::new(self.answer.last()), usage: spent };
        }
        if self.aborted {
            return Outcome::Failed { code: ABORTED, error: "the turn was aborted".to_owned() };
        }
        let errors = result["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let said = result["result"].as_str().map_or_else(|| errors.collect::<Vec<_>>().join("; "), str::to_owned);
        let status = result["api_error_status"].as_u64();
        let error = match (status, result["terminal_reason"].as_str()) {
            (Some(_), _) | (_, Some("api_error")) => gateway_failure(status, &said, model),
            _ => format!("Claude Code ended the turn without an answer: {}", short(&said)),
        };
        Outcome::Failed { code: HARNESS_FAILED, error }
    }
}

/// What one call of the model cost. Claude's own idea of a price is a guess where it does not know the model.
fn usage(counted: &Value) -> Usage {
    let count = |field: &str| counted[field].as_u64().unwrap_or_default();
    Usage {
        input_tokens: count("input_tokens") + count("cache_creation_input_tokens"),
        output_tokens: count("output_tokens"),
        cached_tokens: count("cache_read_input_tokens"),
        cost_usd: None,
    }
}

/// A tool's result is a text or a list of blocks.
fn words(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        blocks => {
            let texts = blocks.as_array().into_iter().flatten().filter_map(|block| block["text"].as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
    }
}

fn answer(request_id: &str, response: Value) -> Value {
    let response = json!({ "subtype": "success", "request_id": request_id, "response": response });
    json!({ "type": "control_response", "response": response })
}

/// With words of its own a refusal is an answer for the model, which goes on.
fn refusal(request_id: &str, words: &str) -> Value {
    answer(request_id, json!({ "behavior": "deny", "message": words }))
}

fn unknown(request_id: &str) -> Value {
    let response = json!({ "subtype": "error", "request_id": request_id, "error": "this is not supported here" });
    json!({ "type": "control_response", "response": response })
}

#[cfg(test)]
mod tests;
