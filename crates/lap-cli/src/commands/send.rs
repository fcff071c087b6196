//! `lap send`: one message, its answer on standard output as it comes.

use std::collections::HashMap;
use std::time::Duration;

use lap_api::event::{DeltaKind, EventKind};
use lap_api::message::{Message, Part, SendMessage};
use lap_client::{Client, Error, TurnStream};

use super::read_all;
use crate::args::SendArgs;
use crate::context::Io;
use crate::failure::{Exit, Failure};
use crate::resolve;
use crate::signals::Signals;
use crate::text::{clean, one_line};
use crate::transcript::{footer, title};

pub(super) async fn send(args: SendArgs, client: &Client, io: &mut Io) -> Result<Exit, Failure> {
    let SendArgs { session, text, json, no_wait } = args;
    let id = resolve::session_id(&session)?;
    let text = if text == "-" { read_all(io)? } else { text };
    let form = match (no_wait, json) {
        (true, _) => Form::TurnId,
        (false, true) => Form::Json,
        (false, false) => Form::Text,
    };
    run(client, io, &id, &text, form).await
}

/// What goes to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The answer as it comes.
    Text,
    /// The reply, once it is whole.
    Json,
    /// The turn's id; nobody waits.
    TurnId,
}

/// Refuses what no agent can answer, before anything is started for it.
pub(super) fn not_empty(text: &str) -> Result<(), Failure> {
    if text.trim().is_empty() {
        return Err(Failure::usage("the message is empty")
            .hint("Give it as an argument or on standard input: echo 'fix the test' | lap AGENT"));
    }
    Ok(())
}

/// Sends the message and follows its turn to the end.
pub(super) async fn run(client: &Client, io: &mut Io, id: &str, text: &str, form: Form) -> Result<Exit, Failure> {
    not_empty(text)?;
    let mut signals = Signals::watch()?;
    let message = SendMessage { text: Some(text.to_owned()), ..SendMessage::default() };
    let mut turn = tokio::select! {
        turn = begin(client, io, id, &message) => turn?,
        _ = signals.next() => return Err(Failure::interrupted()),
    };
    let mut answer = Answer::new(form, io.out_is_terminal);
    loop {
        let entry = tokio::select! {
            entry = turn.next() => entry,
            _ = signals.next() => return interrupted(client, io, id, &turn, &mut answer).await,
        };
        let entry = entry.ok_or_else(|| Failure::new(Exit::Failure, "the turn's stream ended without an answer"))??;
        if form == Form::TurnId
            && let Some(turn_id) = turn.turn_id()
        {
            io.data(&format!("{turn_id}\n"))?;
            return Ok(Exit::Ok);
        }
        let Some(event) = entry.event else { continue };
        match event.kind {
            EventKind::MessageDelta { part_id, kind: DeltaKind::Text, delta, .. } => {
                answer.piece(io, &part_id, &delta)?;
            }
            EventKind::MessageCompleted { message, .. } => answer.rest(io, &message)?,
            EventKind::Tool { call, .. } if call.status != "running" => {
                answer.end_line(io)?;
                io.talk(&format!("- {}: {} ({})", clean(&call.tool), title(&call), clean(&call.status)));
            }
            EventKind::PermissionRequested { title, .. } => {
                answer.end_line(io)?;
                io.talk(&format!("The agent asks for permission: {}", one_line(&title, 140)));
                io.talk(&format!("It waits; `lap attach {id}` lets you answer."));
            }
            EventKind::EgressRefused { host, code, .. } => {
                answer.end_line(io)?;
                io.talk(&format!("The vault refused {} ({code}).", clean(&host)));
            }
            EventKind::TurnCompleted { message, usage, .. } => {
                answer.rest(io, &message)?;
                answer.end_line(io)?;
                if form == Form::Json {
                    io.json(&message)?;
                } else {
                    io.talk(&footer(&usage, None));
                }
                return Ok(Exit::Ok);
            }
            EventKind::TurnFailed { code, error, .. } => {
                answer.end_line(io)?;
                let words = match code.as_str() {
                    "aborted" => "the turn was stopped".to_owned(),
                    _ => format!("the turn failed: {error}"),
                };
                return Err(Failure::new(Exit::Session, words).hint(format!(
                    "`lap logs {id}` shows what happened, `lap logs {id} --sandbox` what the harness wrote."
                )));
            }
            EventKind::SessionState { status, failure_reason, end_reason }
                if status == "dead" || status == "failed" =>
            {
                answer.end_line(io)?;
                let reason = failure_reason.or(end_reason).unwrap_or_else(|| "no reason given".to_owned());
                return Err(Failure::new(
                    Exit::Session,
                    format!("the session ended in the middle of the turn: {reason}"),
                ));
            }
            _ => {}
        }
    }
}

/// Sends the message; a session that still comes up is waited for.
async fn begin(client: &Client, io: &mut Io, id: &str, message: &SendMessage) -> Result<TurnStream, Failure> {
    /// One long poll; the server ends bring-ups that take too long by itself.
    const POLL: Duration = Duration::from_secs(60);
    let mut told = false;
    loop {
        let refusal = match client.message_stream(id, message).await {
            Err(Error::Api(refusal)) if refusal.code == "session_not_ready" => refusal,
            settled => return Ok(settled?),
        };
        let session = client.session(id).await?;
        match session.status.as_str() {
            "creating" => {
                if !std::mem::replace(&mut told, true) {
                    io.talk("The session is still coming up; waiting for it.");
                }
                client.session_when_ready(id, POLL).await?;
            }
            "ready" => {}
            _ => {
                let reason = session.failure_reason.or(session.end_reason);
                let reason = reason.map(|reason| format!(" Reason: {reason}")).unwrap_or_default();
                return Err(Failure::new(Exit::Session, format!("{refusal}{reason}"))
                    .hint("`lap AGENT --new` starts a fresh session."));
            }
        }
    }
}

/// Ctrl-C: the turn is stopped, not left running unseen.
async fn interrupted(
    client: &Client,
    io: &mut Io,
    id: &str,
    turn: &TurnStream,
    answer: &mut Answer,
) -> Result<Exit, Failure> {
    answer.end_line(io)?;
    match client.abort(id).await {
        Ok(()) => io.talk("Stopped the turn."),
        Err(e) => {
            let turn = turn.turn_id().unwrap_or("unknown");
            io.talk(&format!("Could not stop turn {turn}, it may still run: {e}"));
        }
    }
    Err(Failure::interrupted())
}

/// The text of the answer as far as it is written.
struct Answer {
    form: Form,
    for_terminal: bool,
    parts: HashMap<String, String>,
    last_part: Option<String>,
    at_line_start: bool,
}

impl Answer {
    fn new(form: Form, for_terminal: bool) -> Self {
        Self { form, for_terminal, parts: HashMap::new(), last_part: None, at_line_start: true }
    }

    fn piece(&mut self, io: &mut Io, part_id: &str, piece: &str) -> Result<(), Failure> {
        if self.form != Form::Text || piece.is_empty() {
            return Ok(());
        }
        if self.last_part.as_deref() != Some(part_id) {
            self.end_line(io)?;
            self.last_part = Some(part_id.to_owned());
        }
        self.parts.entry(part_id.to_owned()).or_default().push_str(piece);
        self.at_line_start = piece.ends_with('\n');
        // Files and pipes get the answer byte for byte; a terminal would obey what is in it.
        if self.for_terminal {
            io.data(&clean(piece))?
        } else {
            io.data(piece)?
        }
        Ok(())
    }

    fn rest(&mut self, io: &mut Io, message: &Message) -> Result<(), Failure> {
        if message.info.role == "user" {
            return Ok(());
        }
        for part in &message.parts {
            if let Part::Text { id, text } = part {
                let shown = self.parts.get(id).cloned().unwrap_or_default();
                if let Some(rest) = text.strip_prefix(shown.as_str()) {
                    self.piece(io, id, rest)?;
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self, io: &mut Io) -> Result<(), Failure> {
        if !self.at_line_start {
            io.data("\n")?;
            self.at_line_start = true;
        }
        Ok(())
    }
}
