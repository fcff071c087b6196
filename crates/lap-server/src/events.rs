//! The session's log: as a stream that can be resumed, or a page at a time.

use axum::Json as Answer;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, header};
use lap_api::error::ErrorCode;
use lap_api::list::EventPage;
use lap_domain::ids::SessionId;

use crate::App;
use crate::error::{ApiError, ApiResult};
use crate::extract::{FromQuery, LARGEST, Params, Path, Query};
use crate::serve::Stopping;
use crate::sse::{self, Step};

/// `GET /managed_agents/sessions/{id}/events`
pub(crate) async fn read(
    State(app): State<App>,
    stopping: Stopping,
    Path(id): Path<String>,
    Query(query): Query<ReadEvents>,
    last_seen: LastEventId,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let id = SessionId::new(id);
    // A browser that reconnects repeats its first address, so the header knows better.
    let after = last_seen.0.or(query.after).unwrap_or(0);
    if wants_page(&headers) {
        let data = app.engine.events(&id, after, query.limit).await?;
        let next_after = data.last().map_or(after, |event| event.id);
        return Ok(Answer(EventPage { data, limit: query.limit, next_after }).into_response());
    }
    // Finds out now whether there is such a session and such a position; inside a stream it could not be said well.
    app.engine.events(&id, after, 1).await?;
    Ok(sse::events(app.engine.follow(&id, after), stopping, |_| Step::Show))
}

/// A page for whoever asks for JSON and not for a stream.
fn wants_page(headers: &HeaderMap) -> bool {
    let accepts = |kind: &str| {
        headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind))
    };
    accepts("application/json") && !accepts("text/event-stream")
}

/// From where, and how much.
pub(crate) struct ReadEvents {
    after: Option<u64>,
    limit: u32,
}

impl FromQuery for ReadEvents {
    fn from_query(params: &mut Params) -> Self {
        let after = params.number("after", 0..=LARGEST);
        let limit = params.number("limit", 1..=200).and_then(|limit| u32::try_from(limit).ok());
        Self { after, limit: limit.unwrap_or(50) }
    }
}

/// The `Last-Event-ID` header.
pub(crate) struct LastEventId(Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get("last-event-id") else { return Ok(Self(None)) };
        let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
        match number {
            Some(number) if number <= LARGEST => Ok(Self(Some(number))),
            _ => Err(ApiError::new(
                ErrorCode::InvalidRequest,
                "Last-Event-ID must be the id of an event: a whole number.",
            )),
        }
    }
}
