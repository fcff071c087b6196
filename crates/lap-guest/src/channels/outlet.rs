//! One channel's way to the server: what may still be sent, and the frames it is sent in.

use std::collections::VecDeque;

use bytes::Bytes;
use lap_api::channel::{CHUNK_BYTES, WINDOW_BYTES, WINDOW_FRAMES};
use lap_api::link::FromGuest;
use lap_link::{Data, Frame};

/// Counts what is under way.
#[derive(Debug)]
pub(super) struct Outlet {
    channel: u64,
    sent: u64,
    acknowledged: u64,
    /// Where each frame under way ends.
    frames: VecDeque<u64>,
}

impl Outlet {
    pub(super) fn new(channel: u64) -> Self {
        Self { channel, sent: 0, acknowledged: 0, frames: VecDeque::new() }
    }

    pub(super) fn channel(&self) -> u64 {
        self.channel
    }

    /// How long the next frame may be; 0 until something is acknowledged.
    pub(super) fn room(&self) -> usize {
        if self.frames.len() >= WINDOW_FRAMES {
            return 0;
        }
        let left = (self.acknowledged + WINDOW_BYTES).saturating_sub(self.sent);
        usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)
    }

    /// The next frame; no longer than there is room.
    pub(super) fn frame(&mut self, stream: u8, bytes: Bytes) -> Frame<FromGuest> {
        let position = self.sent;
        self.sent += bytes.len() as u64;
        self.frames.push_back(self.sent);
        Frame::Data(Data { channel: self.channel, stream, position, bytes })
    }

    /// The server has passed on everything before this position.
    pub(super) fn acknowledge(&mut self, position: u64) {
        self.acknowledged = self.acknowledged.max(position.min(self.sent));
        while self.frames.front().is_some_and(|end| *end <= self.acknowledged) {
            self.frames.pop_front();
        }
    }
}

/// One channel's input: in order, acknowledged after it was passed on.
#[derive(Debug)]
pub(super) struct Inlet {
    channel: u64,
    taken: u64,
    acknowledged: u64,
    passed_on: u64,
    frames: usize,
}

impl Inlet {
    pub(super) fn new(channel: u64) -> Self {
        Self { channel, taken: 0, acknowledged: 0, passed_on: 0, frames: 0 }
    }

    /// Whether these bytes are the ones that come next. Others mean that some were lost on the way.
    pub(super) fn take(&mut self, position: u64, length: usize) -> bool {
        let next = position == self.taken;
        if next {
            self.taken += length as u64;
            self.frames += 1;
        }
        next
    }

    /// So many more bytes were passed on.
    pub(super) fn pass_on(&mut self, length: u64) {
        self.passed_on += length;
    }

    /// Whether the other side should hear of it soon, and whether at once.
    pub(super) fn due(&self) -> (bool, bool) {
        let under_way = self.passed_on - self.acknowledged;
        (under_way > 0, under_way >= WINDOW_BYTES / 4 || self.frames >= WINDOW_FRAMES / 4)
    }

    /// What to tell the other side.
    pub(super) fn acknowledge(&mut self) -> Frame<FromGuest> {
        self.acknowledged = self.passed_on;
        self.frames = 0;
        Frame::Message(FromGuest::Channel(lap_api::channel::FromChannel::Ack {
            channel: self.channel,
            position: self.passed_on,
        }))
    }
}
