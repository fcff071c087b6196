//! The chat in a real terminal: a pseudo-terminal with the client as its session leader, and a mock server.

#![allow(clippy::unwrap_used)]

#[path = "../../lap-client/tests/support/mod.rs"]
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use lap_cli::{Cli, Context, Environment, Io};
use lap_client::{ApiKey, Client, ClientConfig, server_url};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;
use support::{KEY, Mock};

/// Far more than anything here takes; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Set for the process in the terminal: the server's address, and arguments separated by line feeds.
const ROLE: (&str, &str) = ("LAP_TEST_SERVER", "LAP_TEST_ARGUMENTS");

/// Not a test of its own: the others run it in a terminal, where it is `lap`.
#[test]
fn as_lap() {
    let (Ok(server), Ok(arguments)) = (std::env::var(ROLE.0), std::env::var(ROLE.1)) else { return };
    let cli = Cli::parse_from(["lap"].into_iter().chain(arguments.lines()));
    let environment = Environment {
        server: Some(server),
        api_key: Some(ApiKey::new(KEY)),
        lap_home: Some(PathBuf::from(std::env::var("LAP_TEST_HOME").unwrap())),
        ..Environment::empty()
    };
    let context = Context { environment, io: Io::process(false), now: jiff::Timestamp::now(), program: Cli::command };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let exit = runtime.block_on(lap_cli::execute(cli.command.map(Into::into), cli.options, context));
    std::process::exit(i32::from(exit.code()));
}

/// What the terminal shows, as it comes.
#[derive(Default)]
struct Screen {
    text: Mutex<(String, bool)>,
    changed: Condvar,
}

struct Terminal {
    child: Child,
    keyboard: File,
    /// Kept open, so that the terminal's state can be looked at after the program is gone.
    terminal: OwnedFd,
    screen: Arc<Screen>,
    seen: usize,
    home: tempfile::TempDir,
}

impl Terminal {
    fn run(mock: &Mock, arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let terminal: OwnedFd =
            rustix::fs::open(path, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY, rustix::fs::Mode::empty())
                .unwrap();
        tcsetwinsize(&terminal, Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let home = tempfile::tempdir().unwrap();
        let side = || Stdio::from(terminal.try_clone().unwrap());
        let child = Command::new("setsid")
            .arg("--ctty")
            .arg(std::env::current_exe().unwrap())
            .args(["as_lap", "--exact", "--nocapture", "--quiet"])
            .env(ROLE.0, &mock.url)
            .env(ROLE.1, arguments.join("\n"))
            .env("LAP_TEST_HOME", home.path())
            .env("TERM", "xterm")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        let screen = Arc::new(Screen::default());
        let mut reader = File::from(master.try_clone().unwrap());
        let shared = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let n = reader.read(&mut bytes).unwrap_or(0);
                let mut text = shared.text.lock().unwrap();
                text.0 += &String::from_utf8_lossy(&bytes[..n]);
                text.1 = n == 0;
                shared.changed.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        Self { child, keyboard: File::from(master), terminal, screen, seen: 0, home }
    }

    /// Waits until the text shows after what was waited for before.
    #[track_caller]
    fn shows(&mut self, text: &str) -> &mut Self {
        let mut screen = self.screen.text.lock().unwrap();
        loop {
            if let Some(at) = screen.0[self.seen..].find(text) {
                self.seen += at + text.len();
                drop(screen);
                return self;
            }
            let (held, waited) = self.screen.changed.wait_timeout(screen, DEADLINE).unwrap();
            if waited.timed_out() || held.1 {
                let shown = held.0[self.seen..].to_owned();
                drop(held);
                panic!("`{text}` does not show after: {shown:?}");
            }
            screen = held;
        }
    }

    fn keys(&mut self, keys: &str) -> &mut Self {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self
    }

    /// Waits for the end; the terminal must be as it was.
    #[track_caller]
    fn ends_with(&mut self, code: i32) {
        assert_eq!(self.child.wait().unwrap().code(), Some(code));
        let modes = tcgetattr(self.terminal.as_fd()).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{modes:?}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn mock_with_agent() -> Mock {
    let mock = Mock::start().await;
    mock.add_agent("backend");
    mock
}

fn sent(mock: &Mock) -> Vec<String> {
    let texts = |data: &mut support::Data| {
        data.bodies.iter().filter_map(|(_, body)| Some(body.get("text")?.as_str()?.to_owned())).collect()
    };
    mock.with(texts)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation() {
    let mock = mock_with_agent().await;
    let mut terminal = Terminal::run(&mock, &["backend"]);
    terminal.shows("ready after").shows("> ");
    terminal.keys("hello\r").shows("* bash: cargo test").shows("You said: hello").shows("tokens in").shows("> ");
    // Lines are joined by a backslash and by pasting.
    terminal.keys("one\\\rtwo\r").shows("You said: one").shows("two").shows("> ");
    terminal.keys("\x1b[200~three\nfour\x1b[201~\r").shows("You said: three").shows("four").shows("> ");
    // Ctrl-C stops the turn, at the prompt it clears the line.
    terminal.keys("wait\r").shows("wait");
    mock.until(|data| data.logs.values().any(|log| log.last().unwrap()["type"] == "turn.started")).await;
    terminal.keys("\x03").shows("the turn was stopped").shows("> ");
    terminal.keys("never sent\x03").shows("> ").keys("sent\r").shows("You said: sent").shows("> ");
    // A question of the agent is answered in place.
    terminal.keys("ask\r").shows("asks for permission: rm -r build").shows("[n]o: ");
    terminal.keys("maybe\r").shows("Answer y, a or n").shows("[n]o: ");
    terminal.keys("y\r").shows("permission: allow").shows("You decided: allow").shows("> ");
    terminal.keys("fail\r").shows("! the turn failed: the model is not there").shows("> ");
    terminal.keys("/help\r").shows("Ctrl-D").shows("> ").keys("/nonsense\r").shows("no command /nonsense").shows("> ");
    terminal.keys("\x04").shows("Left; the session goes on");
    terminal.ends_with(0);
    assert_eq!(sent(&mock), ["hello", "one\ntwo", "three\nfour", "wait", "sent", "ask", "fail"]);
    let history = terminal.home.path().join("history");
    assert_eq!(std::fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&history).unwrap().contains("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_running_turn_and_coming_back() {
    let mock = mock_with_agent().await;
    let mut terminal = Terminal::run(&mock, &["backend"]);
    terminal.shows("> ").keys("wait\r").shows("wait");
    mock.until(|data| data.logs.values().any(|log| log.last().unwrap()["type"] == "turn.started")).await;
    // Typed ahead, then left: nothing of it reaches the shell as a command.
    terminal.keys("typed ahead").keys("\x04").shows("Left; the session goes on");
    terminal.ends_with(0);
    assert_eq!(sent(&mock), ["wait"]);

    let mut terminal = Terminal::run(&mock, &["backend"]);
    terminal.shows("Going on with the live session").shows("> wait").shows("Attached to");
    // What is typed while the turn runs stands at the prompt after it.
    terminal.keys("next");
    let (session, turn) = mock.with(|data| {
        let event = data.logs.values().flatten().last().unwrap();
        (event["session_id"].as_str().unwrap().to_owned(), event["data"]["turn_id"].clone())
    });
    mock.push(&session, "turn.failed", json!({ "turn_id": turn, "code": "aborted", "error": "aborted" }));
    terminal.shows("the turn was stopped");
    terminal.shows("> ").shows("next").keys("\r").shows("You said: next").shows("> ").keys("/quit\r");
    terminal.ends_with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_are_quiet_and_lose_nothing() {
    let mock = mock_with_agent().await;
    // The stream breaks in the middle of the first turn, twice.
    mock.with(|data| data.cuts = vec![8, usize::MAX, 2]);
    let mut terminal = Terminal::run(&mock, &["backend"]);
    terminal.shows("> ").keys("hello\r").shows("[connection lost, reconnecting …]").shows("[connected again]");
    terminal.shows("tokens in").shows("> ").keys("\x04");
    terminal.ends_with(0);
    // The answer may be interrupted by what is said about the connection, but it is there once.
    let mut screen = terminal.screen.text.lock().unwrap().0.clone();
    for aside in ["[connection lost, reconnecting …]", "[connected again]", "\r\n"] {
        screen = screen.replace(aside, "");
    }
    assert_eq!(screen.matches("You said: hello").count(), 1, "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_shows_above_the_line() {
    let mock = mock_with_agent().await;
    let mut terminal = Terminal::run(&mock, &["backend"]);
    terminal.shows("> ").keys("half a li").shows("half a li");
    let session = mock.with(|data| data.sessions[0]["id"].as_str().unwrap().to_owned());
    let config =
        ClientConfig { server: server_url(&mock.url).unwrap(), key: Some(ApiKey::new(KEY)), extra_ca_pem: None };
    let message = lap_api::message::SendMessage { text: Some("from elsewhere".into()), ..Default::default() };
    Client::new(config).unwrap().message_stream(&session, &message).await.unwrap();
    terminal.shows("> from elsewhere").shows("You said: from elsewhere").shows("half a li");
    terminal.keys("ne\r").shows("You said: half a line").shows("> ");
    mock.push(&session, "session.state", json!({ "status": "dead", "end_reason": "idle" }));
    terminal.shows("the session has ended (idle)");
    terminal.ends_with(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_puts_the_terminal_back() {
    let mock = mock_with_agent().await;
    let mut terminal = Terminal::run(&mock, &["backend"]);
    terminal.shows("> ").keys("some").shows("some");
    let pid = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    terminal.shows("Left; the session goes on");
    terminal.ends_with(130);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_typed_unseen() {
    let mock = Mock::start().await;
    let mut terminal = Terminal::run(&mock, &["login"]);
    terminal.shows("API key (not shown): ").keys("half\x03").shows("\r\n");
    terminal.ends_with(130);
    let mut terminal = Terminal::run(&mock, &["login"]);
    terminal.shows("API key (not shown): ").keys(&format!("wrong\x15{KEY}x\x7f\r")).shows("Logged in");
    terminal.ends_with(0);
    assert!(!terminal.screen.text.lock().unwrap().0.contains(KEY));
}
