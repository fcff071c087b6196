//! Runs turns with a harness program that speaks JSON lines, whatever its language: starts it, starts it again when it
//! ended unasked, hands it one turn at a time, stops what it is asked to stop. The languages are [`Protocol`]s and do no
//! I/O of their own.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lap_api::link::{Report, Turn};
use lap_api::message::Message;
use lap_api::session::Usage;
use serde_json::Value;
use tokio::time::Instant;

use super::face::{self, Lent, Loan, TerminalAsk, TerminalStart};
use super::program::{News, Program};
use super::{ABORTED, HARNESS_FAILED, Interruption, Next, Orders, Setting, failed};
use crate::Failure;
use crate::environment::Environment;
use crate::outbox::Outbox;

/// How often in a row a program may fail to start before a person has to look.
const STARTS: u32 = 5;

/// First pause before it is started again; doubles with each failure.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Programs end an aborted turn within milliseconds; one that does not is ended itself.
const ABORT_DEADLINE: Duration = Duration::from_secs(15);

/// How a turn ended.
pub(super) enum Outcome {
    Completed { message: Box<Message>, usage: Usage },
    Failed { code: &'static str, error: String },
}

/// What one message, or one order, led to.
#[derive(Default)]
pub(super) struct Step {
    pub(super) reports: Vec<Report>,
    pub(super) send: Vec<Value>,
    pub(super) outcome: Option<Outcome>,
}

impl Step {
    pub(super) fn sending(message: Value) -> Self {
        Self { send: vec![message], ..Self::default() }
    }
}

/// What a harness's program for people needs beside what its launch says.
pub(super) struct Face {
    pub(super) arguments: Vec<String>,
    pub(super) env: Environment,
    pub(super) begun: bool,
}

/// A program's language, and the conversation held in it.
pub(super) trait Protocol: Sized + Send {
    /// What people call the program.
    const NAME: &'static str;

    /// Starts the program and returns once it would take a turn; `conversation` is the one to go on with.
    fn start(
        setting: &Setting,
        out: &Outbox,
        conversation: Option<&str>,
    ) -> impl Future<Output = Result<(Program, Self), Failure>> + Send;

    /// How the program for people is started on a conversation: arguments that both faces share, environment, and whether
    /// the conversation has begun.
    fn terminal(setting: &Setting, conversation: &str) -> std::io::Result<Face>;

    /// Where the program for people left off: the folder in which the harness keeps conversations.
    fn conversations(setting: &Setting) -> PathBuf;

    /// The conversation, by the harness's own name for it.
    fn conversation(&self) -> &str;

    /// Begins a turn.
    fn begin(&mut self, turn: &Turn) -> Step;

    /// Takes a message while a turn runs.
    fn take(&mut self, message: Value) -> Step;

    /// Takes a message while none runs; the answers it wants.
    fn idle(&mut self, message: Value) -> Vec<Value>;

    /// Stops the turn: its end follows as messages.
    fn abort(&mut self) -> Step;

    /// Somebody decided; nothing comes of a decision on what was not asked.
    fn decide(&mut self, request_id: &str, decision: &str) -> Step;

    /// The turn ends from outside: what has come so far becomes final, with the reason in it.
    fn leave(&mut self, error: &str) -> Vec<Report>;
}

/// Brings the program up and serves turns.
pub(super) async fn serve<P: Protocol>(setting: Arc<Setting>, mut orders: Orders, out: Outbox) -> Result<(), Failure> {
    out.phase("waiting_harness", None).await;
    let running = P::start(&setting, &out, setting.boot.resume.as_deref()).await?;
    out.phase("harness_listening", None).await;
    out.phase("harness_ready", None).await;
    let conversation = running.1.conversation().to_owned();
    out.report(Report::Ready).await;
    out.report(Report::Conversation { harness_session_id: conversation.clone() }).await;
    let mut talk = Talk { setting, conversation, running: Some(running), out };
    loop {
        let next = tokio::select! {
            next = orders.next() => next,
            detail = talk.ended() => {
                talk.start_again(detail).await;
                continue;
            }
        };
        match next {
            None => return Ok(()),
            Some(Next::Turn(turn)) => talk.turn(&turn, &mut orders).await,
            Some(Next::Terminal(ask)) => {
                if let Some(turn) = talk.lend(ask, &mut orders).await {
                    talk.turn(&turn, &mut orders).await;
                }
            }
        }
    }
}

struct Talk<P> {
    setting: Arc<Setting>,
    conversation: String,
    /// `None` after it could not be started again; the next turn tries once more.
    running: Option<(Program, P)>,
    out: Outbox,
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

impl<P: Protocol> Talk<P> {
    /// How the program ended, when it does while no turn runs.
    async fn ended(&mut self) -> String {
        let Some((program, protocol)) = &mut self.running else { return std::future::pending().await };
        loop {
            match program.news().await {
                News::Message(message) => protocol.idle(message).into_iter().for_each(|answer| program.send(answer)),
                News::Ended(detail) => return detail,
            }
        }
    }

    async fn start(&mut self) -> Result<(), Failure> {
        let running = P::start(&self.setting, &self.out, Some(&self.conversation)).await?;
        running.1.conversation().clone_into(&mut self.conversation);
        self.running = Some(running);
        Ok(())
    }

    /// Starts the program again after it ended unasked, with pauses that grow.
    async fn start_again(&mut self, detail: String) {
        self.running = None;
        self.out.report(Report::HarnessExited { detail, restarting: true }).await;
        let mut pause = RESTART_PAUSE;
        for attempt in 1..=STARTS {
            tokio::time::sleep(pause).await;
            pause *= 2;
            match self.start().await {
                Ok(()) => {
                    self.out.line("guest", &format!("{} runs again", P::NAME));
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

    /// Lends the conversation to the program for people until that has ended; the turn for which it was taken back.
    async fn lend(&mut self, ask: TerminalAsk, orders: &mut Orders) -> Option<Turn> {
        let (loan, lent) = Loan::new();
        let start = self.face(lent);
        if start.is_ok() {
            // Two programs on one conversation would each miss what the other does.
            self.running = None;
        }
        let lending = start.is_ok();
        ask.grant(start);
        if !lending {
            return None;
        }
        let turn = self.wait(loan, orders).await;
        if let Some(conversation) = face::newest_conversation(&P::conversations(&self.setting))
            && conversation != self.conversation
        {
            // People may begin another one, and go on with that.
            self.conversation.clone_from(&conversation);
            self.out.report(Report::Conversation { harness_session_id: conversation }).await;
        }
        if let Err(failure) = self.start().await {
            self.out.line("guest", &failure.reason);
        }
        turn
    }

    fn face(&self, lent: Lent) -> Result<TerminalStart, Failure> {
        let face = P::terminal(&self.setting, &self.conversation)
            .map_err(|error| Failure::new("harness_failed", format!("{} could not be set up: {error}", P::NAME)))?;
        let fill = [("conversation", self.conversation.as_str())];
        let (command, more) = face::command(&self.setting, face.arguments, face.begun, &fill)?;
        let mut env = face.env;
        env.extend(more);
        Ok(TerminalStart { command, env, lent: Some(lent) })
    }

    /// Waits until the conversation is back. A message gets it back, unless somebody uses it.
    async fn wait(&self, mut loan: Loan, orders: &mut Orders) -> Option<Turn> {
        let mut wanted = None;
        loop {
            tokio::select! {
                () = loan.over() => return wanted,
                next = orders.next(), if wanted.is_none() => match next {
                    None => return None,
                    Some(Next::Terminal(ask)) => ask.refuse(face::IN_USE, "the terminal is just being handed over"),
                    Some(Next::Turn(turn)) if loan.in_use() => {
                        let error = "the conversation is being used in its terminal; \
                                     leave the program there (not only the view), or detach and wait until it is quiet";
                        self.out.report(failed(&turn.turn_id, face::IN_USE, error)).await;
                    }
                    Some(Next::Turn(turn)) => {
                        loan.recall();
                        wanted = Some(turn);
                    }
                },
            }
        }
    }

    /// Runs one turn to its end, whatever that is.
    async fn turn(&mut self, turn: &Turn, orders: &mut Orders) {
        if self.running.is_none()
            && let Err(failure) = self.start().await
        {
            self.out.report(failed(&turn.turn_id, HARNESS_FAILED, failure.reason)).await;
            return;
        }
        let (program, protocol) = self.running.as_mut().expect("it was started above");
        match run(program, protocol, turn, orders, &self.out).await {
            End::Over => {}
            End::Crashed(detail) => self.start_again(detail).await,
            End::Stuck => self.start_again("did not stop the turn when asked to".to_owned()).await,
        }
    }
}

async fn run<P: Protocol>(
    program: &mut Program,
    protocol: &mut P,
    turn: &Turn,
    orders: &mut Orders,
    out: &Outbox,
) -> End {
    let begun = protocol.begin(turn);
    out.report(Report::TurnStarted { turn_id: turn.turn_id.clone() }).await;
    let mut step = begun;
    let mut abort: Option<Instant> = None;
    loop {
        for report in step.reports {
            out.report(report).await;
        }
        for message in step.send {
            program.send(message);
        }
        if let Some(outcome) = step.outcome {
            finish(turn, outcome, out).await;
            return End::Over;
        }
        let give_up = abort.map(|since| since + ABORT_DEADLINE);
        step = tokio::select! {
            biased;
            order = orders.during(&turn.turn_id) => match order {
                Some(Interruption::Abort) => {
                    abort.get_or_insert_with(Instant::now);
                    protocol.abort()
                }
                Some(Interruption::Permission { request_id, decision }) => protocol.decide(&request_id, &decision),
                Some(Interruption::Terminal(ask)) => {
                    ask.refuse(face::IN_USE, "a message is being answered; abort it, or attach when it is done");
                    Step::default()
                }
                None => return End::Over,
            },
            news = program.news() => match news {
                News::Message(message) => protocol.take(message),
                News::Ended(detail) => {
                    let code = if abort.is_some() { ABORTED } else { HARNESS_FAILED };
                    let reason = format!(
                        "{} {detail} in the middle of this turn; it is started again and the conversation goes on",
                        P::NAME
                    );
                    close(protocol, turn, code, reason, out).await;
                    return End::Crashed(detail);
                }
            },
            () = until(give_up) => {
                close(protocol, turn, ABORTED, "the turn was aborted".to_owned(), out).await;
                return End::Stuck;
            }
        };
    }
}

/// Ends the turn from this side, with what has come so far.
async fn close<P: Protocol>(protocol: &mut P, turn: &Turn, code: &'static str, error: String, out: &Outbox) {
    for report in protocol.leave(&error) {
        out.report(report).await;
    }
    finish(turn, Outcome::Failed { code, error }, out).await;
}

async fn finish(turn: &Turn, outcome: Outcome, out: &Outbox) {
    let turn_id = turn.turn_id.clone();
    out.report(match outcome {
        Outcome::Completed { message, usage } => Report::TurnCompleted { turn_id, message: *message, usage },
        Outcome::Failed { code, error } => failed(&turn_id, code, error),
    })
    .await;
}

/// Sleeps until then; for ever when there is no such time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
