//! One direction of a WebSocket. Frames are read, judged by the protocol's rules, and passed on; where texts are to be replaced
//! a message is written anew, so that its length may change. What is held is one piece of a frame and the beginning of a text.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::frame::{Head, MAX_CONTROL, Opcode, Order, Part, Violation, apply_mask};
use crate::grants::Table;
use crate::needles::Replacer;
use crate::record::Exchange;

/// A frame up to this length stays one when it is written anew; a longer one becomes several. A multiple of four, as masks are.
const PIECE: usize = 64 << 10;
/// Read at once.
const READ: usize = 16 << 10;

/// Which way the frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the sandbox, where clients mask; stubs in text messages become secrets.
    Up,
    /// To the sandbox; secrets in all messages become stubs.
    Down,
}

/// Why a direction ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Frame(#[from] Violation),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One direction.
pub(super) struct Pump<R, W> {
    way: Way,
    from: R,
    to: W,
    table: Arc<Table>,
    /// Credentials whose texts are replaced.
    mask: u128,
    exchange: Arc<Exchange>,
    /// Read and not yet used.
    ahead: BytesMut,
    order: Order,
    /// The text under way; made when the first byte shows what it is.
    replacer: Option<Replacer>,
    /// A frame of the message under way was written.
    begun: bool,
    /// What was written so far ends with a whole frame.
    whole: bool,
    flushed: bool,
}

impl<R, W> Pump<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    pub fn new(way: Way, from: R, to: W, table: &Arc<Table>, mask: u128, exchange: &Arc<Exchange>) -> Self {
        Self {
            way,
            from,
            to,
            table: table.clone(),
            mask,
            exchange: exchange.clone(),
            ahead: BytesMut::new(),
            order: Order::default(),
            replacer: None,
            begun: false,
            whole: true,
            flushed: true,
        }
    }

    /// Carries frames until the sender is done. May be dropped; afterwards only [`Pump::close`] makes sense.
    pub async fn run(&mut self) -> Result<(), Broken> {
        loop {
            let Some((head, length)) = self.head().await? else { return Ok(self.to.shutdown().await?) };
            let part = self.order.take(&head)?;
            match (self.way, part) {
                _ if self.mask == 0 => self.pass(&head, length).await?,
                (Way::Up, Part::Control | Part::Binary) => self.pass(&head, length).await?,
                (Way::Up, Part::Text) | (Way::Down, Part::Text | Part::Binary) => {
                    self.ahead.advance(length);
                    self.rewrite(&head, part).await?;
                }
                (Way::Down, Part::Control) => {
                    self.ahead.advance(length);
                    self.scrub_control(&head).await?;
                }
            }
        }
    }

    /// Ends the direction with a close frame, if its reader is not in the middle of another.
    pub async fn close(&mut self, code: u16, reason: &str) {
        if !self.whole {
            return;
        }
        let mut payload = BytesMut::from(&code.to_be_bytes()[..]);
        payload.extend_from_slice(reason.as_bytes());
        payload.truncate(MAX_CONTROL);
        // Whoever does not listen any more misses nothing.
        if self.write(Opcode::Close, true, &payload).await.is_ok() {
            let _ = self.to.shutdown().await;
        }
    }

    /// The head of the next frame, left in front of what was read. None at the end.
    async fn head(&mut self) -> Result<Option<(Head, usize)>, Broken> {
        loop {
            if let Some((head, length)) = Head::parse(&self.ahead)? {
                match (self.way, head.mask) {
                    (Way::Up, None) => return Err(Violation::Unmasked.into()),
                    (Way::Down, Some(_)) => return Err(Violation::Masked.into()),
                    _ => return Ok(Some((head, length))),
                }
            }
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    /// Passes a frame on as it is.
    async fn pass(&mut self, head: &Head, length: usize) -> Result<(), Broken> {
        let mut left = head.len.saturating_add(length as u64);
        self.whole = false;
        while left > 0 {
            if self.ahead.is_empty() && !self.read().await? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let n = self.ahead.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = self.ahead.split_to(n);
            left -= n as u64;
            self.send(&piece).await?;
        }
        self.whole = true;
        Ok(())
    }

    /// Writes a frame of a message anew, with texts replaced.
    async fn rewrite(&mut self, head: &Head, part: Part) -> Result<(), Broken> {
        let mut left = head.len;
        loop {
            let n = PIECE.min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = self.payload(n, head.mask).await?;
            left -= n as u64;
            let last = left == 0 && head.fin;
            let piece = self.replace(piece, last);
            if last || !piece.is_empty() {
                let opcode = match part {
                    _ if self.begun => Opcode::Continuation,
                    Part::Binary => Opcode::Binary,
                    Part::Text | Part::Control => Opcode::Text,
                };
                self.begun = !last;
                self.write(opcode, last, &piece).await?;
            }
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// Every frame to the sandbox is searched, for there is no rule about what control frames carry.
    async fn scrub_control(&mut self, head: &Head) -> Result<(), Broken> {
        let n = usize::try_from(head.len).unwrap_or(MAX_CONTROL);
        let payload = self.payload(n, head.mask).await?;
        let payload = match self.table.secrets.replace(&payload, self.mask) {
            Some((new, _)) if new.len() <= MAX_CONTROL => new.into(),
            // Of a close frame the code is left.
            Some(_) if head.opcode == Opcode::Close => payload.slice(..payload.len().min(2)),
            Some(_) => Bytes::new(),
            None => payload,
        };
        Ok(self.write(head.opcode, true, &payload).await?)
    }

    /// The next `n` bytes of a payload, in clear.
    async fn payload(&mut self, n: usize, mask: Option<[u8; 4]>) -> io::Result<Bytes> {
        while self.ahead.len() < n {
            if !self.read().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut piece = self.ahead.split_to(n);
        if let Some(mask) = mask {
            apply_mask(&mut piece, mask);
        }
        Ok(piece.freeze())
    }

    fn replace(&mut self, piece: Bytes, last: bool) -> Bytes {
        let mut piece = piece;
        let mut lead = Bytes::new();
        let replacer = match &mut self.replacer {
            Some(replacer) => replacer,
            None => {
                // Some protocols put numbers before their JSON. No text that is looked for on the way up begins like that.
                let plain = if self.way == Way::Up { piece.iter().take_while(|b| is_lead(**b)).count() } else { 0 };
                lead = piece.split_to(plain);
                if piece.is_empty() {
                    return lead;
                }
                let needles = match (self.way, piece[0]) {
                    (Way::Down, _) => &self.table.secrets,
                    (Way::Up, b'{' | b'[' | b'"') => &self.table.stubs_json,
                    (Way::Up, _) => &self.table.stubs,
                };
                self.replacer.insert(Replacer::new(needles.clone(), self.mask))
            }
        };
        let mut out = replacer.feed(piece);
        if last {
            let tail = replacer.finish();
            if !tail.is_empty() {
                out = [out, tail].concat().into();
            }
        }
        if self.way == Way::Up {
            self.exchange.add_swapped(replacer.hits(), &self.table);
        }
        if last {
            self.replacer = None;
        }
        if lead.is_empty() { out } else { [lead, out].concat().into() }
    }

    /// Writes a frame of its own.
    async fn write(&mut self, opcode: Opcode, fin: bool, payload: &[u8]) -> io::Result<()> {
        let mask = match self.way {
            Way::Up => Some(fresh_mask()?),
            Way::Down => None,
        };
        let mut frame = BytesMut::with_capacity(payload.len() + 14);
        Head { fin, opcode, mask, len: payload.len() as u64 }.write(&mut frame);
        let start = frame.len();
        frame.extend_from_slice(payload);
        if let Some(mask) = mask {
            apply_mask(&mut frame[start..], mask);
        }
        self.whole = false;
        self.send(&frame).await?;
        self.whole = true;
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.flushed = false;
        self.to.write_all(bytes).await?;
        if self.way == Way::Down {
            self.exchange.bytes_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads more; false at the end. What was written goes out first: its reader must not wait for the next frame.
    async fn read(&mut self) -> io::Result<bool> {
        if !self.flushed {
            self.to.flush().await?;
            self.flushed = true;
        }
        self.ahead.reserve(READ);
        let n = self.from.read_buf(&mut self.ahead).await?;
        if self.way == Way::Up {
            self.exchange.bytes_out.fetch_add(n as u64, Ordering::Relaxed);
        }
        Ok(n > 0)
    }
}

fn is_lead(byte: u8) -> bool {
    byte.is_ascii_digit() || byte.is_ascii_whitespace()
}

/// Whoever stands between must not be able to guess what masked bytes look like (RFC 6455, 5.3).
fn fresh_mask() -> io::Result<[u8; 4]> {
    let mut mask = [0; 4];
    aws_lc_rs::rand::fill(&mut mask).map_err(io::Error::other)?;
    Ok(mask)
}
