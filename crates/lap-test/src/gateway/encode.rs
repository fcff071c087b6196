//! Writes an answer in each protocol, streamed piece by piece or whole.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::script::{Piece, Reply};
use super::{Ask, Protocol, Shared, Usage};
use crate::web::{self, Body};

/// Answers a model call.
pub(super) async fn respond(
    shared: Arc<Shared>,
    protocol: Protocol,
    ask: Ask,
    reply: Reply,
    usage: Usage,
    index: usize,
) -> Response<Body> {
    let answer = Answer { shared, ask, reply, usage, index };
    if answer.ask.stream {
        return stream(protocol, answer);
    }
    for piece in &answer.reply.pieces {
        answer.wait(piece).await;
    }
    let body = match protocol {
        Protocol::Messages => answer.messages_whole(),
        Protocol::Chat => answer.chat_whole(),
        Protocol::Responses => answer.responses_whole("completed"),
    };
    web::json(StatusCode::OK, &body)
}

struct Answer {
    shared: Arc<Shared>,
    ask: Ask,
    reply: Reply,
    usage: Usage,
    index: usize,
}

/// Where events go. Bounded: a reader that does not read makes the writer wait.
type Events = mpsc::Sender<Bytes>;

fn stream(protocol: Protocol, answer: Answer) -> Response<Body> {
    let (events, receiver) = mpsc::channel(16);
    let writer = async move {
        match protocol {
            Protocol::Messages => answer.messages_stream(&events).await,
            Protocol::Chat => answer.chat_stream(&events).await,
            Protocol::Responses => answer.responses_stream(&events).await,
        };
    };
    let mut response = web::text(StatusCode::OK, "text/event-stream", "");
    *response.body_mut() = StreamBody::new(Written { writer: Some(Box::pin(writer)), receiver }).boxed_unsync();
    response
}

/// A stream that runs its own writer: when nobody reads any more, nothing writes any more.
struct Written {
    writer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    receiver: mpsc::Receiver<Bytes>,
}

impl futures_util::Stream for Written {
    type Item = Result<Frame<Bytes>, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(writer) = self.writer.as_mut()
            && writer.as_mut().poll(context).is_ready()
        {
            self.writer = None;
        }
        self.receiver.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

async fn named(events: &Events, name: &str, data: Value) {
    // A reader that went away is no error: aborts do that.
    let _ = events.send(format!("event: {name}\ndata: {data}\n\n").into()).await;
}

async fn unnamed(events: &Events, data: &str) {
    let _ = events.send(format!("data: {data}\n\n").into()).await;
}

/// Text arrives in pieces of a few words, as from a real model.
fn chunks(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_inclusive(' ').collect();
    words.chunks(3).map(|some| some.concat()).collect()
}

impl Answer {
    async fn wait(&self, piece: &Piece) {
        match piece {
            Piece::Slow(milliseconds) => tokio::time::sleep(Duration::from_millis(*milliseconds)).await,
            Piece::Hold(name) => self.shared.hold(name).await,
            Piece::Text(_) | Piece::Think(_) | Piece::Call { .. } => {}
        }
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}_{:06}", self.index)
    }

    fn part_id(&self, prefix: &str, position: usize) -> String {
        format!("{prefix}_{:06}_{position}", self.index)
    }

    // Anthropic Messages

    fn messages_envelope(&self, content: Vec<Value>, stop: Value, output: u64) -> Value {
        json!({
            "id": self.id("msg"), "type": "message", "role": "assistant", "model": self.ask.model, "content": content,
            "stop_reason": stop, "stop_sequence": null,
            "usage": { "input_tokens": self.usage.input, "output_tokens": output,
                       "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0 }
        })
    }

    fn messages_stop(&self) -> &'static str {
        if self.reply.calls() { "tool_use" } else { "end_turn" }
    }

    fn messages_whole(&self) -> Value {
        let mut content = Vec::new();
        for (position, piece) in self.reply.pieces.iter().enumerate() {
            match piece {
                Piece::Text(text) => content.push(json!({ "type": "text", "text": text })),
                Piece::Think(text) => {
                    content.push(json!({ "type": "thinking", "thinking": text, "signature": "scripted" }))
                }
                Piece::Call { name, input } => content.push(
                    json!({ "type": "tool_use", "id": self.part_id("toolu", position), "name": name, "input": input }),
                ),
                Piece::Slow(_) | Piece::Hold(_) => {}
            }
        }
        self.messages_envelope(content, json!(self.messages_stop()), self.usage.output)
    }

    async fn messages_stream(&self, events: &Events) {
        let start = json!({ "type": "message_start", "message": self.messages_envelope(Vec::new(), Value::Null, 1) });
        named(events, "message_start", start).await;
        let mut block = 0;
        for (position, piece) in self.reply.pieces.iter().enumerate() {
            let (open, deltas) = match piece {
                Piece::Slow(_) | Piece::Hold(_) => {
                    self.wait(piece).await;
                    continue;
                }
                Piece::Text(text) => {
                    let delta = |text| json!({ "type": "text_delta", "text": text });
                    (json!({ "type": "text", "text": "" }), chunks(text).into_iter().map(delta).collect::<Vec<_>>())
                }
                Piece::Think(text) => {
                    let delta = |text| json!({ "type": "thinking_delta", "thinking": text });
                    let mut deltas: Vec<Value> = chunks(text).into_iter().map(delta).collect();
                    deltas.push(json!({ "type": "signature_delta", "signature": "scripted" }));
                    (json!({ "type": "thinking", "thinking": "", "signature": "" }), deltas)
                }
                Piece::Call { name, input } => {
                    let open =
                        json!({ "type": "tool_use", "id": self.part_id("toolu", position), "name": name, "input": {} });
                    (open, vec![json!({ "type": "input_json_delta", "partial_json": input.to_string() })])
                }
            };
            let open = json!({ "type": "content_block_start", "index": block, "content_block": open });
            named(events, "content_block_start", open).await;
            for delta in deltas {
                let delta = json!({ "type": "content_block_delta", "index": block, "delta": delta });
                named(events, "content_block_delta", delta).await;
            }
            named(events, "content_block_stop", json!({ "type": "content_block_stop", "index": block })).await;
            block += 1;
        }
        let delta = json!({ "type": "message_delta", "delta": { "stop_reason": self.messages_stop(), "stop_sequence": null },
                            "usage": { "input_tokens": self.usage.input, "output_tokens": self.usage.output } });
        named(events, "message_delta", delta).await;
        named(events, "message_stop", json!({ "type": "message_stop" })).await;
    }

    // OpenAI Chat Completions

    fn chat_usage(&self) -> Value {
        json!({ "prompt_tokens": self.usage.input, "completion_tokens": self.usage.output,
                "total_tokens": self.usage.input + self.usage.output })
    }

    fn chat_finish(&self) -> &'static str {
        if self.reply.calls() { "tool_calls" } else { "stop" }
    }

    fn chat_whole(&self) -> Value {
        let mut said = String::new();
        let mut calls = Vec::new();
        for (position, piece) in self.reply.pieces.iter().enumerate() {
            match piece {
                Piece::Text(text) => said.push_str(text),
                Piece::Call { name, input } => calls.push(json!({
                    "id": self.part_id("call", position), "type": "function",
                    "function": { "name": name, "arguments": input.to_string() }
                })),
                Piece::Think(_) | Piece::Slow(_) | Piece::Hold(_) => {}
            }
        }
        let mut message =
            json!({ "role": "assistant", "content": if said.is_empty() { Value::Null } else { json!(said) } });
        if !calls.is_empty() {
            message["tool_calls"] = json!(calls);
        }
        json!({ "id": self.id("chatcmpl"), "object": "chat.completion", "created": 0, "model": self.ask.model,
                "choices": [{ "index": 0, "message": message, "finish_reason": self.chat_finish() }],
                "usage": self.chat_usage() })
    }

    async fn chat_stream(&self, events: &Events) {
        let chunk = |delta: Value, finish: Value| {
            json!({ "id": self.id("chatcmpl"), "object": "chat.completion.chunk", "created": 0, "model": self.ask.model,
                    "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] })
        };
        unnamed(events, &chunk(json!({ "role": "assistant", "content": "" }), Value::Null).to_string()).await;
        let mut call = 0;
        for (position, piece) in self.reply.pieces.iter().enumerate() {
            match piece {
                Piece::Slow(_) | Piece::Hold(_) => self.wait(piece).await,
                Piece::Text(text) => {
                    for text in chunks(text) {
                        unnamed(events, &chunk(json!({ "content": text }), Value::Null).to_string()).await;
                    }
                }
                Piece::Think(text) => {
                    for text in chunks(text) {
                        unnamed(events, &chunk(json!({ "reasoning_content": text }), Value::Null).to_string()).await;
                    }
                }
                Piece::Call { name, input } => {
                    let open = json!({ "tool_calls": [{ "index": call, "id": self.part_id("call", position),
                        "type": "function", "function": { "name": name, "arguments": "" } }] });
                    unnamed(events, &chunk(open, Value::Null).to_string()).await;
                    let arguments =
                        json!({ "tool_calls": [{ "index": call, "function": { "arguments": input.to_string() } }] });
                    unnamed(events, &chunk(arguments, Value::Null).to_string()).await;
                    call += 1;
                }
            }
        }
        let mut last = chunk(json!({}), json!(self.chat_finish()));
        unnamed(events, &last.to_string()).await;
        last["choices"] = json!([]);
        last["usage"] = self.chat_usage();
        unnamed(events, &last.to_string()).await;
        unnamed(events, "[DONE]").await;
    }

    // OpenAI Responses

    fn responses_item(&self, position: usize, piece: &Piece) -> Option<Value> {
        Some(match piece {
            Piece::Text(text) => json!({
                "id": self.part_id("msg", position), "type": "message", "role": "assistant", "status": "completed",
                "content": [{ "type": "output_text", "text": text, "annotations": [] }]
            }),
            Piece::Think(text) => json!({
                "id": self.part_id("rs", position), "type": "reasoning",
                "summary": [{ "type": "summary_text", "text": text }]
            }),
            // A tool that takes text instead of JSON, such as apply_patch.
            Piece::Call { name, input: Value::String(text) } => json!({
                "id": self.part_id("ctc", position), "type": "custom_tool_call", "status": "completed",
                "call_id": self.part_id("call", position), "name": name, "input": text
            }),
            Piece::Call { name, input } => {
                // Tools of one origin have a namespace: `mcp__server::tool`.
                let (namespace, name) = name.split_once("::").map_or((None, name.as_str()), |(s, n)| (Some(s), n));
                let mut call = json!({
                    "id": self.part_id("fc", position), "type": "function_call", "status": "completed",
                    "call_id": self.part_id("call", position), "name": name, "arguments": input.to_string()
                });
                if let Some(namespace) = namespace {
                    call["namespace"] = json!(namespace);
                }
                call
            }
            Piece::Slow(_) | Piece::Hold(_) => return None,
        })
    }

    fn responses_whole(&self, status: &str) -> Value {
        let done = status == "completed";
        let pieces = self.reply.pieces.iter().enumerate().filter(|_| done);
        let output: Vec<Value> = pieces.filter_map(|(position, piece)| self.responses_item(position, piece)).collect();
        let usage = json!({
            "input_tokens": self.usage.input, "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": self.usage.output, "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": self.usage.input + self.usage.output
        });
        json!({ "id": self.id("resp"), "object": "response", "created_at": 0, "status": status, "model": self.ask.model,
                "output": output, "error": null, "incomplete_details": null, "parallel_tool_calls": true,
                "usage": if done { usage } else { Value::Null } })
    }

    async fn responses_stream(&self, events: &Events) {
        let mut sequence = 0;
        let mut numbered = |kind: &str, mut event: Value| {
            event["type"] = json!(kind);
            event["sequence_number"] = json!(sequence);
            sequence += 1;
            event
        };
        for kind in ["response.created", "response.in_progress"] {
            let event = numbered(kind, json!({ "response": self.responses_whole("in_progress") }));
            named(events, kind, event).await;
        }
        let mut index = 0;
        for (position, piece) in self.reply.pieces.iter().enumerate() {
            let Some(item) = self.responses_item(position, piece) else {
                self.wait(piece).await;
                continue;
            };
            let id = item["id"].clone();
            let at = json!({ "item_id": id, "output_index": index });
            let with = |more: Value| {
                let mut event = at.clone();
                for (key, value) in more.as_object().expect("written as an object below") {
                    event[key] = value.clone();
                }
                event
            };
            let mut opened = item.clone();
            let mut between = Vec::new();
            match piece {
                Piece::Text(text) => {
                    opened["status"] = json!("in_progress");
                    opened["content"] = json!([]);
                    let part = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [] });
                    between
                        .push(("response.content_part.added", with(json!({ "content_index": 0, "part": part("") }))));
                    for delta in chunks(text) {
                        between
                            .push(("response.output_text.delta", with(json!({ "content_index": 0, "delta": delta }))));
                    }
                    between.push(("response.output_text.done", with(json!({ "content_index": 0, "text": text }))));
                    between
                        .push(("response.content_part.done", with(json!({ "content_index": 0, "part": part(text) }))));
                }
                Piece::Think(text) => {
                    opened["summary"] = json!([]);
                    let part = |text: &str| json!({ "type": "summary_text", "text": text });
                    let added = with(json!({ "summary_index": 0, "part": part("") }));
                    between.push(("response.reasoning_summary_part.added", added));
                    for delta in chunks(text) {
                        let delta = with(json!({ "summary_index": 0, "delta": delta }));
                        between.push(("response.reasoning_summary_text.delta", delta));
                    }
                    let done = with(json!({ "summary_index": 0, "text": text }));
                    between.push(("response.reasoning_summary_text.done", done));
                    let done = with(json!({ "summary_index": 0, "part": part(text) }));
                    between.push(("response.reasoning_summary_part.done", done));
                }
                Piece::Call { input: Value::String(text), .. } => {
                    opened["status"] = json!("in_progress");
                    opened["input"] = json!("");
                    between.push(("response.custom_tool_call_input.delta", with(json!({ "delta": text }))));
                    between.push(("response.custom_tool_call_input.done", with(json!({ "input": text }))));
                }
                Piece::Call { input, .. } => {
                    opened["status"] = json!("in_progress");
                    opened["arguments"] = json!("");
                    let arguments = input.to_string();
                    between.push(("response.function_call_arguments.delta", with(json!({ "delta": arguments }))));
                    between.push(("response.function_call_arguments.done", with(json!({ "arguments": arguments }))));
                }
                Piece::Slow(_) | Piece::Hold(_) => {}
            }
            let added = "response.output_item.added";
            named(events, added, numbered(added, json!({ "output_index": index, "item": opened }))).await;
            for (kind, event) in between {
                named(events, kind, numbered(kind, event)).await;
            }
            let done = "response.output_item.done";
            named(events, done, numbered(done, json!({ "output_index": index, "item": item }))).await;
            index += 1;
        }
        let kind = "response.completed";
        named(events, kind, numbered(kind, json!({ "response": self.responses_whole("completed") }))).await;
    }
}
