//! What a request asks, told apart from the protocol it came in.

use serde_json::Value;

use super::Protocol;

/// One model call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ask {
    pub model: String,
    /// The system prompt, all blocks.
    pub system: String,
    /// The newest user prompt: its last block, without what harnesses add around it.
    pub prompt: String,
    /// Earlier user prompts, oldest first.
    pub earlier: Vec<String>,
    /// Outputs of the tools called since the prompt.
    pub results: Vec<String>,
    /// Names of the tools offered; none makes it a side call, such as one for a title.
    pub tools: Vec<String>,
    /// Media types of the images that came with the prompt.
    pub images: Vec<String>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
}

enum Item {
    User(String),
    Image(String),
    Assistant,
    Result(String),
}

impl Ask {
    /// Reads a body of this protocol. Fields that are missing or of another shape count as empty.
    pub(super) fn read(protocol: Protocol, body: &Value) -> Ask {
        let mut system = Vec::new();
        let mut items = Vec::new();
        match protocol {
            Protocol::Messages => {
                texts_of(&body["system"], &mut system);
                for message in list(&body["messages"]) {
                    read_anthropic(message, &mut system, &mut items);
                }
            }
            Protocol::Chat => {
                for message in list(&body["messages"]) {
                    read_chat(message, &mut system, &mut items);
                }
            }
            Protocol::Responses => {
                system.extend(body["instructions"].as_str().map(String::from));
                match &body["input"] {
                    Value::String(text) => items.push(Item::User(text.clone())),
                    input => list(input).iter().for_each(|item| read_responses(item, &mut system, &mut items)),
                }
            }
        }
        let mut ask = Ask {
            model: text(&body["model"]),
            system: system.join("\n"),
            stream: body["stream"].as_bool().unwrap_or(false),
            tools: list(&body["tools"]).iter().filter_map(tool_name).collect(),
            ..Ask::default()
        };
        ask.take(items);
        ask
    }

    fn take(&mut self, items: Vec<Item>) {
        let mut prompts: Vec<String> = Vec::new();
        let mut after_user = false;
        for item in items {
            match item {
                Item::User(text) => {
                    if !after_user {
                        self.images.clear();
                    }
                    after_user = true;
                    prompts.push(text);
                    self.results.clear();
                }
                Item::Image(kind) => {
                    if !after_user {
                        self.images.clear();
                    }
                    after_user = true;
                    self.images.push(kind);
                }
                Item::Assistant => after_user = false,
                Item::Result(output) => {
                    after_user = false;
                    self.results.push(output);
                }
            }
        }
        self.prompt = prompts.pop().unwrap_or_default();
        self.earlier = prompts;
    }
}

fn read_anthropic(message: &Value, system: &mut Vec<String>, items: &mut Vec<Item>) {
    match message["role"].as_str() {
        Some("system") => texts_of(&message["content"], system),
        Some("assistant") => items.push(Item::Assistant),
        _ => match &message["content"] {
            Value::String(content) => user_text(content, items),
            content => {
                for block in list(content) {
                    match block["type"].as_str() {
                        Some("text") => user_text(&text(&block["text"]), items),
                        Some("image") => items.push(Item::Image(text(&block["source"]["media_type"]))),
                        Some("tool_result") => items.push(Item::Result(joined(&block["content"]))),
                        _ => {}
                    }
                }
            }
        },
    }
}

fn read_chat(message: &Value, system: &mut Vec<String>, items: &mut Vec<Item>) {
    match message["role"].as_str() {
        Some("system" | "developer") => texts_of(&message["content"], system),
        Some("assistant") => items.push(Item::Assistant),
        Some("tool") => items.push(Item::Result(joined(&message["content"]))),
        _ => match &message["content"] {
            Value::String(content) => user_text(content, items),
            content => list(content).iter().for_each(|block| read_openai_block(block, items)),
        },
    }
}

fn read_responses(item: &Value, system: &mut Vec<String>, items: &mut Vec<Item>) {
    match (item["type"].as_str(), item["role"].as_str()) {
        (Some("function_call_output" | "custom_tool_call_output" | "local_shell_call_output"), _) => {
            items.push(Item::Result(joined(&item["output"])));
        }
        (_, Some("system" | "developer")) => texts_of(&item["content"], system),
        (_, Some("user")) => match &item["content"] {
            Value::String(content) => user_text(content, items),
            content => list(content).iter().for_each(|block| read_openai_block(block, items)),
        },
        _ => items.push(Item::Assistant),
    }
}

fn read_openai_block(block: &Value, items: &mut Vec<Item>) {
    let url = block["image_url"].as_str().or(block["image_url"]["url"].as_str());
    match url {
        Some(url) => {
            let kind = url.strip_prefix("data:").and_then(|rest| rest.split([';', ',']).next()).unwrap_or("url");
            items.push(Item::Image(kind.to_owned()));
        }
        None => user_text(&text(&block["text"]), items),
    }
}

/// Blocks that harnesses put beside the user's words are no prompts.
fn user_text(content: &str, items: &mut Vec<Item>) {
    let content = without_reminders(content);
    let content = content.trim();
    let added = [
        "<environment_context>",
        "<user_instructions>",
        "# AGENTS.md instructions",
        "[Image: source:",
        "[Request interrupted",
    ];
    if !content.is_empty() && !added.iter().any(|start| content.starts_with(start)) {
        items.push(Item::User(content.to_owned()));
    }
}

fn without_reminders(content: &str) -> String {
    let (open, close) = ("<system-reminder>", "</system-reminder>");
    let mut rest = content;
    let mut kept = String::new();
    while let Some(start) = rest.find(open) {
        kept.push_str(&rest[..start]);
        match rest[start..].find(close) {
            Some(end) => rest = &rest[start + end + close.len()..],
            None => return kept,
        }
    }
    kept + rest
}

fn tool_name(tool: &Value) -> Option<String> {
    let name = tool["name"].as_str().or(tool["function"]["name"].as_str()).or(tool["type"].as_str());
    name.map(String::from)
}

fn texts_of(content: &Value, into: &mut Vec<String>) {
    match content {
        Value::String(content) => into.push(content.clone()),
        content => into.extend(list(content).iter().map(|block| text(&block["text"]))),
    }
}

fn joined(content: &Value) -> String {
    let mut parts = Vec::new();
    texts_of(content, &mut parts);
    parts.join("\n")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
