//! Frames of RFC 6455: their heads read and written, and the order in which they may come. Pure; what a frame carries is not
//! looked at here.

use bytes::{BufMut as _, BytesMut};

/// Longest payload of a control frame.
pub(super) const MAX_CONTROL: usize = 125;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn of(bits: u8) -> Result<Self, Violation> {
        Ok(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return Err(Violation::Opcode),
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The last frame of its message.
    pub fin: bool,
    pub opcode: Opcode,
    /// Frames of clients are masked with these bytes.
    pub mask: Option<[u8; 4]>,
    /// Length of the payload.
    pub len: u64,
}

/// How a frame breaks the protocol. The words stand in the close frame that answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("reserved bits are set, and no extension was agreed on")]
    Reserved,
    #[error("the opcode is none of RFC 6455")]
    Opcode,
    #[error("the length is not written in its shortest form")]
    Length,
    #[error("a control frame is in pieces or too long")]
    Control,
    #[error("a client's frame is not masked")]
    Unmasked,
    #[error("a server's frame is masked")]
    Masked,
    #[error("a frame continues no message")]
    Continues,
    #[error("a message begins within another")]
    Within,
    #[error("something follows the close frame")]
    AfterClose,
}

impl Head {
    /// Reads the head at the beginning of `buf`, with its own length. None: more bytes are needed.
    pub fn parse(buf: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let [first, second, rest @ ..] = buf else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Violation::Reserved);
        }
        let (fin, opcode) = (first & 0x80 != 0, Opcode::of(first & 0x0f)?);
        let (len, rest) = match second & 0x7f {
            126 => match rest.split_first_chunk::<2>() {
                Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((len, rest)) => (u64::from_be_bytes(*len), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        let shortest = match second & 0x7f {
            126 => len > 125,
            127 => len > u64::from(u16::MAX) && len <= i64::MAX as u64,
            _ => true,
        };
        if !shortest {
            return Err(Violation::Length);
        }
        if opcode.is_control() && (!fin || len > MAX_CONTROL as u64) {
            return Err(Violation::Control);
        }
        let (mask, rest) = if second & 0x80 == 0 {
            (None, rest)
        } else {
            match rest.split_first_chunk::<4>() {
                Some((mask, rest)) => (Some(*mask), rest),
                None => return Ok(None),
            }
        };
        Ok(Some((Self { fin, opcode, mask, len }, buf.len() - rest.len())))
    }

    /// Appends the head to `out`.
    pub fn write(&self, out: &mut BytesMut) {
        let Self { fin, opcode, mask, len } = *self;
        out.put_u8(u8::from(fin) << 7 | opcode.bits());
        let masked = u8::from(mask.is_some()) << 7;
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(short @ 0..=125), _) => out.put_u8(masked | short),
            (_, Ok(middle)) => {
                out.put_u8(masked | 126);
                out.put_u16(middle);
            }
            _ => {
                out.put_u8(masked | 127);
                out.put_u64(len);
            }
        }
        if let Some(mask) = mask {
            out.put_slice(&mask);
        }
    }
}

/// Masks or unmasks a whole payload, or a piece of one that begins at a multiple of four.
pub(super) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[i & 3];
    }
}

/// What a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Control,
    /// A piece of a text message.
    Text,
    /// A piece of a binary message.
    Binary,
}

/// Watches the order of the frames of one side.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The message that is not over yet.
    message: Option<Part>,
    closed: bool,
}

impl Order {
    /// Takes the next frame.
    pub fn take(&mut self, head: &Head) -> Result<Part, Violation> {
        if self.closed {
            return Err(Violation::AfterClose);
        }
        let part = match (head.opcode, self.message) {
            (Opcode::Close, _) => {
                self.closed = true;
                return Ok(Part::Control);
            }
            (Opcode::Ping | Opcode::Pong, _) => return Ok(Part::Control),
            (Opcode::Continuation, None) => return Err(Violation::Continues),
            (Opcode::Continuation, Some(part)) => part,
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Violation::Within),
            (Opcode::Text, None) => Part::Text,
            (Opcode::Binary, None) => Part::Binary,
        };
        self.message = (!head.fin).then_some(part);
        Ok(part)
    }
}
