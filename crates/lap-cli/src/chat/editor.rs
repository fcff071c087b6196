//! The line being typed: editing, history, several lines. Lives on a thread of its own, since reading a terminal blocks.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, ExternalPrinter, Helper};
use tokio::sync::mpsc;

use crate::failure::{Exit, Failure};

/// What the person did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// Enter; lines that ended with a backslash are one text.
    Text(String),
    /// Ctrl-C.
    Cleared,
    /// Ctrl-D on an empty line.
    End,
    /// The terminal cannot be read.
    Broken(String),
}

struct Request {
    prompt: String,
    initial: String,
    remember: bool,
}

/// Reads lines on request. Dropping it leaves a thread behind that blocks in a read for as long as the process lives; the
/// terminal itself is put back by [`super::keys::TerminalGuard`].
pub(super) struct Editor {
    requests: blocking::Sender<Request>,
    lines: mpsc::Receiver<Line>,
    printer: Box<dyn ExternalPrinter + Send>,
}

impl Editor {
    /// Begins with the history of earlier chats, where there is a folder for it.
    pub fn start(lap_home: Option<&Path>) -> Result<Self, Failure> {
        let broken = |e: ReadlineError| Failure::new(Exit::Failure, format!("could not use the terminal: {e}"));
        let config = Config::builder().max_history_size(1000).map_err(broken)?.auto_add_history(false).build();
        let mut editor = rustyline::Editor::<Words, FileHistory>::with_config(config).map_err(broken)?;
        editor.set_helper(Some(Words));
        let history = lap_home.and_then(private_history);
        if let Some(path) = &history {
            // An unreadable history costs the arrow keys, not the chat.
            let _ = editor.load_history(path);
        }
        let printer = Box::new(editor.create_external_printer().map_err(broken)?);
        let (requests, asked) = blocking::channel();
        // One answer per request and one request at a time: the channel never fills.
        let (answers, lines) = mpsc::channel(1);
        std::thread::spawn(move || read_lines(editor, history, &asked, &answers));
        Ok(Self { requests, lines, printer })
    }

    /// Shows a prompt; [`Editor::line`] then gives what is typed. `remember`: put it into the history.
    pub fn ask(&mut self, prompt: &str, initial: String, remember: bool) {
        let request = Request { prompt: prompt.to_owned(), initial, remember };
        // A thread that is gone shows in `line`.
        let _ = self.requests.send(request);
    }

    /// The line asked for. Cancelling the wait loses nothing.
    pub async fn line(&mut self) -> Line {
        self.lines.recv().await.unwrap_or_else(|| Line::Broken("the line editor ended".to_owned()))
    }

    /// Writes whole lines above the one being typed.
    pub fn print(&mut self, text: String) {
        // Where this fails the terminal is gone, which the editor itself will tell.
        let _ = self.printer.print(text);
    }
}

fn read_lines(
    mut editor: rustyline::Editor<Words, FileHistory>,
    history: Option<PathBuf>,
    requests: &blocking::Receiver<Request>,
    answers: &mpsc::Sender<Line>,
) {
    while let Ok(Request { prompt, initial, remember }) = requests.recv() {
        let line = match editor.readline_with_initial(prompt.as_str(), (&initial, "")) {
            Ok(text) => {
                if remember
                    && !text.trim().is_empty()
                    && editor.add_history_entry(&text).is_ok_and(|added| added)
                    && let Some(path) = &history
                {
                    let _ = editor.append_history(path);
                }
                Line::Text(joined(&text))
            }
            Err(ReadlineError::Interrupted) => Line::Cleared,
            Err(ReadlineError::Eof) => Line::End,
            Err(e) => Line::Broken(e.to_string()),
        };
        if answers.blocking_send(line).is_err() {
            return;
        }
    }
}

/// The history file, readable for its owner alone before the first line gets into it.
fn private_history(lap_home: &Path) -> Option<PathBuf> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(lap_home).ok()?;
    let path = lap_home.join("history");
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).ok()?;
    Some(path)
}

/// Takes the backslashes off that joined lines.
fn joined(text: &str) -> String {
    text.replace("\\\n", "\n")
}

/// Knows when a message is not finished yet.
struct Words;

impl Validator for Words {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match context.input().ends_with('\\') {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Words {
    type Candidate = String;
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}

impl Helper for Words {}
