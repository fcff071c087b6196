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

/// The whole record as it stood when the export began, one JSON object per line, newest first.
async fn exported(engine: Engine, id: SessionId) -> ApiResult<Response> {
    // Finds out now whether there is such a session; inside the body it could not be said any more.
    engine.interceptions(&id, 1, 0).await?;
    let export = Export { engine, id, offset: 0, before: u64::MAX };
    let lines = stream::try_unfold(export, |mut export| async move {
        Ok::<_, EngineError>(export.next_lines().await?.map(|lines| (Bytes::from(lines), export)))
    });
    let lines = lines.inspect_err(|cause| tracing::error!(%cause, "the export of a record broke off"));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

struct Export {
    engine: Engine,
    id: SessionId,
    offset: u64,
    /// Everything from this id on has been written.
    before: u64,
}

impl Export {
    async fn next_lines(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        loop {
            let rows = self.engine.interceptions(&self.id, EXPORT_PAGE, self.offset).await?.rows;
            let Some(oldest) = rows.last().map(|row| row.id) else { return Ok(None) };
            self.offset += rows.len() as u64;
            let mut lines = Vec::new();
            // Rows that came in meanwhile push older ones onto the next page a second time.
            for row in rows.iter().filter(|row| row.id < self.before) {
                serde_json::to_writer(&mut lines, row).map_err(|cause| EngineError::Internal(Box::new(cause)))?;
                lines.push(b'\n');
            }
            self.before = self.before.min(oldest);
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
        }
    }
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
