//! The language of Codex: JSON-RPC with `codex app-server`, one process for many turns, `thread/resume` for the conversation
//! after a crash.
//!
//! Agents that Codex starts beside its own are threads of their own; what they say stays inside Codex.

mod asked;
mod config;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lap_api::event::DeltaKind;
use lap_api::link::{Report, Turn};
use lap_api::session::Usage;
use serde_json::{Value, json};

use self::asked::Asked;
use super::answer::{Answer, Call, gateway_failure, short};
use super::face;
use super::program::{News, Program};
use super::talk::{Face, Outcome, Protocol, Step};
use super::{ABORTED, HARNESS_FAILED, Setting, now_ms};
use crate::outbox::Outbox;
use crate::{Failure, clip};

/// Longest start. It takes a tenth of a second of processor time; fifty at once on two processors are slow, not broken.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// A running tool's output is reported at most this often.
const TOOL_PAUSE: Duration = Duration::from_millis(500);

/// The conversation with one process.
pub(super) struct Codex {
    /// The thread's id.
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
    answer: Answer,
    /// Codex's id of it, once it is known.
    id: Option<String>,
    /// Number of the request that began it.
    request: u64,
    /// Requests for permission nobody answered yet, by the ids they are reported under.
    asked: BTreeMap<String, Asked>,
    /// When each running tool was last reported.
    reported: BTreeMap<String, Instant>,
    spent: Usage,
    aborted: bool,
}

impl Protocol for Codex {
    const NAME: &'static str = "Codex";

    async fn start(setting: &Setting, out: &Outbox, conversation: Option<&str>) -> Result<(Program, Self), Failure> {
        let failed = |why: String| Failure::new("harness_failed", format!("Codex did not start: {why}"));
        config::write(setting).map_err(|error| failed(format!("its configuration could not be written: {error}")))?;
        let mut program = Program::start(Self::NAME, setting, &[], &config::environment(setting), out)?;
        let opening = async {
            let client = json!({ "name": "lap", "title": "LAP", "version": env!("CARGO_PKG_VERSION") });
            call(&mut program, 1, "initialize", json!({ "clientInfo": client })).await?;
            program.send(json!({ "method": "initialized" }));
            if let Some(id) = conversation {
                let mut thread = config::thread(setting);
                thread["threadId"] = json!(id);
                thread["excludeTurns"] = json!(true);
                match call(&mut program, 2, "thread/resume", thread).await {
                    Ok(_) => {
                        if let Some(items) = config::new_prompt(setting) {
                            let news = json!({ "threadId": id, "items": items });
                            call(&mut program, 3, "thread/inject_items", news).await?;
                        }
                        config::keep_prompt(setting).map_err(|error| error.to_string())?;
                        return Ok(id.to_owned());
                    }
                    Err(error) => out.line("guest", &format!("the conversation {id} could not be resumed: {error}")),
                }
            }
            let opened = call(&mut program, 4, "thread/start", config::thread(setting)).await?;
            config::keep_prompt(setting).map_err(|error| error.to_string())?;
            let id = opened["thread"]["id"].as_str().map(str::to_owned);
            id.ok_or_else(|| "it answered without a conversation".to_owned())
        };
        let opened = tokio::time::timeout(START_DEADLINE, opening).await;
        let conversation =
            opened.map_err(|_| failed(format!("it was silent for {} s", START_DEADLINE.as_secs())))?.map_err(failed)?;
        let (model, deny) = (setting.boot.model.clone(), setting.boot.permission_mode == "deny");
        Ok((program, Self { conversation, model, deny, requests: 4, turn: None }))
    }

    fn terminal(setting: &Setting, conversation: &str) -> std::io::Result<Face> {
        config::write(setting)?;
        // A conversation without a message has no file yet, and cannot be resumed.
        let begun = face::has_conversation(&config::conversations(setting), conversation);
        Ok(Face { arguments: Vec::new(), env: config::environment(setting), begun })
    }

    fn conversations(setting: &Setting) -> PathBuf {
        config::conversations(setting)
    }

    fn conversation(&self) -> &str {
        &self.conversation
    }

    fn begin(&mut self, turn: &Turn) -> Step {
        let images = turn.attachments.iter().map(|image| {
            let url = format!("data:{};base64,{}", image.content_type, image.content);
            json!({ "type": "image", "url": url })
        });
        let input: Vec<Value> = images.chain([json!({ "type": "text", "text": turn.text })]).collect();
        let request = self.request("turn/start", json!({ "threadId": self.conversation, "input": input }));
        self.turn = Some(Running {
            answer: Answer::new(&turn.turn_id, &self.model),
            id: None,
            request: self.requests,
            asked: BTreeMap::new(),
            reported: BTreeMap::new(),
            spent: Usage::default(),
            aborted: false,
        });
        Step::sending(request)
    }

    fn take(&mut self, message: Value) -> Step {
        let (method, params) = (message["method"].as_str(), &message["params"]);
        match (method, &message["id"]) {
            (Some(method), Value::Null) => self.told(method, params),
            (Some(method), id) => self.asked(method, id, params),
            (None, id) => self.answered(id, &message),
        }
    }

    fn idle(&mut self, message: Value) -> Vec<Value> {
        match (message["method"].as_str(), &message["id"]) {
            (None, _) | (_, Value::Null) => Vec::new(),
            (Some(method), id) => vec![asked::unasked(method, id)],
        }
    }

    fn abort(&mut self) -> Step {
        let Some(turn) = &mut self.turn else { return Step::default() };
        turn.aborted = true;
        turn.asked.clear();
        self.interrupt()
    }

    fn decide(&mut self, request_id: &str, decision: &str) -> Step {
        let asked = self.turn.as_mut().and_then(|turn| turn.asked.remove(request_id));
        asked.map(|asked| Step::sending(asked.answer(decision))).unwrap_or_default()
    }

    fn leave(&mut self, error: &str) -> Vec<Report> {
        self.turn.take().map(|mut turn| turn.answer.close(Some(error))).unwrap_or_default()
    }
}

impl Codex {
    fn request(&mut self, method: &str, params: Value) -> Value {
        self.requests += 1;
        json!({ "id": self.requests, "method": method, "params": params })
    }

    /// Asks for the running turn's end; while its id is not known there is nothing to name, and it is asked later.
    fn interrupt(&mut self) -> Step {
        let Some(id) = self.turn.as_ref().and_then(|turn| turn.id.clone()) else { return Step::default() };
        Step::sending(self.request("turn/interrupt", json!({ "threadId": self.conversation, "turnId": id })))
    }

    /// An answer to a request of ours.
    fn answered(&mut self, id: &Value, message: &Value) -> Step {
        let Some(turn) = self.turn.as_mut().filter(|turn| id.as_u64() == Some(turn.request)) else {
            return Step::default();
        };
        if let Some(error) = message["error"]["message"].as_str() {
            self.turn = None;
            let error = format!("Codex did not take the message: {}", short(error));
            return Step { outcome: Some(Outcome::Failed { code: HARNESS_FAILED, error }), ..Step::default() };
        }
        turn.id = message["result"]["turn"]["id"].as_str().map(str::to_owned);
        if turn.aborted { self.interrupt() } else { Step::default() }
    }

    /// A request of Codex's.
    fn asked(&mut self, method: &str, id: &Value, params: &Value) -> Step {
        let Some(turn) = &mut self.turn else { return Step::sending(asked::unasked(method, id)) };
        let Some(asked) = Asked::read(method, id, params) else { return Step::sending(asked::unasked(method, id)) };
        if self.deny {
            return Step::sending(asked.answer("deny"));
        }
        let turn_id = turn.answer.turn_id().to_owned();
        // Codex counts its requests anew with each process.
        let request_id = format!("per_{turn_id}-{id}");
        let changes = params["itemId"].as_str().and_then(|item| turn.answer.running(item));
        let (title, mut input) = asked.shown(params, changes.map(|call| &*call));
        turn.asked.insert(request_id.clone(), asked);
        clip::value(&mut input, clip::TEXT_BYTES);
        let asking = Report::PermissionRequested { turn_id, request_id, title: short(&title), input };
        Step { reports: vec![asking], ..Step::default() }
    }

    /// Something that happened.
    fn told(&mut self, method: &str, params: &Value) -> Step {
        if params["threadId"].as_str() != Some(&self.conversation) {
            return Step::default();
        }
        let Some(turn) = &mut self.turn else { return Step::default() };
        let item = params["itemId"].as_str().unwrap_or_default();
        let delta = params["delta"].as_str().unwrap_or_default();
        let reports = match method {
            "turn/started" if turn.aborted => return self.interrupt(),
            "item/started" => turn.begun(&params["item"]),
            "item/completed" => turn.ended(&params["item"]),
            "item/agentMessage/delta" => turn.answer.delta(item, DeltaKind::Text, delta).into_iter().collect(),
            "item/reasoning/summaryTextDelta" | "item/reasoning/textDelta" => {
                turn.answer.delta(item, DeltaKind::Reasoning, delta).into_iter().collect()
            }
            "item/reasoning/summaryPartAdded" if params["summaryIndex"].as_u64() > Some(0) => {
                turn.answer.delta(item, DeltaKind::Reasoning, "\n\n").into_iter().collect()
            }
            "item/commandExecution/outputDelta" => turn.output(item, delta, Instant::now()).into_iter().collect(),
            "thread/tokenUsage/updated" => {
                turn.spend(&params["tokenUsage"]["last"]);
                Vec::new()
            }
            "turn/completed" if turn.id.as_deref().is_none_or(|id| params["turn"]["id"] == id) => {
                return self.over(&params["turn"]);
            }
            _ => Vec::new(),
        };
        Step { reports, ..Step::default() }
    }

    fn over(&mut self, ended: &Value) -> Step {
        let Some(mut turn) = self.turn.take() else { return Step::default() };
        let failure = match ended["status"].as_str().unwrap_or_default() {
            "completed" => None,
            "interrupted" if turn.aborted => Some((ABORTED, "the turn was aborted".to_owned())),
            "interrupted" => Some((HARNESS_FAILED, "Codex stopped the turn".to_owned())),
            _ => Some((HARNESS_FAILED, sentence(&ended["error"], &self.model))),
        };
        let error = failure.as_ref().map(|(code, error)| if *code == ABORTED { ABORTED } else { error.as_str() });
        let reports = turn.answer.close(error);
        let outcome = match failure {
            Some((code, error)) => Outcome::Failed { code, error },
            None => Outcome::Completed { message: Box::new(turn.answer.last()), usage: turn.spent },
        };
        Step { reports, send: Vec::new(), outcome: Some(outcome) }
    }
}

impl Running {
    fn begun(&mut self, item: &Value) -> Vec<Report> {
        let key = item["id"].as_str().unwrap_or_default();
        let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
        let (tool, title, input) = match item["type"].as_str().unwrap_or_default() {
            // What it says after a tool is a new utterance.
            "agentMessage" | "reasoning" if self.answer.has_called() => return self.answer.begin(now_ms()),
            "commandExecution" => {
                let command = asked::command(item);
                ("shell".to_owned(), Some(command.clone()), json!({ "command": command, "cwd": item["cwd"] }))
            }
            "fileChange" => {
                ("apply_patch".to_owned(), Some(asked::paths(&item["changes"])), json!({ "changes": item["changes"] }))
            }
            "mcpToolCall" => (format!("mcp__{}__{}", text("server"), text("tool")), None, item["arguments"].clone()),
            "webSearch" => ("web_search".to_owned(), Some(text("query")), json!({ "query": item["query"] })),
            "imageView" => ("view_image".to_owned(), Some(text("path")), json!({ "path": item["path"] })),
            "collabAgentToolCall" => (text("tool"), Some(text("prompt")), json!({ "prompt": item["prompt"] })),
            _ => return Vec::new(),
        };
        let title = title.filter(|title| !title.is_empty());
        vec![self.answer.call(Call { key, tool: &tool, title, input })]
    }

    fn ended(&mut self, item: &Value) -> Vec<Report> {
        let key = item["id"].as_str().unwrap_or_default();
        let full = |texts: &Value| {
            let texts = texts.as_array().into_iter().flatten().filter_map(Value::as_str);
            texts.collect::<Vec<_>>().join("\n\n")
        };
        let (failed, output) = match item["type"].as_str().unwrap_or_default() {
            "agentMessage" => {
                let text = item["text"].as_str().unwrap_or_default();
                return self.answer.whole(key, DeltaKind::Text, text).into_iter().collect();
            }
            "reasoning" => {
                let text = full(&item["summary"]);
                return self.answer.whole(key, DeltaKind::Reasoning, &text).into_iter().collect();
            }
            "commandExecution" => {
                let declined = item["status"] == "declined";
                let output = item["aggregatedOutput"].as_str().unwrap_or_default();
                (item["status"] != "completed", if declined { "it was not allowed" } else { output }.to_owned())
            }
            "fileChange" if item["status"] == "declined" => (true, "it was not allowed".to_owned()),
            "fileChange" => (item["status"] != "completed", asked::paths(&item["changes"])),
            "mcpToolCall" => {
                let content = item["result"]["content"].as_array().into_iter().flatten();
                let texts: Vec<&str> = content.filter_map(|block| block["text"].as_str()).collect();
                let error = item["error"]["message"].as_str();
                (item["status"] != "completed", error.map_or_else(|| texts.join("\n"), str::to_owned))
            }
            _ => (item["status"] == "failed", String::new()),
        };
        self.reported.remove(key);
        // Some are told only when they are over.
        let mut reports = if self.answer.running(key).is_none() { self.begun(item) } else { Vec::new() };
        reports.extend(self.answer.called(key, failed, &output));
        reports
    }

    /// Output of a command that runs.
    fn output(&mut self, key: &str, delta: &str, now: Instant) -> Option<Report> {
        let turn_id = self.answer.turn_id().to_owned();
        let call = self.answer.running(key)?;
        let so_far = call.output.take().unwrap_or_default() + delta;
        call.output = Some(clip::tail(&so_far, clip::RUNNING_BYTES));
        if self.reported.get(key).is_some_and(|at| now.duration_since(*at) < TOOL_PAUSE) {
            return None;
        }
        self.reported.insert(key.to_owned(), now);
        Some(Report::Tool { turn_id, call: call.clone() })
    }

    /// Adds what one call of the model cost.
    fn spend(&mut self, last: &Value) {
        let count = |field: &str| last[field].as_u64().unwrap_or_default();
        let cached = count("cachedInputTokens");
        let call = Usage {
            input_tokens: count("inputTokens").saturating_sub(cached),
            output_tokens: count("outputTokens"),
            cached_tokens: cached,
            cost_usd: None,
        };
        self.spent.input_tokens += call.input_tokens;
        self.spent.output_tokens += call.output_tokens;
        self.spent.cached_tokens += call.cached_tokens;
        self.answer.spent(call);
    }
}

/// Sends a request and waits for its answer; what else comes meanwhile is of no turn.
async fn call(program: &mut Program, id: u64, method: &str, params: Value) -> Result<Value, String> {
    program.send(json!({ "id": id, "method": method, "params": params }));
    loop {
        match program.news().await {
            News::Message(mut message) if message["id"] == id && message["method"].is_null() => {
                return match message["error"]["message"].as_str() {
                    Some(error) => Err(short(error)),
                    None => Ok(message["result"].take()),
                };
            }
            News::Message(_) => {}
            News::Ended(detail) => return Err(format!("it {detail}")),
        }
    }
}

/// An error of Codex or its model as a sentence.
fn sentence(error: &Value, model: &str) -> String {
    let said = error["message"].as_str().unwrap_or("no reason was given");
    // A refusal comes as the gateway's own JSON.
    let inner: Value = serde_json::from_str(said).unwrap_or_default();
    let words = inner["error"]["message"].as_str().unwrap_or(said);
    let info = &error["codexErrorInfo"];
    let status =
        info.as_object().and_then(|info| info.values().next()).and_then(|info| info["httpStatusCode"].as_u64());
    let coded = inner["error"]["code"].as_str().and_then(|code| code.parse().ok());
    match (status.or(coded), info.as_str()) {
        (Some(status), _) => gateway_failure(Some(status), words, model),
        (None, Some("unauthorized")) => gateway_failure(Some(401), words, model),
        (None, Some("modelNotFound")) => gateway_failure(Some(404), words, model),
        (None, Some("badRequest")) => gateway_failure(Some(400), words, model),
        (None, Some("internalServerError" | "serverOverloaded")) => gateway_failure(Some(500), words, model),
        (None, Some("contextWindowExceeded")) => "the conversation is longer than the model can read".to_owned(),
        (None, None) if info.is_object() => gateway_failure(None, words, model),
        _ => format!("Codex failed: {}", short(words)),
    }
}
