//! The terminal of whoever typed `lap`: taken over, and given back in every case: at the end, on an error, on a signal, on a
//! panic.

use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use lap_api::tty::WindowSize;
use rustix::stdio;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::modes::Modes;

/// Reads of the keyboard that wait. When full, the keyboard is not read.
const READS: usize = 64;

/// Output that waits for the terminal. When full, no more is taken from the connection.
const WRITES: usize = 64;

/// The last output gets this long when the terminal takes none, as after Ctrl-S.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the terminal's settings were, as long as they are others.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// What happens at a terminal.
pub(super) enum Here {
    /// A read of the keyboard; none when there is no keyboard any more.
    Typed(Option<Vec<u8>>),
    /// The window's size, if there is one.
    Resized(Option<WindowSize>),
}

/// The terminal while it is ours.
pub(super) struct Local {
    keyboard: mpsc::Receiver<Vec<u8>>,
    screen: Option<mpsc::Sender<Vec<u8>>>,
    written: Option<oneshot::Receiver<()>>,
    window: Signal,
    modes: Modes,
    /// A line of ours stands on the bottom of the screen.
    noted: bool,
}

impl Local {
    /// Takes the terminal over: keys come one by one and are not shown, and the window has this title.
    pub(super) fn take(title: &str) -> io::Result<Self> {
        let window = signal(SignalKind::window_change())?;
        let before = tcgetattr(stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        give_back_on_panic();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(stdio::stdin(), OptionalActions::Now, &raw)?;
        let (typed, keyboard) = mpsc::channel(READS);
        // Ends with the process: a read of the keyboard cannot be called off.
        std::thread::spawn(move || read_keyboard(&typed));
        let (screen, mut output) = mpsc::channel::<Vec<u8>>(WRITES);
        let (done, written) = oneshot::channel();
        std::thread::spawn(move || {
            while let Some(bytes) = output.blocking_recv() {
                if write(&bytes).is_err() {
                    break;
                }
            }
            // Nobody may wait for it any more.
            let _ = done.send(());
        });
        let title: String = title.chars().filter(|c| !c.is_control()).collect();
        let local = Self {
            keyboard,
            screen: Some(screen),
            written: Some(written),
            window,
            modes: Modes::default(),
            noted: false,
        };
        write(format!("\x1b[22;0t\x1b]2;{title}\x1b\\").as_bytes())?;
        Ok(local)
    }

    /// What happens here next; the keyboard only where it is asked for. Safe to drop between polls.
    pub(super) async fn next(&mut self, keyboard: bool) -> Here {
        tokio::select! {
            typed = self.keyboard.recv(), if keyboard => Here::Typed(typed),
            _ = self.window.recv() => Here::Resized(size()),
        }
    }

    /// Shows what the program printed. `false`: the terminal is gone.
    pub(super) async fn show(&mut self, bytes: &[u8]) -> bool {
        self.modes.follow(bytes);
        self.say(bytes.to_vec()).await
    }

    /// Puts a line on the bottom of the screen, without moving anything else.
    pub(super) async fn note(&mut self, line: &str) {
        let Some(size) = size() else { return };
        let line: String = line.chars().take(usize::from(size.cols)).collect();
        self.noted = true;
        self.say(format!("\x1b7\x1b[{};1H\x1b[0;7m{line}\x1b[0m\x1b[K\x1b8", size.rows).into_bytes()).await;
    }

    /// Wipes the line away. Whether there was one, so that what it covered can be drawn again.
    pub(super) async fn wipe_note(&mut self) -> bool {
        if !std::mem::take(&mut self.noted) {
            return false;
        }
        let rows = size().map_or(1, |size| size.rows);
        self.say(format!("\x1b7\x1b[{rows};1H\x1b[0m\x1b[2K\x1b8").into_bytes()).await;
        true
    }

    /// Whether a line of ours covers something.
    pub(super) fn has_note(&self) -> bool {
        self.noted
    }

    async fn say(&self, bytes: Vec<u8>) -> bool {
        match &self.screen {
            Some(screen) => screen.send(bytes).await.is_ok(),
            None => false,
        }
    }

    /// Gives the terminal back after everything was shown.
    pub(super) async fn give_back(mut self) {
        self.wipe_note().await;
        self.screen = None;
        if let Some(written) = self.written.take() {
            let _ = tokio::time::timeout(LAST_WORDS, written).await;
        }
        // The rest is what dropping it does.
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = write(format!("{}\x1b[23;0t", self.modes.undo()).as_bytes());
        give_back();
    }
}

/// The window's size, where there is one.
pub(super) fn size() -> Option<WindowSize> {
    let size = tcgetwinsize(stdio::stdout()).or_else(|_| tcgetwinsize(stdio::stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(WindowSize { cols: size.ws_col, rows: size.ws_row })
}

fn read_keyboard(typed: &mpsc::Sender<Vec<u8>>) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        match rustix::io::read(stdio::stdin(), &mut bytes) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if typed.blocking_send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        }
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

fn give_back() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &before);
    }
}

/// A panic's message should be read on a terminal that works.
fn give_back_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = write(Modes::default().undo().as_bytes());
            give_back();
            before(panic);
        }));
    });
}
