//! Files of a sandbox: read, written, listed; streamed by the guest, bounded in size.

use axum::Json as Answer;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use http::{StatusCode, header};
use lap_api::channel::{End, Purpose};
use lap_api::error::ErrorCode;
use lap_api::files::FileEntry;
use lap_api::list::List;
use lap_domain::ids::SessionId;
use lap_engine::{Channel, ChannelEvent, Opening};

use crate::App;
use crate::error::{ApiError, ApiResult};
use crate::extract::{FromQuery, Params, Path, Query};
use crate::serve::Stopping;
use crate::sessions::whole;

/// Largest file that goes either way.
const MOST_BYTES: u64 = 1024 * 1024 * 1024;

/// Largest listing: ten thousand entries with long names stay below it.
const MOST_LISTING: usize = 8 * 1024 * 1024;

/// `GET /managed_agents/sessions/{id}/files/{path}`
pub(crate) async fn read(
    State(app): State<App>,
    stopping: Stopping,
    Path((id, path)): Path<(String, String)>,
) -> ApiResult<Response> {
    let channel = open(&app, id, Purpose::ReadFile { path: inside(path) }).await?;
    let length = channel.position;
    if length > MOST_BYTES {
        return Err(too_large());
    }
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        // What a sandbox holds must never be taken for a page by a browser.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CONTENT_DISPOSITION, "attachment".to_owned()),
    ];
    Ok((headers, Body::from_stream(content(channel, stopping))).into_response())
}

/// A file's bytes, ending with an error when not all of them could be had: a short file is worse than none.
fn content(channel: Channel, stopping: Stopping) -> impl Stream<Item = Result<axum::body::Bytes, std::io::Error>> {
    stream::unfold(Some((channel, stopping, 0)), |state| async {
        let (mut channel, stopping, mut sent) = state?;
        loop {
            let failed = |why: &str| Some((Err(std::io::Error::other(why.to_owned())), None));
            channel.passed_on().await;
            match stopping.or(channel.next()).await.flatten() {
                Some(ChannelEvent::Data { bytes, .. }) => {
                    sent += bytes.len() as u64;
                    // It may grow while it is read.
                    return match sent > MOST_BYTES {
                        true => failed("the file is too large"),
                        false => Some((Ok(bytes), Some((channel, stopping, sent)))),
                    };
                }
                Some(ChannelEvent::Ended(End::Exited { .. })) => return None,
                Some(ChannelEvent::Ended(_)) | None => return failed("the file could not be read to its end"),
                Some(ChannelEvent::Repaint { .. } | ChannelEvent::Taken { .. }) => {}
            }
        }
    })
}

/// `PUT /managed_agents/sessions/{id}/files/{path}`
pub(crate) async fn write(
    State(app): State<App>,
    stopping: Stopping,
    Path((id, path)): Path<(String, String)>,
    body: Body,
) -> ApiResult<StatusCode> {
    let mut channel = open(&app, id, Purpose::WriteFile { path: inside(path) }).await?;
    let mut body = body.into_data_stream();
    let (mut left, mut ended) = (MOST_BYTES, false);
    loop {
        tokio::select! {
            piece = body.next(), if !ended && channel.has_room() => match piece {
                Some(Ok(piece)) => {
                    left = left.checked_sub(piece.len() as u64).ok_or_else(too_large)?;
                    channel.send(piece).await;
                }
                Some(Err(_)) => {
                    return Err(ApiError::new(ErrorCode::RequestTimeout, "The file did not arrive to its end."));
                }
                None => {
                    ended = true;
                    channel.end_of_input().await;
                }
            },
            event = stopping.or(channel.next()) => match event {
                Some(Some(ChannelEvent::Ended(end))) => return over(end).map(|()| StatusCode::NO_CONTENT),
                Some(Some(_)) => {}
                Some(None) => return Err(cut_off()),
                None => return Err(ApiError::shutting_down()),
            },
        }
    }
}

/// `GET /managed_agents/sessions/{id}/files`
pub(crate) async fn list(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<ListFiles>,
) -> ApiResult<Answer<List<FileEntry>>> {
    let mut channel = open(&app, id, Purpose::ListFiles { path: query.path }).await?;
    let mut document = Vec::new();
    loop {
        match channel.next().await {
            Some(ChannelEvent::Data { bytes, .. }) => {
                document.extend_from_slice(&bytes);
                if document.len() > MOST_LISTING {
                    return Err(too_large());
                }
                channel.passed_on().await;
            }
            Some(ChannelEvent::Ended(end)) => {
                over(end)?;
                break;
            }
            Some(ChannelEvent::Repaint { .. } | ChannelEvent::Taken { .. }) => {}
            None => return Err(cut_off()),
        }
    }
    let entries: Vec<FileEntry> = serde_json::from_slice(&document)
        .map_err(|_| ApiError::new(ErrorCode::Unavailable, "The sandbox answered what cannot be understood."))?;
    Ok(Answer(whole(entries)))
}

async fn open(app: &App, id: String, purpose: Purpose) -> ApiResult<Channel> {
    match app.engine.open_channel(&SessionId::new(id), purpose).await? {
        Opening::Open(channel) => Ok(channel),
        Opening::Over(_) => Err(cut_off()),
    }
}

/// A path of the route begins without its slash; `~` stands for the home folder.
fn inside(path: String) -> String {
    if path == "~" || path.starts_with("~/") { path } else { format!("/{path}") }
}

fn over(end: End) -> ApiResult<()> {
    match end {
        End::Exited { .. } => Ok(()),
        End::Signalled { .. } => Err(cut_off()),
        End::Failed { code, reason } => Err(lap_engine::EngineError::refused(&code, reason).into()),
    }
}

fn cut_off() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "The link to the sandbox was lost on the way; try again.")
}

fn too_large() -> ApiError {
    ApiError::new(ErrorCode::TooLarge, "A file may have 1 GiB here.")
}

/// Which folder.
pub(crate) struct ListFiles {
    path: String,
}

impl FromQuery for ListFiles {
    fn from_query(params: &mut Params) -> Self {
        Self { path: params.text("path").unwrap_or_else(|| "/work/repo".to_owned()) }
    }
}
