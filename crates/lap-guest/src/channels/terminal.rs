//! One terminal: a program, what it has printed, and everybody who looks at it.
//!
//! The program is never made to wait for a viewer: one that falls behind by more than is kept has its screen drawn anew.
//! The program is made to wait for nobody but itself, and input waits for the program: what it does not take is not
//! acknowledged, and then no more comes.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lap_api::channel::{End, FromChannel, Size, ToChannel};
use lap_api::link::FromGuest;
use lap_link::{Data, Frame};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::outlet::{Inlet, Outlet};
use super::pty::{Pty, Running};
use super::screen::{MOST_LAG, Screen, sensible};
use super::spool::Spool;
use super::{Offer, Port, ended, failed};
use crate::harness::face::{self, Lent};

/// Output that is kept for viewers who come back; more than a viewer may have under way.
const SPOOL_BYTES: usize = 2 * 1024 * 1024;

/// Read from the program at a time, before viewers get their share.
const READ_BYTES: usize = 64 * 1024;

/// Clients whose input is remembered, so that none of it is taken twice.
const CLIENTS: usize = 64;

/// Input is acknowledged this late when there is little of it: clients keep it until then.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(100);

/// After the program's end, how long its last words wait for slow viewers.
const LINGER: Duration = Duration::from_secs(30);

/// A command whose last viewer went away is ended after this long: long enough to come back over a bad network.
const ALONE: Duration = Duration::from_secs(60);

/// A program that is asked to end has this long to do so in order.
const END_GRACE: Duration = Duration::from_secs(5);

/// Windows nobody told us of.
pub(super) const USUAL_SIZE: Size = Size { cols: 80, rows: 24 };

/// To a terminal's task.
pub(super) enum ToTerminal {
    View(View),
    Message(ToChannel),
    Data(Data),
}

/// Somebody wants to look.
pub(super) struct View {
    pub(super) channel: u64,
    pub(super) from: Option<u64>,
    pub(super) redraw: bool,
    pub(super) client: Option<String>,
    pub(super) view_only: bool,
    pub(super) size: Option<Size>,
}

/// What others may know of a terminal while its task owns it.
pub(super) struct Shared {
    /// Whether the program runs.
    pub(super) running: AtomicBool,
    /// How many bytes it has printed.
    pub(super) position: AtomicU64,
    /// How it ended.
    pub(super) end: std::sync::Mutex<Option<End>>,
}

struct Viewer {
    out: Outlet,
    input: Inlet,
    client: Option<String>,
    view_only: bool,
    /// How much of the output it has been sent.
    position: u64,
    /// The rest of a picture that it gets first.
    picture: Bytes,
    /// Wants a picture once it has all output.
    redraw: bool,
    /// Messages that come before anything else.
    unsaid: VecDeque<FromChannel>,
}

/// A program that was just started on a terminal.
pub(super) struct Started {
    pub(super) program: (Pty, Running),
    pub(super) size: Size,
    /// Whether it ends with its last viewer.
    pub(super) needs_viewers: bool,
    /// The conversation it works on, where that is lent.
    pub(super) lent: Option<Lent>,
}

/// A terminal's task.
pub(super) struct Terminal {
    pty: Pty,
    running: Running,
    port: Port,
    orders: mpsc::Receiver<ToTerminal>,
    shared: Arc<Shared>,
    /// Ends with its last viewer, after a while.
    needs_viewers: bool,
    /// Given back when the program has ended.
    lent: Option<Lent>,
    /// The conversation was wanted back, and that is why the program ends.
    recalled: bool,
    spool: Spool,
    screen: Screen,
    viewers: Vec<Viewer>,
    /// Input taken from each client, newest clients last.
    clients: VecDeque<(String, u64)>,
    /// Input the program has not taken yet, and whose it is.
    pending: VecDeque<u8>,
    owners: VecDeque<(u64, usize)>,
    exit: Option<ExitStatus>,
    /// No more output comes.
    silent: bool,
    acknowledge_at: Option<Instant>,
    /// When to stop waiting: for viewers to come back, or for slow ones to get the last words.
    give_up_at: Option<Instant>,
}

impl Terminal {
    /// A terminal whose program has just been started; its output begins at `first`.
    pub(super) fn new(started: Started, port: Port, orders: mpsc::Receiver<ToTerminal>, shared: Arc<Shared>) -> Self {
        let Started { program: (pty, running), size, needs_viewers, lent } = started;
        let first = shared.position.load(Ordering::Acquire);
        Self {
            pty,
            running,
            port,
            orders,
            shared,
            needs_viewers,
            lent,
            recalled: false,
            spool: Spool::new(first, SPOOL_BYTES),
            screen: Screen::new(size, first),
            viewers: Vec::new(),
            clients: VecDeque::new(),
            pending: VecDeque::new(),
            owners: VecDeque::new(),
            exit: None,
            silent: false,
            acknowledge_at: None,
            give_up_at: None,
        }
    }

    /// Serves until the program has ended and everybody knows, or nobody can come any more.
    pub(super) async fn run(mut self) {
        let mut output = Vec::with_capacity(READ_BYTES);
        loop {
            let stuck = self.serve_viewers();
            if self.exit.is_some() && self.viewers.is_empty() {
                return;
            }
            output.clear();
            let alarm = [self.acknowledge_at, self.give_up_at].into_iter().flatten().min();
            let (terminal_output, terminal_input) = self.pty.halves();
            tokio::select! {
                // A viewer who was there from the start sees everything from the start. A flood of output comes last.
                biased;
                order = self.orders.recv() => match order {
                    Some(order) => self.take(order),
                    None => return,
                },
                () = tokio::time::sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {
                    if self.alarm() {
                        return;
                    }
                }
                () = wanted_back(&mut self.lent), if !self.recalled => self.give_back(),
                status = self.running.wait(), if self.exit.is_none() => self.ended(status.ok()),
                written = terminal_input.write(self.pending.as_slices().0), if !self.pending.is_empty() => {
                    // When the terminal is gone nobody reads its input any more.
                    self.passed_on(written.unwrap_or(self.pending.len()));
                }
                // Somebody may be sent more as soon as the link takes more.
                () = self.port.room(), if stuck => {}
                more = terminal_output.read(&mut output, READ_BYTES), if !self.silent => {
                    self.heard(&output);
                    self.silent |= !more;
                }
            }
        }
    }

    /// The conversation is wanted for messages: the program is asked to end, and then made to.
    fn give_back(&mut self) {
        self.recalled = true;
        self.running.end();
        self.give_up_at = Some(Instant::now() + END_GRACE);
    }

    fn take(&mut self, order: ToTerminal) {
        match order {
            ToTerminal::View(view) => self.view(view),
            ToTerminal::Data(data) => self.input(&data),
            ToTerminal::Message(ToChannel::Ack { channel, position }) => {
                if let Some(viewer) = self.viewer(channel) {
                    viewer.out.acknowledge(position);
                }
            }
            ToTerminal::Message(ToChannel::Resize { channel, size }) => {
                if self.viewer(channel).is_some_and(|viewer| !viewer.view_only) {
                    self.resize(size);
                }
            }
            ToTerminal::Message(ToChannel::Close { channel }) => self.forget(|viewer| viewer.out.channel() == channel),
            ToTerminal::Message(ToChannel::CloseAll) => self.forget(|_| true),
            // A terminal's end of input is a character; whoever has no more to type goes away.
            ToTerminal::Message(ToChannel::Eof { .. } | ToChannel::Open { .. }) => {}
        }
    }

    fn viewer(&mut self, channel: u64) -> Option<&mut Viewer> {
        self.viewers.iter_mut().find(|viewer| viewer.out.channel() == channel)
    }

    fn view(&mut self, view: View) {
        let View { channel, from, redraw, client, view_only, size } = view;
        // The same client over an older connection: what still comes from there was sent again over this one.
        if client.is_some() {
            self.forget(|viewer| viewer.client == client);
        }
        if self.exit.is_none() {
            self.give_up_at = None;
        }
        if let Some(size) = size.filter(|_| !view_only) {
            self.resize(size);
        }
        let kept = |position: &u64| (self.spool.start()..=self.spool.end()).contains(position);
        let input = client.as_ref().map_or(0, |client| self.input_of(client));
        let mut viewer = Viewer {
            out: Outlet::new(channel),
            input: Inlet::new(channel),
            client,
            view_only,
            position: 0,
            picture: Bytes::new(),
            redraw,
            unsaid: VecDeque::new(),
        };
        match from.filter(kept) {
            Some(position) => {
                viewer.position = position;
                viewer.unsaid.push_back(FromChannel::Opened { channel, position, input });
            }
            // Nothing to draw yet, and nothing of the viewer's own to wipe away.
            None if from.is_none() && self.spool.end() == self.spool.start() => {
                viewer.position = self.spool.end();
                viewer.unsaid.push_back(FromChannel::Opened { channel, position: viewer.position, input });
            }
            None => {
                let position = self.spool.end();
                viewer.unsaid.push_back(FromChannel::Opened { channel, position, input });
                // Whoever was here before has the history already.
                let history = from.is_none();
                self.screen.catch_up(&self.spool);
                viewer.draw(&self.screen, history);
            }
        }
        self.viewers.push(viewer);
        self.count_viewers();
    }

    fn count_viewers(&self) {
        if let Some(lent) = &self.lent {
            lent.looks.viewers(self.viewers.len());
        }
    }

    fn input_of(&self, client: &str) -> u64 {
        self.clients.iter().find(|(known, _)| known == client).map_or(0, |(_, taken)| *taken)
    }

    fn input(&mut self, data: &Data) {
        let Some(viewer) = self.viewer(data.channel) else { return };
        if viewer.view_only {
            return;
        }
        if !viewer.input.take(data.position, data.bytes.len()) {
            let end = failed("lost", "some of the input was lost on the way");
            viewer.unsaid.push_back(FromChannel::Ended { channel: data.channel, end });
            return;
        }
        if let Some(client) = viewer.client.clone() {
            let taken = self.input_of(&client) + data.bytes.len() as u64;
            self.clients.retain(|(known, _)| *known != client);
            if self.clients.len() == CLIENTS {
                self.clients.pop_front();
            }
            self.clients.push_back((client, taken));
        }
        self.pending.extend(&data.bytes);
        self.owners.push_back((data.channel, data.bytes.len()));
    }

    /// The program has taken so many bytes of input.
    fn passed_on(&mut self, mut length: usize) {
        self.pending.drain(..length);
        while let Some((channel, owned)) = self.owners.front_mut().filter(|_| length > 0) {
            let (channel, part) = (*channel, length.min(*owned));
            *owned -= part;
            length -= part;
            if *owned == 0 {
                self.owners.pop_front();
            }
            if let Some(viewer) = self.viewer(channel) {
                viewer.input.pass_on(part as u64);
            }
        }
        if self.acknowledge_at.is_none() {
            self.acknowledge_at = Some(Instant::now() + ACKNOWLEDGE_AFTER);
        }
    }

    fn heard(&mut self, output: &[u8]) {
        self.spool.push(output);
        if let Some(lent) = &self.lent {
            lent.looks.printed();
        }
        self.shared.position.store(self.spool.end(), Ordering::Release);
        // Without a viewer there is no terminal that would answer a program's questions but the model.
        if self.viewers.is_empty() {
            self.screen.catch_up(&self.spool);
            self.pending.extend(self.screen.answers().as_bytes());
        } else if self.spool.end() - self.screen.position() >= MOST_LAG {
            self.screen.catch_up(&self.spool);
            // The viewers' terminals have answered.
            let _ = self.screen.answers();
        }
    }

    fn resize(&mut self, size: Size) {
        let size = sensible(size);
        self.screen.catch_up(&self.spool);
        self.screen.resize(size);
        // Fails only when the terminal is gone.
        let _ = self.pty.resize(size);
    }

    fn ended(&mut self, status: Option<ExitStatus>) {
        let mut last_words = Vec::new();
        while self.pty.halves().0.read_now(&mut last_words, READ_BYTES) {
            self.heard(&last_words);
            last_words.clear();
        }
        let status = status.unwrap_or_default();
        // What still holds the terminal open was left in the background; nobody sees it any more.
        (self.exit, self.silent) = (Some(status), true);
        self.passed_on(self.pending.len());
        *self.shared.end.lock().expect("nothing panics while it holds the end") = Some(self.end(status));
        // Whoever lent the conversation goes on with it now.
        self.lent = None;
        self.shared.running.store(false, Ordering::Release);
        self.give_up_at = Some(Instant::now() + LINGER);
    }

    fn forget(&mut self, gone: impl Fn(&Viewer) -> bool) {
        self.viewers.retain(|viewer| !gone(viewer));
        self.count_viewers();
        if self.viewers.is_empty() {
            // Nothing is behind any more, and questions from now on are the model's to answer.
            self.screen.catch_up(&self.spool);
            let _ = self.screen.answers();
            if self.needs_viewers && self.exit.is_none() {
                self.give_up_at = Some(Instant::now() + ALONE);
            }
        }
    }

    /// Something is due. `true`: it is over.
    fn alarm(&mut self) -> bool {
        let now = Instant::now();
        if self.acknowledge_at.is_some_and(|at| at <= now) {
            self.acknowledge_at = None;
            for viewer in self.viewers.iter_mut().filter(|viewer| viewer.input.due().0) {
                let Some(permit) = self.port.permit() else {
                    self.acknowledge_at = Some(now + ACKNOWLEDGE_AFTER);
                    break;
                };
                permit.send(viewer.input.acknowledge());
            }
        }
        self.give_up_at.is_some_and(|at| at <= now)
    }

    fn end(&self, status: ExitStatus) -> End {
        if self.recalled {
            return failed(face::IN_USE, "the conversation was taken over by a message; attach again to have it back");
        }
        how(status)
    }

    /// Sends everybody what there is for them. `true`: the link takes no more at the moment.
    fn serve_viewers(&mut self) -> bool {
        let over = self.exit.map(|status| self.end(status));
        let mut stuck = false;
        let mut done = Vec::new();
        for viewer in &mut self.viewers {
            match viewer.serve(&self.spool, &mut self.screen, &self.port, over.as_ref()) {
                Served::All => {}
                Served::Stuck => stuck = true,
                Served::Over => done.push(viewer.out.channel()),
            }
        }
        if !done.is_empty() {
            self.forget(|viewer| done.contains(&viewer.out.channel()));
        }
        stuck
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.shared.running.store(false, Ordering::Release);
    }
}

/// Waits until the conversation is wanted back, if it is lent. Safe to drop between polls.
async fn wanted_back(lent: &mut Option<Lent>) {
    if let Some(recalled) = lent.as_mut().and_then(|lent| lent.recalled.as_mut()) {
        let wanted = recalled.await.is_ok();
        if let Some(lent) = lent {
            lent.recalled = None;
        }
        if wanted {
            return;
        }
    }
    // A lender that is gone wants nothing back.
    std::future::pending().await
}

enum Served {
    All,
    Stuck,
    Over,
}

impl Viewer {
    /// Gets a picture of the screen instead of what it missed.
    fn draw(&mut self, screen: &Screen, history: bool) {
        self.redraw = false;
        self.position = screen.position();
        self.picture = Bytes::from(screen.repaint(history));
        self.unsaid.push_back(FromChannel::Repaint {
            channel: self.out.channel(),
            position: self.position,
            bytes: self.picture.len() as u64,
        });
    }

    fn serve(&mut self, spool: &Spool, screen: &mut Screen, port: &Port, over: Option<&End>) -> Served {
        if self.input.due().1 {
            let Some(permit) = port.permit() else { return Served::Stuck };
            permit.send(self.input.acknowledge());
        }
        loop {
            while let Some(message) = self.unsaid.front() {
                let ended = matches!(message, FromChannel::Ended { .. });
                match port.offer(Frame::Message(FromGuest::Channel(message.clone()))) {
                    Offer::Taken if ended => return Served::Over,
                    Offer::Taken => drop(self.unsaid.pop_front()),
                    Offer::NoRoom => return Served::Stuck,
                    Offer::Nobody => return Served::Over,
                }
            }
            let behind = self.position < spool.start();
            let waiting = self.redraw && self.position == spool.end();
            if self.picture.is_empty() && (behind || waiting) {
                // A picture is of the moment in which it can be sent.
                if self.out.room() == 0 {
                    return Served::All;
                }
                screen.catch_up(spool);
                self.draw(screen, false);
                continue;
            }
            if self.picture.is_empty() && self.position == spool.end() {
                let Some(end) = over else { return Served::All };
                self.unsaid.push_back(FromChannel::Ended { channel: self.out.channel(), end: end.clone() });
                continue;
            }
            let room = self.out.room();
            if room == 0 {
                return Served::All;
            }
            let Some(permit) = port.permit() else { return Served::Stuck };
            let bytes = if self.picture.is_empty() {
                let bytes = spool.after(self.position, room);
                self.position += bytes.len() as u64;
                bytes
            } else {
                self.picture.split_to(room.min(self.picture.len()))
            };
            permit.send(self.out.frame(0, bytes));
        }
    }
}

pub(super) fn how(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited { code },
        (None, Some(signal)) => End::Signalled { signal },
        (None, None) => ended(),
    }
}
