//! Cuts what tools and models produce to sizes a link, a database and a screen can carry, and says so where it cut.

use serde_json::Value;

/// Longest single text that leaves the guest: a tool's output, a part of an answer.
pub(crate) const TEXT_BYTES: usize = 256 * 1024;

/// Longest output shown of a tool that still runs; the newest end of it.
pub(crate) const RUNNING_BYTES: usize = 16 * 1024;

/// All texts of one utterance together. JSON may write a byte as six, and a frame from the guest holds 4 MiB.
pub(crate) const MESSAGE_BYTES: usize = 512 * 1024;

/// The text, or its beginning and a note.
pub(crate) fn head(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit);
    format!("{}\n[… cut: {} of {} bytes shown]", &text[..end], end, text.len())
}

/// The text, or a note and its end.
pub(crate) fn tail(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let start = text.ceil_char_boundary(text.len() - limit);
    format!("[… {start} bytes before this]\n{}", &text[start..])
}

/// Cuts the texts inside a value so that all of it stays near the limit.
pub(crate) fn value(value: &mut Value, limit: usize) {
    let mut left = limit;
    shrink(value, &mut left);
}

fn shrink(value: &mut Value, left: &mut usize) {
    match value {
        Value::String(text) => {
            if text.len() > *left {
                *text = head(text, *left);
            }
            *left = left.saturating_sub(text.len());
        }
        Value::Array(items) => items.iter_mut().for_each(|item| shrink(item, left)),
        Value::Object(fields) => fields.values_mut().for_each(|field| shrink(field, left)),
        Value::Null | Value::Bool(_) | Value::Number(_) => *left = left.saturating_sub(8),
    }
}

#[cfg(test)]
mod tests;
