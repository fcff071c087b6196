//! Channels: what the server asks of the sandbox beside turns. Terminals, commands, files.
//!
//! Every channel has a task that serves it; a terminal's task serves all its viewers. The link's reader only hands on, and
//! never waits for any of them.

mod exec;
mod files;
mod modes;
mod outlet;
mod pty;
mod screen;
mod spool;
mod terminal;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lap_api::channel::{End, FromChannel, Program, Purpose, Size, ToChannel, WINDOW_FRAMES};
use lap_api::link::FromGuest;
use lap_link::{Data, Frame};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;

use crate::harness::face::{TerminalAsk, TerminalStart};
use crate::harness::{Order, Setting};
use terminal::{Shared, Started, Terminal, ToTerminal, USUAL_SIZE, View};

/// Orders that wait for a terminal or command: all that may be under way on one channel, and room for a few viewers more.
/// When it is full the channel that overflowed it ends.
const ORDERS: usize = 8 * WINDOW_FRAMES;

/// Terminals, commands and file transfers that may be under way at a time; more are refused.
const MOST_TASKS: usize = 128;

/// How long the harness may take to hand its conversation over; shorter than the server waits.
const HARNESS_DEADLINE: Duration = Duration::from_secs(10);

/// The way to the link. Bounded: whoever finds it full tries again when there is room.
#[derive(Clone)]
pub(crate) struct Port {
    to: mpsc::Sender<Frame<FromGuest>>,
}

impl Port {
    pub(crate) fn new(to: mpsc::Sender<Frame<FromGuest>>) -> Self {
        Self { to }
    }

    /// Sends if there is room.
    fn offer(&self, frame: Frame<FromGuest>) -> Offer {
        match self.to.try_send(frame) {
            Ok(()) => Offer::Taken,
            Err(TrySendError::Full(_)) => Offer::NoRoom,
            Err(TrySendError::Closed(_)) => Offer::Nobody,
        }
    }

    fn permit(&self) -> Option<mpsc::Permit<'_, Frame<FromGuest>>> {
        self.to.try_reserve().ok()
    }

    /// Waits until there is room, or nobody to send to.
    async fn room(&self) {
        let _ = self.to.reserve().await;
    }

    /// Waits for room and sends. After the link's end it says it to nobody.
    async fn send(&self, frame: Frame<FromGuest>) {
        let _ = self.to.send(frame).await;
    }

    async fn say(&self, message: FromChannel) {
        self.send(Frame::Message(FromGuest::Channel(message))).await;
    }
}

/// What became of something that was to be sent at once.
#[derive(PartialEq, Eq)]
enum Offer {
    Taken,
    NoRoom,
    /// The link has ended.
    Nobody,
}

/// A good end.
fn ended() -> End {
    End::Exited { code: 0 }
}

fn failed(code: &str, reason: impl Into<String>) -> End {
    End::Failed { code: code.to_owned(), reason: reason.into() }
}

/// All channels of the sandbox.
pub(crate) struct Channels {
    port: Port,
    /// What is known of the sandbox; none before it was told to come up.
    setting: Option<Arc<Setting>>,
    /// To the harness, which knows how its terminal is started.
    harness: Option<mpsc::Sender<Order>>,
    /// Where each channel's messages go.
    routes: HashMap<u64, mpsc::Sender<ToTerminal>>,
    terminals: Vec<Known>,
    tasks: JoinSet<()>,
}

/// A terminal that was started.
struct Known {
    program: Program,
    to: mpsc::Sender<ToTerminal>,
    shared: Arc<Shared>,
}

impl Channels {
    pub(crate) fn new(port: Port) -> Self {
        Self {
            port,
            setting: None,
            harness: None,
            routes: HashMap::new(),
            terminals: Vec::new(),
            tasks: JoinSet::new(),
        }
    }

    /// The sandbox comes up: what is started from now on has this environment.
    pub(crate) fn set_up(&mut self, setting: Arc<Setting>, harness: mpsc::Sender<Order>) {
        self.setting = Some(setting);
        self.harness = Some(harness);
    }

    /// Ends every task and with it every program.
    pub(crate) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }

    /// Bytes for a channel.
    pub(crate) fn data(&mut self, data: Data) {
        let channel = data.channel;
        self.hand_on(channel, ToTerminal::Data(data));
    }

    /// A message about a channel.
    pub(crate) fn take(&mut self, message: ToChannel) {
        while self.tasks.try_join_next().is_some() {}
        match message {
            ToChannel::Open { channel, purpose } => {
                self.routes.retain(|_, to| !to.is_closed());
                if let Err(end) = self.open(channel, purpose) {
                    self.refuse(channel, end);
                }
            }
            ToChannel::Ack { channel, .. } | ToChannel::Resize { channel, .. } | ToChannel::Eof { channel } => {
                self.hand_on(channel, ToTerminal::Message(message));
            }
            ToChannel::Close { channel } => {
                self.hand_on(channel, ToTerminal::Message(message));
                self.routes.remove(&channel);
            }
            ToChannel::CloseAll => {
                let channels: Vec<u64> = self.routes.keys().copied().collect();
                for channel in channels {
                    self.take(ToChannel::Close { channel });
                }
            }
        }
    }

    fn open(&mut self, channel: u64, purpose: Purpose) -> Result<(), End> {
        let setting = self.setting.clone().ok_or_else(|| failed("not_ready", "the sandbox is still being set up"))?;
        match purpose {
            Purpose::Terminal { program, from, redraw, client, view_only, size } => {
                let view = View { channel, from, redraw, client, view_only, size };
                return self.view(setting, program, view);
            }
            _ if self.tasks.len() >= MOST_TASKS => return Err(too_many()),
            _ => {}
        }
        let (to, orders) = mpsc::channel(ORDERS);
        self.routes.insert(channel, to);
        let port = self.port.clone();
        match purpose {
            Purpose::Exec { command } => self.tasks.spawn(exec::run(channel, command, setting, orders, port)),
            Purpose::ReadFile { path } => self.tasks.spawn(files::read(channel, path, setting, orders, port)),
            Purpose::WriteFile { path } => self.tasks.spawn(files::write(channel, path, setting, orders, port)),
            Purpose::ListFiles { path } => self.tasks.spawn(files::list(channel, path, setting, orders, port)),
            Purpose::Terminal { .. } => return Ok(()),
        };
        Ok(())
    }

    /// Adds a viewer to a terminal, which is started if it does not run.
    fn view(&mut self, setting: Arc<Setting>, program: Program, view: View) -> Result<(), End> {
        let at = self.terminals.iter().position(|known| known.program == program);
        let mut first = 0;
        if let Some(at) = at {
            let known = &self.terminals[at];
            if known.shared.running.load(Ordering::Acquire) {
                let (channel, to) = (view.channel, known.to.clone());
                self.routes.insert(channel, to);
                self.hand_on(channel, ToTerminal::View(view));
                return Ok(());
            }
            // Who comes back to it is told how it ended, and is not given another program instead.
            if view.from.is_some() {
                let end = known.shared.end.lock().expect("nothing panics while it holds the end").clone();
                return Err(end.unwrap_or_else(|| failed("ended", "the program has ended")));
            }
            // No position ever means two things.
            first = known.shared.position.load(Ordering::Acquire) + 1;
            self.terminals.remove(at);
        } else if view.from.is_some() {
            return Err(failed("ended", "the program does not run any more"));
        }
        if self.tasks.len() >= MOST_TASKS {
            return Err(too_many());
        }
        let (to, orders) = mpsc::channel(ORDERS);
        let shared =
            Arc::new(Shared { running: AtomicBool::new(true), position: AtomicU64::new(first), end: Mutex::new(None) });
        let wanted = Wanted {
            program: program.clone(),
            size: screen::sensible(view.size.unwrap_or(USUAL_SIZE)),
            setting,
            harness: self.harness.clone(),
        };
        self.tasks.spawn(serve(wanted, self.port.clone(), orders, shared.clone()));
        // Commands that ended are remembered as long as there is room, for clients that come back.
        self.terminals.retain(|known| known.shared.running.load(Ordering::Acquire) || !known.is_command());
        self.terminals.push(Known { program, to: to.clone(), shared });
        self.routes.insert(view.channel, to);
        self.hand_on(view.channel, ToTerminal::View(view));
        Ok(())
    }

    fn hand_on(&mut self, channel: u64, message: ToTerminal) {
        let Some(to) = self.routes.get(&channel) else { return };
        match to.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => drop(self.routes.remove(&channel)),
            Err(TrySendError::Full(_)) => {
                // Whatever follows is not in order any more and is refused again.
                self.refuse(channel, failed("overflow", "more was sent than could be taken"));
            }
        }
    }

    fn refuse(&mut self, channel: u64, end: End) {
        let port = self.port.clone();
        self.tasks.spawn(async move { port.say(FromChannel::Ended { channel, end }).await });
    }
}

impl Known {
    fn is_command(&self) -> bool {
        matches!(self.program, Program::Command { .. })
    }
}

fn too_many() -> End {
    failed("too_many", format!("{MOST_TASKS} terminals and commands run in this sandbox already"))
}

/// A program that somebody wants to see.
struct Wanted {
    program: Program,
    size: Size,
    setting: Arc<Setting>,
    harness: Option<mpsc::Sender<Order>>,
}

/// Starts a program and serves its terminal. Viewers wait meanwhile, and are told when it does not start.
async fn serve(wanted: Wanted, port: Port, mut orders: mpsc::Receiver<ToTerminal>, shared: Arc<Shared>) {
    match wanted.start().await {
        Ok(started) => Terminal::new(started, port, orders, shared).run().await,
        Err(end) => {
            shared.running.store(false, Ordering::Release);
            orders.close();
            while let Some(order) = orders.recv().await {
                if let ToTerminal::View(View { channel, .. }) = order {
                    port.say(FromChannel::Ended { channel, end: end.clone() }).await;
                }
            }
        }
    }
}

impl Wanted {
    async fn start(self) -> Result<Started, End> {
        let Self { program, size, setting, harness } = self;
        let needs_viewers = matches!(program, Program::Command { .. });
        let shell = || setting.env.get("SHELL").cloned().unwrap_or_else(|| "/bin/sh".to_owned());
        let TerminalStart { command, env, lent } = match program {
            Program::Harness => ask(harness).await?,
            Program::Shell => {
                let command = vec![shell(), "-l".to_owned()];
                TerminalStart { command, env: setting.env.clone(), lent: None }
            }
            Program::Command { command, .. } => TerminalStart { command, env: setting.env.clone(), lent: None },
        };
        let program = pty::spawn(&command, &setting.layout.repo(), &env, size).map_err(|problem| {
            let name = command.first().map_or("", String::as_str);
            failed("not_started", format!("`{name}` could not be started: {problem}"))
        })?;
        Ok(Started { program, size, needs_viewers, lent })
    }
}

/// Asks the harness for its terminal.
async fn ask(harness: Option<mpsc::Sender<Order>>) -> Result<TerminalStart, End> {
    let busy = || failed("not_ready", "the harness does not answer at the moment; try again");
    let (ask, answer) = TerminalAsk::new();
    let harness = harness.ok_or_else(busy)?;
    harness.try_send(Order::Terminal(ask)).map_err(|_| busy())?;
    match tokio::time::timeout(HARNESS_DEADLINE, answer).await {
        Ok(Ok(Ok(start))) => Ok(start),
        Ok(Ok(Err(failure))) => Err(failed(failure.code, failure.reason)),
        Ok(Err(_)) | Err(_) => Err(busy()),
    }
}

#[cfg(test)]
mod tests;
