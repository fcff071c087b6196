//! A session's terminal as a WebSocket: bytes both ways, and a few words beside them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::response::Response;
use futures_util::{Sink as _, Stream as _, StreamExt as _};
use lap_api::channel::{End, Program, Purpose, Size};
use lap_api::error::ErrorCode;
use lap_api::tty::{MAX_CLIENT_MESSAGE_BYTES, TtyClientFrame, TtyServerFrame};
use lap_domain::ids::SessionId;
use lap_engine::{Channel, ChannelEvent, Engine, Opening};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::App;
use crate::error::{ApiError, ApiResult};
use crate::extract::{FromQuery, LARGEST, Params, Path, Query};
use crate::serve::Stopping;
use crate::upgrade::{Upgrade, Visitor};

/// Viewers of all terminals together; more are refused. An idle one costs a connection and some kilobytes.
const MOST_VIEWERS: usize = 4096;

/// Often enough for the idle limits of proxies on the way.
const PING_EVERY: Duration = Duration::from_secs(30);

/// A client that is there answers pings at once.
const SILENCE_DEADLINE: Duration = Duration::from_secs(100);

/// Typing is noted this often; sessions idle for hours, not seconds.
const NOTE_TYPING_EVERY: Duration = Duration::from_secs(30);

/// Longest name a client may give itself.
const CLIENT_BYTES: usize = 64;

/// Places for viewers.
#[derive(Clone)]
pub(crate) struct Seats(Arc<Semaphore>);

impl Default for Seats {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_VIEWERS)))
    }
}

impl Seats {
    pub(crate) fn take(&self) -> ApiResult<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{MOST_VIEWERS} terminals are open on this server already; try again later.");
            ApiError::new(ErrorCode::Unavailable, message)
        })
    }
}

/// `GET /managed_agents/sessions/{id}/tty`
pub(crate) async fn attach(
    State(app): State<App>,
    visitor: Visitor,
    stopping: Stopping,
    Path(id): Path<String>,
    Query(attach): Query<Attach>,
    upgrade: Upgrade,
) -> ApiResult<Response> {
    let seat = app.seats.take()?;
    let id = SessionId::new(id);
    let Attach { program, from, redraw, client, view_only, size } = attach;
    let acknowledged = client.is_some();
    let purpose = Purpose::Terminal { program, from, redraw, client, view_only, size };
    let opening = app.engine.open_channel(&id, purpose).await?;
    let engine = app.engine.clone();
    Ok(upgrade.accept(visitor, move |socket| async move {
        let mut relay = Relay::new(socket, Typing::new(engine, id, view_only));
        match opening {
            Opening::Open(channel) => {
                let (position, input) = (channel.position, channel.input);
                relay.say(&TtyServerFrame::Attached { position, input });
                relay.acknowledged_from = acknowledged.then_some(input);
                relay.run(channel, stopping).await;
            }
            Opening::Over(end) => {
                relay.end(end);
                relay.finish().await;
            }
        }
        drop(seat);
    }))
}

/// How to attach.
pub(crate) struct Attach {
    program: Program,
    from: Option<u64>,
    redraw: bool,
    client: Option<String>,
    view_only: bool,
    size: Option<Size>,
}

impl FromQuery for Attach {
    fn from_query(params: &mut Params) -> Self {
        // Looked at before, by whoever decided that the caller may come in.
        let _ = params.text("token");
        let shell = params.word("program", &[("harness", false), ("shell", true)]).unwrap_or(false);
        let side = |n: Option<u64>| n.and_then(|n| u16::try_from(n).ok());
        let (cols, rows) = (side(params.number("cols", 1..=65_535)), side(params.number("rows", 1..=65_535)));
        Self {
            program: if shell { Program::Shell } else { Program::Harness },
            from: params.number("from", 0..=LARGEST),
            redraw: params.word("redraw", &[("true", true), ("false", false)]).unwrap_or(false),
            client: params.text("client").filter(|client| client.len() <= CLIENT_BYTES),
            view_only: params.word("mode", &[("view", true), ("control", false)]).unwrap_or(false),
            size: cols.zip(rows).map(|(cols, rows)| Size { cols, rows }),
        }
    }
}

/// What typing means for the session.
pub(crate) struct Typing {
    engine: Engine,
    session: SessionId,
    view_only: bool,
    noted_at: Option<Instant>,
}

impl Typing {
    pub(crate) fn new(engine: Engine, session: SessionId, view_only: bool) -> Self {
        Self { engine, session, view_only, noted_at: None }
    }

    async fn note(&mut self) {
        if self.noted_at.is_some_and(|at| at.elapsed() < NOTE_TYPING_EVERY) {
            return;
        }
        self.noted_at = Some(Instant::now());
        if let Err(problem) = self.engine.typed(&self.session).await {
            tracing::debug!(session.id = %self.session, problem = &problem as &dyn std::error::Error, "typing was not noted");
        }
    }
}

/// Between a client's WebSocket and a channel. Neither direction waits for the other.
pub(crate) struct Relay {
    socket: WebSocket,
    typing: Typing,
    /// What is to be sent next. Nothing is taken from the channel before it is gone.
    outgoing: VecDeque<Message>,
    unflushed: bool,
    /// Input of this client before this connection, if it wants to be told what is taken.
    pub(crate) acknowledged_from: Option<u64>,
    /// The number of a command's output goes before each piece of it.
    pub(crate) streams: bool,
    over: bool,
    heard_at: Instant,
}

/// What happened to a relay.
enum Happened {
    Client(Option<Result<Message, axum::Error>>),
    Sandbox(Option<ChannelEvent>),
    Writable(Result<(), axum::Error>),
    Flushed(Result<(), axum::Error>),
    Ping,
    Stopping,
}

impl Relay {
    pub(crate) fn new(socket: WebSocket, typing: Typing) -> Self {
        Self {
            socket,
            typing,
            outgoing: VecDeque::new(),
            unflushed: false,
            acknowledged_from: None,
            streams: false,
            over: false,
            heard_at: Instant::now(),
        }
    }

    pub(crate) fn say(&mut self, frame: &TtyServerFrame) {
        let text = serde_json::to_string(frame).expect("wire types serialise");
        self.outgoing.push_back(Message::Text(text.into()));
    }

    /// Says goodbye; nothing follows.
    pub(crate) fn close(&mut self, code: u16, reason: &'static str) {
        self.outgoing.push_back(Message::Close(Some(CloseFrame { code, reason: reason.into() })));
        self.over = true;
    }

    /// Says how it ended.
    pub(crate) fn end(&mut self, end: End) {
        match end {
            End::Exited { code } => self.say(&TtyServerFrame::Exit { code: Some(code), signal: None }),
            End::Signalled { signal } => self.say(&TtyServerFrame::Exit { code: None, signal: Some(signal) }),
            End::Failed { code, reason } => {
                self.say(&TtyServerFrame::Error { code, error: reason });
                return self.close(code::INTERNAL, "the terminal cannot go on");
            }
        }
        self.close(code::NORMAL, "the program has ended");
    }

    /// Waits for one message of the client's; none when there will be none.
    pub(crate) async fn first(&mut self) -> Option<Message> {
        self.socket.recv().await?.ok()
    }

    /// Passes on until one side ends.
    pub(crate) async fn run(mut self, mut channel: Channel, stopping: Stopping) {
        let mut ping = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        let stopped = stopping.or(std::future::pending::<()>());
        tokio::pin!(stopped);
        while !self.over {
            let idle = self.outgoing.is_empty();
            let happened = tokio::select! {
                happened = client(&mut self.socket, !idle, self.unflushed, channel.has_room()) => happened,
                event = channel.next(), if idle => Happened::Sandbox(event),
                _ = ping.tick() => Happened::Ping,
                _ = &mut stopped => Happened::Stopping,
            };
            let more = match happened {
                Happened::Client(message) => self.hear(message, &mut channel).await,
                Happened::Sandbox(event) => {
                    self.tell(event);
                    true
                }
                Happened::Writable(ready) => ready.is_ok() && self.send_next(),
                Happened::Flushed(flushed) => {
                    self.unflushed = false;
                    channel.passed_on().await;
                    flushed.is_ok()
                }
                Happened::Ping => self.ping(channel.has_room()),
                Happened::Stopping => {
                    self.close(code::RESTART, "the server is stopping");
                    true
                }
            };
            if !more {
                return;
            }
        }
        self.finish().await;
    }

    /// Sends what is left.
    pub(crate) async fn finish(mut self) {
        /// A client that does not take its last words is gone.
        const FAREWELL: Duration = Duration::from_secs(5);
        let sending = async {
            while !self.outgoing.is_empty() {
                if ready(&mut self.socket).await.is_err() || !self.send_next() {
                    return;
                }
            }
            let _ = flush(&mut self.socket).await;
            // Its answer to the goodbye; closing earlier could lose what it has not read.
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        let _ = tokio::time::timeout(FAREWELL, sending).await;
    }

    fn send_next(&mut self) -> bool {
        let Some(message) = self.outgoing.pop_front() else { return true };
        self.unflushed = true;
        Pin::new(&mut self.socket).start_send(message).is_ok()
    }

    /// `false`: the client is gone.
    async fn hear(&mut self, message: Option<Result<Message, axum::Error>>, channel: &mut Channel) -> bool {
        self.heard_at = Instant::now();
        match message {
            Some(Ok(Message::Binary(bytes))) if bytes.len() > MAX_CLIENT_MESSAGE_BYTES => self.too_long(),
            Some(Ok(Message::Binary(bytes))) => {
                if !self.typing.view_only && !bytes.is_empty() {
                    channel.send(bytes).await;
                    self.typing.note().await;
                }
            }
            Some(Ok(Message::Text(text))) if text.len() > MAX_CLIENT_MESSAGE_BYTES => self.too_long(),
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(TtyClientFrame::Resize { cols, rows }) if !self.typing.view_only => {
                    channel.resize(Size { cols, rows }).await;
                }
                Ok(TtyClientFrame::Ping) => self.say(&TtyServerFrame::Pong),
                Ok(TtyClientFrame::Eof) => channel.end_of_input().await,
                // A newer client may say more than this server knows.
                Ok(TtyClientFrame::Resize { .. } | TtyClientFrame::Start { .. } | TtyClientFrame::Unknown) | Err(_) => {
                }
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Err(problem)) if is_too_long(&problem) => self.too_long(),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
        }
        true
    }

    fn too_long(&mut self) {
        self.close(code::TOO_BIG, "a message may have 1 MiB");
    }

    fn tell(&mut self, event: Option<ChannelEvent>) {
        match event {
            Some(ChannelEvent::Data { stream, bytes }) => {
                let bytes = if self.streams { [&[stream], bytes.as_ref()].concat().into() } else { bytes };
                self.outgoing.push_back(Message::Binary(bytes));
            }
            Some(ChannelEvent::Repaint { position, bytes }) => self.say(&TtyServerFrame::Repaint { position, bytes }),
            Some(ChannelEvent::Taken { position }) => {
                if let Some(before) = self.acknowledged_from {
                    self.say(&TtyServerFrame::Ack { input: before + position });
                }
            }
            Some(ChannelEvent::Ended(end)) => self.end(end),
            None => self.close(code::TRY_AGAIN, "the sandbox is out of reach"),
        }
    }

    /// `false`: the client has been silent for too long. One whose input waits for the program cannot be heard.
    fn ping(&mut self, heard: bool) -> bool {
        self.outgoing.push_back(Message::Ping(Bytes::new()));
        !heard || self.heard_at.elapsed() < SILENCE_DEADLINE
    }
}

/// Why a WebSocket closes, as the protocol numbers it.
mod code {
    pub(super) const NORMAL: u16 = 1000;
    pub(super) const TOO_BIG: u16 = 1009;
    pub(super) const INTERNAL: u16 = 1011;
    pub(super) const RESTART: u16 = 1012;
    pub(super) const TRY_AGAIN: u16 = 1013;
}

/// What the client's side is ready for first, of what matters at the moment.
async fn client(socket: &mut WebSocket, write: bool, flush: bool, read: bool) -> Happened {
    poll_fn(|cx| {
        if write && let Poll::Ready(ready) = Pin::new(&mut *socket).poll_ready(cx) {
            return Poll::Ready(Happened::Writable(ready));
        }
        if flush && let Poll::Ready(flushed) = Pin::new(&mut *socket).poll_flush(cx) {
            return Poll::Ready(Happened::Flushed(flushed));
        }
        if read && let Poll::Ready(message) = Pin::new(&mut *socket).poll_next(cx) {
            return Poll::Ready(Happened::Client(message));
        }
        Poll::Pending
    })
    .await
}

async fn ready(socket: &mut WebSocket) -> Result<(), axum::Error> {
    poll_fn(|cx| Pin::new(&mut *socket).poll_ready(cx)).await
}

async fn flush(socket: &mut WebSocket) -> Result<(), axum::Error> {
    poll_fn(|cx| Pin::new(&mut *socket).poll_flush(cx)).await
}

/// Whether the client sent more at once than is taken.
fn is_too_long(problem: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(problem);
    while let Some(problem) = cause {
        if let Some(tokio_tungstenite::tungstenite::Error::Capacity(_)) = problem.downcast_ref() {
            return true;
        }
        cause = problem.source();
    }
    false
}
