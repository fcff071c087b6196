//! Turns: a message in, the answer out, whole or as it comes about; the conversation; stopping a turn; permissions.

use axum::Json as Answer;
use axum::extract::State;
use axum::response::Response;
use lap_api::event::{Event, EventKind};
use lap_api::message::{Message, SendMessage};
use lap_api::platform::Done;
use lap_api::session::AnswerPermission;
use lap_domain::ids::SessionId;
use lap_engine::{EngineError, Idempotency, NewTurn, QueuedTurn};

use crate::App;
use crate::convert;
use crate::error::{ApiError, ApiResult};
use crate::extract::{IdempotencyKey, Json, Path};
use crate::serve::Stopping;
use crate::sse::{self, Step};

/// `POST /managed_agents/sessions/{id}/message`
pub(crate) async fn send(
    State(app): State<App>,
    stopping: Stopping,
    Path(id): Path<String>,
    key: IdempotencyKey,
    Json(body): Json<SendMessage>,
) -> ApiResult<Answer<Message>> {
    let id = SessionId::new(id);
    let queued = queue(&app, &id, key, body).await?;
    let answer = stopping.or(app.engine.answer(&id, &queued.id)).await.ok_or_else(ApiError::shutting_down)?;
    Ok(Answer(answer?))
}

/// `POST /managed_agents/sessions/{id}/message_stream`
pub(crate) async fn stream(
    State(app): State<App>,
    stopping: Stopping,
    Path(id): Path<String>,
    key: IdempotencyKey,
    Json(body): Json<SendMessage>,
) -> ApiResult<Response> {
    let id = SessionId::new(id);
    let turn = queue(&app, &id, key, body).await?;
    let follower = app.engine.follow(&id, turn.before);
    Ok(sse::events(follower, stopping, move |event| of_turn(event, turn.id.as_str())))
}

async fn queue(app: &App, id: &SessionId, key: IdempotencyKey, body: SendMessage) -> Result<QueuedTurn, ApiError> {
    let idempotency = match key {
        IdempotencyKey(None) => None,
        IdempotencyKey(Some(key)) => {
            // Written anew, so that the same message with other spaces is the same message.
            let body = serde_json::to_vec(&body).map_err(|cause| EngineError::Internal(Box::new(cause)))?;
            Some(Idempotency { key, body })
        }
    };
    let (text, attachments) = convert::user_message(body)?;
    Ok(app.engine.send(id, NewTurn { text, attachments, idempotency }).await?)
}

/// What of the session's log belongs to the stream of one turn, and where that ends.
fn of_turn(event: &Event, turn: &str) -> Step {
    match &event.kind {
        EventKind::TurnCompleted { turn_id, .. } | EventKind::TurnFailed { turn_id, .. } if turn_id == turn => {
            Step::Last
        }
        EventKind::TurnStarted { turn_id }
        | EventKind::MessageDelta { turn_id, .. }
        | EventKind::Tool { turn_id, .. }
        | EventKind::PermissionRequested { turn_id, .. }
        | EventKind::MessageCompleted { turn_id, .. }
            if turn_id == turn =>
        {
            Step::Show
        }
        _ => Step::Skip,
    }
}

/// `GET /managed_agents/sessions/{id}/messages`
pub(crate) async fn list(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Answer<Vec<Message>>> {
    Ok(Answer(app.engine.messages(&SessionId::new(id)).await?))
}

/// `POST /managed_agents/sessions/{id}/abort`
pub(crate) async fn abort(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Answer<Done>> {
    app.engine.abort(&SessionId::new(id)).await?;
    Ok(Answer(Done { ok: true }))
}

/// `POST /managed_agents/sessions/{id}/permissions/{request_id}`
pub(crate) async fn answer_permission(
    State(app): State<App>,
    Path((id, request)): Path<(String, String)>,
    Json(body): Json<AnswerPermission>,
) -> ApiResult<Answer<Done>> {
    let AnswerPermission { decision } = body;
    app.engine.answer_permission(&SessionId::new(id), &request, convert::decision(decision)).await?;
    Ok(Answer(Done { ok: true }))
}
