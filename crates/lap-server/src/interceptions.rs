//! The egress record of a session: a page of it, or all of it as lines.

use axum::Json as Answer;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::{TryStreamExt, stream};
use http::header;
use lap_api::list::List;
use lap_domain::ids::SessionId;
use lap_engine::{Engine, EngineError, Page};

use crate::App;
use crate::error::ApiResult;
use crate::extract::{FromQuery, Paging, Params, Path, Query};

/// `GET /managed_agents/sessions/{id}/interceptions`
pub(crate) async fn list(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<ReadInterceptions>,
) -> ApiResult<Response> {
    let ReadInterceptions { format, paging: Paging { limit, offset } } = query;
    let id = SessionId::new(id);
    match format {
        Format::Page => {
            let Page { rows: data, total } = app.engine.interceptions(&id, limit, offset).await?;
            Ok(Answer(List { data, total, limit, offset }).into_response())
        }
        Format::Lines => exported(app.engine, id).await,
    }
}

/// Rows per round trip to the database while exporting.
const EXPORT_PAGE: u32 = 200;

/// The whole record, one JSON object per line, oldest first.
async fn exported(engine: Engine, id: SessionId) -> ApiResult<Response> {
    // Finds out now whether there is such a session; inside the body it could not be said any more.
    engine.interceptions_after(&id, 0, 1).await?;
    let lines = stream::try_unfold(0, move |after| {
        let (engine, id) = (engine.clone(), id.clone());
        async move {
            let rows = engine.interceptions_after(&id, after, EXPORT_PAGE).await?;
            let Some(last) = rows.last().map(|row| row.id) else { return Ok(None) };
            let mut lines = Vec::new();
            for row in &rows {
                serde_json::to_writer(&mut lines, row).map_err(|cause| EngineError::Internal(Box::new(cause)))?;
                lines.push(b'\n');
            }
            Ok::<_, EngineError>(Some((Bytes::from(lines), last)))
        }
    });
    let lines = lines.inspect_err(|cause| tracing::error!(%cause, "the export of a record broke off"));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// How the egress record is read.
pub(crate) struct ReadInterceptions {
    format: Format,
    paging: Paging,
}

#[derive(Clone, Copy)]
enum Format {
    Page,
    Lines,
}

impl FromQuery for ReadInterceptions {
    fn from_query(params: &mut Params) -> Self {
        let format = params.word("format", &[("json", Format::Page), ("jsonl", Format::Lines)]);
        Self { format: format.unwrap_or(Format::Page), paging: params.paging() }
    }
}
