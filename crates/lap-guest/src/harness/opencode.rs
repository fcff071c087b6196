//! Drives the real `opencode serve`: its HTTP interface for orders, its event stream for everything that happens.
//!
//! The stream lags behind the answers to requests, and an end of one turn may arrive after the next was sent; so events
//! are matched to a turn by the id that the user message was given here, never by their order.

mod config;
mod http;
mod server;
mod turn;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use lap_api::link::{Report, Turn};
use serde_json::json;

use self::http::Api;
pub(crate) use self::server::Starting;
use self::server::{Listening, News, Server};
use self::turn::{Outcome, Progress};
use super::face::{self, TerminalStart};
use super::{ABORTED, HARNESS_FAILED, Interruption, Next, Orders, Setting, failed};
use crate::Failure;
use crate::outbox::Outbox;

/// How often in a row opencode may fail to start before a person has to look.
const STARTS: u32 = 5;

/// First pause before it is started again; doubles with each failure.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// After an abort opencode ends the turn within milliseconds; when it does not, it is ended itself.
const ABORT_DEADLINE: Duration = Duration::from_secs(15);

/// Waits for opencode and serves turns.
pub(super) async fn serve(
    starting: Starting,
    setting: Arc<Setting>,
    mut orders: Orders,
    out: Outbox,
) -> Result<(), Failure> {
    out.phase("waiting_harness", None).await;
    let listening = starting.listening().await?;
    out.phase("harness_listening", None).await;
    out.phase("harness_ready", None).await;
    // It takes turns from here on. Its conversation, which takes it another tenth of a second, is opened while the first
    // message is still being written; a turn that comes sooner waits for it.
    out.report(Report::Ready).await;
    let mut harness = Opencode { setting, session: None, server: None, out };
    match harness.converse(listening).await {
        Ok(()) => harness.warm_up(),
        // A configuration of the user's that opencode does not read is the usual cause: it is told at once, and tried
        // again with the next turn.
        Err(failure) => {
            let detail = failure.reason;
            harness.out.report(Report::HarnessExited { detail, restarting: false }).await;
        }
    }
    loop {
        let next = tokio::select! {
            next = orders.next() => next,
            detail = harness.ended() => {
                harness.start_again(detail).await;
                continue;
            }
        };
        match next {
            None => return Ok(()),
            Some(Next::Turn(turn)) => harness.turn(turn, &mut orders).await,
            Some(Next::Terminal(ask)) => ask.grant(harness.terminal()),
        }
    }
}

/// Opens the conversation of an earlier sandbox again, or a new one.
async fn open_session(api: &Api, setting: &Setting, out: &Outbox) -> Result<String, Failure> {
    if let Some(id) = &setting.boot.resume {
        match api.get(&format!("/session/{id}")).await {
            Ok(_) => return Ok(id.clone()),
            Err(error) => out.line("guest", &format!("the conversation {id} could not be resumed: {error}")),
        }
    }
    // With a title of its own opencode does not ask the model for one.
    let title = json!({ "title": format!("LAP session {}", setting.boot.session_id) });
    let answer = api.post("/session", &title).await;
    let answer =
        answer.map_err(|error| Failure::new("harness_failed", format!("opencode opened no session: {error}")))?;
    match answer.get("id").and_then(|id| id.as_str()) {
        Some(id) => Ok(id.to_owned()),
        None => Err(Failure::new("harness_failed", "opencode answered without a session id")),
    }
}

struct Opencode {
    setting: Arc<Setting>,
    /// The conversation; there once a server was.
    session: Option<String>,
    /// `None` after it could not be started again; the next turn tries once more.
    server: Option<Server>,
    out: Outbox,
}

impl Opencode {
    /// Starts opencode.
    async fn start(&mut self) -> Result<(), Failure> {
        let listening = Starting::spawn(&self.setting, &self.out)?.listening().await?;
        self.converse(listening).await
    }

    /// Makes events flow and opens the conversation, unless it is open: after a crash opencode knows it by its id.
    async fn converse(&mut self, listening: Listening) -> Result<(), Failure> {
        // opencode reads the working tree's own configuration with the first request, and never again.
        let _untouched = config::Untouched::hold(&self.setting.layout.repo());
        let api = listening.api.clone();
        let (server, opened) = tokio::join!(listening.connect(), self.open(&api));
        // When both failed, this one knows more.
        opened?;
        self.server = Some(server?);
        Ok(())
    }

    /// Opens the conversation, if it is not open.
    async fn open(&mut self, api: &Api) -> Result<(), Failure> {
        if self.session.is_none() {
            let session = open_session(api, &self.setting, &self.out).await?;
            self.out.report(Report::Conversation { harness_session_id: session.clone() }).await;
            self.session = Some(session);
        }
        Ok(())
    }

    fn warm_up(&mut self) {
        if let Some(server) = &mut self.server {
            server.warm_up();
        }
    }

    /// How opencode ended, when it does while nothing runs. Events of no turn are dropped.
    async fn ended(&mut self) -> String {
        let Some(server) = &mut self.server else { return std::future::pending().await };
        loop {
            if let News::Ended(detail) = server.news().await {
                return detail;
            }
        }
    }

    /// Starts opencode again after it ended unasked, with pauses that grow.
    async fn start_again(&mut self, detail: String) {
        self.server = None;
        self.out.report(Report::HarnessExited { detail, restarting: true }).await;
        let mut pause = RESTART_PAUSE;
        for attempt in 1..=STARTS {
            tokio::time::sleep(pause).await;
            pause *= 2;
            match self.start().await {
                Ok(()) => {
                    self.out.line("guest", "opencode runs again");
                    return;
                }
                Err(failure) if attempt == STARTS => {
                    let detail = failure.reason;
                    self.out.report(Report::HarnessExited { detail, restarting: false }).await;
                }
                Err(failure) => self.out.line("guest", &failure.reason),
            }
        }
    }

    /// A terminal that joins the server, on the conversation that messages go to.
    fn terminal(&self) -> Result<TerminalStart, Failure> {
        match (&self.server, &self.session) {
            (Some(server), Some(session)) => join(&self.setting, server, session),
            _ => Err(Failure::new("harness_failed", "opencode does not run at the moment; the next message starts it")),
        }
    }

    /// Runs one turn to its end, whatever that is.
    async fn turn(&mut self, turn: Turn, orders: &mut Orders) {
        if self.server.is_none()
            && let Err(failure) = self.start().await
        {
            self.out.report(failed(&turn.turn_id, HARNESS_FAILED, failure.reason)).await;
            return;
        }
        let (Some(server), Some(session)) = (&mut self.server, &self.session) else { return };
        let mut running = Running {
            progress: Progress::new(&turn.turn_id, session, &self.setting.boot.model, message_id()),
            session,
            out: &self.out,
            abort: None,
        };
        match running.run(server, &self.setting, &turn, orders).await {
            End::Over => {}
            End::Crashed(detail) => self.start_again(detail).await,
            End::Stuck => {
                self.server = None;
                self.start_again("did not stop the turn when asked to".to_owned()).await;
            }
        }
    }
}

fn join(setting: &Setting, server: &Server, session: &str) -> Result<TerminalStart, Failure> {
    let (address, password) = (server.api.url(), server.api.password());
    let fill = [("address", address.as_str()), ("password", password), ("conversation", session)];
    let (command, more) = face::command(setting, Vec::new(), true, &fill)?;
    let mut env = setting.env.clone();
    env.extend(config::environment(&setting.boot, password));
    env.extend(more);
    Ok(TerminalStart { command, env, lent: None })
}

/// What a turn's end means for the program.
enum End {
    /// It goes on.
    Over,
    /// It is gone; why.
    Crashed(String),
    /// It runs, but does not do as told.
    Stuck,
}

struct Running<'a> {
    progress: Progress,
    session: &'a str,
    out: &'a Outbox,
    /// When the abort was asked for.
    abort: Option<tokio::time::Instant>,
}

impl Running<'_> {
    async fn run(&mut self, server: &mut Server, setting: &Setting, turn: &Turn, orders: &mut Orders) -> End {
        let prompt = config::prompt(&setting.boot, turn, self.progress.user_message());
        let path = format!("/session/{}/prompt_async", self.session);
        if let Err(error) = server.api.post(&path, &prompt).await {
            // It may have arrived all the same: it is not sent again, and what it started is stopped.
            let _ = server.api.post(&format!("/session/{}/abort", self.session), &json!({})).await;
            let reason = format!("opencode did not take the message: {error}");
            self.out.report(failed(&turn.turn_id, HARNESS_FAILED, reason)).await;
            return End::Over;
        }
        self.out.report(Report::TurnStarted { turn_id: turn.turn_id.clone() }).await;
        loop {
            let give_up = self.abort.map(|since| since + ABORT_DEADLINE);
            tokio::select! {
                biased;
                order = orders.during(&turn.turn_id) => match order {
                    Some(Interruption::Terminal(ask)) => ask.grant(join(setting, server, self.session)),
                    Some(order) => self.interrupt(server, order).await,
                    None => return End::Over,
                },
                news = server.news() => match news {
                    News::Event(event) => {
                        if let Some(outcome) = self.apply(server, event).await {
                            self.finish(outcome).await;
                            return End::Over;
                        }
                    }
                    News::Ended(detail) => {
                        let code = if self.abort.is_some() { ABORTED } else { HARNESS_FAILED };
                        let reason = format!(
                            "opencode {detail} in the middle of this turn; it is started again and the conversation goes on"
                        );
                        self.close(code, &reason).await;
                        return End::Crashed(detail);
                    }
                },
                () = until(give_up) => {
                    self.close(ABORTED, "the turn was aborted").await;
                    return End::Stuck;
                }
            }
        }
    }

    /// Takes one event; reports what it means and returns the turn's end, if it is that.
    async fn apply(&mut self, server: &Server, event: wire::Event) -> Option<Outcome> {
        // An abort before the model was asked finds nothing to stop; it is repeated when the work begins.
        let begins = self.abort.is_some() && self.progress.is_beginning(&event);
        let step = self.progress.apply(event, std::time::Instant::now());
        for report in step.reports {
            self.out.report(report).await;
        }
        if begins || step.give_up {
            self.stop(server).await;
        }
        step.outcome
    }

    async fn interrupt(&mut self, server: &Server, order: Interruption) {
        match order {
            Interruption::Abort => {
                self.abort.get_or_insert_with(tokio::time::Instant::now);
                self.progress.abort();
                self.stop(server).await;
            }
            Interruption::Permission { request_id, decision } => {
                let reply = match decision.as_str() {
                    "allow" => json!({ "reply": "once" }),
                    "allow_always" => json!({ "reply": "always" }),
                    // With words of its own the refusal is an answer for the model, which goes on; without, the turn ends.
                    _ => json!({ "reply": "reject", "message": "The user does not allow this." }),
                };
                let path = format!("/permission/{request_id}/reply");
                if let Err(error) = server.api.post(&path, &reply).await {
                    self.out.line("guest", &format!("opencode did not take the answer to {request_id}: {error}"));
                }
            }
            Interruption::Terminal(ask) => ask.refuse("harness_failed", "opencode is busy; try again"),
        }
    }

    async fn stop(&mut self, server: &Server) {
        self.abort.get_or_insert_with(tokio::time::Instant::now);
        if let Err(error) = server.api.post(&format!("/session/{}/abort", self.session), &json!({})).await {
            self.out.line("guest", &format!("opencode did not take the abort: {error}"));
        }
    }

    async fn finish(&mut self, outcome: Outcome) {
        let turn_id = self.progress.turn_id().to_owned();
        let report = match outcome {
            Outcome::Completed { message, usage } => Report::TurnCompleted { turn_id, message: *message, usage },
            Outcome::Failed { code, error } => failed(&turn_id, code, error),
        };
        self.out.report(report).await;
    }

    /// Ends the turn from this side, with what has come so far.
    async fn close(&mut self, code: &'static str, error: &str) {
        for report in self.progress.leave(error) {
            self.out.report(report).await;
        }
        self.finish(Outcome::Failed { code, error: error.to_owned() }).await;
    }
}

/// Sleeps until then; for ever when there is no such time.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// An id for a user message in opencode's own form: it orders messages by their ids, so this one must follow those of the
/// turns before.
fn message_id() -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let at = ((super::now_ms() as u64) << 12 | 1) & 0xffff_ffff_ffff;
    let mut tail = [0; 14];
    // Without randomness the time alone makes the id.
    let _ = super::random(&mut tail);
    let tail: String = tail.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect();
    format!("msg_{at:012x}{tail}")
}
