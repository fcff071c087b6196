//! Sessions: open, read, list, name, stop, delete; which credentials they hold, and what their sandbox wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Json as Answer, http::StatusCode};
use http::header;
use lap_api::list::List;
use lap_api::session::{CreateSession, PatchEgress, PatchSession, Session};
use lap_domain::budget::BudgetEdit;
use lap_domain::ids::{AgentId, SessionId};
use lap_engine::{Page, SessionQuery};

use crate::App;
use crate::convert;
use crate::error::ApiResult;
use crate::extract::{FromQuery, IdempotencyKey, Json, JsonOrDefault, Paging, Params, Path, Query};
use crate::once::{Made, created, once};
use crate::serve::Stopping;
use crate::upgrade::TicketOffice;

/// `POST /managed_agents/agents/{id}/session`
pub(crate) async fn create(
    State(app): State<App>,
    office: TicketOffice,
    Path(agent): Path<String>,
    key: IdempotencyKey,
    JsonOrDefault(body): JsonOrDefault<CreateSession>,
) -> ApiResult<Response> {
    let request = key.0.is_some().then(|| CreateSession { env_vars: BTreeMap::new(), ..body.clone() });
    let scope = format!("agents/{agent}/session");
    let new = convert::new_session(body)?;
    let engine = app.engine.clone();
    let make = async move { Ok(engine.create_session(&AgentId::new(agent), new).await?) };
    let made = once(&app, &scope, key, &request, make, |made| made.session.id.to_string()).await?;
    let made = match made {
        Made::Now(session) => session,
        Made::Before(id) => app.engine.session(&SessionId::new(id)).await?,
    };
    let session = convert::session(made, &office);
    Ok(created("sessions", &session.id, &session))
}

/// `GET /managed_agents/sessions`
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<ListSessions>,
) -> ApiResult<Answer<List<Session>>> {
    let ListSessions { query } = query;
    let (limit, offset) = (query.limit, query.offset);
    let Page { rows, total } = app.engine.sessions(query).await?;
    Ok(Answer(List { data: rows.into_iter().map(convert::listed_session).collect(), total, limit, offset }))
}

/// `GET /managed_agents/sessions/{id}`
pub(crate) async fn get(
    State(app): State<App>,
    office: TicketOffice,
    stopping: Stopping,
    Path(id): Path<String>,
    Query(wait): Query<Wait>,
) -> ApiResult<Answer<Session>> {
    let id = SessionId::new(id);
    let session = match wait.at_most {
        None => app.engine.session(&id).await?,
        // A server that stops answers with the session as it stands; the client asks the next server again.
        Some(at_most) => match stopping.or(app.engine.wait_while_creating(&id, at_most)).await {
            Some(session) => session?,
            None => app.engine.session(&id).await?,
        },
    };
    Ok(Answer(convert::session(session, &office)))
}

/// `PATCH /managed_agents/sessions/{id}`
pub(crate) async fn update(
    State(app): State<App>,
    office: TicketOffice,
    Path(id): Path<String>,
    Json(body): Json<PatchSession>,
) -> ApiResult<Answer<Session>> {
    let PatchSession { title, max_tokens, max_cost_usd } = body;
    let budget = BudgetEdit { max_tokens, max_cost_usd };
    Ok(Answer(convert::session(app.engine.edit_session(&SessionId::new(id), title, budget).await?, &office)))
}

/// `PATCH /managed_agents/sessions/{id}/egress`
pub(crate) async fn change_egress(
    State(app): State<App>,
    office: TicketOffice,
    Path(id): Path<String>,
    Json(body): Json<PatchEgress>,
) -> ApiResult<Answer<Session>> {
    let edit = convert::lists_edit(body);
    Ok(Answer(convert::session(app.engine.change_egress(&SessionId::new(id), edit).await?, &office)))
}

/// `POST /managed_agents/sessions/{id}/stop`
pub(crate) async fn stop(
    State(app): State<App>,
    office: TicketOffice,
    Path(id): Path<String>,
) -> ApiResult<Answer<Session>> {
    Ok(Answer(convert::session(app.engine.stop_session(&SessionId::new(id)).await?, &office)))
}

/// `DELETE /managed_agents/sessions/{id}`
pub(crate) async fn delete(State(app): State<App>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    app.engine.delete_session(&SessionId::new(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /managed_agents/sessions/{id}/vault-keys`
pub(crate) async fn vault_keys(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Answer<List<String>>> {
    Ok(Answer(whole(app.engine.vault_keys(&SessionId::new(id)).await?)))
}

/// `GET /managed_agents/sessions/{id}/sandbox_logs`
pub(crate) async fn sandbox_logs(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<ReadLogs>,
) -> ApiResult<Response> {
    let text = app.engine.sandbox_logs(&SessionId::new(id), query.tail_lines).await?;
    // What a sandbox writes must never be taken for a page by a browser.
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, text).into_response())
}

/// A list that has one page only.
pub(crate) fn whole<T>(data: Vec<T>) -> List<T> {
    let n = data.len();
    List { data, total: n as u64, limit: u32::try_from(n.max(1)).unwrap_or(u32::MAX), offset: 0 }
}

/// Which sessions to list.
pub(crate) struct ListSessions {
    query: SessionQuery,
}

const STATUSES: [(&str, &str); 4] =
    [("creating", "creating"), ("ready", "ready"), ("failed", "failed"), ("dead", "dead")];

impl FromQuery for ListSessions {
    fn from_query(params: &mut Params) -> Self {
        let agent_id = params.text("agent_id").map(AgentId::new);
        let state = params.word("status", &STATUSES).map(str::to_owned);
        let Paging { limit, offset } = params.paging();
        Self { query: SessionQuery { agent_id, state, limit, offset } }
    }
}

/// Whether a read waits for the end of bring-up.
pub(crate) struct Wait {
    at_most: Option<Duration>,
}

/// Shorter than what proxies on the way usually allow.
const DEFAULT_WAIT_S: u64 = 30;

impl FromQuery for Wait {
    fn from_query(params: &mut Params) -> Self {
        let timeout = params.number("timeout_s", 0..=3600).unwrap_or(DEFAULT_WAIT_S);
        let wait = params.word("wait", &[("ready", ())]);
        Self { at_most: wait.map(|()| Duration::from_secs(timeout)) }
    }
}

/// How much of the output is read.
pub(crate) struct ReadLogs {
    tail_lines: usize,
}

impl FromQuery for ReadLogs {
    fn from_query(params: &mut Params) -> Self {
        let lines = params.number("tailLines", 1..=100_000).unwrap_or(1000);
        Self { tail_lines: usize::try_from(lines).unwrap_or(usize::MAX) }
    }
}
