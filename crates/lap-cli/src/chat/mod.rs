//! The chat prompt of a session: what is typed goes out as turns, what happens comes back as text.
//!
//! The session's log is the one source of what is shown: sending only learns the new turn's number. So a lost connection,
//! a second client or a turn that was running before are all the same case.

mod editor;
mod keys;

use std::pin::Pin;
use std::time::Duration;

use lap_api::event::EventKind;
use lap_api::message::{Message, Part, SendMessage};
use lap_api::session::{PermissionDecision as Decision, Session};
use lap_client::{Client, Error, EventStream, Feed, LogEntry};

use crate::bring_up::{self, Spinner};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::signals::{Came, Signals};
use crate::text::one_line;
use crate::transcript::Transcript;
use editor::{Editor, Line};
use keys::{Key, Keys, TerminalGuard};

/// Turns of the past that are shown again on attach.
const TURNS_SHOWN: usize = 3;

/// How long nothing must happen before the screen says that something goes on.
const SILENCE: Duration = Duration::from_millis(400);

const HELP: &str = "\
Type a message and press Enter. A backslash at the end of a line goes on with the next one; pasted lines stay together.
  Ctrl-C   stops the running turn, or clears the line
  Ctrl-D   leaves; the session goes on, also with its turn
  /abort   stops the turn that another client started
  /allow, /always, /deny   answer the agent's last question
  /quit    leaves, like Ctrl-D
  /help    shows this";

/// A conversation in a session that was just created.
pub(crate) async fn begin(client: &Client, session: Session, context: &mut Context) -> Result<Exit, Failure> {
    let mut signals = Signals::watch()?;
    let mut events = client.events(&session.id, 0);
    if session.status == "creating" {
        bring_up::wait(&mut context.io, &session.id, &mut events, &mut signals).await?;
    }
    context.io.talk("Ctrl-D leaves, Ctrl-C stops the running turn, /help shows more.");
    let transcript = Transcript::new(context.io.color_out());
    let chat = Chat::new(client, &session.id, events, transcript, Left::default());
    chat.run(signals, context).await
}

/// A conversation in a session that was there before: its last turns are shown first.
pub(crate) async fn reattach(client: &Client, session: Session, context: &mut Context) -> Result<Exit, Failure> {
    if session.status == "dead" || session.status == "failed" {
        let reason = session.failure_reason.or(session.end_reason).unwrap_or_else(|| "no reason given".to_owned());
        return Err(Failure::new(Exit::Session, format!("the session is {}: {reason}", session.status))
            .hint(format!("`lap logs {}` shows what happened in it.", session.id)));
    }
    if !context.io.is_interactive() {
        return Err(Failure::usage("a chat needs a terminal")
            .hint(format!("`lap send {} -` sends standard input, `lap logs {} -f` follows.", session.id, session.id)));
    }
    if session.status == "creating" {
        return begin(client, session, context).await;
    }
    let past = client.all_events(&session.id).await?;
    let mut transcript = Transcript::new(context.io.color_out());
    let (text, left) = retold(&past, &mut transcript);
    context.io.data(&text)?;
    let signals = Signals::watch()?;
    let events = client.events(&session.id, past.last().map_or(0, |entry| entry.id));
    context.io.talk(&format!("Attached to {}. Ctrl-D leaves, /help shows more.", session.id));
    Chat::new(client, &session.id, events, transcript, left).run(signals, context).await
}

/// What a log leaves open at its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// The turn that is still running.
    turn: Option<String>,
    /// The question that nobody answered yet.
    question: Option<Question>,
}

/// The last turns of a log as text, and what is still going on.
fn retold(past: &[LogEntry], transcript: &mut Transcript) -> (String, Left) {
    let queued = |entry: &LogEntry| entry.name == "turn.queued";
    let first_shown = past.iter().enumerate().rev().filter(|(_, entry)| queued(entry)).nth(TURNS_SHOWN - 1);
    let from = first_shown.map_or(0, |(at, _)| at);
    let n_hidden = past[..from].iter().filter(|entry| queued(entry)).count();
    let mut text = match n_hidden {
        0 => String::new(),
        1 => transcript.aside("[1 earlier turn; `lap logs` shows it]"),
        n => transcript.aside(&format!("[{n} earlier turns; `lap logs` shows them]")),
    };
    let mut left = Left::default();
    for entry in &past[from..] {
        let Some(event) = &entry.event else { continue };
        match &event.kind {
            EventKind::TurnStarted { turn_id } => left = Left { turn: Some(turn_id.clone()), question: None },
            EventKind::PermissionRequested { request_id, title, .. } => {
                left.question = Some(Question::new(request_id, title));
            }
            EventKind::PermissionAnswered { .. } => left.question = None,
            EventKind::TurnCompleted { .. } | EventKind::TurnFailed { .. } => left = Left::default(),
            // How the session came up is over; its end is told by whoever asked for it.
            EventKind::SessionState { .. } => {
                left = Left::default();
                continue;
            }
            _ => {}
        }
        text += &transcript.event(event);
    }
    text += &transcript.end_line();
    (text, left)
}

struct Chat<'a> {
    client: &'a Client,
    session_id: &'a str,
    events: EventStream,
    transcript: Transcript,
    /// The turn that is waited for.
    turn: Option<String>,
    /// The message whose turn has no name yet.
    sending: Option<Sending>,
    /// The question of the agent that nobody answered yet.
    question: Option<Question>,
    /// True between a lost connection and its return, so that each is told once.
    lost: bool,
}

/// A message on its way.
struct Sending {
    text: String,
    /// Gives the turn's id.
    sent: Pin<Box<dyn Future<Output = Result<String, Error>> + Send>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    request_id: String,
    title: String,
}

impl Question {
    fn new(request_id: &str, title: &str) -> Self {
        Self { request_id: request_id.to_owned(), title: one_line(title, 60) }
    }
}

/// What the chat does next.
enum Next {
    Prompt,
    Wait,
    Ask(Question),
    Leave(Exit),
}

impl<'a> Chat<'a> {
    fn new(client: &'a Client, session_id: &'a str, events: EventStream, transcript: Transcript, left: Left) -> Self {
        let Left { turn, question } = left;
        Self { client, session_id, events, transcript, turn, sending: None, question, lost: false }
    }

    async fn run(mut self, mut signals: Signals, context: &mut Context) -> Result<Exit, Failure> {
        // Whatever happens below, also a panic, the terminal is put back as it was found.
        let terminal = TerminalGuard::new();
        let mut editor = Editor::start(context.environment.lap_home.as_deref())?;
        let mut typed_ahead = String::new();
        let mut next = match (&self.question, &self.turn) {
            (Some(question), _) => Next::Ask(question.clone()),
            (None, Some(_)) => Next::Wait,
            (None, None) => Next::Prompt,
        };
        let exit = loop {
            next = match next {
                Next::Prompt => self.prompt(&mut editor, &mut typed_ahead, &mut signals, context).await?,
                Next::Wait => self.wait(&mut typed_ahead, &mut signals, context).await?,
                Next::Ask(question) => self.ask(question, &mut editor, &mut signals, context).await?,
                Next::Leave(exit) => break exit,
            };
        };
        let end = self.transcript.end_line();
        context.io.data(&end)?;
        drop(terminal);
        if exit != Exit::Session {
            let id = self.session_id;
            context.io.talk(&format!("Left; the session goes on. `lap attach {id}` returns, `lap stop {id}` ends it."));
        }
        Ok(exit)
    }

    /// Reads a message while showing what happens meanwhile, and acts on it.
    async fn prompt(
        &mut self,
        editor: &mut Editor,
        typed_ahead: &mut String,
        signals: &mut Signals,
        context: &mut Context,
    ) -> Result<Next, Failure> {
        let end = self.transcript.end_line();
        context.io.data(&end)?;
        editor.ask("> ", std::mem::take(typed_ahead), true);
        match self.line(editor, signals, context).await? {
            Heard::Line(Line::Text(text)) => self.act(&text, context).await,
            Heard::Line(Line::Cleared) => Ok(Next::Prompt),
            Heard::Line(Line::End) => Ok(Next::Leave(Exit::Ok)),
            Heard::Line(Line::Broken(cause)) => Err(broken_terminal(&cause)),
            Heard::Leave(exit) => Ok(Next::Leave(exit)),
        }
    }

    /// Waits for a line of the editor; what happens meanwhile is printed above it.
    async fn line(
        &mut self,
        editor: &mut Editor,
        signals: &mut Signals,
        context: &mut Context,
    ) -> Result<Heard, Failure> {
        let mut held = String::new();
        let heard = loop {
            tokio::select! {
                line = editor.line() => break Heard::Line(line),
                feed = self.events.next() => {
                    let shown = self.take_in(feed)?;
                    held += &shown.text;
                    if shown.asked {
                        held += &self.transcript.aside("[/allow, /always or /deny answers]");
                    }
                    if let Some(exit) = shown.leave {
                        break Heard::Leave(exit);
                    }
                    // The line being typed is redrawn below what is printed, so only whole lines can be.
                    if let Some(end) = held.rfind('\n') {
                        let rest = held.split_off(end + 1);
                        editor.print(std::mem::replace(&mut held, rest));
                    }
                }
                came = signals.next() => match came {
                    Came::Interrupt => {}
                    Came::Terminate => break Heard::Leave(Exit::Interrupted),
                },
            }
        };
        if let Heard::Leave(_) = heard {
            // The unfinished line stays on the screen; what follows begins below it.
            context.io.data("\r\n")?;
        }
        context.io.data(&held)?;
        if held.is_empty() {
            self.transcript.at_new_line();
        }
        Ok(heard)
    }

    /// Sends what was typed, or does what a `/command` says.
    async fn act(&mut self, text: &str, context: &mut Context) -> Result<Next, Failure> {
        let command = text.trim();
        match command {
            "" => return Ok(Next::Prompt),
            "/quit" | "/exit" | "/q" => return Ok(Next::Leave(Exit::Ok)),
            "/help" | "/?" => {
                context.io.talk(HELP);
                return Ok(Next::Prompt);
            }
            "/abort" => {
                self.abort(context).await?;
                return Ok(Next::Prompt);
            }
            "/allow" | "/always" | "/deny" => {
                let decision = match command {
                    "/allow" => Decision::Allow,
                    "/always" => Decision::AllowAlways,
                    _ => Decision::Deny,
                };
                match self.question.take() {
                    Some(question) => self.answer(&question, decision, context).await?,
                    None => context.io.talk("The agent has no open question."),
                }
                return Ok(Next::Prompt);
            }
            _ => {}
        }
        let a_command = !text.starts_with(' ')
            && command
                .strip_prefix('/')
                .is_some_and(|word| !word.is_empty() && word.chars().all(char::is_alphanumeric));
        if a_command {
            context.io.talk(&format!("There is no command {command}; /help lists them. A space before it sends it."));
            return Ok(Next::Prompt);
        }
        let text = text.trim_end().to_owned();
        let sent = Box::pin(send(self.client.clone(), self.session_id.to_owned(), text.clone()));
        self.sending = Some(Sending { text, sent });
        Ok(Next::Wait)
    }

    /// Shows the running turn until it is over or somebody has to say something.
    async fn wait(
        &mut self,
        typed_ahead: &mut String,
        signals: &mut Signals,
        context: &mut Context,
    ) -> Result<Next, Failure> {
        let mut keys = Keys::watch();
        let next = self.wait_with(&mut keys, typed_ahead, signals, context).await;
        typed_ahead.push_str(&keys.finish());
        next
    }

    async fn wait_with(
        &mut self,
        keys: &mut Keys,
        typed_ahead: &mut String,
        signals: &mut Signals,
        context: &mut Context,
    ) -> Result<Next, Failure> {
        let mut spinner = None;
        loop {
            tokio::select! {
                // A model that thinks is silent for long; then something moves on the screen.
                () = tokio::time::sleep(SILENCE), if spinner.is_none() && self.transcript.is_at_line_start() => {
                    spinner = Spinner::start(&context.io, "working");
                }
                feed = self.events.next() => {
                    let shown = self.take_in(feed)?;
                    if !shown.text.is_empty() {
                        spinner = None;
                    }
                    context.io.data(&shown.text)?;
                    if let Some(exit) = shown.leave {
                        return Ok(Next::Leave(exit));
                    }
                    if shown.asked && let Some(question) = self.question.clone() {
                        return Ok(Next::Ask(question));
                    }
                    if self.turn.is_none() && self.sending.is_none() {
                        return Ok(Next::Prompt);
                    }
                }
                sent = sent(&mut self.sending) => {
                    self.sending = None;
                    spinner = None;
                    match sent {
                        Ok(turn_id) => {
                            self.transcript.is_own(&turn_id);
                            self.turn = Some(turn_id);
                        }
                        Err(error) => {
                            self.go_on(error, context)?;
                            return Ok(Next::Prompt);
                        }
                    }
                }
                key = keys.next() => match key {
                    Key::Leave => return Ok(Next::Leave(Exit::Ok)),
                    Key::Typed(text) => typed_ahead.push_str(&text),
                },
                came = signals.next() => match came {
                    Came::Interrupt => {
                        spinner = None;
                        let words = self.transcript.aside("[stopping the turn …]");
                        context.io.data(&words)?;
                        self.abort(context).await?;
                        // A message without a turn is not waited for any longer; if it runs after all, it shows.
                        if self.sending.take().is_some() {
                            return Ok(Next::Prompt);
                        }
                    }
                    Came::Terminate => return Ok(Next::Leave(Exit::Interrupted)),
                },
            }
        }
    }

    /// Lets the person answer the agent's question.
    async fn ask(
        &mut self,
        question: Question,
        editor: &mut Editor,
        signals: &mut Signals,
        context: &mut Context,
    ) -> Result<Next, Failure> {
        loop {
            editor.ask(&format!("allow `{}`? [y]es, [a]lways, [n]o: ", question.title), String::new(), false);
            let line = match self.line(editor, signals, context).await? {
                Heard::Line(line) => line,
                Heard::Leave(exit) => return Ok(Next::Leave(exit)),
            };
            let after = if self.turn.is_some() { Next::Wait } else { Next::Prompt };
            if self.question.as_ref().is_none_or(|open| open.request_id != question.request_id) {
                context.io.talk("The question is settled already.");
                return Ok(after);
            }
            let decision = match line {
                Line::Text(text) => match text.trim().to_lowercase().as_str() {
                    "y" | "yes" => Decision::Allow,
                    "a" | "always" => Decision::AllowAlways,
                    "n" | "no" => Decision::Deny,
                    _ => {
                        context.io.talk("Answer y, a or n; Ctrl-C stops the turn.");
                        continue;
                    }
                },
                Line::Cleared => {
                    self.abort(context).await?;
                    return Ok(after);
                }
                Line::End => return Ok(Next::Leave(Exit::Ok)),
                Line::Broken(cause) => return Err(broken_terminal(&cause)),
            };
            self.question = None;
            self.answer(&question, decision, context).await?;
            return Ok(after);
        }
    }

    async fn answer(&self, question: &Question, decision: Decision, context: &mut Context) -> Result<(), Failure> {
        match self.client.answer_permission(self.session_id, &question.request_id, decision).await {
            Ok(()) => Ok(()),
            Err(error) => self.go_on(error, context),
        }
    }

    async fn abort(&self, context: &mut Context) -> Result<(), Failure> {
        match self.client.abort(self.session_id).await {
            Ok(()) => Ok(()),
            Err(Error::Api(refusal)) if refusal.status == 409 => {
                context.io.talk("No turn is running.");
                Ok(())
            }
            Err(error) => self.go_on(error, context),
        }
    }

    /// Tells an error that does not end the chat.
    fn go_on(&self, error: Error, context: &mut Context) -> Result<(), Failure> {
        match error.api().map(|refusal| refusal.status) {
            Some(401) => Err(error.into()),
            _ => {
                Failure::from(error).tell(&mut context.io);
                Ok(())
            }
        }
    }

    /// Keeps track of what the log says and makes text of it.
    fn take_in(&mut self, feed: Option<Result<Feed, Error>>) -> Result<Shown, Failure> {
        let mut shown = Shown::default();
        let entry = match feed {
            Some(Ok(Feed::Entry(entry))) => entry,
            Some(Ok(Feed::Lost { .. })) => {
                if !std::mem::replace(&mut self.lost, true) {
                    shown.text = self.transcript.aside("[connection lost, reconnecting …]");
                }
                return Ok(shown);
            }
            Some(Ok(Feed::Back)) => {
                self.lost = false;
                shown.text = self.transcript.aside("[connected again]");
                return Ok(shown);
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Err(Failure::new(Exit::Failure, "the event stream ended")),
        };
        let Some(event) = &entry.event else { return Ok(shown) };
        match &event.kind {
            // Usually the log tells sooner than the answer to the call that our message has its turn.
            EventKind::TurnQueued { turn_id, message }
                if self.sending.as_ref().is_some_and(|sending| says(message, &sending.text)) =>
            {
                self.sending = None;
                self.transcript.is_own(turn_id);
                self.turn = Some(turn_id.clone());
            }
            EventKind::PermissionRequested { request_id, title, .. } => {
                self.question = Some(Question::new(request_id, title));
                shown.asked = true;
            }
            EventKind::PermissionAnswered { request_id, .. } => {
                self.question.take_if(|question| question.request_id == *request_id);
            }
            EventKind::TurnCompleted { turn_id, .. } | EventKind::TurnFailed { turn_id, .. } => {
                self.question = None;
                self.turn.take_if(|turn| turn == turn_id);
            }
            EventKind::SessionState { status, .. } if status == "dead" || status == "failed" => {
                shown.leave = Some(Exit::Session);
            }
            _ => {}
        }
        shown.text = self.transcript.event(event);
        Ok(shown)
    }
}

/// What an event meant for the screen and for the chat.
#[derive(Default)]
struct Shown {
    text: String,
    asked: bool,
    leave: Option<Exit>,
}

enum Heard {
    Line(Line),
    Leave(Exit),
}

fn broken_terminal(cause: &str) -> Failure {
    Failure::new(Exit::Failure, format!("could not read the terminal: {cause}"))
}

/// Sends a message; returns its turn's id once the server has named it. The turn itself is followed in the log.
async fn send(client: Client, session_id: String, text: String) -> Result<String, Error> {
    let message = SendMessage { text: Some(text), ..SendMessage::default() };
    let mut turn = client.message_stream(&session_id, &message).await?;
    loop {
        let entry = turn.next().await.transpose()?;
        if let Some(turn_id) = turn.turn_id() {
            return Ok(turn_id.to_owned());
        }
        if entry.is_none() {
            let cause = "the server did not say which turn it began".to_owned();
            return Err(Error::Lost { server: client.server().to_owned(), cause });
        }
    }
}

/// The end of a sending, where there is one to wait for.
async fn sent(sending: &mut Option<Sending>) -> Result<String, Error> {
    match sending {
        Some(sending) => sending.sent.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Whether a user message is this text.
fn says(message: &Message, text: &str) -> bool {
    matches!(&message.parts[..], [Part::Text { text: said, .. }] if said.trim() == text.trim())
}

#[cfg(test)]
mod tests;
