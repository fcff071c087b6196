//! The keyboard while a turn runs, when no line is being edited: Ctrl-D leaves, what else is typed waits for the prompt.

use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// What was pressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// Ctrl-D, or the terminal went away.
    Leave,
    /// Text for the next prompt.
    Typed(String),
}

const CTRL_D: u8 = 4;

/// Chunks of typing that wait to be taken; full, the thread stops reading and the terminal keeps the rest.
const TYPED_AHEAD: usize = 16;

/// Reads keys without echo until dropped; then the terminal is as before. Ctrl-C stays a signal.
pub(super) struct Keys {
    keys: mpsc::Receiver<Key>,
    before: Option<Termios>,
    stop: Option<OwnedFd>,
    reader: Option<JoinHandle<()>>,
}

impl Keys {
    pub fn watch() -> Self {
        let (sender, keys) = mpsc::channel(TYPED_AHEAD);
        let before = tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut quiet = before.clone();
            quiet.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &quiet);
        }
        let mut watching = Self { keys, before, stop: None, reader: None };
        // Without a pipe to stop it by, the thread could swallow what is meant for the prompt: then rather no keys.
        if let Ok((stopped, stop)) = rustix::pipe::pipe() {
            watching.stop = Some(stop);
            watching.reader = Some(std::thread::spawn(move || read_keys(&stopped, &sender)));
        }
        watching
    }

    /// The next key. Cancelling the wait loses none.
    pub async fn next(&mut self) -> Key {
        match self.keys.recv().await {
            Some(key) => key,
            // The reader ended without a word: there is no keyboard to wait for.
            None => std::future::pending().await,
        }
    }
}

impl Keys {
    /// Ends the watch and returns what was typed and not taken yet. What is not even read stays with the terminal.
    pub fn finish(mut self) -> String {
        self.stop_reading();
        let mut rest = String::new();
        while let Ok(key) = self.keys.try_recv() {
            if let Key::Typed(text) = key {
                rest += &text;
            }
        }
        rest
    }

    fn stop_reading(&mut self) {
        // Closed first: a reader that waits for room in the channel would never look at its pipe.
        self.keys.close();
        drop(self.stop.take());
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stop_reading();
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn read_keys(stopped: &OwnedFd, sender: &mpsc::Sender<Key>) {
    let stdin = std::io::stdin();
    loop {
        let mut ready = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if !ready[1].revents().is_empty() {
            return;
        }
        let mut bytes = [0; 256];
        let key = match rustix::io::read(&stdin, &mut bytes) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) | Ok(0) => Key::Leave,
            Ok(n) if bytes[..n].contains(&CTRL_D) => Key::Leave,
            Ok(n) => match typed(&bytes[..n]) {
                Some(text) => Key::Typed(text),
                None => continue,
            },
        };
        let over = key == Key::Leave;
        if sender.blocking_send(key).is_err() || over {
            return;
        }
    }
}

/// Typing as text for a prompt: Enter becomes a space, arrow keys and other sequences are dropped.
fn typed(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\u{1b}'))?;
    let text: String = text.chars().map(|c| if c == '\n' { ' ' } else { c }).filter(|c| !c.is_control()).collect();
    Some(text).filter(|text| !text.is_empty())
}

/// Puts the terminal back as it was found, however the chat ends.
pub(super) struct TerminalGuard {
    before: Option<Termios>,
}

impl TerminalGuard {
    pub fn new() -> Self {
        Self { before: tcgetattr(std::io::stdin()).ok() }
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        let Some(before) = &self.before else { return };
        // There is nothing better to do when the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        // The line editor may have been left in the middle of a line: cursor shown, pastes not marked any more.
        let _ = rustix::io::write(std::io::stdout(), b"\x1b[?25h\x1b[?2004l");
    }
}
