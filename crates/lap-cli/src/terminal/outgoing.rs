//! What was typed until the sandbox has it: kept for the next connection, sent from where the last one left off.

use std::collections::VecDeque;

/// Sent at most this much beyond what was acknowledged, so that a program that takes no input does not block the way.
const WINDOW: u64 = 64 * 1024;

/// Kept at most; whoever types more into a program that takes nothing waits.
const MOST: usize = 1024 * 1024;

/// Longest piece sent at a time.
const PIECE: usize = 16 * 1024;

/// Bytes by their position in all that this client ever typed.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    kept: VecDeque<u8>,
    /// Position of the first byte that is kept: everything before is with the sandbox.
    acknowledged: u64,
    /// Position of the next byte to send over this connection.
    next: u64,
}

impl Outgoing {
    /// Keeps what was typed.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
    }

    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= MOST
    }

    /// The sandbox has all bytes before this position.
    pub(super) fn acknowledge(&mut self, position: u64) {
        let length = usize::try_from(position.saturating_sub(self.acknowledged)).unwrap_or(usize::MAX);
        let length = length.min(self.kept.len());
        self.kept.drain(..length);
        self.acknowledged += length as u64;
        self.next = self.next.max(self.acknowledged);
    }

    /// A fresh connection goes on after this position.
    pub(super) fn resume(&mut self, position: u64) {
        self.acknowledge(position);
        self.next = self.acknowledged;
    }

    /// What may be sent now; it counts as sent.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let from = usize::try_from(self.next - self.acknowledged).unwrap_or(usize::MAX).min(self.kept.len());
        let open = usize::try_from((self.acknowledged + WINDOW).saturating_sub(self.next)).unwrap_or(PIECE);
        let piece: Vec<u8> = self.kept.range(from..).take(open.min(PIECE)).copied().collect();
        self.next += piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    }
}

#[cfg(test)]
mod tests;
