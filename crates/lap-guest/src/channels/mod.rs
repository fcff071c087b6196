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

use lap_api::channel::{End, FromChannel, Program, Purpose, Size, ToChannel, WINDOW_FRAMES};
use lap_api::link::FromGuest;
use lap_link::{Data, Frame};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;

use crate::harness::Setting;
use terminal::{Shared, Started, Terminal, ToTerminal, USUAL_SIZE, View};

/// Orders that wait for a terminal or command: all that may be under way on one channel, and room for a few viewers more.
/// When it is full the channel that overflowed it ends.
const ORDERS: usize = 8 * WINDOW_FRAMES;

/// Terminals, commands and file transfers that may be under way at a time; more are refused.
const MOST_TASKS: usize = 128;

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
        Self { port, setting: None, routes: HashMap::new(), terminals: Vec::new(), tasks: JoinSet::new() }
    }

    /// The sandbox comes up: what is started from now on has this environment.
    pub(crate) fn set_up(&mut self, setting: Arc<Setting>) {
        self.setting = Some(setting);
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
                return self.view(&setting, program, view);
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
    fn view(&mut self, setting: &Setting, program: Program, view: View) -> Result<(), End> {
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
        let size = screen::sensible(view.size.unwrap_or(USUAL_SIZE));
        let needs_viewers = matches!(program, Program::Command { .. });
        let started = Started { program: start(setting, &program, size)?, size, needs_viewers };
        let (to, orders) = mpsc::channel(ORDERS);
        let shared =
            Arc::new(Shared { running: AtomicBool::new(true), position: AtomicU64::new(first), end: Mutex::new(None) });
        let terminal = Terminal::new(started, self.port.clone(), orders, shared.clone());
        self.tasks.spawn(terminal.run());
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

/// Starts a terminal's program.
fn start(setting: &Setting, program: &Program, size: Size) -> Result<(pty::Pty, pty::Running), End> {
    let shell = || setting.env.get("SHELL").cloned().unwrap_or_else(|| "/bin/sh".to_owned());
    let command = match program {
        Program::Harness => match &setting.boot.harness.tui {
            Some(tui) if tui.joins && !tui.args.iter().any(|argument| argument.contains('{')) => {
                let own = setting.boot.harness.command.first().cloned().unwrap_or_else(shell);
                std::iter::once(own).chain(tui.args.iter().cloned()).collect()
            }
            _ => {
                let reason = format!("{} has no terminal of its own", setting.boot.harness.id);
                return Err(failed("no_terminal", reason));
            }
        },
        Program::Shell => vec![shell(), "-l".to_owned()],
        Program::Command { command, .. } => command.clone(),
    };
    pty::spawn(&command, &setting.layout.repo(), &setting.env, size).map_err(|problem| {
        let name = command.first().map_or("", String::as_str);
        failed("not_started", format!("`{name}` could not be started: {problem}"))
    })
}

#[cfg(test)]
mod tests;
