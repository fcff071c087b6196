//! Commands beside the harness: to their end in one call, or as a stream both ways.

use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::extract::ws::Message;
use axum::response::Response;
use lap_api::channel::{End, Program, Purpose, Size};
use lap_api::error::ErrorCode;
use lap_api::exec::{ExecCommand, ExecRequest, ExecResult};
use lap_api::tty::{TtyClientFrame, TtyServerFrame, WindowSize};
use lap_domain::ids::SessionId;
use lap_engine::{ChannelEvent, Opening};

use crate::App;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Json, Path};
use crate::serve::Stopping;
use crate::terminal::{Relay, Typing};
use crate::upgrade::{Upgrade, Visitor};

/// How long a command may take when the caller does not say.
const DEFAULT_TIMEOUT_S: u64 = 60;

/// The longest that may be asked for.
const MOST_TIMEOUT_S: u64 = 3600;

/// Output that is collected; a command that prints more is better read as a stream.
const MOST_OUTPUT: usize = 1024 * 1024;

/// A client says what to run as soon as it is connected.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// `POST /managed_agents/sessions/{id}/exec`
pub(crate) async fn run(
    State(app): State<App>,
    stopping: Stopping,
    Path(id): Path<String>,
    Json(body): Json<ExecRequest>,
) -> ApiResult<Answer<ExecResult>> {
    let ExecRequest { cmd, timeout_s } = body;
    let timeout_s = timeout_s.unwrap_or(DEFAULT_TIMEOUT_S);
    if !(1..=MOST_TIMEOUT_S).contains(&timeout_s) {
        return Err(ApiError::invalid_field("timeout_s", format!("must be from 1 to {MOST_TIMEOUT_S}")));
    }
    let command = match cmd {
        ExecCommand::Line(line) if line.trim().is_empty() => Vec::new(),
        ExecCommand::Line(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
        ExecCommand::Program(command) => command,
    };
    if command.first().is_none_or(String::is_empty) {
        return Err(ApiError::invalid_field("cmd", "names no program"));
    }
    let opening = app.engine.open_channel(&SessionId::new(id), Purpose::Exec { command }).await?;
    let running = tokio::time::timeout(Duration::from_secs(timeout_s), collect(opening));
    match stopping.or(running).await {
        Some(Ok(result)) => result.map(Answer),
        Some(Err(_)) => Err(ApiError::new(
            ErrorCode::RequestTimeout,
            format!("The command was ended: it took longer than {timeout_s} seconds."),
        )),
        None => Err(ApiError::shutting_down()),
    }
}

async fn collect(opening: Opening) -> ApiResult<ExecResult> {
    let mut output = Vec::new();
    let mut truncated = false;
    let end = match opening {
        Opening::Over(end) => end,
        Opening::Open(mut channel) => {
            channel.end_of_input().await;
            loop {
                match channel.next().await {
                    Some(ChannelEvent::Data { bytes, .. }) => {
                        let room = MOST_OUTPUT - output.len();
                        truncated |= bytes.len() > room;
                        output.extend_from_slice(&bytes[..bytes.len().min(room)]);
                        channel.passed_on().await;
                    }
                    Some(ChannelEvent::Ended(end)) => break end,
                    Some(ChannelEvent::Repaint { .. } | ChannelEvent::Taken { .. }) => {}
                    None => {
                        let message = "The link to the sandbox was lost while the command ran; it was ended.";
                        return Err(ApiError::new(ErrorCode::Unavailable, message));
                    }
                }
            }
        }
    };
    let exit_code = match end {
        End::Exited { code } => code,
        End::Signalled { signal } => 128 + signal,
        End::Failed { reason, .. } => return Err(ApiError::new(ErrorCode::Conflict, reason)),
    };
    Ok(ExecResult { exit_code, output: String::from_utf8_lossy(&output).into_owned(), truncated })
}

/// `GET (WebSocket) /managed_agents/sessions/{id}/exec`
pub(crate) async fn stream(
    State(app): State<App>,
    visitor: Visitor,
    stopping: Stopping,
    Path(id): Path<String>,
    upgrade: Upgrade,
) -> ApiResult<Response> {
    let seat = app.seats.take()?;
    let id = SessionId::new(id);
    // What can be said before the upgrade is said there.
    app.engine.ready_for_channels(&id).await?;
    let engine = app.engine.clone();
    Ok(upgrade.accept(visitor, move |socket| async move {
        let mut relay = Relay::new(socket, Typing::new(engine.clone(), id.clone(), false));
        let started = tokio::time::timeout(START_DEADLINE, relay.first()).await;
        let Some(Start { purpose, acknowledged }) = started.ok().flatten().and_then(start) else {
            let error = "the first frame must say what to run".to_owned();
            relay.end(End::Failed { code: ErrorCode::InvalidRequest.as_str().to_owned(), reason: error });
            return relay.finish().await;
        };
        relay.streams = matches!(purpose, Purpose::Exec { .. });
        match engine.open_channel(&id, purpose).await {
            Ok(Opening::Open(channel)) => {
                let (position, input) = (channel.position, channel.input);
                relay.say(&TtyServerFrame::Attached { position, input });
                relay.acknowledged_from = acknowledged.then_some(input);
                relay.run(channel, stopping).await;
            }
            Ok(Opening::Over(end)) => {
                relay.end(end);
                relay.finish().await;
            }
            Err(problem) => {
                let problem = ApiError::from(problem);
                relay.end(End::Failed { code: problem.code().to_owned(), reason: problem.to_string() });
                relay.finish().await;
            }
        }
        drop(seat);
    }))
}

struct Start {
    purpose: Purpose,
    acknowledged: bool,
}

fn start(message: Message) -> Option<Start> {
    let Message::Text(text) = message else { return None };
    let Ok(TtyClientFrame::Start { cmd, tty, client, from, redraw }) = serde_json::from_str(&text) else { return None };
    if cmd.first().is_none_or(String::is_empty) {
        return None;
    }
    let acknowledged = client.is_some();
    let purpose = match tty {
        None => Purpose::Exec { command: cmd },
        Some(WindowSize { cols, rows }) => {
            let name = client.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
            let program = Program::Command { name, command: cmd };
            Purpose::Terminal { program, from, redraw, client, view_only: false, size: Some(Size { cols, rows }) }
        }
    };
    Some(Start { purpose, acknowledged })
}
