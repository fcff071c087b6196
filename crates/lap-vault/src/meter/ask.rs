//! What a model is asked: which model, how much text, and whether the answer can be metered at all.

use super::json::{Scanner, Value, Word};
use super::reply::clean;

/// Of packed images and the like so many bytes count as one of text: models read them at a flat rate.
const PACKED: u64 = 16;

/// The call would go on behind the answer, where nobody meters it.
#[derive(Debug, thiserror::Error)]
#[error("a call in the background cannot be metered; leave out `background`")]
pub(crate) struct Background;

/// The body of a model call as far as it has come.
pub(super) struct Ask {
    scanner: Scanner,
    model: Option<String>,
    text: u64,
}

impl Ask {
    pub fn new() -> Self {
        Self { scanner: Scanner::new(), model: None, text: 0 }
    }

    /// Takes the next bytes of it, before they go on.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Background> {
        let mut background = false;
        let Self { scanner, model, text } = self;
        scanner.feed(bytes, |path, value| match (path, value) {
            // Of a key that stands twice the last one counts, as for whoever reads the whole.
            ([Word::Model], Value::Text(name, _)) => *model = clean(name),
            ([Word::Background], Value::Bare(value)) => background |= value == b"true",
            (_, Value::Text(start, length)) => *text += if is_packed(path, start) { length / PACKED } else { length },
            _ => {}
        });
        if background { Err(Background) } else { Ok(()) }
    }

    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Bytes of text so far.
    pub fn text(&self) -> u64 {
        self.text + self.scanner.unfinished().map_or(0, |(_, length)| length)
    }
}

fn is_packed(path: &[Word], start: &[u8]) -> bool {
    let key = path.last().copied().unwrap_or(Word::Other);
    start.starts_with(b"data:") || matches!(key, Word::Data | Word::FileData | Word::Signature | Word::EncryptedContent)
}
