//! Turns: one user message and everything until the agent is idle again.

use crate::ids::{SessionId, TurnId};
use crate::problem::Problem;
use crate::time::Timestamp;

/// A turn as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    pub id: TurnId,
    pub session_id: SessionId,
    pub state: TurnState,
    pub created_at: Timestamp,
}

/// Where a turn stands. It moves forward only; a turn that was sent is never sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnState {
    /// Waits for its predecessors or for the session.
    Queued,
    /// Handed to the sandbox; whether the harness has it is known when it reports.
    Sent,
    /// Answered.
    Completed,
    /// Ended without an answer.
    Failed { code: String, error: String },
}

impl TurnState {
    /// As it stands in the database.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Completed => "completed",
            Self::Failed { .. } => "failed",
        }
    }

    /// True when nothing more will come of it.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed { .. })
    }
}

/// Longest text of a message.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// How many images a message may bring.
pub const MAX_ATTACHMENTS: usize = 10;

/// How large one image may be.
pub const MAX_ATTACHMENT_BYTES: usize = 5 * 1024 * 1024;

/// How large all images of a message may be together.
pub const MAX_ATTACHMENTS_BYTES: usize = 15 * 1024 * 1024;

/// An image as it was given.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    /// File name.
    pub name: &'a str,
    /// MIME type.
    pub content_type: &'a str,
    /// Decoded; none when it was not base64.
    pub content: Option<&'a [u8]>,
}

/// Why a message is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputRefusal {
    /// The text is longer than [`MAX_TEXT_BYTES`].
    TextTooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Everything that is wrong with it.
    Invalid(Vec<Problem>),
}

/// Checks the text of a message, given in `field`, and its attachments, given in `attachments_field`.
pub fn check_input(
    field: &str,
    text: &str,
    attachments_field: &str,
    attachments: &[Attachment<'_>],
) -> Result<(), InputRefusal> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(InputRefusal::TextTooLong { bytes: text.len() });
    }
    let mut problems = Vec::new();
    if text.trim().is_empty() && attachments.is_empty() {
        problems.push(Problem::new(field, "is empty: a message needs words or an image"));
    }
    check_attachments(attachments_field, attachments, &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(InputRefusal::Invalid(problems)) }
}

fn check_attachments(field: &str, attachments: &[Attachment<'_>], problems: &mut Vec<Problem>) {
    if attachments.len() > MAX_ATTACHMENTS {
        let message = format!("has {} images; at most {MAX_ATTACHMENTS} are allowed", attachments.len());
        problems.push(Problem::new(field, message));
    }
    let total: usize = attachments.iter().filter_map(|attachment| attachment.content).map(<[u8]>::len).sum();
    if total > MAX_ATTACHMENTS_BYTES {
        let message = format!("holds {total} bytes; at most {MAX_ATTACHMENTS_BYTES} are allowed together");
        problems.push(Problem::new(field, message));
    }
    for (i, attachment) in attachments.iter().enumerate() {
        let Attachment { name, content_type, content } = attachment;
        let mut problem =
            |part: &str, message: String| problems.push(Problem::new(format!("{field}[{i}].{part}"), message));
        let fits =
            (1..=255).contains(&name.chars().count()) && !name.contains('/') && !name.chars().any(char::is_control);
        if !fits {
            problem("name", "must be a file name of 1 to 255 characters".to_owned());
        }
        let known = is_image_type(content_type);
        if !known {
            let message = format!("`{content_type}` is not taken; image/png, image/jpeg, image/gif and image/webp are");
            problem("content_type", message);
        }
        match content {
            None => problem("content", "must be base64".to_owned()),
            Some(content) if content.len() > MAX_ATTACHMENT_BYTES => {
                problem("content", format!("has {} bytes; at most {MAX_ATTACHMENT_BYTES} are allowed", content.len()));
            }
            Some(content) if known && image_type(content) != Some(*content_type) => {
                problem("content", format!("is not {content_type}: it does not begin like one"));
            }
            Some(_) => {}
        }
    }
}

fn is_image_type(content_type: &str) -> bool {
    matches!(content_type, "image/png" | "image/jpeg" | "image/gif" | "image/webp")
}

/// What an image is by its first bytes.
fn image_type(content: &[u8]) -> Option<&'static str> {
    match content {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
