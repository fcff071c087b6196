//! Session logs as server-sent events. The reader pulls: a slow client slows its own stream and nobody else, and nothing
//! is buffered for it beyond one batch.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderName, HeaderValue};
use lap_api::event::{Event, EventKind};
use lap_engine::EventFollower;

use crate::serve::Stopping;

/// Proxies drop connections that are silent for a minute; half of their usual shortest limit is safe.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What to do with an event of the log.
pub(crate) enum Step {
    /// It is none of this stream's.
    Skip,
    /// Send it.
    Show,
    /// Send it and end the stream.
    Last,
}

/// Streams what `choose` lets through until it says that was the last, the session is deleted, or the server stops.
pub(crate) fn events(
    follower: EventFollower,
    stopping: Stopping,
    choose: impl FnMut(&Event) -> Step + Send + 'static,
) -> Response {
    let reader = Reader { follower, stopping, choose, batch: VecDeque::new(), over: false };
    let stream = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(written(&event)), reader))
    });
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Asks reverse proxies to pass each event on as it comes.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

struct Reader<F> {
    follower: EventFollower,
    stopping: Stopping,
    choose: F,
    batch: VecDeque<Event>,
    over: bool,
}

impl<F: FnMut(&Event) -> Step> Reader<F> {
    async fn next(&mut self) -> Option<Event> {
        while !self.over {
            let Some(event) = self.batch.pop_front() else {
                self.over = !self.refill().await;
                continue;
            };
            match (self.choose)(&event) {
                Step::Skip => {}
                Step::Show => return Some(event),
                Step::Last => {
                    self.over = true;
                    return Some(event);
                }
            }
        }
        None
    }

    /// False when nothing will come any more. A client whose stream ends early resumes from its last id.
    async fn refill(&mut self) -> bool {
        match self.stopping.or(self.follower.next()).await {
            Some(Ok(Some(batch))) => {
                self.batch = batch.into();
                true
            }
            Some(Err(problem)) => {
                tracing::error!(problem = &problem as &dyn std::error::Error, "an event stream broke off");
                false
            }
            Some(Ok(None)) | None => false,
        }
    }
}

fn written(event: &Event) -> sse::Event {
    let frame = sse::Event::default().id(event.id.to_string()).event(name(&event.kind));
    frame.json_data(event).unwrap_or_else(|cause| {
        // Cannot happen to plain data; a stream must not end the process over it.
        tracing::error!(%cause, event.id, "an event cannot be written");
        sse::Event::default().comment("an event could not be written")
    })
}

/// The event's `type`, as serde writes it.
fn name(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::SessionState { .. } => "session.state",
        EventKind::SessionPhase { .. } => "session.phase",
        EventKind::TurnQueued { .. } => "turn.queued",
        EventKind::TurnStarted { .. } => "turn.started",
        EventKind::MessageDelta { .. } => "message.delta",
        EventKind::Tool { .. } => "tool",
        EventKind::PermissionRequested { .. } => "permission.requested",
        EventKind::PermissionAnswered { .. } => "permission.answered",
        EventKind::MessageCompleted { .. } => "message.completed",
        EventKind::TurnCompleted { .. } => "turn.completed",
        EventKind::TurnFailed { .. } => "turn.failed",
        EventKind::EgressRefused { .. } => "egress.refused",
        EventKind::CredentialRenewed { .. } => "credential.renewed",
        EventKind::CredentialFailed { .. } => "credential.failed",
        EventKind::EgressChanged { .. } => "egress.changed",
        EventKind::SandboxLimit { .. } => "sandbox.limit",
        EventKind::Error { .. } => "error",
    }
}

#[cfg(test)]
mod tests;
