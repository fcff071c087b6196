//! The server's end of channels: bytes to and from a sandbox's terminals, commands and files.
//!
//! A channel lives no longer than the link it was opened over, and nothing of it is stored. Whoever reads it slowly makes
//! the sandbox's side wait or skip, never this one: what may be under way is bounded, and a sandbox that sends more anyway
//! loses the channel.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use lap_api::channel::{CHUNK_BYTES, End, FromChannel, Purpose, Size, ToChannel, WINDOW_BYTES, WINDOW_FRAMES};
use lap_api::link::ServerToSidecar;
use lap_domain::ids::SessionId;
use lap_domain::session::SessionState;
use lap_link::{Data, Frame};
use tokio::sync::mpsc;

use crate::{Engine, EngineError, error, now};

/// Parts of channels that wait for a sidecar's socket. When full, whoever sends waits.
pub(crate) const OUTBOX: usize = 256;

/// What a channel's owner has not looked at yet: all that may be under way, and messages between. A sandbox that overflows it
/// keeps to no bound, and its channel ends.
const INBOX: usize = 2 * WINDOW_FRAMES;

/// A guest answers at once; one that does not is stuck.
const OPEN_DEADLINE: Duration = Duration::from_secs(15);

/// How long a sidecar that is dialling again is waited for.
const REDIAL_PATIENCE: Duration = Duration::from_secs(5);

/// What comes over a channel.
#[derive(Debug, PartialEq, Eq)]
pub enum ChannelEvent {
    Data {
        stream: u8,
        bytes: Bytes,
    },
    /// The next bytes draw the screen as it stood at this position.
    Repaint {
        position: u64,
        bytes: u64,
    },
    /// All input before this position of the channel was passed on.
    Taken {
        position: u64,
    },
    Ended(End),
}

/// What became of opening a channel.
pub enum Opening {
    Open(Channel),
    /// It is over already: the program had ended before.
    Over(End),
}

/// One link's channels, as the link and the channels' owners share them.
#[derive(Clone)]
pub(crate) struct ChannelLink {
    to: mpsc::Sender<Frame<ServerToSidecar>>,
    routes: Arc<Routes>,
    /// An older sidecar knows no channels.
    supported: bool,
}

#[derive(Default)]
struct Routes(Mutex<HashMap<u64, mpsc::Sender<FromGuest>>>);

enum FromGuest {
    Opened { position: u64, input: u64 },
    Event(ChannelEvent),
}

impl std::fmt::Debug for ChannelLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelLink").field("supported", &self.supported).finish_non_exhaustive()
    }
}

impl Routes {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<u64, mpsc::Sender<FromGuest>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn hand_on(&self, channel: u64, event: FromGuest) {
        self.with(|routes| {
            // Unknown: its owner is gone, and the guest will hear of it.
            if routes.get(&channel).is_some_and(|to| to.try_send(event).is_err()) {
                routes.remove(&channel);
            }
        });
    }
}

impl ChannelLink {
    /// For a fresh link, with what is to be written to it.
    pub(crate) fn new(supported: bool) -> (Self, mpsc::Receiver<Frame<ServerToSidecar>>) {
        let (to, outbox) = mpsc::channel(OUTBOX);
        (Self { to, routes: Arc::default(), supported }, outbox)
    }

    /// Bytes from the sandbox.
    pub(crate) fn data(&self, data: Data) {
        let Data { channel, stream, position: _, bytes } = data;
        self.routes.hand_on(channel, FromGuest::Event(ChannelEvent::Data { stream, bytes }));
    }

    /// A message from the sandbox.
    pub(crate) fn take(&self, message: FromChannel) {
        let (channel, event) = match message {
            FromChannel::Opened { channel, position, input } => (channel, FromGuest::Opened { position, input }),
            FromChannel::Repaint { channel, position, bytes } => {
                (channel, FromGuest::Event(ChannelEvent::Repaint { position, bytes }))
            }
            FromChannel::Ack { channel, position } => (channel, FromGuest::Event(ChannelEvent::Taken { position })),
            FromChannel::Ended { channel, end } => (channel, FromGuest::Event(ChannelEvent::Ended(end))),
        };
        self.routes.hand_on(channel, event);
    }

    /// The link is lost: every channel's owner hears of it.
    pub(crate) fn over(&self) {
        self.routes.with(HashMap::clear);
    }
}

/// An open channel. Dropping it tells the guest that nobody is interested any more.
pub struct Channel {
    number: u64,
    link: ChannelLink,
    events: mpsc::Receiver<FromGuest>,
    /// Of a terminal: how much its program had printed where this channel goes on. Of a file: its length.
    pub position: u64,
    /// Of a terminal: how much of this client's input was taken before.
    pub input: u64,
    sent: u64,
    taken: u64,
    frames: VecDeque<u64>,
    received: u64,
    acknowledged: u64,
    frames_received: usize,
    /// The guest knows that it is over.
    ended: bool,
}

impl Channel {
    /// What comes next; none when the link was lost. Safe to drop between polls.
    pub async fn next(&mut self) -> Option<ChannelEvent> {
        loop {
            let event = match self.events.recv().await? {
                // Said once, before everything else.
                FromGuest::Opened { .. } => continue,
                FromGuest::Event(event) => event,
            };
            match &event {
                ChannelEvent::Data { bytes, .. } => {
                    self.received += bytes.len() as u64;
                    self.frames_received += 1;
                }
                ChannelEvent::Taken { position } => {
                    self.taken = self.taken.max((*position).min(self.sent));
                    while self.frames.front().is_some_and(|end| *end <= self.taken) {
                        self.frames.pop_front();
                    }
                }
                ChannelEvent::Ended(_) => self.ended = true,
                ChannelEvent::Repaint { .. } => {}
            }
            return Some(event);
        }
    }

    /// Everything that [`Channel::next`] gave out has been passed on: more may come.
    pub async fn passed_on(&mut self) {
        let much = self.received - self.acknowledged >= WINDOW_BYTES / 2 || self.frames_received >= WINDOW_FRAMES / 2;
        if much {
            self.acknowledged = self.received;
            self.frames_received = 0;
            self.say(ToChannel::Ack { channel: self.number, position: self.received }).await;
        }
    }

    /// Whether input may be sent at the moment. Otherwise [`Channel::next`] says when some of it was taken.
    pub fn has_room(&self) -> bool {
        self.sent - self.taken < WINDOW_BYTES && self.frames.len() < WINDOW_FRAMES
    }

    /// Sends input. There must be room; what is longer than a window goes a little beyond it.
    pub async fn send(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            let position = self.sent;
            self.sent += piece.len() as u64;
            self.frames.push_back(self.sent);
            let data = Data { channel: self.number, stream: 0, position, bytes: piece };
            // A lost link is noticed where events are awaited.
            let _ = self.link.to.send(Frame::Data(data)).await;
        }
    }

    /// The window has another size.
    pub async fn resize(&mut self, size: Size) {
        self.say(ToChannel::Resize { channel: self.number, size }).await;
    }

    /// No more input follows.
    pub async fn end_of_input(&mut self) {
        self.say(ToChannel::Eof { channel: self.number }).await;
    }

    async fn say(&self, message: ToChannel) {
        let _ = self.link.to.send(Frame::Message(ServerToSidecar::Channel(message))).await;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.link.routes.with(|routes| routes.remove(&self.number));
        if self.ended {
            return;
        }
        let close = Frame::Message(ServerToSidecar::Channel(ToChannel::Close { channel: self.number }));
        if let Err(mpsc::error::TrySendError::Full(close)) = self.link.to.try_send(close) {
            let to = self.link.to.clone();
            // Ends with the link at the latest.
            tokio::spawn(async move { to.send(close).await });
        }
    }
}

impl Engine {
    /// Whether a channel to this session could be opened; otherwise why not.
    pub async fn ready_for_channels(&self, session: &SessionId) -> Result<(), EngineError> {
        let row = self.inner.store.session(session).await?;
        match row.state {
            SessionState::Ready => Ok(()),
            state => Err(error::not_ready(&state)),
        }
    }

    /// Opens a channel to a session that is ready.
    pub async fn open_channel(&self, session: &SessionId, purpose: Purpose) -> Result<Opening, EngineError> {
        self.ready_for_channels(session).await?;
        let away = || EngineError::Unavailable("the sandbox does not answer at the moment; try again".into());
        let link = self.inner.live.channels_within(session, REDIAL_PATIENCE).await.ok_or_else(away)?;
        if !link.supported {
            return Err(EngineError::Conflict(
                "this session's sandbox was started by an older version of LAP, which had no terminals; open a new session"
                    .into(),
            ));
        }
        let number = fresh_number();
        let (to, events) = mpsc::channel(INBOX);
        link.routes.with(|routes| routes.insert(number, to));
        let mut channel = Channel {
            number,
            link,
            events,
            position: 0,
            input: 0,
            sent: 0,
            taken: 0,
            frames: VecDeque::new(),
            received: 0,
            acknowledged: 0,
            frames_received: 0,
            ended: false,
        };
        channel.say(ToChannel::Open { channel: number, purpose }).await;
        let stuck = || EngineError::Unavailable("the sandbox did not answer in time; try again".into());
        match tokio::time::timeout(OPEN_DEADLINE, channel.events.recv()).await.map_err(|_| stuck())? {
            Some(FromGuest::Opened { position, input }) => {
                (channel.position, channel.input) = (position, input);
                Ok(Opening::Open(channel))
            }
            Some(FromGuest::Event(ChannelEvent::Ended(end))) => {
                channel.ended = true;
                match end {
                    End::Failed { code, reason } => Err(EngineError::refused(&code, reason)),
                    end => Ok(Opening::Over(end)),
                }
            }
            Some(FromGuest::Event(_)) => Err(EngineError::Internal("the guest began a channel in its middle".into())),
            None => Err(away()),
        }
    }

    /// Somebody typed: the session is not idle.
    pub async fn typed(&self, session: &SessionId) -> Result<(), EngineError> {
        Ok(self.inner.store.touch(session, now()).await?)
    }
}

impl EngineError {
    /// What a guest refuses. Its words are data about itself: its codes decide between a few answers, its sentences are
    /// passed on.
    pub fn refused(code: &str, reason: String) -> Self {
        match code {
            "not_found" => Self::NoSuchFile(reason),
            "bad_path" => Self::Invalid(vec![lap_domain::problem::Problem::new("path", reason)]),
            _ => Self::Conflict(reason),
        }
    }
}

/// Never given before, not by an earlier server either: what is still on its way from then must not be taken for an answer.
fn fresh_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    /// More than could be opened in a millisecond.
    const PER_MS: u64 = 1 << 16;
    let started = u64::try_from(now().0).unwrap_or_default() * PER_MS;
    let _ = NEXT.compare_exchange(0, started, Ordering::Relaxed, Ordering::Relaxed);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
