//! Content codings the vault can read.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::header::{CONTENT_ENCODING, HeaderMap};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::body::Decoded;

/// Piece size of decoded bodies.
const PIECE: usize = 16 << 10;
/// A body that unpacks to more than this many times its size is an attack on whoever reads it.
const MAX_RATIO: u64 = 1100;
/// Small bodies may exceed the ratio.
const RATIO_FREE: u64 = 1 << 20;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
    /// Several codings, or one the vault does not know.
    Unreadable,
}

impl Coding {
    fn parse(word: &str) -> Self {
        match word.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Self::Identity,
            "gzip" | "x-gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            "br" => Self::Brotli,
            "zstd" => Self::Zstd,
            _ => Self::Unreadable,
        }
    }

    /// The coding of a message by its headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            for word in value.to_str().unwrap_or("?").split(',') {
                match (found, Self::parse(word)) {
                    (_, Self::Identity) => {}
                    (Self::Identity, coding) => found = coding,
                    _ => return Self::Unreadable,
                }
            }
        }
        found
    }

    /// The words of an Accept-Encoding value that the vault can read; `identity` when none is.
    pub fn readable(accept: &str) -> String {
        let known = |item: &&str| {
            let word = item.split(';').next().unwrap_or_default();
            !word.trim().is_empty() && Self::parse(word) != Self::Unreadable
        };
        let kept: Vec<&str> = accept.split(',').map(str::trim).filter(known).collect();
        if kept.is_empty() { "identity".to_owned() } else { kept.join(", ") }
    }
}

/// Whether what is decoded may grow without bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// The reader asked for it (answers).
    Free,
    /// The sandbox made it up (requests).
    Bounded,
}

/// Unpacks a body while it flows.
pub(crate) fn decode(coding: Coding, body: Incoming, growth: Growth) -> Decoded {
    let trailers = Arc::new(Mutex::new(None));
    let read = Arc::new(AtomicU64::new(0));
    let source = StreamReader::new(Packed { body, trailers: trailers.clone(), read: read.clone() });
    let bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> = match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(source);
            decoder.multiple_members(true);
            Box::pin(ReaderStream::with_capacity(decoder, PIECE))
        }
        Coding::Deflate => Box::pin(ReaderStream::with_capacity(ZlibDecoder::new(source), PIECE)),
        Coding::Brotli => Box::pin(ReaderStream::with_capacity(BrotliDecoder::new(source), PIECE)),
        Coding::Zstd => Box::pin(ReaderStream::with_capacity(ZstdDecoder::new(source), PIECE)),
        Coding::Identity | Coding::Unreadable => Box::pin(ReaderStream::with_capacity(source, PIECE)),
    };
    let bytes = match growth {
        Growth::Free => bytes,
        Growth::Bounded => {
            let mut made = 0;
            Box::pin(bytes.map(move |piece| {
                let piece = piece?;
                made += piece.len() as u64;
                if made > RATIO_FREE && made / MAX_RATIO > read.load(Ordering::Relaxed) {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the body unpacks to more than is reasonable",
                    ));
                }
                Ok(piece)
            }))
        }
    };
    Decoded { bytes, trailers }
}

/// The data of a body as a stream of bytes; trailers go aside.
struct Packed {
    body: Incoming,
    trailers: Arc<Mutex<Option<HeaderMap>>>,
    read: Arc<AtomicU64>,
}

impl Stream for Packed {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => None,
                Some(Err(error)) => Some(Err(io::Error::other(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => {
                        self.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        Some(Ok(bytes))
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            *self.trailers.lock().unwrap_or_else(PoisonError::into_inner) = Some(trailers);
                        }
                        continue;
                    }
                },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_one_coding_and_no_more() {
        let of = |value: &'static str| {
            Coding::of(&HeaderMap::from_iter([(CONTENT_ENCODING, value.parse().expect("a value"))]))
        };
        assert_eq!(of("gzip"), Coding::Gzip);
        assert_eq!(of("identity, BR"), Coding::Brotli);
        assert_eq!(of("gzip, br"), Coding::Unreadable);
        assert_eq!(of("compress"), Coding::Unreadable);
        assert_eq!(Coding::of(&HeaderMap::new()), Coding::Identity);
    }

    #[test]
    fn reduces_what_a_client_accepts() {
        assert_eq!(Coding::readable("gzip, deflate, br, zstd, dcb;q=0.5"), "gzip, deflate, br, zstd");
        assert_eq!(Coding::readable("dcb, *"), "identity");
        assert_eq!(Coding::readable("gzip;q=0.5, *;q=0"), "gzip;q=0.5");
    }
}
