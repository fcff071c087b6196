//! Bodies on their way through: counted, and where asked decoded and searched, frame by frame. Nothing is collected; what is
//! held back is bounded by the longest text that is looked for.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::grants::Table;
use crate::needles::{PAUSE, Release, Replacer};
use crate::record::Exchange;
use crate::upstream::Lease;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body from one side to the other.
pub(crate) struct Relay {
    source: Source,
    replacer: Option<Rewriting>,
    count: Option<(Arc<Exchange>, Direction)>,
    watch: Option<Box<dyn Watch>>,
    /// Upstream's connection, given back when the body is over.
    lease: Option<Lease>,
    /// Trailers that wait until what was held back is out.
    trailers: Option<HeaderMap>,
    /// Runs while bytes are held and none come.
    pause: Option<Pin<Box<Sleep>>>,
    /// An error that waits one turn, so that what came before it is written out first.
    failed: Option<BoxError>,
    ended: bool,
}

/// What happens to the bytes.
pub(crate) struct Rewriting {
    pub replacer: Replacer,
    pub purpose: Purpose,
    pub table: Arc<Table>,
    /// The length does not change.
    pub keeps_length: bool,
}

/// Why they are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Stubs become secrets; whose, goes into the record.
    Substitute,
    /// A stub ends the request: its content is signed, so swapping would break it.
    RefuseStubs,
    /// Secrets become stubs.
    Scrub,
}

/// Sees the bytes of a body as they come from their source, readable and before they go on. An error ends the body; it is
/// dropped when the body is over or nobody wants it any more.
pub(crate) trait Watch: Send + Sync {
    fn see(&mut self, bytes: &[u8]) -> Result<(), BoxError>;
}

/// Which counter the bytes go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    In,
}

enum Source {
    Empty,
    Full(Option<Bytes>),
    Incoming(Incoming),
    Decoded(Decoded),
}

/// A decoded body; its trailers come out of band because decoders only know bytes.
pub(crate) struct Decoded {
    pub bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    pub trailers: Arc<Mutex<Option<HeaderMap>>>,
}

/// A stub was found where the content is signed.
#[derive(Debug, thiserror::Error)]
#[error("the request carries a digest or signature of its content, and a stub in it")]
pub(crate) struct SignedBody;

impl Relay {
    fn of(source: Source) -> Self {
        Self {
            source,
            replacer: None,
            count: None,
            watch: None,
            lease: None,
            trailers: None,
            pause: None,
            failed: None,
            ended: false,
        }
    }

    pub fn empty() -> Self {
        Self::of(Source::Empty)
    }

    pub fn text(text: String) -> Self {
        Self::full(Bytes::from(text))
    }

    pub fn full(bytes: Bytes) -> Self {
        Self::of(Source::Full(Some(bytes).filter(|b| !b.is_empty())))
    }

    pub fn incoming(body: Incoming) -> Self {
        Self::of(Source::Incoming(body))
    }

    pub fn decoded(decoded: Decoded) -> Self {
        Self::of(Source::Decoded(decoded))
    }

    pub fn counted(mut self, exchange: Arc<Exchange>, direction: Direction) -> Self {
        self.count = Some((exchange, direction));
        self
    }

    pub fn watched(mut self, watch: Box<dyn Watch>) -> Self {
        self.watch = Some(watch);
        self
    }

    pub fn rewritten(mut self, rewriting: Rewriting) -> Self {
        self.replacer = Some(rewriting);
        self
    }

    /// Holds the upstream connection until the body is over; gives it back at once when it already is.
    pub fn leasing(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self.give_back_if_over();
        self
    }

    fn give_back_if_over(&mut self) {
        if self.source.is_over()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }

    fn rewrite(&mut self, piece: Bytes) -> Result<Bytes, BoxError> {
        let Some(rewriting) = &mut self.replacer else { return Ok(piece) };
        let out = rewriting.replacer.feed(piece);
        self.note_hits()?;
        Ok(out)
    }

    fn flush(&mut self) -> Result<Bytes, BoxError> {
        let Some(rewriting) = &mut self.replacer else { return Ok(Bytes::new()) };
        let out = rewriting.replacer.finish();
        self.note_hits()?;
        Ok(out)
    }

    /// The next frame; when there is none yet, upstream's connection is moved on and asked again.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = self.source.poll(cx);
        match (&mut self.lease, &polled) {
            (Some(lease), Poll::Pending) => {
                lease.drive(cx);
                self.source.poll(cx)
            }
            _ => polled,
        }
    }

    /// After a while without bytes, those that were held and may go.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let Some(rewriting) = &mut self.replacer else { return Poll::Pending };
        let release = if rewriting.purpose == Purpose::Scrub { Release::Little } else { Release::All };
        if !rewriting.replacer.can_relax(release) {
            return Poll::Pending;
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(PAUSE)));
        ready!(pause.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(rewriting.replacer.relax(release))
    }

    fn note_hits(&self) -> Result<(), BoxError> {
        let Some(rewriting) = &self.replacer else { return Ok(()) };
        let hits = rewriting.replacer.hits();
        match rewriting.purpose {
            Purpose::RefuseStubs if hits != 0 => Err(SignedBody.into()),
            Purpose::Substitute if hits != 0 => {
                if let Some((exchange, _)) = &self.count {
                    exchange.add_swapped(hits, &rewriting.table);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn add(&self, direction: Direction, n: usize) {
        if let Some((exchange, counted)) = &self.count
            && *counted == direction
        {
            let counter = if direction == Direction::Out { &exchange.bytes_out } else { &exchange.bytes_in };
            counter.fetch_add(n as u64, Ordering::Relaxed);
        }
    }

    fn scrub_trailers(&self, mut trailers: HeaderMap) -> HeaderMap {
        if let Some(rewriting) = &self.replacer
            && rewriting.purpose == Purpose::Scrub
        {
            crate::scrub::headers(&rewriting.table, rewriting.replacer.enabled(), &mut trailers);
        }
        trailers
    }
}

impl Source {
    fn is_over(&self) -> bool {
        match self {
            Self::Empty | Self::Full(None) => true,
            Self::Full(Some(_)) | Self::Decoded(_) => false,
            Self::Incoming(body) => body.is_end_stream(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Incoming(body) => Pin::new(body).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(Into::into))),
            Self::Decoded(decoded) => Poll::Ready(match ready!(decoded.bytes.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Err(error)) => Some(Err(error.into())),
                None => decoded
                    .trailers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()
                    .map(|t| Ok(Frame::trailers(t))),
            }),
        }
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Some(Err(error)));
            }
            if self.ended {
                return Poll::Ready(self.trailers.take().map(|t| Ok(Frame::trailers(t))));
            }
            let polled = match self.poll_source(cx) {
                Poll::Ready(polled) => polled,
                Poll::Pending => {
                    let out = ready!(self.poll_pause(cx));
                    self.add(Direction::In, out.len());
                    return Poll::Ready(Some(Ok(Frame::data(out))));
                }
            };
            self.pause = None;
            let out = match polled {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => {
                        self.give_back_if_over();
                        self.add(Direction::Out, piece.len());
                        if let Some(watch) = &mut self.watch {
                            watch.see(&piece)?;
                        }
                        self.rewrite(piece)?
                    }
                    Err(frame) => {
                        self.give_back_if_over();
                        if let Ok(trailers) = frame.into_trailers() {
                            self.trailers = Some(self.scrub_trailers(trailers));
                        }
                        continue;
                    }
                },
                Some(Err(error)) => {
                    // A connection in the middle of something is of no further use.
                    self.lease = None;
                    self.ended = true;
                    self.failed = Some(error);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None => {
                    self.ended = true;
                    self.watch = None;
                    if let Some(lease) = self.lease.take() {
                        lease.give_back();
                    }
                    self.flush()?
                }
            };
            if !out.is_empty() {
                self.add(Direction::In, out.len());
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let held = self.replacer.as_ref().is_some_and(|r| !r.replacer.is_empty());
        self.trailers.is_none() && self.failed.is_none() && !held && (self.ended || self.source.is_over())
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, &self.replacer) {
            (_, Some(rewriting)) if !rewriting.keeps_length => SizeHint::default(),
            (Source::Empty, _) => SizeHint::with_exact(0),
            (Source::Full(bytes), _) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            (Source::Incoming(body), _) => body.size_hint(),
            (Source::Decoded(_), _) => SizeHint::default(),
        }
    }
}
