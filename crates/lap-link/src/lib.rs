//! Frames between server, sidecar and guest: a big-endian `u32` length and that many bytes, of JSON or, after a zero byte
//! that no JSON begins with, of a channel's data.
//!
//! Data is not put into JSON because it would cost: at 32 KiB a frame, base64 in JSON takes many times the processor time
//! of bytes as they are, at each of four ends (`cargo run --release -p lap-link --example encodings`).
//!
//! Knows nothing of what the messages mean. A frame longer than the reader's limit ends the link: the other side may be
//! hostile, and memory is bounded. Some messages carry secrets, so buffers are wiped before they are given back.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::{Zeroize, Zeroizing};

/// Longest frame: a message with 15 MiB of images in base64 (20 MiB) and 10 MiB of sandbox files fits.
pub const MAX_FRAME_BYTES: usize = 40 * 1024 * 1024;

/// Longest frame a sidecar takes from a guest: one whole message with tool outputs, already cut by the guest.
pub const MAX_GUEST_FRAME_BYTES: usize = 4 * 1024 * 1024;

/// Begins a data frame.
const DATA_MARK: u8 = 0;

/// Mark, stream, channel and position, in front of a data frame's bytes.
const DATA_HEAD: usize = 1 + 1 + 8 + 8;

/// What arrives where both kinds of frames are welcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<T> {
    Message(T),
    Data(Data),
}

/// Bytes of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    pub channel: u64,
    /// Which of a command's outputs; 0 where there is but one.
    pub stream: u8,
    /// How many bytes of the channel, in this direction, came before.
    pub position: u64,
    pub bytes: Bytes,
}

/// Room for reading at a time.
const ROOM: usize = 8 * 1024;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The stream broke.
    #[error("could not use the link")]
    Io(#[from] std::io::Error),
    /// The other side announced more than is taken.
    #[error("a frame of {0} bytes is longer than the limit of {1}")]
    TooLong(usize, usize),
    /// The bytes are not a message this side knows.
    #[error("could not read a message")]
    Malformed(#[source] serde_json::Error),
    /// Data where only messages are expected, or data without a whole head.
    #[error("a data frame came where none is expected")]
    UnexpectedData,
    /// The message could not be written as JSON.
    #[error("could not write a message")]
    Unwritable(#[source] serde_json::Error),
}

/// The reading half.
pub struct Reader<R> {
    from: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads frames of at most `limit` bytes.
    pub fn new(from: R, limit: usize) -> Self {
        Self { from, buffer: BytesMut::new(), limit }
    }

    /// The next message, or `None` at an orderly end; data ends the link. Safe to drop between polls: nothing read is lost.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LinkError> {
        self.frame().await?.map(message).transpose()
    }

    /// A message that has already arrived in full, without waiting: lets a reader take all there is in one go.
    pub fn buffered<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LinkError> {
        self.buffered_frame()?.map(message).transpose()
    }

    /// The next frame, or `None` at an orderly end. Safe to drop between polls: nothing read is lost.
    pub async fn frame<T: DeserializeOwned>(&mut self) -> Result<Option<Frame<T>>, LinkError> {
        loop {
            if let Some(frame) = self.buffered_frame()? {
                return Ok(Some(frame));
            }
            if self.buffer.len() == self.buffer.capacity() {
                self.make_room(ROOM);
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
                };
            }
        }
    }

    fn buffered_frame<T: DeserializeOwned>(&mut self) -> Result<Option<Frame<T>>, LinkError> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > self.limit {
            return Err(LinkError::TooLong(length, self.limit));
        }
        if self.buffer.len() < 4 + length {
            self.make_room(4 + length - self.buffer.len());
            return Ok(None);
        }
        let frame = &mut self.buffer[4..4 + length];
        if frame.first() == Some(&DATA_MARK) {
            let data = read_data(frame).ok_or(LinkError::UnexpectedData)?;
            // What a terminal shows is no secret of ours, so it is not worth the time that wiping takes.
            self.buffer.advance(4 + length);
            return Ok(Some(Frame::Data(data)));
        }
        let message = serde_json::from_slice(frame).map_err(LinkError::Malformed);
        frame.zeroize();
        self.buffer.advance(4 + length);
        message.map(|message| Some(Frame::Message(message)))
    }

    /// Like `reserve`, leaving no copy behind.
    fn make_room(&mut self, room: usize) {
        if self.buffer.is_empty() {
            // Whatever was in it has been wiped, so the same memory can be used again.
            self.buffer.reserve(room);
        } else if self.buffer.capacity() - self.buffer.len() < room {
            let mut larger = BytesMut::with_capacity(self.buffer.len() + room);
            larger.extend_from_slice(&self.buffer);
            self.buffer.zeroize();
            self.buffer = larger;
        }
    }
}

impl<R> Drop for Reader<R> {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

fn message<T>(frame: Frame<T>) -> Result<T, LinkError> {
    match frame {
        Frame::Message(message) => Ok(message),
        Frame::Data(_) => Err(LinkError::UnexpectedData),
    }
}

fn read_data(frame: &[u8]) -> Option<Data> {
    let (head, bytes) = frame.split_first_chunk::<DATA_HEAD>()?;
    let number = |at: usize| head[at..].first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
    Some(Data { channel: number(2)?, stream: head[1], position: number(10)?, bytes: Bytes::copy_from_slice(bytes) })
}

/// The writing half.
pub struct Writer<W> {
    to: W,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes frames.
    pub fn new(to: W) -> Self {
        Self { to }
    }

    /// Sends one message. Not safe to drop half-way: give each writer one task.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), LinkError> {
        let frame = framed(message)?;
        self.to.write_all(&frame).await?;
        self.to.flush().await?;
        Ok(())
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Sends a frame of either kind. Not safe to drop half-way.
    pub async fn frame<T: Serialize>(&mut self, frame: &Frame<T>) -> Result<(), LinkError> {
        match frame {
            Frame::Message(message) => self.send(message).await,
            Frame::Data(data) => self.data(data).await,
        }
    }

    /// Sends bytes of a channel. Not safe to drop half-way.
    pub async fn data(&mut self, data: &Data) -> Result<(), LinkError> {
        let Data { channel, stream, position, bytes } = data;
        let length = DATA_HEAD + bytes.len();
        if length > MAX_FRAME_BYTES {
            return Err(LinkError::TooLong(length, MAX_FRAME_BYTES));
        }
        let mut frame = Vec::with_capacity(4 + length);
        frame.extend_from_slice(&(length as u32).to_be_bytes());
        frame.extend_from_slice(&[DATA_MARK, *stream]);
        frame.extend_from_slice(&channel.to_be_bytes());
        frame.extend_from_slice(&position.to_be_bytes());
        frame.extend_from_slice(bytes);
        self.to.write_all(&frame).await?;
        self.to.flush().await?;
        Ok(())
    }
}

/// A message with its length in front.
pub fn frame<T: Serialize>(message: &T) -> Result<Vec<u8>, LinkError> {
    framed(message).map(|mut bytes| std::mem::take(&mut *bytes))
}

fn framed<T: Serialize>(message: &T) -> Result<Zeroizing<Vec<u8>>, LinkError> {
    let mut bytes = Growing(Zeroizing::new(vec![0; 4]));
    serde_json::to_writer(&mut bytes, message).map_err(LinkError::Unwritable)?;
    let Growing(mut bytes) = bytes;
    let length = bytes.len() - 4;
    if length > MAX_FRAME_BYTES {
        return Err(LinkError::TooLong(length, MAX_FRAME_BYTES));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// A vector that leaves no copies behind when it grows.
struct Growing(Zeroizing<Vec<u8>>);

impl std::io::Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let Self(held) = self;
        let length = held.len() + bytes.len();
        if length > held.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(length.max(2 * held.capacity()).max(256)));
            larger.extend_from_slice(held);
            *held = larger;
        }
        held.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
