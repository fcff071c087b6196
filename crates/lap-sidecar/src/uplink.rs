//! The link to the server: dial, prove who we are, send the journal, take commands; for ever, until told to stop.
//!
//! Losing the link changes nothing for the sandbox. The sidecar dials again, with growing pauses, and goes on where the
//! server's store stands.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lap_api::channel::ToChannel;
use lap_api::link::{Hello, PROTOCOL, ServerToSidecar, SidecarToServer, ToGuest};
use lap_link::{Frame, MAX_FRAME_BYTES, Reader, Writer};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::journal::Journal;

/// First and longest pause between two tries to reach a server that is away.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A server that accepts but does not answer the hello is given up after this long.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);

/// What the hello says of the sandbox besides its name; asked anew for each link.
pub trait Standing: Send + Sync {
    /// The hello of this moment, journal head excepted.
    fn hello(&self) -> Hello;
}

/// What a link serves.
pub struct Uplink {
    pub standing: Arc<dyn Standing>,
    pub journal: Arc<Journal>,
    /// What the server says to the sidecar.
    pub commands: mpsc::Sender<ServerToSidecar>,
    /// What the guest says over channels. Nothing of it is kept while there is no link.
    pub from_channels: mpsc::Receiver<Frame<SidecarToServer>>,
    pub to_channels: ToChannels,
}

/// Channels toward the guest.
pub struct ToChannels {
    to: mpsc::Sender<Frame<ToGuest>>,
    /// The guest has yet to hear that all channels are over; until then it hears of no new ones.
    closing: bool,
}

impl ToChannels {
    pub fn new(to: mpsc::Sender<Frame<ToGuest>>) -> Self {
        Self { to, closing: false }
    }

    /// Never waits for the guest. What does not fit is lost, and the guest notices by the positions.
    fn hand_on(&mut self, frame: Frame<ToGuest>) {
        if self.closing {
            self.close_all();
        }
        if self.closing || self.to.try_send(frame).is_err() {
            tracing::warn!("the guest does not listen; it misses a part of a channel");
        }
    }

    /// The link is lost, and every channel with it.
    fn close_all(&mut self) {
        self.closing = self.to.try_send(Frame::Message(ToGuest::Channel(ToChannel::CloseAll))).is_err();
    }
}

/// Lets go what the guest still says over channels that are no more.
async fn discard(from_channels: &mut mpsc::Receiver<Frame<SidecarToServer>>) {
    while from_channels.recv().await.is_some() {}
    std::future::pending::<()>().await;
}

impl Uplink {
    /// Keeps a link to the server at `socket` and hands on what it says. Returns when nobody takes commands any more.
    pub async fn keep(mut self, socket: &Path) {
        let mut pause = PAUSES.0;
        while !self.commands.is_closed() {
            match self.once(socket).await {
                Ok(()) => pause = PAUSES.0,
                Err(problem) => {
                    tracing::info!("no link to the server, trying again in {} ms: {problem}", pause.as_millis());
                }
            }
            self.to_channels.close_all();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.commands.closed() => return,
                () = discard(&mut self.from_channels) => {}
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// One link from dial to loss. `Ok` when it had been welcomed, so that the pauses start over.
    async fn once(&mut self, socket: &Path) -> Result<(), String> {
        let Self { standing, journal, commands, from_channels, to_channels } = self;
        let stream = UnixStream::connect(socket).await.map_err(|cause| format!("could not dial: {cause}"))?;
        let (from, to) = stream.into_split();
        let (mut reader, mut writer) = (Reader::new(from, MAX_FRAME_BYTES), Writer::new(to));
        let hello = Hello { log_head: journal.head(), ..standing.hello() };
        writer.send(&SidecarToServer::Hello(hello)).await.map_err(|cause| cause.to_string())?;
        let welcome = tokio::time::timeout(WELCOME_DEADLINE, reader.next::<ServerToSidecar>()).await;
        let resume_after = match welcome {
            Ok(Ok(Some(ServerToSidecar::Welcome { protocol: PROTOCOL, resume_after }))) => resume_after,
            Ok(Ok(Some(ServerToSidecar::Stop))) => {
                let _ = commands.send(ServerToSidecar::Stop).await;
                return Ok(());
            }
            Ok(Ok(_)) => return Err("the server did not welcome this sandbox".into()),
            Ok(Err(cause)) => return Err(cause.to_string()),
            Err(_) => return Err("the server did not answer".into()),
        };
        journal.acknowledge(resume_after);
        let sending = async {
            let mut sent = resume_after;
            loop {
                let frame = tokio::select! {
                    entry = journal.after(sent) => {
                        sent = entry.seq;
                        Frame::Message(SidecarToServer::Log { seq: entry.seq, at_ms: entry.at_ms, entry: entry.entry })
                    }
                    Some(frame) = from_channels.recv() => frame,
                };
                if let Err(cause) = writer.frame(&frame).await {
                    return cause.to_string();
                }
            }
        };
        let receiving = async {
            loop {
                match reader.frame::<ServerToSidecar>().await {
                    Ok(Some(Frame::Data(data))) => to_channels.hand_on(Frame::Data(data)),
                    Ok(Some(Frame::Message(ServerToSidecar::Channel(message)))) => {
                        to_channels.hand_on(Frame::Message(ToGuest::Channel(message)));
                    }
                    Ok(Some(Frame::Message(ServerToSidecar::Ack { seq }))) => journal.acknowledge(seq),
                    Ok(Some(Frame::Message(command))) => {
                        if commands.send(command).await.is_err() {
                            return "stopping".to_owned();
                        }
                    }
                    Ok(None) => return "the server closed the link".to_owned(),
                    Err(cause) => return cause.to_string(),
                }
            }
        };
        let end = tokio::select! { end = sending => end, end = receiving => end };
        tracing::info!("the link to the server ended: {end}");
        Ok(())
    }
}
