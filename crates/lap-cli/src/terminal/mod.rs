//! A terminal of a session, as if it were here: keys go there, bytes come back, and a lost connection comes back by itself,
//! with nothing lost and nothing twice.

mod escape;
mod local;
mod modes;
mod outgoing;

use std::time::Duration;

use bytes::Bytes;
use lap_api::tty::{TtyClientFrame, TtyServerFrame, WindowSize};
use lap_client::{Client, Error, TtyEvent, TtyOptions, TtyReader, TtyWriter};
use tokio::time::Instant;

use crate::failure::{Exit, Failure};
use crate::signals::Signals;
use escape::{Escape, Wish};
use local::{Here, Local};
use outgoing::Outgoing;

/// First and longest pause between two tries to reach a server that is away.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A connection that is back within this time was never missed by anybody.
const QUIET: Duration = Duration::from_millis(700);

/// Asked whether it is there this often, a server that is answers at once.
const PING_EVERY: Duration = Duration::from_secs(15);

/// A connection without a word for this long is dead, whatever the network says.
const SILENCE_DEADLINE: Duration = Duration::from_secs(40);

/// A server that takes nothing for this long is as good as gone.
const SEND_DEADLINE: Duration = Duration::from_secs(30);

const HELP: &str = "~.  leave   ~d  type Ctrl-D   ~~  type ~   ~?  this help   (after Enter)";

/// What to attach to.
pub(crate) enum What {
    /// The harness's own terminal.
    Harness,
    /// A shell beside it.
    Shell,
    /// This command.
    Command(Vec<String>),
}

/// How to attach.
pub(crate) struct Attach<'a> {
    pub(crate) client: &'a Client,
    pub(crate) session_id: &'a str,
    pub(crate) what: What,
    pub(crate) view_only: bool,
    pub(crate) title: String,
}

/// How it ended.
pub(crate) enum Ended {
    /// The program goes on.
    Detached,
    /// The program has ended, with this status as a shell reports it.
    Program { status: i32 },
}

impl Attach<'_> {
    /// Attaches until the program ends or somebody leaves. The terminal is given back whatever happens.
    pub(crate) async fn run(self) -> Result<Ended, Failure> {
        let signals = Signals::watch()?;
        let mut terminal = Terminal {
            name: uuid::Uuid::now_v7().to_string(),
            escape: Escape::new(matches!(self.what, What::Harness)),
            attach: self,
            position: None,
            picture: 0,
            outgoing: Outgoing::default(),
            signals,
        };
        // The first connection is made before anything changes here: what is wrong is then said in plain words.
        let first = terminal.connecting(false).await?;
        let mut local = Local::take(&terminal.attach.title)?;
        let ended = terminal.serve(first, &mut local).await;
        local.give_back().await;
        ended
    }
}

struct Terminal<'a> {
    attach: Attach<'a>,
    /// Ours, for the server to know us again.
    name: String,
    escape: Escape,
    /// How much output was shown; none before the first.
    position: Option<u64>,
    /// How much of what comes next is a picture, which does not count.
    picture: u64,
    outgoing: Outgoing,
    signals: Signals,
}

/// Why a connection is over.
enum Over {
    Lost,
    Ended(Ended),
}

impl Terminal<'_> {
    /// A new connection that goes on where the last one ended.
    fn connecting(&self, redraw: bool) -> impl Future<Output = Result<(TtyWriter, TtyReader), Error>> + use<> {
        let Attach { client, session_id, what, view_only, .. } = &self.attach;
        let (client, session_id) = (Client::clone(client), (*session_id).to_owned());
        let options = TtyOptions {
            shell: matches!(what, What::Shell),
            from: self.position,
            redraw,
            client: Some(self.name.clone()),
            view_only: *view_only,
            size: local::size(),
        };
        let command = match what {
            What::Harness | What::Shell => None,
            What::Command(command) => Some(command.clone()),
        };
        async move {
            match command {
                None => client.tty(&session_id, &options).await,
                Some(command) => client.exec_on_tty(&session_id, command, &options).await,
            }
        }
    }

    async fn serve(&mut self, first: (TtyWriter, TtyReader), local: &mut Local) -> Result<Ended, Failure> {
        let mut connection = first;
        loop {
            match self.converse(connection, local).await? {
                Over::Ended(ended) => return Ok(ended),
                Over::Lost => match self.come_back(local).await? {
                    Some(back) => connection = back,
                    None => return Ok(Ended::Detached),
                },
            }
        }
    }

    /// One connection, until its end.
    async fn converse(
        &mut self,
        (mut writer, mut reader): (TtyWriter, TtyReader),
        local: &mut Local,
    ) -> Result<Over, Failure> {
        let mut heard_at = Instant::now();
        let mut ping = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        let mut attached = false;
        let mut status = None;
        loop {
            if attached && !self.send_typed(&mut writer).await {
                return Ok(Over::Lost);
            }
            tokio::select! {
                event = reader.next() => {
                    heard_at = Instant::now();
                    match event {
                        Ok(TtyEvent::Data(bytes)) => {
                            local.wipe_note().await;
                            if !self.show(&bytes, local).await {
                                return Ok(Over::Ended(Ended::Detached));
                            }
                        }
                        Ok(TtyEvent::Frame(TtyServerFrame::Attached { position, input })) => {
                            attached = true;
                            local.wipe_note().await;
                            self.position = Some(position);
                            self.picture = 0;
                            self.outgoing.resume(input);
                        }
                        Ok(TtyEvent::Frame(frame)) => {
                            if let Some(ended) = self.hear(frame)? {
                                status = Some(ended);
                            }
                        }
                        Ok(TtyEvent::Closed { .. }) | Err(Error::Lost { .. }) => {
                            return Ok(status.map_or(Over::Lost, |status| Over::Ended(Ended::Program { status })));
                        }
                        Err(problem) => return Err(problem.into()),
                    }
                }
                here = local.next(!self.outgoing.is_full()) => match here {
                    Here::Typed(typed) => {
                        if self.take_typed(typed, local).await {
                            writer.close().await;
                            return Ok(Over::Ended(Ended::Detached));
                        }
                    }
                    Here::Resized(Some(WindowSize { cols, rows })) => {
                        if !in_time(writer.say(&TtyClientFrame::Resize { cols, rows })).await {
                            return Ok(Over::Lost);
                        }
                    }
                    Here::Resized(None) => {}
                },
                _ = ping.tick() => {
                    let silent = heard_at.elapsed() >= SILENCE_DEADLINE;
                    if silent || !in_time(writer.say(&TtyClientFrame::Ping)).await {
                        return Ok(Over::Lost);
                    }
                }
                _ = self.signals.next() => return Err(Failure::interrupted()),
            }
        }
    }

    async fn show(&mut self, bytes: &Bytes, local: &mut Local) -> bool {
        let painted = self.picture.min(bytes.len() as u64);
        self.picture -= painted;
        self.position = self.position.map(|position| position + bytes.len() as u64 - painted);
        local.show(bytes).await
    }

    /// The program's status, when this says that it has ended.
    fn hear(&mut self, frame: TtyServerFrame) -> Result<Option<i32>, Failure> {
        match frame {
            TtyServerFrame::Repaint { position, bytes } => {
                (self.position, self.picture) = (Some(position), bytes);
            }
            TtyServerFrame::Ack { input } => self.outgoing.acknowledge(input),
            TtyServerFrame::Exit { code, signal } => {
                return Ok(Some(code.or(signal.map(|signal| 128 + signal)).unwrap_or_default()));
            }
            TtyServerFrame::Error { error, .. } => return Err(Failure::new(Exit::Failure, error)),
            TtyServerFrame::Attached { .. } | TtyServerFrame::Pong | TtyServerFrame::Unknown => {}
        }
        Ok(None)
    }

    /// Sends what may be sent. `false`: the connection is lost.
    async fn send_typed(&mut self, writer: &mut TtyWriter) -> bool {
        while let Some(piece) = self.outgoing.take() {
            if !in_time(writer.send(Bytes::from(piece))).await {
                return false;
            }
        }
        true
    }

    /// Takes a read of the keyboard; true: leave.
    async fn take_typed(&mut self, typed: Option<Vec<u8>>, local: &mut Local) -> bool {
        let Some(typed) = typed else { return true };
        let typed = self.escape.take(&typed);
        if !self.attach.view_only && !self.outgoing.is_full() {
            self.outgoing.push(&typed.bytes);
        }
        match typed.wish {
            Some(Wish::Detach) => return true,
            Some(Wish::Help) => local.note(HELP).await,
            None => {}
        }
        false
    }

    /// Tries until the server is back; what is typed meanwhile is kept. None: somebody does not want to wait.
    async fn come_back(&mut self, local: &mut Local) -> Result<Option<(TtyWriter, TtyReader)>, Failure> {
        let missed = tokio::time::sleep(QUIET);
        tokio::pin!(missed);
        let mut pause = PAUSES.0;
        loop {
            // What a line of ours covers is drawn again.
            let connecting = self.connecting(local.has_note());
            let waited = tokio::time::sleep(pause);
            let trying = async {
                waited.await;
                connecting.await
            };
            tokio::pin!(trying);
            let tried = loop {
                tokio::select! {
                    tried = &mut trying => break tried,
                    here = local.next(true) => {
                        if let Here::Typed(typed) = here
                            && self.take_typed(typed, local).await
                        {
                            return Ok(None);
                        }
                    }
                    () = &mut missed, if !local.has_note() && !missed.is_elapsed() => {
                        local.note("[lap: the connection is lost, reconnecting; ~. leaves]").await;
                    }
                    _ = self.signals.next() => return Err(Failure::interrupted()),
                }
            };
            match tried {
                Ok(back) => return Ok(Some(back)),
                Err(problem) if problem.is_temporary() => pause = (pause * 2).min(PAUSES.1),
                Err(problem) => return Err(problem.into()),
            }
        }
    }
}

/// Whether it went out before the server is given up.
async fn in_time(sending: impl Future<Output = Result<(), Error>>) -> bool {
    matches!(tokio::time::timeout(SEND_DEADLINE, sending).await, Ok(Ok(())))
}
