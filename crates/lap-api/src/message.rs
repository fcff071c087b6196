//! Messages, their parts, and what a turn answers.

use serde::{Deserialize, Serialize};

use crate::session::Usage;

/// Body of `message` and `message_stream`: `text` xor `parts`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SendMessage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<InputPart>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
}

/// One block of a user message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum InputPart {
    /// Plain text.
    Text {
        /// The words.
        text: String,
    },
}

/// An image given with a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    pub name: String,
    /// `image/png`, `image/jpeg`, `image/gif` or `image/webp`.
    pub content_type: String,
    /// Base64.
    pub content: String,
}

/// One utterance of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub info: MessageInfo,
    pub parts: Vec<Part>,
}

/// Who said it, when, in which turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageInfo {
    pub id: String,
    pub turn_id: String,
    /// `user` or `assistant`.
    pub role: String,
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Why the answer is not whole: `aborted`, or the failure in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One block of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Words.
    Text {
        /// Stable within the session.
        id: String,
        /// The whole text so far.
        text: String,
    },
    /// The model's thinking, where it shows it.
    Reasoning {
        /// Stable within the session.
        id: String,
        /// The whole text so far.
        text: String,
    },
    /// A tool call with its result.
    Tool(ToolCall),
    /// A file of the message, by name only.
    File {
        /// Stable within the session.
        id: String,
        /// File name as given.
        name: String,
        /// MIME type.
        content_type: String,
    },
}

/// A tool call as far as it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Stable within the session.
    pub id: String,
    /// The harness's name of the tool.
    pub tool: String,
    /// `running`, `completed` or `failed`.
    pub status: String,
    /// One line a person can read, such as the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    pub input: serde_json::Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}
