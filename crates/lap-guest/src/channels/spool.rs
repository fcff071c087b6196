//! The newest output of a terminal, addressed by how many bytes came before. Bounded: the oldest is forgotten.

use std::collections::VecDeque;

use bytes::Bytes;

/// The newest bytes of a stream.
#[derive(Debug)]
pub(super) struct Spool {
    bytes: VecDeque<u8>,
    end: u64,
    limit: usize,
}

impl Spool {
    /// Empty; its first byte will have this position.
    pub(super) fn new(first: u64, limit: usize) -> Self {
        Self { bytes: VecDeque::new(), end: first, limit }
    }

    /// Position of the oldest byte that is kept.
    pub(super) fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Position of the next byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Takes output.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(self.limit)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.limit);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// What follows a position, at most `most` bytes of it. The position must be kept.
    pub(super) fn after(&self, position: u64, most: usize) -> Bytes {
        let [first, second] = self.slices_after(position);
        let of_first = first.len().min(most);
        let of_second = second.len().min(most - of_first);
        let mut bytes = Vec::with_capacity(of_first + of_second);
        bytes.extend_from_slice(&first[..of_first]);
        bytes.extend_from_slice(&second[..of_second]);
        bytes.into()
    }

    /// The same without a copy, in the two pieces in which it lies.
    pub(super) fn slices_after(&self, position: u64) -> [&[u8]; 2] {
        let skip = usize::try_from(position.saturating_sub(self.start())).unwrap_or(usize::MAX);
        let (first, second) = self.bytes.as_slices();
        [&first[skip.min(first.len())..], &second[skip.saturating_sub(first.len()).min(second.len())..]]
    }
}

#[cfg(test)]
mod tests;
