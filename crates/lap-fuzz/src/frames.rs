//! Frames of the links, as a guest could send them. Input: a byte for the cuts, then what comes over the socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use lap_api::link::FromGuest;
use lap_link::{Frame, LinkError, Reader};
use tokio::io::{AsyncRead, ReadBuf};

/// Longest frame the reader takes here.
const LIMIT: usize = 512;

/// Any cut of the stream gives the same messages and the same end; nothing beyond the limit is waited for; what was read,
/// written again, is read as the same.
pub(crate) fn frames(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let whole = read(stream, usize::MAX);
    assert_eq!(read(stream, 1), whole, "byte by byte");
    assert_eq!(read(stream, usize::from(*cut).max(1)), whole, "in pieces of {cut}");
    let (frames, _) = whole;
    for frame in frames {
        let Frame::Message(message) = frame else { continue };
        let message: FromGuest = serde_json::from_str(&message).expect("what was written can be read");
        let frame = lap_link::frame(&message).expect("a message that was read can be written");
        assert_eq!(frame[..4], u32::try_from(frame.len() - 4).expect("it is short").to_be_bytes());
        assert_eq!(serde_json::from_slice::<FromGuest>(&frame[4..]).ok().map(|m| text(&m)), Some(text(&message)));
    }
}

fn text(message: &FromGuest) -> String {
    serde_json::to_string(message).expect("messages can be written")
}

/// The frames and how it ended.
fn read(stream: &[u8], cut: usize) -> (Vec<Frame<String>>, &'static str) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let mut reader = Reader::new(Cut { left: stream, cut }, LIMIT);
            let mut frames = Vec::new();
            loop {
                match reader.frame::<FromGuest>().await {
                    Ok(Some(Frame::Message(message))) => frames.push(Frame::Message(text(&message))),
                    Ok(Some(Frame::Data(data))) => frames.push(Frame::Data(data)),
                    Ok(None) => return (frames, "the end"),
                    Err(LinkError::TooLong(length, limit)) => {
                        assert!(length > limit && limit == LIMIT);
                        return (frames, "too long");
                    }
                    Err(LinkError::UnexpectedData) => return (frames, "data without a head"),
                    Err(LinkError::Malformed(_)) => return (frames, "malformed"),
                    Err(LinkError::Io(_)) => return (frames, "broken off"),
                    Err(LinkError::Unwritable(_)) => panic!("reading wrote something"),
                }
            }
        })
    })
}

/// Bytes that come in pieces.
struct Cut<'a> {
    left: &'a [u8],
    cut: usize,
}

impl AsyncRead for Cut<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (piece, rest) = self.left.split_at(self.cut.min(buf.remaining()).min(self.left.len()));
        buf.put_slice(piece);
        self.left = rest;
        Poll::Ready(Ok(()))
    }
}
